"""The screening of changes of the training recipe, on small tomograms and a few windows."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from networks.definitions import BUNDLE
from recipe import changes, learning_curve, screen, training
from scripts.errors import InputError
from scripts.scoring.metrics import Counts
from scripts.volumes.labels import draw_spheres
from synthetic import SHAPE, BrightBlobs, noise, write_mrc

VOXEL_SIZE = 10.012
CENTRES = [(6, 9, 11), (13, 20, 30), (10, 20, 9), (9, 8, 27)]
SMALL = {
    "network_def#widths": [4, 8],
    "network_def#depths": [1, 1],
    "window_size": [16, 16, 16],
    "device": "$torch.device('cpu')",
}


@pytest.fixture
def dataset_dir(tmp_path):
    """Four runs that show apo-ferritin."""
    rows = ["id,experiment,particle_type,x,y,z"]
    for seed, run in enumerate(["learn", "fit", "score", "other"]):
        volume = noise(seed) + 6 * draw_spheres(SHAPE, CENTRES, radius_vox=3)
        write_mrc(tmp_path / "data" / run / "tomogram.mrc", volume, VOXEL_SIZE)
        rows += [f"0,{run},apo-ferritin,{x},{y},{z}" for x, y, z in np.array(CENTRES)[:, ::-1] * VOXEL_SIZE]
    (tmp_path / "data" / "truth.csv").write_text("\n".join(rows))
    return tmp_path / "data"


@pytest.fixture
def plan(dataset_dir, tmp_path):
    """Return a plan of four batches of two windows per run."""
    sets = {"own": training.ScoredSet((str(dataset_dir),), None, ("fit",), ("score",))}
    return training.Plan((str(dataset_dir),), (), sets, 8, tmp_path / "out", SMALL)


def arguments(dataset_dir, output_dir, **replaced):
    options = {
        "dataset_dir": dataset_dir,
        "fit_runs": "fit",
        "test_runs": "score",
        "windows": 4,
        "seeds": "0,1",
        "changes": "base,lr_half",
        "settings": json.dumps(SMALL),
        "output_dir": output_dir,
        **replaced,
    }
    return [part for key, value in options.items() for part in (f"--{key}", str(value))]


def test_a_change_stays_what_it_was_after_it_was_made(plan):
    """A resumed screening compares stored results with the definitions of their changes."""
    for name, change in changes.CHANGES.items():
        before = json.dumps(change.definition())
        plan.parser(name, 0).parse()
        assert json.dumps(change.definition()) == before, name


@pytest.mark.filterwarnings("ignore:.*keeps the threshold")
def test_a_screening_writes_results_and_tables_and_goes_on_where_it_stopped(dataset_dir, tmp_path, capsys):
    output = tmp_path / "out"
    given = arguments(dataset_dir, output, outside_dir=dataset_dir, outside_fit="fit", outside_test="other")
    assert screen.main([*given, "--share", "0/2"]) == 0
    assert {path.name for path in output.glob("*.json")} == {"base_seed0.json", "base_seed1.json"}
    assert screen.main(given) == 0
    results = {path.name: json.loads(path.read_text()) for path in output.glob("*.json")}
    assert set(results) == {f"{name}_seed{seed}.json" for name in ("base", "lr_half") for seed in (0, 1)}
    for result in results.values():
        assert (result["steps"], result["batch_size"]) == (2, 2)
        assert set(result["sets"]) == {"own", "outside"}

    with open(output / "recipe.csv", newline="") as file:
        rows = {row["change"]: row for row in csv.DictReader(file)}
    assert {name: row["seeds"] for name, row in rows.items()} == {"base": "2", "lr_half": "2"}
    assert float(rows["base"]["difference"]) == 0
    page = (output / "recipe.md").read_text()
    assert "Each change trained on 4 windows on CPU" in page or torch.cuda.is_available()
    assert "half the learning rate" in page
    assert (output / "recipe.png").exists()

    times = {path.name: path.stat().st_mtime_ns for path in output.glob("*seed1.json")}
    (output / "lr_half_seed0.json").unlink()
    assert screen.main(given) == 0
    assert (output / "lr_half_seed0.json").exists()
    assert {path.name: path.stat().st_mtime_ns for path in output.glob("*seed1.json")} == times

    (output / "recipe.md").unlink()
    assert screen.main(["--only_table", "--output_dir", str(output)]) == 0
    assert (output / "recipe.md").exists()

    capsys.readouterr()
    assert screen.main([*given, "--windows", "6"]) == 1
    assert "was made with windows 4, now it is 6: set another output_dir" in capsys.readouterr().err


def test_wrong_options_are_refused_in_one_line(dataset_dir, tmp_path, capsys):
    wrong = {
        "changes": ("base,lr_third", "error: unknown change lr_third; known are base, "),
        "share": ("3/3", "error: share is i/n, with i from 0 to n - 1; got 3/3."),
        "settings": ('{"rate": 1}', "rate is not a setting of train.json"),
        "test_runs": ("fit", "error: fit cannot be both fitted and tested on."),
        "windows": (1, "error: base, seed 0: 1 windows do not fill one batch of 2: set more windows."),
    }
    for option, (value, message) in wrong.items():
        assert screen.main(arguments(dataset_dir, tmp_path / option, **{option: value})) == 1
        assert message in capsys.readouterr().err


def test_the_runs_that_are_scored_are_not_trained_on(plan):
    data = plan.parser("base", 0).get_parsed_content("train#dataset#data")
    assert [row["run"] for row in data] == ["learn", "other"]


@pytest.mark.parametrize("change", changes.CHANGES)
def test_every_change_builds_a_trainer_and_a_window(plan, change):
    if change == "slice_encoder":
        pytest.importorskip("timm")
    parser = plan.parser(change, 0)
    parser.get_parsed_content("train#trainer")
    window = parser.get_parsed_content("train#dataset")[0]
    assert window["image"].isfinite().all()
    loss = parser.get_parsed_content("loss")(torch.zeros(1, *window["label"].shape), window["label"][None])
    assert loss.isfinite()
    assert loss > 0


def test_changes_start_from_the_settings(plan):
    parser = plan.parser("batch_4x", 0)
    assert parser.get_parsed_content("batch_size") == 8
    assert parser.get_parsed_content("learning_rate") == 0.002
    assert plan.parser("positive_quarter", 0).get_parsed_content("positive_weights") == [8, 4, 4, 4, 4]


def test_changes_with_other_batches_are_scored_after_the_same_share_of_the_training(plan):
    plan = replace(plan, scored_after=(2, 4, 8, 100))
    assert plan.scored_at(steps=4) == {1: 2, 2: 4}
    assert plan.scored_at(steps=16) == {4: 2, 8: 4}


def test_the_learning_rate_follows_the_cosine_over_exactly_the_steps(plan, monkeypatch):
    rates = []
    monkeypatch.setattr(training, "score_set", lambda parser, scored: {"average_precision": 0.0})
    step = torch.optim.AdamW.step
    monkeypatch.setattr(
        torch.optim.AdamW, "step", lambda self: (rates.append(self.param_groups[0]["lr"]), step(self))[1]
    )
    training.run_one(plan, "base", 0)
    assert rates == pytest.approx([0.001 * (1 + np.cos(np.pi * done / 4)) / 2 for done in range(4)])


def test_particles_move_with_a_window_that_is_turned_and_scaled():
    place = torch.tensor([[1.0, 12.0, 12.0, 20.0]])
    axes = torch.meshgrid(*(torch.arange(size, dtype=torch.float32) for size in (24, 32, 32)), indexing="ij")
    blob = torch.exp(-sum((axis - at) ** 2 for axis, at in zip(axes, place[0, 1:], strict=True)) / 3)[None]
    transform = changes.RandTurnAndScaled(degrees=45.0, scaling=0.1, prob=1.0)
    for seed in range(3):
        moved = transform.set_random_state(seed)({"image": blob, "label": place})
        centre = [float((axis * moved["image"][0]).sum() / moved["image"].sum()) for axis in axes]
        assert moved["label"][0, 1:].tolist() == pytest.approx(centre, abs=0.05)
        assert not torch.allclose(moved["label"], place, atol=0.5)


def test_scores_take_the_thresholds_of_the_fit_runs(plan):
    parser = plan.parser("base", 0)
    parser.globals["bright"] = BrightBlobs()
    parser["averaged"] = "$bright"
    with pytest.warns(UserWarning, match="keeps the threshold"):  # of the species that are not there
        scored = training.score_set(parser, plan.sets["own"])
    assert scored["average_precision"] == 1
    assert scored["species"]["apo-ferritin"]["precision_at_f1"] == 1


def test_the_best_threshold_counts_picks_at_it():
    judged = training.Judged(np.array([3.0, 1.0, 2.0, 0.0]), np.array([True, False, True, False]), truths=3)
    threshold = judged.best_threshold(1.0, "a")
    assert threshold == 2
    assert judged.counts_above(threshold) == Counts(2, 2, 3)


def test_a_change_that_fails_stops_no_other(dataset_dir, tmp_path, monkeypatch, capsys):
    def fail(plan, change, seed):
        raise InputError(f"no {change}")

    monkeypatch.setattr(screen, "run_one", fail)
    assert screen.main(arguments(dataset_dir, tmp_path / "out")) == 1
    err = capsys.readouterr().err
    assert "error: base, seed 0: no base" in err
    assert "error: lr_half, seed 1: no lr_half" in err


def test_the_base_is_the_shipped_recipe(plan):
    shipped = json.loads((BUNDLE / "configs" / "train.json").read_text())
    parser = plan.parser("base", 0)
    for key in ("optimizer", "loss", "painter", "averaging_momentum", "weight_decay", "gradient_norm"):
        assert parser[key] == shipped[key]


@pytest.mark.filterwarnings("ignore:.*keeps the threshold")
def test_a_training_that_is_scored_on_its_way_becomes_a_curve_and_learns_the_same(dataset_dir, tmp_path, capsys):
    for folder, after in (("without", []), ("with", ["--scored_after", "3,4,100"])):
        given = arguments(dataset_dir, tmp_path / folder, windows=8, seeds="0", changes="base")
        assert screen.main([*given, *after]) == 0
    assert "base, seed 0: 4 windows, own AP " in capsys.readouterr().out
    without, scored = (json.loads((tmp_path / name / "base_seed0.json").read_text()) for name in ("without", "with"))
    assert scored["last_loss"] == without["last_loss"]
    assert scored["sets"] == without["sets"]
    assert [point["windows"] for point in scored["curve"]] == [4, 8]
    assert scored["curve"][1]["sets"] == scored["sets"]
    curve = ["--screenings", str(tmp_path / "with"), "--output_dir", str(tmp_path / "curve"), "--over", "seconds"]
    assert learning_curve.main(curve) == 0
    with open(tmp_path / "curve" / "learning_curve.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["windows"], row["trained"], row["seeds"]) for row in rows] == [("4", "8", "1"), ("8", "8", "1")]
    found = scored["curve"][0]["sets"]["own"]["average_precision"]
    assert float(rows[0]["own_average_precision"]) == pytest.approx(found)
    assert float(rows[0]["seconds"]) == pytest.approx(scored["training_seconds"] / 2)
    ends = [{"change": "base", "windows": length, "trained": length} for length in (8, 16)]
    on_the_way = {"change": "base", "windows": 4, "trained": 8}
    curves = learning_curve.curves_in([on_the_way, *ends])
    assert curves == {"base": ends, "base, on the way to 8": [on_the_way, ends[0]]}


@pytest.mark.filterwarnings("ignore:.*keeps the threshold")
def test_a_learning_curve_has_a_row_per_change_and_number_of_windows(dataset_dir, tmp_path, capsys):
    folders = [tmp_path / "few", tmp_path / "many"]
    for folder, windows, seeds in zip(folders, (4, 8), ("0,1", "0"), strict=True):
        given = arguments(dataset_dir, folder, windows=windows, seeds=seeds, changes="base")
        assert screen.main(given) == 0
    curve = ["--screenings", f"{folders[1]},{folders[0]}", "--output_dir", str(tmp_path / "curve")]
    assert learning_curve.main(curve) == 0
    with open(tmp_path / "curve" / "learning_curve.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["change"], row["windows"], row["seeds"]) for row in rows] == [("base", "4", "2"), ("base", "8", "1")]
    scores = [json.loads((folders[0] / f"base_seed{seed}.json").read_text())["sets"]["own"] for seed in (0, 1)]
    assert float(rows[0]["own_average_precision"]) == pytest.approx(sum(one["average_precision"] for one in scores) / 2)
    assert float(rows[0]["own_wrong"]) == sum(one["wrong"] for one in scores) / 2
    assert "the shipped recipe" in (tmp_path / "curve" / "learning_curve.md").read_text()
    assert (tmp_path / "curve" / "learning_curve.png").exists()

    capsys.readouterr()
    result = folders[1] / "base_seed0.json"
    result.write_text(result.read_text().replace('"kinds": []', '"kinds": ["wbp"]'))
    assert learning_curve.main(curve) == 1
    assert "was made with kinds" in capsys.readouterr().err
    alone = ["--screenings", str(folders[0]), "--output_dir", str(tmp_path / "none")]
    assert learning_curve.main(alone) == 1
    assert "few: no change was scored after several numbers of windows." in capsys.readouterr().err
    assert learning_curve.main(["--screenings", str(tmp_path), "--output_dir", str(tmp_path / "none")]) == 1
    assert "holds no result of base, " in capsys.readouterr().err
