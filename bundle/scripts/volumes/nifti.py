"""The NIfTI format: reading one complete volume and its voxel size.

The header's spacing is read as ångströms whatever unit it states, because NIfTI has no unit for them.

The affine says which axes of the array run along x, y and z, as mapc, mapr and maps do in an MRC file; the array is
transposed accordingly. Where all three run forwards, voxels are counted from the first one of the array. So they are
where x and y run backwards: ITK's programs, such as 3D Slicer, write an array without directions of its own in this
way, because their x and y point to the other side. Any other direction would mirror the particles and is refused, and
so is an oblique affine.
"""

from __future__ import annotations

import io
import math
import warnings
from contextlib import closing
from typing import Any

import nibabel
import numpy as np
from nibabel.affines import obliquity
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from scripts.coordinates import SizeZYX, directions_of
from scripts.errors import InputError, InputWarning, blame

NIFTI_HEADER_BYTES = 540  # of NIfTI 2; NIfTI 1 has 348
CLASSES = {b"n+1\0": nibabel.Nifti1Image, b"n+2\0": nibabel.Nifti2Image}
FORWARDS, TURNED_BY_ITK = (1, 1, 1), (-1, -1, 1)  # directions along x, y, z
MAX_OBLIQUITY = 0.01  # radians; smaller angles are rounding errors of the affine
NIFTI_FAULTS = (HeaderDataError, ImageFileError, OSError, EOFError, ValueError, OverflowError)


def is_nifti(head: bytes) -> bool:
    """Return whether a file that begins with these bytes is a NIfTI file with header and volume in one."""
    return head[344:348] in CLASSES or head[4:8] in CLASSES


def is_nifti_pair(head: bytes) -> bool:
    """Return whether a file that begins with these bytes is the header of a NIfTI file in two parts."""
    return head[344:348] == b"ni1\0" or head[4:8] == b"ni2\0"


def parse_nifti(
    content: NDArray[np.uint8], path: str
) -> tuple[NDArray[Any], SizeZYX | None, NDArray[np.float64] | None]:
    """Return the volume that a NIfTI file holds, its voxel size and its affine.

    Args:
        content: the bytes of the whole file; if this is a memory map, the volume is one too where possible.
        path: path of the file.

    Returns:
        The volume ``[z, y, x]`` in the file's own type and native byte order, its voxel size ``(z, y, x)`` in
        ångströms, and the ``4 x 4`` affine that maps an index ``(z, y, x, 1)`` to ``(x, y, z, 1)``; the last two are
        None if the header states none.

    Raises:
        InputError: the file is damaged, cut short, does not hold one volume of numbers, or its affine is oblique or
            mirrors the volume.
    """
    head = content[:NIFTI_HEADER_BYTES].tobytes()
    with blame(path, "NIfTI file", NIFTI_FAULTS):
        _check_length(path, _header_of(head), content.size)
        with closing(open(path, "rb") if isinstance(content, np.memmap) else io.BytesIO(content.tobytes())) as stream:
            image = _class_of(head).from_stream(stream)
            values = np.asanyarray(image.dataobj)
    if values.ndim == 4 and values.shape[3] == 1:
        values = values[..., 0]
    if values.ndim != 3 or values.dtype.kind not in "iuf":
        shape = " x ".join(str(length) for length in values.shape)
        raise InputError(f"{path} holds {shape} values of type {values.dtype}; a tomogram is one volume of numbers.")
    axes, affine = _axes_zyx(image.header, path)
    native = values.transpose(axes).astype(values.dtype.newbyteorder("="), copy=False)
    return native, _voxel_size_of(image.header, axes), affine


def parse_nifti_extent(head: bytes, path: str) -> tuple[tuple[int, int, int], SizeZYX | None]:
    """Return the shape ``(Z, Y, X)`` and the voxel size of what `parse_nifti` would return, from the header alone.

    Raises:
        InputError: the header is damaged, does not describe one volume, or its affine is oblique or mirrors it.
    """
    with blame(path, "NIfTI file", NIFTI_FAULTS):
        header = _header_of(head)
        lengths = [int(length) for length in header.get_data_shape()]
    if len(lengths) < 3 or min(lengths) < 1 or lengths[3:] not in ([], [1]):
        raise InputError(f"{path} holds {' x '.join(map(str, lengths))} values; a tomogram is one volume.")
    axes, _ = _axes_zyx(header, path)
    z, y, x = (lengths[axis] for axis in axes)
    return (z, y, x), _voxel_size_of(header, axes)


def _class_of(head: bytes) -> Any:
    return CLASSES.get(head[344:348]) or CLASSES[head[4:8]]


def _header_of(head: bytes) -> nibabel.Nifti1Header:
    answer: nibabel.Nifti1Header = _class_of(head).header_class.from_fileobj(io.BytesIO(head))
    return answer


def _check_length(path: str, header: nibabel.Nifti1Header, file_bytes: int) -> None:
    shape = [int(length) for length in header.get_data_shape()]
    if not shape or min(shape) < 1:
        stated = " x ".join(str(length) for length in shape)
        raise InputError(f"{path}: the header states {stated or 'no'} voxels; each length must be at least 1.")
    promised = math.prod(shape) * header.get_data_dtype().itemsize
    found = max(file_bytes - int(header.get_data_offset()), 0)
    if found < promised:
        raise InputError(f"{path} is cut short: the header promises {promised} bytes of data, the file has {found}.")
    if found > promised:
        warnings.warn(f"{path}: {found - promised} bytes after the data are ignored.", InputWarning, stacklevel=4)


def _axes_zyx(header: nibabel.Nifti1Header, path: str) -> tuple[list[int], NDArray[np.float64] | None]:
    """Return which axes of the file run along z, y and x, and the affine of the array with these axes.

    A header whose affine is no affine, or belongs to no space (both codes 0), states no directions.
    """
    with blame(path, "NIfTI file", NIFTI_FAULTS):
        affine = np.array(header.get_best_affine(), dtype=np.float64)
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    is_stated = header["sform_code"] or header["qform_code"]
    if not is_stated or not np.isfinite(affine).all() or not (lengths > 0).all():
        return [2, 1, 0], None
    along = np.abs(affine[:3, :3] / lengths).argmax(axis=0).tolist()  # x, y or z, for every axis of the file
    if sorted(along) != [0, 1, 2] or obliquity(affine).max() > MAX_OBLIQUITY:
        fact = "its affine is oblique to x, y and z"
        raise InputError(f"{path}: {fact}. Resample it, or save it with a diagonal affine.")
    axes = [along.index(axis) for axis in (2, 1, 0)]
    affine = affine[:, [*axes, 3]]
    directions = directions_of(affine)
    if directions == TURNED_BY_ITK:
        fact = "its affine runs x and y backwards, as ITK and 3D Slicer write it"
        warnings.warn(f"{path}: {fact}; voxels are counted along the array, forwards.", InputWarning, stacklevel=4)
    elif directions != FORWARDS:
        backwards = " and ".join(name for name, direction in zip("xyz", directions, strict=True) if direction < 0)
        remedy = "Save it with axes that run forwards (nibabel.as_closest_canonical)"
        raise InputError(f"{path}: its affine runs {backwards} backwards. {remedy}.")
    return axes, affine


def _voxel_size_of(header: nibabel.Nifti1Header, axes_zyx: list[int]) -> SizeZYX | None:
    zooms = header.get_zooms()
    z, y, x = (float(f"{zooms[axis]:.6g}") for axis in axes_zyx)  # float32 holds 6 digits
    codes = (header["sform_code"], header["qform_code"], header["xyzt_units"] & 7)
    untouched = (x, y, z) == (1.0, 1.0, 1.0) and not any(codes)
    return None if untouched or not all(0 < size < math.inf for size in (x, y, z)) else (z, y, x)
