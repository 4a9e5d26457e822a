"""One table of picks out of the tables of several models."""

from __future__ import annotations

import math
import warnings
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from scripts.errors import InputError, InputWarning
from scripts.picks.pick import Pick, known_zyx_vox_of, xyz_angstrom_of

GRID_TOLERANCE = 0.05  # voxels; picks of one grid are off its line by the digits of their tables alone
LEAST_WEIGHT = 1e-12  # of a pick with score 0 in the mean of positions


def fuse_picks(
    tables: Sequence[Sequence[Pick]], weights: Sequence[float] | None = None, distance_angstrom: float | None = None
) -> list[Pick]:
    """Fuse the picks of several models, for each run and species alone.

    By falling weighted score, each pick joins the nearest particle within a distance that has no pick of its own table
    yet, or else becomes a new one. A particle lies at the mean of its picks, weighted by weight times score. Its score
    is the weighted mean over all tables, 0 for those without a pick of it. Rejected picks (weight 0) and uncertain ones
    (nan) are left out, and no pick counts more than its weight. Voxels are fused, too, unless the tables of a run count
    voxels of different sizes: then they are not known.

    Args:
        tables: a table per model; scores are probabilities.
        weights: of the tables, positive; None for equal ones.
        distance_angstrom: largest distance; None for the radius of the particle.

    Returns:
        The particles, each run and species by falling score.

    Raises:
        InputError: weights or distance are not positive, a score is no probability, or a radius is needed and unknown.

    Source:
        Weighted boxes fusion: Solovyev et al. 2021. Differs: points and a distance in place of boxes and their overlap,
        and at most one pick of a table per particle.
    """
    shares = [1.0] * len(tables) if weights is None else list(weights)
    if len(shares) != len(tables) or not all(0 < share < float("inf") for share in shares):
        raise InputError(f"weights needs {len(tables)} positive numbers, one per table; got {shares}.")
    if distance_angstrom is not None and not 0 < distance_angstrom < float("inf"):
        raise InputError(f"distance_angstrom must be positive; got {distance_angstrom}.")
    groups: defaultdict[tuple[str, str], list[tuple[int, Pick]]] = defaultdict(list)
    left_out = sum(not pick.weight > 0 for table in tables for pick in table)
    if left_out:
        said = f"{left_out} picks that were rejected (weight 0) or are uncertain (no weight) are left out"
        warnings.warn(f"{said}.", InputWarning, stacklevel=2)
    for number, table in enumerate(tables):
        for pick in table:
            if not pick.weight > 0:
                continue
            if not 0 <= pick.score <= 1:
                raise InputError(f"scores must be probabilities, 0 to 1, to be averaged; got {pick.score:g} in {pick}.")
            groups[pick.run, pick.species].append((number, replace(pick, score=min(pick.score, pick.weight))))
    return [
        one
        for found in groups.values()
        for one in _fuse_species([pick for _, pick in found], [owner for owner, _ in found], shares, distance_angstrom)
    ]


def _fuse_species(
    picks: Sequence[Pick], owners: Sequence[int], weights: Sequence[float], distance_angstrom: float | None
) -> list[Pick]:
    """Fuse the picks of one species in one run, see `fuse_picks`.

    Args:
        picks: of all tables.
        owners: the table of each pick.
        weights: of the tables.
        distance_angstrom: see `fuse_picks`.
    """
    radius = float(np.nanmax([pick.radius_angstrom for pick in picks] + [0.0]))
    distance = radius if distance_angstrom is None else distance_angstrom
    if distance == 0:
        raise InputError(f"the radius of {picks[0].species} is unknown: set distance_angstrom.")
    voxels = known_zyx_vox_of(picks)
    if not are_of_one_grid(xyz_angstrom_of(picks), voxels):
        said = f"{picks[0].run}: the tables count {picks[0].species} in voxels of different sizes"
        warnings.warn(f"{said}; the fused picks have ångströms alone.", InputWarning, stacklevel=3)
        voxels = np.full_like(voxels, np.nan)
    places = np.hstack([xyz_angstrom_of(picks), voxels])
    shares = np.array([weights[owner] * pick.score for owner, pick in zip(owners, picks, strict=True)])
    particles: list[list[int]] = []
    centres, has_pick_of = np.full_like(places, np.inf), np.zeros((len(picks), len(weights)), dtype=bool)
    for number in np.argsort(-shares, kind="stable").tolist():
        gaps = np.linalg.norm(centres[:, :3] - places[number, :3], axis=1)
        gaps[has_pick_of[:, owners[number]]] = np.inf
        nearest = int(gaps.argmin())
        if gaps[nearest] > distance:
            nearest = len(particles)
            particles.append([])
        members = particles[nearest]
        members.append(number)
        has_pick_of[nearest, owners[number]] = True
        centres[nearest] = np.average(places[members], axis=0, weights=shares[members] + LEAST_WEIGHT)
    scores = [float(shares[members].sum()) / sum(weights) for members in particles]
    run, species, known_radius = picks[0].run, picks[0].species, radius or math.nan
    fused = [
        Pick(run, species, x, y, z, score, known_radius, x_voxel, y_voxel, z_voxel)
        for (x, y, z, z_voxel, y_voxel, x_voxel), score in zip(centres[: len(particles)].tolist(), scores, strict=True)
    ]
    return sorted(fused, key=lambda pick: -pick.score)


def are_of_one_grid(xyz_angstrom: NDArray[np.float64], zyx_vox: NDArray[np.float64]) -> bool:
    """Return whether positions are counted in voxels of one size and offset; voxels that are not known do not tell.

    Args:
        xyz_angstrom: ``(N, 3)``.
        zyx_vox: ``(N, 3)``, nan where they are not known.
    """
    is_known = np.isfinite(zyx_vox).all(axis=1)
    angstrom, voxels = xyz_angstrom[is_known][:, ::-1].ravel(), zyx_vox[is_known].ravel()
    if len(np.unique(voxels)) < 2:
        return len(np.unique(angstrom)) < 2
    size, offset = np.polyfit(voxels, angstrom, 1)
    return bool(np.abs(size * voxels + offset - angstrom).max() <= GRID_TOLERANCE * abs(size))
