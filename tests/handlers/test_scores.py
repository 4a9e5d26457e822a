from types import SimpleNamespace

import numpy as np
import pytest
from ignite.engine import Engine
from scripts.handlers.scores import PickScore
from scripts.handlers.times import StageTimes
from scripts.picks import Pick, as_records
from synthetic import make_particles, sample_of


@pytest.fixture
def particles():
    return make_particles(2)


def test_the_score_sums_counts_over_tomograms(particles):
    metric = PickScore(particles)
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


def test_the_score_knows_both_modes(particles):
    sample = sample_of([[1, 6, 9, 10], [1, 6, 9, 12]], [("a", 6, 9, 11)])
    scores = {}
    for mode in ("kaggle", "one_to_one"):
        metric = PickScore(particles, mode)
        metric.update([sample])
        metric.compute()
        scores[mode] = metric.counts["a"].tp
    assert scores == {"kaggle": 2, "one_to_one": 1}


def test_a_perfect_pick_counts_with_any_voxel_offset():
    narrow = make_particles(1, radius_angstrom=15.0)
    sample = sample_of([[1, 6, 9, 11]], [])
    sample["result"]["picks"] = as_records([Pick("run", "a", 115.0, 95.0, 65.0, 0.9, 15.0, 11, 9, 6)])
    metric = PickScore(narrow, voxel_offset=0.5)
    metric.update([sample])
    assert metric.compute() == 1
    with pytest.raises(ValueError, match="mode must be one of kaggle, one_to_one; got 'kagle'"):
        PickScore(narrow, mode="kagle")


def test_a_species_without_truth_and_picks_does_no_harm(particles):
    metric = PickScore(particles)
    metric.update([sample_of([], [])])
    assert metric.compute() == 0


def test_stage_times_name_every_stage(caplog):
    caplog.set_level("INFO")
    times, engine = StageTimes(), SimpleNamespace(state=SimpleNamespace(output=[{"result": {"run": "D1"}}]))
    times.start(engine)
    for stage in ("read and scale", "network", "pick"):
        times.mark(engine, stage)
    assert list(engine.state.seconds) == ["read and scale", "network", "pick"]  # for the record of the run
    times.report(engine)
    assert np.all([word in caplog.text for word in ("D1: read and scale 0.0 s", "network", "pick", "write", "GiB")])
