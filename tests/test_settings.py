"""The table of settings is complete, the page says the same, and wrong values are refused before anything is built."""

import json
import re
from pathlib import Path

import pytest
from scripts.backends.choice import program_of, with_backend
from scripts.command_line import refuse_impossible_values
from scripts.errors import InputError
from scripts.inference.precision import PRECISIONS
from scripts.networks.ensemble import COMBINATIONS
from scripts.preparation.crops import COPIES
from scripts.scoring.matching import MODES
from scripts.settings import SETTINGS, check_setting
from torch import nn

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "bundle" / "configs"
PAGE = ROOT / "docs" / "reference" / "configuration.md"
CHECKED_WHERE_USED = {"slab_z_angstrom", "operating_point", "user_id", "session_id"}
OVERLAYS = ("folds", "second_look", "points_alone", "heat_maps", "tversky", "slice_encoder", "auxiliary_losses")
TRAINING, EVALUATING = ["train"], ["train", "evaluate"]


def rows():
    page = PAGE.read_text().split("## Settings")[1].split("\n## ")[0]
    return dict(re.findall(r"^\| `(\w+)` \| [TEI ]+ \| [^|]*\| [^|]*\| ([^|]*) \|", page, flags=re.MULTILINE))


def command(configs, *settings):
    files = [str(CONFIGS / f"{name}.json") for name in configs]
    return ["run", "--config_file", str(files), *settings]


def test_every_setting_on_the_page_has_its_rule():
    assert set(rows()) - set(SETTINGS) == CHECKED_WHERE_USED


@pytest.mark.parametrize("name", OVERLAYS)
def test_every_plain_setting_of_an_overlay_has_its_rule(name):
    config = json.loads((CONFIGS / f"{name}.json").read_text())
    plain = {key for key, value in config.items() if isinstance(value, int | float | None) or key.endswith("_dir")}
    assert {key for key in plain if "#" not in key} <= set(SETTINGS)


@pytest.mark.parametrize("key", sorted(set(rows()) & set(SETTINGS)))
def test_the_page_says_what_the_rule_says(key):
    allowed = rows()[key].replace("`", "")
    assert allowed == SETTINGS[key].words or allowed.startswith(f"{SETTINGS[key].words}; ")


@pytest.mark.parametrize(
    "configs", [TRAINING, EVALUATING, ["inference"], ["simulate"], *(["train", overlay] for overlay in OVERLAYS)]
)
def test_what_is_shipped_is_allowed(configs):
    refuse_impossible_values(command(configs))


def test_words_that_are_allowed_are_known_where_they_are_used():
    for key, known in {"mode": MODES, "ensemble": COMBINATIONS, "precision": ("auto", *PRECISIONS)}.items():
        assert SETTINGS[key].words == f"{', '.join(known[:-1])} or {known[-1]}"
    assert SETTINGS["second_look_copies"].words.endswith(f"to {len(COPIES)}")
    assert program_of(with_backend(nn.Identity(), "torch")) == "torch"


@pytest.mark.parametrize(
    ("configs", "settings", "message"),
    [
        (TRAINING, "--window_size 64", "window_size is three whole numbers (z, y, x), each 1 or more; got 64."),
        (
            TRAINING, "--window_size [16,32]",
            "window_size is three whole numbers (z, y, x), each 1 or more; got [16, 32].",
        ),
        (TRAINING, "--batch_size 0", "batch_size is a whole number, 1 or more; got 0."),
        (TRAINING, "--epochs 0", "epochs is a whole number, 1 or more; got 0."),
        (TRAINING, "--epochs", "epochs is a whole number, 1 or more; got True."),
        (TRAINING, "--epochs --batch_size 2", "epochs is a whole number, 1 or more; got True."),
        (TRAINING, "--learning_rate abc", "learning_rate is a number above 0; got 'abc'."),
        (TRAINING, "--learning_rate=0", "learning_rate is a number above 0; got 0."),
        (TRAINING, "--learning_rate nan", "learning_rate is a number above 0; got 'nan'."),
        (TRAINING, "--seed -1", "seed is a whole number from 0 to 4294967295; got -1."),
        (TRAINING, "--seed 4294967296", "seed is a whole number from 0 to 4294967295; got 4294967296."),
        (TRAINING, "--optimizer#lr abc", "optimizer#lr is a number above 0; got 'abc'."),
        (TRAINING, "--train::trainer::max_epochs 0", "train::trainer::max_epochs is a whole number, 1 or more; got 0."),
        (TRAINING, "--device gpu", "device is cpu, cuda, cuda:0 or another of torch's; got 'gpu'."),
        (TRAINING, "--output_dir 2024", "output_dir is a folder; got 2024."),
        (EVALUATING, "--least_truths -3", "least_truths is a whole number, 1 or more; got -3."),
        (EVALUATING, "--mode onetoone", "mode is kaggle or one_to_one; got 'onetoone'."),
        (
            EVALUATING, "--sweep_thresholds 0.5",
            "sweep_thresholds is a list of rising probabilities, each from 0 to less than 1; got 0.5.",
        ),
        (
            EVALUATING, "--sweep_thresholds [0.5,0.3]",
            "sweep_thresholds is a list of rising probabilities, each from 0 to less than 1; got [0.5, 0.3].",
        ),
        (["inference"], "--flips zz", "flips is a list of axes out of z, y and x, each once; got 'zz'."),
        (["inference"], "--pick_formats csv", "pick_formats is a list of names of formats; got 'csv'."),
        (["train", "folds"], "--folds 1", "folds is a whole number, 2 or more; got 1."),
        (
            ["train", "folds"], "--only_folds [0,-1]",
            "only_folds is null or a number from 0, or a list of them; got [0, -1].",
        ),
        (["train", "second_look"], "--crop_size 0", "crop_size is a whole number, 1 or more; got 0."),
        (
            ["train", "points_alone"], "--expected_particles {'ribosome':'many'}",
            "expected_particles is null or a number above 0 for every species, by name; got {'ribosome': 'many'}.",
        ),
    ],
)  # fmt: skip
def test_a_value_that_cannot_be_is_refused_with_what_can(configs, settings, message):
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        refuse_impossible_values(command(configs, *settings.split(" ")))


@pytest.mark.parametrize(
    "settings",
    ["--epochs $2*3", "--epochs @batch_size", "--validation_runs 5", "--validation_runs [5,'TS_1']", "--resume",
     "--resume --seed 4", "--window_size 16,32,32", "--flips z,y", "--cache_dir $None", "--optimizer#lr 0.5",
     "--lr_scheduler#warmup_steps $3", "--painter#any abc"],
)  # fmt: skip
def test_possible_and_computed_values_are_taken(settings):
    refuse_impossible_values(command(TRAINING, *settings.split()))


def test_a_gpu_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    for there in ("cpu", "cuda", "cuda:0"):
        refuse_impossible_values(command(TRAINING, "--device", there))
    with pytest.raises(InputError, match=r"device cuda:1 is not there: torch finds 1 GPUs\. Leave device out to take"):
        refuse_impossible_values(command(TRAINING, "--device", "cuda:1"))


def test_args_files_and_configs_of_ones_own_are_checked_too_and_the_command_line_goes_first(tmp_path):
    own, more = tmp_path / "own.json", tmp_path / "more.json"
    own.write_text(json.dumps({"epochs": 2.5}))
    more.write_text(json.dumps({"epochs": "3"}))
    files = ["run", "--config_file", str([str(CONFIGS / "train.json"), str(own)])]
    with pytest.raises(InputError, match=r"epochs is a whole number, 1 or more; got 2\.5"):
        refuse_impossible_values(files)
    with pytest.raises(InputError, match="epochs is a whole number, 1 or more; got '3'"):
        refuse_impossible_values([*files, "--args_file", str(more)])
    refuse_impossible_values([*files, "--args_file", str(more), "--epochs", "3"])


def test_one_setting_is_checked_by_its_name():
    check_setting("rotations", 4)
    with pytest.raises(InputError, match=r"rotations is a whole number from 1 to 4; got 4\.5"):
        check_setting("rotations", 4.5)
