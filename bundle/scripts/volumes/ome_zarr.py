"""The OME-Zarr format: finding the array to read, its voxel size, and whether it is complete.

Zarr formats 2 and 3 are read. Translations in the metadata are left out: coordinates count from the first voxel of a
level. One of more than half a voxel, which the levels of a pyramid do not need, is a warning.
"""

from __future__ import annotations

import itertools
import lzma
import math
import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import zarr
from numpy.typing import NDArray

from scripts.coordinates import SizeZYX
from scripts.errors import InputError, InputWarning, blame, reason_of
from scripts.file_pages import FilePages, is_large, new_volume
from scripts.memory import require_memory
from scripts.volumes.zarr_chunks import chunk_layout, chunk_names, refuse_incomplete_chunks

ZARR_MARKS = ("zarr.json", ".zarray", ".zgroup")  # a folder with one of these files is a Zarr folder
MAX_VOXELS = 2**36  # far more than the largest tomogram has
LARGEST_SHIFT_VOX = 0.5 + 1e-3  # levels of means over voxels are moved by less, origins at a corner by half a voxel
ANGSTROM_PER_UNIT = {None: 1.0, "angstrom": 1.0, "nanometer": 10.0, "micrometer": 1e4}
USUAL_AXES = ("t", "c", "z", "y", "x")
ZARR_FAULTS = (  # exceptions of the library and its codecs for damaged metadata and chunks
    *(KeyError, ValueError, TypeError, AttributeError, IndexError, ArithmeticError, NotImplementedError),
    *(RuntimeError, SystemError, OSError, EOFError, zlib.error, lzma.LZMAError),
    getattr(zarr.errors, "MetadataError", ValueError),  # zarr 2 only
)


class Level(NamedTuple):
    """One resolution of a pyramid.

    Attributes:
        path: of its array, below the folder.
        axes: their names; None if not stated.
        size_zyx_angstrom: its voxel size; None if not stated.
        first_zyx_vox: where the metadata put the centre of the first voxel, ``(z, y, x)`` in voxels of this level.
    """

    path: str
    axes: tuple[str, ...] | None = None
    size_zyx_angstrom: SizeZYX | None = None
    first_zyx_vox: SizeZYX = (0.0, 0.0, 0.0)


def is_zarr(folder: Path) -> bool:
    """Return whether a folder holds the metadata of a Zarr array or group."""
    return any((folder / mark).is_file() for mark in ZARR_MARKS)


def load_ome_zarr(
    folder: Path,
    wanted_voxel_size_angstrom: float | None = None,
    allow_missing_chunks: bool = False,
    memory_gib: float | None = None,
) -> tuple[NDArray[Any], SizeZYX | None]:
    """Return one level of a pyramid, or a plain array, and its voxel size.

    Args:
        folder: the Zarr folder.
        wanted_voxel_size_angstrom: the level nearest to it is read; None reads the finest.
        allow_missing_chunks: treat chunks that are not stored as full of the fill value.
        memory_gib: of the whole program: an array that takes too much of it is kept in a temporary file, see
            `file_pages`; None for memory.

    Returns:
        The volume ``[z, y, x]`` in the array's own type and native byte order, out of a temporary file in float32; and
        its voxel size ``(z, y, x)`` in ångströms; None if the metadata states none.

    Raises:
        InputError: the folder is damaged or incomplete, or does not hold one volume of numbers.
    """
    with _faults_named(folder):
        return _load_level(folder, wanted_voxel_size_angstrom, allow_missing_chunks, memory_gib)


def ome_zarr_extent(
    folder: Path, wanted_voxel_size_angstrom: float | None = None
) -> tuple[tuple[int, int, int], SizeZYX | None]:
    """Return the shape ``(Z, Y, X)`` and the voxel size of what `load_ome_zarr` would load, from the metadata alone.

    Raises:
        InputError: the metadata is damaged, or does not describe one volume of numbers.
    """
    with _faults_named(folder):
        level, array, _, axes = _open_level(folder, wanted_voxel_size_angstrom)
        _warn_of_translation(folder, level)
        z, y, x = (int(array.shape[axes.index(axis)]) for axis in "zyx")
        return (z, y, x), level.size_zyx_angstrom


def find_level(folder: Path, wanted_voxel_size_angstrom: float | None = None) -> Level:
    """Return the level that `load_ome_zarr` would load, from the metadata of the folder itself; no array is opened.

    Raises:
        InputError: the metadata is damaged, or does not say which array to read.
    """
    with _faults_named(folder):
        return _nearest_level(_levels(folder, zarr.open(str(folder), mode="r")), wanted_voxel_size_angstrom)


def level_sizes(folder: Path) -> dict[str, float]:
    """Return the voxel sizes in ångströms that a pyramid states, by its arrays; a plain array states none.

    Raises:
        InputError: the metadata is damaged, or does not say which array to read.
    """
    with _faults_named(folder):
        levels = _levels(folder, zarr.open(str(folder), mode="r"))
    return {level.path: math.fsum(level.size_zyx_angstrom) / 3 for level in levels if level.size_zyx_angstrom}


def list_chunks(folder: Path) -> tuple[Iterator[str], int, int]:
    """Return which files an array should have according to its metadata, whether or not they exist.

    Args:
        folder: a pyramid with the metadata of its only level, or a plain array.

    Returns:
        Paths below the array of the files of its chunks (of its shards, if it has any), their number, and the bytes of
        one chunk before compression.

    Raises:
        InputError: the metadata is damaged, or does not describe one volume of numbers.
    """
    with _faults_named(folder):
        level, array, _, _ = _open_level(folder, None)
        names, lengths = chunk_names(folder / level.path, array.shape), chunk_layout(folder / level.path).lengths
        count = math.prod(-(-length // step) for length, step in zip(array.shape, lengths, strict=True))
        return names, count, math.prod(lengths) * np.dtype(array.dtype).itemsize


def check_ome_zarr(folder: Path, allow_missing_chunks: bool = False) -> None:
    """Check that `load_ome_zarr` can read a folder, by reading it chunk by chunk without keeping the values.

    Raises:
        InputError: as `load_ome_zarr`.
    """
    with _faults_named(folder):
        level, array, label, _ = _open_level(folder, None)
        refuse_incomplete_chunks(folder / level.path, array.shape, allow_missing_chunks)
        place = _first_damage(array)
        if place is not None:
            raise InputError(f"{label} has a damaged chunk at {place}.")


@contextmanager
def _faults_named(folder: Path) -> Iterator[None]:
    """Turn exceptions of the library into an ``InputError`` that names the folder."""
    if (folder / "zarr.json").is_file() and int(zarr.__version__.split(".")[0]) < 3:
        raise InputError(f"{folder} has Zarr format 3, which zarr {zarr.__version__} cannot read: install zarr 3.")
    with blame(folder, "Zarr folder", ZARR_FAULTS):
        yield


def _load_level(
    folder: Path, wanted_angstrom: float | None, allow_missing_chunks: bool, memory_gib: float | None
) -> tuple[NDArray[Any], SizeZYX | None]:
    level, array, label, axes = _open_level(folder, wanted_angstrom)
    _warn_of_translation(folder, level)
    refuse_incomplete_chunks(folder / level.path, array.shape, allow_missing_chunks)
    if memory_gib is not None and is_large(4 * math.prod(array.shape), memory_gib):
        values = _read_into_file(label, array, axes, memory_gib)
    else:
        require_memory(array.nbytes, label, "take a machine with more memory, or convert the tomogram to MRC")
        values = _read_all(label, array)
    spatial = [name for name in axes if name in "zyx"]
    volume = values.reshape([values.shape[axes.index(name)] for name in spatial])
    volume = volume.transpose([spatial.index(name) for name in "zyx"])
    return volume.astype(values.dtype.newbyteorder("="), copy=False), level.size_zyx_angstrom


def _open_level(folder: Path, wanted_angstrom: float | None) -> tuple[Level, Any, str, Sequence[str]]:
    """Return a level, its array (not read yet), its name in messages, and the names of its axes."""
    node: Any = zarr.open(str(folder), mode="r")
    level = _nearest_level(_levels(folder, node), wanted_angstrom)
    array = _named_array(folder, node, level.path) if level.path else node
    label = f"{folder}: the array '{level.path}'" if level.path else f"{folder}: the array"
    axes = level.axes or USUAL_AXES[-max(len(array.shape), 3) :]
    _check_array(label, array, axes)
    return level, array, label, axes


def _levels(folder: Path, node: Any) -> list[Level]:
    """List the resolutions in a Zarr folder; a plain array is one level without voxel size."""
    if hasattr(node, "shape"):
        return [Level("")]
    attributes = dict(node.attrs)
    described = attributes["ome"] if isinstance(attributes.get("ome"), Mapping) else attributes
    if "multiscales" in described:
        return _described_levels(folder, described["multiscales"])
    names = _names_within(folder)
    if len(names) == 1:
        return [Level(names[0])]
    remedy = f"; it holds {', '.join(names)}" if names else ": give the array itself"
    raise InputError(f"{folder} has no 'multiscales' metadata that say which array to read{remedy}.")


def _names_within(group: Path) -> list[str]:
    return sorted(path.name for path in group.iterdir() if is_zarr(path))


def _described_levels(folder: Path, multiscales: Any) -> list[Level]:
    try:
        multiscale = multiscales[0]
        axes = [axis if isinstance(axis, Mapping) else {"name": axis} for axis in multiscale.get("axes", [])]
        names = tuple(str(axis["name"]).lower() for axis in axes) or None
        known = names or ("z", "y", "x")
        units = [axis.get("unit") for axis in axes] or [None] * 3
        levels = []
        for dataset in multiscale["datasets"]:
            scale, shift = _scale_and_shift_of(len(known), dataset, multiscale)
            size_zyx = _size_zyx_angstrom(folder, scale, known, units)
            levels.append(Level(str(dataset["path"]), names, size_zyx, _first_zyx_vox(scale, shift, known)))
    except InputError:
        raise
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
        raise InputError(f"{folder}: its 'multiscales' metadata are not valid: {reason_of(error)}.") from error
    if not levels:
        raise InputError(f"{folder}: its 'multiscales' metadata name no array.")
    if levels[0].size_zyx_angstrom is None:  # a bare scale counts voxels of the finest level
        return [level._replace(size_zyx_angstrom=None) for level in levels]
    return levels


def _scale_and_shift_of(axes: int, *described: Mapping[str, Any]) -> tuple[list[float] | None, list[float]]:
    """Return what all coordinate transformations together multiply indices by (None if there is no scale) and add."""
    listed = [one for part in described for one in part.get("coordinateTransformations", [])]
    transformations = [one for one in listed if one["type"] != "identity"]
    kinds = {one["type"] for one in transformations}
    others = kinds - {"scale", "translation"}
    if others:
        raise ValueError(f"the transformation '{min(others)}' is not supported, only a scale and a translation")
    scale, shift = [1.0] * axes, [0.0] * axes
    for one in transformations:
        values = [float(value) for value in one[one["type"]]]
        if one["type"] == "scale":
            scale, shift = ([a * b for a, b in zip(each, values, strict=True)] for each in (scale, shift))
        else:
            shift = [a + b for a, b in zip(shift, values, strict=True)]
    return scale if "scale" in kinds else None, shift


def _first_zyx_vox(scale: Sequence[float] | None, shift: Sequence[float], names: Sequence[str]) -> SizeZYX:
    """Return where the centre of the first voxel lies, in voxels; 0 on all axes if some of them have no name."""
    if not set("zyx") <= set(names):
        return 0.0, 0.0, 0.0
    z, y, x = (shift[place] / (scale[place] if scale else 1.0) for place in map(names.index, "zyx"))
    return z, y, x


def _warn_of_translation(folder: Path, level: Level) -> None:
    if all(abs(index) <= LARGEST_SHIFT_VOX for index in level.first_zyx_vox):
        return
    place = ", ".join(f"{index:g}" for index in level.first_zyx_vox)
    warnings.warn(
        f"{folder}: its metadata put the first voxel of '{level.path}' at ({place}) voxels (z, y, x). It is left out, "
        "coordinates count from the first voxel: add it to picks for a program that applies this translation, and "
        "subtract it from picks of such a program.",
        InputWarning,
        stacklevel=2,
    )


def _size_zyx_angstrom(
    folder: Path, factors: Sequence[float] | None, names: Sequence[str], units: Sequence[str | None]
) -> SizeZYX | None:
    """Return the voxel size that a scale states; None for a scale of 1 on all axes without a unit."""
    if factors is None or not set("zyx") <= set(names):
        return None
    sizes = {}
    for name, factor, unit in zip(names, factors, units, strict=True):
        if name in "zyx":
            if unit not in ANGSTROM_PER_UNIT:
                raise InputError(f"{folder}: axis {name} is in '{unit}'; use angstrom, nanometer or micrometer.")
            sizes[name] = factor * ANGSTROM_PER_UNIT[unit]
    if not all(0 < size < math.inf for size in sizes.values()):
        raise InputError(f"{folder}: its 'multiscales' metadata state a voxel size of {min(sizes.values()):g} Å.")
    if set(sizes.values()) == {1.0} and not any(units):
        return None
    return sizes["z"], sizes["y"], sizes["x"]


def _nearest_level(levels: Sequence[Level], wanted_angstrom: float | None) -> Level:
    sized = [(math.fsum(level.size_zyx_angstrom) / 3, level) for level in levels if level.size_zyx_angstrom]
    if not sized:
        return levels[0]  # the standard lists the finest first
    return min(sized, key=lambda pair: pair[0] if wanted_angstrom is None else abs(pair[0] - wanted_angstrom))[1]


def _named_array(folder: Path, group: Any, name: str) -> Any:
    try:
        found = group[name]
    except ZARR_FAULTS as error:
        if is_zarr(folder / name):
            raise InputError(f"{folder}: the array '{name}' cannot be opened: {reason_of(error)}.") from error
        there = ", ".join(_names_within(folder)) or "nothing"
        raise InputError(f"{folder}: the array '{name}' is missing; the folder holds {there}.") from error
    if not hasattr(found, "shape"):
        raise InputError(f"{folder}: '{name}' is a group, not an array; give {folder / name} if that is the tomogram.")
    return found


def _check_array(label: str, array: Any, axes: Sequence[str]) -> None:
    shape = " x ".join(str(length) for length in array.shape)
    if np.dtype(array.dtype).kind not in "iuf":
        raise InputError(f"{label} holds values of type {array.dtype}, not plain numbers.")
    if len(axes) != len(array.shape) or sorted(name for name in axes if name in "zyx") != ["x", "y", "z"]:
        named = ", ".join(axes)
        raise InputError(
            f"{label} has the axes ({named}) and the shape {shape}; a tomogram needs each of z, y, x once."
        )
    if min(array.shape) < 1 or math.prod(array.shape) > MAX_VOXELS:
        raise InputError(f"{label} states {shape} voxels; a tomogram has 1 to {MAX_VOXELS}.")
    for name, length in zip(axes, array.shape, strict=True):
        if name not in "zyx" and length != 1:
            raise InputError(f"{label} has {length} entries along axis {name}; a tomogram is one volume: split it.")


def _read_all(label: str, array: Any) -> NDArray[Any]:
    with _damage_named(label, array):
        return np.asarray(array[...])


def _read_into_file(label: str, array: Any, axes: Sequence[str], memory_gib: float) -> NDArray[np.float32]:
    """Return an array in float32, read one row of chunks along x at a time."""
    values = new_volume(array.shape, memory_gib)
    steps = [
        range(0, length, step if axis in "zy" else length)
        for axis, length, step in zip(axes, array.shape, array.chunks, strict=True)
    ]
    with _damage_named(label, array):
        for corner in FilePages(values).after_each(itertools.product(*steps)):
            place = tuple(slice(first, first + along.step) for first, along in zip(corner, steps, strict=True))
            values[place] = array[place]
    return values


@contextmanager
def _damage_named(label: str, array: Any) -> Iterator[None]:
    """Turn exceptions of the library while an array is read into an ``InputError`` that names the first bad chunk."""
    try:
        yield
    except ZARR_FAULTS as error:
        place = _first_damage(array) or "an unknown place"
        raise InputError(f"{label} has a damaged chunk at {place}: {reason_of(error)}.") from error


def _first_damage(array: Any) -> str | None:
    """Return a description of where the first unreadable chunk is; None if all can be read."""
    starts = [range(0, count, length) for count, length in zip(array.shape, array.chunks, strict=True)]
    for corner in itertools.product(*starts):
        try:
            array[tuple(slice(first, first + length) for first, length in zip(corner, array.chunks, strict=True))]
        except ZARR_FAULTS:
            return f"voxel {corner}"
    return None
