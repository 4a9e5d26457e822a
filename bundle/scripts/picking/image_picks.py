"""Candidates in the voxels of an image, and picks in the coordinates of the tomogram as it was read."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scripts.coordinates import to_xyz_angstrom, voxel_size_of
from scripts.picking.blobs import MOST_PARTICLES, is_flood, particles_in
from scripts.picking.candidates import Candidates, Finder
from scripts.picks import Pick
from scripts.preparation.annotation import Annotation
from scripts.preparation.image_facts import ImageFacts
from scripts.preparation.region import is_inside
from scripts.species import HIT_FRACTION, Species, SpeciesSet


def picks_in_image(
    centres_zyx_vox: NDArray[np.float64],
    scores: NDArray[np.float64],
    species: Species,
    facts: ImageFacts,
    voxel_offset: float,
    network_scores: NDArray[np.float64] | None = None,
) -> list[Pick]:
    """Return picks at voxels of an image, in the coordinates of the tomogram as it was read.

    Args:
        centres_zyx_vox: ``(N, 3)`` in the voxels of the image, which may have been cut out and resampled.
        scores: ``(N,)``.
        species: what was picked.
        facts: of the image.
        voxel_offset: see `coordinates`.
        network_scores: ``(N,)``, the first network's, where ``scores`` are those of a second look.
    """
    firsts = np.full(len(scores), np.nan) if network_scores is None else network_scores
    voxels = facts.to_own_voxels(centres_zyx_vox)
    points = to_xyz_angstrom(voxels, facts.own_voxel_size_angstrom, voxel_offset)
    return [
        Pick(facts.run, species.name, x, y, z, score, species.radius_angstrom, x_voxel, y_voxel, z_voxel, first)
        for (x, y, z), score, (z_voxel, y_voxel, x_voxel), first in zip(
            points.tolist(), scores.tolist(), voxels.tolist(), firsts.tolist(), strict=True
        )
    ]


def true_picks(rows: Tensor, species_set: SpeciesSet, facts: ImageFacts, voxel_offset: float = 0.0) -> list[Pick]:
    """Return the true particles ``(N, 4)`` of an image, rows of label and voxel index, as picks."""
    values = np.asarray(rows.cpu(), dtype=np.float64).reshape(-1, 4)
    truth: list[Pick] = []
    for species in species_set.picked:
        centres = values[values[:, 0] == species.label, 1:]
        truth += picks_in_image(centres, np.ones(len(centres)), species, facts, voxel_offset)
    return truth


def has_contrast(image: Tensor) -> bool:
    """Return whether an image ``(1, Z, Y, X)`` is not 0 everywhere, as the scaling leaves a constant volume."""
    return any(bool(plane.any()) for plane in image[0])


def logits_stride_of(logits_zyx: Sequence[int], image_zyx: Sequence[int]) -> int:
    """Return how many image voxels a voxel of the logits covers along each axis.

    Args:
        logits_zyx: ``(Z, Y, X)`` of the logits.
        image_zyx: ``(Z, Y, X)`` of the image.

    Raises:
        ValueError: no whole number fits all three axes.
    """
    stride = max(-(-image // logits) for image, logits in zip(image_zyx, logits_zyx, strict=True))
    if any(-(-image // stride) != logits for image, logits in zip(image_zyx, logits_zyx, strict=True)):
        raise ValueError(f"logits of shape {tuple(logits_zyx)} do not cover an image of shape {tuple(image_zyx)}.")
    return stride


def find_in_image(
    finder: Finder, probability: NDArray[np.float32] | Tensor, species: Species, voxel_size_angstrom: float, stride: int
) -> Candidates:
    """Return the particles of one species, in the voxels of the image.

    Voxel ``i`` of the probabilities covers the ``stride`` image voxels from ``stride * i``, so its centre lies at
    ``stride * i + (stride - 1) / 2``.

    Args:
        finder: finds them in the probabilities.
        probability: ``(Z, Y, X)``, 0 to 1, see `probability_of`.
        species: what is picked; its ``min_voxels`` counts voxels of the image.
        voxel_size_angstrom: of the image.
        stride: see `logits_stride_of`.
    """
    volume = stride**3
    coarse = replace(species, min_voxels=max(round(species.min_voxels / volume), 1))
    found = finder(probability, coarse, voxel_size_angstrom * stride)
    return Candidates(found.centres_zyx_vox * stride + (stride - 1) / 2, found.scores, found.sizes * volume)


def why_doubtful(
    found: Candidates,
    probability: NDArray[np.float32] | Tensor,
    species: Species,
    voxel_size_angstrom: float,
    stride: int,
) -> str | None:
    """Return the reason why the result of `find_in_image` cannot be particles, for a message; None if it can."""
    if len(found.scores) == 0:
        above, size = int((probability > species.probability_threshold).sum()), math.prod(probability.shape)
        if is_flood(above, size, species, voxel_size_angstrom * stride):
            return f"{above / size:.0%} of the volume lies above the threshold of {species.name}, so none is picked"
    largest = int(found.sizes.max(initial=0))
    particles = particles_in(largest, species, voxel_size_angstrom)
    if particles > MOST_PARTICLES:
        return f"one pick of {species.name} holds {largest} voxels above the threshold, as many as {particles:.0f} have"
    return None


def probability_of(logits: Tensor, finder: Finder) -> NDArray[np.float32] | Tensor:
    """Return the probabilities of one channel of logits ``(Z, Y, X)`` in the form that a finder takes."""
    probability = torch.sigmoid(logits.float())
    return probability if getattr(finder, "takes_tensors", False) else np.asarray(probability.cpu())


def is_judged(
    points_zyx_vox: NDArray[np.float64], species: Species, sample: Mapping[Any, Any], label_key: str = "label"
) -> NDArray[np.bool_]:
    """Return which points ``(N, 3)`` in a sample's image count as right or wrong picks of a species.

    The others are left out before picks and truth are matched, see `annotation.Annotation.is_told`.
    """
    rows = np.asarray(sample[label_key].cpu(), dtype=np.float64).reshape(-1, 4)
    distance = HIT_FRACTION * species.radius_angstrom / voxel_size_of(sample["image"].affine)
    return Annotation.of(sample).is_told(species.label, points_zyx_vox, rows[rows[:, 0] == species.label, 1:], distance)


def keep_inside(found: Candidates, region: Tensor | None) -> Candidates:
    """Return the candidates with their centre in a region ``(1, Z, Y, X)``, 0 outside; all if it is None.

    Candidates are found before this step, from logits inside and outside the region, so that a particle at its edge
    keeps its centre.
    """
    return found if region is None else found.only(is_inside(region[0].cpu().numpy(), found.centres_zyx_vox))
