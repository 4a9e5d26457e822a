import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.data import MetaTensor
from scripts.coordinates import affine_of
from scripts.handlers import (
    FitThresholds,
    PickScore,
    StageTimes,
    WritePages,
    WriteScores,
)
from scripts.picks import Pick, as_records
from synthetic import SHAPE, make_particles

VOXEL_SIZE = 10.0


def sample_of(truth, picks, run="run"):
    """A validated sample: true particles as rows (label, z, y, x), picks as (particle, z, y, x)."""
    meta = {"affine": torch.as_tensor(affine_of(VOXEL_SIZE)), "filename_or_obj": f"{run}.mrc"}
    records = as_records(Pick(run, name, 10.0 * x, 10.0 * y, 10.0 * z, 0.9, 40.0, x, y, z) for name, z, y, x in picks)
    return {
        "image": MetaTensor(torch.zeros(1, *SHAPE), meta=meta),
        "label": torch.tensor(truth, dtype=torch.float32).reshape(-1, 4),
        "result": {"run": run, "picks": records},
    }


def run_engine(samples, *handlers):
    """Run an engine whose output is one sample after another."""
    engine = Engine(lambda engine, batch: [batch])
    for handler in handlers:
        handler.attach(engine)
    engine.run(samples, max_epochs=1)
    return engine


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


def test_a_perfect_pick_counts_with_any_voxel_offset(tmp_path):
    narrow = make_particles(1, radius_angstrom=15.0)
    sample = sample_of([[1, 6, 9, 11]], [])
    sample["result"]["picks"] = as_records([Pick("run", "a", 115.0, 95.0, 65.0, 0.9, 15.0, 11, 9, 6)])
    metric = PickScore(narrow, voxel_offset=0.5)
    metric.update([sample])
    assert metric.compute() == 1
    run_engine([sample], WriteScores(str(tmp_path), narrow, voxel_offset=0.5))
    assert (tmp_path / "scores.csv").read_text().splitlines()[1].startswith("kaggle,a,1,1,1,0,0,")
    with pytest.raises(ValueError, match="mode must be one of kaggle, one_to_one; got 'kagle'"):
        PickScore(narrow, mode="kagle")


def test_a_species_without_truth_and_picks_does_no_harm(particles):
    metric = PickScore(particles)
    metric.update([sample_of([], [])])
    assert metric.compute() == 0


def test_scores_are_written_in_both_modes(particles, tmp_path, capsys):
    sample = sample_of([[1, 6, 9, 10], [1, 6, 9, 12]], [("a", 6, 9, 11)])
    run_engine([sample], WriteScores(str(tmp_path), particles))
    rows = (tmp_path / "scores.csv").read_text().splitlines()
    assert rows[1].startswith("kaggle,a,2,1,2,-1,0,")
    assert rows[4].startswith("one_to_one,a,2,1,1,0,1,")
    assert "total (one_to_one)" in capsys.readouterr().out


def test_thresholds_are_fitted_on_the_summed_counts(particles, tmp_path):
    # species a: 3 truths, best in the middle; species b: too few truths, keeps its own
    counts = torch.tensor([[[3, 90, 3], [3, 4, 3], [1, 1, 3]], [[1, 9, 1], [1, 1, 1], [0, 0, 1]]])
    with pytest.warns(UserWarning, match="b keeps the threshold 0.5"):
        run_engine([{"sweep": counts}], FitThresholds(str(tmp_path), particles, [0.1, 0.3, 0.9]))
    assert json.loads((tmp_path / "thresholds.json").read_text()) == {"a": 0.3, "b": 0.5}
    assert (tmp_path / "thresholds.png").exists()


def test_counts_on_the_pages_are_those_of_the_scores(particles, tmp_path):
    sample = sample_of([[1, 6, 9, 10], [1, 6, 9, 12], [2, 15, 20, 30]], [("a", 6, 9, 11), ("b", 6, 9, 11)])
    sample["sweep"] = torch.zeros(2, 1, 3, dtype=torch.int64)
    run_engine([sample], WriteScores(str(tmp_path), particles), WritePages(str(tmp_path), particles, [0.5]))
    rows = [line.split(",") for line in (tmp_path / "scores.csv").read_text().splitlines()[1:]]
    for page in (tmp_path / "report.html", tmp_path / "run" / "report.html"):
        text = page.read_text().split('id="data">')[1].split("</script>")[0]
        modes = json.loads(text)["truth"]["modes"]
        shown = [
            [mode["mode"], name, *(str(row[key]) for key in ("truths", "picks", "tp", "fp", "fn"))]
            for mode in modes
            for name, row in zip("ab", mode["rows"], strict=True)
        ]
        assert shown == [row[:7] for row in rows if row[1] != "total"]
        assert [mode["total"] for mode in modes] == [float(row[-1]) for row in rows if row[1] == "total"]


def test_no_pages_are_written_where_none_are_wanted(particles, tmp_path):
    run_engine([sample_of([], [])], WritePages(str(tmp_path), particles, [0.5], page_megabytes=0))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match=r"page_megabytes is at least 1, or 0 for no pages; got 0\.5"):
        WritePages(str(tmp_path), particles, [0.5], page_megabytes=0.5)


def test_stage_times_name_every_stage(caplog):
    caplog.set_level("INFO")
    times, engine = StageTimes(), SimpleNamespace(state=SimpleNamespace(output=[{"result": {"run": "D1"}}]))
    times.start(engine)
    for stage in ("read and scale", "network", "pick"):
        times.mark(engine, stage)
    assert list(engine.state.seconds) == ["read and scale", "network", "pick"]  # for the record of the run
    times.report(engine)
    assert np.all([word in caplog.text for word in ("D1: read and scale 0.0 s", "network", "pick", "write", "GiB")])
