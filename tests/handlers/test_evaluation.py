import json

import pytest
import torch
from scripts.handlers.pages import WritePages
from scripts.handlers.scores import WriteScores
from scripts.handlers.thresholds import FitThresholds
from scripts.picks import Pick, as_records
from synthetic import make_particles, run_engine, sample_of


@pytest.fixture
def particles():
    return make_particles(2)


def test_scores_are_written_in_both_modes(particles, tmp_path, capsys):
    sample = sample_of([[1, 6, 9, 10], [1, 6, 9, 12]], [("a", 6, 9, 11)])
    run_engine([sample], WriteScores(str(tmp_path), particles))
    rows = (tmp_path / "scores.csv").read_text().splitlines()
    assert rows[1].startswith("kaggle,a,2,1,2,-1,0,")
    assert rows[4].startswith("one_to_one,a,2,1,1,0,1,")
    assert "total (one_to_one)" in capsys.readouterr().out


def test_scores_know_the_voxel_offset(tmp_path):
    sample = sample_of([[1, 6, 9, 11]], [])
    sample["result"]["picks"] = as_records([Pick("run", "a", 115.0, 95.0, 65.0, 0.9, 15.0, 11, 9, 6)])
    run_engine([sample], WriteScores(str(tmp_path), make_particles(1, radius_angstrom=15.0), voxel_offset=0.5))
    assert (tmp_path / "scores.csv").read_text().splitlines()[1].startswith("kaggle,a,1,1,1,0,0,")


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
