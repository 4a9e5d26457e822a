"""Conversion between voxel indices, ångströms and the coordinate frames of other programs; done only here.

In memory a volume is ``[z, y, x]`` and a point is a row ``(z, y, x)`` of voxel indices; the centre of voxel ``i`` is
``i``. In our files a point is ``(x, y, z)`` in ångströms: ``(i + voxel_offset) * voxel_size_angstrom``, counted from
the first voxel. Other programs count pixels from another origin (`FIRST_VOXEL_XYZ`), or ångströms from the volume's
centre.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

NANOMETRE_ANGSTROM = 10.0
SizeZYX = tuple[float, float, float]
FIRST_VOXEL_XYZ = {  # coordinates that a format gives to the centre of the first voxel, in voxels
    "relion4": (0.0, 0.0, 0.0),
    "warp": (0.0, 0.0, 0.0),
    "imod": (0.5, 0.5, 0.0),  # the origin is a pixel's corner in x and y, a section's middle in z
    "dynamo": (0.5, 0.5, 0.5),
    "ndjson": (0.0, 0.0, 0.0),
    "coords": (0.0, 0.0, 0.0),
}


def as_points(points: ArrayLike, name: str) -> NDArray[np.float64]:
    """Return ``points`` as an ``(N, 3)`` array; an empty list gives shape ``(0, 3)``.

    Raises:
        ValueError: the array does not have one row of three numbers per point.
    """
    array = np.asarray(points, dtype=np.float64)
    if array.size == 0:
        return array.reshape(0, 3)
    if array.ndim != 2 or array.shape[1] != 3:
        raise ValueError(f"{name} needs one row of 3 numbers per point, shape (N, 3); got shape {array.shape}.")
    return array


def to_xyz_angstrom(
    points_zyx_vox: ArrayLike, voxel_size_angstrom: float, voxel_offset: float = 0.0
) -> NDArray[np.float64]:
    """Turn voxel indices ``(z, y, x)`` into file coordinates ``(x, y, z)`` in ångströms, shape ``(N, 3)``.

    Args:
        points_zyx_vox: ``(N, 3)`` voxel indices.
        voxel_size_angstrom: side of a voxel.
        voxel_offset: position of the centre of voxel 0, in voxels: 0 (as in ChimeraX) or 0.5 (origin at the corner).
    """
    return (as_points(points_zyx_vox, "points_zyx_vox")[:, ::-1] + voxel_offset) * voxel_size_angstrom


def to_zyx_vox(
    points_xyz_angstrom: ArrayLike, voxel_size_angstrom: float, voxel_offset: float = 0.0
) -> NDArray[np.float64]:
    """Turn file coordinates ``(x, y, z)`` in ångströms into voxel indices ``(z, y, x)``: inverts `to_xyz_angstrom`."""
    return as_points(points_xyz_angstrom, "points_xyz_angstrom")[:, ::-1] / voxel_size_angstrom - voxel_offset


def to_xyz_pixels(points_zyx_vox: ArrayLike, format_name: str, binning: float = 1.0) -> NDArray[np.float64]:
    """Turn voxel indices ``(z, y, x)`` into the pixels ``(x, y, z)`` of a format, shape ``(N, 3)``.

    Args:
        points_zyx_vox: ``(N, 3)`` voxel indices.
        format_name: a key of `FIRST_VOXEL_XYZ`.
        binning: pixels per voxel along each axis; 1 unless the format counts unbinned pixels.
    """
    return (as_points(points_zyx_vox, "points_zyx_vox")[:, ::-1] + FIRST_VOXEL_XYZ[format_name]) * binning


def from_xyz_pixels(points_xyz_pixels: ArrayLike, format_name: str, binning: float = 1.0) -> NDArray[np.float64]:
    """Turn the pixels ``(x, y, z)`` of a format into voxel indices ``(z, y, x)``: inverts `to_xyz_pixels`."""
    points = as_points(points_xyz_pixels, "points_xyz_pixels")
    return (points / binning - FIRST_VOXEL_XYZ[format_name])[:, ::-1]


def to_xyz_centered_angstrom(
    points_zyx_vox: ArrayLike, voxel_size_angstrom: float, volume_shape_zyx: Sequence[int]
) -> NDArray[np.float64]:
    """Turn voxel indices ``(z, y, x)`` into ångströms ``(x, y, z)`` from the volume's centre, which is ``shape / 2``.

    Args:
        points_zyx_vox: ``(N, 3)`` voxel indices.
        voxel_size_angstrom: side of a voxel.
        volume_shape_zyx: ``(Z, Y, X)`` of the volume.
    """
    points = as_points(points_zyx_vox, "points_zyx_vox")
    return to_xyz_angstrom(points - np.asarray(volume_shape_zyx) / 2, voxel_size_angstrom)


def from_xyz_centered_angstrom(
    points_xyz_angstrom: ArrayLike, voxel_size_angstrom: float, volume_shape_zyx: Sequence[int]
) -> NDArray[np.float64]:
    """Turn ångströms from the volume's centre into voxel indices: inverts `to_xyz_centered_angstrom`."""
    return to_zyx_vox(points_xyz_angstrom, voxel_size_angstrom) + np.asarray(volume_shape_zyx) / 2


def affine_of(voxel_size_angstrom: float) -> NDArray[np.float64]:
    """Return the ``4 x 4`` matrix that maps an index ``(z, y, x, 1)`` of a volume to ``(x, y, z, 1)`` in ångströms."""
    affine = np.zeros((4, 4))
    affine[[2, 1, 0, 3], [0, 1, 2, 3]] = voxel_size_angstrom, voxel_size_angstrom, voxel_size_angstrom, 1.0
    return affine


def voxel_size_of(affine: ArrayLike) -> float:
    """Return the voxel size in ångströms of an affine with cubic voxels; the readers make sure of that."""
    columns = np.asarray(affine, dtype=np.float64)[:3, :3]
    return float(np.linalg.norm(columns, axis=0).mean())


def directions_of(affine: ArrayLike) -> tuple[int, int, int]:
    """Return whether x, y and z run forwards (1) or backwards (-1) in an affine along the axes, see `affine_of`."""
    matrix = np.asarray(affine, dtype=np.float64)
    x, y, z = (1 if matrix[row, column] > 0 else -1 for row, column in ((0, 2), (1, 1), (2, 0)))
    return x, y, z
