import json
import os
from pathlib import Path

import numpy as np
import pytest
from scripts.errors import InputError
from scripts.volumes.ome_zarr_writer import write_ome_zarr as write_levels
from scripts.volumes.reading import read_ome_zarr, read_tomogram
from volume_files import VALUES, VOXEL_SIZE


def bytes_below(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("chunk_side", [256, 4, 1])
def test_a_written_volume_is_read_back(chunk_side, tmp_path):
    write_levels(tmp_path / "new" / "a.zarr", VALUES, VOXEL_SIZE, chunk_side=chunk_side)
    volume = read_tomogram(tmp_path / "new" / "a.zarr")
    assert np.array_equal(volume.data, VALUES)
    assert (volume.data.dtype, volume.voxel_size_angstrom) == (np.float32, VOXEL_SIZE)


def test_every_level_holds_the_means_of_the_one_before(tmp_path):
    write_levels(tmp_path / "a.zarr", VALUES, 10.0, levels=2)
    volume = read_ome_zarr(tmp_path / "a.zarr", wanted_voxel_size_angstrom=20)
    assert (volume.data.shape, volume.voxel_size_angstrom) == ((3, 4, 5), 20)
    assert volume.data[1, 2, 3] == VALUES[2:4, 4:6, 6:8].mean()
    assert volume.data[2, 3, 4] == VALUES[4, 6, 8]  # the last voxel, where all three lengths are odd
    assert volume.data[0, 3, 1] == VALUES[0:2, 6, 2:4].mean()


def test_metadata_say_where_every_level_lies(tmp_path):
    write_levels(tmp_path / "a.zarr", VALUES, 10.0)
    (multiscale,) = json.loads((tmp_path / "a.zarr" / ".zattrs").read_text())["multiscales"]
    assert multiscale["version"] == "0.4"
    assert multiscale["axes"] == [{"name": name, "type": "space", "unit": "angstrom"} for name in "zyx"]
    assert multiscale["datasets"] == [
        {"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [10.0] * 3}]},
        {
            "path": "1",
            "coordinateTransformations": [
                {"type": "scale", "scale": [20.0] * 3},
                {"type": "translation", "translation": [5.0] * 3},
            ],
        },
        {
            "path": "2",
            "coordinateTransformations": [
                {"type": "scale", "scale": [40.0] * 3},
                {"type": "translation", "translation": [15.0] * 3},
            ],
        },
    ]


def test_arrays_are_stored_as_the_challenges_are(tmp_path):
    write_levels(tmp_path / "a.zarr", np.ones((4, 300, 5)), VOXEL_SIZE, levels=1)
    stored = json.loads((tmp_path / "a.zarr" / "0" / ".zarray").read_text())
    compressor = {"id": "blosc", "cname": "lz4", "clevel": 5, "shuffle": 1, "blocksize": 0}
    assert (stored["zarr_format"], stored["dtype"], stored["compressor"]) == (2, "<f4", compressor)
    assert (stored["chunks"], stored["dimension_separator"]) == ([4, 256, 5], "/")
    assert sorted(path.name for path in (tmp_path / "a.zarr" / "0" / "0").iterdir()) == ["0", "1"]


def test_the_same_volume_is_written_as_the_same_bytes(tmp_path):
    values = np.random.default_rng(1).normal(size=(64, 128, 130)).astype(np.float32)  # several blocks per chunk
    for name in "ab":
        write_levels(tmp_path / name, values, VOXEL_SIZE, chunk_side=128)
    written = bytes_below(tmp_path / "a")
    assert written == bytes_below(tmp_path / "b")
    assert {".zgroup", ".zattrs", "0/.zarray", "0/0/0/0", "0/0/0/1", "2/0/0/0"} <= set(written)


def test_writing_replaces_a_zarr_folder_whole(tmp_path):
    write_levels(tmp_path / "a.zarr", VALUES, VOXEL_SIZE, levels=3)
    write_levels(tmp_path / "a.zarr", VALUES + 1, VOXEL_SIZE, levels=1)
    assert np.array_equal(read_ome_zarr(tmp_path / "a.zarr").data, VALUES + 1)
    assert sorted(path.name for path in (tmp_path / "a.zarr").iterdir()) == [".zattrs", ".zgroup", "0"]
    assert [path.name for path in tmp_path.iterdir()] == ["a.zarr"]


def test_an_interrupted_writing_leaves_the_old_volume_and_nothing_else(tmp_path, monkeypatch):
    write_levels(tmp_path / "a.zarr", VALUES, VOXEL_SIZE)

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(InputError, match=r"cannot write .*a\.zarr: No space left on device\."):
        write_levels(tmp_path / "a.zarr", VALUES + 1, VOXEL_SIZE)
    with pytest.raises(InputError, match=r"cannot write .*b\.zarr: No space"):
        write_levels(tmp_path / "b.zarr", VALUES, VOXEL_SIZE)
    assert np.array_equal(read_ome_zarr(tmp_path / "a.zarr").data, VALUES)
    assert [path.name for path in tmp_path.iterdir()] == ["a.zarr"]


def test_a_folder_that_cannot_be_swapped_in_leaves_the_old_one(tmp_path, monkeypatch):
    write_levels(tmp_path / "a.zarr", VALUES, VOXEL_SIZE)
    replace, refused = os.replace, [OSError(13, "Permission denied")]

    def refuse_once(path, target):
        if Path(target).name == "a.zarr" and refused:
            raise refused.pop()
        replace(path, target)

    monkeypatch.setattr("os.replace", refuse_once)
    with pytest.raises(InputError, match=r"cannot write .*a\.zarr: Permission denied"):
        write_levels(tmp_path / "a.zarr", VALUES + 1, VOXEL_SIZE)
    assert np.array_equal(read_ome_zarr(tmp_path / "a.zarr").data, VALUES)
    assert [path.name for path in tmp_path.iterdir()] == ["a.zarr"]


def test_something_else_is_not_replaced_by_a_volume(tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("")
    for path in (tmp_path / "notes", tmp_path / "notes" / "mine.txt"):
        with pytest.raises(InputError, match="something else than a Zarr folder stands there"):
            write_levels(path, VALUES, VOXEL_SIZE)
    assert (tmp_path / "notes" / "mine.txt").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((VALUES[0], 10.0), r"three axes \[z, y, x\] and a voxel; got shape \(7, 9\)"),
        ((VALUES[:0], 10.0), r"got shape \(0, 7, 9\)"),
        ((VALUES, 0.0), "voxel_size_angstrom is a positive number of ångströms; got 0"),
        ((VALUES, 10.0, 0), "levels and chunk_side must be 1 or more; got 0 and 256"),
        ((VALUES, 10.0, 3, 0), "levels and chunk_side must be 1 or more; got 3 and 0"),
    ],
)
def test_what_is_no_volume_is_not_written(arguments, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        write_levels(tmp_path / "a.zarr", *arguments)
    assert list(tmp_path.iterdir()) == []
