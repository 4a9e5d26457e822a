"""The challenge's metric: F-beta per species, and their weighted mean.

There are two modes of matching. ``kaggle`` counts as the public challenge does: a true particle is found if any pick is
within the distance, so one pick may find two particles. In ``one_to_one`` each pick finds one particle at most.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from scripts.errors import InputError
from scripts.picks import Pick, check_truth, xyz_angstrom_of
from scripts.scoring.matching import count_hits, picks_within
from scripts.species import HIT_FRACTION, SpeciesSet


@dataclass(frozen=True)
class Counts:
    """The counts behind the score of one species; those of several tomograms may be added.

    Attributes:
        tp: true particles that were found.
        predicted: picks.
        truths: true particles.
    """

    tp: int = 0
    predicted: int = 0
    truths: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.tp + other.tp, self.predicted + other.predicted, self.truths + other.truths)

    @property
    def fp(self) -> int:
        """False positives; negative if, in mode ``kaggle``, one pick found several particles."""
        return self.predicted - self.tp

    @property
    def fn(self) -> int:
        """False negatives: true particles that were missed."""
        return self.truths - self.tp


@dataclass(frozen=True)
class SpeciesScore:
    """The result of one species."""

    name: str
    counts: Counts
    precision: float
    recall: float
    f1: float
    fbeta: float


@dataclass(frozen=True)
class Score:
    """The result of a comparison.

    Attributes:
        rows: one per species that is picked or occurs in the truth or the picks, in the order of the labels.
        total: weighted mean of the species' F-beta.
        mean_f1: mean F1 of the picked species with true particles, all with the same weight; 0 without any.
        mode: how picks were matched.
        beta: recall counts ``beta`` times as much as precision.
        dropped: number of picks that were left out because their run has no truth.
        dropped_runs: names of these runs.
    """

    rows: tuple[SpeciesScore, ...]
    total: float
    mean_f1: float
    mode: str
    beta: float
    dropped: int = 0
    dropped_runs: tuple[str, ...] = ()


def precision(tp: int, predicted: int) -> float:
    """Return the fraction of the picks that are right; no picks give 0."""
    return tp / predicted if predicted > 0 else 0.0


def recall(tp: int, truths: int) -> float:
    """Return the fraction of the true particles that were found; no particles give 0."""
    return tp / truths if truths > 0 else 0.0


def fbeta(tp: int, predicted: int, truths: int, beta: float = 4.0) -> float:
    """Return the F-beta score, unrounded; 0 if nothing was found.

    It is computed from precision and recall, because the last digit of the short form ``(1 + beta²) tp / (beta² truths
    + predicted)`` can differ from that of the challenge's program.
    """
    p, r = precision(tp, predicted), recall(tp, truths)
    return (1 + beta**2) * (p * r) / (beta**2 * p + r) if p + r > 0 else 0.0


def by_species_and_run(picks: Iterable[Pick]) -> dict[tuple[str, str], list[Pick]]:
    """Return the picks by species and run, in their order."""
    groups: dict[tuple[str, str], list[Pick]] = {}
    for pick in picks:
        groups.setdefault((pick.species, pick.run), []).append(pick)
    return groups


def count_matches(
    truth: Iterable[Pick], picks: Iterable[Pick], species_set: SpeciesSet, mode: str = "kaggle"
) -> dict[str, Counts]:
    """Count hits, picks and truths of every species, summed over the runs of both tables.

    The keys are the species that occur in either table; those of the truth come first, in its order. Only annotations
    of weight 1 are true particles. Picks on one that is less certain, and on no true one, do not count.

    Raises:
        InputError: a species is unknown.
    """
    annotated = list(truth)
    truth_places, pick_places = (
        by_species_and_run(table) for table in ([pick for pick in annotated if pick.weight == 1], picks)
    )
    doubtful_places = by_species_and_run(pick for pick in annotated if pick.weight not in (0, 1))
    counts: dict[str, Counts] = {}
    for key in truth_places | pick_places:
        name = key[0]
        distance = HIT_FRACTION * species_set.named(name, "the tables").radius_angstrom
        true, found = (xyz_angstrom_of(places.get(key, [])) for places in (truth_places, pick_places))
        doubtful = xyz_angstrom_of(doubtful_places.get(key, []))
        found = np.delete(found, sorted(_within(doubtful, found, distance) - _within(true, found, distance)), axis=0)
        one = Counts(count_hits(true, found, distance, mode), len(found), len(true))
        counts[name] = counts.get(name, Counts()) + one
    return counts


def _within(places: NDArray[np.float64], picks: NDArray[np.float64], distance: float) -> set[int]:
    """Return the indices of the picks ``(N, 3)`` that are within a distance of one of the places ``(M, 3)``."""
    return set(chain.from_iterable(picks_within(places, picks, distance)))


def score_counts(
    counts_by_name: Mapping[str, Counts],
    species_set: SpeciesSet,
    order: Iterable[str] | None = None,
    beta: float = 4.0,
) -> float:
    """Return the weighted mean of the species' F-beta; a species without true particles adds nothing.

    As in the challenge, the sum is divided by the weights of all known species, also of those absent from the truth.

    Args:
        counts_by_name: counts over all tomograms.
        species_set: the species with their weights.
        order: names in the order of summation, which affects the last digit; None for the order of the labels.
        beta: recall counts ``beta`` times as much as precision.

    Raises:
        InputError: a species is unknown, or no species has a weight.
    """
    weights = {species.name: species.weight for species in species_set.known}
    total_weight = sum(weights.values())
    if not total_weight > 0:
        raise InputError("species.json: all weights are 0; give one species a positive weight.")
    total = 0.0
    for name in weights if order is None else order:
        counts = counts_by_name.get(name, Counts())
        total += species_set.named(name, "order").weight * fbeta(counts.tp, counts.predicted, counts.truths, beta)
    return total / total_weight


def score_picks(
    truth: Sequence[Pick],
    picks: Iterable[Pick],
    species_set: SpeciesSet,
    mode: str = "kaggle",
    beta: float = 4.0,
    *,
    runs: Collection[str] | None = None,
    truth_source: str = "the truth",
    picks_source: str = "the picks",
) -> Score:
    """Compare picks with the truth; picks of other runs are left out.

    Args:
        truth: the annotations of all runs.
        picks: the picks of all runs.
        species_set: the species with their radii and weights.
        mode: "kaggle" or "one_to_one".
        beta: recall counts ``beta`` times as much as precision.
        runs: names of the annotated runs, of which some may hold no particles; None for those with particles.
        truth_source: what to call the truth in a message: its file.
        picks_source: what to call the picks in a message: their file.

    Raises:
        InputError: the truth is empty and names no run, it has a position twice, or a species is unknown.
    """
    if not truth and not runs:
        raise InputError(f"{truth_source} holds no particles; there is nothing to compare with.")
    check_truth(truth, species_set, truth_source)
    compared = {pick.run for pick in truth} | set(runs or ())
    kept: list[Pick] = []
    dropped: list[Pick] = []
    for number, pick in enumerate(picks, start=1):
        if pick.run in compared:
            species_set.named(pick.species, f"{picks_source}, pick {number}")
            kept.append(pick)
        else:
            dropped.append(pick)
    counts = count_matches(truth, kept, species_set, mode)
    shown = [species.name for species in species_set.known if species.label > 0 or species.name in counts]
    rows = tuple(score_species(name, counts.get(name, Counts()), beta) for name in shown)
    return Score(
        rows=rows,
        total=score_counts(counts, species_set, order=dict.fromkeys(pick.species for pick in truth), beta=beta),
        mean_f1=mean_f1([row for row in rows if row.name in species_set.names]),
        mode=mode,
        beta=beta,
        dropped=len(dropped),
        dropped_runs=tuple(sorted({pick.run for pick in dropped})),
    )


def score_species(name: str, counts: Counts, beta: float = 4.0) -> SpeciesScore:
    """Return the result of one species."""
    tp, predicted, truths = counts.tp, counts.predicted, counts.truths
    f1, f = (fbeta(tp, predicted, truths, one) for one in (1.0, beta))
    return SpeciesScore(name, counts, precision(tp, predicted), recall(tp, truths), f1, f)


def mean_f1(rows: Iterable[SpeciesScore]) -> float:
    """Return the mean F1 of the species with true particles, all with the same weight; 0 without any."""
    f1 = [row.f1 for row in rows if row.counts.truths > 0]
    return sum(f1) / len(f1) if f1 else 0.0


def format_table(score: Score) -> str:
    """Return the result as text: one aligned line per species, the totals with their mode below.

    The last line has the sums of the counts, the mean F1 and the weighted F-beta.

    A species without true particles has no recall and no F; it is shown as "-".
    """
    lines = [["species", "truths", "picks", "TP", "FP", "FN", "precision", "recall", "F1", f"F{score.beta:g}"]]
    for row in score.rows:
        counts = row.counts
        numbers = (counts.truths, counts.predicted, counts.tp, counts.fp, counts.fn)
        shares = [_share(row.precision, counts.predicted)]
        shares += [_share(value, counts.truths) for value in (row.recall, row.f1, row.fbeta)]
        lines.append([row.name, *map(str, numbers), *shares])
    total = sum((row.counts for row in score.rows), Counts())
    sums = map(str, (total.truths, total.predicted, total.tp, total.fp, total.fn))
    lines.append([f"total ({score.mode})", *sums, "", "", f"{score.mean_f1:.4f}", f"{score.total:.4f}"])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            [line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))]
        )
        for line in lines
    )


def _share(value: float, of: int) -> str:
    return f"{value:.4f}" if of > 0 else "-"
