"""The search of picking settings on what a cross-validation has stored."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scripts.picking.calibrated_scores import write_calibration
from scripts.picking.operating_point import parse_operating_points
from scripts.picking.proposals import Proposals
from scripts.picking.second_look import find_second_look
from scripts.scoring.metrics import Counts
from scripts.scoring.out_of_fold import OutOfFold, write_out_of_fold
from synthetic import make_species, tiny_network, write_weights

pytest.importorskip("optuna", reason="make test-optuna installs it")

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

import search_picking  # noqa: E402

SPECIES = make_species(2)
pytestmark = pytest.mark.filterwarnings("ignore:.*xperimental")


def tomogram(run, seed):
    """Return particles with one proposal each, as many wrong ones, and logits that tell them apart most of the time."""
    random = np.random.default_rng(seed)
    places = np.argwhere(np.ones((3, 4, 5))) * 20.0
    right, label = np.arange(len(places)) % 2 == 0, random.integers(1, 3, len(places))
    logits = random.normal(-3, 1, (len(places), 2))
    logits[np.arange(len(places)), label - 1] = random.normal(np.where(right, 1.5, -0.5), 1.0)
    particles = np.column_stack([label, places])[right]
    sweep = np.zeros((2, 1, 3), dtype=np.int64)
    proposals = Proposals(places, logits.astype(np.float32))
    return OutOfFold(run, 10.0, proposals, particles, sweep, np.ones(logits.shape, dtype=bool))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return what a cross-validation of two folds with two tomograms each leaves."""
    folder = tmp_path_factory.mktemp("folds")
    runs = {"fold 0": ["a1", "a2"], "fold 1": ["b1", "b2"]}
    (folder / "plan.json").write_text(json.dumps({"folds": 2, "seed": 0, "runs": runs}))
    everything = []
    for number, names in enumerate(runs.values()):
        write_weights(folder / f"fold_{number}" / "model_last.pt", tiny_network(number), SPECIES)
        for place, run in enumerate(names):
            everything.append(tomogram(run, 2 * number + place))
            write_out_of_fold(folder / f"fold_{number}" / "out_of_fold" / f"{run}.npz", everything[-1])
    weights = [folder / f"fold_{number}" / "model_last.pt" for number in range(2)]
    calibration = search_picking.calibration_on(everything, SPECIES, 1.0, 5)
    write_calibration(folder / "calibration.json", calibration, SPECIES.names, weights, {}, least_truths=5)
    return folder


def test_the_search_writes_an_overlay_and_says_what_it_is_worth(folder, capsys):
    assert search_picking.main([str(folder), "--trials", "25"]) == 0
    printed = capsys.readouterr().out
    scores = dict(part.rsplit(" ", 1) for part in printed.splitlines()[0].removeprefix("mean f1: ").split(", ", 1)[0:1])
    assert set(scores) == {"before"}
    for name in ("before, held out", "after, held out"):
        assert name in printed
    overlay = json.loads((folder / "search.json").read_text())
    known = json.loads((ROOT / "bundle" / "configs" / "inference.json").read_text())
    assert set(overlay) - {"_desc_"} <= set(known)
    assert set(parse_operating_points(overlay["operating_point"], SPECIES)) == {"a", "b"}
    weights = folder / "fold_0" / "model_last.pt"
    assert find_second_look("auto", None, weights, SPECIES, calibration_path=overlay["calibration_path"])


def test_settings_that_were_searched_are_no_worse_than_the_first_ones_and_the_same_again(folder):
    tomograms = [tomogram("a1", 0), tomogram("a2", 1)]
    calibration = search_picking.calibration_on(tomograms, SPECIES, 1.0, 10)
    found = [search_picking.search(tomograms, calibration, SPECIES, 1.0, 25, seed=0) for _ in range(2)]
    assert found[0] == found[1]
    first = {"merge_distance_in_radii": 1.0, "a": 0.5, "b": 0.5}
    best, usual = (
        search_picking.score(search_picking.count_with(tomograms, calibration, SPECIES, one), 1.0)
        for one in (found[0], first)
    )
    assert best >= usual > 0.5


def test_places_that_the_truth_does_not_tell_of_count_neither_as_right_nor_as_wrong():
    known = tomogram("a1", 0)
    calibration = search_picking.calibration_on([known], SPECIES, 1.0, 10)
    points = parse_operating_points({"probability": 0.02}, SPECIES)
    everything = search_picking.count([known], calibration, SPECIES, points, 1.0)
    assert all(row.predicted > row.truths > 0 for row in everything.values())
    is_judged = known.is_judged.copy()
    is_judged[:, 1] = False
    partly = replace(known, particles=known.particles[known.particles[:, 0] == 1], is_judged=is_judged)
    found = search_picking.count([partly], calibration, SPECIES, points, 1.0)
    assert found == {"a": everything["a"], "b": Counts()}


def test_an_operating_point_is_chosen_by_all_places_as_picking_does():
    known = tomogram("a1", 0)
    calibration = search_picking.calibration_on([known], SPECIES, 1.0, 10)
    points = parse_operating_points("f1", SPECIES)
    everything = search_picking.count([known], calibration, SPECIES, points, 1.0)
    probabilities = calibration.probabilities(known.proposals.logits, known.proposals.logits)
    likeliest = np.argsort(-probabilities[:, 0])[: everything["a"].predicted]
    is_judged = known.is_judged.copy()
    is_judged[likeliest, 0] = False  # the others are too unlikely to be picked
    found = search_picking.count([replace(known, is_judged=is_judged)], calibration, SPECIES, points, 1.0)
    assert everything["a"].predicted > found["a"].predicted == 0


def test_calibration_and_comparison_merge_as_the_folds_did(folder, tmp_path, monkeypatch, capsys):
    shutil.copytree(folder, tmp_path / "folds")
    path, used = tmp_path / "folds" / "calibration.json", set()
    path.write_text(json.dumps({**json.loads(path.read_text()), "merge_distance_in_radii": 0.5}))
    settings = {"merge_distance_in_radii": 1.5, "a": 0.5, "b": 0.5}
    judge, count = search_picking.judge_out_of_fold, search_picking.count
    monkeypatch.setattr(search_picking, "search", lambda *_: settings)
    monkeypatch.setattr(search_picking, "judge_out_of_fold", lambda *given: used.add(given[-1]) or judge(*given))
    monkeypatch.setattr(search_picking, "count", lambda *given: used.add(given[-1]) or count(*given))
    assert search_picking.main([str(tmp_path / "folds")]) == 0
    assert used == {0.5, 1.5}  # the folds' own, and that of the settings found
    path.write_text(json.dumps({"calibration": {}}))
    assert search_picking.main([str(tmp_path / "folds")]) == 1
    error = f"error: {path} has no merge_distance_in_radii: start the same run cross_validation again.\n"
    assert capsys.readouterr().err == error


def test_folds_that_are_not_complete_are_refused(tmp_path, capsys):
    assert search_picking.main([str(tmp_path)]) == 1
    assert "holds no calibration.json: finish run cross_validation with it as output_dir." in capsys.readouterr().err
