"""From the answers of two networks to the probability that a candidate is a particle of a species."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

LARGEST = 12.0  # log-odds beyond which an answer counts for no more


@dataclass(frozen=True)
class Calibration:
    """One logistic function per species, of the log-odds of the first network and of the second look.

    Attributes:
        first: ``(C,)`` weights of the first network's logits.
        second: ``(C,)`` weights of the second look's log-odds.
        offset: ``(C,)``.
        fitted_on: names of the tomograms that it was fitted on.
    """

    first: NDArray[np.float64]
    second: NDArray[np.float64]
    offset: NDArray[np.float64]
    fitted_on: Sequence[str] = ()

    def probabilities(
        self, logits: NDArray[np.floating[Any]], log_odds: NDArray[np.floating[Any]]
    ) -> NDArray[np.float64]:
        """Return the probability of every species at every candidate: ``(N, C)``.

        Args:
            logits: ``(N, C)`` of the first network, see `proposals.Proposals`.
            log_odds: ``(N, C)`` of the second look.
        """
        answer: NDArray[np.float64] = expit(
            self.first * np.clip(logits, -LARGEST, LARGEST)
            + self.second * np.clip(log_odds, -LARGEST, LARGEST)
            + self.offset
        )
        return answer

    def as_table(self, names: Sequence[str]) -> dict[str, Any]:
        """Return the calibration as a table for JSON, one row per species."""
        rows = zip(names, self.first, self.second, self.offset, strict=True)
        return {
            "fitted_on": list(self.fitted_on),
            **{
                name: {"first": round(float(a), 4), "second": round(float(b), 4), "offset": round(float(c), 4)}
                for name, a, b, c in rows
            },
        }

    @staticmethod
    def from_table(table: Mapping[str, Any], names: Sequence[str]) -> Calibration:
        """Return the calibration that `as_table` wrote."""
        first, second, offset = np.array(
            [[table[name][key] for name in names] for key in ("first", "second", "offset")]
        )
        return Calibration(first, second, offset, tuple(table["fitted_on"]))


def log_odds_of(log_probabilities: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Return the log-odds of every species against all other classes: ``(N, C)``.

    Args:
        log_probabilities: ``(N, 1 + C)``; class 0 is nothing.
    """
    probabilities = np.exp(np.asarray(log_probabilities, dtype=np.float64))
    others = np.clip(probabilities.sum(axis=1, keepdims=True) - probabilities, np.exp(-LARGEST), None)
    answer: NDArray[np.float64] = (log_probabilities - np.log(others))[:, 1:]
    return answer
