"""A picker for a new species comes out of its structure alone, also when it is stopped on the way."""

import importlib.util
import json
import re
import runpy
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import mrcfile
import numpy as np
import pytest
from scripts.errors import InputError
from scripts.handlers import second_look
from scripts.networks.model_card import checked_card
from scripts.simulation.specimens import phantom
from scripts.species import read_species
from synthetic import write_mrc

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "how_to" / "new_species.md").read_text()
pytestmark = pytest.mark.filterwarnings(  # a small one has few particles
    "ignore:.*is not calibrated", "ignore:.*keeps the threshold"
)


@pytest.fixture(scope="module")
def patch():
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module")
def tool(patch):
    """The script as a module; it puts folders on the path, which are taken back."""
    patch.setattr(sys, "path", list(sys.path))
    spec = importlib.util.spec_from_file_location("make_picker", ROOT / "tools" / "make_picker.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["make_picker"] = module  # dataclasses look there
    spec.loader.exec_module(module)
    yield module
    del sys.modules["make_picker"]


def commands():
    blocks = re.findall(r"```bash\n(.*?)```", PAGE, flags=re.DOTALL)
    return [block.replace("\\\n", " ").strip() for block in blocks]


def write_p97(path, voxel_size_angstrom=10.0, change=lambda values: values):
    write_mrc(path, change(phantom("p97", 10.0).density_kda.copy()), voxel_size_angstrom)
    return path


class InThisProcess:
    """Runs commands of the bundle in this process, which has torch loaded already, and counts them."""

    def __init__(self, patch):
        self.patch, self.tasks = patch, []
        patch.setattr(sys, "argv", [])

    def __call__(self, bundle, configs, *settings, task="run"):
        self.patch.chdir(bundle)
        more = ["--workers", "1"] if "simulate" in configs[0] else ["--precision", "float32", "--num_workers", "0"]
        self.run("run", task, "--config_file", str(list(configs)), *map(str, settings), *more)
        self.tasks.append(task)

    def run(self, *words):
        self.patch.setattr(sys, "argv", ["bundle", *words, "--logging_file", "False"])
        runpy.run_module("monai.bundle", run_name="__main__")


@pytest.fixture(scope="module")
def picker(tool, patch, tmp_path_factory):
    """The page's worked example, small: the picker's folder, and the tasks of each start; the first two are stopped."""
    folder = tmp_path_factory.mktemp("picker")
    make, pick = commands()
    patch.chdir(ROOT)
    listed = subprocess.run([*shlex.split(make), "--dry-run"], capture_output=True, text=True, check=True).stdout
    line = next(line for line in listed.splitlines() if "make_picker.py" in line)  # a make inside of make says more
    words = shlex.split(line.replace("p97.mrc", str(write_p97(folder / "p97.mrc"))))
    options = tool.read_arguments([*words[2:], "--smoke", "--output_dir", str(folder / "out")])

    def stop(*arguments, **settings):
        raise KeyboardInterrupt

    starts = []
    for place, name in ((tool, "train"), (second_look, "calibrate_second_look"), (None, "")):
        runs = InThisProcess(patch)
        for module in (tool, sys.modules["bundle_steps"]):
            patch.setattr(module, "bundle_run", runs)
        with pytest.MonkeyPatch.context() as stopped:
            if place is None:
                tool.make_picker(options)
            else:
                stopped.setattr(place, name, stop)
                with pytest.raises(KeyboardInterrupt):
                    tool.make_picker(options)
        starts.append(runs.tasks)
    tomogram = min((folder / "out" / "work").glob("contrast_1.0/static/ExperimentRuns/*/*/wbp.zarr"))
    mine = {"../output/picker_p97/model.pt": "out/model.pt", "../tomograms": tomogram, "../picks": "picks"}
    runs.run(*[str(folder / mine[word]) if word in mine else word for word in shlex.split(pick)[3:]])
    return folder, starts


def test_the_picker_is_made_however_often_it_is_stopped(picker):
    simulations = ["run"] * 5
    _, starts = picker
    assert starts == [
        simulations,
        [*simulations, "training", "evaluating"],  # the simulations find that all is there
        [*simulations, "second_look", "evaluating"],
    ]


def test_the_picker_knows_the_new_species_beside_the_old_ones(picker, shipped_species):
    folder, _ = picker
    card = checked_card(folder / "out" / "model.pt")
    assert card["species_at_start"] == {"taken_over": shipped_species.names, "new": ["p97"]}
    known = read_species(folder / "out" / "species.json")
    assert known.names == [*shipped_species.names, "p97"]
    assert 60 < known.picked[-1].radius_angstrom < 90
    assert known.picked[-1].target_radius_angstrom == known.picked[-1].radius_angstrom / 2


def test_the_structure_is_simulated_with_its_mass_and_its_namesake_is_left_out(picker):
    overlay = json.loads((picker[0] / "out" / "work" / "simulation.json").read_text())
    assert overlay["specimens#p97"]["sources"][0]["mass_kda"] == 540
    assert overlay["distractors#p97#per_square_micrometer"] == 0
    drawn = (picker[0] / "out" / "work").glob("*/static/ExperimentRuns/*/simulation.json")
    assert sum(json.loads(path.read_text())["placed"]["p97"] for path in drawn) > 0


def test_the_page_says_what_to_expect_and_how_to_pick(picker):
    page = (picker[0] / "out" / "picker.md").read_text()
    assert f"--checkpoint_path {picker[0] / 'out' / 'model.pt'}" in page
    assert re.search(r"^\| 1\.0 \| wbp \| p97 \| \d+ \|", page, flags=re.MULTILINE)


def test_the_folder_picks_with_its_second_look(picker):
    record = json.loads(next((picker[0] / "picks").glob("*/run.json")).read_text())
    assert record["expected"]["p97"]["operating_point"] == "F1"  # only a second look expects anything


def test_another_picker_is_refused_in_the_same_folder(tool, picker):
    words = ["--structure", str(picker[0] / "p97.mrc"), "--name", "p97", "--output_dir", str(picker[0] / "out")]
    with pytest.raises(
        InputError,
        match=r"was begun with other options: .* mass_kda was 540.0, now it is 600.0. Set another --output_dir",
    ):
        tool.make_picker(tool.read_arguments([*words, "--mass_kda", "600", "--smoke"]))


def test_other_maps_of_the_built_in_species_are_refused_in_the_same_folder(tool, tmp_path):
    options = tool.read_arguments(["--structure", "a.mrc", "--name", "p97", "--maps_dir", str(tmp_path)])
    write_p97(tmp_path / "3cf3.mrc")
    (tmp_path / "notes.txt").write_text("no map")
    begun = tmp_path / "work" / "picker.json"
    tool.write_json(begun, tool.record_of_options(options, []))
    (tmp_path / "notes.txt").write_text("still no map")
    tool.require_same(begun, tool.record_of_options(options, []))
    (tmp_path / "3cf3.mrc").unlink()
    write_p97(tmp_path / "3cf3.mrc", 9.0)
    with pytest.raises(InputError, match=r"other options: maps .*3cf3\.mrc was .*Set another --output_dir"):
        tool.require_same(begun, tool.record_of_options(options, []))
    older = {key: value for key, value in json.loads(begun.read_text()).items() if key != "maps"}
    tool.write_json(begun, older)
    tool.require_same(begun, tool.record_of_options(options, []))


# Refusals


@pytest.fixture
def refused(tool, tmp_path):
    """Return what is said of a structure and other words; nothing is simulated."""

    def run(path, *words, name="p97"):
        options = tool.read_arguments(
            ["--structure", str(path), "--name", name, "--output_dir", str(tmp_path / "out"), *words]
        )
        with pytest.raises(InputError) as error:
            tool.make_picker(options)
        assert "\n" not in str(error.value)
        return str(error.value)

    return run


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--seed", "-1"], "--seed must be from 0 to 1000000000; got -1."),
        (["--maps_dir", "maps", "--mass_kda", "540"], "cannot read {here}/maps/8cpv.mrc: no such file."),
    ],
)
def test_what_the_first_step_would_refuse_is_refused_before(words, message, refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert refused(write_p97(tmp_path / "a.mrc"), *words) == message.format(here=tmp_path)
    assert not (tmp_path / "out" / "work" / "picker.json").exists()


def test_a_map_without_a_scale_is_refused(refused, tmp_path):
    path = write_p97(tmp_path / "a.mrc", 1.0)
    assert "a.mrc states a voxel size of 1 Å, which may be a placeholder: give the right one" in refused(path)
    with mrcfile.open(path, "r+") as file:
        file.voxel_size = 0
    assert "a.mrc states no voxel size: give the right one with --map_voxel_size_angstrom" in refused(path)


def test_a_map_with_a_stated_scale_is_taken(tool, tmp_path):
    path = write_p97(tmp_path / "a.mrc", 1.0)
    wanted = tool.Wanted("p97", path, mass_kda=540.0, map_voxel_size_angstrom=10.0)
    with pytest.warns(UserWarning, match="voxel_size_angstrom 10 is used"):
        source, specimen = tool.read_structure(wanted, 10.0, tmp_path)
    assert source == {"map": str(tmp_path / "p97.mrc"), "mass_kda": 540}
    assert specimen.mass_kda == pytest.approx(540, rel=1e-3)


@pytest.mark.filterwarnings("ignore:Data array contains NaN")
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (np.zeros_like, "holds no density: every value is that of its faces"),
        (np.negative, "has a dark particle: multiply its values by -1"),
        (lambda values: values * np.nan, "holds values that are not numbers"),
    ],
)
def test_a_map_without_a_bright_particle_is_refused(change, said, refused, tmp_path):
    assert f"a.mrc {said}" in refused(write_p97(tmp_path / "a.mrc", change=change))


def test_noise_around_the_particle_is_removed(tool, tmp_path):
    random = np.random.default_rng(0)
    path = write_p97(tmp_path / "a.mrc", change=lambda values: values + random.normal(0.5, 0.02, values.shape))
    clean = write_p97(tmp_path / "b.mrc")
    sizes = [
        tool.read_structure(tool.Wanted(one.stem, one, 540.0), 10.0, tmp_path / "out")[1].radius_angstrom
        for one in (path, clean)
    ]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.1)


@pytest.mark.parametrize("voxel_size", [2.0, 500.0])
def test_a_particle_that_does_not_fit_is_refused(voxel_size, refused, tmp_path):
    message = refused(write_p97(tmp_path / "a.mrc", voxel_size), "--mass_kda", "540")
    assert re.search(r"holds a particle \d+ Å across; 50 to 500 Å can be simulated .* Check its voxel size", message)


def test_a_mass_is_estimated_with_a_warning(tool, tmp_path):
    wanted = tool.Wanted("p97", write_p97(tmp_path / "a.mrc"))
    with pytest.warns(UserWarning, match=r"estimated by its volume as \d+ kDa.*--mass_kda"):
        _, specimen = tool.read_structure(wanted, 10.0, tmp_path)
    assert 270 < specimen.mass_kda < 1080


def test_a_diameter_given_as_a_radius_is_warned_of(tool, tmp_path):
    wanted = tool.Wanted("p97", write_p97(tmp_path / "a.mrc"), 540.0)
    _, specimen = tool.read_structure(wanted, 10.0, tmp_path)
    radius = round(specimen.radius_angstrom)
    with pytest.warns(UserWarning, match=rf"radius_angstrom {2 * radius} of p97 is 2\.0 times .* is it the diameter\?"):
        species = tool.new_species(replace(wanted, radius_angstrom=2.0 * radius), specimen, 6, 1.0)
    assert species.radius_angstrom == 2 * radius
    tool.new_species(replace(wanted, radius_angstrom=1.2 * radius), specimen, 6, 1.0)  # a warning would be an error


def test_a_radius_in_nanometres_is_refused_before_the_picker_is_begun(refused, tmp_path):
    message = refused(write_p97(tmp_path / "a.mrc"), "--mass_kda", "540", "--radius_angstrom", "7.5")
    assert "target_radius_angstrom of 'p97' must be from 5.006 (half a voxel) to 7.5" in message
    assert not (tmp_path / "out" / "work" / "picker.json").exists()


def test_an_atomic_model_brings_its_mass(tool, write_model, tmp_path):
    atoms = [("ALA", "C", (x, y, z)) for x in (0, 40) for y in (0, 40) for z in (0, 40)]
    path = Path(write_model(atoms))
    source, specimen = tool.read_structure(tool.Wanted("cube", path), 10.0, tmp_path)
    assert source == {"model": str(path)}
    assert specimen.mass_kda == pytest.approx(8 * 0.012 * 1.076, rel=1e-2)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Ribosome", "is a species that the simulation has already"),
        ("my_p97", "copick allows no space, no '_'"),
        ("../p97", "'../p97' holds a slash"),
        ("p97\n", "holds a character that cannot be printed"),
        (".p97", "starts with a dot"),
        ("", "is empty"),
        ("a#b", "'a#b' cannot name a species"),
    ],
)
def test_a_name_that_cannot_be_one_is_refused(name, said, refused, tmp_path):
    assert said in refused(write_p97(tmp_path / "a.mrc"), "--mass_kda", "540", name=name)
    assert not (tmp_path / "out" / "work" / "picker.json").exists()


def test_a_name_that_is_given_twice_is_refused(tool, tmp_path):
    words = ["--structure", "a.mrc", "b.mrc", "--name", "p97", "P97", "--output_dir", str(tmp_path / "out")]
    with pytest.raises(InputError, match="'p97' is given twice"):
        tool.make_picker(tool.read_arguments(words))


def test_as_many_names_and_masses_as_structures_are_needed(refused, tmp_path):
    assert "--mass_kda needs one value per structure, 1; got 2" in refused("a.mrc", "--mass_kda", "1", "2")
    assert "--mass_kda must be positive" in refused("a.mrc", "--mass_kda", "0")


def test_what_is_no_structure_is_refused(refused, tmp_path):
    (tmp_path / "a.txt").write_text("no map")
    assert "cannot read" in refused(tmp_path / "none.mrc")
    assert "a.txt" in refused(tmp_path / "a.txt")
    assert f"cannot read {tmp_path}" in refused(tmp_path)


def test_a_range_from_high_to_low_is_refused(refused):
    assert "--contrast needs LOW, then HIGH; got 1 0.3" in refused("a.mrc", "--contrast", "1.0", "0.3")


def test_imaging_that_is_not_possible_is_refused_before_the_picker_is_begun(refused, tmp_path):
    assert "tilt_step_degree" in refused(write_p97(tmp_path / "a.mrc"), "--mass_kda", "540", "--tilt_step_degree", "-3")
    assert not (tmp_path / "out" / "work" / "picker.json").exists()


def test_a_full_disk_is_refused_before_anything_is_simulated(tool, refused, tmp_path, monkeypatch):
    monkeypatch.setattr(tool, "COPIES", 1e6)
    message = refused(write_p97(tmp_path / "a.mrc"), "--mass_kda", "540")
    assert "MB are needed" in message
    assert "free some, or set another --output_dir" in message


@pytest.mark.parametrize("name", ["model.pt", "second_look.json", "species.json"])
def test_a_folder_with_another_picker_stays_as_it_is(name, refused, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("mine")
    message = refused(write_p97(tmp_path / "a.mrc"), "--mass_kda", "540")
    assert message == f"{tmp_path / 'out'} holds {name} of another picker or model: set another --output_dir."
    assert [path.name for path in (tmp_path / "out").iterdir()] == [name]
    assert (tmp_path / "out" / name).read_text() == "mine"


def test_a_neighbour_that_does_not_exist_is_refused(refused):
    assert "--without_neighbours actin: there is no such neighbour" in refused("a.mrc", "--without_neighbours", "actin")
