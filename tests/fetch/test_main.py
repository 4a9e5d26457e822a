import tempfile

import fsspec
import numpy as np
import pytest
from remote_pyramid import LEVELS, failing, run, visible
from scripts.datasets.runs import list_runs
from scripts.errors import InputError
from scripts.fetch import __main__ as fetch
from scripts.volumes.ome_zarr import load_ome_zarr


def test_a_fetch_that_is_stopped_leaves_nothing(remote, tmp_path, monkeypatch, capsys):
    failing(monkeypatch, "1/0.1.0", KeyboardInterrupt())
    assert run(tmp_path / "here") == 130
    assert visible(tmp_path / "here") == []
    assert capsys.readouterr().err == "stopped: the same command resumes the work\n"
    assert run(tmp_path / "here") == 0
    assert np.array_equal(load_ome_zarr(tmp_path / "here/TS_1.zarr")[0], LEVELS[1])


@pytest.mark.parametrize("given", [["--runs", "a"], ["--kind", "wbp,denoised"], ["--picks", "none"]])
def test_what_chooses_from_a_project_is_refused_for_an_address(given, remote, tmp_path, capsys):
    assert run(tmp_path / "here", *given) == 1
    assert capsys.readouterr().err.endswith("leave out --kind, --runs and --picks, which are for projects.\n")
    assert not (tmp_path / "here").exists()


def test_what_a_killed_fetch_left_is_removed(remote, tmp_path):
    left = tmp_path / "here" / ".TS_1.zarr.01234567.tmp" / "0"
    left.mkdir(parents=True)
    (left / "0.0.0").write_bytes(b"half")
    assert list_runs(tmp_path / "here") == []
    assert run(tmp_path / "here") == 0
    assert visible(tmp_path / "here") == ["TS_1.zarr"]


def test_what_other_programs_have_not_finished_stays(remote, tmp_path):
    other = tmp_path / "here" / ".picks.csv.89abcdef.tmp"
    other.parent.mkdir()
    other.write_text("half")
    assert run(tmp_path / "here") == 0
    assert other.read_text() == "half"


def test_two_fetches_at_once_keep_out_of_each_others_folder(remote, tmp_path, capsys):
    folder = tmp_path / "here"
    folder.mkdir()
    with open(folder / fetch.FETCH_LOCK, "a") as lock:
        fetch.lock_folder(lock, "fetch", "")
        assert run(folder) == 1
    assert capsys.readouterr().err == (
        f"error: another fetch is at work in {folder}: wait for it, or choose another folder.\n"
    )


def test_a_lock_that_cannot_be_written_to_is_one_line(remote, tmp_path, capsys):
    (tmp_path / "here" / fetch.FETCH_LOCK).mkdir(parents=True)  # opening it fails as that of another user does
    assert run(tmp_path / "here") == 1
    line = f"error: cannot write to {tmp_path}/here/.fetch.lock: Is a directory. Choose another folder.\n"
    assert capsys.readouterr().err == line


def test_a_file_of_the_stores_options_that_is_missing_is_one_line(remote, tmp_path, capsys, monkeypatch):
    def missing(url, **options):
        raise FileNotFoundError(2, "No such file or directory", "/key.pem")

    monkeypatch.setattr(fsspec.core, "url_to_fs", missing)
    assert run(tmp_path / "here", url="memory://me:word@data/TS_1.zarr") == 1
    fact = f"cannot fetch memory://data/TS_1.zarr to {tmp_path}/here: No such file or directory"
    assert capsys.readouterr().err == f"error: {fact}. Check the address, its options and the folder.\n"


def test_without_a_temporary_folder_the_setting_is_named(remote, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    assert run(tmp_path / "here") == 1
    fact = "cannot write to a temporary folder: No such file or directory"
    assert capsys.readouterr().err == f"error: {fact}. Set TMPDIR to one with room.\n"


@pytest.mark.parametrize(
    ("url", "line"),
    [
        ("memory://nowhere/x.zarr", r"memory:///nowhere/x\.zarr holds no Zarr metadata \(zarr\.json"),
        ("nosuch://x/y.zarr", r"cannot read nosuch://x/y\.zarr: Protocol not known: nosuch\."),
        ("https://me:word@host/a.zarr?sign=1", r"^https://host/a\.zarr: an address with '\?' is one file's"),
        ("memory://data/..", r"does not end in the name of a tomogram: '\.\.'"),
        ("memory://data/a%2Fb.zarr", "does not end in the name of a tomogram: 'a/b.zarr'"),
        ("/data/x.zarr", "is neither an address"),
    ],
)
def test_addresses_of_nothing_are_refused(url, line, store, tmp_path):
    with pytest.raises(InputError, match=line):
        fetch.fetch(url, tmp_path / "here", fetch.Choice(10.0))
    assert not (tmp_path / "here").exists() or visible(tmp_path / "here") == []
