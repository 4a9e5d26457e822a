"""Rounds of pseudo-labels, with tiny networks: what each step leaves, how they end, and how they are resumed."""

import contextlib
import importlib.util
import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from documented import commands_of, run_line
from scripts.copick_tree import tomogram_path
from scripts.datasets.runs import list_runs
from scripts.datasets.truth import list_labelled_runs
from scripts.errors import InputError
from scripts.networks.model_card import read_card, sha256_of
from scripts.picks import Pick, read_csv, write_csv
from scripts.results import pseudo_labels
from scripts.volumes.labels import draw_spheres
from scripts.volumes.ome_zarr_writer import write_ome_zarr
from synthetic import make_species, noise, tiny_network, write_mrc, write_second_look, write_weights

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "how_to" / "pseudo_labels.md"
SHAPE = (20, 28, 36)
LABELLED, UNLABELLED = ("train", "second", "fit", "held"), ("new1", "new2")
SMALL = {"precision": "float32", "device": "cpu"}
ARGUMENTS = {
    "training": {**SMALL, "epochs": 1, "windows_per_epoch": 2, "window_size": [16, 16, 16], "val_interval": 0},
    "inference": {**SMALL, "backend": "torch", "inference_window_size": [20, 28, 32], "second_look_copies": 1},
}


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("pseudo_rounds", ROOT / "tools" / "pseudo_rounds.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Return a folder of annotated and new tomograms, and weights that propose bright places."""
    folder = tmp_path_factory.mktemp("rounds")
    picks = []
    for seed, run in enumerate((*LABELLED, *UNLABELLED)):
        places = np.array([(6, 9, 11), (13, 20, 30)])
        volume = noise(seed, SHAPE) + 6 * draw_spheres(SHAPE, places, 3)
        write_mrc(folder / ("labelled" if run in LABELLED else "unlabelled") / f"{run}.mrc", volume)
        if run in LABELLED:
            picks += [
                Pick(run, name, 10.0 * x, 10.0 * y, 10.0 * z) for name, (z, y, x) in zip("ab", places, strict=True)
            ]
    write_csv(folder / "labelled" / "truth.csv", picks)
    network = tiny_network()
    with torch.no_grad():
        network.head.weight.mul_(20)
        network.head.bias.fill_(-2)
    weights = write_weights(folder / "first" / "model.pt", network, make_species(2), trained_on=["old"])
    write_second_look(weights.with_name("second_look.pt"), weights, make_species(2))
    for name, content in ARGUMENTS.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


class Start:
    """Starts the tool; its commands run in this process, but second looks and later evaluations are made up.

    Attributes:
        tasks: the commands that were run, with their settings.
        f1: of the evaluations that are made up, by round.
        made_up: tasks that are not run at all.
    """

    def __init__(self, tool, data):
        self.tool, self.data, self.tasks, self.f1, self.made_up = tool, data, [], {1: 0.75, 2: 0.76}, set()

    def command(self, bundle, configs, *settings, task="run"):
        given = dict(zip(settings[::2], settings[1::2], strict=True))
        self.tasks.append((task, given))
        output = Path(given["--output_dir"])
        number = int(output.parent.name.removeprefix("round_"))
        if task == "second_look":
            write_second_look(output / "second_look.pt", given["--checkpoint_path"], make_species(2))
        elif task == "evaluating" and (number or task in self.made_up):
            output.mkdir(parents=True)
            rows = [f"one_to_one,{name},2,4,1,3,1,0.25,0.5,0.33,0.49" for name in "ab"]
            columns = "mode,species,truths,picks,tp,fp,fn,precision,recall,f1,f4"
            total = f"one_to_one,total,,,,,,,,{self.f1.get(number, 0.5)},0.6"
            (output / "scores.csv").write_text("\n".join([columns, *rows, total]))
            (output / "report.html").write_text("")
        elif task not in self.made_up:
            words = ["python", "-m", "monai.bundle", "run", task, "--config_file", str(list(configs)), *settings]
            with contextlib.chdir(bundle):
                run_line(shlex.join(map(str, words)), shorten=False)

    def __call__(self, work_dir, **changes):
        options = {
            "work_dir": work_dir, "checkpoint_path": self.data / "first" / "model.pt",
            "labelled_dir": self.data / "labelled", "unlabelled_dir": self.data / "unlabelled",
            "validation_runs": "held", "calibration_runs": "fit", "second_look_runs": "second", "rounds": 1,
            "accept": 0.5, "uncertain": 0.1, **{f"{name}_args": self.data / f"{name}.json" for name in ARGUMENTS},
            **changes,
        }  # fmt: skip
        self.tasks.clear()
        with mock.patch.object(self.tool, "bundle_run", self.command):
            return self.tool.main([word for key, value in options.items() for word in (f"--{key}", str(value))])

    @property
    def names(self):
        return [task for task, _ in self.tasks]


@pytest.fixture
def start(tool, data):
    return Start(tool, data)


@pytest.fixture(scope="module")
def made(tool, data, tmp_path_factory):
    """Return the folder of a round that was run, and what was run for it."""
    work, first = tmp_path_factory.mktemp("made"), Start(tool, data)
    assert first(work) == 0
    return work, first.tasks


def test_a_round_scores_picks_labels_and_trains(made, data):
    work, tasks = made
    assert [task for task, _ in tasks] == ["evaluating", "run", "training", "second_look", "evaluating"]
    labels = read_csv(work / "round_0" / "labels" / "truth.csv")
    assert {one.run for one in labels} == set(UNLABELLED)
    assert all(one.weight == one.score >= 0.5 for one in labels if not np.isnan(one.weight))
    assert any(np.isnan(one.weight) and 0.1 <= one.score < 0.5 for one in labels)
    card = read_card(work / "round_0" / "trained" / "model.pt")
    assert card["trained_on"] == ["new1", "new2", "old", "train"]  # those of the weights it began with, too
    assert card["started_from"] == sha256_of(data / "first" / "model.pt")
    assert card["species"] == read_card(data / "first" / "model.pt")["species"]


def test_each_annotated_run_has_one_use(made):
    given = {task: settings for task, settings in made[1]}
    assert given["evaluating"]["--validation_runs"] == given["training"]["--validation_runs"] == ["held"]
    assert given["training"]["--excluded_runs"] == ["fit", "second"]
    assert given["second_look"]["--validation_runs"] == ["fit"]
    assert given["second_look"]["--excluded_runs"] == ["held", "train"]


def test_only_tomograms_that_were_picked_are_trained_on(start, tmp_path, made, data):
    """One that came after the picking has no rows, and would be taken as empty of particles."""
    shutil.copytree(made[0], tmp_path / "work", symlinks=True)
    more = tmp_path / "unlabelled"
    shutil.copytree(data / "unlabelled", more)
    shutil.rmtree(tmp_path / "work" / "round_0" / "labels")
    (tmp_path / "work" / "settings.json").unlink()
    write_mrc(more / "late.mrc", noise(9, SHAPE))
    start.made_up.add("run")  # the picks are those of before
    assert start(tmp_path / "work", unlabelled_dir=more) == 0
    labels = tmp_path / "work" / "round_0" / "labels"
    assert [row["run"] for row in list_labelled_runs(labels)] == list(UNLABELLED)
    assert {path.resolve().parent for path in labels.glob("*/*.mrc")} == {more.resolve()}


def test_tomograms_of_a_project_are_labelled_wherever_its_roots_are(tool, tmp_path):
    for run in UNLABELLED:
        write_ome_zarr(tomogram_path(tmp_path / "elsewhere", run, 10.0, "wbp"), noise(0, SHAPE), 10.0)
    project = tmp_path / "project"
    project.mkdir()
    (project / "copick.json").write_text(json.dumps({"static_root": f"local://{tmp_path}/elsewhere/static"}))
    rounds = mock.Mock(options=mock.Mock(unlabelled_dir=project, tomogram_kind="wbp"))
    tool.Rounds.link_tomograms(rounds, UNLABELLED, tmp_path / "labels")
    assert [row["run"] for row in list_runs(tmp_path / "labels", "wbp")] == list(UNLABELLED)
    with pytest.raises(InputError, match="no longer holds new3, picked before"):
        tool.Rounds.link_tomograms(rounds, ["new3"], tmp_path / "labels")


def test_a_finished_round_is_not_repeated(made, start, capsys):
    assert start(made[0]) == 0
    assert start.names == []
    assert f"best: {made[0] / 'round_0' / 'trained' / 'model.pt'} with" in capsys.readouterr().out


def test_the_table_has_scores_and_labels_of_every_round(made, start, capsys):
    assert start(made[0]) == 0
    head, _, first, second, _ = capsys.readouterr().out.splitlines()
    assert head.split(" | ")[1:6] == ["mean F1", "precision", "wrong picks", "F4", "a: accepted / uncertain"]
    labels = read_csv(made[0] / "round_0" / "labels" / "truth.csv")
    unsure = [sum(np.isnan(one.weight) for one in labels if one.species == name) for name in "ab"]
    sure = [sum(one.weight > 0 for one in labels if one.species == name) for name in "ab"]
    assert first.split(" | ")[5:7] == [f"{yes} / {no}" for yes, no in zip(sure, unsure, strict=True)]
    assert second.split(" | ")[:5] == ["| 1", "0.750", "0.250", "6 of 8", "0.600"]


def test_rounds_end_when_the_score_rises_no_more(start, tmp_path, made):
    shutil.copytree(made[0], tmp_path / "work", symlinks=True)
    assert start(tmp_path / "work", rounds=3, least_gain=0.9) == 0
    assert start.names == []  # the first round gained 0.75


def test_a_tomogram_that_is_not_calibrated_gets_no_labels(start, tmp_path, made, capsys):
    shutil.copytree(made[0] / "round_0" / "picks", tmp_path / "work" / "round_0" / "picks")
    record = tmp_path / "work" / "round_0" / "picks" / "new1" / "run.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "unfamiliar": "skewness: 9"}))
    start.made_up = {"run", "evaluating", "training"}
    with pytest.raises(FileNotFoundError):  # nothing was trained
        start(tmp_path / "work")
    assert dict(start.tasks)["training"]["--excluded_runs"] == ["fit", "second", "new1"]
    assert {one.run for one in read_csv(tmp_path / "work" / "round_0" / "labels" / "truth.csv")} == {"new2"}


def test_without_a_sure_pick_there_is_nothing_to_learn_from(start, tmp_path, made, capsys):
    shutil.copytree(made[0] / "round_0" / "picks", tmp_path / "work" / "round_0" / "picks")
    start.made_up = {"run", "evaluating"}
    assert start(tmp_path / "work", accept=1) == 1
    assert "has no pick with a score of 1 or more: there is nothing to learn from" in capsys.readouterr().err
    assert not (tmp_path / "work" / "round_0" / "labels").exists()


def test_the_commands_of_the_page_work(tool, made, data, tmp_path, capsys):
    lines = [re.sub(r"^\S*python ", "", line) for line in commands_of(PAGE.read_text())]
    picking, labelling, training, rounds = map(shlex.split, lines)
    assert picking[picking.index("--operating_point") + 1] == "{'probability': 0.2}"
    assert labelling[:2] == ["-m", "scripts.results.pseudo_labels"]
    assert training[training.index("--dataset_dir") + 1] == "['../mydata','../unlabelled']"
    moved = {
        "../unlabelled/truth.csv": tmp_path / "truth.csv", "../picks": made[0] / "round_0" / "picks",
        "models/model.pt": data / "first" / "model.pt",
    }  # fmt: skip
    assert pseudo_labels.main([str(moved.get(word, word)) for word in labelling[2:]]) == 0
    assert {one.run for one in read_csv(tmp_path / "truth.csv")} == set(UNLABELLED)
    options = tool.make_parser().parse_args(rounds[1:])
    assert (options.second_look_runs, options.least_gain) == (["TS_01", "TS_02"], 0.005)


def test_scores_out_of_order_are_refused_before_anything_is_written(start, tmp_path, capsys):
    assert start(tmp_path / "work", accept=0.1, uncertain=0.2) == 1
    assert "scores must be 0 < uncertain <= accept <= 1; got uncertain 0.2, accept 0.1" in capsys.readouterr().err
    assert not (tmp_path / "work").exists()


def test_a_second_look_that_is_not_calibrated_ends_the_rounds_before_anything_is_picked(start, tmp_path, capsys):
    weights = write_weights(tmp_path / "model.pt", tiny_network(), make_species(2), trained_on=["old"])
    facts = {"not_calibrated": {"b": "3 true particles among its candidates, at least 10 needed"}}
    write_second_look(tmp_path / "second_look.pt", weights, make_species(2), **facts)
    assert start(tmp_path / "work", checkpoint_path=weights) == 1
    said = "second_look.pt: the probability of b is not calibrated: 3 true particles among its candidates, at least 10"
    assert said in capsys.readouterr().err
    assert start.names == []


def test_without_a_calibrated_tomogram_there_is_nothing_to_learn_from(start, tmp_path, made, capsys):
    shutil.copytree(made[0] / "round_0" / "picks", tmp_path / "work" / "round_0" / "picks")
    for record in (tmp_path / "work" / "round_0" / "picks").glob("*/run.json"):
        record.write_text(json.dumps({**json.loads(record.read_text()), "unfamiliar": "skewness: 9"}))
    start.made_up = {"run", "evaluating"}
    assert start(tmp_path / "work") == 1
    assert "picks are flagged: their scores may be wrong, see its summary.csv" in capsys.readouterr().err


@pytest.mark.parametrize("content", [None, "{"])
def test_settings_that_cannot_be_read_are_refused_in_one_line(content, start, tmp_path, capsys):
    if content is not None:
        (tmp_path / "mine.json").write_text(content)
    assert start(tmp_path / "work", training_args=tmp_path / "mine.json") == 1
    assert f"cannot read {tmp_path / 'mine.json'}: " in capsys.readouterr().err
    assert start.names == []


def test_other_settings_in_a_file_are_refused(start, tmp_path, data, capsys):
    mine, work = tmp_path / "mine.json", tmp_path / "work"
    mine.write_text((data / "training.json").read_text())
    start.made_up = {"run", "evaluating"}
    assert start(work, training_args=mine) == 1
    assert "holds no run that inference has picked" in capsys.readouterr().err
    mine.write_text(json.dumps({**ARGUMENTS["training"], "epochs": 2}))
    assert start(work, training_args=mine) == 1
    assert "was begun with other settings: training_args epochs was 1, now it is 2" in capsys.readouterr().err


def test_other_settings_are_refused(made, start, capsys):
    assert start(made[0], accept=0.6) == 1
    assert "was begun with other settings: accept was 0.5, now it is 0.6" in capsys.readouterr().err
    assert start.names == []


def test_runs_that_are_in_use_are_refused_before_anything_is_run(start, data, tmp_path, capsys):
    weights = write_weights(tmp_path / "model.pt", tiny_network(), make_species(2), trained_on=["new2"])
    assert start(tmp_path / "work", checkpoint_path=weights) == 1
    assert f"trained_on in {tmp_path / 'model.json'}: new2" in capsys.readouterr().err
    assert start(tmp_path / "other", unlabelled_dir=data / "labelled") == 1
    assert "labelled_dir: fit, held, second, train" in capsys.readouterr().err
    assert start.names == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"calibration_runs": "held"}, "held: a run has one use; name it once among validation_runs, calibration_runs"),
        ({"validation_runs": "old"}, "validation_runs: old trained "),
    ],
)
def test_a_run_that_judges_weights_has_not_made_them(changes, said, start, tmp_path, capsys):
    assert start(tmp_path / "work", **changes) == 1
    assert said in capsys.readouterr().err
    assert not (tmp_path / "work").exists()
    assert start.names == []


@pytest.mark.parametrize("facts", [{"trained_on": ["held"]}, {"calibration": {"fitted_on": ["held"]}}], ids=str)
def test_a_run_that_made_the_first_second_look_does_not_judge_it(facts, start, tmp_path, capsys):
    weights = write_weights(tmp_path / "model.pt", tiny_network(), make_species(2), trained_on=["old"])
    second_look = write_second_look(tmp_path / "second_look.pt", weights, make_species(2), **facts)
    assert start(tmp_path / "work", checkpoint_path=weights) == 1
    assert f"validation_runs: held trained {second_look}, which would be" in capsys.readouterr().err
    assert start.names == []


def test_a_command_that_fails_ends_the_rounds_with_its_status(start, tmp_path):
    with mock.patch.object(start, "command", side_effect=subprocess.CalledProcessError(3, "python")):
        assert start(tmp_path / "work") == 3
