"""Files of picks, settings and names that try to write elsewhere: nothing is, and each is answered with one line."""

import json

import pytest
from scripts.errors import InputError
from scripts.picks.__main__ import main
from scripts.simulation.dataset import simulate_dataset
from scripts.species import read_species

HEADER = "experiment,particle_type,x,y,z"
NAMES = [
    "../x", "../../x", "..", ".", "...", "a/b", "/x", "OUTSIDE", "~/x", "a\\b", "..\\x", "C:\\x", "\\\\server\\x",
    "a\0b", "a\x1b[31mb", "a\nb", "a\x7fb", "a\u202eb", "CON", "nul", "Com1", "LPT9.star", "aux.txt", "x.", ".hidden",
    "x" * 231, "ä" * 200,
]  # fmt: skip
IN_JSON = ["", "x ", "\ud800", 5, None, ["x"], {"x": 1}]  # JSON can hold these, and a table cannot
FACTS = ["--voxel_size_angstrom", "10", "--volume_shape", "20", "28", "36"]


def csv_file(folder, run="TS_1", species="ribosome"):
    quoted = ['"{}"'.format(name.replace('"', '""')) for name in (run, species)]
    return "picks.csv", f"{HEADER}\n{','.join(quoted)},1,2,3\n"


def json_file(folder, run="TS_1", species="ribosome"):
    points = [{"location": {"x": 1, "y": 2, "z": 3}}]
    return "picks.json", json.dumps({"pickable_object_name": species, "run_name": run, "points": points})


def star_file(folder, run="TS_1", species="ribosome"):
    columns = "".join(f"_rln{name} #{n}\n" for n, name in enumerate(("CoordinateX", "CoordinateY", "CoordinateZ"), 1))
    return "picks.star", f'data_particles\nloop_\n{columns}_rlnTomoName #4\n1 2 3 "{run}"\n'


@pytest.fixture
def convert(tmp_path, capsys, monkeypatch):
    """Return a function that converts a file of picks, and returns the exit status and the lines of errors.

    Nothing may be written outside of the folder OUT.
    """
    source, outside = tmp_path / "deep" / "source", tmp_path / "outside"
    source.mkdir(parents=True)
    monkeypatch.chdir(source)

    def run(make, to, *options, **names):
        names = {key: str(outside) if name == "OUTSIDE" else name for key, name in names.items()}
        file, text = make(source, **names)
        (source / file).write_text(text, encoding="utf-8", newline="")
        before = sorted(tmp_path.rglob("*"))
        status = main(["convert", file, "OUT", "--to", to, *FACTS, *options])
        after = [path for path in sorted(tmp_path.rglob("*")) if not path.is_relative_to(source / "OUT")]
        assert after == before
        errors = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("warning: ")]
        return status, errors, (source / "OUT").exists()

    return run


@pytest.mark.parametrize("to", ["coords", "copick"])
@pytest.mark.parametrize("name", NAMES)
def test_a_table_whose_run_is_no_file_name_is_refused_with_its_row(convert, name, to):
    status, errors, is_written = convert(csv_file, to, run=name)
    assert (status, len(errors), is_written) == (1, 1, False)
    assert errors[0].startswith("error: picks.csv, particle 1: the run '")
    assert errors[0].endswith("Rename it.")


@pytest.mark.parametrize("to", ["relion5", "warp", "copick"])
@pytest.mark.parametrize("name", NAMES)
def test_a_table_whose_species_is_no_file_name_is_refused_with_its_row(convert, name, to):
    status, errors, is_written = convert(csv_file, to, species=name)
    assert (status, len(errors), is_written) == (1, 1, False)
    assert errors[0].startswith("error: picks.csv, particle 1: the species '")


@pytest.mark.parametrize("key", ["run", "species"])
@pytest.mark.parametrize("name", [*NAMES, *IN_JSON], ids=str)
def test_a_copick_file_with_a_bad_name_is_refused(convert, name, key):
    status, errors, is_written = convert(json_file, "coords", **{key: name})
    assert (status, len(errors), is_written) == (1, 1, False)
    assert errors[0].startswith("error: picks.json")


@pytest.mark.parametrize("name", [name for name in NAMES if "\n" not in name])
def test_a_star_file_with_a_bad_name_writes_nothing_elsewhere(convert, name):
    status, errors, is_written = convert(star_file, "coords", "--species", "ribosome", run=name)
    assert (status, len(errors), is_written) in ((1, 1, False), (0, 0, True))  # its run is a path without the folders


@pytest.mark.parametrize("option", ["--user_id", "--session_id"])
@pytest.mark.parametrize("name", ["../x", "/x", "a\0b", ".."])
def test_an_id_that_is_no_file_name_is_refused(convert, name, option):
    status, errors, is_written = convert(csv_file, "copick", option, name)
    assert (status, len(errors), is_written) == (1, 1, False)


def test_the_name_of_a_run_that_the_command_line_gives_is_refused(tmp_path, capsys):
    (tmp_path / "points.coords").write_text("1 2 3\n")
    command = ["convert", str(tmp_path / "points.coords"), str(tmp_path / "out"), "--to", "imod", "--run", "../x"]
    assert main([*command, "--species", "ribosome", *FACTS]) == 1
    assert "the run '../x' holds a slash" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["points.coords"]


@pytest.mark.parametrize("name", ["../x", "CON", "x.", "nul.csv"])
def test_a_species_file_with_a_bad_name_is_refused(tmp_path, shipped_species, name):
    row = {
        "label": 1, "radius_angstrom": 100.0, "target_radius_angstrom": 50.0, "weight": 1.0, "positive_weight": 1.0,
        "probability_threshold": 0.5, "min_voxels": 1,
    }  # fmt: skip
    (tmp_path / "species.json").write_text(json.dumps({"voxel_size_angstrom": 10.0, "species": {name: row}}))
    with pytest.raises(InputError, match="a file or folder is called after it"):
        read_species(tmp_path / "species.json")


@pytest.mark.parametrize("pattern", ["../S{number}", "{number}/", "{0}", "{name}", "{number.real.x}", "{number", ""])
def test_a_pattern_of_runs_that_leads_elsewhere_is_refused(tmp_path, shipped_species, pattern, monkeypatch):
    monkeypatch.setattr("scripts.simulation.dataset.check_settings", lambda settings, species_set: None)
    with pytest.raises(InputError, match="run_name"):
        simulate_dataset(tmp_path / "data", shipped_species, {}, runs=1, run_name=pattern)
    assert not list(tmp_path.iterdir())
