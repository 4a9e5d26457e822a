import re

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from monai.data import DataLoader
from monai.engines import SupervisedEvaluator
from scripts.errors import InputError, InputWarning
from scripts.handlers.finished_sample import samples_of
from scripts.handlers.scores import PickScore, WriteScores, check_scored_runs
from scripts.networks.model_card import card_path
from scripts.picking.calibrated_scores import load_calibration, write_calibration
from scripts.picking.calibration import Calibration
from scripts.picking.second_look import find_second_look
from scripts.picks import Pick, as_records
from scripts.preparation.batch import collate_one
from synthetic import SHAPE, make_species, run_engine, sample_of, tiny_network, write_second_look, write_weights


def test_the_score_sums_counts_over_tomograms(species_set):
    metric = PickScore(species_set)
    engine = Engine(lambda engine, batch: [batch])
    metric.attach(engine, "score")
    one = sample_of([[1, 6, 9, 11]], [("a", 6, 9, 11), ("a", 15, 9, 11)])
    two = sample_of([[1, 6, 9, 11], [2, 5, 5, 5]], [("b", 5, 5, 5)], run="other")
    state = engine.run([one, two])
    assert metric.counts["a"].tp == 1
    assert state.metrics["f4_a"] == pytest.approx(17 * 1 / (16 * 2 + 2))
    assert state.metrics["f4_b"] == 1
    assert state.metrics["score"] == pytest.approx((17 / 34 + 1) / 2)
    assert (state.metrics["precision_a"], state.metrics["recall_a"]) == (0.5, 0.5)


def test_the_score_knows_both_modes(species_set):
    sample = sample_of([[1, 6, 9, 10], [1, 6, 9, 12]], [("a", 6, 9, 11)])
    scores = {}
    for mode in ("kaggle", "one_to_one"):
        metric = PickScore(species_set, mode)
        metric.update([sample])
        metric.compute()
        scores[mode] = metric.counts["a"].tp
    assert scores == {"kaggle": 2, "one_to_one": 1}


def test_a_perfect_pick_counts_with_any_voxel_offset():
    narrow = make_species(1, radius_angstrom=15.0)
    sample = sample_of([[1, 6, 9, 11]], [])
    sample["result"]["picks"] = as_records([Pick("run", "a", 115.0, 95.0, 65.0, 0.9, 15.0, 11, 9, 6)])
    metric = PickScore(narrow, voxel_offset=0.5)
    metric.update([sample])
    assert metric.compute() == 1
    with pytest.raises(ValueError, match="mode is kaggle or one_to_one; got 'kagle'"):
        PickScore(narrow, mode="kagle")


def test_a_species_without_truth_and_picks_does_no_harm(species_set):
    metric = PickScore(species_set)
    metric.update([sample_of([], [])])
    assert metric.compute() == 0


def test_scores_are_written_in_both_modes(species_set, tmp_path, capsys):
    sample = sample_of([[1, 6, 9, 10], [1, 6, 9, 12]], [("a", 6, 9, 11)])
    run_engine([sample], WriteScores(str(tmp_path), species_set))
    rows = (tmp_path / "scores.csv").read_text().splitlines()
    assert rows[1].startswith("kaggle,a,2,1,2,-1,0,")
    assert rows[4].startswith("one_to_one,a,2,1,1,0,1,")
    assert "total (one_to_one)" in capsys.readouterr().out


def test_picks_in_a_tomogram_without_particles_are_wrong(species_set, tmp_path):
    samples = [
        sample_of([[1, 6, 9, 11]], [("a", 6, 9, 11)]),
        sample_of([], [("a", 6, 9, 11), ("b", 3, 9, 11)], run="empty"),
    ]
    run_engine(samples, WriteScores(str(tmp_path), species_set))
    rows = (tmp_path / "scores.csv").read_text().splitlines()
    assert rows[4].startswith("one_to_one,a,1,2,1,1,0,0.5,1.0,")
    assert rows[5].startswith("one_to_one,b,0,1,0,1,0,0.0,")
    run_engine(samples[1:], WriteScores(str(tmp_path), species_set))
    assert (tmp_path / "scores.csv").read_text().splitlines()[4].startswith("one_to_one,a,0,1,0,1,0,")


def test_scores_know_the_voxel_offset(tmp_path):
    sample = sample_of([[1, 6, 9, 11]], [])
    sample["result"]["picks"] = as_records([Pick("run", "a", 115.0, 95.0, 65.0, 0.9, 15.0, 11, 9, 6)])
    run_engine([sample], WriteScores(str(tmp_path), make_species(1, radius_angstrom=15.0), voxel_offset=0.5))
    assert (tmp_path / "scores.csv").read_text().splitlines()[1].startswith("kaggle,a,1,1,1,0,0,")


def test_picks_of_which_the_truth_does_not_tell_count_neither_right_nor_wrong(species_set, tmp_path, capsys):
    picks = [("a", 6, 9, 11), ("a", 15, 9, 11), ("a", 5, 20, 30), ("b", 5, 5, 5)]
    sample = sample_of([[1, 6, 9, 11]], picks)
    known = sample | {
        "doubtful": torch.tensor([[1, 15, 9, 11, float("nan")]]),
        "is_complete": torch.tensor([True, False]),
        "annotated_region": torch.ones(1, *SHAPE, dtype=torch.uint8),
    }
    known["annotated_region"][0, :, 18:] = 0
    counts = []
    for one in (sample, known):
        metric = PickScore(species_set)
        metric.update([one])
        metric.compute()
        counts.append([(found.tp, found.fp) for found in metric.counts.values()])
    assert counts == [[(1, 2), (0, 1)], [(1, 0), (0, 0)]]
    run_engine([known], WriteScores(str(tmp_path), species_set))
    assert (tmp_path / "scores.csv").read_text().splitlines()[1].startswith("kaggle,a,1,1,1,0,0,")
    assert "total" in capsys.readouterr().out


def test_an_evaluation_knows_what_is_annotated(species_set, tmp_path):
    """MONAI's engine keeps what a batch held out of its output."""
    picks = [("a", 6, 9, 11), ("a", 15, 9, 11), ("b", 5, 5, 5)]
    sample = sample_of([[1, 6, 9, 11]], picks)
    result = sample.pop("result")
    sample |= {"is_complete": torch.tensor([True, False]), "doubtful": torch.tensor([[1, 15, 9, 11, float("nan")]])}
    sample["region"] = torch.zeros(1, *SHAPE, dtype=torch.uint8)
    metric, seen = PickScore(species_set), []
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader([sample], batch_size=1, collate_fn=collate_one),
        network=torch.nn.Identity(),
        postprocessing=lambda data: {**data, "result": result},
        key_val_metric={"score": metric},
        val_handlers=[WriteScores(str(tmp_path), species_set)],
    )
    evaluator.add_event_handler(Events.ITERATION_COMPLETED, lambda engine: seen.extend(samples_of(engine)))
    evaluator.run()
    assert seen[0]["region"].shape == (1, *SHAPE)  # operating_points.csv keeps to it
    assert [(found.tp, found.fp) for found in metric.counts.values()] == [(1, 0), (0, 0)]
    assert (tmp_path / "scores.csv").read_text().splitlines()[1].startswith("kaggle,a,1,1,1,0,0,")


def test_tomograms_without_particles_are_no_measure(species_set):
    metric, engine = PickScore(species_set), Engine(lambda engine, batch: batch)
    metric.attach(engine, "score")
    with pytest.warns(InputWarning, match="hold no true particle: the score is 0 whatever is picked; set other"):
        engine.run([[sample_of([], [("a", 6, 9, 11)])]])
    assert engine.state.metrics["score"] == 0


RUNS = [{"run": name} for name in ("three", "two", "one", "two")]


def test_runs_that_the_weights_were_trained_on_are_named_before_they_are_scored(tmp_path):
    weights = write_weights(tmp_path / "model.pt", trained_on=["one", "two", "other"], thresholds_fitted_on=["three"])
    with pytest.warns(
        InputWarning,
        match=r"scores are too good on runs that were learned from \(trained_on in .*model\.json: one, two; "
        r"thresholds_fitted_on in .*model\.json: three\)\. Set validation_runs to others",
    ):
        check_scored_runs(RUNS, weights)
    check_scored_runs([{"run": "four"}], weights)


def test_runs_that_any_member_of_an_ensemble_was_trained_on_are_named(tmp_path):
    paths = [
        write_weights(tmp_path / f"{run}.pt", tiny_network(seed), trained_on=[run])
        for seed, run in enumerate(("zero", "one"))
    ]
    with pytest.warns(InputWarning, match=r"\(trained_on in .*one\.json: one\)"):
        check_scored_runs(RUNS, paths)


def test_runs_that_the_probabilities_were_learned_from_are_named(tmp_path):
    weights, species_set = write_weights(tmp_path / "model.pt"), make_species(2)
    calibration = Calibration(np.tile([1.0, 1, 0, 0, 0, 0, 0, -1], (2, 1)), ("two",))
    table = {"calibration": calibration.as_table(species_set.names), "trained_on": ["one"]}
    path = write_second_look(tmp_path / "second_look.pt", weights, species_set, **table)
    judge = find_second_look(True, path, weights, species_set)
    with pytest.warns(
        InputWarning, match=r"trained_on in .*second_look\.json: one; calibration in .*second_look\.json: two"
    ):
        check_scored_runs(RUNS, weights, judge)
    write_calibration(tmp_path / "calibration.json", calibration, species_set.names, [weights], {})
    judge = load_calibration(tmp_path / "calibration.json", weights, species_set)
    with pytest.warns(InputWarning, match=r"\(calibration in .*calibration\.json: two\)"):
        check_scored_runs(RUNS, weights, judge)


def test_thresholds_that_are_recorded_from_runs_of_the_training_are_warned_of(tmp_path):
    weights = write_weights(tmp_path / "model.pt", trained_on=["two", "other"])
    with pytest.warns(
        InputWarning,
        match=r"scores, and the thresholds that are recorded, are too good on .*: two\).* of the same names",
    ):
        check_scored_runs(RUNS, weights, record_thresholds=True)
    check_scored_runs(RUNS[:1], weights, record_thresholds=True)


def test_runs_of_points_alone_are_scored_with_a_warning_that_wrong_picks_do_not_count(tmp_path):
    rows = [{"run": "one"}, {"run": "two", "annotated": '{"species": null, "complete": false, "box": []}'}]
    with pytest.warns(InputWarning, match=r"^two: points alone, so that wrong picks are not counted there") as said:
        check_scored_runs(rows, write_weights(tmp_path / "model.pt"))
    assert len(said) == 1


def test_of_weights_without_a_card_nothing_is_known(tmp_path):
    weights = write_weights(tmp_path / "model.pt")
    card_path(weights).unlink()
    check_scored_runs(RUNS, weights)
    with pytest.raises(InputError, match=re.escape("or set record_thresholds to False")):
        check_scored_runs(RUNS, weights, record_thresholds=True)


def test_validation_runs_that_chose_the_epoch_are_scored_with_a_line_in_the_log(tmp_path, caplog):
    weights = write_weights(tmp_path / "model.pt", trained_on=["one"], selected_on=["two"])
    with caplog.at_level("INFO"):
        check_scored_runs([{"run": "two"}], weights)
    assert "a little too good on runs that chose the epoch of the weights (selected_on in" in caplog.text
