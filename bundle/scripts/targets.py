"""Points and painted volumes: what the network learns to answer, and back."""

from __future__ import annotations

from collections.abc import Iterable

import cc3d
import numpy as np
from numpy.typing import ArrayLike, NDArray

from scripts.coordinates import as_points
from scripts.errors import InputError
from scripts.particles import ParticleSet, Species


def draw_spheres(
    shape: tuple[int, int, int], centres_zyx_vox: ArrayLike, radius_vox: float, value: int = 1
) -> NDArray[np.uint8]:
    """Paint a solid sphere around every centre.

    Args:
        shape: ``(Z, Y, X)`` of the volume.
        centres_zyx_vox: ``(N, 3)`` voxel indices, whole or not, inside the volume or not.
        radius_vox: a voxel belongs to a sphere when its centre is at most this far away.
        value: grey value of the spheres.

    Returns:
        ``(Z, Y, X)``, ``value`` in the spheres and 0 elsewhere.
    """
    volume = np.zeros(shape, dtype=np.uint8)
    for centre in as_points(centres_zyx_vox, "centres_zyx_vox"):
        low = np.maximum(np.ceil(centre - radius_vox), 0).astype(int)
        high = np.minimum(np.floor(centre + radius_vox) + 1, shape).astype(int)
        if (high <= low).any():
            continue
        box = tuple(slice(start, stop) for start, stop in zip(low, high, strict=True))
        axes = np.ogrid[box]
        squared = sum((axis - middle) ** 2 for axis, middle in zip(axes, centre, strict=True))
        volume[box][squared <= radius_vox**2] = value
    return volume


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


def split_labels(label_volume: NDArray[np.integer], species: Iterable[Species]) -> NDArray[np.uint8]:
    """Turn a label volume ``(Z, Y, X)`` into one channel per species, ``(C, Z, Y, X)``."""
    return np.stack([(label_volume == one.label).astype(np.uint8) for one in species])


def points_of_labels(label_volume: NDArray[np.integer], particles: ParticleSet, source: str) -> NDArray[np.float64]:
    """Return label and centre ``(label, z, y, x)`` of every connected blob of a label volume, shape ``(N, 4)``.

    Args:
        label_volume: ``(Z, Y, X)``, 0 for background.
        particles: the species, for their labels.
        source: the file, for the message.

    Raises:
        InputError: the volume holds a label that no species has.
    """
    unknown = sorted(set(np.unique(label_volume).tolist()) - {0, *(species.label for species in particles)})
    if unknown:
        raise InputError(f"{source}: labels {unknown[:5]} belong to no species; known are 1 to {len(particles)}.")
    blobs = cc3d.connected_components(np.ascontiguousarray(label_volume, dtype=np.uint8), connectivity=26)
    centres = cc3d.statistics(blobs)["centroids"][1:]  # entry 0 is the background
    firsts = np.unique(blobs, return_index=True)
    label_of_blob = dict(zip(firsts[0].tolist(), label_volume.ravel()[firsts[1]].tolist(), strict=True))
    labels = [label_of_blob[blob] for blob in range(1, len(centres) + 1)]
    return np.column_stack([np.asarray(labels, dtype=np.float64).reshape(-1, 1), as_points(centres, "centres")])
