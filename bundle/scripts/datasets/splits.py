"""Choice of the validation runs, and of the folds of a cross-validation."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from scripts.datasets.annotated import (
    require_annotated,
    rows_with_annotated,
    runs_of_points_alone,
    warn_of_points_alone,
)
from scripts.datasets.runs import Folders, Kinds, TomogramFile, as_names, find_runs, paths_in_words
from scripts.datasets.truth import TruthSource, count_truths, list_labelled_runs, runs_of_probable_truth
from scripts.errors import InputError
from scripts.markdown import markdown_table
from scripts.settings import check_setting
from scripts.species import SpeciesSet

logger = logging.getLogger(__name__)

MOST_FOLDS = 10  # of which some are joined: of small ones each is less balanced

CountsByRun = Mapping[str, Mapping[str, int]]


def split_runs(
    dataset_dir: Folders,
    validation_runs: Sequence[str],
    without: Sequence[str] = (),
    tomogram_kind: Kinds = None,
    validation_share: float | None = None,
    species_names: Sequence[str] = (),
    seed: int = 0,
    truth_user_id: str | int | None = None,
    truth_session_id: str | int | None = None,
    annotated: str | Mapping[str, Any] | None = None,
) -> list[str]:
    """Return the names of the runs to validate on: those given, or else every fifth run, from the last one by name.

    Runs in ``without`` are left out. Runs whose name occurs in several folders are not chosen, nor those in which wrong
    picks are unknown: of pseudo-labels alone, see `truth.runs_of_probable_truth`, or of points alone, see
    `annotated.runs_of_points_alone`; the log names these. Where that leaves one run or none, all are trained on: the
    list is empty, and a warning says that there is nothing to validate on. Given runs of points alone are warned of.

    Args:
        dataset_dir: see `runs.list_runs`.
        validation_runs: names of runs; empty to choose them.
        without: names of runs to leave out.
        tomogram_kind: see `runs.list_runs`.
        validation_share: share of the runs to choose, see `share_of_runs`; None takes every fifth by name.
        species_names: of the species, for a share.
        seed: of the choice, for a share.
        truth_user_id: see `truth.list_labelled_runs`.
        truth_session_id: see `truth.list_labelled_runs`.
        annotated: see `truth.list_labelled_runs`.

    Raises:
        InputError: the share is not above 0 and at most a half, or a table of truth or what was annotated cannot be
            read.
    """
    check_setting("validation_share", validation_share)
    named, without = as_names(validation_runs), as_names(without)
    found = find_runs(dataset_dir, tomogram_kind)
    is_by_table = truth_user_id is None and truth_session_id is None
    rows = [row for row in _rows_of(found, annotated, is_by_table) if row["run"] not in without]
    if named:
        warn_of_points_alone(row for row in rows if row["run"] in named)
        return [name for name in named if name not in without]
    certain = [row["run"] for row in _rows_to_hold_out(rows)]
    single = sorted(name for name, count in Counter(certain).items() if count == 1)
    if rows and (len(certain) == 1 or not single):
        logger.warning(
            "%s holds %s that may be held out: all are trained on, and nothing is left to validate on",
            paths_in_words(found), "one run only" if len(certain) == 1 else "no run",
        )  # fmt: skip
        return []
    if validation_share is None or not single:
        return single[::-1][::5]
    labelled = list_labelled_runs(
        dataset_dir, single, (), tomogram_kind, False, truth_user_id, truth_session_id, annotated
    )
    return share_of_runs(count_truths(labelled, species_names), validation_share, seed)


def _rows_of(
    found: Mapping[Path, Sequence[TomogramFile]], annotated: str | Mapping[str, Any] | None, is_by_table: bool
) -> list[dict[str, str]]:
    """Return the rows of `truth.list_labelled_runs`, with the table of the folder as truth, if there is one or not."""
    rows = []
    for folder, tomograms in found.items():
        table = TruthSource(folder).tables[0]
        here = [{**one.row, "label": str(table) if is_by_table else ""} for one in tomograms]
        rows += rows_with_annotated(here, annotated, table.parent, ())
    return rows


def _rows_to_hold_out(rows: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """Return the rows of runs in which wrong picks are known, and log the names of the others."""
    names = {row["run"] for row in rows}
    probable = [name for name in runs_of_probable_truth(row["label"] for row in rows) if name in names]
    alone = runs_of_points_alone(rows)
    for runs, what in ((probable, "pseudo-labels"), (alone, "points")):
        if runs:
            logger.info("%s: %s alone, so they are trained on and never held out", ", ".join(runs), what)
    return [row for row in rows if row["run"] not in (*probable, *alone)]


def share_of_runs(counts: CountsByRun, share: float, seed: int = 0) -> list[str]:
    """Choose runs that hold about a share of every species' particles, and that share of the runs, to about one.

    These are the runs of several of the folds of `fold_runs`, for example of 2 of 5 for a share of 0.4. There are at
    most ten folds, and of two runs or more; a share that is one fold alone, as 0.25 and 0.2 are, may have more of them.

    Args:
        counts: particles by run and species.
        share: above 0 and at most a half.
        seed: see `fold_runs`.

    Returns:
        The names of the runs, sorted.
    """
    most_folds = min(MOST_FOLDS, (len(counts) + 1) // 2)
    nearest = Fraction(share).limit_denominator(max(most_folds, round(1 / share)))
    folds = fold_runs(counts, nearest.denominator, seed)
    spread = [number * nearest.denominator // nearest.numerator for number in range(nearest.numerator)]
    return sorted(run for number in spread for run in folds[number])  # the first folds may be larger by one run


def fold_runs(counts: CountsByRun, folds: int, seed: int = 0) -> list[list[str]]:
    """Split runs into folds that hold about as many particles of every species, and as many runs.

    The runs are dealt out in random order, one to each fold in turn. Then two runs of different folds change places as
    long as that makes the folds more alike: as long as the squared shares of a species' particles in the folds, summed
    over folds and species, fall.

    Args:
        counts: particles by run and species.
        folds: number of folds.
        seed: of the random order: the same seed gives the same folds.

    Returns:
        The names of the runs of every fold, sorted. Without particles the runs stay as they were dealt out.
    """
    names = sorted(counts)
    names = [names[place] for place in np.random.RandomState(seed).permutation(len(names))]
    species = sorted({name for row in counts.values() for name in row})
    numbers = np.array([[counts[run].get(name, 0) for name in species] for run in names], dtype=np.float64)
    shares = numbers.reshape(len(names), len(species))
    shares = shares / np.maximum(shares.sum(axis=0), 1)
    fold = np.arange(len(names)) % folds
    sums = np.array([shares[fold == number].sum(axis=0) for number in range(folds)])
    is_better = True
    while is_better:
        is_better = False
        for one in range(len(names)):
            steps = shares - shares[one]  # what this run's fold gains from every other run in its place
            apart = sums[fold[one]] - sums[fold]
            changes = np.where(fold == fold[one], 0.0, 2 * (steps * (apart + steps)).sum(axis=1))
            other = int(np.argmin(changes)) if len(changes) else 0
            if changes[other] < -1e-9:
                sums[fold[one]] += steps[other]
                sums[fold[other]] -= steps[other]
                fold[one], fold[other] = fold[other], fold[one]
                is_better = True
    return [sorted(name for name, own in zip(names, fold, strict=True) if own == number) for number in range(folds)]


@dataclass(frozen=True)
class FoldPlan:
    """The folds of a cross-validation.

    Attributes:
        runs: names of the runs of every fold: those that its network is not trained on.
        counts: particles by run and species.
        seed: see `fold_runs`.
    """

    runs: tuple[tuple[str, ...], ...]
    counts: CountsByRun
    seed: int

    def record(self) -> dict[str, Any]:
        """Return what must be the same when a cross-validation is resumed, ready for JSON."""
        runs = {f"fold {number}": list(names) for number, names in enumerate(self.runs)}
        return {"folds": len(self.runs), "seed": self.seed, "runs": runs}

    def table(self) -> str:
        """Return a Markdown table of the runs, their folds and their particles, with the sums of every fold."""
        species = list(next(iter(self.counts.values())))
        rows = []
        for number, names in enumerate(self.runs):
            rows += [[str(number), run, *(str(self.counts[run][name]) for name in species)] for run in names]
            sums = [str(sum(self.counts[run][name] for run in names)) for name in species]
            rows.append([f"**{number}**", f"**all {len(names)}**", *sums])
        return markdown_table(["fold", "tomogram", *species], rows)


def plan_folds(
    dataset_dir: Folders,
    folds: int,
    species_set: SpeciesSet,
    seed: int = 0,
    without: Sequence[str] = (),
    tomogram_kind: Kinds = None,
    truth_user_id: str | int | None = None,
    truth_session_id: str | int | None = None,
    annotated: str | Mapping[str, Any] | None = None,
    needs_background: bool = True,
) -> FoldPlan:
    """Split the annotated runs of a dataset into folds, see `fold_runs`.

    Runs of pseudo-labels or of points alone are in no fold, as `split_runs` does not choose them; the log names them.

    Args:
        dataset_dir: as for `truth.list_labelled_runs`, and so are the others.
        folds: their number.
        species_set: the species to be learned.
        seed: of the split.
        without: names of runs to leave out.
        tomogram_kind: kind of tomogram; all kinds of a run are in one fold.
        truth_user_id: user whose picks are the truth.
        truth_session_id: session whose picks are the truth.
        annotated: what was annotated in the runs.
        needs_background: of the trainings, see `annotated.require_annotated`.

    Raises:
        InputError: there are fewer than two folds, or more than runs; or a fold's network would see no particle of a
            species, or could not be trained, see `annotated.require_annotated`.
    """
    check_setting("folds", folds)
    labelled = list_labelled_runs(
        dataset_dir, None, without, tomogram_kind, False, truth_user_id, truth_session_id, annotated
    )
    held_out = _rows_to_hold_out(labelled)
    if folds > len(held_out):
        names = ", ".join(row["run"] for row in held_out) or "none"
        raise InputError(
            f"{dataset_dir} holds {len(held_out)} tomograms that may be held out ({names}), too few for {folds} folds: "
            "give fewer folds or annotate more tomograms."
        )
    every = count_truths(labelled, species_set.names)
    counts = {row["run"]: every[row["run"]] for row in held_out}
    plan = FoldPlan(tuple(map(tuple, fold_runs(counts, folds, seed))), counts, seed)
    for name in species_set.names:
        total = sum(row[name] for row in every.values())
        for number, runs in enumerate(plan.runs):
            if total == sum(counts[run][name] for run in runs):
                where = (
                    f"all {total} particles of '{name}' are in {', '.join(runs)}" if total else f"there is no '{name}'"
                )
                raise InputError(
                    f"the network of fold {number} would see no '{name}': {where}. Annotate it in more tomograms, or "
                    "leave it out of the species file."
                )
    for number, runs in enumerate(plan.runs):
        try:
            require_annotated([row for row in labelled if row["run"] not in runs], species_set, needs_background)
        except InputError as error:
            raise InputError(
                f"the network of fold {number} could not be trained without {', '.join(runs)}: {error}"
            ) from error
    return plan
