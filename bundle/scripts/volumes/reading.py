"""Reading tomograms from MRC, OME-Zarr and NIfTI files; the format is recognised by content, not by name.

Every volume is returned as ``[z, y, x]`` with its voxel size in ångströms. Origins, start indices and translations in a
file are left out: coordinates count from the first voxel.
"""

from __future__ import annotations

import bz2
import gzip
import logging
import math
import os
import re
import warnings
import zlib
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scripts.coordinates import SizeZYX, affine_of
from scripts.errors import InputError, InputWarning, without_user
from scripts.volumes.mrc import MRC_HEADER_BYTES, is_mrc, parse_mrc, parse_mrc_extent
from scripts.volumes.nifti import is_nifti, is_nifti_pair, parse_nifti, parse_nifti_extent
from scripts.volumes.ome_zarr import ZARR_MARKS, is_zarr, level_sizes, load_ome_zarr, ome_zarr_extent

logger = logging.getLogger(__name__)

PathLike = str | os.PathLike  # type: ignore[type-arg]  # as in MONAI

ADDRESS = re.compile(r"([a-z][a-z0-9+.-]+):/+(?=.)", re.IGNORECASE)  # two letters or more: C:/ is a disk
NAME_ENDINGS = re.compile(r"((\.ome)?\.zarr|\.(mrc|rec|st|map|nii)(\.gz|\.bz2)?)$", re.IGNORECASE)
MRC, NIFTI, ZARR = "an MRC file", "a NIfTI file", "a Zarr folder"
GZIP_MAGIC, BZIP2_MAGIC = b"\x1f\x8b\x08", b"BZh"
OTHER_BEGINNINGS = {  # other content that files with the name of a tomogram may have
    b"version https://git-lfs": "a Git LFS pointer (fetch the file itself with 'git lfs pull')",
    b"<!doctype html": "an HTML page",
    b"<html": "an HTML page",
    b"<?xml": "an XML text",
    b"\x89png": "a PNG picture",
    b"\xff\xd8\xff": "a JPEG picture",
    b"ii*\0": "a TIFF picture",
    b"mm\0*": "a TIFF picture",
    b"\x89hdf": "an HDF5 file",
    b"pk\3\4": "a ZIP archive (unpack it)",
    b"\xfd7zxz": "an xz archive (unpack it)",
    b"\x28\xb5\x2f\xfd": "a zstd archive (unpack it)",
}
VOXEL_SIZE_REMEDY = "set voxel_size_angstrom (e.g. --voxel_size_angstrom 10.012)"
HEADER_TOLERANCE = 0.005  # relative; smaller differences between the voxel sizes of the axes are rounding errors
LEVEL_TOLERANCE = math.log(1.2)  # of a level's voxel size and the one that the user states; levels differ by factors
STATED_TOLERANCE = 0.001  # relative; if the user's voxel size differs by more from the file's, a warning is given


@dataclass(frozen=True)
class Volume:
    """One tomogram.

    Attributes:
        data: ``[z, y, x]`` in the file's own type, native byte order; possibly memory-mapped and read-only.
        voxel_size_angstrom: None if neither the file nor the user states it.
        affine: ``4 x 4``, maps an index ``(z, y, x, 1)`` to ``(x, y, z, 1)`` in ångströms. If the voxel size is None,
            1 Å is used.
    """

    data: NDArray[Any]
    voxel_size_angstrom: float | None
    affine: NDArray[np.float64]


def is_tomogram(path: PathLike) -> bool:
    """Return whether a file or folder is a tomogram by its name; hidden ones (``._x.mrc``) are not."""
    ending = NAME_ENDINGS.search(Path(path).name)
    if ending is None or Path(path).name.startswith("."):
        return False
    return ending[0].lower().endswith(".zarr") == Path(path).is_dir()


def stem_of(path: PathLike) -> str:
    """Return the name of a tomogram's file or folder without the ending of its format."""
    return NAME_ENDINGS.sub("", Path(path).name)


def read_tomogram(
    path: PathLike,
    voxel_size_angstrom: float | None = None,
    wanted_voxel_size_angstrom: float | None = None,
    allow_missing_chunks: bool = False,
    memory_gib: float | None = None,
) -> Volume:
    """Read a tomogram of any of the formats.

    Args:
        path: an MRC or NIfTI file, possibly compressed with gzip or bzip2, or a Zarr folder, under any name.
        voxel_size_angstrom: overrides the voxel size in the file; if they differ, a warning is given.
        wanted_voxel_size_angstrom: of an OME-Zarr pyramid the level nearest to it is read; None reads the finest.
        allow_missing_chunks: treat chunks that are missing in a Zarr folder as full of the fill value.
        memory_gib: of the whole program: a Zarr array that takes too much of it is kept as float32 in a temporary file,
            see `file_pages`. None reads it into memory. A file that is not compressed is mapped anyway.

    Raises:
        InputError: the file cannot be read or is inconsistent, or its voxel size is not known.
    """
    found = content_of(path)
    if found == MRC:
        volume = read_mrc(path, voxel_size_angstrom)
    elif found == NIFTI:
        volume = read_nifti(path, voxel_size_angstrom)
    elif found == ZARR:
        volume = read_ome_zarr(path, wanted_voxel_size_angstrom, voxel_size_angstrom, allow_missing_chunks, memory_gib)
    else:
        raise InputError(f"{path} is not a tomogram (MRC, OME-Zarr or NIfTI) but {found}.")
    if volume.voxel_size_angstrom is None:
        raise InputError(f"{path} states no voxel size: {VOXEL_SIZE_REMEDY}.")
    return volume


def read_extent(path: PathLike, voxel_size_angstrom: float | None = None) -> tuple[tuple[int, int, int], float]:
    """Return the shape ``(Z, Y, X)`` and the voxel size in ångströms of a tomogram, from its header alone.

    Args:
        path: as for `read_tomogram`.
        voxel_size_angstrom: overrides the voxel size in the file, and selects the level of an OME-Zarr pyramid.

    Raises:
        InputError: the header cannot be read or is inconsistent, or the voxel size is not known.
    """
    found = content_of(path)
    if found == MRC:
        shape, size_zyx = parse_mrc_extent(_bytes_of(path, MRC_HEADER_BYTES).tobytes(), str(path))
    elif found == NIFTI:
        shape, size_zyx = parse_nifti_extent(_bytes_of(path, MRC_HEADER_BYTES).tobytes(), str(path))
    elif found == ZARR:
        _refuse_other_levels(Path(path), voxel_size_angstrom)
        shape, size_zyx = ome_zarr_extent(Path(path), voxel_size_angstrom)
    else:
        raise InputError(f"{path} is not a tomogram (MRC, OME-Zarr or NIfTI) but {found}.")
    voxel_size = _settle_voxel_size(path, size_zyx, voxel_size_angstrom)
    if voxel_size is None:
        raise InputError(f"{path} states no voxel size: {VOXEL_SIZE_REMEDY}.")
    return shape, voxel_size


def read_mrc(path: PathLike, voxel_size_angstrom: float | None = None) -> Volume:
    """Read an MRC file; ``voxel_size_angstrom`` overrides the voxel size in the header.

    Raises:
        InputError: the file is not an MRC file, contradicts itself or is truncated.
    """
    _expect(MRC, path)
    data, size_zyx = parse_mrc(_bytes_of(path), str(path))
    voxel_size = _settle_voxel_size(path, size_zyx, voxel_size_angstrom)
    return Volume(data, voxel_size, affine_of(voxel_size or 1.0))


def read_nifti(path: PathLike, voxel_size_angstrom: float | None = None) -> Volume:
    """Read a NIfTI file; ``voxel_size_angstrom`` overrides the voxel size in the header.

    The file's affine says which axes are z, y and x, see `nifti`. The affine of the volume keeps its directions and its
    origin. Its scale is taken from the header's spacing; if the two differ, a warning is given.

    Raises:
        InputError: the file is not a NIfTI file, is damaged, does not hold one volume or would mirror it.
    """
    _expect(NIFTI, path)
    data, size_zyx, affine = parse_nifti(_bytes_of(path), str(path))
    voxel_size = _settle_voxel_size(path, size_zyx, voxel_size_angstrom)
    if affine is None:
        return Volume(data, voxel_size, affine_of(voxel_size or 1.0))
    if affine[:3, 3].any():
        origin = ", ".join(f"{number:g}" for number in affine[:3, 3])
        logger.info("%s: coordinates count from the first voxel; the affine's origin (%s) is not added", path, origin)
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if size_zyx is not None and not np.allclose(lengths, size_zyx, rtol=HEADER_TOLERANCE, atol=0):
        fact = f"the affine has voxels of {_in_words(tuple(lengths))} Å, the spacing {_in_words(size_zyx)} Å"
        warnings.warn(f"{path}: {fact}; the spacing counts.", InputWarning, stacklevel=2)
    affine[:3, :3] *= (voxel_size or 1.0) / lengths
    return Volume(data, voxel_size, affine)


def read_ome_zarr(
    path: PathLike,
    wanted_voxel_size_angstrom: float | None = None,
    voxel_size_angstrom: float | None = None,
    allow_missing_chunks: bool = False,
    memory_gib: float | None = None,
) -> Volume:
    """Read one level of an OME-Zarr pyramid (Zarr format 2 or 3), or a plain Zarr array.

    Args:
        path: the Zarr folder.
        wanted_voxel_size_angstrom: the level nearest to it is read; None reads the finest.
        voxel_size_angstrom: overrides the voxel size of the level.
        allow_missing_chunks: treat chunks that are not stored as full of the fill value. Right for arrays that were
            written without their empty chunks, wrong for an incomplete copy.
        memory_gib: see `read_tomogram`.

    Raises:
        InputError: the folder is not a Zarr folder, is damaged or incomplete, or does not hold one volume.
    """
    check_voxel_size("wanted_voxel_size_angstrom", wanted_voxel_size_angstrom)
    _expect(ZARR, path)
    _refuse_other_levels(Path(path), voxel_size_angstrom)
    level_angstrom = voxel_size_angstrom or wanted_voxel_size_angstrom
    data, size_zyx = load_ome_zarr(Path(path), level_angstrom, allow_missing_chunks, memory_gib)
    voxel_size = _settle_voxel_size(path, size_zyx, voxel_size_angstrom)
    return Volume(data, voxel_size, affine_of(voxel_size or 1.0))


def _refuse_other_levels(folder: Path, voxel_size_angstrom: float | None) -> None:
    """Raise an `InputError` if none of several levels has the voxel size that is said to be theirs.

    The levels of a pyramid differ by factors, so a size that is near none of them does not say which one is meant.
    """
    if not voxel_size_angstrom or voxel_size_angstrom <= 0:
        return
    sizes = level_sizes(folder)
    if len(sizes) > 1 and min(abs(math.log(size / voxel_size_angstrom)) for size in sizes.values()) > LEVEL_TOLERANCE:
        stated = ", ".join(f"{size:g}" for size in sizes.values())
        raise InputError(
            f"{folder} states levels of {stated} Å, none of {voxel_size_angstrom:g} Å: correct its metadata, or give "
            f"the array that is meant, for example {folder / next(iter(sizes))}."
        )


def refuse_address(path: PathLike) -> None:
    """Refuse a path that is a URL: remote data is not fetched while a config runs.

    Raises:
        InputError: the path is a URL; the message names the command that fetches it.
    """
    address = ADDRESS.match(str(path))
    if address and not Path(path).exists():
        whole = str(path) if "://" in str(path) else ADDRESS.sub(r"\1://", str(path), count=1)  # as a Path writes it
        shown = without_user(whole)
        raise InputError(
            f"{shown} is not on this disk. An OME-Zarr is brought here by: python -m scripts.fetch {shown} FOLDER"
        )


def content_of(path: PathLike) -> str:
    """Return the format of a file or folder: `MRC`, `NIFTI`, `ZARR` or a description of something else.

    Raises:
        InputError: it does not exist or cannot be read.
    """
    refuse_address(path)
    if Path(path).is_dir():
        return ZARR if is_zarr(Path(path)) else f"a folder without Zarr metadata ({', '.join(ZARR_MARKS)})"
    head = _bytes_of(path, MRC_HEADER_BYTES).tobytes()
    if is_nifti(head):
        return NIFTI
    if is_nifti_pair(head):
        return "half of a NIfTI pair (.hdr, .img): save it as one .nii file"
    return MRC if is_mrc(head) else _other_content(head)


def _other_content(head: bytes) -> str:
    beginning = head.lstrip().lower()
    for mark, name in OTHER_BEGINNINGS.items():
        if beginning.startswith(mark):
            return name
    if not head:
        return "an empty file"
    if all(byte in b"\t\n\r\f" or 32 <= byte < 127 for byte in head):
        return "a text"
    if len(head) < MRC_HEADER_BYTES:
        return f"a file of {len(head)} bytes (the header of an MRC file alone has {MRC_HEADER_BYTES})"
    return "something unknown"


def _expect(content: str, path: PathLike) -> None:
    found = content_of(path)
    if found != content:
        raise InputError(f"{path} is not {content} but {found}.")


def _bytes_of(path: PathLike, limit: int | None = None) -> NDArray[np.uint8]:
    """Return the first ``limit`` bytes of a file, or all: memory-mapped, or unpacked into memory if compressed."""
    try:
        with open(path, "rb") as file:
            magic = file.read(3)
            file.seek(0)
            if magic == GZIP_MAGIC:
                with gzip.open(file) as unpacked:
                    return np.frombuffer(unpacked.read(limit or -1), np.uint8)
            if magic == BZIP2_MAGIC:
                with bz2.open(file) as unpacked:
                    return np.frombuffer(unpacked.read(limit or -1), np.uint8)
            if limit is not None:
                return np.frombuffer(file.read(limit), np.uint8)
        return np.memmap(path, np.uint8, mode="r")
    except FileNotFoundError as error:
        raise InputError(f"cannot read {path}: no such file.") from error
    except EOFError as error:
        raise InputError(f"{path} is cut short: its compressed data end too early.") from error
    except (zlib.error, OSError) as error:
        raise InputError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}.") from error


def check_voxel_size(name: str, value_angstrom: float | None) -> None:
    """Check a voxel size that the user set; None means not set.

    Raises:
        InputError: it is not a positive number.
    """
    if value_angstrom is not None and not (isinstance(value_angstrom, Real) and 0 < value_angstrom < math.inf):
        raise InputError(f"{name} is a positive number of ångströms; got {value_angstrom!r}.")


def _settle_voxel_size(path: PathLike, size_zyx: SizeZYX | None, stated_angstrom: float | None) -> float | None:
    """Return the voxel size that the user states, or else that of the file, which has one number per axis."""
    check_voxel_size("voxel_size_angstrom", stated_angstrom)
    if stated_angstrom is not None:
        if size_zyx and any(not math.isclose(size, stated_angstrom, rel_tol=STATED_TOLERANCE) for size in size_zyx):
            stated = f"voxel_size_angstrom {stated_angstrom:g} is used, not the file's {_in_words(size_zyx)} Å"
            warnings.warn(f"{path}: {stated}.", InputWarning, stacklevel=3)
        return float(stated_angstrom)
    if size_zyx is None:
        return None
    if max(size_zyx) - min(size_zyx) > HEADER_TOLERANCE * min(size_zyx):
        fact = f"the voxels are no cubes but {_in_words(size_zyx)} Å (z, y, x)"
        raise InputError(f"{path}: {fact}. Resample it, or set voxel_size_angstrom if that is wrong.")
    return size_zyx[0] if len(set(size_zyx)) == 1 else sum(size_zyx) / 3


def _in_words(size_zyx: SizeZYX) -> str:
    return f"{size_zyx[0]:g}" if len(set(size_zyx)) == 1 else " x ".join(f"{size:g}" for size in size_zyx)
