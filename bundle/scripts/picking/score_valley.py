"""Suggest a threshold without truth: the valley in the histogram of scores."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import gaussian_filter1d
from scipy.special import expit, logit

LOWEST, HIGHEST = 0.0001, 0.99999  # scores are clipped to this range
SATURATED_LOGITS = 3.0  # range over which scores above HIGHEST are spread evenly
GRID_LOGITS = 0.05
MIN_PICKS = 20
MIN_SHARE, MIN_SIDE = 0.05, 3  # smallest share and number of picks on either side of a valley
MAX_DEPTH = 0.7  # largest density in the valley, relative to the lower of its two hills
RESAMPLES = 200  # number of bootstrap resamples of the picks
MIN_AGREEMENT = 0.9  # smallest share of the resamples with a valley


@dataclass(frozen=True)
class Valley:
    """A suggested threshold.

    Attributes:
        threshold: probability at the bottom of the valley; None: there is no clear one.
        low: 5th percentile of the threshold over the bootstrap resamples; NaN without a valley.
        high: 95th percentile.
        agreement: share of the resamples that show a valley.
    """

    threshold: float | None
    low: float = float("nan")
    high: float = float("nan")
    agreement: float = 0.0

    def __str__(self) -> str:
        if self.threshold is None:
            return "no clear valley"
        return f"{self.threshold:.3g} ({self.low:.3g} to {self.high:.3g})"


def suggest_threshold(scores: ArrayLike) -> Valley:
    """Find the valley between two hills of a score histogram, and the uncertainty of its position.

    The density of the log-odds is smoothed by Silverman's rule. A valley is clear if each side has at least the share
    `MIN_SHARE` of the picks and at least `MIN_SIDE` picks, its density is below `MAX_DEPTH` times that of the lower
    hill, and at least the share `MIN_AGREEMENT` of the bootstrap resamples have a valley too.

    Args:
        scores: ``(N,)`` probabilities.

    Source:
        Silverman 1986, "Density Estimation for Statistics and Data Analysis", equation 3.31, for the width; Efron and
        Tibshirani 1993, "An Introduction to the Bootstrap", chapter 13, for the percentiles.
    """
    places = _spread_log_odds(np.asarray(scores, dtype=np.float64))
    if len(places) < MIN_PICKS:
        return Valley(None)
    edges = np.arange(places.min() - GRID_LOGITS, places.max() + 2 * GRID_LOGITS, GRID_LOGITS)
    counts = np.histogram(places, edges)[0]
    width = _silverman_width(places) / GRID_LOGITS
    middles = (edges[:-1] + edges[1:]) / 2
    here = _bottom(counts, width)
    if here is None:
        return Valley(None)
    drawn = np.random.default_rng(0).multinomial(len(places), counts / len(places), RESAMPLES)
    found = [place for place in (_bottom(row, width) for row in drawn) if place is not None]
    agreement = len(found) / RESAMPLES
    if agreement < MIN_AGREEMENT:
        return Valley(None, agreement=agreement)
    threshold, low, high = expit([middles[here], *np.percentile(middles[found], (5, 95))]).tolist()
    return Valley(threshold, low, high, agreement)


def _spread_log_odds(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    odds: NDArray[np.float64] = logit(np.clip(scores, LOWEST, HIGHEST))
    saturated = scores > HIGHEST
    count = int(np.count_nonzero(saturated))
    odds[saturated] += SATURATED_LOGITS * (np.arange(count) + 0.5) / max(count, 1)
    return odds


def _silverman_width(places: NDArray[np.float64]) -> float:
    quarters = np.percentile(places, (25, 75))
    deviation, between_quarters = float(places.std()), float(quarters[1] - quarters[0]) / 1.349
    spread = min(deviation, between_quarters) or deviation
    answer: float = max(0.9 * spread * len(places) ** -0.2, GRID_LOGITS)
    return answer


def _bottom(counts: NDArray[np.int64], width: float) -> int | None:
    """Return the bin of the deepest clear valley; None if there is none."""
    density = gaussian_filter1d(counts.astype(np.float64), width, mode="reflect")
    hills = np.minimum(np.maximum.accumulate(density), np.maximum.accumulate(density[::-1])[::-1])
    below, total = np.cumsum(counts), counts.sum()
    smaller_side = np.minimum(below, total - below)
    fits = (smaller_side >= max(MIN_SIDE, MIN_SHARE * total)) & (density < MAX_DEPTH * hills)
    return int(np.where(fits, hills - density, -np.inf).argmax()) if fits.any() else None
