"""The recipes of the page on extending the code work as written, and touch the files that they say they touch."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scripts.errors import find_input_error
from scripts.networks.model_card import network_of, read_card
from scripts.networks.weights import load_weights
from scripts.picks import read_csv
from scripts.species import read_species
from synthetic import write_weights
from two_tomograms import run_configs, write_two_tomograms

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "bundle" / "configs"
PAGE = (ROOT / "docs" / "how_to" / "extend.md").read_text()
VOXEL_SIZE = 10.012


def section(title):
    return PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]


def titled_blocks(text=PAGE):
    """Return the code of every block that stands for a file, by the file's path."""
    return dict(re.findall(r'```\w+ title="([^"]+)"\n(.*?)```', text, flags=re.DOTALL))


def files_of_table(text):
    return set(re.findall(r"^\| `([\w.]+/[\w/.]+)`", text, flags=re.MULTILINE))


@pytest.fixture
def parts(tmp_path, monkeypatch):
    """Write the page's parts of one's own to a folder and put it on the path."""
    for path, code in titled_blocks().items():
        if path.startswith("my_parts/"):
            (tmp_path / path).parent.mkdir(exist_ok=True)
            (tmp_path / path).write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path / "my_parts"
    for name in [name for name in sys.modules if name.split(".")[0] == "my_parts"]:
        del sys.modules[name]


@pytest.fixture
def data(tmp_path):
    return write_two_tomograms(tmp_path / "data")


@pytest.mark.filterwarnings("ignore:.*keeps the threshold")
def test_a_network_a_painter_and_a_finder_of_ones_own_train_and_pick_by_one_overlay(parts, data, tmp_path):
    family = parts / "family.json"
    made = run_configs(
        ["train.json", family], "train", data, tmp_path / "trained", epochs=1, windows_per_epoch=2, batch_size=1,
        window_size=[16, 24, 24], validation_runs=["two"], val_interval=1, **{"network_def#width": 4},
    )  # fmt: skip
    weights = tmp_path / "trained" / "model.pt"
    card = read_card(weights)
    assert card["network_def"]["_target_"] == "my_parts.two_scales.TwoScales"
    assert card["painter"] == {"class": "my_parts.cones.Cones", "reach_in_radii": 0.66}
    target = made.parser.get_parsed_content("train#dataset")[0]["label"]
    assert target.dtype == torch.float32
    assert ((0 < target) & (target < 1)).any()  # cones, not spheres
    everything = dict.fromkeys(read_species(CONFIGS / "species.json").names, 0.0)
    picking = {"checkpoint_path": str(weights), "probability_thresholds": everything, "network_def#width": 4}
    run_configs(["inference.json", family], "infer", data, tmp_path / "picks", **picking)
    assert read_csv(tmp_path / "picks" / "picks.csv")
    run_configs(
        ["train.json", "evaluate.json", family],
        "train",
        data,
        tmp_path / "scores",
        sweep_thresholds=[0.1, 0.5],
        validation_runs=["two"],
        **picking,
    )
    assert (tmp_path / "scores" / "scores.csv").exists()
    with pytest.raises(RuntimeError) as caught:
        run_configs(["inference.json"], "infer", data, tmp_path / "no", checkpoint_path=str(weights))
    assert "its network my_parts.two_scales.TwoScales is not part of this bundle" in str(find_input_error(caught.value))
    for name in ("A network", "A painter", "A finder"):
        (module,) = [path for path in titled_blocks(section(name)) if path.endswith(".py")]
        assert (parts.parent / module).exists()
        assert files_of_table(section(name)) == {module}


def test_the_parts_answer_as_the_page_says(parts):
    from my_parts.cones import Cones
    from my_parts.maxima import Maxima
    from my_parts.two_scales import TwoScales

    species_set = read_species(CONFIGS / "species.json")
    ribosome = species_set.named("ribosome", "")
    target = Cones()((20, 28, 36), [[ribosome.label, 6, 9, 11], [ribosome.label, 13, 20, 30]], species_set)
    assert target.shape == (5, 20, 28, 36)
    assert target.dtype == np.float32
    found = Maxima()(target[ribosome.label - 1], ribosome, VOXEL_SIZE)
    assert sorted(found.centres_zyx_vox.tolist()) == [[6, 9, 11], [13, 20, 30]]
    assert len(Maxima()(np.zeros((5, 6, 7), np.float32), ribosome, VOXEL_SIZE)) == 0
    probability = torch.sigmoid(TwoScales()(torch.zeros(1, 1, 17, 20, 31)))
    assert probability.shape == (1, 5, 17, 20, 31)
    assert probability.mean() < 0.02


def test_a_network_of_monai_comes_from_the_card_alone(parts, tmp_path):
    overlay = json.loads((parts / "monai_unet.json").read_text())
    settings = {**overlay["network_def"], "out_channels": 5}
    settings.pop("_target_")
    from scripts.networks.recipe import foreign

    weights = write_weights(tmp_path / "unet.pt", foreign(**settings))
    assert load_weights(network_of(weights), weights)(torch.rand(1, 1, 16, 16, 16)).shape == (1, 5, 16, 16, 16)


def test_the_species_of_the_page_are_read(parts):
    species_set = read_species(parts / "species.json")
    assert species_set.names == ["proteasome"]
    assert [one.name for one in species_set.known] == ["fatty-acid-synthase", "proteasome"]


def test_a_format_takes_the_files_of_its_table_and_passes_the_tests_of_formats(tmp_path):
    text, copy = section("A format"), tmp_path / "copy"
    skip = shutil.ignore_patterns("__pycache__", "models", "*.png", "with_*", "clients", "golden")
    for name in ("bundle", "tests", "docs"):
        shutil.copytree(ROOT / name, copy / name, ignore=skip)
    shutil.copy(ROOT / "pyproject.toml", copy)
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    for path, code in titled_blocks(text).items():
        (copy / path).write_text(code)
    frame, row, rows = (block.strip() for block in re.findall(r"```text\n(.*?)```", text, flags=re.DOTALL))
    names = "read_matlab_text, write_matlab_text"
    insert(copy / "bundle/scripts/coordinates.py", '    "coords": (0.0, 0.0, 0.0),\n', f"    {frame}\n")
    formats = copy / "bundle/scripts/picks/formats.py"
    insert(formats, "from scripts.picks.kaggle_csv", f"from scripts.picks.matlab_text import {names}\n", before=True)
    insert(formats, '        Format("coords"', f"        {row}\n", before=True)
    done = run_pytest(copy, "tests/picks/test_formats.py", "tests/picks/test_matlab_text.py")
    failed = re.findall(r"^FAILED \S+::(\w+)", done, flags=re.MULTILINE)
    page_tests = {
        "test_the_page_has_an_example_and_a_row_for_every_format",
        "test_the_page_says_whether_a_file_holds_all_runs",
    }
    assert set(failed) == page_tests, done[-3000:]
    page = copy / "docs/reference/coordinates.md"
    for line, mark in zip(rows.splitlines(), ("| `coords` | `<", "| `coords` | x"), strict=True):
        insert(page, mark, f"{line}\n", before=True)
    done = run_pytest(copy, "tests/picks/test_formats.py", "tests/picks/test_matlab_text.py")
    assert "FAILED" not in done, done[-3000:]
    skipped = {"__pycache__", ".hypothesis"}
    after = {path for path in copy.rglob("*") if path.is_file() and not skipped & set(path.parts)}
    changed = {str(path.relative_to(copy)) for path in after if before.get(path) != path.read_bytes()}
    assert changed - {"tests/picks/test_matlab_text.py"} == files_of_table(text)


def insert(path, mark, text, before=False):
    content = path.read_text()
    place = content.index(mark) + (0 if before else len(mark))
    path.write_text(content[:place] + text + content[place:])


def run_pytest(folder, *modules):
    command = [
        sys.executable,
        "-B",
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "-k",
        "matlab or page or score",
        *modules,
    ]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False).stdout
