"""Picks in the coordinates of the tomogram as it was read."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scripts.coordinates import to_xyz_angstrom
from scripts.picking.candidates import Candidates
from scripts.picks import Pick
from scripts.preparation.image_facts import ImageFacts
from scripts.preparation.region import is_inside
from scripts.species import Species, SpeciesSet


def picks_in_image(
    centres_zyx_vox: NDArray[np.float64],
    scores: NDArray[np.float64],
    species: Species,
    facts: ImageFacts,
    voxel_offset: float,
) -> list[Pick]:
    """Return picks at voxels of an image, in the coordinates of the tomogram as it was read.

    Args:
        centres_zyx_vox: ``(N, 3)`` in the voxels of the image, which may have been resampled.
        scores: ``(N,)``.
        species: what was picked.
        facts: of the image.
        voxel_offset: see `coordinates`.
    """
    own = facts.own_voxel_size_angstrom
    voxels = centres_zyx_vox * (facts.voxel_size_angstrom / own)
    points = to_xyz_angstrom(voxels, own, voxel_offset)
    return [
        Pick(facts.run, species.name, x, y, z, score, species.radius_angstrom, x_voxel, y_voxel, z_voxel)
        for (x, y, z), score, (z_voxel, y_voxel, x_voxel) in zip(
            points.tolist(), scores.tolist(), voxels.tolist(), strict=True
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


def probability_of(logits: Tensor) -> NDArray[np.float32]:
    """Return the probabilities of one channel of logits ``(Z, Y, X)``."""
    return np.asarray(torch.sigmoid(logits.float()).cpu())


def keep_inside(found: Candidates, region: Tensor | None) -> Candidates:
    """Return the candidates with their centre in a region ``(1, Z, Y, X)``, 0 outside; all if it is None.

    Candidates are found before this step, from logits inside and outside the region, so that a particle at its edge
    keeps its centre.
    """
    return found if region is None else found.only(is_inside(region[0].cpu().numpy(), found.centres_zyx_vox))
