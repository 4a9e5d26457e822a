import errno
import multiprocessing
import os
import time
from pathlib import Path

import pytest
from pick_files import PICK, write_text
from scripts.atomic_files import (
    digest_of,
    digest_of_parts,
    ignores_case,
    lock_folder,
    remove_temporaries,
    require_writable,
    stamps_of,
    take_lock,
    write_atomically,
    write_folder_atomically,
)
from scripts.errors import InputError
from scripts.picks import write_csv


@pytest.mark.parametrize("ignored", [False, True])
def test_a_disk_that_ignores_capitals_is_noticed(ignored, tmp_path):
    file = tmp_path / ".lock"
    file.touch()
    if ignored:
        (tmp_path / ".LOCK").touch()  # what such a disk answers
    assert ignores_case(file) == (ignored or (tmp_path / ".LOCK").exists())


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


def test_a_folder_behind_a_link_is_replaced_and_the_link_stays(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "one").symlink_to(tmp_path / "disk" / "one")
    for name in "xy":
        with write_folder_atomically(tmp_path / "one") as folder:
            (folder / name).write_text(name)
    assert (tmp_path / "one").is_symlink()
    assert os.listdir(tmp_path / "disk" / "one") == ["y"]
    assert sorted(os.listdir(tmp_path)) == ["disk", "one"]


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


@pytest.mark.parametrize("error", [OSError(13, "Permission denied"), KeyboardInterrupt()])
@pytest.mark.parametrize("times", [1, 2])
def test_whatever_ends_the_swap_of_a_folder_the_old_one_is_not_lost(error, times, tmp_path, monkeypatch):
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "x").write_text("old")
    replace, refused = os.replace, [error] * times  # the second time on its way back

    def refuse(source, target):
        if Path(target).name == "one" and refused:
            raise refused.pop()
        replace(source, target)

    monkeypatch.setattr("os.replace", refuse)
    with pytest.raises((InputError, KeyboardInterrupt)):
        with write_folder_atomically(tmp_path / "one") as folder:
            (folder / "x").write_text("new")
    (left,) = tmp_path.iterdir()
    assert (left / "x").read_text() == "old"
    assert (left.name == "one") == (times == 1)


def test_a_folder_that_cannot_be_written_is_an_input_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot write .*file/one: Not a directory"):
        with write_folder_atomically(tmp_path / "file" / "one"):
            pass
    with pytest.raises(InputError, match=r"Not a directory. Choose another."):
        with write_folder_atomically(tmp_path / "file" / "one", remedy="Choose another."):
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


def test_what_is_left_under_one_name_is_removed_alone(tmp_path):
    for name in ("a[1]", "a[1]b", "a1"):
        (tmp_path / f".{name}.0a1b2c3d.tmp").mkdir()
    remove_temporaries(tmp_path, "a[1]")
    assert sorted(os.listdir(tmp_path)) == [".a1.0a1b2c3d.tmp", ".a[1]b.0a1b2c3d.tmp"]


@pytest.mark.parametrize(
    ("first", "second", "taken"), [(False, False, False), (True, False, False), (True, True, True)]
)
def test_a_lock_is_shared_only_by_those_who_share_it(first, second, taken, tmp_path):
    with open(tmp_path / "lock", "wb") as mine, open(tmp_path / "lock", "wb") as other:
        assert take_lock(mine, shared=first)
        assert take_lock(other, shared=second) == taken
    with open(tmp_path / "lock", "wb") as later:
        assert take_lock(later, wait=True)


def test_files_of_a_folder_and_of_a_pattern_have_their_stamps(tmp_path):
    for name in ("a_1.json", "b_1.json", "b_2.json"):
        (tmp_path / name).write_text(name[: int(name[2])])
        os.utime(tmp_path / name, ns=(1, 7))
    one, two, three = (
        (str(tmp_path / name), size, 7) for name, size in [("a_1.json", 1), ("b_1.json", 1), ("b_2.json", 2)]
    )
    assert stamps_of(tmp_path) == [one, two, three]
    assert stamps_of(tmp_path / "b_*.json") == [two, three]
    assert stamps_of(tmp_path / "b_2.json") == [three]
    assert stamps_of(tmp_path / "none") == []


@pytest.fixture
def chunks(tmp_path):
    """A folder of nine files in folders, with links, one of them broken."""
    chunks = tmp_path / "chunks"
    for name in ("0.0", "0/0", "0/1", "0/10", "0/2", "1/0", "a/b/c", "../elsewhere/x"):
        (chunks / name).parent.mkdir(parents=True, exist_ok=True)
        (chunks / name).write_text(name)
    (chunks / "linked").symlink_to(tmp_path / "elsewhere" / "x")
    (chunks / "folder").symlink_to(tmp_path / "elsewhere")
    (chunks / "broken").symlink_to(tmp_path / "none")
    return chunks


def test_files_in_folders_are_listed_in_the_order_of_their_paths_without_linked_folders(chunks):
    names = ["0/0", "0/1", "0/10", "0/2", "0.0", "1/0", "a/b/c", "linked"]
    assert [name for name, *_ in stamps_of(chunks)] == [str(chunks / name) for name in names]


def test_of_many_files_each_is_looked_at_once(chunks, monkeypatch):
    looked, stat = [], os.stat
    monkeypatch.setattr("os.stat", lambda path, **how: looked.append(str(path)) or stat(path, **how))
    stamps_of(chunks)
    digest_of_parts(chunks)
    assert [looked.count(str(chunks / name)) for name in ("0/0", "0/10", "a/b/c")] == [1, 1, 1]


@pytest.mark.parametrize("changed", [0, 400_000, 999_999])
def test_parts_of_a_file_are_spread_from_its_first_to_its_last_byte(changed, tmp_path):
    content = bytearray(1_000_000)
    (tmp_path / "volume.mrc").write_bytes(content)
    before = digest_of_parts(tmp_path / "volume.mrc")
    content[changed - changed % 7 : changed + 30_000] = b"1" * len(content[changed - changed % 7 : changed + 30_000])
    (tmp_path / "volume.mrc").write_bytes(content)
    assert digest_of_parts(tmp_path / "volume.mrc") != before


@pytest.mark.parametrize("changed", [".zattrs", "0/1", "zarr.json"])
def test_parts_of_a_folder_are_of_its_first_and_last_file_and_some_between(changed, tmp_path):
    for name in [".zattrs", *(f"0/{z}.{y}.0" for z in range(20) for y in range(20)), "zarr.json"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    before = digest_of_parts(tmp_path)
    for path in tmp_path.glob(f"{changed}*"):
        path.write_text(path.read_text()[::-1])
    assert digest_of_parts(tmp_path) != before


def test_a_file_whose_name_is_not_utf_8_has_a_digest(tmp_path):
    path = os.fsencode(tmp_path) + b"/\xe9"
    try:
        with open(path, "wb") as file:
            file.write(b"text")
    except OSError:
        pytest.skip("this disk takes names in UTF-8 alone")
    assert len(digest_of(Path(os.fsdecode(path)))) == 64


def test_a_digest_of_parts_reads_little(tmp_path, monkeypatch):
    with open(tmp_path / "volume.mrc", "wb") as file:
        file.truncate(2**33)
    read, pread = [], os.pread
    monkeypatch.setattr("os.pread", lambda *what: read.append(what[1]) or pread(*what))
    digest_of_parts(tmp_path / "volume.mrc")
    assert 10 * 2**14 < sum(read) < 2**19


def test_a_folder_without_locks_is_warned_of(tmp_path, monkeypatch, caplog):
    def no_locks(*what):
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.flock", no_locks)
    with open(tmp_path / ".lock", "a") as lock:
        lock_folder(lock, "batch", "set another output_dir")
    assert "cannot be locked (No locks available): start no second batch there" in caplog.text


def outlive(ready):
    ready.set()
    time.sleep(60)


def test_a_worker_does_not_keep_the_lock_of_a_program_that_is_gone(tmp_path):
    forks = multiprocessing.get_context("fork")
    ready = forks.Event()
    worker = forks.Process(target=outlive, args=(ready,))
    with open(tmp_path / ".lock", "a") as lock:
        lock_folder(lock, "training", "set another output_dir")
        worker.start()
        ready.wait()
    with open(tmp_path / ".lock", "a") as lock:
        assert take_lock(lock)
    worker.kill()
    worker.join()


# Files that appear only when they are complete


def test_a_file_appears_under_its_name_only_when_complete(tmp_path):
    path = tmp_path / "new" / "folder" / "picks.csv"
    with write_atomically(path) as file:
        file.write("Å\n")
        assert not path.exists()
    assert path.read_bytes() == "Å\n".encode()


def test_bytes_can_be_written_too(tmp_path):
    with write_atomically(tmp_path / "label.bin", "wb") as file:
        file.write(b"\x00\xff")
    assert (tmp_path / "label.bin").read_bytes() == b"\x00\xff"


def test_a_folder_that_cannot_be_written_to_is_named_at_once(tmp_path, monkeypatch):
    def fail(**_):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    require_writable(tmp_path / "new")
    monkeypatch.setattr("tempfile.TemporaryFile", fail)
    with pytest.raises(InputError, match=r"cannot write to .*new: Read-only file system\. Choose another folder\."):
        require_writable(tmp_path / "new")


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_stopped_write_leaves_the_old_file_and_nothing_else(tmp_path, error):
    def stop_half_way():
        with write_atomically(path) as file:
            file.write("half of the new")
            raise error

    path = write_text(tmp_path, "old")
    with pytest.raises(error):
        stop_half_way()
    assert [(entry.name, entry.read_text()) for entry in tmp_path.iterdir()] == [("picks.csv", "old")]


@pytest.mark.parametrize("fault", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_or_quota_is_named_and_leaves_the_old_file(fault, tmp_path, monkeypatch):
    def fail(_):
        raise OSError(fault, os.strerror(fault))

    path = write_text(tmp_path, "old")
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(InputError, match=rf"cannot write .*picks\.csv: {os.strerror(fault)}\."):
        write_csv(path, [PICK])
    assert [(entry.name, entry.read_text()) for entry in tmp_path.iterdir()] == [("picks.csv", "old")]


def test_a_folder_under_the_files_name_is_an_error_and_no_temporary_file_stays(tmp_path):
    (tmp_path / "picks.csv").mkdir()
    with pytest.raises(InputError, match=r"cannot write .*picks\.csv: Is a directory\."):
        write_csv(tmp_path / "picks.csv", [])
    assert [entry.name for entry in tmp_path.iterdir()] == ["picks.csv"]


def test_a_file_in_the_place_of_the_folder_is_an_error(tmp_path):
    write_text(tmp_path, "", "output")
    with pytest.raises(InputError, match=r"cannot write .*picks\.csv: File exists\."):
        write_csv(tmp_path / "output" / "picks.csv", [])


def test_others_may_read_the_file_as_any_other(tmp_path):
    plain = write_text(tmp_path, "", "plain")
    write_csv(tmp_path / "picks.csv", [])
    assert (tmp_path / "picks.csv").stat().st_mode == plain.stat().st_mode
