"""Conversion of points to label volumes, and back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import cc3d
import numpy as np
from numpy.typing import ArrayLike, NDArray

from scripts.coordinates import as_points
from scripts.errors import InputError
from scripts.species import Species, SpeciesSet


def draw_spheres(
    shape: tuple[int, int, int], centres_zyx_vox: ArrayLike, radius_vox: float, value: int = 1
) -> NDArray[np.uint8]:
    """Paint a solid sphere around every centre.

    Args:
        shape: ``(Z, Y, X)`` of the volume.
        centres_zyx_vox: ``(N, 3)`` voxel indices, whole or not, inside the volume or not.
        radius_vox: voxels whose centre is within this distance belong to the sphere.
        value: value of the voxels in the spheres.

    Returns:
        ``(Z, Y, X)``, ``value`` in the spheres and 0 elsewhere.
    """
    volume = np.zeros(shape, dtype=np.uint8)
    paint_spheres(volume, centres_zyx_vox, radius_vox, value)
    return volume


def paint_spheres(volume: NDArray[np.uint8], centres_zyx_vox: ArrayLike, radius_vox: float, value: int = 1) -> None:
    """Paint a solid sphere around every centre into a volume ``(Z, Y, X)``, over what is there, see `draw_spheres`."""
    for centre in as_points(centres_zyx_vox, "centres_zyx_vox"):
        box = box_around(centre, radius_vox, volume.shape)
        if box is None:
            continue
        axes = np.ogrid[box]
        squared = sum((axis - middle) ** 2 for axis, middle in zip(axes, centre, strict=True))
        volume[box][squared <= radius_vox**2] = value


def label_map_of(
    shape: Sequence[int], centres_zyx_vox: Mapping[str, ArrayLike], species_set: SpeciesSet, voxel_size_angstrom: float
) -> NDArray[np.uint8]:
    """Return a label volume ``(Z, Y, X)`` with a sphere of every species' target radius around its centres.

    Species are painted in their order, the later ones over the earlier.

    Args:
        shape: of the volume.
        centres_zyx_vox: ``(N, 3)`` voxel indices, by the names of species.
        species_set: the species.
        voxel_size_angstrom: of the volume.
    """
    labels = np.zeros(tuple(shape), dtype=np.uint8)
    for species in species_set.picked:
        radius_vox = species.target_radius_angstrom / voxel_size_angstrom
        paint_spheres(labels, centres_zyx_vox.get(species.name, ()), radius_vox, species.label)
    return labels


def box_around(
    centre_zyx_vox: NDArray[np.float64], reach_vox: float, shape: Sequence[int]
) -> tuple[slice, slice, slice] | None:
    """Return the voxels of a volume ``(Z, Y, X)`` within a distance of a point along each axis; None without any."""
    low = np.maximum(np.ceil(centre_zyx_vox - reach_vox), 0).astype(int)
    high = np.minimum(np.floor(centre_zyx_vox + reach_vox) + 1, shape).astype(int)
    if (high <= low).any():
        return None
    z, y, x = (slice(start, stop) for start, stop in zip(low, high, strict=True))
    return z, y, x


def as_labelled_points(labelled_points: ArrayLike) -> NDArray[np.float64]:
    """Return rows of label and voxel index ``(label, z, y, x)`` as an array ``(N, 4)``; no points as ``(0, 4)``.

    Raises:
        ValueError: the points do not have the shape ``(N, 4)``.
    """
    rows = np.asarray(labelled_points, dtype=np.float64)
    if rows.size == 0:
        rows = rows.reshape(0, 4)
    if rows.ndim != 2 or rows.shape[1] != 4:
        raise ValueError(f"labelled_points needs one row of 4 numbers per point, shape (N, 4); got shape {rows.shape}.")
    return rows


def split_labels(label_volume: NDArray[np.integer], species: Iterable[Species]) -> NDArray[np.uint8]:
    """Turn a label volume ``(Z, Y, X)`` into one channel per species, ``(C, Z, Y, X)``."""
    return np.stack([(label_volume == one.label).astype(np.uint8) for one in species])


def as_labels(values: NDArray[Any], source: str) -> NDArray[np.uint8]:
    """Return the values of a label volume as labels.

    Args:
        values: ``(Z, Y, X)``.
        source: the file, for the message.

    Raises:
        InputError: they are no labels.
    """
    labels = np.rint(values)
    if (labels != values).any() or labels.min() < 0 or labels.max() > np.iinfo(np.uint8).max:
        raise InputError(f"{source} is no label volume: it holds other values than whole numbers from 0 to 255.")
    answer: NDArray[np.uint8] = labels.astype(np.uint8)
    return answer


def connected_blobs(label_volume: NDArray[np.integer]) -> NDArray[np.integer]:
    """Return the number of the connected blob that each voxel of a label volume belongs to: 1, 2 ..., 0 for none."""
    blobs: NDArray[np.integer] = cc3d.connected_components(
        np.ascontiguousarray(label_volume, dtype=np.uint8), connectivity=26
    )
    return blobs


def points_of_labels(label_volume: NDArray[np.integer], species_set: SpeciesSet, source: str) -> NDArray[np.float64]:
    """Return label and centre ``(label, z, y, x)`` of every connected blob of a label volume, shape ``(N, 4)``.

    Args:
        label_volume: ``(Z, Y, X)``, 0 for background.
        species_set: the species, for their labels.
        source: the file, for the message.

    Returns:
        The blobs in the order of their numbers in `connected_blobs`.

    Raises:
        InputError: the volume holds a label that belongs to no species.
    """
    unknown = sorted(set(np.unique(label_volume).tolist()) - {0, *(species.label for species in species_set.picked)})
    if unknown:
        raise InputError(
            f"{source}: labels {unknown[:5]} belong to no species; known are 1 to {len(species_set.picked)}."
        )
    blobs = connected_blobs(label_volume)
    centres = cc3d.statistics(blobs)["centroids"][1:]  # entry 0 is the background
    firsts = np.unique(blobs, return_index=True)
    label_of_blob = dict(zip(firsts[0].tolist(), label_volume.ravel()[firsts[1]].tolist(), strict=True))
    labels = [label_of_blob[blob] for blob in range(1, len(centres) + 1)]
    return np.column_stack([np.asarray(labels, dtype=np.float64).reshape(-1, 1), as_points(centres, "centres")])
