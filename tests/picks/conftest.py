import pytest
from pick_files import TABLE
from scripts.picks import write_csv


@pytest.fixture
def table(tmp_path):
    write_csv(tmp_path / "in.csv", TABLE)
    return tmp_path / "in.csv"
