"""The NIfTI format: reading one complete volume and its voxel size.

The header's spacing is read as ångströms whatever unit it states, because NIfTI has no unit for them.
"""

from __future__ import annotations

import io
import math
from contextlib import closing
from typing import Any

import nibabel
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from scripts.coordinates import SizeZYX
from scripts.errors import InputError, blame

NIFTI_HEADER_BYTES = 540  # of NIfTI 2; NIfTI 1 has 348
CLASSES = {b"n+1\0": nibabel.Nifti1Image, b"n+2\0": nibabel.Nifti2Image}
NIFTI_FAULTS = (HeaderDataError, ImageFileError, OSError, EOFError, ValueError, OverflowError)


def is_nifti(head: bytes) -> bool:
    """Return whether a file that begins with these bytes is a NIfTI file with header and volume in one."""
    return head[344:348] in CLASSES or head[4:8] in CLASSES


def is_nifti_pair(head: bytes) -> bool:
    """Return whether a file that begins with these bytes is the header of a NIfTI file in two parts."""
    return head[344:348] == b"ni1\0" or head[4:8] == b"ni2\0"


def parse_nifti(content: NDArray[np.uint8], path: str) -> tuple[NDArray[Any], SizeZYX | None, NDArray[np.float64]]:
    """Return the volume that a NIfTI file holds, its voxel size and its affine.

    Args:
        content: the bytes of the whole file; if this is a memory map, the volume is one too where possible.
        path: path of the file.

    Returns:
        The volume ``[z, y, x]`` in the file's own type and native byte order, its voxel size ``(z, y, x)`` in
        ångströms, None if the header states none, and the affine of the file's own axes x, y, z.

    Raises:
        InputError: the file is damaged, cut short or does not hold one volume of numbers.
    """
    head = content[:NIFTI_HEADER_BYTES].tobytes()
    with blame(path, "NIfTI file", NIFTI_FAULTS):
        _refuse_cut(path, _header_of(head), content.size)
        with closing(open(path, "rb") if isinstance(content, np.memmap) else io.BytesIO(content.tobytes())) as stream:
            image = _class_of(head).from_stream(stream)
            values = np.asanyarray(image.dataobj)
    if values.ndim == 4 and values.shape[3] == 1:
        values = values[..., 0]
    if values.ndim != 3 or values.dtype.kind not in "iuf":
        shape = " x ".join(str(length) for length in values.shape)
        raise InputError(f"{path} holds {shape} values of type {values.dtype}; a tomogram is one volume of numbers.")
    native = values.T.astype(values.dtype.newbyteorder("="), copy=False)
    return native, _voxel_size_of(image.header), np.array(image.affine, dtype=np.float64)


def parse_nifti_extent(head: bytes, path: str) -> tuple[tuple[int, int, int], SizeZYX | None]:
    """Return the shape ``(Z, Y, X)`` and the voxel size of what `parse_nifti` would return, from the header alone.

    Raises:
        InputError: the header is damaged, or does not describe one volume.
    """
    with blame(path, "NIfTI file", NIFTI_FAULTS):
        header = _header_of(head)
        lengths = [int(length) for length in header.get_data_shape()]
    if len(lengths) < 3 or min(lengths) < 1 or lengths[3:] not in ([], [1]):
        raise InputError(f"{path} holds {' x '.join(map(str, lengths))} values; a tomogram is one volume.")
    x, y, z = lengths[:3]
    return (z, y, x), _voxel_size_of(header)


def _class_of(head: bytes) -> Any:
    return CLASSES.get(head[344:348]) or CLASSES[head[4:8]]


def _header_of(head: bytes) -> nibabel.Nifti1Header:
    answer: nibabel.Nifti1Header = _class_of(head).header_class.from_fileobj(io.BytesIO(head))
    return answer


def _refuse_cut(path: str, header: nibabel.Nifti1Header, file_bytes: int) -> None:
    shape = [int(length) for length in header.get_data_shape()]
    if not shape or min(shape) < 1:
        stated = " x ".join(str(length) for length in shape)
        raise InputError(f"{path}: the header states {stated or 'no'} voxels; each length must be at least 1.")
    promised = math.prod(shape) * header.get_data_dtype().itemsize
    found = max(file_bytes - int(header.get_data_offset()), 0)
    if found < promised:
        raise InputError(f"{path} is cut short: the header promises {promised} bytes of data, the file has {found}.")


def _voxel_size_of(header: nibabel.Nifti1Header) -> SizeZYX | None:
    x, y, z = (float(f"{zoom:.6g}") for zoom in header.get_zooms()[:3])  # float32 holds 6 digits
    codes = (header["sform_code"], header["qform_code"], header["xyzt_units"] & 7)
    untouched = (x, y, z) == (1.0, 1.0, 1.0) and not any(codes)
    return None if untouched or not all(0 < size < math.inf for size in (x, y, z)) else (z, y, x)
