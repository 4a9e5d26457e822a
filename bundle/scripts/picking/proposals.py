"""Proposals: all places in a tomogram where a particle of any species may be, for a second look at each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit
from torch import Tensor

from scripts.file_pages import parts_of
from scripts.picking.candidates import Candidates, highest_among_neighbours
from scripts.picking.operating_point import LEAST_PROBABILITY
from scripts.species import SpeciesSet

LOWEST_LOGIT = -2.0  # a probability of 0.12
SAME_PLACE_ANGSTROM = 60.0  # the centres of the smallest species' neighbours are farther apart
MOST_PEAKS = 20_000  # that are merged to proposals, the highest; a full-size tomogram has hundreds
CENTRE_ROUNDS = 3
CENTRE_REACH = 3  # voxels of the logits around a peak that its centre is computed from
REACH = 1  # voxels of the logits around a place that hold its highest logit of every species


@dataclass(frozen=True)
class Proposals:
    """Places where a particle may be, the most likely first.

    Attributes:
        centres_zyx_vox: ``(N, 3)`` voxel indices of the image.
        logits: ``(N, C)``, the network's highest logit of every species around each place.
        left_out: number of lower peaks that were not looked at, because there were more than `MOST_PEAKS`.
    """

    centres_zyx_vox: NDArray[np.float64]
    logits: NDArray[np.float32]
    left_out: int = 0

    def __len__(self) -> int:
        return len(self.logits)


def propose(
    logits: Tensor,
    voxel_size_angstrom: float,
    stride: int = 1,
    lowest_logit: float = LOWEST_LOGIT,
    same_place_angstrom: float = SAME_PLACE_ANGSTROM,
) -> Proposals:
    """Return the local maxima of all species' logits, merged: of several within a distance only the highest is kept.

    A peak's centre is the mean of the voxels around it, weighted by their probability. Of more than `MOST_PEAKS` the
    highest are taken, so that a volume full of noise takes minutes, not hours.

    Args:
        logits: ``(C, Z, Y, X)``, by ``stride`` coarser than the image.
        voxel_size_angstrom: of the image.
        stride: see `image_picks.logits_stride_of`.
        lowest_logit: of a peak.
        same_place_angstrom: a peak within this distance of a higher one, of any species, is dropped.
    """
    found = [peaks_of(channel, lowest_logit) for channel in parts_of(logits)]
    maxima = [values_at(channel, own) for channel, own in zip(parts_of(logits), found, strict=True)]
    peaks, channels = np.concatenate(found), np.repeat(np.arange(len(logits)), [len(own) for own in found])
    heights = np.concatenate(maxima)
    order = np.argsort(-heights, kind="stable")[:MOST_PEAKS]
    left_out, peaks, channels, heights = len(peaks) - len(order), peaks[order], channels[order], heights[order]
    kept = highest_among_neighbours(peaks, heights, same_place_angstrom / (voxel_size_angstrom * stride))
    peaks, channels = peaks[kept], channels[kept]
    centres = np.zeros((len(peaks), 3))
    for number, channel in enumerate(parts_of(logits)):
        own = channels == number
        centres[own] = centres_around(channel, peaks[own])
    around = np.stack([highest_around(channel, peaks) for channel in parts_of(logits)], axis=1).astype(np.float32)
    return Proposals(centres * stride + (stride - 1) / 2, around, left_out)


def candidates_of(
    proposals: Proposals,
    probabilities: NDArray[np.float64],
    species_set: SpeciesSet,
    voxel_size_angstrom: float,
    merge_distance_in_radii: float,
    is_judged: NDArray[np.bool_] | None = None,
) -> dict[str, Candidates]:
    """Return the candidates of every species, by name; those below `LEAST_PROBABILITY` are left out.

    Args:
        proposals: the places.
        probabilities: ``(N, C)``, the scores.
        species_set: the species.
        voxel_size_angstrom: of the image.
        merge_distance_in_radii: of two candidates nearer than this times their radius the more probable one is kept.
        is_judged: ``(N, C)``, which of these to return; None for all.
    """
    candidates = {}
    for column, species in enumerate(species_set.picked):
        likely = np.flatnonzero(probabilities[:, column] >= LEAST_PROBABILITY)
        distance = merge_distance_in_radii * species.radius_angstrom / voxel_size_angstrom
        places = proposals.centres_zyx_vox[likely]
        kept = likely[highest_among_neighbours(places, probabilities[likely, column], distance)]
        if is_judged is not None:
            kept = kept[is_judged[kept, column]]
        candidates[species.name] = Candidates(
            proposals.centres_zyx_vox[kept],
            probabilities[kept, column],
            np.ones(len(kept), dtype=np.int64),
            expit(proposals.logits[kept, column].astype(np.float64)),
        )
    return candidates


def peaks_of(values: Tensor, lowest: float) -> NDArray[np.int64]:
    """Return the voxels ``(N, 3)`` above ``lowest`` that no neighbour exceeds; of equal neighbours the first."""
    inside = _above(values, lowest)
    own = values_at(values, inside)
    shape = np.asarray(values.shape)
    is_peak = np.ones(len(inside), dtype=bool)
    for step in product((-1, 0, 1), repeat=3):
        if step == (0, 0, 0):
            continue
        rows = np.flatnonzero(is_peak)
        near = inside[rows] + step
        there = np.all((near >= 0) & (near < shape), axis=1)
        rows, other = rows[there], values_at(values, near[there])
        comes_first = step < (0, 0, 0)
        is_peak[rows] = own[rows] > other if comes_first else own[rows] >= other
    return inside[is_peak]


def centres_around(channel: Tensor, peaks: NDArray[np.int64], reach: int = CENTRE_REACH) -> NDArray[np.float64]:
    """Return the centres ``(N, 3)`` of the voxels within ``reach`` of each peak, weighted by their probability."""
    centres = peaks.astype(np.float64)
    for _ in range(CENTRE_ROUNDS):
        sums, weights = np.zeros((len(peaks), 3)), np.zeros(len(peaks))
        for place, values in _around(channel, np.rint(centres).astype(np.int64), reach):
            weight = expit(values.astype(np.float64))
            sums += weight[:, None] * place
            weights += weight
        centres = sums / np.maximum(weights, 1e-9)[:, None]
    return centres


def highest_around(channel: Tensor, peaks: NDArray[np.int64], reach: int = REACH) -> NDArray[np.float32]:
    """Return the highest value ``(N,)`` within ``reach`` voxels of each peak."""
    highest = np.full(len(peaks), -np.inf, dtype=np.float32)
    for _, values in _around(channel, peaks, reach):
        highest = np.maximum(highest, values)
    return highest


def values_at(values: Tensor, places: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return the values ``(N,)`` at voxels ``(N, 3)``."""
    z, y, x = torch.from_numpy(np.ascontiguousarray(places.T)).to(values.device)
    return np.asarray(values[z, y, x].float().cpu())


def _around(
    channel: Tensor, peaks: NDArray[np.int64], reach: int
) -> Sequence[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Return, for every step within ``reach``, the voxels there and their values.

    Beyond the volume the nearest voxel of it is taken.
    """
    last = np.asarray(channel.shape) - 1
    steps = [step for step in product(range(-reach, reach + 1), repeat=3) if np.dot(step, step) <= reach**2 + 1]
    around = [np.clip(peaks + step, 0, last) for step in steps]
    return [(place, values_at(channel, place)) for place in around]


def _above(values: Tensor, lowest: float) -> NDArray[np.int64]:
    """Return the voxels ``(N, 3)`` above a value, in order; plane by plane, to save memory."""
    found = []
    for z, plane in enumerate(values):
        inside = torch.nonzero(plane > lowest).cpu().numpy()
        found.append(np.column_stack([np.full(len(inside), z), inside]))
    return np.concatenate(found).astype(np.int64)
