"""Candidates for picks of one species: points with scores and sizes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree
from sklearn.cluster import DBSCAN

from scripts.species import Species


@dataclass(frozen=True)
class Candidates:
    """Points of one species.

    Attributes:
        centres_zyx_vox: ``(N, 3)`` voxel indices.
        scores: ``(N,)``, the highest probability in each particle's blob; after a second look the calibrated one.
        sizes: ``(N,)``, voxels of each particle's blob.
        network_scores: ``(N,)``, the first network's probability, where `scores` are those of a second look.
        spread: how far tomograms differ in what these scores mean, see `calibration.Calibration`.
    """

    centres_zyx_vox: NDArray[np.float64]
    scores: NDArray[np.float64]
    sizes: NDArray[np.int64]
    network_scores: NDArray[np.float64] | None = None
    spread: float = 0.0

    def __len__(self) -> int:
        return len(self.scores)

    def only(self, wanted: NDArray[np.bool_] | NDArray[np.int64]) -> Candidates:
        """Return the points that a mask or an array of indices selects."""
        first = None if self.network_scores is None else self.network_scores[wanted]
        return Candidates(self.centres_zyx_vox[wanted], self.scores[wanted], self.sizes[wanted], first, self.spread)


class Finder(Protocol):
    """Finds the particles of one species in a volume of probabilities; for example `picking.blobs.Blobs`.

    The volume is a NumPy array, or, for a finder whose attribute ``takes_tensors`` is True, such as `peaks.Peaks`, a
    torch tensor on the device of the logits.
    """

    def __call__(self, probability: Any, species: Species, voxel_size_angstrom: float) -> Candidates:
        """Return the particles found in ``(Z, Y, X)``, by the species' threshold, smallest size and radius."""


def merge_close_candidates(candidates: Candidates, distance_vox: float) -> Candidates:
    """Replace every chain of points with gaps of at most ``distance_vox`` by its mean, weighted by blob size.

    Three points in a row merge although the outer two are farther apart than ``distance_vox``. The merged point has
    the highest score and the summed size of its parts. The result's points do not depend on the order of the points.
    A distance of 0 merges nothing.
    """
    if len(candidates) == 0 or distance_vox == 0:
        return candidates
    points = candidates.centres_zyx_vox
    group = DBSCAN(eps=distance_vox, min_samples=1).fit_predict(points)  # min_samples=1: an isolated point is kept
    sizes = np.bincount(group, candidates.sizes)
    centres = np.stack([np.bincount(group, candidates.sizes * axis) / sizes for axis in points.T], axis=1)
    scores = np.zeros(len(sizes))
    np.maximum.at(scores, group, candidates.scores)
    return Candidates(centres, scores, sizes.astype(np.int64))


def highest_of_neighbours(candidates: Candidates, distance_vox: float) -> Candidates:
    """Return the points without a higher kept one within ``distance_vox``, by falling score."""
    return candidates.only(highest_among_neighbours(candidates.centres_zyx_vox, candidates.scores, distance_vox))


def highest_among_neighbours(
    points_zyx_vox: NDArray[Any], scores: NDArray[np.floating[Any]], distance_vox: float
) -> NDArray[np.int64]:
    """Return the indices of the points without a higher kept one within a distance, by falling score; 0 keeps all.

    Args:
        points_zyx_vox: ``(N, 3)``.
        scores: ``(N,)``; of equal scores the first is the highest.
        distance_vox: exactly this distance is within.
    """
    order = np.argsort(-scores, kind="stable")
    if len(order) == 0 or distance_vox == 0:
        return order
    near = KDTree(points_zyx_vox).query_ball_point(points_zyx_vox, distance_vox)
    is_free = np.ones(len(order), dtype=bool)
    kept = []
    for number in order:
        if is_free[number]:
            kept.append(number)
            is_free[near[number]] = False
    return np.asarray(kept, dtype=np.int64)
