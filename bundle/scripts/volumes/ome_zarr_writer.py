"""Write a volume as an OME-Zarr pyramid.

Zarr format 2 is written without the Zarr library, so that the bytes do not depend on its version.
"""

from __future__ import annotations

import itertools
import json
import math
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numcodecs import Blosc
from numpy.typing import NDArray

from scripts.atomic_files import write_folder_atomically
from scripts.errors import InputError
from scripts.volumes.ome_zarr import is_zarr

COMPRESSION = {"cname": "lz4", "clevel": 5, "shuffle": 1, "blocksize": 0}  # as in the tomograms of the challenge
WRITER_THREADS = 4  # each holds one chunk and its compressed copy


def write_ome_zarr(
    folder: str | Path, volume: NDArray[Any], voxel_size_angstrom: float, levels: int = 3, chunk_side: int = 256
) -> None:
    """Write a volume as a pyramid, each level the mean of 2 x 2 x 2 voxels of the one before.

    The folder gets its name only once it is complete. An existing Zarr folder of that name is replaced, but stays
    unchanged if anything goes wrong. The same volume always gives the same bytes.

    Odd lengths are rounded up: the last voxel is the mean of the voxels that exist. The translation of a binned level
    is the position of the centre of its first voxel; in the finest level that position is 0.

    Args:
        folder: the pyramid, called ``*.zarr``; folders above it are created if needed.
        volume: ``[z, y, x]``, written as float32.
        voxel_size_angstrom: of the finest level.
        levels: number of levels.
        chunk_side: longest side of a chunk in voxels.

    Raises:
        InputError: the folder cannot be written, or something else than a Zarr folder has its name.
    """
    values = np.asarray(volume, dtype="<f4")
    if values.ndim != 3 or values.size == 0:
        raise ValueError(f"volume must have three axes [z, y, x] and a voxel; got shape {values.shape}.")
    if not 0 < voxel_size_angstrom < math.inf:
        raise ValueError(f"voxel_size_angstrom is a positive number of ångströms; got {voxel_size_angstrom}.")
    if levels < 1 or chunk_side < 1:
        raise ValueError(f"levels and chunk_side must be 1 or more; got {levels} and {chunk_side}.")
    target = Path(os.path.realpath(folder))
    if target.exists() and not is_zarr(target):
        raise InputError(f"cannot write {target}: something else than a Zarr folder stands there. Move it away.")
    with write_folder_atomically(target) as new:
        _write_json(new / ".zgroup", {"zarr_format": 2})
        _write_json(new / ".zattrs", {"multiscales": [_multiscale(float(voxel_size_angstrom), levels)]})
        for level in range(levels):
            values = values if level == 0 else _binned(values)
            _write_array(new / str(level), values, chunk_side)


def _multiscale(voxel_size_angstrom: float, levels: int) -> dict[str, Any]:
    datasets: list[dict[str, Any]] = []
    for level in range(levels):
        factor = 2**level
        places = [{"type": "scale", "scale": [voxel_size_angstrom * factor] * 3}]
        if level > 0:
            places.append({"type": "translation", "translation": [voxel_size_angstrom * (factor - 1) / 2] * 3})
        datasets.append({"path": str(level), "coordinateTransformations": places})
    axes = [{"name": name, "type": "space", "unit": "angstrom"} for name in "zyx"]
    return {"version": "0.4", "name": "tomogram", "type": "mean", "axes": axes, "datasets": datasets}


def _binned(values: NDArray[np.float32]) -> NDArray[np.float32]:
    for axis in range(3):
        rows = np.moveaxis(values, axis, 0)
        halved = rows[::2].copy()  # the last row of an odd length is not averaged
        halved[: len(rows) // 2] = (halved[: len(rows) // 2] + rows[1::2]) / 2
        values = np.moveaxis(halved, 0, axis)
    return np.ascontiguousarray(values)


def _write_array(folder: Path, values: NDArray[np.float32], chunk_side: int) -> None:
    lengths = [min(length, chunk_side) for length in values.shape]
    metadata = {"zarr_format": 2, "shape": values.shape, "chunks": lengths, "dtype": values.dtype.str, "order": "C"}
    metadata |= {"compressor": {"id": "blosc", **COMPRESSION}, "filters": None, "fill_value": 0.0}
    _write_json(folder / ".zarray", {**metadata, "dimension_separator": "/"})

    def write_chunk(place: tuple[int, ...]) -> None:
        parts = [slice(i * length, (i + 1) * length) for i, length in zip(place, lengths, strict=True)]
        chunk = np.zeros(lengths, values.dtype)  # Zarr stores the last chunks along an axis in full size
        part = values[tuple(parts)]
        chunk[tuple(slice(length) for length in part.shape)] = part
        _write_bytes(folder.joinpath(*map(str, place)), Blosc(**COMPRESSION).encode(chunk))

    # In the main thread Blosc would use threads of its own and store its blocks in the order in which they finish.
    with ThreadPoolExecutor(WRITER_THREADS) as threads:
        counts = [range(-(-count // length)) for count, length in zip(values.shape, lengths, strict=True)]
        list(threads.map(write_chunk, itertools.product(*counts)))


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    _write_bytes(path, (json.dumps(content, indent=4) + "\n").encode())


def _write_bytes(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
