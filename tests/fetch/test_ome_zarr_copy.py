"""Remote tomograms are copied completely and checked, or not at all."""

import json

import numpy as np
import pytest
import zarr
from remote_pyramid import LEVELS, SHAPE, VALUES, multiscales, run, visible, write_pyramid
from scripts.datasets.runs import list_runs
from scripts.errors import InputError
from scripts.fetch import ome_zarr_copy
from scripts.volumes.ome_zarr import load_ome_zarr
from scripts.volumes.ome_zarr_writer import write_ome_zarr


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
    assert len(asked) == len(set(asked)) + (4 if zarr_format == 2 else 1)  # the group's metadata, requested twice


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


# Repeated fetches


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


# Stores with wrong content


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
        ({"dimension_separator": "/../../"}, "the array '1' cannot be opened: Expected an"),
        ({"shape": [2**20] * 3}, "a tomogram has 1 to"),
        ({"shape": [2**11] * 3, "chunks": [1, 1, 1]}, "states 8589934592 chunks; at most 262144 are fetched"),
        ({"chunks": [0, 0, 0]}, "is a damaged Zarr folder"),
        ({"chunks": ["../..", 4, 4]}, "the array '1' cannot be opened: Expected an"),
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


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>"])
def test_a_chunk_that_cannot_be_read_is_refused(content, remote, tmp_path, capsys):
    remote.pipe("/data/TS_1.zarr/1/0.1.0", content)
    assert run(tmp_path / "here") == 1
    (told,) = capsys.readouterr().err.splitlines()
    assert told.startswith("error: memory:///data/TS_1.zarr")
    assert "0.1.0 is cut short" in told or "damaged chunk at voxel (0, 4, 0)" in told
    assert visible(tmp_path / "here") == []


def test_a_folder_in_the_place_of_a_chunk_is_a_missing_chunk(tmp_path, capsys):
    source = write_pyramid(tmp_path / "source.zarr")
    (source / "1/0.1.0").unlink()
    (source / "1/0.1.0").mkdir()
    assert run(tmp_path / "here", url=f"file://{source}") == 1
    assert "has no chunk 1/0.1.0" in capsys.readouterr().err


def test_limits_are_far_above_what_tomograms_have():
    assert ome_zarr_copy.MAX_CHUNKS * 32**3 > 1000 * 1440 * 2048
