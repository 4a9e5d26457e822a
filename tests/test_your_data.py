"""The newcomer's page works: its commands, as given there, with small settings."""

import csv
import json
import re
import runpy
import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from scripts.picks import Pick, read_csv, read_relion5_star, write_relion5_star
from scripts.volumes.labels import draw_spheres
from synthetic import write_mrc

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "how_to" / "your_data.md").read_text()
SHAPE, VOXEL_SIZE = (20, 28, 36), 12.0
PICKING = {"precision": "float32", "inference_window_size": "[20,28,36]"}
NETWORK = {"network_def#widths": "[4,8]", "network_def#depths": "[1,1]"}
TRAINING = {"window_size": "[16,16,16]", "windows_per_epoch": 4, "epochs": 2, "val_interval": 1, "warmup_steps": 1}
SMALL = {
    "training": {**PICKING, **NETWORK, **TRAINING},
    "evaluating": {**PICKING, "sweep_thresholds": "[0.02,0.3]"},
}


def commands():
    blocks = re.findall(r"```bash\n(.*?)```", PAGE, flags=re.DOTALL)
    return [block.replace("\\\n", " ").strip() for block in blocks]


@pytest.fixture
def my_data(tmp_path):
    """The page's folders: two tomograms of one species with a RELION 5 file of where the particles are, and another."""
    mine, others = tmp_path / "mydata", tmp_path / "tomograms"
    mine.mkdir()
    others.mkdir()
    for seed, run in enumerate(("TS_01", "TS_05", "TS_06")):
        centres = [(6, 9, 11), (13, 20, 30 - seed)]
        volume = np.random.default_rng(seed).normal(size=SHAPE) + 6 * draw_spheres(SHAPE, centres, 3)
        write_mrc((others if run == "TS_06" else mine) / f"{run}.mrc", volume, VOXEL_SIZE)
        picks = [Pick(run, "mine", *(index * VOXEL_SIZE for index in (x, y, z))) for z, y, x in centres]
        write_relion5_star(
            tmp_path / f"{run}.star", picks, run=run, volume_shape_zyx=SHAPE, voxel_size_angstrom=VOXEL_SIZE
        )
    first, second = ((tmp_path / f"{run}.star").read_text() for run in ("TS_01", "TS_05"))
    rows = [line for line in second.splitlines() if "TS_05" in line]
    (mine / "truth.star").write_text("\n".join([first.rstrip(), *rows]) + "\n")
    return tmp_path


def edit_species(path):
    """Do what the page says: one species of one's own, at one's own voxel size."""
    content = json.loads(path.read_text())
    species = next(iter(content["species"].values()))
    mine = {**species, "label": 1, "radius_angstrom": 40.0, "target_radius_angstrom": 30.0}
    path.write_text(json.dumps({**content, "voxel_size_angstrom": VOXEL_SIZE, "species": {"mine": mine}}))


def run(command, monkeypatch):
    """Run a command of the page in this process, which has torch loaded already."""
    words = shlex.split(command)
    if words[0] == "cp":
        shutil.copy(*words[1:])
        return
    assert words[1:3] == ["-m", "monai.bundle"]
    monkeypatch.setattr(sys, "argv", ["bundle", *words[3:], "--logging_file", "False"])
    runpy.run_module("monai.bundle", run_name="__main__")


@pytest.mark.filterwarnings("ignore:.*keeps the threshold")
def test_the_page_leads_from_a_star_file_to_picks(my_data, monkeypatch):
    monkeypatch.chdir(ROOT / "bundle")
    copy, *runs = commands()
    assert [("training" in line, "evaluating" in line, "inference.json" in line) for line in runs] == [
        (True, False, False), (True, True, False), (True, False, True),
    ]  # fmt: skip
    run(copy.replace("../", f"{my_data}/"), monkeypatch)
    edit_species(my_data / "mydata" / "species.json")
    for command in runs:
        kind = next((name for name in ("evaluating", "training") if f" run {name} " in command), "picking")
        small = [f"--{key} '{value}'" for key, value in SMALL.get(kind, PICKING).items()]
        run(" ".join([command, *small]).replace("../", f"{my_data}/"), monkeypatch)
    with open(my_data / "mydata" / "evaluation" / "scores.csv") as file:
        rows = {(row["mode"], row["species"]): row for row in csv.DictReader(file)}
    assert rows["kaggle", "mine"]["truths"] == "2"
    assert set(json.loads((my_data / "mydata" / "evaluation" / "thresholds.json").read_text())) == {"mine"}
    table = read_csv(my_data / "picks" / "picks.csv")
    assert all(0 <= pick.score <= 1 for pick in table)
    star = read_relion5_star(
        my_data / "picks" / "TS_06" / "mine.star", species="mine", volume_shape_zyx=SHAPE,
        voxel_size_angstrom=VOXEL_SIZE,
    )  # fmt: skip
    assert len(star) == len([pick for pick in table if pick.run == "TS_06"])
    assert {path.name for path in (my_data / "picks").iterdir() if path.is_dir()} == {"TS_06"}
