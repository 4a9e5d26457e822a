"""From probabilities to candidates: threshold, connected components, centroids."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scripts.picking.candidates import Candidates, merge_close_candidates
from scripts.picking.components import check_connectivity, components_of_voxels
from scripts.settings import check_setting
from scripts.species import Species

# share of a volume above a species' threshold; particles that touch everywhere fill a tenth by their targets
MOST_SHARE = 0.25
MOST_PARTICLES = 50  # that the voxels of one pick may fill


def find_candidates(
    probability: NDArray[np.float32], threshold: float, min_voxels: int = 1, connectivity: int = 26
) -> Candidates:
    """Find the connected blobs above a threshold and their centres.

    Args:
        probability: ``(Z, Y, X)``, 0 to 1.
        threshold: voxels above it belong to a particle.
        min_voxels: smaller blobs are dropped as noise.
        connectivity: 6 (faces), 18 (and edges) or 26 (and corners).

    Returns:
        The blobs' centres of mass, weighted by the probability, with the voxels around each blob: under a high
        threshold only the core of a particle is left, and its centre would jump from voxel to voxel. Empty if there is
        no blob.

    Raises:
        ValueError: ``probability`` does not have three axes, or there is no such connectivity.
    """
    if probability.ndim != 3:
        raise ValueError(f"probability must be one volume of shape (Z, Y, X); got shape {probability.shape}.")
    inside, values = _voxels_above(probability, threshold)
    if len(inside) == 0:
        return Candidates(np.zeros((0, 3)), np.zeros(0), np.zeros(0, dtype=np.int64))
    blob = components_of_voxels(inside, probability.shape, connectivity)
    rim, blob_of_rim = _rim_of(inside, blob, probability.shape)
    places, owners = np.concatenate([inside, rim]), np.concatenate([blob, blob_of_rim])
    weights = np.concatenate([values, probability.ravel()[rim].astype(np.float64)])
    total = np.bincount(owners, weights)
    centres = np.stack(
        [np.bincount(owners, weights * axis) / total for axis in np.unravel_index(places, probability.shape)], axis=1
    )
    scores = np.zeros(len(total))
    np.maximum.at(scores, blob, values)
    sizes = np.bincount(blob)
    return Candidates(centres, scores, sizes).only(sizes >= min_voxels)


def _voxels_above(probability: NDArray[np.float32], threshold: float) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the flat indices and the probabilities of the voxels above a threshold; plane by plane, to save memory."""
    inside, values = [], []
    for z, plane in enumerate(probability):
        flat = plane.ravel()
        found = np.flatnonzero(flat > threshold)
        inside.append(found + z * flat.size)
        values.append(flat[found].astype(np.float64))
    return np.concatenate(inside), np.concatenate(values)


def _rim_of(
    inside: NDArray[np.int64], blob: NDArray[np.int64], shape: tuple[int, ...]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the voxels that touch a blob and belong to none, and their blobs; a voxel between two counts for both.

    Args:
        inside: ``(N,)``, increasing indices of the blobs' voxels in the flat volume.
        blob: ``(N,)``, their blobs.
        shape: ``(Z, Y, X)`` of the volume.
    """
    axes, size = np.unravel_index(inside, shape), int(np.prod(shape))
    found = []
    for step in itertools.product((-1, 0, 1), repeat=3):
        moved = [axis + shift for axis, shift in zip(axes, step, strict=True)]
        there = np.logical_and.reduce(
            [(axis >= 0) & (axis < length) for axis, length in zip(moved, shape, strict=True)]
        )
        index = np.ravel_multi_index([axis[there] for axis in moved], shape)
        place = np.minimum(np.searchsorted(inside, index), len(inside) - 1)
        free = inside[place] != index
        found.append(blob[there][free] * size + index[free])
    keys = np.sort(np.concatenate(found))  # np.unique takes far longer
    keys = keys[np.diff(keys, prepend=-1) > 0]
    return keys % size, keys // size


def is_flood(above: int, of_voxels: int, species: Species, voxel_size_angstrom: float) -> bool:
    """Return whether the voxels above a species' threshold are more than `MOST_SHARE` and `MOST_PARTICLES`."""
    return above > MOST_SHARE * of_voxels and particles_in(above, species, voxel_size_angstrom) > MOST_PARTICLES


def particles_in(voxels: int, species: Species, voxel_size_angstrom: float) -> float:
    """Return how many particles of a species have as many voxels."""
    return voxels / (4 / 3 * math.pi * (species.radius_angstrom / voxel_size_angstrom) ** 3)


@dataclass(frozen=True)
class Blobs:
    """Find particles as connected blobs above the species' threshold; blobs close to each other are merged.

    None are looked for in a volume where `is_flood`: they cannot be separated, and would take minutes and gigabytes.

    Attributes:
        merge_distance_in_radii: blobs nearer than this times the particle's radius are one particle; 0 merges nothing.
        connectivity: see `find_candidates`.

    Raises:
        InputError: the distance is negative, or there is no such connectivity.
    """

    merge_distance_in_radii: float = 1.0
    connectivity: int = 26

    def __post_init__(self) -> None:
        check_setting("merge_distance_in_radii", self.merge_distance_in_radii)
        check_connectivity(self.connectivity)

    def __call__(self, probability: NDArray[np.float32], species: Species, voxel_size_angstrom: float) -> Candidates:
        """Return the particles of one species.

        Args:
            probability: ``(Z, Y, X)``, 0 to 1.
            species: gives threshold, smallest blob and radius.
            voxel_size_angstrom: of ``probability``.
        """
        above = int(np.count_nonzero(probability > species.probability_threshold))
        if is_flood(above, probability.size, species, voxel_size_angstrom):
            return Candidates(np.zeros((0, 3)), np.zeros(0), np.zeros(0, dtype=np.int64))
        found = find_candidates(probability, species.probability_threshold, species.min_voxels, self.connectivity)
        return merge_close_candidates(
            found, self.merge_distance_in_radii * species.radius_angstrom / voxel_size_angstrom
        )
