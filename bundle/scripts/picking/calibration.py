"""From the outputs of two networks to the probability that a candidate is a particle of a species."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from scripts.errors import InputWarning

LARGEST = 12.0  # log-odds beyond which an answer counts for no more
TERMS = ("first", "second", "first_confidence", "second_confidence", "offset")
UNFITTED = (0.0, 1.0, 0.0, 0.0, 0.0)  # weights of a species that could not be fitted: the second look's own probability


@dataclass(frozen=True)
class Calibration:
    """One logistic function per species, of the log-odds of both networks and of their confidence in the tomogram.

    The same answer means less in a tomogram in which both networks are unsure, because its noise is stronger.

    Attributes:
        weights: ``(C, 5)``, of the `TERMS`: the first network's logit, the second look's log-odds, the `confidence_of`
            both in the whole tomogram, and 1.
        fitted_on: names of the tomograms that it was fitted on.
    """

    weights: NDArray[np.float64]
    fitted_on: Sequence[str] = ()

    def probabilities(
        self, logits: NDArray[np.floating[Any]], log_odds: NDArray[np.floating[Any]]
    ) -> NDArray[np.float64]:
        """Return the probability of every species at every candidate of one tomogram: ``(N, C)``.

        Args:
            logits: ``(N, C)`` of the first network, see `proposals.Proposals`.
            log_odds: ``(N, C)`` of the second look.
        """
        first, second, *of_tomogram, offset = self.weights.T
        terms = np.array(confidence_of(logits, log_odds)) @ np.array(of_tomogram) + offset
        answer: NDArray[np.float64] = expit(first * within(logits) + second * within(log_odds) + terms)
        return answer

    def as_table(self, names: Sequence[str]) -> dict[str, Any]:
        """Return the calibration as a table for JSON, one row per species."""
        rows = {
            name: dict(zip(TERMS, np.round(row, 4).tolist(), strict=True))
            for name, row in zip(names, self.weights, strict=True)
        }
        return {"fitted_on": list(self.fitted_on), **rows}

    @staticmethod
    def from_table(table: Mapping[str, Any], names: Sequence[str]) -> Calibration:
        """Return the calibration that `as_table` wrote."""
        return Calibration(np.array([[table[name][term] for term in TERMS] for name in names]), table["fitted_on"])


def lower_probabilities(logits: NDArray[np.floating[Any]], log_odds: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Return the lower one of both networks' probabilities, ``(N, C)``: what is left where no calibration holds.

    Args:
        logits: ``(N, C)`` of the first network.
        log_odds: ``(N, C)`` of the second look.
    """
    answer: NDArray[np.float64] = expit(np.minimum(logits, log_odds).astype(np.float64))
    return answer


def within(log_odds: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    """Return log-odds limited to `LARGEST` on either side."""
    answer: NDArray[np.floating[Any]] = np.clip(log_odds, -LARGEST, LARGEST)
    return answer


def confidence_of(logits: NDArray[np.floating[Any]], log_odds: NDArray[np.floating[Any]]) -> tuple[float, float]:
    """Return how sure both networks are in a tomogram, from its candidates.

    Returns:
        Of the first network, from -1 (sure of nothing) to 1 (sure of every candidate); of the second look, from 0 (sure
        of no candidate) to 1 (sure of each, that it is a particle or that it is none). 0 without candidates.
    """
    if len(logits) == 0:
        return 0.0, 0.0
    first, second = np.tanh(logits.max(axis=1) / 2), np.abs(np.tanh(log_odds.max(axis=1) / 2))
    return float(first.mean()), float(second.mean())


def log_odds_of(log_probabilities: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Return the log-odds of every species against all other classes: ``(N, C)``.

    Args:
        log_probabilities: ``(N, 1 + C)``; class 0 is nothing.
    """
    probabilities = np.exp(np.asarray(log_probabilities, dtype=np.float64))
    others = np.clip(probabilities.sum(axis=1, keepdims=True) - probabilities, np.exp(-LARGEST), None)
    answer: NDArray[np.float64] = (log_probabilities - np.log(others))[:, 1:]
    return answer


def warn_of_uncalibrated(path: str | Path, reasons: Mapping[str, str]) -> None:
    """Warn of the species whose probability is not calibrated.

    Args:
        path: the file that holds the calibration.
        reasons: by the species' names.
    """
    for name, reason in reasons.items():
        message = f"{path}: the probability of {name} is not calibrated: {reason}."
        warnings.warn(message, InputWarning, stacklevel=3)
