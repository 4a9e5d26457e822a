"""The target of the loss: a solid sphere around every particle."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scripts.species import Species
from scripts.volumes.labels import draw_spheres


def paint_targets(
    shape: tuple[int, int, int], labelled_points: ArrayLike, species: Iterable[Species], voxel_size_angstrom: float
) -> NDArray[np.uint8]:
    """Paint the targets of a window: one channel per species, 1 inside a particle's target sphere.

    Args:
        shape: ``(Z, Y, X)`` of the window.
        labelled_points: ``(N, 4)``, label and voxel index ``(label, z, y, x)`` of every particle.
        species: gives label and target radius of each channel.
        voxel_size_angstrom: of the window.

    Returns:
        ``(C, Z, Y, X)``.

    Raises:
        ValueError: the points are not a row of four numbers each.
    """
    rows = np.asarray(labelled_points, dtype=np.float64)
    if rows.size == 0:
        rows = rows.reshape(0, 4)
    if rows.ndim != 2 or rows.shape[1] != 4:
        raise ValueError(f"labelled_points needs one row of 4 numbers per point, shape (N, 4); got shape {rows.shape}.")
    return np.stack(
        [
            draw_spheres(shape, rows[rows[:, 0] == one.label, 1:], one.target_radius_angstrom / voxel_size_angstrom)
            for one in species
        ]
    )
