"""From probabilities to picks: threshold, connected components, centroids, merge."""

from __future__ import annotations

from dataclasses import dataclass

import cc3d
import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import DBSCAN

from scripts.particles import Species


@dataclass(frozen=True)
class Candidates:
    """Points of one species.

    Attributes:
        centres_zyx_vox: ``(N, 3)`` voxel indices.
        scores: ``(N,)``, the highest probability in each particle's blob.
        sizes: ``(N,)``, voxels of each particle's blob.
    """

    centres_zyx_vox: NDArray[np.float64]
    scores: NDArray[np.float64]
    sizes: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.scores)

    def only(self, wanted: NDArray[np.bool_] | NDArray[np.int64]) -> Candidates:
        """Return those of the points that a mask or a list of numbers names."""
        return Candidates(self.centres_zyx_vox[wanted], self.scores[wanted], self.sizes[wanted])


def find_candidates(
    probability: NDArray[np.float32], threshold: float, min_voxels: int = 1, connectivity: int = 26
) -> Candidates:
    """Find every connected blob above a threshold and its centre.

    Args:
        probability: ``(Z, Y, X)``, 0 to 1.
        threshold: voxels above it belong to a particle.
        min_voxels: smaller blobs are dropped as noise.
        connectivity: 6 (faces), 18 (and edges) or 26 (and corners).

    Returns:
        The blobs' centres of mass, weighted by the probability above the threshold. Nothing found: N is 0.

    Raises:
        ValueError: ``probability`` does not have three axes.
    """
    if probability.ndim != 3:
        raise ValueError(f"probability must be one volume of shape (Z, Y, X); got shape {probability.shape}.")
    mask = np.ascontiguousarray(probability > threshold)
    inside = np.flatnonzero(mask)
    if len(inside) == 0:
        return Candidates(np.zeros((0, 3)), np.zeros(0), np.zeros(0, dtype=np.int64))
    blobs = cc3d.connected_components(mask, connectivity=connectivity)  # type: ignore[call-overload]
    blob = blobs.ravel()[inside].astype(np.int64) - 1
    values = probability.ravel()[inside].astype(np.float64)
    weights = values - threshold  # positive: the mask is strict
    total = np.bincount(blob, weights)
    centres = np.stack(
        [np.bincount(blob, weights * axis) / total for axis in np.unravel_index(inside, mask.shape)], axis=1
    )
    scores = np.zeros(len(total))
    np.maximum.at(scores, blob, values)
    sizes = np.bincount(blob)
    return Candidates(centres, scores, sizes).only(sizes >= min_voxels)


def merge_close_candidates(candidates: Candidates, distance_vox: float) -> Candidates:
    """Replace every chain of points with gaps of at most ``distance_vox`` by its mean, weighted by blob size.

    Three points in a row merge although the outer two are farther apart than ``distance_vox``. The merged point has
    the highest score and the summed size of its parts. The result's points do not depend on the order of the points.
    A distance of 0 merges nothing.
    """
    if len(candidates) == 0 or distance_vox == 0:
        return candidates
    points = candidates.centres_zyx_vox
    group = DBSCAN(eps=distance_vox, min_samples=1).fit_predict(points)  # min_samples=1: a lone point stays
    sizes = np.bincount(group, candidates.sizes)
    centres = np.stack([np.bincount(group, candidates.sizes * axis) / sizes for axis in points.T], axis=1)
    scores = np.zeros(len(sizes))
    np.maximum.at(scores, group, candidates.scores)
    return Candidates(centres, scores, sizes.astype(np.int64))


def pick_species(
    probability: NDArray[np.float32],
    species: Species,
    voxel_size_angstrom: float,
    merge_distance_in_radii: float = 1.0,
    connectivity: int = 26,
) -> Candidates:
    """Find the particles of one species by its own threshold, smallest blob and radius.

    Args:
        probability: ``(Z, Y, X)``, 0 to 1.
        species: gives threshold, smallest blob and radius.
        voxel_size_angstrom: of ``probability``.
        merge_distance_in_radii: blobs nearer than this times the particle's radius are one particle; 0 merges nothing.
        connectivity: see `find_candidates`.
    """
    found = find_candidates(probability, species.probability_threshold, species.min_voxels, connectivity)
    return merge_close_candidates(found, merge_distance_in_radii * species.radius_angstrom / voxel_size_angstrom)
