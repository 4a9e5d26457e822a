"""From probabilities to candidates: threshold, connected components, centroids."""

from __future__ import annotations

from dataclasses import dataclass

import cc3d
import numpy as np
from numpy.typing import NDArray

from scripts.picking.candidates import Candidates, merge_close_candidates
from scripts.species import Species


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
        The blobs' centres of mass, weighted by the probability above the threshold; empty if there is no blob.

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


@dataclass(frozen=True)
class Blobs:
    """Find particles as connected blobs above the species' threshold; blobs close to each other are merged.

    Attributes:
        merge_distance_in_radii: blobs nearer than this times the particle's radius are one particle; 0 merges nothing.
        connectivity: see `find_candidates`.

    Raises:
        ValueError: the distance is negative.
    """

    merge_distance_in_radii: float = 1.0
    connectivity: int = 26

    def __post_init__(self) -> None:
        if self.merge_distance_in_radii < 0:
            raise ValueError(f"merge_distance_in_radii must not be negative; got {self.merge_distance_in_radii}.")

    def __call__(self, probability: NDArray[np.float32], species: Species, voxel_size_angstrom: float) -> Candidates:
        """Return the particles of one species.

        Args:
            probability: ``(Z, Y, X)``, 0 to 1.
            species: gives threshold, smallest blob and radius.
            voxel_size_angstrom: of ``probability``.
        """
        found = find_candidates(probability, species.probability_threshold, species.min_voxels, self.connectivity)
        return merge_close_candidates(
            found, self.merge_distance_in_radii * species.radius_angstrom / voxel_size_angstrom
        )
