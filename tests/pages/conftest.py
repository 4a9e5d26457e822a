import pytest
from scripts.picks import Pick, write_csv


@pytest.fixture
def output_dir(tmp_path):
    """A batch of two runs with picks, one without, and a page for one of them."""
    for run, scores in {"TS 1": [0.7, 0.9], "TS_2": [0.8], "empty": []}.items():
        write_csv(tmp_path / run / "picks.csv", [Pick(run, "b", 1.0, 2.0, 3.0, score) for score in scores])
    (tmp_path / "TS 1" / "report.html").write_text("a page")
    return tmp_path
