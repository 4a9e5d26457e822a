"""How well the probabilities of candidates are calibrated."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BINS = 10
LEAST_COUNTED = 0.05  # candidates below it do not count in the calibration error: there are hundreds of them


@dataclass(frozen=True)
class Reliability:
    """How often candidates of similar probability are right.

    Attributes:
        probability: ``(B,)``, the mean in each bin; NaN in an empty one.
        right: ``(B,)``, the share of right ones in each bin.
        count: ``(B,)`` candidates in each bin.
        error: calibration error: the mean of the difference between both over all candidates.
    """

    probability: NDArray[np.float64]
    right: NDArray[np.float64]
    count: NDArray[np.int64]
    error: float


def reliability_of(probabilities: NDArray[np.float64], is_right: NDArray[np.bool_]) -> Reliability:
    """Compare the probabilities ``(N,)`` of candidates with whether they are right, in `BINS` bins of equal width.

    Source:
        Naeini, Cooper and Hauskrecht 2015, "Obtaining Well Calibrated Probabilities Using Bayesian Binning", for the
        expected calibration error.
    """
    counted = probabilities >= LEAST_COUNTED
    probabilities, is_right = probabilities[counted], is_right[counted]
    bins = np.minimum((probabilities * BINS).astype(np.int64), BINS - 1)
    count = np.bincount(bins, minlength=BINS)
    with np.errstate(invalid="ignore"):
        mean, right = (
            np.bincount(bins, values.astype(np.float64), BINS) / count for values in (probabilities, is_right)
        )
    filled = count > 0
    error = float(np.abs(mean - right)[filled] @ count[filled] / max(count.sum(), 1))
    return Reliability(mean, right, count, error)


def sampling_error(probabilities: NDArray[np.float64], draws: int = 50) -> float:
    """Return the mean calibration error of exact probabilities ``(N,)``, with as few candidates as there are."""
    random = np.random.default_rng(0)
    drawn = [reliability_of(probabilities, random.random(len(probabilities)) < probabilities) for _ in range(draws)]
    return float(np.mean([one.error for one in drawn]))


def average_precision(scores: NDArray[np.float64], is_right: NDArray[np.bool_], truths: int) -> float:
    """Return the area under the precision-recall curve of candidates, by steps; 0 without true particles.

    Args:
        scores: ``(N,)``.
        is_right: ``(N,)``, each true particle at most once.
        truths: number of true particles, found or not.
    """
    if truths == 0 or len(scores) == 0:
        return 0.0
    right = is_right[np.argsort(-scores, kind="stable")]
    precision = np.cumsum(right) / np.arange(1, len(right) + 1)
    return float(precision[right].sum() / truths)
