"""Whether a tomogram is like those that the probabilities of a second look were learned on.

Each tomogram is described by a few statistics of its voxels and of both networks' output. A tomogram whose distance
from the nearest known one exceeds the usual distances among these is unfamiliar: its probabilities may be wrong. So may
those of a tomogram whose particles stand out less than in nearly all that the probabilities were fitted on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scripts.file_pages import FilePages
from scripts.picking.calibration import confidence_of
from scripts.preparation.contrast import block_means_of_image, skewness_of
from scripts.preparation.padding import without_padding

STATISTICS = (
    "noise between neighbours in x",
    "noise between neighbours in z",
    "visibility of particles",
    "network's confidence",
    "second look's confidence",
    "agreement of both networks",
)
VISIBILITY = STATISTICS.index("visibility of particles")
BLOCK_ANGSTROM = 40.0  # side of the cubes whose means show particles: smaller than most, and with little noise
LEAST_SKEWNESS = 0.01  # which that of noise alone is below, so that it does not decide
TOO_FAINT = 0.05  # share of the tomograms that probabilities were fitted on; what is fainter is too faint
STATISTICS_STEP = 4  # every fourth plane and row
MARGIN = 1.2  # times the distance of a known tomogram from the nearest other one that `USUAL` of them do not exceed
USUAL = 0.98  # share of the known tomograms; the others may be as odd as one can be
LEAST_TOMOGRAMS = 8  # that a limit can be learned from
LEAST_SPREAD = 0.02  # of a statistic, so that one that hardly varies does not decide alone


@dataclass(frozen=True)
class Familiarity:
    """The known tomograms.

    Attributes:
        rows: ``(N, len(STATISTICS))`` of the known tomograms.
        spread: ``(len(STATISTICS),)``, the standard deviation of each statistic.
        limit: largest distance from the nearest known tomogram that is familiar.
        least_visibility: of a tomogram whose particles are not too faint.
    """

    rows: NDArray[np.float64]
    spread: NDArray[np.float64]
    limit: float
    least_visibility: float

    @staticmethod
    def learn(rows: NDArray[np.float64], fitted: NDArray[np.float64]) -> Familiarity:
        """Return the familiarity of known tomograms; from less than `LEAST_TOMOGRAMS` nothing can be learned.

        Args:
            rows: ``(N, len(STATISTICS))`` of all known tomograms.
            fitted: the same of those that the probabilities were fitted on.
        """
        spread, limit, least = np.maximum(rows.std(axis=0), LEAST_SPREAD), np.inf, -np.inf
        if len(rows) >= LEAST_TOMOGRAMS:
            scaled = rows / spread
            distance = np.linalg.norm(scaled[:, None] - scaled[None], axis=2) + np.diag(np.full(len(rows), np.inf))
            limit = float(MARGIN * np.quantile(distance.min(axis=1), USUAL))
        if len(fitted) >= LEAST_TOMOGRAMS:
            least = float(np.quantile(fitted[:, VISIBILITY], TOO_FAINT))
        return Familiarity(rows, spread, limit, least)

    def why_unfamiliar(self, statistics: NDArray[np.float64]) -> str | None:
        """Return a description of how a tomogram differs most from the nearest known one; None if it is familiar."""
        away = (statistics - self.rows) / self.spread
        distance = np.linalg.norm(away, axis=1)
        nearest = int(distance.argmin())
        if distance[nearest] <= self.limit:
            return None
        most = int(np.abs(away[nearest]).argmax())
        low, high = self.rows[:, most].min(), self.rows[:, most].max()
        return (
            f"{STATISTICS[most]}: {statistics[most]:.2f}; where the probabilities were learned, {low:.2f} to {high:.2f}"
        )

    def why_too_faint(self, statistics: NDArray[np.float64]) -> str | None:
        """Return a description of a tomogram whose particles hardly stand out; None for others."""
        if statistics[VISIBILITY] >= self.least_visibility:
            return None
        share = round(100 * (1 - TOO_FAINT))
        return (
            f"hardly anything stands out of the noise: visibility {statistics[VISIBILITY]:.2f}; {share} of 100 "
            f"tomograms that the probabilities were fitted on have {self.least_visibility:.2f} or more"
        )

    def as_table(self) -> dict[str, Any]:
        """Return the familiarity as a table for JSON."""
        limit, least = (
            round(value, 4) if np.isfinite(value) else None for value in (self.limit, self.least_visibility)
        )
        rows = np.round(self.rows, 4).tolist()
        return {"statistics": list(STATISTICS), "limit": limit, "least_visibility": least, "rows": rows}

    @staticmethod
    def from_table(table: Mapping[str, Any]) -> Familiarity:
        """Return the familiarity that `as_table` wrote.

        Raises:
            ValueError: it has other statistics.
        """
        if tuple(table["statistics"]) != STATISTICS:
            raise ValueError("its statistics are those of another version")
        rows = np.asarray(table["rows"], dtype=np.float64).reshape(-1, len(STATISTICS))
        limit = np.inf if table["limit"] is None else float(table["limit"])
        least = -np.inf if table["least_visibility"] is None else float(table["least_visibility"])
        return Familiarity(rows, np.maximum(rows.std(axis=0), LEAST_SPREAD), limit, least)


def visibility_of(volume: Any, voxel_size_angstrom: float) -> float:
    """Return how far particles stand out of the noise of a tomogram.

    The means of cubes of `BLOCK_ANGSTROM` have little noise, and bright particles make their distribution skew.
    Padding does not count.

    Args:
        volume: ``(Z, Y, X)``.
        voxel_size_angstrom: of the volume.

    Returns:
        The common logarithm of the skewness and 0.01: -2 where there are no particles, about 0 where they are clear.
        Noise alone in N cubes has a skewness of about the root of 6 / N: small volumes say less.
    """
    means = block_means_of_image(np.asarray(volume), max(1, round(BLOCK_ANGSTROM / voxel_size_angstrom)))
    return math.log10(max(skewness_of(means) or 0.0, 0.0) + LEAST_SKEWNESS)


def statistics_of(
    volume: Any, voxel_size_angstrom: float, logits: NDArray[np.floating[Any]], log_odds: NDArray[np.floating[Any]]
) -> NDArray[np.float64]:
    """Return the `STATISTICS` of a tomogram.

    Args:
        volume: ``(Z, Y, X)``.
        voxel_size_angstrom: of the volume.
        logits: ``(N, C)`` of the first network at its proposals.
        log_odds: ``(N, C)`` of the second look there.
    """
    depth, height, width = volume.shape
    starts = FilePages(volume).after_each(range(0, max(depth - 1, 1), STATISTICS_STEP))
    planes = (np.asarray(volume[z : z + 2, 0:height, 0:width], np.float32) for z in starts)
    pairs: NDArray[np.float32] = np.stack([plane[:, ::STATISTICS_STEP].copy() for plane in planes])
    image = without_padding(pairs)
    deviation = max(float(image.std()), 1e-6)
    along_x, along_z = (_step_deviation(pairs, axis, image.size < pairs.size) / deviation for axis in (3, 1))
    clear = np.flatnonzero(log_odds.max(axis=1, initial=-1) > 0)
    agree = logits[clear].argmax(axis=1) == log_odds[clear].argmax(axis=1)
    visibility, agreement = visibility_of(volume, voxel_size_angstrom), float(agree.mean()) if len(agree) else 1.0
    return np.array([along_x, along_z, visibility, *confidence_of(logits, log_odds), agreement])


def _step_deviation(pairs: NDArray[np.float32], axis: int, is_padded: bool) -> float:
    """Return the standard deviation of the differences between neighbours; equal ones are padding, if there is any."""
    steps = np.diff(pairs, axis=axis)
    if is_padded:
        steps = steps[steps != 0]
    return float(steps.std()) if steps.size else 0.0
