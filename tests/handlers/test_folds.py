"""Cross-validation by its command, from the split to the picks of the ensemble."""

import ast
import csv
import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from documented import commands_of, run_line
from monai.bundle import ConfigParser
from scripts.datasets.splits import plan_folds
from scripts.errors import InputError, find_input_error
from scripts.handlers import folds
from scripts.handlers.folds import (
    fold_arguments,
    is_complete,
    keep_plan,
    picking_commands,
    picking_start,
    run_folds,
    run_out_of_fold,
)
from scripts.networks.model_card import read_card, sha256_of
from scripts.picking.blobs import Blobs
from scripts.picking.proposals import Proposals
from scripts.picking.stored_proposals import read_proposals, write_proposals
from scripts.picks import Pick, read_csv, write_csv
from scripts.scoring.out_of_fold import OutOfFold, judge_out_of_fold, read_out_of_fold, write_out_of_fold
from scripts.species import SPECIES_FILE
from scripts.training.spheres import Spheres
from scripts.volumes.labels import draw_spheres
from synthetic import make_species, noise, run_engine, sample_of, tiny_network, write_mrc, write_weights

SHAPE, NAMES, RUNS = (20, 32, 32), ("a", "b"), ("one", "three", "two", "four")
PAGE = (Path(__file__).resolve().parents[2] / "docs" / "how_to" / "folds.md").read_text()
SMALL_PICKING = "--precision float32 --device cpu --inference_window_size [16,24,24] --logging_file False"
SMALL = (
    f"{SMALL_PICKING} "
    "--window_size [16,16,16] --windows_per_epoch 4 --epochs 1 --val_interval 1 --warmup_steps 1 "
    "--network_def#widths [4,8] --network_def#depths [1,1] --device cpu --sweep_thresholds [0.3,0.5] "
    "--least_truths 2 --merge_distance_in_radii 0.9 "
    "--out_of_fold#postprocessing#transforms#0#lowest_logit -9.0"
)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Return a folder of four tomograms with truth, and their species file."""
    folder, picks = tmp_path_factory.mktemp("dataset"), []
    for seed, run in enumerate(RUNS):
        places = np.array([[6, 8, 8], [6, 24, 9], [13, 9, 24], [13, 24, 23]])
        write_mrc(folder / f"{run}.mrc", noise(seed, SHAPE) + 6 * draw_spheres(SHAPE, places, 3))
        for number, (z, y, x) in enumerate((10.0 * places).tolist()):
            picks.append(Pick(run, NAMES[number % 2], x, y, z))
    write_csv(folder / "truth.csv", picks)
    common = {"radius_angstrom": 40.0, "target_radius_angstrom": 30.0, "weight": 1.0, "positive_weight": 16.0}
    common |= {"probability_threshold": 0.5, "min_voxels": 1}
    species = {name: {"label": number + 1, **common} for number, name in enumerate(NAMES)}
    (folder / "species.json").write_text(json.dumps({"voxel_size_angstrom": 10.0, "species": species}))
    return folder


def command(dataset, output, more="", line=0):
    """Return a command of the page with our folders, and settings that make it short."""
    words = commands_of(PAGE)[line].replace("../mydata/folds", str(output)).replace("../mydata", str(dataset))
    return f"{words} {SMALL if line == 0 else SMALL_PICKING} {more}"


@pytest.fixture
def ran(bundle_dir, monkeypatch):
    """Run every command in this process, and return those of the folds."""
    commands = []

    def run(number, arguments):
        commands.append(arguments)
        run_line(shlex.join(["python", "-m", "monai.bundle", *arguments]), False)

    monkeypatch.chdir(bundle_dir)
    monkeypatch.setattr(folds, "run_bundle", run)
    return commands


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    return tmp_path_factory.mktemp("folds")


pytestmark = pytest.mark.filterwarnings("ignore:.*lies above the threshold", "ignore:.*keeps the threshold")


def test_one_fold_alone_fits_nothing_yet(dataset, output, ran):
    run_line(command(dataset, output, "--only_folds [1]"), False)
    assert len(ran) == 1
    assert (output / "fold_1" / "out_of_fold.json").exists()
    assert not (output / "fold_0").exists()
    assert not (output / "folds.md").exists()


def test_the_other_fold_follows_and_a_finished_one_is_not_repeated(dataset, output, ran):
    before = {path: path.stat().st_mtime_ns for path in (output / "fold_1").glob("*.pt")}
    before |= {path: path.stat().st_mtime_ns for path in (output / "fold_1" / "out_of_fold").iterdir()}
    run_line(command(dataset, output), False)
    assert len(ran) == 3
    assert {path: path.stat().st_mtime_ns for path in before} == before
    plan = json.loads((output / "plan.json").read_text())
    held_out = [set(plan["runs"][f"fold {number}"]) for number in range(3)]
    assert sorted(run for runs in held_out for run in runs) == sorted(RUNS)
    for number in range(3):
        card = read_card(output / f"fold_{number}" / "model_last.pt")
        assert set(card["trained_on"]) == set(RUNS) - held_out[number]
        assert card["thresholds_fitted_on"] == sorted(RUNS)
        assert {path.stem for path in (output / f"fold_{number}" / "out_of_fold").iterdir()} == held_out[number]


def test_what_is_fitted_stands_in_files_for_inference(output):
    """After the folds."""
    for point in ("f1", "f4"):
        assert set(json.loads((output / f"thresholds_{point}.json").read_text())) == set(NAMES)
    calibration = json.loads((output / "calibration.json").read_text())
    assert calibration["calibration"]["fitted_on"] == sorted(RUNS)
    assert calibration["merge_distance_in_radii"] == 0.9
    weights = [output / f"fold_{number}" / "model_last.pt" for number in range(3)]
    assert calibration["weights_sha256"] == [sha256_of(path) for path in weights]


def test_the_table_has_every_fold_and_all_of_them(output):
    """After the folds."""
    with open(output / "folds.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {(row["fold"], row["operating_point"], row["species"]) for row in rows} == {
        (fold, point, name) for fold in ("0", "1", "2", "all") for point in ("f1", "f4") for name in (*NAMES, "total")
    }
    truths = {row["fold"]: int(row["truths"]) for row in rows if row["species"] == "total"}
    assert sum(truths[fold] for fold in "012") == truths["all"] == 16
    assert {row["windows"] for row in rows if row["fold"] != "all"} == {"4"}
    page = (output / "folds.md").read_text()
    assert "is the best, and fold" in page
    assert str(output / "fold_0" / "model_last.pt") in page


@pytest.mark.parametrize("line", [1, 2], ids=["ensemble", "one network"])
def test_the_commands_of_the_page_pick_with_calibrated_scores(line, dataset, output, bundle_dir, monkeypatch, tmp_path):
    """After the folds."""
    monkeypatch.chdir(bundle_dir)
    words = command(dataset, output, line=line).replace("../tomograms", str(dataset / "one.mrc"))
    run_line(words.replace("../picks_of_one", str(tmp_path)).replace("../picks", str(tmp_path)), False)
    record = json.loads((tmp_path / "one" / "run.json").read_text())
    assert "CalibratedScores" in json.dumps(record["settings"])
    assert {row["operating_point"] for row in record["expected"].values()} == {"F1"}
    assert all(0 <= pick.score <= 1 and not np.isnan(pick.network_score) for pick in read_csv(tmp_path / "picks.csv"))


def test_the_page_that_is_written_has_the_same_commands_with_its_own_folders(output):
    """After the folds."""
    written = [line for line in commands_of((output / "folds.md").read_text()) if not line.startswith("#")]
    assert len(written) == 3
    for line, ours in zip(commands_of(PAGE)[1:3], written[:2], strict=True):
        words = shlex.split(line.replace("../mydata/folds", str(output)))
        given = dict(zip(words[4::2], words[5::2], strict=True))
        own = shlex.split(ours)
        assert own[:4] == words[:4]
        assert set(given) <= set(own)
        assert own[own.index("--calibration_path") + 1] == given["--calibration_path"]
    assert f"{output}/thresholds_f4.json" in written[2]


def test_a_space_in_a_path_leaves_the_commands_whole():
    start = picking_start({}, None, None)
    for command in picking_commands(start, Path("my data") / "folds", 2, 1, is_calibrated=True):
        words = shlex.split(command.replace("\\\n", " "), comments=True)
        given = dict(zip(words[4::2], words[5::2], strict=True))
        paths = [given[key] for key in ("--calibration_path", "--probability_thresholds") if key in given]
        weights = given["--checkpoint_path"]
        paths += ast.literal_eval(weights) if weights.startswith("[") else [weights]
        assert all(path.startswith("my data/folds/") for path in paths)


def test_the_commands_have_the_settings_and_the_overlay_of_the_folds():
    parser = ConfigParser()
    parser.read_config([str(SPECIES_FILE.with_name(name)) for name in ("train.json", "heat_maps.json", "folds.json")])
    parser.update({"invert": True, "flips": ["z"], "merge_distance_in_radii": 0.5, "painter#sigma_angstrom": 40.0})
    settings = parser.get_parsed_content("cross_validation#2#picking")
    finder, painter = (parser.get_parsed_content(key) for key in ("finder", "painter"))
    words = shlex.split(picking_start(settings, finder, painter))
    given = dict(zip(words[4::2], words[5::2], strict=True))
    assert ast.literal_eval(given.pop("--config_file")) == ["configs/inference.json", "configs/heat_maps.json"]
    del given["--dataset_dir"], given["--output_dir"]
    assert given == {
        "--invert": "True", "--flips": "['z']", "--merge_distance_in_radii": "0.5", "--painter#sigma_angstrom": "40.0"
    }  # fmt: skip
    plain = picking_start({"merge_distance_in_radii": 1.0}, Blobs(connectivity=6), Spheres())
    assert plain.endswith("configs/inference.json --dataset_dir TOMOGRAMS --output_dir PICKS --finder#connectivity 6")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("--folds 2", r"plan\.json was begun with other folds: folds was 3, now it is 2\. Set another output_dir"),
        ("--seed 1", r"plan\.json was begun with other folds: seed was 0, now it is 1"),
        ("--only_folds [3]", "only_folds names fold 3; the folds are called 0 to 2"),
        ("--folds 1", "folds is a whole number, 2 or more; got 1"),
        ("--folds 2.5", "folds is a whole number, 2 or more; got 2.5"),
        (
            "--annotated {'four':{'complete':False},'one':['a'],'two':['a']}",
            r"the network of fold \d could not be trained without .*three.*: b: points alone in every",
        ),
        ("--folds 5", r"holds 4 tomograms that may be held out \(four, one, three, two\), too few for 5 folds"),
    ],
)
def test_wrong_settings_are_refused_before_a_fold_is_trained(more, message, dataset, output, ran):
    """After the folds."""
    with pytest.raises(RuntimeError) as caught:
        run_line(command(dataset, output, more), False)
    with pytest.raises(InputError, match=message):
        raise find_input_error(caught.value)
    assert ran == []


@pytest.mark.filterwarnings("ignore:.*has no particle of empty")
def test_a_tomogram_without_particles_is_a_fold_like_any_other(dataset, ran, tmp_path):
    mine, made = shutil.copytree(dataset, tmp_path / "mydata"), tmp_path / "folds"
    for run in ("two", "four"):
        (mine / f"{run}.mrc").unlink()
    write_mrc(mine / "empty.mrc", noise(9, SHAPE))
    run_line(command(mine, made), False)
    with open(made / "folds.csv", newline="") as file:
        truths = [row["truths"] for row in csv.DictReader(file) if row["species"] == "total" and row["fold"] != "all"]
    assert sorted(truths) == ["0", "0", "4", "4", "4", "4"]
    assert "empty" in json.loads((made / "calibration.json").read_text())["calibration"]["fitted_on"]
    (held_out,) = made.glob("fold_*/out_of_fold/empty.npz")
    one = read_out_of_fold(held_out)
    assert len(one.particles) == 0
    assert one.is_judged.size > 0  # all of them wrong
    assert one.is_judged.all()


def test_a_finished_fold_with_other_settings_is_refused(dataset, output, ran):
    """After the folds."""
    with pytest.raises(RuntimeError) as caught:
        run_line(command(dataset, output, "--learning_rate 0.5"), False)
    assert "was begun with other settings: AdamW lr was" in str(find_input_error(caught.value))


def test_folds_that_picked_in_other_ways_are_not_mixed(dataset, output, ran):
    """After the folds."""
    with pytest.raises(RuntimeError) as caught:
        run_line(command(dataset, output, "--only_folds [2] --sweep_thresholds [0.1,0.2,0.3]"), False)
    assert "fold_2 has other settings than" in str(find_input_error(caught.value))


def test_a_fold_whose_weights_have_changed_since_is_not_complete(tmp_path):
    assert not is_complete(tmp_path)
    weights = write_weights(tmp_path / "model_last.pt", tiny_network(), make_species(2))
    (tmp_path / "out_of_fold.json").write_text(json.dumps({"weights_sha256": sha256_of(weights)}))
    assert is_complete(tmp_path)
    write_weights(weights, tiny_network(seed=1), make_species(2))
    assert not is_complete(tmp_path)


def test_what_a_fold_holds_out_is_picked_again_when_its_truth_changes(tmp_path, caplog):
    write_weights(tmp_path / "model_last.pt", tiny_network(), make_species(2))
    runs, evaluator = [], SimpleNamespace(run=lambda: runs.append(1))
    for truth in ("a", "a", "b"):
        run_out_of_fold(evaluator, tmp_path, {"runs": [{"run": "one", "truth_sha256": truth}]})
    assert len(runs) == 2


@pytest.mark.parametrize("write", [write_out_of_fold, write_proposals])
def test_a_file_that_was_cut_short_is_refused_with_what_to_delete(write, tmp_path):
    proposals = Proposals(np.zeros((50, 3)), np.zeros((50, 2)))
    known = np.zeros((1, 4)), np.zeros((2, 3), int), np.ones((50, 2), bool)
    is_whole, path = write is write_proposals, tmp_path / "one.npz"
    write(path, proposals if is_whole else OutOfFold("one", 10.0, proposals, *known))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match=r"cannot read .*one\.npz: .*Delete"):
        (read_proposals if is_whole else read_out_of_fold)(path)


def test_a_species_that_a_fold_would_not_see_is_refused(tmp_path):
    for run in ("one", "two"):
        write_mrc(tmp_path / f"{run}.mrc", noise())
    write_csv(tmp_path / "truth.csv", [Pick(run, "a", 10.0, 10.0, 10.0) for run in ("one", "two")])
    with pytest.raises(InputError, match="the network of fold 0 would see no 'b': there is no 'b'"):
        plan_folds(tmp_path, 2, make_species(2))
    write_csv(tmp_path / "truth.csv", [Pick("one", "a", 10.0, 10.0, 10.0), Pick("two", "b", 10.0, 10.0, 10.0)])
    with pytest.raises(InputError, match=r"would see no '[ab]': all 1 particles of '[ab]' are in (one|two)\."):
        plan_folds(tmp_path, 2, make_species(2))


def test_proposals_of_which_the_truth_does_not_tell_are_not_in_the_calibration(tmp_path):
    species_set = make_species(2)
    sample = sample_of([[1, 6, 9, 11]], []) | {"is_complete": torch.tensor([True, False])}
    sample["proposals"] = Proposals(np.array([[6.0, 9, 11], [15, 9, 11]]), np.zeros((2, 2), dtype=np.float32))
    sample["sweep"] = torch.zeros(2, 1, 3)
    run_engine([sample], folds.StoreOutOfFold(tmp_path, species_set))
    judged = judge_out_of_fold(read_out_of_fold(tmp_path / "out_of_fold" / "run.npz"), species_set)
    assert judged.is_kept.tolist() == [[True, False], [True, False]]  # b: points alone, of which none is here
    assert judged.is_right[:, 0].tolist() == [True, False]


def test_a_folds_command_is_the_whole_one_with_its_own_folder():
    given = ["run", "cross_validation", "--output_dir", "OUT", "--epochs=3", "--cache-dir=C", "--folds", "2"]
    assert fold_arguments(given, {"output_dir": "OUT/fold_0", "cache_dir": None}) == [
        "run", "fold", "--epochs=3", "--folds", "2", "--output_dir", "OUT/fold_0", "--cache_dir", "$None",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "task", [["cross_validation"], ["--run_id", "cross_validation"], ["--run-id=cross_validation"]]
)
def test_a_folds_command_never_runs_all_folds_again(task):
    assert "cross_validation" not in " ".join(fold_arguments(["run", *task, "--folds", "2"], {}))
    assert fold_arguments(["run", "--run_id=cross_validation"], {}) == ["run", "--run_id=fold"]


@pytest.mark.parametrize(("words", "count"), [(["--args_file", "args.json"], 0), (["cross_validation"] * 2, 2)])
def test_a_command_without_its_task_or_with_two_is_refused(words, count):
    with pytest.raises(
        InputError, match=rf"must name its task once, .*; it is there {count} times: start it as python"
    ):
        fold_arguments(["run", *words], {"output_dir": "OUT"})


def test_a_fold_that_fails_stops_the_rest(monkeypatch):
    monkeypatch.setattr(subprocess, "run", lambda words, check: subprocess.CompletedProcess(words, 3))
    with pytest.raises(InputError, match="fold 1 ended with exit status 3, see above; the same command resumes it"):
        folds.run_bundle(1, ["run", "fold"])


def test_only_a_command_can_run_folds(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["pytest"])
    with pytest.raises(InputError, match="cross_validation runs a command per fold, so start it as one"):
        run_folds(None, tmp_path, None)


def test_several_processes_do_not_train_the_same_folds(monkeypatch, tmp_path):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="start it without torchrun"):
        run_folds(None, tmp_path, None)


@pytest.mark.parametrize("use", ["trained_on", "selected_on", "thresholds_fitted_on"])
def test_weights_that_know_a_held_out_tomogram_start_no_fold(use, dataset, ran, monkeypatch, tmp_path):
    plan = plan_folds(dataset, 2, make_species(2))
    monkeypatch.setattr(folds, "is_bundle_command", lambda: True)
    monkeypatch.setattr(sys, "argv", ["monai.bundle", "run", "cross_validation"])
    known = write_weights(tmp_path / "known.pt", **{use: ["other", "one"]})
    with pytest.raises(InputError, match=rf"known\.pt knows tomograms that folds hold out \({use} in .*json: one\):"):
        run_folds(plan, tmp_path / "out", None, None, known)
    assert (ran, (tmp_path / "out").exists()) == ([], False)
    run_folds(plan, tmp_path, None, [], write_weights(tmp_path / "new.pt", **{use: ["other"]}))


def test_the_configs_tell_folds_which_weights_they_start_from(bundle_dir):
    steps = json.loads((bundle_dir / "configs" / "folds.json").read_text())["cross_validation"]
    assert steps[1]["checkpoint_path"] == "@checkpoint_path"


def test_a_damaged_plan_is_refused(tmp_path, dataset):
    (tmp_path / "plan.json").write_text("{")
    with pytest.raises(InputError, match=r"cannot read .*plan\.json: .* Set another output_dir"):
        keep_plan(tmp_path / "plan.json", plan_folds(dataset, 2, make_species(2)))
