import json
import os
import re
from types import SimpleNamespace

import numcodecs
import numpy as np
import pytest
import zarr
from scripts.errors import InputError, InputWarning
from scripts.volumes.ome_zarr import list_chunks
from scripts.volumes.reading import read_extent, read_ome_zarr, read_tomogram
from scripts.volumes.zarr_chunks import refuse_incomplete_chunks
from volume_files import (
    SHAPE,
    VALUES,
    VOXEL_SIZE,
    ZARR_3,
    multiscales,
    write_array,
    write_compressed,
    write_group,
    write_ome_zarr,
    write_pyramid,
)


@pytest.mark.parametrize(("wanted", "expected"), [(None, 5), (1.0, 5), (7.4, 5), (7.6, 10), (10.012, 10), (90.0, 20)])
def test_the_level_nearest_to_the_wanted_voxel_size_is_taken(wanted, expected, tmp_path):
    volume = read_tomogram(write_pyramid(tmp_path), wanted_voxel_size_angstrom=wanted)
    assert volume.voxel_size_angstrom == expected
    assert volume.data[1, 2, 4] == expected


def test_an_array_that_does_not_fit_into_memory_is_named_before_it_is_read(tmp_path, monkeypatch):
    path = write_pyramid(tmp_path)
    monkeypatch.setattr("scripts.memory.available_bytes", lambda: 8)
    with pytest.raises(InputError, match=r"the array '.*' needs about 0.0 GiB of memory, 0.0 GiB are free: take a"):
        read_tomogram(path)


def test_an_impossible_wanted_voxel_size_is_refused(tmp_path):
    with pytest.raises(InputError, match="wanted_voxel_size_angstrom is a positive number of ångströms; got -1"):
        read_tomogram(write_pyramid(tmp_path), wanted_voxel_size_angstrom=-1)


@pytest.mark.parametrize("zarr_format", [2, pytest.param(3, marks=ZARR_3)])
@pytest.mark.parametrize("separator", [".", "/"])
def test_a_plain_array_is_read_without_voxel_size(zarr_format, separator, tmp_path):
    path = write_array(tmp_path / "a.zarr", zarr_format=zarr_format, separator=separator)
    volume = read_ome_zarr(path)
    assert np.array_equal(volume.data, VALUES)
    assert volume.voxel_size_angstrom is None


@ZARR_3
@pytest.mark.parametrize(("encoding", "chunk"), [("default", "c/1/1/2"), ("v2", "1.1.2")])
def test_chunks_are_found_when_the_metadata_do_not_state_their_separator(encoding, chunk, tmp_path):
    path = write_array(tmp_path / "a.zarr", zarr_format=3, separator="/")
    metadata = json.loads((path / "zarr.json").read_text()) | {"chunk_key_encoding": {"name": encoding}}
    (path / "zarr.json").write_text(json.dumps(metadata))
    for place in np.ndindex(2, 2, 3):
        (path / "c/{}/{}/{}".format(*place)).rename(path / ".".join(map(str, place))) if encoding == "v2" else None
    assert np.array_equal(read_ome_zarr(path).data, VALUES)
    (path / chunk).unlink()
    with pytest.raises(InputError, match=f"the chunk file {chunk} is missing"):
        read_ome_zarr(path)


def test_an_array_that_the_library_wrote_is_read(tmp_path):
    array = zarr.open(str(tmp_path / "a.zarr"), mode="w", shape=SHAPE, chunks=(3, 4, 4), dtype="f4")
    array[...] = VALUES
    assert np.array_equal(read_ome_zarr(tmp_path / "a.zarr").data, VALUES)


@ZARR_3
def test_an_array_in_shards_is_read_and_a_missing_shard_noticed(tmp_path):
    array = zarr.create_array(str(tmp_path / "a.zarr"), shape=SHAPE, chunks=(3, 2, 2), shards=(3, 4, 4), dtype="f4")
    array[...] = VALUES
    assert np.array_equal(read_ome_zarr(tmp_path / "a.zarr").data, VALUES)
    (tmp_path / "a.zarr/c/1/1/2").unlink()
    with pytest.raises(InputError, match="the chunk file c/1/1/2 is missing"):
        read_ome_zarr(tmp_path / "a.zarr")


def write_shards(folder, values, **settings):
    """Write an array in shards of four chunks; the library does not store chunks that are zero."""
    inner = {"chunks": (3, 2, 2), "shards": (3, 4, 4), "dtype": "f4"}
    zarr.create_array(str(folder), shape=values.shape, **inner, **settings)[...] = values
    return folder


@ZARR_3
@pytest.mark.parametrize("corner", [(0, 0, 0), (0, 2, 6), (3, 6, 8)])
def test_a_chunk_that_is_missing_in_its_shard_is_refused_unless_allowed(corner, tmp_path):
    values = 1 + VALUES
    values[tuple(slice(first, first + length) for first, length in zip(corner, (3, 2, 2), strict=True))] = 0
    path = write_shards(tmp_path / "a.zarr", values)
    shard = "c/{}/{}/{}".format(*np.floor_divide(corner, (3, 4, 4)))
    message = rf"a\.zarr: the chunk at voxel {re.escape(str(corner))} is missing in {shard}\. .*allow_missing_chunks"
    with pytest.raises(InputError, match=message):
        read_ome_zarr(path)
    assert np.array_equal(read_ome_zarr(path, allow_missing_chunks=True).data, values)


@ZARR_3
@pytest.mark.parametrize(("location", "endian"), [("start", "little"), ("end", "big")])
def test_the_index_of_a_shard_is_found_wherever_it_is(location, endian, tmp_path):
    index = {"index_location": location, "index_codecs": [zarr.codecs.BytesCodec(endian=endian)]}
    shards = zarr.codecs.ShardingCodec(chunk_shape=(3, 2, 2), **index)
    stored = {"store": str(tmp_path / "a.zarr"), "chunks": (3, 4, 4), "codecs": [shards], "zarr_format": 3}
    array = zarr.create(SHAPE, dtype="f4", **stored)
    array[...] = 1 + VALUES
    assert np.array_equal(read_ome_zarr(tmp_path / "a.zarr").data, 1 + VALUES)
    array[:3, :2, :2] = 0
    with pytest.raises(InputError, match=r"the chunk at voxel \(0, 0, 0\) is missing in c/0/0/0"):
        read_ome_zarr(tmp_path / "a.zarr")


@ZARR_3
def test_a_shard_without_a_complete_index_is_refused(tmp_path):
    path = write_shards(tmp_path / "a.zarr", 1 + VALUES)
    (path / "c/0/0/0").write_bytes(bytes(40))
    with pytest.raises(InputError, match="the chunk file c/0/0/0 is cut short: it has no complete index"):
        read_ome_zarr(path)


@pytest.mark.parametrize("zarr_format", [2, pytest.param(3, marks=ZARR_3)])
@pytest.mark.parametrize("separator", [".", "/"])
def test_chunk_files_outside_of_the_shape_give_a_warning(zarr_format, separator, tmp_path):
    path = write_array(tmp_path / "a.zarr", zarr_format=zarr_format, separator=separator)
    (path / "notes.txt").write_text("1.2.3")
    metadata = path / (".zarray" if zarr_format == 2 else "zarr.json")
    metadata.write_text(json.dumps(json.loads(metadata.read_text()) | {"shape": [5, 7, 8]}))
    first = ("c" + separator) * (zarr_format == 3) + separator.join("002")
    with pytest.warns(
        InputWarning, match=rf"4 chunk files, such as {first}, lie outside of the stated shape 5 x 7 x 8"
    ):
        assert np.array_equal(read_ome_zarr(path).data, VALUES[..., :8])


def test_a_group_with_one_array_and_no_description_is_read(tmp_path):
    path = write_group(tmp_path / "a.zarr", {})
    write_array(path / "data")
    assert np.array_equal(read_ome_zarr(path).data, VALUES)


def test_a_group_without_description_lists_what_it_holds(tmp_path):
    path = write_group(tmp_path / "a.zarr", {"bioformats2raw.layout": 3})
    write_group(path / "OME", {})
    write_array(path / "left")
    write_array(path / "right")
    with pytest.raises(InputError, match=r"which array to read; it holds OME, left, right\."):
        read_ome_zarr(path)


def test_an_empty_group_says_so(tmp_path):
    with pytest.raises(InputError, match="which array to read: give the array itself"):
        read_ome_zarr(write_group(tmp_path / "a.zarr", {}))


@pytest.mark.parametrize("zarr_format", [2, pytest.param(3, marks=ZARR_3)])
def test_a_missing_chunk_is_refused_unless_allowed(zarr_format, tmp_path):
    path = write_ome_zarr(tmp_path, zarr_format=zarr_format)
    chunk = "1/0/2" if zarr_format == 2 else "c/1/0/2"
    (path / "0" / chunk).unlink()
    with pytest.raises(
        InputError, match=rf"volume\.zarr/0: the chunk file {chunk} is missing\. .*allow_missing_chunks"
    ):
        read_tomogram(path)
    data = read_tomogram(path, allow_missing_chunks=True).data
    assert not data[3:, :4, 8:].any()
    assert np.array_equal(data[:3], VALUES[:3])


def test_of_many_chunks_each_is_looked_at_once(tmp_path, monkeypatch):
    folder = write_ome_zarr(tmp_path, zarr_format=2) / "0"
    looked, stat = [], os.stat
    monkeypatch.setattr("os.stat", lambda path, **how: looked.append(str(path)) or stat(path, **how))
    refuse_incomplete_chunks(folder, VALUES.shape, allow_missing=False)
    assert looked.count(str(folder / "1" / "0" / "2")) == 1


@pytest.mark.parametrize("zarr_format", [2, pytest.param(3, marks=ZARR_3)])
def test_a_damaged_chunk_is_refused_with_its_place(zarr_format, tmp_path):
    path = write_ome_zarr(tmp_path, zarr_format=zarr_format)
    chunk = path / "0" / ("1/0/2" if zarr_format == 2 else "c/1/0/2")
    chunk.write_bytes(chunk.read_bytes()[:-50])
    with pytest.raises(InputError, match=r"volume\.zarr: the array '0' has a damaged chunk at voxel \(3, 0, 8\): "):
        read_tomogram(path)


@pytest.mark.parametrize("codec", [numcodecs.Zstd(), numcodecs.GZip(), numcodecs.Zlib(), numcodecs.LZ4()])
def test_a_damaged_compressed_chunk_is_refused(codec, tmp_path):
    path = write_compressed(tmp_path / "a.zarr", codec)
    (path / "0.0.0").write_bytes((path / "0.0.0").read_bytes()[:-300])
    with pytest.raises(InputError, match=r"a\.zarr: the array has a damaged chunk at voxel \(0, 0, 0\): "):
        read_ome_zarr(path)


@pytest.mark.parametrize("codec", [numcodecs.Blosc("lz4"), numcodecs.Blosc("zstd"), numcodecs.Blosc(clevel=0)])
@pytest.mark.parametrize("cut", [1, 300])
def test_a_truncated_blosc_chunk_is_refused_although_the_library_takes_it(codec, cut, tmp_path):
    path = write_compressed(tmp_path / "a.zarr", codec)
    assert read_ome_zarr(path).data.shape == SHAPE
    size = (path / "0.0.0").stat().st_size
    (path / "0.0.0").write_bytes((path / "0.0.0").read_bytes()[:-cut])
    with pytest.raises(
        InputError, match=rf"file 0\.0\.0 is cut short: it should have {size} .*, it has {size - cut}\."
    ):
        read_ome_zarr(path)


@ZARR_3
def test_a_truncated_blosc_chunk_of_zarr_format_3_is_refused(tmp_path):
    codec = zarr.codecs.BloscCodec(clevel=0)
    array = zarr.create_array(str(tmp_path / "a.zarr"), shape=SHAPE, chunks=(3, 4, 4), dtype="f4", compressors=[codec])
    array[...] = VALUES
    chunk = tmp_path / "a.zarr/c/1/0/2"
    chunk.write_bytes(chunk.read_bytes()[:-1])
    with pytest.raises(InputError, match="the chunk file c/1/0/2 is cut short"):
        read_ome_zarr(tmp_path / "a.zarr")


@pytest.mark.parametrize("codec", [numcodecs.GZip(), numcodecs.Blosc()])
def test_an_empty_chunk_file_is_refused(codec, tmp_path):
    path = write_compressed(tmp_path / "a.zarr", codec)
    (path / "0.0.0").write_bytes(b"")
    with pytest.raises(InputError, match=r"the chunk file 0\.0\.0 is cut short: it should have .* it has 0\."):
        read_ome_zarr(path)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"zarr_format": 2}', '{"zarr_format": 2, "shape": "x"}'])
def test_damaged_array_metadata_are_refused(content, tmp_path):
    path = write_ome_zarr(tmp_path)
    (path / "0" / ".zarray").write_text(content)
    with pytest.raises(InputError, match=r"volume\.zarr: .*'0' (cannot be opened: .|is a group)"):
        read_ome_zarr(path)


@pytest.mark.parametrize("chunks", [[3, 4, 0], [3, 4], 3])
def test_impossible_chunk_lengths_are_refused(chunks, tmp_path):
    path = write_array(tmp_path / "a.zarr")
    metadata = json.loads((path / ".zarray").read_text()) | {"chunks": chunks}
    (path / ".zarray").write_text(json.dumps(metadata))
    with pytest.raises(InputError, match=r"a\.zarr is a damaged Zarr folder: "):
        read_ome_zarr(path)


@pytest.mark.parametrize("zarr_format", [2, pytest.param(3, marks=ZARR_3)])
def test_an_unknown_codec_is_refused_by_name(zarr_format, tmp_path):
    path = write_ome_zarr(tmp_path, zarr_format=zarr_format)
    file = path / "0" / (".zarray" if zarr_format == 2 else "zarr.json")
    metadata = json.loads(file.read_text())
    codecs = (
        {"compressor": {"id": "magic"}} if zarr_format == 2 else {"codecs": [*metadata["codecs"], {"name": "magic"}]}
    )
    file.write_text(json.dumps(metadata | codecs))
    with pytest.raises(InputError, match=r"volume\.zarr: the array '0' cannot be opened: .*codec.*magic"):
        read_ome_zarr(path)
    with pytest.raises(InputError, match=r"volume\.zarr/0 is a damaged Zarr folder: .*codec.*magic"):
        read_ome_zarr(path / "0")


def test_a_level_that_is_not_there_is_refused(tmp_path):
    path = write_group(tmp_path / "a.zarr", multiscales((5.0, 10.0)))
    write_array(path / "1")
    with pytest.raises(InputError, match=r"the array '0' is missing; the folder holds 1\."):
        read_ome_zarr(path)


def test_a_level_that_is_a_group_is_refused(tmp_path):
    path = write_group(tmp_path / "a.zarr", multiscales())
    write_group(path / "0", {})
    with pytest.raises(InputError, match=r"'0' is a group, not an array; give .*a\.zarr/0 if that"):
        read_ome_zarr(path)


@pytest.mark.parametrize(
    "described",
    [
        [],
        {},
        3,
        [3],
        [{}],
        [{"datasets": [{}]}],
        [{"datasets": 3}],
        [{"axes": 3, "datasets": []}],
        [{"axes": [{}], "datasets": []}],
        [{"datasets": [{"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [1.0]}]}]}],
        [{"datasets": [{"path": "0", "coordinateTransformations": [{"type": "scale", "path": "x"}]}]}],
        [{"datasets": [{"path": "0", "coordinateTransformations": [{"type": "scale", "scale": "abc"}]}]}],
        [{"datasets": [{"path": "0", "coordinateTransformations": [{"type": "translation", "translation": [1.0]}]}]}],
    ],
)
def test_malformed_descriptions_are_refused(described, tmp_path):
    path = write_ome_zarr(tmp_path)
    (path / ".zattrs").write_text(json.dumps({"multiscales": described}))
    with pytest.raises(InputError, match=r"volume\.zarr: its 'multiscales' metadata are not valid: "):
        read_ome_zarr(path)


def write_moved(folder, level=(), whole=(), unit="angstrom"):
    """Write a pyramid of one level of 10 units, moved within its metadata by translations and scales ``(z, y, x)``."""
    path = write_ome_zarr(folder, scales=(10.0,), unit=unit)
    described = multiscales(scales=(10.0,), unit=unit)
    (multiscale,) = described["multiscales"]
    multiscale["datasets"][0]["coordinateTransformations"] += [{"type": kind, kind: values} for kind, values in level]
    multiscale["coordinateTransformations"] = [{"type": kind, kind: values} for kind, values in whole]
    (path / ".zattrs").write_text(json.dumps(described))
    return path


@pytest.mark.parametrize(
    ("moved", "at"),
    [
        ({"level": [("translation", [500.0, 0.0, -100.0])]}, "50, 0, -10"),
        ({"level": [("translation", [500.0, 0.0, -100.0])], "unit": "nanometer"}, "50, 0, -10"),
        ({"level": [("translation", [0.0, 0.0, 6.0])]}, "0, 0, 0.6"),
        ({"whole": [("translation", [0.0, 20.0, 0.0])]}, "0, 2, 0"),
        ({"level": [("translation", [0.0, 20.0, 0.0])], "whole": [("scale", [2.0] * 3)]}, "0, 2, 0"),
        ({"level": [("translation", [0.0, 5.0, 0.0])], "whole": [("translation", [0.0, 15.0, 0.0])]}, "0, 2, 0"),
    ],
    ids=["level", "nanometres", "more than half a voxel", "whole", "scaled with the level", "both"],
)
def test_a_translation_of_more_than_half_a_voxel_is_left_out_with_a_warning(moved, at, tmp_path):
    said = (
        rf"volume\.zarr: its metadata put the first voxel of '0' at \({at}\) voxels .*: add it to picks for a program"
    )
    with pytest.warns(InputWarning, match=said) as warned:
        volume = read_ome_zarr(write_moved(tmp_path, **moved))
    assert len(warned) == 1
    assert np.array_equal(volume.data, VALUES)
    assert not volume.affine[:3, 3].any()


def test_a_translation_gives_its_warning_where_the_header_alone_is_read(tmp_path):
    with pytest.warns(InputWarning, match=r"the first voxel of '0' at \(0, 2, 0\) voxels") as warned:
        assert read_extent(write_moved(tmp_path, [("translation", [0.0, 20.0, 0.0])])) == (SHAPE, 10)
    assert len(warned) == 1


@pytest.mark.parametrize("moved", [[0.0] * 3, [5.0] * 3, [-5.0, 0.0, 4.375]])
def test_a_translation_of_half_a_voxel_as_pyramids_have_it_is_left_out_in_silence(moved, tmp_path):
    assert read_tomogram(write_moved(tmp_path, [("translation", moved)])).voxel_size_angstrom == 10


def test_the_warning_of_a_translation_is_about_the_level_that_is_read(tmp_path):
    path = write_pyramid(tmp_path)
    described = json.loads((path / ".zattrs").read_text())
    (middle, *_) = described["multiscales"][0]["datasets"]
    middle["coordinateTransformations"] += [{"type": "translation", "translation": [0.0, 70.0, 0.0]}]
    (path / ".zattrs").write_text(json.dumps(described))
    assert read_tomogram(path).voxel_size_angstrom == 5
    with pytest.warns(InputWarning, match=r"the first voxel of '0' at \(0, 7, 0\) voxels"):
        read_tomogram(path, wanted_voxel_size_angstrom=10)


@pytest.mark.parametrize("kind", ["affine", "rotation", "mapAxis"])
def test_a_transformation_that_could_turn_the_volume_is_refused(kind, tmp_path):
    path = write_ome_zarr(tmp_path)
    described = multiscales()
    described["multiscales"][0]["coordinateTransformations"] = [{"type": "identity"}, {"type": kind, kind: []}]
    (path / ".zattrs").write_text(json.dumps(described))
    with pytest.raises(InputError, match=rf"are not valid: the transformation '{kind}' is not supported, only a scale"):
        read_ome_zarr(path)


def test_a_description_without_levels_is_refused(tmp_path):
    path = write_group(tmp_path / "a.zarr", {"multiscales": [{"datasets": []}]})
    with pytest.raises(InputError, match="its 'multiscales' metadata name no array"):
        read_ome_zarr(path)


def test_a_description_of_an_old_version_with_bare_axis_names_is_read(tmp_path):
    path = write_ome_zarr(tmp_path, VALUES.T)
    described = {"axes": ["x", "y", "z"], "datasets": [{"path": "0"}]}
    (path / ".zattrs").write_text(json.dumps({"multiscales": [described]}))
    volume = read_ome_zarr(path)
    assert np.array_equal(volume.data, VALUES)
    assert volume.voxel_size_angstrom is None


def test_a_scale_without_unit_is_in_angstroms_but_a_bare_one_states_nothing(tmp_path):
    assert read_ome_zarr(write_ome_zarr(tmp_path, name="a.zarr", unit=None)).voxel_size_angstrom == VOXEL_SIZE
    assert read_ome_zarr(write_ome_zarr(tmp_path, name="b.zarr", scales=(1.0,), unit=None)).voxel_size_angstrom is None
    assert read_ome_zarr(write_ome_zarr(tmp_path, name="c.zarr", scales=(1.0,))).voxel_size_angstrom == 1


def test_a_pyramid_whose_scales_only_count_voxels_is_read_at_its_finest_level_without_voxel_size(tmp_path):
    path = write_ome_zarr(tmp_path, scales=(1.0, 2.0, 4.0), unit=None)
    for level in "12":
        write_array(path / level, VALUES[:, ::2, ::2])
    volume = read_ome_zarr(path, wanted_voxel_size_angstrom=4.0)
    assert np.array_equal(volume.data, VALUES)
    assert volume.voxel_size_angstrom is None
    assert read_tomogram(path, 10.0, wanted_voxel_size_angstrom=10.012).data.shape == VALUES.shape


@pytest.mark.parametrize("read", [read_tomogram, read_extent])
def test_a_stated_voxel_size_is_that_of_a_level_or_refused(read, tmp_path):
    path = write_pyramid(tmp_path)
    with pytest.warns(InputWarning, match=r"voxel_size_angstrom 10.012 is used, not the file's 10 Å"):
        assert read(path, 10.012)
    said = r"states levels of 10, 5, 20 Å, none of 50 Å: correct its metadata, or give the array that is meant"
    with pytest.raises(InputError, match=said):
        read(path, 50.0)


def test_an_unknown_unit_is_refused(tmp_path):
    with pytest.raises(InputError, match="axis z is in 'parsec'; use angstrom, nanometer or micrometer"):
        read_ome_zarr(write_ome_zarr(tmp_path, unit="parsec"))


@pytest.mark.parametrize("scale", [0.0, -10.0])
def test_an_impossible_scale_is_refused(scale, tmp_path):
    with pytest.raises(InputError, match=rf"its 'multiscales' metadata state a voxel size of {scale:g} Å"):
        read_ome_zarr(write_ome_zarr(tmp_path, scales=(scale,)))


def test_scales_follow_their_axes(tmp_path):
    path = write_ome_zarr(tmp_path, VALUES.T, names="xyz", scales=([20.0, 10.0, 5.0],))
    with pytest.raises(InputError, match=r"no cubes but 5 x 10 x 20 Å \(z, y, x\)"):
        read_ome_zarr(path)


@pytest.mark.parametrize(
    ("shape", "names", "message"),
    [
        ((2, *SHAPE), "czyx", "has 2 entries along axis c; a tomogram is one volume: split it"),
        (SHAPE, "cyx", r"has the axes \(c, y, x\) and the shape 5 x 7 x 9; a tomogram needs each of z, y, x once"),
        (SHAPE, "czyx", r"has the axes \(c, z, y, x\) and the shape 5 x 7 x 9"),
        ((7, 9), "yx", r"has the axes \(y, x\) and the shape 7 x 9"),
    ],
)
def test_an_array_that_is_no_volume_is_refused(shape, names, message, tmp_path):
    path = write_ome_zarr(tmp_path, np.zeros(shape, np.int8), names=names, chunks=shape)
    with pytest.raises(InputError, match=rf"volume\.zarr: the array '0' {message}"):
        read_ome_zarr(path)


@pytest.mark.parametrize("shape", [(7, 9), (2, *SHAPE), (1, 1, 1, *SHAPE)])
def test_a_plain_array_that_is_no_volume_is_refused(shape, tmp_path):
    with pytest.raises(InputError, match=r"a\.zarr: the array has .* a tomogram "):
        read_ome_zarr(write_array(tmp_path / "a.zarr", np.zeros(shape, np.int8), chunks=shape))


@pytest.mark.parametrize("length", [0, 2**31])
def test_impossible_array_lengths_are_refused(length, tmp_path):
    path = write_array(tmp_path / "a.zarr")
    metadata = json.loads((path / ".zarray").read_text()) | {"shape": [5, 7, length]}
    (path / ".zarray").write_text(json.dumps(metadata))
    with pytest.raises(InputError, match=rf"the array states 5 x 7 x {length} voxels; a tomogram has 1 to 68719476736"):
        read_ome_zarr(path)


@pytest.mark.parametrize("dtype", ["?", "<c8"])
def test_an_array_of_something_else_than_numbers_is_refused(dtype, tmp_path):
    with pytest.raises(InputError, match=r"the array holds values of type (bool|complex64), not plain numbers"):
        read_ome_zarr(write_array(tmp_path / "a.zarr", VALUES.astype(dtype)))


def test_zarr_format_3_under_an_old_library_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(zarr, "__version__", "2.18.7")
    with pytest.raises(InputError, match=r"has Zarr format 3, which zarr 2\.18\.7 cannot read: install zarr 3"):
        read_ome_zarr(write_array(tmp_path / "a.zarr", zarr_format=3))


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
