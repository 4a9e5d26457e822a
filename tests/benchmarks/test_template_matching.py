"""Template matching is scored as networks are; pyTME itself is replaced by a stand-in that knows the truth."""

import json

import mrcfile
import numpy as np
import pytest
import template_matching as tool
from scripts.simulation.specimens import phantom
from scripts.species import SPECIES_FILE, read_species
from synthetic import write_mrc

VOXEL_SIZE = 10.0
SHAPE = (40, 60, 80)
PLACES = {"ribosome": [(20, 15, 30), (20, 45, 60)], "apo-ferritin": [(10, 30, 70)]}  # z, y, x in voxels
MAPS = {"apo-ferritin": "8cpv", "beta-galactosidase": "6drv", "ribosome": "6qzp", "thyroglobulin": "7n4y",
        "virus-like-particle": "8tux"}  # fmt: skip


@pytest.fixture
def options(tmp_path):
    """Two tomograms with the same particles, and a map of every species."""
    rows = ["experiment,particle_type,x,y,z"]
    for run in ("fit", "score"):
        (tmp_path / "data" / run).mkdir(parents=True)
        write_mrc(
            tmp_path / "data" / run / "tomogram.mrc",
            np.random.default_rng(0).normal(size=SHAPE).astype(np.float32),
            VOXEL_SIZE,
        )
        for name, places in PLACES.items():
            rows += [f"{run},{name},{10 * x},{10 * y},{10 * z}" for z, y, x in places]
    (tmp_path / "data" / "truth.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "maps").mkdir()
    for name, code in MAPS.items():
        write_mrc(tmp_path / "maps" / f"{code}.mrc", phantom(name, VOXEL_SIZE).density_kda.copy(), VOXEL_SIZE)
    given = ["--dataset_dir", tmp_path / "data", "--maps_dir", tmp_path / "maps", "--output_dir", tmp_path / "out"]
    return [str(word) for word in (*given, "--fit_runs", "fit", "--test_runs", "score")]


@pytest.fixture
def calls(monkeypatch):
    """The commands that the stand-in was given; it finds every true particle, and a worse peak beside none."""
    seen = []

    def call(program, task, *words):
        seen.append((task, dict(zip(map(str, words[::2]), words[1::2], strict=True))))
        settings = seen[-1][1]
        if task == "match":
            settings["-o"].write_text("scores")
            return
        name = settings["--output-prefix"].name.partition("_")[2]
        lines = ["x\ty\tz\teuler_x\teuler_y\teuler_z\tscore\tdetail", "5\t6\t7\t0\t0\t0\t0.1\t0"]
        lines += [f"{x}\t{y}\t{z}\t0\t0\t0\t0.6\t0" for z, y, x in PLACES.get(name, [])]
        settings["--output-prefix"].with_suffix(".tsv").write_text("\n".join(lines) + "\n")

    monkeypatch.setattr(tool, "call", call)
    monkeypatch.setattr(tool, "version_of", lambda program: "pyTME 0")
    return seen


@pytest.mark.filterwarnings("ignore:.*keeps the threshold")
def test_peaks_are_scored_against_the_truth_with_thresholds_of_other_runs(options, calls, tmp_path):
    assert tool.main(options) == 0
    found = json.loads((tmp_path / "out" / "template_matching.json").read_text())["scores"]
    for name, places in PLACES.items():
        own = found["species"][name]
        assert (own["truths"], own["precision_at_f1"], own["recall_at_f1"]) == (len(places), 1.0, 1.0)
    assert found["f1"] == 1.0
    table = (tmp_path / "out" / "template_matching.md").read_text()
    assert "| ribosome | 2 | 1.000 | 1.000 | 1.000 | 1.000 | 1.000 |" in table
    assert len(calls) == 2 * 2 * len(read_species(SPECIES_FILE).picked)

    calls.clear()
    (tmp_path / "out" / "score_ribosome.json").unlink()
    assert tool.main(options) == 0
    assert [task for task, _ in calls] == ["match", "postprocess"]


def test_annotations_that_are_not_certain_are_no_particles(tmp_path):
    rows = ["experiment,particle_type,x,y,z,weight", *(f"one,ribosome,{100 * n},50,60,{w}" for n, w in enumerate("10"))]
    (tmp_path / "truth.csv").write_text("\n".join([*rows, "one,ribosome,300,50,60,", ""]))
    row, species_set = {"label": str(tmp_path / "truth.csv"), "run": "one"}, read_species(SPECIES_FILE)
    found = tool.particles_of(row, species_set, 10.0)
    assert found.tolist() == [[species_set.named("ribosome", "").label, 6.0, 5.0, 0.0]]


@pytest.mark.filterwarnings("ignore:.*keeps the threshold")
def test_template_and_mask_are_centred_cubes_at_the_tomograms_voxel_size(options, calls):
    assert tool.main([*options, "--round_step_degrees", "50"]) == 0
    steps = {}
    for task, settings in calls:
        if task == "match":
            template, mask = (mrcfile.read(settings[key]) for key in ("-i", "-I"))
            assert template.shape == mask.shape
            middle = (np.array(template.shape) - 1) / 2
            centre = np.average(np.indices(template.shape).reshape(3, -1), axis=1, weights=template.ravel())
            assert centre == pytest.approx(middle, abs=0.05)
            assert mask[tuple(middle.astype(int))] == pytest.approx(1, abs=1e-3)
            assert mask[0, 0, 0] < 0.01
            assert settings["--wedge-axes"] == "2,1"
            steps[settings["-i"].stem.removeprefix("template_")] = settings["-a"]
    assert steps == dict.fromkeys(MAPS, 15.0) | {"apo-ferritin": 50.0, "virus-like-particle": 50.0}


@pytest.mark.filterwarnings("ignore:.*keeps the threshold")
def test_results_of_other_settings_are_refused(options, calls, capsys):
    assert tool.main(options) == 0
    assert tool.main([*options, "--step_degrees", "20"]) == 1
    assert "was made under other conditions: step_degrees was 15.0, now it is 20.0" in capsys.readouterr().err


def test_a_program_that_cannot_be_run_is_named(options, capsys):
    assert tool.main([*options, "--program", "/nonexistent/pytme"]) == 1
    assert "/nonexistent/pytme cannot be run: install pytme, and give its command as program" in capsys.readouterr().err
