"""Operating points: from what is wanted of the picks (F1, precision, recall) to a threshold on their probability.

A pick's score is the probability that it is right. Its sum over candidates is the expected number of right ones, so
expected precision, recall and F-beta of every threshold are known without truth.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scripts.errors import InputError, InputWarning
from scripts.species import SpeciesSet

NAMED = {"f1": 1.0, "f4": 4.0}
USUAL_POINT = "f1"
SHARES = ("precision", "recall", "probability")
HELP = "give f1, f4, {'precision': 0.9}, {'recall': 0.95} or {'probability': 0.5}, or one of these per species, by name"
LEAST_PROBABILITY = 0.01  # of a candidate of a second look; those below are left out
LEAST_F = 0.5  # the F-beta that picks are worth, at least: a candidate below LEAST_F / (1 + beta²) is none of them
Z_90 = 1.645  # standard deviations on either side of the mean that hold 90 % of a normal distribution


@dataclass(frozen=True)
class OperatingPoint:
    """What is wanted of the picks of one species.

    Attributes:
        kind: ``f`` (the highest expected F-beta), ``precision`` (as many picks as possible with at least this expected
            precision), ``recall`` (as few picks as possible with at least this expected recall), or ``probability``
            (all picks from this probability on).
        value: the beta, or the share.
    """

    kind: str
    value: float

    def __str__(self) -> str:
        return f"F{self.value:g}" if self.kind == "f" else f"{self.kind} {self.value:g}"

    def lowest_probability(self, probabilities: NDArray[np.float64]) -> float:
        """Return the lowest probability that a pick needs; infinity if none is wanted.

        F-beta is expected to be ``F = (1 + beta²) right / (beta² all_right + picks)``. One more candidate raises it
        exactly if its probability exceeds ``F / (1 + beta²)``. By that alone a species that is absent would always get
        a pick, because one of 2 % is worth more than nothing if nothing counts 0. Two things stand against it:

        - To pick nothing is right if there is nothing. So nothing is picked if the probability that none of the
          candidates is right is higher than the best F. For F1 a candidate alone needs 0.41 then, for F4 0.20.
        - Scores are added up over tomograms, and one without the species does not know their F. It is taken to be
          `LEAST_F` at least: a candidate needs more than 0.25 for F1, and 0.029 for F4, however many there are.

        Neither changes anything where the best F is above `LEAST_F` and the candidates hold 0.7 right ones or more: the
        probability of nothing is then below exp(-0.7), which is `LEAST_F`.

        Args:
            probabilities: ``(N,)`` of all candidates of a species in one tomogram.
        """
        if self.kind == "probability":
            return self.value
        falling = np.sort(probabilities)[::-1]
        if len(falling) == 0:
            return math.inf
        right, picks, all_right = np.cumsum(falling), np.arange(1, len(falling) + 1), falling.sum()
        if self.kind == "f":
            squared = self.value**2
            expected = (1 + squared) * right / (squared * all_right + picks)
            is_worth = expected.max() > np.prod(1 - falling)
            worthy = int(np.count_nonzero(falling > LEAST_F / (1 + squared)))
            count = min(int(np.argmax(expected)) + 1, worthy) if is_worth else 0
        elif self.kind == "precision":
            enough = np.flatnonzero(right / picks >= self.value)
            count = int(enough[-1]) + 1 if len(enough) else 0
        else:
            count = int(np.searchsorted(right, self.value * all_right * (1 - 1e-12))) + 1
        return float(falling[min(count, len(falling)) - 1]) if count else math.inf


@dataclass(frozen=True)
class Expectation:
    """What to expect of the picks of one species in one tomogram.

    Attributes:
        picks: their number.
        precision: expected share of right ones; NaN without picks.
        precision_low: lower end of the interval that holds the share with a probability of 90 %.
        precision_high: upper end.
        missed: expected number of particles among the candidates that were not picked.
        missed_low: lower end of its 90 % interval.
        missed_high: upper end.
    """

    picks: int
    precision: float
    precision_low: float
    precision_high: float
    missed: float
    missed_low: float
    missed_high: float


def expect(probabilities: NDArray[np.float64], is_picked: NDArray[np.bool_], spread: float = 0.0) -> Expectation:
    """Return what to expect of picks.

    The number of right ones among independent candidates has a Poisson binomial distribution, here a normal one of the
    same mean and variance. Tomograms differ, which adds to the variance. What the candidates do not contain is not
    counted.

    Args:
        probabilities: ``(N,)`` of all candidates of a species in one tomogram.
        is_picked: ``(N,)``, those that were picked.
        spread: how far tomograms differ, in log-odds, see `calibration.Calibration`.
    """
    (right, off), (missed, missed_off) = (_sum_of(probabilities[part], spread) for part in (is_picked, ~is_picked))
    count = int(np.count_nonzero(is_picked))
    low, mean, high = (
        (float(np.clip(value / count, 0, 1)) for value in (right - off, right, right + off))
        if count
        else (math.nan,) * 3
    )
    most = min(missed + missed_off, float(len(probabilities) - count))
    return Expectation(count, mean, low, high, missed, max(missed - missed_off, 0.0), most)


def parse_operating_points(wanted: Any, species_set: SpeciesSet) -> dict[str, OperatingPoint]:
    """Return the operating point of every picked species, by name.

    Args:
        wanted: one for all, or a table of one per species; a species that the table leaves out gets F1.
        species_set: the species.

    Raises:
        InputError: there is no such point, its value is no share, or a species is unknown.
    """
    names = species_set.names
    if isinstance(wanted, Mapping) and not set(wanted) <= set(SHARES):
        for name in wanted:
            species_set.named(str(name), "operating_point")
        return {name: parse_operating_point(wanted.get(name, "f1")) for name in names}
    return dict.fromkeys(names, parse_operating_point(wanted))


def parse_operating_point(wanted: Any) -> OperatingPoint:
    """Return the operating point of one species, see `HELP`.

    Raises:
        InputError: there is no such point, or its value is no share.
    """
    if isinstance(wanted, str) and wanted.lower() in NAMED:
        return OperatingPoint("f", NAMED[wanted.lower()])
    if isinstance(wanted, str) and len(wanted.split()) == 2:  # as a point is written
        kind, _, share = wanted.partition(" ")
        wanted = {kind: _number(share)}
    if isinstance(wanted, Mapping) and len(wanted) == 1:
        ((kind, value),) = wanted.items()
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if kind in SHARES and is_number and 0 < value < 1:
            return OperatingPoint(str(kind), float(value))
    raise InputError(f"operating_point {wanted!r} is not one that can be asked for: {HELP}.")


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _sum_of(probabilities: NDArray[np.float64], spread: float) -> tuple[float, float]:
    """Return the expected number of right ones, and half of its 90 % interval."""
    variance = float((probabilities * (1 - probabilities)).sum())
    return float(probabilities.sum()), Z_90 * math.sqrt(variance + (spread * variance) ** 2)


def warn_of_unused_point(operating_point: Any) -> None:
    """Warn where another operating point than the usual one is asked for, and no probability is there to choose by."""
    if str(operating_point).lower() != USUAL_POINT:
        message = (
            f"operating_point {operating_point} changes nothing: it needs a second look or calibration_path; without, "
            "probability_thresholds choose the picks."
        )
        warnings.warn(message, InputWarning, stacklevel=2)
