"""The commands of the page about reports: corrected tables become a truth, and a network is trained on it."""

import math
import re
import runpy
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
from scripts.networks.convnext_unet import ConvNeXtUNet
from scripts.networks.model_card import read_card
from scripts.picks import Pick, read_csv, write_csv
from scripts.picks.__main__ import main
from scripts.volumes.labels import draw_spheres
from synthetic import write_mrc, write_weights

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "how_to" / "report.md").read_text()
SHAPE = (20, 28, 36)
SMALL = {
    "network_def#widths": "[4,8]", "network_def#depths": "[1,1]", "window_size": "[16,16,16]", "windows_per_epoch": 4,
    "epochs": 1, "val_interval": 1, "warmup_steps": 1, "precision": "float32", "inference_window_size": "[20,28,36]",
    "logging_file": "False",
}  # fmt: skip


def commands():
    (block,) = re.findall(r"```bash\n([^`]*picks merge.*?)```", PAGE, flags=re.DOTALL)
    return re.sub(r" *\\\n *", " ", block).strip().splitlines()


@pytest.fixture
def corrected(tmp_path, shipped_species):
    """Two tomograms, and for each a table as its page saves it: an accepted, a rejected and an uncertain pick."""
    size = shipped_species.voxel_size_angstrom
    for seed, run in enumerate(("TS_01", "TS_02")):
        places = [(6, 9, 11), (13, 20, 30 - seed), (10, 14, 20)]
        volume = np.random.default_rng(seed).normal(size=SHAPE) + 6 * draw_spheres(SHAPE, places, 3)
        write_mrc(tmp_path / "mydata" / f"{run}.mrc", volume, size)
        weighted = zip(places, (1.0, 0.0, math.nan), strict=True)
        table = [
            Pick(run, "ribosome", x * size, y * size, z * size, weight=weight, origin="corrected in report.html")
            for (z, y, x), weight in weighted
        ]
        write_csv(tmp_path / f"{run}_corrected.csv", table)
    shipped = {"norm": "batch", "activation": "relu", "output_stride": 2, "align_corners": False}
    write_weights(tmp_path / "model.pt", ConvNeXtUNet(widths=(4, 8), depths=(1, 1), **shipped), shipped_species)
    return tmp_path


def run(command, folder, monkeypatch, settings=None):
    """Run a command of the page in this process, with a folder in the place of the page's folders."""
    more = [word for key, value in (settings or {}).items() for word in (f"--{key}", str(value))]
    words = shlex.split(command.replace("../", f"{folder}/").replace("models/", f"{folder}/"))
    assert words[1] == "-m"
    if words[2] == "scripts.picks":
        assert main(words[3:]) == 0
        return
    monkeypatch.setattr(sys, "argv", [*words[2:], *more])
    runpy.run_module(words[2], run_name="__main__")


def test_two_commands_train_on_the_corrections(corrected, monkeypatch):
    monkeypatch.chdir(ROOT / "bundle")
    merge, train = commands()
    run(merge, corrected, monkeypatch)
    run(train, corrected, monkeypatch, SMALL)
    truth = read_csv(corrected / "mydata" / "truth.csv")
    assert {one.run for one in truth} == {"TS_01", "TS_02"}
    assert [one.weight for one in truth] == pytest.approx([1, 0, math.nan] * 2, nan_ok=True)
    card = read_card(corrected / "mydata" / "training" / "model.pt")
    assert "TS_01" in str(card)
