"""One volume in every file format that is read, intact or damaged."""

import bz2
import gzip
import itertools
import json
import struct
import warnings

import nibabel
import numpy as np
import pytest
import zarr
from scripts.errors import InputError, InputWarning
from scripts.volumes.reading import read_tomogram

SHAPE = (5, 7, 9)
VOXEL_SIZE = 10.012
VALUES = np.random.default_rng(7).integers(0, 120, SHAPE).astype(np.float32)  # whole numbers that every type can hold
DTYPES = {0: "i1", 1: "i2", 2: "f4", 6: "u2", 12: "f2"}
AXES = list(itertools.permutations((1, 2, 3)))
ZARR_3 = pytest.mark.skipif(zarr.__version__.startswith("2."), reason="zarr 2 cannot read Zarr format 3")
OFFSETS = {
    "nx": 0, "ny": 4, "nz": 8, "mode": 12, "mx": 28, "my": 32, "mz": 36, "cell_x": 40, "cell_y": 44, "cell_z": 48,
    "start_x": 16, "minimum": 76, "mapc": 64, "mapr": 68, "maps": 72, "ispg": 88, "nsymbt": 92, "section_bytes": 128,
    "imod_stamp": 152, "imod_flags": 156, "origin_x": 196, "map": 208, "stamp": 212,
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
    """Write an uncompressed Zarr array file by file, so that it does not depend on the library's version."""
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


def outcome_of(path):
    """Return the voxels of a file, or the message with which it is refused."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", InputWarning)
            return read_tomogram(path).data
    except InputError as error:
        return str(error)
