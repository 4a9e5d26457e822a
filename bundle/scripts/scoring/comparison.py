"""Compare picks with the truth, for the pages: scores, threshold curves, causes of mistakes, confusion of species."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scripts.picks import Pick, xyz_angstrom_of
from scripts.scoring.matching import MODES
from scripts.scoring.metrics import Counts, count_matches, fbeta, precision, recall, score_counts
from scripts.scoring.mistakes import CAUSES, RIGHT, Points, Verdict, confusion, judge
from scripts.species import SpeciesSet


@dataclass(frozen=True)
class Comparison:
    """Picks compared with the truth; comparisons of several tomograms may be added.

    Attributes:
        counts: hits, picks and truths, by mode and species.
        of_picks: ``(S, 1 + C)`` number of picks by species and cause; the first cause is `RIGHT`.
        of_truth: ``(S, 1 + C)`` number of true particles, likewise.
        lies_on: ``(S, S + 1)``, see `mistakes.confusion`.
        sweep: ``(S, T, 3)`` hits, picks and truths by threshold.
        wrong_scores: scores of the wrong picks, by species.
    """

    counts: dict[str, dict[str, Counts]]
    of_picks: NDArray[np.int64]
    of_truth: NDArray[np.int64]
    lies_on: NDArray[np.int64]
    sweep: NDArray[np.int64]
    wrong_scores: tuple[tuple[float, ...], ...]

    def __add__(self, other: Comparison) -> Comparison:
        counts = {
            mode: {name: own[name] + other.counts[mode][name] for name in own} for mode, own in self.counts.items()
        }
        return Comparison(
            counts=counts,
            of_picks=self.of_picks + other.of_picks,
            of_truth=self.of_truth + other.of_truth,
            lies_on=self.lies_on + other.lies_on,
            sweep=self.sweep + other.sweep,
            wrong_scores=tuple(a + b for a, b in zip(self.wrong_scores, other.wrong_scores, strict=True)),
        )

    def f4(self, mode: str, species_set: SpeciesSet) -> float:
        """Return the weighted mean of the species' F4."""
        return score_counts(self.counts[mode], species_set)

    def as_json(self, species_set: SpeciesSet, thresholds: ArrayLike, sweep_mode: str) -> dict[str, Any]:
        """Return the comparison as plain values, ready for JSON.

        Args:
            species_set: the species.
            thresholds: ``(T,)`` thresholds of the sweep.
            sweep_mode: how picks were matched in the sweep.
        """
        return {
            "modes": [
                {
                    "mode": mode,
                    "total": self.f4(mode, species_set),
                    "rows": [_row(counts[n]) for n in species_set.names],
                }
                for mode, counts in self.counts.items()
            ],
            "causes": [RIGHT, *CAUSES],
            "ofPicks": self.of_picks.tolist(),
            "ofTruth": self.of_truth.tolist(),
            "liesOn": self.lies_on.tolist(),
            "wrongScores": self.wrong_scores,
            "sweepMode": sweep_mode,
            "thresholds": np.asarray(thresholds, dtype=np.float64).tolist(),
            "curves": [[_row(Counts(*map(int, row))) for row in rows] for rows in self.sweep],
        }


def compare(
    truth: Sequence[Pick],
    picks: Sequence[Pick],
    species_set: SpeciesSet,
    faces_xyz_angstrom: ArrayLike,
    sweep: ArrayLike,
) -> tuple[Comparison, list[Verdict], list[Verdict]]:
    """Compare the picks of one tomogram with its truth.

    Args:
        truth: its true particles.
        picks: its picks.
        species_set: the species.
        faces_xyz_angstrom: ``(2, 3)``, lower and upper faces of the tomogram.
        sweep: ``(S, T, 3)``, the counts of `scoring.threshold_sweep.SweepThresholdsd`.

    Returns:
        The comparison, and the verdicts on every pick and on every true particle, see `mistakes.judge`.
    """
    true_points, points = points_of(truth, species_set), points_of(picks, species_set)
    radii = [species.radius_angstrom for species in species_set.picked]
    scores = [pick.score for pick in picks]
    of_picks, of_truth = judge(true_points, points, scores, radii, faces_xyz_angstrom)
    none = dict.fromkeys(species_set.names, Counts())
    comparison = Comparison(
        counts={mode: none | count_matches(truth, picks, species_set, mode) for mode in MODES},
        of_picks=_by_cause(of_picks, points, len(radii)),
        of_truth=_by_cause(of_truth, true_points, len(radii)),
        lies_on=confusion(of_picks, points, true_points, len(radii)),
        sweep=np.asarray(sweep, dtype=np.int64),
        wrong_scores=tuple(
            tuple(
                pick.score
                for pick, verdict in zip(picks, of_picks, strict=True)
                if pick.species == name and verdict.cause != RIGHT
            )
            for name in species_set.names
        ),
    )
    return comparison, of_picks, of_truth


def points_of(picks: Sequence[Pick], species_set: SpeciesSet) -> Points:
    """Return picks as positions and indices of species."""
    index = {name: number for number, name in enumerate(species_set.names)}
    species = np.array([index[pick.species] for pick in picks], dtype=np.int64)
    return Points(xyz_angstrom_of(picks), species)


def cause_in_words(verdict: Verdict, others: Sequence[Pick]) -> str:
    """Return the description of a cause.

    Args:
        verdict: the verdict on a pick or a particle.
        others: the particles, for a pick, or the picks, for a particle.
    """
    distance = f"{verdict.distance_angstrom:.0f} Å"
    words = {
        "wrong species": f"wrong species: {others[verdict.other].species}" if verdict.other >= 0 else "",
        "near miss": f"near miss, {distance}",
        "border": f"border, {distance}",
    }
    return words.get(verdict.cause, verdict.cause)


def _by_cause(verdicts: Iterable[Verdict], points: Points, species_count: int) -> NDArray[np.int64]:
    counts = np.zeros((species_count, 1 + len(CAUSES)), dtype=np.int64)
    for verdict, species in zip(verdicts, points.species, strict=True):
        counts[species, (RIGHT, *CAUSES).index(verdict.cause)] += 1
    return counts


def _row(counts: Counts) -> dict[str, float]:
    tp, predicted, truths = counts.tp, counts.predicted, counts.truths
    return {
        "truths": truths, "picks": predicted, "tp": tp, "fp": counts.fp, "fn": counts.fn,
        "precision": precision(tp, predicted), "recall": recall(tp, truths), "f4": fbeta(tp, predicted, truths),
    }  # fmt: skip
