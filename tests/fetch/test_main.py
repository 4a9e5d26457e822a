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
