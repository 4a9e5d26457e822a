"""Tomograms that are elsewhere: brought here complete and checked, or not at all."""

import errno
import json
import shutil
import sys
from types import SimpleNamespace

import fsspec
import numpy as np
import pytest
import zarr
from fsspec.implementations.memory import MemoryFileSystem
from scripts.copick_tree import project_roots
from scripts.datasets.runs import list_runs
from scripts.datasets.truth import list_labelled_runs
from scripts.errors import InputError, without_user
from scripts.fetch import __main__ as fetch
from scripts.fetch import copick_copy, ome_zarr_copy, stores
from scripts.volumes.ome_zarr import list_chunks, load_ome_zarr
from scripts.volumes.ome_zarr_writer import write_ome_zarr
from trees import runs_in

SHAPE = (6, 10, 14)
VALUES = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
SIZES = (5.0, 10.0, 20.0)
URL = "memory://data/TS_1.zarr"


def halved(values):
    return values[::2, ::2, ::2].copy()


LEVELS = (VALUES, halved(VALUES), halved(halved(VALUES)))


def multiscales(paths=("0", "1", "2")):
    datasets = [
        {"path": path, "coordinateTransformations": [{"type": "scale", "scale": [size] * 3}]}
        for path, size in zip(paths, SIZES, strict=True)
    ]
    axes = [{"name": name, "type": "space", "unit": "angstrom"} for name in "zyx"]
    return [{"version": "0.4", "axes": axes, "datasets": datasets}]


def write_pyramid(folder, zarr_format=2, paths=("0", "1", "2")):
    """Write a pyramid with the Zarr library, chunks of 4 voxels a side; in format 3 two of them are a shard's side."""
    group = zarr.open_group(str(folder), mode="w", zarr_format=zarr_format)
    described = {"multiscales": multiscales(paths)}
    group.attrs.update(described if zarr_format == 2 else {"ome": described})
    for path, values in zip(paths, LEVELS, strict=True):
        layout = {"chunks": (4, 4, 4)} if zarr_format == 2 else {"chunks": (2, 2, 2), "shards": (4, 4, 4)}
        array = group.create_array(path, shape=values.shape, dtype="f4", **layout)
        array[...] = values
    return folder


@pytest.fixture
def store():
    """The store behind ``memory://``, empty."""
    fs = fsspec.filesystem("memory")
    fs.store.clear()
    fs.pseudo_dirs[:] = [""]
    yield fs
    fs.store.clear()


@pytest.fixture
def asked(store, monkeypatch):
    """Paths below the pyramid that are asked for, in their order."""
    paths, get_file = [], MemoryFileSystem.get_file

    def note(self, path, *more, **options):
        paths.append(path.partition(".zarr/")[2])
        return get_file(self, path, *more, **options)

    monkeypatch.setattr(MemoryFileSystem, "get_file", note)
    return paths


@pytest.fixture
def remote(store, tmp_path):
    """Put the pyramid at `URL`."""
    store.put(str(write_pyramid(tmp_path / "source.zarr")), "/data/TS_1.zarr", recursive=True)
    return store


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(stores, "WAITS", (0.0, 0.0, 0.0))


def failing(monkeypatch, ending, *errors):
    """Let the store raise these errors, one after the other, when a file with such an ending is asked for."""
    left, get_file = list(errors), MemoryFileSystem.get_file

    def fail(self, path, *more, **options):
        if path.endswith(ending) and left:
            raise left.pop(0)
        return get_file(self, path, *more, **options)

    monkeypatch.setattr(MemoryFileSystem, "get_file", fail)
    return left


def run(folder, *more, url=URL):
    return fetch.main([url, str(folder), *more])


def visible(folder):
    return sorted(path.name for path in folder.iterdir() if path.name != fetch.LOCK)


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_the_level_nearest_to_the_wanted_voxel_size_comes_alone(zarr_format, store, asked, tmp_path):
    store.put(str(write_pyramid(tmp_path / "source.zarr", zarr_format)), "/data/TS_1.zarr", recursive=True)
    assert run(tmp_path / "here", "--wanted_voxel_size_angstrom", "9") == 0
    volume, size = load_ome_zarr(tmp_path / "here/TS_1.zarr")
    assert np.array_equal(volume, LEVELS[1])
    assert size == (10.0, 10.0, 10.0)
    prefix, separator = ("", ".") if zarr_format == 2 else ("c/", "/")
    chunks = {f"1/{prefix}{separator.join(place)}" for place in ("000", "001", "010", "011")}
    marks = {"zarr.json", ".zarray", ".zgroup", ".zattrs"}
    assert {path for path in asked if path.removeprefix("1/") not in marks} == chunks
    assert len(asked) == len(set(asked)) + (4 if zarr_format == 2 else 1)  # the group's metadata, asked for twice


@pytest.mark.filterwarnings("ignore:Consolidated metadata")
def test_consolidated_metadata_do_not_speak_for_levels_that_stay(store, tmp_path):
    source = write_pyramid(tmp_path / "source.zarr", zarr_format=3)
    zarr.consolidate_metadata(str(source))
    assert run(tmp_path / "here", url=f"file://{source}") == 0
    assert np.array_equal(load_ome_zarr(tmp_path / "here/source.zarr")[0], LEVELS[1])


def test_without_a_wish_the_voxel_size_of_the_model_counts(remote, tmp_path, capsys):
    assert run(tmp_path / "here") == 0
    assert capsys.readouterr().out == f"{tmp_path}/here/TS_1.zarr: 10 Å\n"
    assert list_runs(tmp_path / "here") == [{"image": f"{tmp_path}/here/TS_1.zarr", "run": "TS_1"}]


@pytest.mark.parametrize("name", ["s0", "scale_0/image"])
def test_a_level_of_another_name_is_found(name, store, tmp_path):
    source = write_pyramid(tmp_path / "source.zarr", paths=(name, "b", "c"))
    assert run(tmp_path / "here", "--wanted_voxel_size_angstrom", "5", url=f"file://{source}") == 0
    assert np.array_equal(load_ome_zarr(tmp_path / "here/source.zarr")[0], VALUES)


def test_what_we_write_comes_whole(tmp_path):
    write_ome_zarr(tmp_path / "ours.zarr", VALUES, 5.0, chunk_side=4)
    expected = load_ome_zarr(tmp_path / "ours.zarr", 10.0)[0]
    assert run(tmp_path / "here", url=f"file://{tmp_path}/ours.zarr/") == 0
    assert np.array_equal(load_ome_zarr(tmp_path / "here/ours.zarr")[0], expected)


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_plain_array_comes_whole(zarr_format, tmp_path):
    array = zarr.create_array(
        str(tmp_path / "plain"), shape=SHAPE, chunks=(4, 4, 4), dtype="i2", zarr_format=zarr_format
    )
    array[...] = np.arange(VALUES.size).reshape(SHAPE)
    assert run(tmp_path / "here", url=f"file://{tmp_path}/plain") == 0
    volume, size = load_ome_zarr(tmp_path / "here/plain.zarr")
    assert np.array_equal(volume, array[...])
    assert size is None


# Again


def test_what_is_there_is_not_fetched_again(remote, asked, tmp_path, capsys):
    assert run(tmp_path / "here") == 0
    asked.clear()
    capsys.readouterr()
    assert run(tmp_path / "here") == 0
    assert capsys.readouterr().out == f"{tmp_path}/here/TS_1.zarr: 10 Å (is there already)\n"
    assert asked == ["zarr.json", ".zarray", ".zgroup", ".zattrs"]


def test_another_level_or_source_of_the_same_name_replaces_nothing(remote, tmp_path, capsys):
    assert run(tmp_path / "here") == 0
    assert run(tmp_path / "here", "--wanted_voxel_size_angstrom", "5") == 1
    store_of_another = "memory://other/TS_1.zarr"
    remote.cp("/data/TS_1.zarr", "/other/TS_1.zarr", recursive=True)
    assert run(tmp_path / "here", url=store_of_another) == 1
    first, second = capsys.readouterr().err.splitlines()
    assert "TS_1.zarr is there already, and not from memory:///data/TS_1.zarr/0: move it away" in first
    assert "and not from memory:///other/TS_1.zarr/1" in second
    assert np.array_equal(load_ome_zarr(tmp_path / "here/TS_1.zarr")[0], LEVELS[1])


def test_a_folder_that_was_not_fetched_is_left_alone(remote, tmp_path, capsys):
    (tmp_path / "here/TS_1.zarr").mkdir(parents=True)
    assert run(tmp_path / "here") == 1
    assert "is there already, and not from" in capsys.readouterr().err
    assert visible(tmp_path / "here/TS_1.zarr") == []


def test_a_fetch_that_is_stopped_leaves_nothing(remote, tmp_path, monkeypatch, capsys):
    failing(monkeypatch, "1/0.1.0", KeyboardInterrupt())
    assert run(tmp_path / "here") == 130
    assert visible(tmp_path / "here") == []
    assert capsys.readouterr().err == "stopped: the same command goes on with what is missing\n"
    assert run(tmp_path / "here") == 0
    assert np.array_equal(load_ome_zarr(tmp_path / "here/TS_1.zarr")[0], LEVELS[1])


def test_what_a_killed_fetch_left_is_removed(remote, tmp_path):
    left = tmp_path / "here" / ".TS_1.zarr.01234567.tmp" / "0"
    left.mkdir(parents=True)
    (left / "0.0.0").write_bytes(b"half")
    assert list_runs(tmp_path / "here") == []
    assert run(tmp_path / "here") == 0
    assert visible(tmp_path / "here") == ["TS_1.zarr"]


def test_two_fetches_at_once_keep_out_of_each_others_folder(remote, tmp_path, capsys):
    folder = tmp_path / "here"
    folder.mkdir()
    with open(folder / fetch.LOCK, "a") as lock:
        fetch.lock_folder(lock, "fetch", "")
        assert run(folder) == 1
    assert capsys.readouterr().err == (
        f"error: another fetch is at work in {folder}: wait for it, or choose another folder.\n"
    )


# Stores that fail


def test_a_missing_chunk_is_refused_or_allowed(remote, tmp_path, capsys):
    remote.rm("/data/TS_1.zarr/1/0.1.0")
    assert run(tmp_path / "here") == 1
    assert "memory:///data/TS_1.zarr has no chunk 1/0.1.0. Give --allow_missing_chunks" in capsys.readouterr().err
    assert visible(tmp_path / "here") == []
    assert run(tmp_path / "here", "--allow_missing_chunks") == 0
    with pytest.raises(InputError, match=r"the chunk file 0\.1\.0 is missing"):
        load_ome_zarr(tmp_path / "here/TS_1.zarr")
    volume, _ = load_ome_zarr(tmp_path / "here/TS_1.zarr", allow_missing_chunks=True)
    expected = LEVELS[1].copy()
    expected[:, 4:, :4] = 0
    assert np.array_equal(volume, expected)


@pytest.mark.parametrize(
    "error",
    [
        TimeoutError(),
        ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
        OSError(errno.EBUSY, "Please reduce your request rate"),
        type("ServerDisconnectedError", (type("ClientConnectionError", (Exception,), {}),), {})("Server disconnected"),
        type("ClientResponseError", (Exception,), {"status": 503, "message": "Slow Down"})(),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("ending", ["1/0.1.0", ".zattrs"])
def test_what_may_pass_is_tried_again(error, ending, remote, tmp_path, monkeypatch, capsys):
    left = failing(monkeypatch, ending, error, error, error)
    assert run(tmp_path / "here") == 0
    assert left == []
    failing(monkeypatch, ending, *[error] * 8)
    assert run(tmp_path / "again") == 1
    assert f"{stores.fact_of(error)}. Tried 4 times; start again later" in capsys.readouterr().err
    assert visible(tmp_path / "again") == []


@pytest.mark.parametrize(
    ("error", "fact"),
    [
        (PermissionError(errno.EACCES, "Access Denied"), "Access Denied"),
        (type("ClientResponseError", (Exception,), {"status": 403, "message": "Forbidden"})(), "403 Forbidden"),
        (type("ClientSSLError", (type("ClientConnectionError", (OSError,), {}),), {})("expired"), "expired"),
        (RuntimeError("of a store of its own\nkind"), "of a store of its own kind"),
    ],
    ids=["denied", "403", "certificate", "unknown"],
)
def test_what_stays_is_told_at_once_and_in_one_line(error, fact, remote, tmp_path, monkeypatch, capsys):
    left = failing(monkeypatch, "1/0.1.0", error, error)
    assert run(tmp_path / "here") == 1
    assert len(left) == 1
    assert capsys.readouterr().err == (
        f"error: cannot read memory:///data/TS_1.zarr/1/0.1.0: {fact}. Check the address, and the credentials for it.\n"
    )
    assert visible(tmp_path / "here") == []


def test_a_store_that_refuses_what_it_has_not_got_is_read(remote, tmp_path, monkeypatch):
    failing(monkeypatch, "zarr.json", *[PermissionError("Forbidden")] * 9)
    assert run(tmp_path / "here") == 0


def test_a_store_that_refuses_everything_says_so(remote, tmp_path, monkeypatch, capsys):
    failing(monkeypatch, "", *[PermissionError("Forbidden")] * 9)
    assert run(tmp_path / "here") == 1
    assert "cannot read memory:///data/TS_1.zarr/zarr.json: Forbidden." in capsys.readouterr().err


def test_our_own_full_disk_is_not_the_stores_fault(remote, tmp_path, monkeypatch, capsys):
    left = failing(monkeypatch, "1/0.1.0", *[OSError(errno.ENOSPC, "No space left on device")] * 2)
    assert run(tmp_path / "here") == 1
    assert len(left) == 1
    assert capsys.readouterr().err == f"error: cannot write {tmp_path}/here/TS_1.zarr: No space left on device.\n"
    assert visible(tmp_path / "here") == []


@pytest.mark.parametrize("user", ["me:wJalrXUt@", "wJalrXUt@", "me:wJal@rXUt@"])
def test_an_address_is_shown_without_its_user(user):
    assert without_user(f"no https://{user}host/a@b.zarr here") == "no https://host/a@b.zarr here"


def test_every_text_in_a_stores_options_counts_as_secret():
    options = {"auth": ["me", "topsecret"], "client": {"token": "wJalrXUt", "retries": 3}, "anon": False}
    assert stores.secrets_in(options) == ("topsecret", "wJalrXUt")


def test_no_credentials_are_shown(remote, tmp_path, monkeypatch, capsys):
    secret = "wJalrXUtnFEMI"
    fs = SimpleNamespace(
        protocol="abfs", unstrip_protocol=lambda path: f"https://me:{secret}@host/{path}", get_file=None
    )
    source = stores.source_in(fs, "a.zarr", stores.secrets_in({"a": {"key": secret}}))
    assert source.url == "https://host/a.zarr"
    assert secret not in repr(source)
    error = OSError(f"no such key as {secret} at https://me:{secret}@host/")
    assert stores.fact_of(error, source.secrets) == "no such key as *** at https://host/"
    with pytest.raises(SystemExit):
        run(tmp_path, "--storage_options", f"{{'key': '{secret}'}}")
    assert secret not in capsys.readouterr().err


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


# Stores that lie


@pytest.mark.parametrize(
    "path", ["../TS_1.zarr/0", "/etc", "0/../../x", "a b", "", "0\n", ".hidden", "a//b", "a\\..\\b"]
)
def test_a_level_that_leads_elsewhere_is_refused(path, store, asked, tmp_path, capsys):
    write_pyramid(tmp_path / "source.zarr")
    described = {"multiscales": multiscales(("0", path, "2"))}
    (tmp_path / "source.zarr/.zattrs").write_text(json.dumps(described))
    store.put(str(tmp_path / "source.zarr"), "/data/TS_1.zarr", recursive=True)
    assert run(tmp_path / "here") == 1
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert visible(tmp_path / "here") == []
    assert set(asked) <= {"zarr.json", ".zarray", ".zgroup", ".zattrs"}


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"dimension_separator": "/../../"}, "the array '1' is missing or damaged"),
        ({"shape": [2**20] * 3}, "a tomogram has 1 to"),
        ({"shape": [2**11] * 3, "chunks": [1, 1, 1]}, "states 8589934592 chunks; at most 262144 are fetched"),
        ({"chunks": [0, 0, 0]}, "is a damaged Zarr folder"),
        ({"chunks": ["../..", 4, 4]}, "the array '1' is missing or damaged"),
        ({"dtype": "|O"}, ""),
    ],
)
def test_metadata_that_cannot_be_right_are_refused(change, line, remote, tmp_path, capsys):
    path = "/data/TS_1.zarr/1/.zarray"
    remote.pipe(path, json.dumps(json.loads(remote.cat(path)) | change).encode())
    assert run(tmp_path / "here") == 1
    (told,) = capsys.readouterr().err.splitlines()
    assert line in told
    assert told.startswith("error: memory:///data/TS_1.zarr")
    assert visible(tmp_path / "here") == []


@pytest.mark.parametrize("name", [".zattrs", "1/.zarray", "1/0.0.0"])
@pytest.mark.parametrize("says_sizes", [True, False])
def test_files_that_are_too_large_are_refused(name, says_sizes, remote, tmp_path, capsys):
    remote.pipe(f"/data/TS_1.zarr/{name}", bytes(2**22 + 1))
    (tmp_path / "source.zarr" / name).write_bytes(bytes(2**22 + 1))
    url = "memory:///data/TS_1.zarr" if says_sizes else f"file://{tmp_path}/source.zarr"
    assert run(tmp_path / "here", url=url) == 1
    assert f"{url}/{name} is larger than" in capsys.readouterr().err
    assert visible(tmp_path / "here") == []


def test_half_of_a_chunk_that_then_is_gone_is_not_kept(remote, tmp_path, monkeypatch):
    get_file, endings = MemoryFileSystem.get_file, [ConnectionResetError("cut"), FileNotFoundError("gone")]

    def get_half(self, path, local, **options):
        get_file(self, path, local, **options)
        if path.endswith("1/0.1.0"):
            raise endings.pop(0)

    monkeypatch.setattr(MemoryFileSystem, "get_file", get_half)
    assert run(tmp_path / "here", "--allow_missing_chunks") == 0
    assert not (tmp_path / "here/TS_1.zarr/0/0.1.0").exists()


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>"])
def test_a_chunk_that_cannot_be_read_is_refused(content, remote, tmp_path, capsys):
    remote.pipe("/data/TS_1.zarr/1/0.1.0", content)
    assert run(tmp_path / "here") == 1
    (told,) = capsys.readouterr().err.splitlines()
    assert told.startswith("error: memory:///data/TS_1.zarr")
    assert "0.1.0 is cut short" in told or "damaged chunk at voxel (0, 4, 0)" in told
    assert visible(tmp_path / "here") == []


@pytest.mark.parametrize(
    ("change", "fact"),
    [
        ({"dimension_separator": "/../../"}, r"'/\.\./\.\./' cannot part the numbers of a chunk"),
        ({"chunks": [-2, 2, 2]}, "a chunk has -2 voxels along an axis"),
    ],
)
def test_chunks_that_an_older_zarr_library_takes_are_refused(change, fact, tmp_path, monkeypatch):
    (tmp_path / ".zarray").write_text(json.dumps({"chunks": [2, 2, 2], "dimension_separator": "/", **change}))
    monkeypatch.setattr(zarr, "open", lambda *place, **how: SimpleNamespace(shape=(4, 4, 4), dtype="f4"))
    with pytest.raises(InputError, match=fact):
        list_chunks(tmp_path)


def test_a_folder_in_the_place_of_a_chunk_is_a_missing_chunk(tmp_path, capsys):
    source = write_pyramid(tmp_path / "source.zarr")
    (source / "1/0.1.0").unlink()
    (source / "1/0.1.0").mkdir()
    assert run(tmp_path / "here", url=f"file://{source}") == 1
    assert "has no chunk 1/0.1.0" in capsys.readouterr().err


# Projects, as copick shows them


class Pick(SimpleNamespace):
    """What copick offers of a file of picks."""

    def load(self):
        content = {"pickable_object_name": self.pickable_object_name, "user_id": self.user_id, "run_name": None}
        content |= {"session_id": self.session_id, "unit": "angstrom", "points": [], "portal_metadata": {"id": 1}}
        return SimpleNamespace(model_dump=lambda mode: dict(content))


def make_run(store, name, tomograms=((10.0, "wbp", "TS_1"),), users=("me",)):
    picks = [Pick(pickable_object_name="ribosome", user_id=user, session_id="1") for user in users]
    spacings = []
    for size, kind, remote_name in tomograms:
        root = SimpleNamespace(map=SimpleNamespace(fs=store, root=f"/data/{remote_name}.zarr"))
        tomogram = SimpleNamespace(tomo_type=kind, zarr=lambda root=root: root)
        spacings.append(SimpleNamespace(voxel_size=size, tomograms=[tomogram]))
    return SimpleNamespace(name=name, picks=picks, voxel_spacings=spacings)


@pytest.fixture
def open_runs(tmp_path, monkeypatch):
    """Let copick find these runs behind the config that is returned."""

    def prepare(*runs, **facts):
        monkeypatch.setattr(copick_copy, "_open_project", lambda config: SimpleNamespace(runs=runs))
        config = tmp_path / "remote.json"
        facts = {"name": "far away", "pickable_objects": [{"name": "ribosome", "is_particle": True}], **facts}
        config.write_text(json.dumps(facts))
        return str(config)

    return prepare


def test_a_failing_run_does_not_stop_the_others(remote, open_runs, tmp_path, capsys):
    config = open_runs(
        make_run(remote, "A", [(10.0, "wbp", "nowhere")]), make_run(remote, "B"), make_run(remote, "../C")
    )
    assert run(tmp_path / "here", url=config) == 1
    out, err = capsys.readouterr()
    first, second, third = out.splitlines()
    assert first.startswith("A failed: memory:///data/nowhere.zarr holds no Zarr metadata")
    assert second == "B: 1 files of picks, wbp 10 Å"
    assert third == "../C failed: '../C' cannot be the name of a folder."
    assert err == "error: 2 of 3 runs failed: A, ../C.\n"
    assert runs_in(tmp_path / "here") == ["B"]


def test_a_run_that_copick_cannot_read_is_one_line(remote, open_runs, tmp_path, capsys):
    class Broken:
        name = "A"

        @property
        def picks(self):
            raise IndexError("list index out of range")

    assert run(tmp_path / "here", url=open_runs(Broken(), make_run(remote, "B"))) == 1
    assert "A failed: run 'A': IndexError: list index out of range." in capsys.readouterr().out
    assert runs_in(tmp_path / "here") == ["B"]


def test_of_a_kind_at_several_voxel_sizes_the_nearest_comes(remote, open_runs, tmp_path):
    remote.cp("/data/TS_1.zarr", "/data/other.zarr", recursive=True)
    path = "/data/other.zarr/.zattrs"
    remote.pipe(path, remote.cat(path).replace(b"10.0", b"7.84"))
    tomograms = [(7.84, "wbp", "other"), (5.0, "wbp", "TS_1"), (5.0, "denoised", "TS_1")]
    config = open_runs(make_run(remote, "A", tomograms))
    assert run(tmp_path / "here", "--kind", "wbp", url=config) == 0
    runs = tmp_path / "here/static/ExperimentRuns/A"
    assert [str(path.relative_to(runs)) for path in runs.glob("*/*")] == ["VoxelSpacing10.000/wbp.zarr"]
    volume, size = load_ome_zarr(runs / "VoxelSpacing10.000/wbp.zarr")
    assert np.array_equal(volume, LEVELS[1])
    assert size == (10.0, 10.0, 10.0)


def test_a_folder_that_rounds_the_voxel_size_keeps_its_name(remote, open_runs, tmp_path):
    assert run(tmp_path / "here", url=open_runs(make_run(remote, "A", [(10.03, "wbp", "TS_1")]))) == 0
    assert runs_in(tmp_path / "here", 10.03) == ["A"]


@pytest.mark.parametrize(
    ("patterns", "users"),
    [(None, ["me", "you"]), ("me/1", ["me"]), ("*/1", ["me", "you"]), ("you/1, me/1", ["me", "you"]), ("none", [])],
)
def test_picks_are_chosen_by_user_and_session(patterns, users, remote, open_runs, tmp_path):
    config = open_runs(make_run(remote, "A", users=("me", "you")))
    assert run(tmp_path / "here", *([] if patterns is None else ["--picks", patterns]), url=config) == 0
    folder = tmp_path / "here/overlay/ExperimentRuns/A/Picks"
    assert sorted(path.name for path in folder.glob("*")) == [f"{user}_1_ribosome.json" for user in users]


def test_picks_lose_nothing_but_the_portals_remarks(remote, open_runs, tmp_path):
    assert run(tmp_path / "here", url=open_runs(make_run(remote, "A"))) == 0
    content = json.loads((tmp_path / "here/overlay/ExperimentRuns/A/Picks/me_1_ribosome.json").read_text())
    expected = {"pickable_object_name": "ribosome", "user_id": "me", "session_id": "1"}
    assert content == expected | {"run_name": "A", "unit": "angstrom", "points": []}


def test_picks_that_were_changed_here_stay(remote, open_runs, tmp_path, capsys):
    config = open_runs(make_run(remote, "A"))
    assert run(tmp_path / "here", url=config) == 0
    path = tmp_path / "here/overlay/ExperimentRuns/A/Picks/me_1_ribosome.json"
    path.write_text("mine")
    capsys.readouterr()
    assert run(tmp_path / "here", url=config) == 0
    assert path.read_text() == "mine"
    assert capsys.readouterr().out == "A: 0 files of picks (1 are there already), wbp 10 Å (is there already)\n"


@pytest.mark.parametrize(
    ("more", "line"),
    [
        (["--runs", "A,C"], "has no run C; copick finds A, B."),
        (["--kind", "ctfdeconvolved"], "2 of 2 runs failed: A, B."),
        (["--picks", "nobody/1"], "no run has picks of nobody/1; there are those of me/1."),
        (["--storage_options", "{}"], None),
        (["--storage_options", '{"anon": true}'], "states its stores' options itself"),
    ],
)
def test_choices_that_find_nothing_are_refused(more, line, remote, open_runs, tmp_path, capsys):
    config = open_runs(make_run(remote, "A"), make_run(remote, "B"))
    assert run(tmp_path / "here", *more, url=config) == (0 if line is None else 1)
    assert (line or "") in capsys.readouterr().err


def test_a_fetched_project_can_be_trained_on(remote, open_runs, tmp_path):
    assert run(tmp_path / "here", url=open_runs(make_run(remote, "A"))) == 0
    runs = tmp_path / "here" / "{}" / "ExperimentRuns/A"
    assert list_labelled_runs(tmp_path / "here") == [
        {
            "image": str(runs / "VoxelSpacing10.000/wbp.zarr").format("static"),
            "run": "A",
            "label": str(runs / "Picks").format("overlay"),
        }
    ]


def test_only_named_runs_come(remote, open_runs, tmp_path):
    config = open_runs(*(make_run(remote, name) for name in "ABC"))
    assert run(tmp_path / "here", "--runs", "A,C", url=config) == 0
    assert runs_in(tmp_path / "here") == ["A", "C"]


def test_the_config_here_holds_no_credentials_and_its_own_roots(remote, open_runs, tmp_path):
    far = {"static_root": "s3://bucket", "static_fs_args": {"secret": "wJalrXUtnFEMI"}, "config_type": "filesystem"}
    assert run(tmp_path / "here", url=open_runs(make_run(remote, "A"), user_id="me", **far)) == 0
    text = (tmp_path / "here/copick.json").read_text()
    assert "wJalrXUtnFEMI" not in text
    content = json.loads(text)
    assert content["pickable_objects"] == [{"name": "ribosome", "is_particle": True}]
    assert content["user_id"] == "me"
    assert content["static_root"] == f"local://{tmp_path}/here/static"
    assert project_roots(tmp_path / "here/copick.json") == [tmp_path / "here/static", tmp_path / "here/overlay"]


def test_picks_go_to_a_project_that_was_moved(remote, open_runs, tmp_path):
    config = open_runs(make_run(remote, "A"))
    assert run(tmp_path / "here", "--picks", "none", url=config) == 0
    (tmp_path / "here").rename(tmp_path / "moved")
    shutil.rmtree(tmp_path / "moved/overlay")
    assert run(tmp_path / "moved", url=config) == 0
    assert (tmp_path / "moved/overlay/ExperimentRuns/A/Picks/me_1_ribosome.json").is_file()
    assert not (tmp_path / "here").exists()


@pytest.mark.parametrize("facts", [{"name": "another"}, {"static_root": "s3://bucket"}, {"pickable_objects": []}])
def test_the_config_of_another_project_is_not_replaced(facts, remote, open_runs, tmp_path, capsys):
    config = open_runs(make_run(remote, "A"))
    assert run(tmp_path / "here", url=config) == 0
    path = tmp_path / "here/copick.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | facts))
    before = path.read_bytes()
    assert run(tmp_path / "here", url=config) == 1
    assert "is of another project, or of one elsewhere: choose another folder." in capsys.readouterr().err
    assert path.read_bytes() == before


def test_without_copick_a_project_is_refused_in_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "copick", None)
    config = tmp_path / "remote.json"
    config.write_text('{"pickable_objects": []}')
    assert run(tmp_path / "here", url=str(config)) == 1
    assert "is opened by copick, which is not installed here: run this with the Python of" in capsys.readouterr().err


def test_limits_are_far_above_what_tomograms_have():
    assert ome_zarr_copy.MAX_CHUNKS * 32**3 > 1000 * 1440 * 2048
