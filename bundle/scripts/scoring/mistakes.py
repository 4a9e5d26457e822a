"""Why a pick is wrong, and why a true particle was missed.

Picks and true particles are paired one to one, as in mode ``one_to_one`` of `metrics`; what is left unpaired is a
mistake and gets one cause, the first of these that applies:

=============  ============================================  ==============================================
cause          of a pick without a particle                  of a particle without a pick
=============  ============================================  ==============================================
repeated       its particle was paired with another pick
merged                                                       its pick was paired with another particle
wrong species  it lies on a particle of another species      an unpaired pick of another species lies on it
near miss      an unpaired particle is near                  an unpaired pick is near
border         a face of the tomogram is near                a face of the tomogram is near
no signal      nothing is near                               nothing is near
=============  ============================================  ==============================================

"On" is within the distance that counts as found, "near" is within one radius.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.distance import cdist

from scripts.scoring.matching import match_pairs, picks_within
from scripts.species import HIT_FRACTION

RIGHT = "right"
CAUSES = ("repeated", "merged", "wrong species", "near miss", "border", "no signal")


@dataclass(frozen=True)
class Points:
    """Positions of one tomogram's particles of all species.

    Attributes:
        xyz_angstrom: ``(N, 3)`` positions.
        species: ``(N,)`` index of each one's species.
    """

    xyz_angstrom: NDArray[np.float64]
    species: NDArray[np.int64]

    def __post_init__(self) -> None:
        if self.xyz_angstrom.shape != (len(self.species), 3):
            raise ValueError(f"{len(self.species)} species need as many places; got {self.xyz_angstrom.shape}.")

    def __len__(self) -> int:
        return len(self.species)


@dataclass(frozen=True)
class Verdict:
    """Whether a pick is right, or a true particle was found, and if not, why.

    Attributes:
        cause: `RIGHT` or one of `CAUSES`.
        other: index of the particle (for a pick) or of the pick (for a particle) that it was paired with, or that the
            cause refers to; -1 for none.
        distance_angstrom: distance to ``other``, or for a border to the face; NaN for none.
    """

    cause: str
    other: int = -1
    distance_angstrom: float = float("nan")


def judge(
    truth: Points,
    picks: Points,
    scores: ArrayLike,
    radii_angstrom: ArrayLike,
    faces_xyz_angstrom: ArrayLike,
) -> tuple[list[Verdict], list[Verdict]]:
    """Return a verdict on every pick, and on every true particle.

    Of several picks within reach of a particle, those with the highest scores are paired, as long as the number of
    pairs stays the largest possible.

    Args:
        truth: the true particles.
        picks: the picks.
        scores: ``(M,)`` of the picks.
        radii_angstrom: of the species.
        faces_xyz_angstrom: ``(2, 3)``, lower and upper faces of the tomogram.
    """
    radii = np.asarray(radii_angstrom, dtype=np.float64)
    pick_of = pair(truth, picks, np.asarray(scores, dtype=np.float64), radii)
    truth_of = np.full(len(picks), -1, dtype=np.int64)
    truth_of[pick_of[pick_of >= 0]] = np.flatnonzero(pick_of >= 0)

    gaps = cdist(picks.xyz_angstrom, truth.xyz_angstrom)
    same = picks.species[:, None] == truth.species
    on = gaps <= HIT_FRACTION * radii[truth.species]
    near = same & (gaps <= radii[truth.species])
    left_over_picks, left_over_truth = (truth_of < 0)[:, None], pick_of < 0
    causes_of_picks = {
        "repeated": same & on,
        "wrong species": ~same & on,
        "near miss": near & left_over_truth,
    }
    causes_of_truth = {
        "merged": same & on,
        "wrong species": ~same & on & left_over_picks,
        "near miss": near & left_over_picks,
    }
    faces = np.asarray(faces_xyz_angstrom, dtype=np.float64)
    return (
        _verdicts(picks, truth_of, gaps, causes_of_picks, radii, faces),
        _verdicts(truth, pick_of, gaps.T, {name: fits.T for name, fits in causes_of_truth.items()}, radii, faces),
    )


def pair(truth: Points, picks: Points, scores: NDArray[np.float64], radii_angstrom: ArrayLike) -> NDArray[np.int64]:
    """Return the index of every true particle's pick, -1 for none: the most pairs, with the highest scores.

    An unpaired pick replaces the one with the lowest score among its competitors, which keeps the number of pairs.
    """
    pick_of = np.full(len(truth), -1, dtype=np.int64)
    for species, radius in enumerate(np.asarray(radii_angstrom, dtype=np.float64)):
        rows, columns = np.flatnonzero(truth.species == species), np.flatnonzero(picks.species == species)
        places = truth.xyz_angstrom[rows], picks.xyz_angstrom[columns]
        matched = match_pairs(*places, HIT_FRACTION * radius)
        claims: dict[int, list[int]] = {}
        for row, near in enumerate(picks_within(*places, HIT_FRACTION * radius)):
            for column in near:
                claims.setdefault(column, []).append(row)
        for column in np.argsort(-scores[columns], kind="stable"):
            taken = claims.get(int(column), [])
            if taken and column not in matched:
                weakest = min(taken, key=lambda row: scores[columns[matched[row]]])
                if scores[columns[matched[weakest]]] < scores[columns[column]]:
                    matched[weakest] = column
        pick_of[rows] = np.where(matched >= 0, columns[matched], -1) if len(columns) else -1
    return pick_of


def confusion(verdicts: Sequence[Verdict], picks: Points, truth: Points, species_count: int) -> NDArray[np.int64]:
    """Return the confusion matrix: which species the picks lie on.

    Returns:
        ``(S, S + 1)``: rows by the species of the pick, columns by that of the particle; the last column counts all
        other picks. The sum of a row is the number of picks.
    """
    counts = np.zeros((species_count, species_count + 1), dtype=np.int64)
    for verdict, species in zip(verdicts, picks.species, strict=True):
        known = verdict.cause in (RIGHT, "wrong species")
        counts[species, truth.species[verdict.other] if known else species_count] += 1
    return counts


def _verdicts(
    own: Points,
    partners: NDArray[np.int64],
    gaps: NDArray[np.float64],
    causes: Mapping[str, NDArray[np.bool_]],
    radii_angstrom: NDArray[np.float64],
    faces_xyz_angstrom: NDArray[np.float64],
) -> list[Verdict]:
    verdicts, (low, high) = [], faces_xyz_angstrom
    for index, partner in enumerate(partners.tolist()):
        fitting = next(((cause, fits[index]) for cause, fits in causes.items() if fits[index].any()), None)
        if partner >= 0:
            verdicts.append(Verdict(RIGHT, partner, float(gaps[index, partner])))
        elif fitting:
            cause, fits = fitting
            nearest = int(np.where(fits, gaps[index], np.inf).argmin())
            verdicts.append(Verdict(cause, nearest, float(gaps[index, nearest])))
        else:
            place = own.xyz_angstrom[index]
            face = float(np.minimum(place - low, high - place).min())
            at_border = face < radii_angstrom[own.species[index]]
            verdicts.append(Verdict("border", distance_angstrom=face) if at_border else Verdict("no signal"))
    return verdicts
