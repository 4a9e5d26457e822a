import os

import pytest
from scripts.errors import InputError
from scripts.files import remove_temporaries, write_atomically, write_folder_atomically


def test_a_folder_appears_when_it_is_complete(tmp_path):
    with write_folder_atomically(tmp_path / "a" / "one") as folder:
        (folder / "x").write_text("new")
        assert not (tmp_path / "a" / "one").exists()
    assert (tmp_path / "a" / "one" / "x").read_text() == "new"
    assert os.listdir(tmp_path / "a") == ["one"]


def test_a_folder_is_replaced_as_a_whole(tmp_path):
    for name in "xy":
        with write_folder_atomically(tmp_path / "one") as folder:
            (folder / name).write_text(name)
    assert os.listdir(tmp_path / "one") == ["y"]
    assert os.listdir(tmp_path) == ["one"]


def write_half(target, error):
    with write_folder_atomically(target) as folder:
        (folder / "x").write_text("new")
        raise error


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt()])
def test_an_unfinished_folder_leaves_the_old_one_as_it_was(error, tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "x").write_text("old")
    with pytest.raises(type(error)):
        write_half(tmp_path / "one", error)
    assert (tmp_path / "one" / "x").read_text() == "old"
    assert os.listdir(tmp_path) == ["one"]


def test_a_folder_that_cannot_be_written_is_an_input_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot write .*file/one: Not a directory"):
        with write_folder_atomically(tmp_path / "file" / "one"):
            pass


def test_what_killed_runs_left_is_removed_and_nothing_else(tmp_path):
    kept = [".lock", "one", "two.tmp", ".mine.tmp"]
    for name in kept:
        (tmp_path / name).mkdir()
    left = write_atomically(tmp_path / "picks.csv"), write_folder_atomically(tmp_path / "one")
    for one in left:
        one.__enter__()  # and never left
    assert len(os.listdir(tmp_path)) == len(kept) + 2
    remove_temporaries(tmp_path)
    assert sorted(os.listdir(tmp_path)) == sorted(kept)
