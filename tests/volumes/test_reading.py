"""The same volume must come out of every kind of file, and no untrustworthy file may get through."""

import bz2
import gzip
import itertools
import json
import os
import struct
import tracemalloc
import warnings
from pathlib import Path

import mrcfile
import nibabel
import numcodecs
import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from monai.transforms import Compose, LoadImage, LoadImaged
from scripts.errors import InputError, InputWarning, find_input_error
from scripts.volumes.monai_reader import TomogramReader
from scripts.volumes.ome_zarr_writer import write_ome_zarr as write_levels
from scripts.volumes.reading import (
    is_tomogram,
    read_extent,
    read_mrc,
    read_nifti,
    read_ome_zarr,
    read_tomogram,
    stem_of,
)

SHAPE = (5, 7, 9)
VOXEL_SIZE = 10.012
VALUES = np.random.default_rng(7).integers(0, 120, SHAPE).astype(np.float32)  # whole numbers that every type can hold
DTYPES = {0: "i1", 1: "i2", 2: "f4", 6: "u2", 12: "f2"}
AXES = list(itertools.permutations((1, 2, 3)))
ZARR_3 = pytest.mark.skipif(zarr.__version__.startswith("2."), reason="zarr 2 cannot read Zarr format 3")
OFFSETS = {
    "nx": 0, "ny": 4, "nz": 8, "mode": 12, "mx": 28, "my": 32, "mz": 36, "cell_x": 40, "cell_y": 44, "cell_z": 48,
    "mapc": 64, "mapr": 68, "maps": 72, "ispg": 88, "nsymbt": 92, "imod_stamp": 152, "imod_flags": 156,
    "origin_x": 196, "map": 208, "stamp": 212,
}  # fmt: skip


def mrc_bytes(values=VALUES, mode=2, order="<", axes=(1, 2, 3), voxel_size=VOXEL_SIZE, extended=b"", **fields):
    """Return an MRC file as bytes; ``fields`` overwrite numbers or bytes in its header."""
    block = values.transpose([3 - axis for axis in axes[::-1]]).astype(order + DTYPES.get(mode, "f4"))
    lengths, grid = block.shape[::-1], values.shape[::-1]
    cell = [np.float32(count * voxel_size) for count in grid]
    header = bytearray(1024)
    struct.pack_into(f"{order}4i", header, 0, *lengths, mode)
    struct.pack_into(f"{order}3i6f3i", header, 28, *grid, *cell, 90, 90, 90, *axes)
    struct.pack_into(f"{order}2i", header, OFFSETS["ispg"], 1, len(extended))
    struct.pack_into("4s4s", header, OFFSETS["map"], b"MAP ", b"\x44\x44\0\0" if order == "<" else b"\x11\x11\0\0")
    for name, value in fields.items():
        kind = {int: f"{order}i", float: f"{order}f", bytes: "4s"}[type(value)]
        struct.pack_into(kind, header, OFFSETS[name], value)
    return bytes(header) + extended + block.tobytes()


def write_mrc(folder, name="volume.mrc", **settings):
    (folder / name).write_bytes(mrc_bytes(**settings))
    return folder / name


def write_array(folder, values=VALUES, chunks=(3, 4, 4), zarr_format=2, separator="."):
    """Write an uncompressed Zarr array file by file, so that no version of the library has a say in it."""
    shape, chunks = list(values.shape), list(chunks)
    if zarr_format == 2:
        prefix, name = "", ".zarray"
        metadata = {"zarr_format": 2, "shape": shape, "chunks": chunks, "dtype": values.dtype.str, "order": "C"}
        metadata |= {
            "compressor": None,
            "filters": None,
            "fill_value": None if values.dtype.kind == "c" else 0,
            "dimension_separator": separator,
        }
    else:
        prefix, name = f"c{separator}", "zarr.json"
        metadata = {"zarr_format": 3, "node_type": "array", "shape": shape, "data_type": values.dtype.name}
        metadata |= {"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunks}}, "fill_value": 0}
        metadata |= {"chunk_key_encoding": {"name": "default", "configuration": {"separator": separator}}}
        metadata |= {"codecs": [{"name": "bytes", "configuration": {"endian": "little"}}], "attributes": {}}
    folder.mkdir(parents=True)
    (folder / name).write_text(json.dumps(metadata))
    padded = np.pad(values, [(0, -count % length) for count, length in zip(shape, chunks, strict=True)])
    for place in np.ndindex(*(-(-count // length) for count, length in zip(shape, chunks, strict=True))):
        part = tuple(slice(i * length, (i + 1) * length) for i, length in zip(place, chunks, strict=True))
        file = folder / (prefix + separator.join(map(str, place)))
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(padded[part].tobytes())
    return folder


def write_compressed(folder, codec):
    """Write a Zarr array of one compressed chunk of noise."""
    path = write_array(folder, np.random.default_rng(1).normal(size=SHAPE).astype(np.float32), chunks=SHAPE)
    metadata = json.loads((path / ".zarray").read_text()) | {"compressor": codec.get_config()}
    (path / ".zarray").write_text(json.dumps(metadata))
    (path / "0.0.0").write_bytes(codec.encode(np.frombuffer((path / "0.0.0").read_bytes(), np.float32)))
    return path


def write_group(folder, attributes, zarr_format=2):
    folder.mkdir(exist_ok=True)
    if zarr_format == 2:
        (folder / ".zgroup").write_text('{"zarr_format": 2}')
        (folder / ".zattrs").write_text(json.dumps(attributes))
    else:
        (folder / "zarr.json").write_text(
            json.dumps({"zarr_format": 3, "node_type": "group", "attributes": {"ome": attributes}})
        )
    return folder


def multiscales(scales=(VOXEL_SIZE,), names="zyx", unit="angstrom", whole=None):
    """Return OME metadata with one level per scale; a scale is one number, or one per axis."""
    datasets = [
        {"path": str(i), "coordinateTransformations": [{"type": "scale", "scale": as_list(scale, len(names))}]}
        for i, scale in enumerate(scales)
    ]
    axes = [{"name": name, "type": "space"} | ({"unit": unit} if unit and name in "zyx" else {}) for name in names]
    multiscale = {"axes": axes, "datasets": datasets}
    if whole is not None:
        multiscale["coordinateTransformations"] = [{"type": "scale", "scale": as_list(whole, len(names))}]
    return {"multiscales": [multiscale]}


def as_list(scale, count):
    return [scale] * count if isinstance(scale, float) else list(scale)


def write_ome_zarr(folder, values=VALUES, name="volume.zarr", zarr_format=2, chunks=(3, 4, 4), **metadata):
    """Write a pyramid of one level with `multiscales` metadata."""
    write_group(folder / name, multiscales(**metadata), zarr_format)
    write_array(folder / name / "0", values, chunks, zarr_format, separator="/")
    return folder / name


def write_pyramid(folder):
    """Write three levels of 5, 10 and 20 Å, the middle one named first; each holds its voxel size everywhere."""
    path = write_group(folder / "pyramid.zarr", multiscales((10.0, 5.0, 20.0)))
    for name, size in enumerate((10.0, 5.0, 20.0)):
        write_array(path / str(name), np.full(SHAPE, size, np.float32))
    return path


def write_nifti(folder, values=VALUES, name="volume.nii", affine=None, codes=(0, 2)):
    image = nibabel.Nifti1Image(values.T, np.diag([VOXEL_SIZE] * 3 + [1]) if affine is None else affine)
    content = bytearray(image.to_bytes())
    struct.pack_into("<2h", content, 252, *codes)  # qform and sform
    return write_bytes(folder, content, name)


def write_bytes(folder, content, name="volume.mrc"):
    (folder / name).write_bytes(content)
    return folder / name


TWINS = {
    **{f"mode {mode}": lambda folder, mode=mode: write_mrc(folder, mode=mode) for mode in DTYPES},
    **{f"big-endian {mode}": lambda folder, mode=mode: write_mrc(folder, mode=mode, order=">") for mode in DTYPES},
    **{f"axes {axes}": lambda folder, axes=axes: write_mrc(folder, axes=axes) for axes in AXES},
    "axes big-endian int16": lambda folder: write_mrc(folder, axes=(3, 1, 2), order=">", mode=1),
    "gzip": lambda folder: write_bytes(folder, gzip.compress(mrc_bytes()), "volume.mrc.gz"),
    "gzip under a plain name": lambda folder: write_bytes(folder, gzip.compress(mrc_bytes()), "volume.rec"),
    "bzip2": lambda folder: write_bytes(folder, bz2.compress(mrc_bytes(mode=1)), "volume.mrc.bz2"),
    "another name": lambda folder: write_mrc(folder, name="VOLUME.MAP"),
    "extended header": lambda folder: write_mrc(folder, extended=b"FEI" * 77),
    "RELION": lambda folder: write_mrc(folder, ispg=0),
    "origin": lambda folder: write_mrc(folder, origin_x=500.0),
    "zarr 2": lambda folder: write_ome_zarr(folder),
    "zarr 2 big-endian": lambda folder: write_ome_zarr(folder, VALUES.astype(">i2")),
    "zarr nanometres": lambda folder: write_ome_zarr(folder, scales=(VOXEL_SIZE / 10,), unit="nanometer"),
    "zarr micrometres": lambda folder: write_ome_zarr(folder, scales=(VOXEL_SIZE / 1e4,), unit="micrometer"),
    "zarr capital letters": lambda folder: write_ome_zarr(folder, VALUES.T, names="XYZ"),
    "zarr two scales": lambda folder: write_ome_zarr(folder, scales=(VOXEL_SIZE / 2,), whole=2.0),
    "zarr x y z": lambda folder: write_ome_zarr(folder, VALUES.T, names="xyz"),
    "zarr t c z y x": lambda folder: write_ome_zarr(folder, VALUES[None, None], names="tczyx", chunks=(1, 1, 3, 4, 4)),
    "nifti": lambda folder: write_nifti(folder),
    "nifti int16": lambda folder: write_nifti(folder, VALUES.astype(np.int16)),
    "nifti 4D": lambda folder: write_nifti(folder, VALUES[None]),
    "nifti gzip": lambda folder: write_bytes(
        folder, gzip.compress(write_nifti(folder, name="x").read_bytes()), "v.nii.gz"
    ),
    "nifti under another name": lambda folder: write_nifti(folder, name="volume.mrc"),
}
TWIN_PARAMETERS = [pytest.param(writer, id=name) for name, writer in TWINS.items()] + [
    pytest.param(lambda folder: write_ome_zarr(folder, zarr_format=3), id="zarr 3", marks=ZARR_3)
]


@pytest.mark.parametrize("write", TWIN_PARAMETERS)
def test_every_kind_of_file_gives_the_same_volume_and_voxel_size(write, tmp_path):
    volume = read_tomogram(write(tmp_path))
    assert volume.data.dtype.isnative
    assert np.array_equal(volume.data, VALUES)
    assert volume.voxel_size_angstrom == pytest.approx(VOXEL_SIZE, rel=1e-12)
    assert np.allclose(volume.affine @ (1, 2, 4, 1), (4 * VOXEL_SIZE, 2 * VOXEL_SIZE, VOXEL_SIZE, 1))


@pytest.mark.parametrize("write", TWIN_PARAMETERS)
def test_every_kind_of_file_loads_in_monai_as_the_same_float32_tensor(write, tmp_path):
    load = LoadImaged(keys="image", reader=TomogramReader(), ensure_channel_first=True)
    image = load({"image": write(tmp_path)})["image"]
    image += 0  # the memory is ours to write to
    assert image.shape == (1, *SHAPE)
    assert image.numpy().dtype == np.float32
    assert np.array_equal(image[0].numpy(), VALUES)
    assert np.allclose(image.affine.numpy() @ (1, 2, 4, 1), (4 * VOXEL_SIZE, 2 * VOXEL_SIZE, VOXEL_SIZE, 1))
    assert image.meta["voxel_size_angstrom"] == pytest.approx(VOXEL_SIZE)


# MONAI readers


@pytest.mark.parametrize("write", TWIN_PARAMETERS)
def test_the_reader_loads_every_format_by_its_dotted_name(write, tmp_path):
    image = LoadImage(reader="scripts.volumes.monai_reader.TomogramReader", voxel_size_angstrom=VOXEL_SIZE)(
        write(tmp_path)
    )
    assert np.array_equal(image.numpy(), VALUES)


def test_the_one_line_message_survives_monai(tmp_path):
    load = Compose([LoadImaged(keys="image", reader=TomogramReader())])
    with pytest.raises(RuntimeError) as caught:
        load({"image": str(tmp_path / "absent.mrc")})
    assert str(find_input_error(caught.value)) == f"cannot read {tmp_path / 'absent.mrc'}: no such file."


@pytest.mark.parametrize("write", [write_mrc, write_nifti, write_ome_zarr])
def test_a_reader_gives_memory_of_its_own_and_what_monai_needs_to_know(write, tmp_path):
    array, meta = TomogramReader().get_data(write(tmp_path))
    assert array.flags.writeable
    assert not isinstance(array, np.memmap)
    assert np.array_equal(meta["original_affine"], meta["affine"])
    assert meta["original_affine"] is not meta["affine"]
    assert meta["spatial_shape"].tolist() == list(SHAPE)
    assert meta["space"] == "RAS"
    assert np.isnan(meta["original_channel_dim"])


def test_reader_settings_reach_the_file(tmp_path):
    reader = TomogramReader(wanted_voxel_size_angstrom=19.0)
    assert reader.get_data(write_pyramid(tmp_path))[0].max() == 20
    with pytest.warns(InputWarning, match=r"voxel_size_angstrom 7\.5 is used, not the file's 5 Å"):
        _, meta = TomogramReader(voxel_size_angstrom=7.5).get_data(tmp_path / "pyramid.zarr")
    assert meta["voxel_size_angstrom"] == 7.5
    (tmp_path / "pyramid.zarr" / "1" / "0.0.0").unlink()
    assert TomogramReader(allow_missing_chunks=True).get_data(tmp_path / "pyramid.zarr")[0].min() == 0


@pytest.mark.parametrize("name", ["voxel_size_angstrom", "wanted_voxel_size_angstrom"])
@pytest.mark.parametrize("size", [0, -10.0, float("nan"), float("inf"), "10"])
def test_a_reader_with_an_impossible_voxel_size_is_not_built(name, size):
    with pytest.raises(InputError, match=f"{name} is a positive number of ångströms; got {size!r}"):
        TomogramReader(**{name: size})


def test_a_reader_reads_one_file_at_a_time(tmp_path):
    with pytest.raises(InputError, match="one tomogram at a time; got 1 more"):
        TomogramReader().get_data([tmp_path / "a.mrc", tmp_path / "b.mrc"])


def test_a_reader_takes_no_settings_in_read(tmp_path):
    with pytest.raises(TypeError, match=r"TomogramReader takes its settings when built; got \['mode'\]"):
        TomogramReader().read(tmp_path / "a.mrc", mode="r")


def test_monai_asks_a_reader_by_the_names_of_the_files():
    assert TomogramReader().verify_suffix(["a.mrc", "b.rec"])
    assert not TomogramReader().verify_suffix(["a.mrc", "b.png"])


# names


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("foo.mrc", "foo"),
        ("foo.MRC", "foo"),
        ("foo.rec", "foo"),
        ("foo.st", "foo"),
        ("foo.map", "foo"),
        ("foo.mrc.gz", "foo"),
        ("foo.mrc.bz2", "foo"),
        ("foo.nii", "foo"),
        ("foo.nii.gz", "foo"),
        ("foo_10.012.rec.nii", "foo_10.012.rec"),
    ],
)
def test_files_named_like_tomograms_are_found_and_lose_their_ending(name, stem, tmp_path):
    assert is_tomogram(tmp_path / name)
    assert stem_of(tmp_path / name) == stem


@pytest.mark.parametrize(("name", "stem"), [("foo.zarr", "foo"), ("foo.ome.zarr", "foo"), ("a.b.ZARR", "a.b")])
def test_folders_named_like_tomograms_are_found_and_lose_their_ending(name, stem, tmp_path):
    assert not is_tomogram(tmp_path / name)
    (tmp_path / name).mkdir()
    assert is_tomogram(tmp_path / name)
    assert stem_of(f"{tmp_path / name}/") == stem


@pytest.mark.parametrize("name", ["picks.csv", "foo.mrc.txt", "foo.gz", "mrc", "._foo.mrc", "foo.mrcs"])
def test_other_names_are_no_tomograms(name, tmp_path):
    assert not is_tomogram(tmp_path / name)


def test_a_folder_named_like_a_file_is_no_tomogram(tmp_path):
    (tmp_path / "foo.mrc").mkdir()
    assert not is_tomogram(tmp_path / "foo.mrc")


def test_a_name_without_a_known_ending_keeps_all_of_it():
    assert stem_of("folder/TS_01.5") == "TS_01.5"


# voxel size


def test_a_file_without_voxel_size_says_which_key_to_set(tmp_path):
    path = write_mrc(tmp_path, cell_x=0.0, cell_y=0.0, cell_z=0.0)
    assert read_mrc(path).voxel_size_angstrom is None
    assert np.allclose(read_mrc(path).affine @ (1, 2, 4, 1), (4, 2, 1, 1))
    with pytest.raises(InputError, match=r"volume\.mrc states no voxel size: set voxel_size_angstrom \(e\.g\. --voxel"):
        read_tomogram(path)


@pytest.mark.parametrize("cell_x", [0.0, -90.0, float("nan"), float("inf")])
def test_a_cell_that_is_no_length_counts_as_no_voxel_size(cell_x, tmp_path):
    assert read_mrc(write_mrc(tmp_path, cell_x=cell_x)).voxel_size_angstrom is None


def test_a_grid_of_zero_counts_as_no_voxel_size(tmp_path):
    assert read_mrc(write_mrc(tmp_path, mz=0)).voxel_size_angstrom is None


@pytest.mark.parametrize("write", [write_mrc, write_nifti, write_ome_zarr])
def test_the_users_voxel_size_wins_with_a_warning(write, tmp_path):
    path = write(tmp_path)
    with pytest.warns(InputWarning, match=r"voxel_size_angstrom 7\.84 is used, not the file's 10\.012 Å") as caught:
        volume = read_tomogram(path, voxel_size_angstrom=7.84)
    assert len(caught) == 1
    assert volume.voxel_size_angstrom == 7.84
    assert np.allclose(volume.affine @ (1, 2, 4, 1), (4 * 7.84, 2 * 7.84, 7.84, 1))


def test_a_users_voxel_size_within_a_thousandth_of_the_files_is_used_in_silence(tmp_path):
    assert read_tomogram(write_mrc(tmp_path), voxel_size_angstrom=10.02).voxel_size_angstrom == 10.02


def test_the_users_voxel_size_fills_a_gap_in_silence(tmp_path):
    path = write_mrc(tmp_path, cell_x=0.0)
    assert read_tomogram(path, voxel_size_angstrom=10.02).voxel_size_angstrom == 10.02


def test_an_impossible_users_voxel_size_is_refused(tmp_path):
    with pytest.raises(InputError, match="voxel_size_angstrom is a positive number of ångströms; got 0"):
        read_tomogram(write_mrc(tmp_path), voxel_size_angstrom=0)


def test_voxel_sizes_that_differ_by_rounding_are_accepted(tmp_path):
    path = write_mrc(tmp_path, cell_x=9 * 10.04)  # the others are 10.012
    assert read_tomogram(path).voxel_size_angstrom == pytest.approx((10.04 + 2 * 10.012) / 3, rel=1e-5)


def test_voxels_that_are_no_cubes_are_refused_unless_the_user_states_their_size(tmp_path):
    path = write_mrc(tmp_path, cell_x=9 * 10.1)
    with pytest.raises(InputError, match=r"no cubes but 10\.012 x 10\.012 x 10\.1 Å \(z, y, x\)\. Resample it, or set"):
        read_tomogram(path)
    with pytest.warns(InputWarning, match=r"10\.012 is used, not the file's 10\.012 x 10\.012 x 10\.1 Å"):
        assert read_tomogram(path, voxel_size_angstrom=VOXEL_SIZE).voxel_size_angstrom == VOXEL_SIZE


def test_a_swapped_file_states_its_cell_along_x_y_and_z(tmp_path):
    path = write_mrc(tmp_path, axes=(2, 3, 1), cell_x=9 * 20.0)
    with pytest.raises(InputError, match=r"10\.012 x 10\.012 x 20 Å \(z, y, x\)"):
        read_tomogram(path)


# MRC


def test_a_file_written_by_mrcfile_is_read(tmp_path):
    with mrcfile.new(tmp_path / "a.mrc") as file:
        file.set_data(VALUES)
        file.voxel_size = VOXEL_SIZE
    volume = read_mrc(tmp_path / "a.mrc")
    assert np.array_equal(volume.data, VALUES)
    assert volume.voxel_size_angstrom == VOXEL_SIZE


def test_an_uncompressed_file_is_mapped_and_not_loaded(tmp_path):
    assert isinstance(read_mrc(write_mrc(tmp_path, axes=(3, 2, 1))).data, np.memmap)


def test_signed_bytes_keep_their_sign(tmp_path):
    assert np.array_equal(read_mrc(write_mrc(tmp_path, values=VALUES - 100, mode=0)).data, VALUES - 100)


@pytest.mark.parametrize(("mode", "value"), [(1, -30000), (6, 60000), (12, -0.125), (2, -1e9)])
def test_every_mode_keeps_its_range(mode, value, tmp_path):
    assert read_mrc(write_mrc(tmp_path, values=np.full(SHAPE, value, np.float64), mode=mode)).data[1, 2, 4] == value


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("flags", "expected"), [(0, 200), (1, -56), (2, 200), (5, -56)])
def test_bytes_of_old_imod_files_are_unsigned_unless_flagged(flags, expected, order, tmp_path):
    values = np.full(SHAPE, 200, np.uint8)
    path = write_mrc(tmp_path, values=values, mode=0, order=order, imod_stamp=1146047817, imod_flags=flags)
    assert read_mrc(path).data[1, 2, 4] == expected


@pytest.mark.parametrize(
    ("mode", "kind"),
    [(3, "complex int16"), (4, "complex float32"), (16, "RGB colours"), (101, "packed 4-bit numbers")],
)
def test_a_mode_that_is_no_tomogram_is_refused_by_name(mode, kind, tmp_path):
    message = rf"volume\.mrc holds {kind} \(mode {mode}\), not a tomogram\. Convert it to mode 0 \(int8\)"
    with pytest.raises(InputError, match=message):
        read_mrc(write_mrc(tmp_path, mode=mode))


def test_bytes_that_imod_packed_are_refused(tmp_path):
    path = write_mrc(tmp_path, mode=0, imod_stamp=1146047817, imod_flags=17)
    with pytest.raises(InputError, match="holds packed 4-bit numbers"):
        read_mrc(path)


def test_an_unknown_mode_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"volume\.mrc has the unknown mode 7\. Convert it"):
        read_mrc(write_mrc(tmp_path, mode=7))


@pytest.mark.parametrize("stamp", [b"\0\0\0\0", b"\x44\x20\x20\x20"])
@pytest.mark.parametrize(("order", "name"), [("<", "little-endian"), (">", "big-endian")])
def test_a_non_standard_stamp_gives_one_warning_and_the_right_volume(stamp, order, name, tmp_path):
    path = write_mrc(tmp_path, mode=1, order=order, stamp=stamp)
    with pytest.warns(
        InputWarning, match=rf"non-standard machine stamp \({stamp[:2].hex(' ')}\): read as {name}"
    ) as got:
        volume = read_mrc(path)
    assert len(got) == 1
    assert np.array_equal(volume.data, VALUES)


def test_a_stamp_that_contradicts_the_header_gives_one_warning_and_the_right_volume(tmp_path):
    path = write_mrc(tmp_path, stamp=b"\x11\x11\0\0")
    with pytest.warns(InputWarning, match="has the machine stamp of a big-endian file: read as little-endian"):
        assert np.array_equal(read_mrc(path).data, VALUES)


def test_the_other_little_endian_stamp_is_standard(tmp_path):
    assert np.array_equal(read_mrc(write_mrc(tmp_path, stamp=b"\x44\x41\0\0")).data, VALUES)


def test_a_file_without_map_mark_is_read_with_a_warning(tmp_path):
    path = write_mrc(tmp_path, map=b"\0\0\0\0", stamp=b"\0\0\0\0")
    message = r"has no 'MAP' mark and has a non-standard machine stamp \(00 00\): read as little-endian"
    with pytest.warns(InputWarning, match=message):
        assert np.array_equal(read_tomogram(path).data, VALUES)


def test_values_in_the_other_byte_order_than_the_header_are_refused(tmp_path):
    values = VALUES.copy()
    values[0] = 0  # as in a padded volume
    little, big = mrc_bytes(values), mrc_bytes(values, order=">")
    with pytest.raises(InputError, match="make sense only in the byte order that its header does not have"):
        read_mrc(write_bytes(tmp_path, little[:1024] + big[1024:]))


def test_hot_voxels_and_nan_are_not_taken_for_a_wrong_byte_order(tmp_path):
    values = VALUES.copy()
    values[1], values[2, 3, 4] = np.nan, 1e38
    assert np.array_equal(read_mrc(write_mrc(tmp_path, values=values)).data, values, equal_nan=True)


def test_values_that_make_sense_in_both_byte_orders_are_read(tmp_path):
    values = np.full(SHAPE, np.frombuffer(b"\x41\0\0\x41", "<f4"))
    assert np.array_equal(read_mrc(write_mrc(tmp_path, values=values)).data, values)


def test_an_absent_axis_order_is_read_as_x_y_z_with_a_warning(tmp_path):
    path = write_mrc(tmp_path, mapc=0, mapr=0, maps=0)
    with pytest.warns(InputWarning, match="states no axis order"):
        assert np.array_equal(read_mrc(path).data, VALUES)


def test_an_axis_order_that_is_none_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"must be 1, 2, 3 in some order; the header states 1, 2, 2\."):
        read_mrc(write_mrc(tmp_path, maps=2))


@pytest.mark.parametrize(("name", "length"), [("nx", 0), ("ny", -7), ("nz", 2**31 - 1), ("nx", 65536)])
def test_impossible_lengths_are_refused(name, length, tmp_path):
    path = write_mrc(tmp_path, **{name: length})
    with pytest.raises(InputError, match=rf"the header states .*{length}.* voxels; each length must be 1 to 65535"):
        read_mrc(path)


def test_a_huge_volume_is_refused_without_reserving_its_memory(tmp_path):
    path = write_mrc(tmp_path, nx=65535, ny=65535, nz=65535)
    tracemalloc.start()
    with pytest.raises(InputError, match="is cut short: the header promises 1125848368021500 bytes"):
        read_mrc(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10_000_000


@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress])
def test_truncated_data_are_refused_with_both_sizes(pack, tmp_path):
    path = write_bytes(tmp_path, pack(mrc_bytes()[:-100]))
    with pytest.raises(
        InputError, match=r"volume\.mrc is cut short: the header promises 1260 bytes of data, .* has 1160"
    ):
        read_mrc(path)


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress])
def test_a_truncated_compressed_file_is_refused(pack, tmp_path):
    path = write_bytes(tmp_path, pack(mrc_bytes(np.random.default_rng(1).normal(size=(20, 30, 40))))[:-5000])
    with pytest.raises(InputError, match="is cut short: its compressed data end too early"):
        read_mrc(path)


def test_a_damaged_compressed_file_is_refused(tmp_path):
    packed = bytearray(gzip.compress(mrc_bytes(np.random.default_rng(1).normal(size=(20, 30, 40)))))
    packed[-3000:-2000] = bytes(1000)
    with pytest.raises(InputError, match=r"cannot read .*volume\.mrc: "):
        read_mrc(write_bytes(tmp_path, packed))


def test_trailing_bytes_give_a_warning_with_their_count(tmp_path):
    path = write_bytes(tmp_path, mrc_bytes() + b"12345")
    with pytest.warns(InputWarning, match=r"volume\.mrc: 5 bytes after the data are ignored"):
        assert np.array_equal(read_mrc(path).data, VALUES)


@pytest.mark.parametrize("claimed", [-1, 2**30])
def test_an_extended_header_that_cannot_be_there_is_refused(claimed, tmp_path):
    with pytest.raises(InputError, match=rf"promises {claimed} more header bytes, the file has 1260"):
        read_mrc(write_mrc(tmp_path, nsymbt=claimed))


@pytest.mark.parametrize(
    ("written", "stated", "message"),
    [
        (2, 1, r"mode 1 \(int16\) means 630 bytes of data, the file has 1260, which is float32 exactly"),
        (1, 2, r"mode 2 \(float32\) means 1260 bytes of data, the file has 630, which is int16 exactly"),
        (0, 12, r"mode 12 \(float16\) means 630 bytes of data, the file has 315, which is int8 exactly"),
    ],
)
def test_a_mode_that_contradicts_the_file_size_is_refused(written, stated, message, tmp_path):
    content = bytearray(mrc_bytes(mode=written))
    content[12] = stated
    with pytest.raises(InputError, match=message):
        read_mrc(write_bytes(tmp_path, content))


def test_a_stack_of_volumes_is_refused(tmp_path):
    path = write_mrc(tmp_path, values=np.concatenate([VALUES, VALUES]), ispg=401, mz=5)
    with pytest.raises(InputError, match=r"is a stack of 2 volumes \(space group 401\), not one tomogram: split it"):
        read_mrc(path)


def test_a_stack_of_images_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"is a stack of 5 images \(space group 0, mz 1\), not a tomogram"):
        read_mrc(write_mrc(tmp_path, ispg=0, mz=1))


def test_a_volume_by_its_space_group_is_read_whatever_its_grid(tmp_path):
    assert np.array_equal(read_mrc(write_mrc(tmp_path, ispg=1, mz=1, cell_z=VOXEL_SIZE)).data, VALUES)


def test_an_image_is_refused(tmp_path):
    with pytest.raises(InputError, match="is a 2D image of 7 x 9 pixels, not a tomogram"):
        read_mrc(write_mrc(tmp_path, values=VALUES[:1]))


MRC_BYTES = mrc_bytes()
FIELD_BYTES = [offset + byte for offset in OFFSETS.values() for byte in range(4)]


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    flips=st.lists(
        st.tuples(
            st.one_of(st.sampled_from(FIELD_BYTES), st.integers(0, 1023)),
            st.one_of(st.sampled_from([0, 1, 2, 255]), st.integers(0, 255)),
        ),
        min_size=1,
        max_size=8,
    )
)
def test_any_header_gives_a_volume_or_a_one_line_refusal(flips, tmp_path):
    content = bytearray(MRC_BYTES)
    for place, value in flips:
        content[place] = value
    outcome = outcome_of(write_bytes(tmp_path, content))
    assert outcome.nbytes <= 2 * len(content) if isinstance(outcome, np.ndarray) else "\n" not in outcome


def outcome_of(path):
    """Return the voxels of a file, or the message with which it is refused."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", InputWarning)
            return read_tomogram(path).data
    except InputError as error:
        return str(error)


# foreign and unreadable files


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "an empty file"),
        (bytes(500), r"a file of 500 bytes \(the header of an MRC file alone has 1024\)"),
        (mrc_bytes()[:1000], r"a file of 1000 bytes"),
        (b"\n<html><body>404 Not Found</body></html>", "an HTML page"),
        (b"<!doctype HTML>" + bytes(2000), "an HTML page"),
        (b"\x89PNG\r\n\x1a\n" + bytes(2000), "a PNG picture"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:", r"a Git LFS pointer \(fetch .*git lfs pull"),
        (b"x,y,z\n1,2,3\n", "a text"),
        (b"x" * 3000, "a text"),
        (b"\x89HDF\r\n\x1a\n" + bytes(2000), "an HDF5 file"),
        (bytes(3000), "something unknown"),
        (gzip.compress(b"<html></html>"), "an HTML page"),
        (bytes(344) + b"ni1\0" + bytes(1000), r"half of a NIfTI pair \(\.hdr, \.img\): save it as one \.nii file"),
    ],
)
def test_a_foreign_file_is_refused_by_what_it_looks_like(content, words, tmp_path):
    path = write_bytes(tmp_path, content)
    with pytest.raises(InputError, match=rf"volume\.mrc is not a tomogram \(MRC, OME-Zarr or NIfTI\) but {words}"):
        read_tomogram(path)
    with pytest.raises(InputError, match=rf"volume\.mrc is not an MRC file but {words}"):
        read_mrc(path)


def test_each_function_refuses_the_other_formats_by_name(tmp_path):
    path = write_nifti(tmp_path)
    with pytest.raises(InputError, match=r"volume\.nii is not an MRC file but a NIfTI file"):
        read_mrc(path)
    with pytest.raises(InputError, match=r"volume\.nii is not a Zarr folder but a NIfTI file"):
        read_ome_zarr(path)
    with pytest.raises(InputError, match=r"volume\.zarr is not a NIfTI file but a Zarr folder"):
        read_nifti(write_ome_zarr(tmp_path))


def test_a_missing_file_is_refused_in_one_line(tmp_path):
    with pytest.raises(InputError, match=r"^cannot read .*absent\.mrc: no such file\.$"):
        read_tomogram(tmp_path / "absent.mrc")


def test_a_file_that_may_not_be_read_is_refused_in_one_line(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(InputError, match=r"^cannot read .*volume\.mrc: Permission denied\.$"):
        read_tomogram(tmp_path / "volume.mrc")


@pytest.mark.parametrize("work", [read_tomogram, read_extent, read_ome_zarr])
def test_an_address_is_refused_with_the_command_that_fetches_it(work):
    with pytest.raises(InputError, match=r"^s3://bucket/x\.zarr is not on this disk\. .* by: python -m scripts\.fetch"):
        work("s3://bucket/x.zarr")


def test_a_folder_without_zarr_metadata_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"but a folder without Zarr metadata \(zarr\.json, \.zarray, \.zgroup\)"):
        read_tomogram(tmp_path)


# OME-Zarr


@pytest.mark.parametrize(("wanted", "expected"), [(None, 5), (1.0, 5), (7.4, 5), (7.6, 10), (10.012, 10), (90.0, 20)])
def test_the_level_nearest_to_the_wanted_voxel_size_is_taken(wanted, expected, tmp_path):
    volume = read_tomogram(write_pyramid(tmp_path), wanted_voxel_size_angstrom=wanted)
    assert volume.voxel_size_angstrom == expected
    assert volume.data[1, 2, 4] == expected


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
    with pytest.raises(InputError, match=r"volume\.zarr: .*'0' is (missing or damaged|a group)"):
        read_ome_zarr(path)


@pytest.mark.parametrize("chunks", [[3, 4, 0], [3, 4], 3])
def test_impossible_chunk_lengths_are_refused(chunks, tmp_path):
    path = write_array(tmp_path / "a.zarr")
    metadata = json.loads((path / ".zarray").read_text()) | {"chunks": chunks}
    (path / ".zarray").write_text(json.dumps(metadata))
    with pytest.raises(InputError, match=r"a\.zarr is a damaged Zarr folder: "):
        read_ome_zarr(path)


def test_an_unknown_codec_is_refused_by_name(tmp_path):
    path = write_array(tmp_path / "a.zarr")
    metadata = json.loads((path / ".zarray").read_text()) | {"compressor": {"id": "magic"}}
    (path / ".zarray").write_text(json.dumps(metadata))
    with pytest.raises(InputError, match=r"a\.zarr is a damaged Zarr folder: .*magic"):
        read_ome_zarr(path)


def test_a_level_that_is_not_there_is_refused(tmp_path):
    path = write_group(tmp_path / "a.zarr", multiscales((5.0, 10.0)))
    write_array(path / "1")
    with pytest.raises(InputError, match=r"the array '0' is missing or damaged; the folder holds 1\."):
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
    ],
)
def test_malformed_descriptions_are_refused(described, tmp_path):
    path = write_ome_zarr(tmp_path)
    (path / ".zattrs").write_text(json.dumps({"multiscales": described}))
    with pytest.raises(InputError, match=r"volume\.zarr: its 'multiscales' metadata are not valid: "):
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


# writing OME-Zarr


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
    assert volume.data[2, 3, 4] == VALUES[4, 6, 8]  # the odd rest of all three axes
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
    values = np.random.default_rng(1).normal(size=(64, 128, 130)).astype(np.float32)  # several blocks to a chunk
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


# NIfTI


def test_scaled_nifti_values_come_out_as_their_true_numbers(tmp_path):
    image = nibabel.Nifti1Image(VALUES.T.astype(np.int16), np.eye(4))
    image.header.set_slope_inter(0.5, 3.0)
    content = bytearray(image.to_bytes())
    struct.pack_into("<2f", content, 112, 0.5, 3.0)  # scl_slope, scl_inter
    assert np.allclose(read_nifti(write_bytes(tmp_path, content)).data, VALUES * 0.5 + 3)


def test_a_nifti_2_file_is_read(tmp_path):
    content = nibabel.Nifti2Image(VALUES.T, np.diag([8.0, 8, 8, 1])).to_bytes()
    volume = read_tomogram(write_bytes(tmp_path, content))
    assert np.array_equal(volume.data, VALUES)
    assert volume.voxel_size_angstrom == 8


def test_a_big_endian_nifti_file_is_read(tmp_path):
    header = nibabel.Nifti1Header(endianness=">")
    header.set_data_dtype(np.int16)
    content = nibabel.Nifti1Image(VALUES.T.astype(">i2"), np.diag([8.0, 8, 8, 1]), header).to_bytes()
    volume = read_tomogram(write_bytes(tmp_path, content))
    assert content[:4] == b"\0\0\x01\x5c"
    assert volume.data.dtype.isnative
    assert np.array_equal(volume.data, VALUES)


def test_the_nifti_affine_keeps_its_directions_and_origin(tmp_path):
    affine = np.array([[-8.0, 0, 0, 50], [0, 0, 8, 60], [0, 8, 0, 70], [0, 0, 0, 1]])
    volume = read_nifti(write_nifti(tmp_path, affine=affine))
    assert np.allclose(volume.affine @ (1, 2, 4, 1), affine @ (4, 2, 1, 1))


def test_a_nifti_affine_that_contradicts_the_spacing_takes_its_scale(tmp_path):
    content = bytearray(write_nifti(tmp_path).read_bytes())
    struct.pack_into("<3f", content, 80, 5.0, 5.0, 5.0)  # pixdim
    path = write_bytes(tmp_path, content)
    with pytest.warns(InputWarning, match=r"affine has voxels of 10\.012 Å, the spacing 5 Å; the spacing counts"):
        volume = read_nifti(path)
    assert volume.voxel_size_angstrom == 5
    assert np.allclose(volume.affine @ (1, 2, 4, 1), (20, 10, 5, 1))


@pytest.mark.parametrize(
    "rows", [[float("nan")] * 12, [0.0] * 12, [10, 0, 0, float("nan"), 0, 10, 0, 0, 0, 0, 10, 0]], ids=str
)
def test_a_nifti_affine_that_is_none_is_replaced(rows, tmp_path):
    content = bytearray(write_nifti(tmp_path).read_bytes())
    struct.pack_into("<h", content, 254, 2)  # sform code
    struct.pack_into("<12f", content, 280, *rows)
    volume = read_nifti(write_bytes(tmp_path, content))
    assert np.allclose(volume.affine @ (1, 2, 4, 1), (4 * VOXEL_SIZE, 2 * VOXEL_SIZE, VOXEL_SIZE, 1))


@pytest.mark.parametrize(("codes", "expected"), [((0, 0), None), ((1, 0), 1.0), ((0, 1), 1.0)])
def test_an_untouched_nifti_spacing_of_one_states_no_voxel_size(codes, expected, tmp_path):
    path = write_nifti(tmp_path, affine=np.eye(4), codes=codes)
    assert read_nifti(path).voxel_size_angstrom == expected


def test_a_nifti_series_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"volume\.nii holds 9 x 7 x 5 x 2 values of type float32; a tomogram is one"):
        read_nifti(write_nifti(tmp_path, np.stack([VALUES, VALUES])))


def test_complex_nifti_values_are_refused(tmp_path):
    with pytest.raises(InputError, match="holds 9 x 7 x 5 values of type complex64"):
        read_nifti(write_nifti(tmp_path, VALUES.astype(np.complex64)))


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_truncated_nifti_file_is_refused_with_both_sizes(pack, tmp_path):
    content = pack(write_nifti(tmp_path).read_bytes()[:-100])
    with pytest.raises(InputError, match="is cut short: the header promises 1260 bytes of data, the file has 1160"):
        read_nifti(write_bytes(tmp_path, content))


def test_impossible_nifti_lengths_are_refused(tmp_path):
    content = bytearray(write_nifti(tmp_path).read_bytes())
    struct.pack_into("<h", content, 42, 0)
    with pytest.raises(InputError, match="the header states 0 x 7 x 5 voxels; each length must be at least 1"):
        read_nifti(write_bytes(tmp_path, content))


def test_an_unknown_nifti_type_is_refused(tmp_path):
    content = bytearray(write_nifti(tmp_path).read_bytes())
    struct.pack_into("<h", content, 70, 999)
    with pytest.raises(InputError, match=r"volume\.mrc is a damaged NIfTI file: .*999"):
        read_nifti(write_bytes(tmp_path, content))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(flips=st.lists(st.tuples(st.integers(0, 343), st.integers(0, 255)), min_size=1, max_size=6))
def test_any_nifti_header_gives_a_volume_or_a_one_line_refusal(flips, tmp_path):
    content = bytearray(write_nifti(tmp_path).read_bytes())
    for place, value in flips:
        content[place] = value
    outcome = outcome_of(write_bytes(tmp_path, content))
    assert outcome.nbytes <= 8 * len(content) if isinstance(outcome, np.ndarray) else "\n" not in outcome


# Headers alone


@pytest.mark.parametrize("kind", TWINS)
def test_the_header_alone_tells_shape_and_voxel_size(kind, tmp_path):
    shape, voxel_size = read_extent(TWINS[kind](tmp_path))
    assert (shape, voxel_size) == (SHAPE, pytest.approx(VOXEL_SIZE, rel=1e-5))


def test_the_extent_needs_no_data(tmp_path):
    cut = write_bytes(tmp_path, mrc_bytes()[:1024])
    assert read_extent(cut)[0] == SHAPE


def test_the_extent_is_that_of_the_level_nearest_to_a_stated_voxel_size(tmp_path):
    assert read_extent(write_pyramid(tmp_path)) == (SHAPE, 5.0)
    assert read_extent(tmp_path / "pyramid.zarr", 20.0) == (SHAPE, 20.0)


def test_an_extent_without_voxel_size_or_of_no_tomogram_is_refused(tmp_path):
    bare = write_mrc(tmp_path, cell_x=0.0, cell_y=0.0, cell_z=0.0)
    assert read_extent(bare, 7.0) == (SHAPE, 7.0)
    with pytest.raises(InputError, match="states no voxel size: set voxel_size_angstrom"):
        read_extent(bare)
    with pytest.raises(InputError, match=r"is not a tomogram .* but a text"):
        read_extent(write_bytes(tmp_path, b"x y z"))
