"""What is killed at any moment goes on and ends like what nobody disturbed; `make soak` is the long form."""

from batches import write_batch
from kills import damage_headers, kill_batches, kill_trainings, write_labelled


def test_killed_batches_leave_whole_folders_and_end_with_the_same_files(shipped_species, tmp_path):
    assert kill_batches(write_batch(tmp_path, 2, shipped_species), tmp_path / "out", kills=3)["kills"] == 3


def test_killed_trainings_end_with_the_same_weights(tmp_path):
    assert kill_trainings(write_labelled(tmp_path / "data"), tmp_path / "out", kills=2)["kills"] == 2


def test_a_damaged_header_gives_a_volume_or_one_line(tmp_path):
    came = damage_headers(tmp_path, 300)
    assert came["read"] + came["refused in one line"] == 300
