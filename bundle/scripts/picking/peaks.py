"""From probabilities to candidates: local maxima, placed between the voxels."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scripts.picking.blobs import is_flood
from scripts.picking.candidates import Candidates, highest_of_neighbours
from scripts.picking.components import components_of_voxels
from scripts.settings import check_setting
from scripts.species import Species

# the 26 neighbours of a voxel, those behind its faces first: they exceed most voxels
NEIGHBOURS = sorted((step for step in product((-1, 0, 1), repeat=3) if any(step)), key=lambda step: np.abs(step).sum())


def find_peaks(probability: Tensor, voxels: Tensor) -> Candidates:
    """Find the local maxima among some voxels of a volume.

    A maximum is placed by the parabola through the logarithms of its voxel and of the two beside it, along each axis:
    of a Gaussian this is the exact centre. Maxima that touch, and are therefore equal, are one, in their middle.

    Args:
        probability: ``(Z, Y, X)``, 0 to 1, on any device.
        voxels: ``(N,)``, increasing indices in the flat volume, of all voxels above a threshold.

    Returns:
        The maxima, with the number of voxels that share each as its size, in the order of their first voxels.
    """
    tops = _unexceeded(probability, voxels)
    maxima = _values_at(probability, tops).cpu().numpy().astype(np.float64)
    if len(maxima) == 0:
        return Candidates(np.zeros((0, 3)), maxima, np.zeros(0, dtype=np.int64))
    places = (tops + _offsets(probability, tops)).cpu().numpy()
    peak = components_of_voxels(np.ravel_multi_index(tuple(tops.cpu().numpy()), probability.shape), probability.shape)
    sizes = np.bincount(peak)
    centres = np.stack([np.bincount(peak, axis) / sizes for axis in places], axis=1)
    scores = np.zeros(len(sizes))
    scores[peak] = maxima
    return Candidates(centres, scores, sizes)


def voxels_above(probability: Tensor, threshold: float) -> Tensor:
    """Return the indices ``(N,)`` of the voxels above a threshold in the flat volume, increasing."""
    flat = probability.flatten()
    if flat.device.type == "cpu":  # NumPy takes a quarter of torch's time
        return torch.from_numpy(np.flatnonzero(flat.numpy() > threshold))
    return torch.nonzero(flat > threshold)[:, 0]


def _unexceeded(values: Tensor, voxels: Tensor) -> Tensor:
    """Return those of the voxels ``(N,)`` that no neighbour exceeds, as indices ``(3, N)``."""
    voxels = voxels[_is_top_of_row(values, voxels)]
    places = torch.stack(torch.unravel_index(voxels, values.shape))
    own = _values_at(values, places)
    for step in NEIGHBOURS:
        is_top = _values_at(values, places + places.new_tensor(step)[:, None]) <= own
        places, own = places[:, is_top], own[is_top]
    return places


def _is_top_of_row(values: Tensor, voxels: Tensor) -> Tensor:
    """Return which of all voxels above a threshold ``(N,)`` no neighbour along x exceeds: a quick first choice."""
    own = values.flatten()[voxels]
    touches = (voxels.diff() == 1) & (voxels[1:] % values.shape[2] > 0)
    rise = torch.where(touches, own.diff(), 0.0)
    is_top = torch.ones_like(voxels, dtype=torch.bool)
    is_top[:-1] &= rise <= 0
    is_top[1:] &= rise >= 0
    return is_top


def _offsets(values: Tensor, tops: Tensor) -> Tensor:
    """Return how far ``(3, N)`` the maxima are from their voxels, -0.5 to 0.5; 0 along an axis that ends there."""
    middle = _log_at(values, tops)
    offsets = []
    for axis, size in enumerate(values.shape):
        step = tops.new_tensor([place == axis for place in range(3)])[:, None]
        before, after = _log_at(values, tops - step), _log_at(values, tops + step)
        bend = before - 2 * middle + after
        is_bent = (bend < 0) & (tops[axis] > 0) & (tops[axis] < size - 1)
        offsets.append(torch.where(is_bent, (before - after) / (2 * bend), 0.0))
    return torch.stack(offsets)


def _log_at(values: Tensor, places: Tensor) -> Tensor:
    return _values_at(values, places).double().clamp(min=torch.finfo(torch.float32).tiny).log()


def _values_at(values: Tensor, places: Tensor) -> Tensor:
    """Return the values ``(N,)`` at indices ``(3, N)``; beyond the volume those of its nearest voxels."""
    z, y, x = (axis.clamp(0, size - 1) for axis, size in zip(places, values.shape, strict=True))
    return values[z, y, x]


@dataclass(frozen=True)
class Peaks:
    """Find particles as local maxima above the species' threshold; of peaks close to each other the highest is kept.

    For networks that learned heat maps, `training.heat_maps`, and for any other. ``min_voxels`` of a species is not
    used: a peak has no volume. As by `blobs.Blobs`, none are looked for where the volume is flooded.

    Attributes:
        merge_distance_in_radii: a peak nearer to a higher one than this times the particle's radius is dropped; 0 drops
            nothing.

    Raises:
        InputError: the distance is negative.
    """

    merge_distance_in_radii: float = 1.0
    takes_tensors: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_setting("merge_distance_in_radii", self.merge_distance_in_radii)

    def __call__(
        self, probability: NDArray[np.float32] | Tensor, species: Species, voxel_size_angstrom: float
    ) -> Candidates:
        """Return the particles of one species, the highest peak first.

        Args:
            probability: ``(Z, Y, X)``, 0 to 1, an array, or a tensor on any device.
            species: gives threshold and radius.
            voxel_size_angstrom: of ``probability``.
        """
        values = torch.as_tensor(probability)
        voxels = voxels_above(values, species.probability_threshold)
        if is_flood(len(voxels), values.numel(), species, voxel_size_angstrom):
            voxels = voxels[:0]
        distance_vox = self.merge_distance_in_radii * species.radius_angstrom / voxel_size_angstrom
        return highest_of_neighbours(find_peaks(values, voxels), distance_vox)
