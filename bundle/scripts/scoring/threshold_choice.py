"""Choose the probability threshold of every species that scores best against the truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scripts.scoring.metrics import fbeta
from scripts.species import SpeciesSet

PLATEAU = 0.005  # F-beta values this close to the best count as equal to it
LEAST_TRUTHS = 10  # true particles to fit anything on: with fewer, finding one more changes recall by over a tenth


@dataclass(frozen=True)
class ThresholdFit:
    """Probability thresholds that were fitted, by the species' names.

    Attributes:
        thresholds: of every picked species.
        curves: ``(T,)`` F-beta of every threshold that was tried.
        kept: why a species keeps the threshold that it had, for those that do.
    """

    thresholds: dict[str, float]
    curves: dict[str, NDArray[np.float64]]
    kept: dict[str, str]


def fit_thresholds(
    counts: NDArray[np.int64],
    thresholds: Sequence[float] | NDArray[np.float64],
    species_set: SpeciesSet,
    beta: float = 4.0,
    least_truths: int = LEAST_TRUTHS,
) -> ThresholdFit:
    """Return the threshold of every species with the best F-beta, see `best_threshold`.

    A species of which there are too few true particles, or none was found, keeps the threshold that it has.

    Args:
        counts: ``(C, T, 3)`` hits, picks and truths by species and threshold, see `threshold_sweep.SweepThresholdsd`.
        thresholds: ``(T,)`` thresholds that were tried, in increasing order.
        species_set: the species.
        beta: recall counts ``beta`` times as much as precision.
        least_truths: true particles that a species needs.
    """
    fit = ThresholdFit({}, {}, {})
    for species, rows in zip(species_set.picked, counts, strict=True):
        curve = np.array([fbeta(int(hits), int(picks), int(there), beta) for hits, picks, there in rows])
        truths = int(rows[0, 2])
        fit.curves[species.name] = curve
        if truths < least_truths:
            fit.kept[species.name] = f"{truths} true particles, at least {least_truths} needed"
        elif not curve.any():
            fit.kept[species.name] = f"none of its {truths} true particles was found"
        is_kept = species.name in fit.kept
        fit.thresholds[species.name] = species.probability_threshold if is_kept else best_threshold(thresholds, curve)
    return fit


def best_threshold(thresholds: ArrayLike, fbeta_values: ArrayLike) -> float:
    """Return the probability threshold with the best F-beta, from the middle of the plateau around it.

    Near its maximum the curve of F-beta is flat and noisy. The neighbours of the best threshold whose F-beta is lower
    by at most `PLATEAU` count as equal, and the middle one of them is returned (the lower of two), so the result is
    always one of ``thresholds``. Of several equal maxima, the lowest counts.

    Args:
        thresholds: ``(N,)`` thresholds that were tried, in increasing order.
        fbeta_values: ``(N,)`` F-beta of each threshold.

    Raises:
        ValueError: there are none, the two lists differ in length, or the thresholds do not rise.
    """
    tried, values = np.asarray(thresholds, dtype=np.float64), np.asarray(fbeta_values, dtype=np.float64)
    if tried.ndim != 1 or tried.size == 0 or tried.shape != values.shape or np.any(np.diff(tried) <= 0):
        raise ValueError(f"thresholds must rise and have one F-beta each; got {tried.tolist()} and {values.tolist()}.")
    best = int(np.argmax(values))
    lower = values < values[best] - PLATEAU
    first = int(np.flatnonzero(lower[:best])[-1]) + 1 if lower[:best].any() else 0
    last = best + int(np.argmax(lower[best:])) - 1 if lower[best:].any() else len(values) - 1
    return float(tried[(first + last) // 2])
