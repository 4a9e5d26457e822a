"""Choose the probability threshold that scores best against the truth."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import ArrayLike

from scripts.errors import InputWarning

PLATEAU = 0.005  # F-beta values this close to the best count as equal to it
MIN_TRUTHS = 3  # with fewer true particles, F-beta is not meaningful


def best_threshold(
    thresholds: ArrayLike,
    fbeta_values: ArrayLike,
    fallback: float,
    truths: int,
    name: str = "the species",
) -> float:
    """Return the probability threshold with the best F-beta, from the middle of the plateau around it.

    Near its maximum the curve of F-beta is flat and noisy. The neighbours of the best threshold whose F-beta is lower
    by at most `PLATEAU` count as equal, and the middle one of them is returned (the lower of two), so the result is
    always one of ``thresholds``. Of several equal maxima, the lowest counts.

    Args:
        thresholds: ``(N,)`` thresholds that were tried, in increasing order.
        fbeta_values: ``(N,)`` F-beta of each threshold.
        fallback: returned, with a warning, if there are too few true particles or none was found.
        truths: number of true particles behind the scores.
        name: what to call the species in the warning.

    Raises:
        ValueError: the two lists differ in length, or the thresholds do not rise.
    """
    tried, values = np.asarray(thresholds, dtype=np.float64), np.asarray(fbeta_values, dtype=np.float64)
    if tried.ndim != 1 or tried.shape != values.shape or np.any(np.diff(tried) <= 0):
        raise ValueError(f"thresholds must rise and have one F-beta each; got {tried.tolist()} and {values.tolist()}.")
    if truths < MIN_TRUTHS or not np.any(values > 0):
        few = f"{truths} true particles, at least {MIN_TRUTHS} needed"
        reason = few if truths < MIN_TRUTHS else f"none of its {truths} true particles was found"
        warnings.warn(f"{name} keeps the threshold {fallback:g}: {reason}.", InputWarning, stacklevel=2)
        return fallback
    best = int(np.argmax(values))
    lower = values < values[best] - PLATEAU
    first = int(np.flatnonzero(lower[:best])[-1]) + 1 if lower[:best].any() else 0
    last = best + int(np.argmax(lower[best:])) - 1 if lower[best:].any() else len(values) - 1
    return float(tried[(first + last) // 2])
