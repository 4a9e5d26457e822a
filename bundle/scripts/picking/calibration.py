"""From the outputs of two networks to the probability that a candidate is a particle of a species."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

from scripts.errors import InputWarning

LARGEST = 12.0  # log-odds beyond which an answer counts for no more
OF_TOMOGRAM = ("first_confidence", "second_confidence", "visibility")
TERMS = ("first", "second", "first_other", "second_other", *OF_TOMOGRAM, "offset")
UNFITTED = (0.0, 1.0, *[0.0] * 6)  # weights of a species that could not be fitted: the second look's own probability
SPREAD = "spread"


@dataclass(frozen=True)
class Calibration:
    """One logistic function per species, of the log-odds of both networks and of what the tomogram is like.

    An answer means less where another species is as likely, and in a tomogram in which both networks are unsure. How
    far particles stand out tells why they are: because of the noise, or of much that looks like particles.

    Attributes:
        weights: ``(C, 8)``, of the `TERMS`: the first network's logit, the second look's log-odds, both of the most
            likely other species, the `confidence_of` both in the whole tomogram, its `familiarity.visibility_of`,
            and 1.
        fitted_on: names of the tomograms that it was fitted on.
        spreads: ``(C,)``, how far tomograms differ: the standard deviation of the log-odds, of all candidates of a
            tomogram together, from what they should be; None for 0, where it is not known.
    """

    weights: NDArray[np.float64]
    fitted_on: Sequence[str] = ()
    spreads: NDArray[np.float64] | None = None

    def probabilities(
        self, logits: NDArray[np.floating[Any]], log_odds: NDArray[np.floating[Any]], visibility: float = 0.0
    ) -> NDArray[np.float64]:
        """Return the probability of every species at every candidate of one tomogram: ``(N, C)``.

        Args:
            logits: ``(N, C)`` of the first network, see `proposals.Proposals`.
            log_odds: ``(N, C)`` of the second look.
            visibility: of the tomogram; has no effect where it was not known when the function was fitted.
        """
        own, (*of_tomogram, offset) = self.weights.T[:4], self.weights.T[4:]
        terms = np.array([*confidence_of(logits, log_odds), visibility]) @ np.array(of_tomogram) + offset
        answer: NDArray[np.float64] = expit((own * answers_of(logits, log_odds)).sum(axis=1) + terms)
        return answer

    def spread_of(self, column: int) -> float:
        """Return how far tomograms differ in a species, see `spreads`."""
        return 0.0 if self.spreads is None else float(self.spreads[column])

    def as_table(self, names: Sequence[str]) -> dict[str, Any]:
        """Return the calibration as a table for JSON, one row per species."""
        rows = {
            name: {
                **dict(zip(TERMS, np.round(self.weights[column], 4).tolist(), strict=True)),
                SPREAD: round(self.spread_of(column), 4),
            }
            for column, name in enumerate(names)
        }
        return {"fitted_on": list(self.fitted_on), **rows}

    @staticmethod
    def from_table(table: Mapping[str, Any], names: Sequence[str]) -> Calibration:
        """Return the calibration that `as_table` wrote."""
        rows = [table[name] for name in names]
        weights = np.array([[row[term] for term in TERMS] for row in rows])
        return Calibration(weights, table["fitted_on"], np.array([row[SPREAD] for row in rows]))


def half_trusted(
    calibrated: NDArray[np.float64], logits: NDArray[np.floating[Any]], log_odds: NDArray[np.floating[Any]]
) -> NDArray[np.float64]:
    """Return the probabilities where a calibration may not hold, ``(N, C)``.

    In log-odds they are the mean of the calibrated ones and of the `joint_probabilities`. Unlike the training, the
    networks alone have more false positives, and the calibration may rate true particles too low.

    Args:
        calibrated: ``(N, C)``.
        logits: ``(N, C)`` of the first network.
        log_odds: ``(N, C)`` of the second look.
    """
    joint = joint_probabilities(logits, log_odds)
    answer: NDArray[np.float64] = expit((within(logit(calibrated)) + within(logit(joint))) / 2)
    return answer


def joint_probabilities(logits: NDArray[np.floating[Any]], log_odds: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Return the product of both networks' probabilities, ``(N, C)``, without any calibration.

    Args:
        logits: ``(N, C)`` of the first network.
        log_odds: ``(N, C)`` of the second look.
    """
    answer: NDArray[np.float64] = expit(logits.astype(np.float64)) * expit(log_odds.astype(np.float64))
    return answer


def answers_of(logits: NDArray[np.floating[Any]], log_odds: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Return what both networks answer at every candidate, ``(N, 4, C)``: for the species, and for the likeliest other.

    Args:
        logits: ``(N, C)`` of the first network.
        log_odds: ``(N, C)`` of the second look.
    """
    both = within(logits), within(log_odds)
    return np.stack([*both, *map(likeliest_others, both)], axis=1).astype(np.float64)


def likeliest_others(log_odds: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    """Return the highest log-odds of the other species, ``(N, C)``; those of no other species are ``-LARGEST``."""
    none = np.full((len(log_odds), 1), -LARGEST, log_odds.dtype)
    columns = range(log_odds.shape[1])
    return np.stack([np.hstack([np.delete(log_odds, own, axis=1), none]).max(axis=1) for own in columns], axis=1)


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
