"""Pseudo-labels: a table of truth out of the calibrated scores of picks, for tomograms that nobody has annotated.

From the folder ``bundle``: ``python -m scripts.results.pseudo_labels TRUTH.csv OUTPUT_DIR ... --checkpoint_path FILE``
"""

from __future__ import annotations

import argparse
import math
import sys
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from scripts.errors import InputError, run_tool
from scripts.networks.model_card import used_runs_in_words, uses_of_weights
from scripts.pages.batch_folder import MISSING, PICKS_TABLE, other_settings, read_failure, read_statuses
from scripts.picking.calibration import UNFITTED
from scripts.picks import Pick, read_csv, write_csv
from scripts.results.run_folder import (
    LOWEST_PROBABILITY,
    Record,
    read_record,
    runs_of_output,
)

ACCEPT, UNCERTAIN = 0.9, 0.2  # lowest scores of a label and of a place that training ignores
HIGHEST_WEIGHT = 0.999999  # of a label: a table has six decimals, and 1 is a certain particle
DIGITS = 12  # of a SHA-256 in an origin
NOT_PICKED = "failed, missing, damaged or out of date: pick again, or leave them out by --excluded_runs"
ONE_SETTING = "pick again with the same, leave them out by --excluded_runs, or make a table of each"

JudgedRun = tuple[Record, list[Pick]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    options = make_parser().parse_args(arguments)
    return run_tool(lambda: print_pseudo_labels(options))


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.results.pseudo_labels",
        description="Write a truth out of the calibrated scores of picks; see docs/how_to/pseudo_labels.md.",
    )
    parser.add_argument("table", metavar="TRUTH.csv", type=Path, help="the table to write")
    parser.add_argument("output_dirs", metavar="OUTPUT_DIR", type=Path, nargs="+", help="of an inference")
    parser.add_argument(
        "--checkpoint_path", metavar="FILE", type=Path, nargs="+", required=True,
        help="the weights that picked, or in later rounds those before the first one: runs that they were trained or "
        "fitted on are refused",
    )  # fmt: skip
    parser.add_argument(
        "--accept", type=float, default=ACCEPT, metavar="SCORE", help="of a label (default: %(default)s)"
    )
    parser.add_argument(
        "--uncertain", type=float, default=UNCERTAIN, metavar="SCORE", help="of what is ignored (default: %(default)s)"
    )
    parser.add_argument("--truth", metavar="FILE.csv", type=Path, help="annotations of these runs, which win")
    parser.add_argument("--validation_runs", metavar="RUN", nargs="+", default=[], help="runs that are refused, too")
    parser.add_argument(
        "--excluded_runs", metavar="RUN", nargs="+", default=[],
        help="runs to leave out, of the training too: to it a run without labels is empty of particles",
    )  # fmt: skip
    parser.add_argument(
        "--allow_uncalibrated", action="store_true", help="take scores that are flagged as uncalibrated"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the table")
    return parser


def print_pseudo_labels(options: argparse.Namespace) -> None:
    """Write the table and print how many rows of each species it has, and which runs the training has to leave out.

    Raises:
        InputError: the table is there already, or a case of `judged_runs`, `refuse_used_runs` or `labels_of`.
    """
    if options.table.exists() and not options.overwrite:
        raise InputError(f"{options.table} is there already; choose another name, or give --overwrite.")
    runs = judged_runs(options.output_dirs, options.uncertain, options.excluded_runs, options.allow_uncalibrated)
    uses = {"validation_runs": options.validation_runs}
    uses |= {use: names for path in options.checkpoint_path for use, names in uses_of_weights(path).items()}
    uses["calibration of the scores"] = [run for record, _ in runs for run in _calibration(record)["fitted_on"]]
    refuse_used_runs([record.run for record, _ in runs], uses)
    truth = [] if options.truth is None else read_csv(options.truth)
    labels = [label for run in runs for label in labels_of(*run, options.accept, options.uncertain)]
    kept = without_known(labels, truth)
    write_csv(options.table, [*truth, *kept])
    beside = f" beside {len(truth)} annotations, to which {len(labels) - len(kept)} gave way" if truth else ""
    print(f"{options.table}: {len(kept)} labels of {len(runs)} runs{beside}")
    for species, (accepted, uncertain) in counts_of_labels(kept).items():
        print(f"{species}: {accepted} accepted, {uncertain} uncertain")
    labelled = {*(record.run for record, _ in runs), *(row.run for row in truth)}
    unknown = sorted({run for folder in options.output_dirs for run in runs_of_output(folder)} - labelled)
    if unknown:
        print(f'left out, which a training without --excluded_runs "{unknown}" would take as empty of particles')


def judged_runs(
    output_dirs: Iterable[Path], uncertain: float, excluded_runs: Collection[str] = (), allow_uncalibrated: bool = False
) -> list[JudgedRun]:
    """Read the records and picks of all runs that one or several inferences have picked.

    Args:
        output_dirs: of the inferences.
        uncertain: lowest score of interest.
        excluded_runs: runs to leave out.
        allow_uncalibrated: take runs that are flagged, and species whose scores are not calibrated.

    Raises:
        InputError: there are none, one is there twice, failed, is missing, was picked with other settings than the
            others, or cannot be labelled, see `fault_of_run`.
    """
    found: dict[str, JudgedRun] = {}
    faults: defaultdict[str, list[str]] = defaultdict(list)
    lost: set[str] = set()
    for output_dir in output_dirs:
        names = runs_of_output(output_dir)
        if not names:
            raise InputError(f"{output_dir} holds no run that inference has picked.")
        statuses = read_statuses(output_dir)
        for name in names:
            if name in excluded_runs:
                continue
            record, is_missing = read_record(output_dir / name), statuses.get(name) == MISSING
            if record is None or is_missing or read_failure(output_dir, name) is not None:
                lost.add(name)
                continue
            if name in found:
                raise InputError(f"run '{name}' is in {output_dir} and in another folder: name one of them.")
            fault = fault_of_run(record, uncertain, allow_uncalibrated)
            if fault:
                faults[fault].append(name)
            found[name] = record, read_csv(output_dir / name / PICKS_TABLE)
    for name, fault in other_settings({name: record.settings for name, (record, _) in found.items()}).items():
        faults[f"{fault}: {ONE_SETTING}"].append(name)
    if lost - found.keys():  # one that failed may have been picked in another folder
        faults[NOT_PICKED] = sorted(lost - found.keys())
    for fault, names in faults.items():
        raise InputError(f"{', '.join(names)}: {fault}.")
    return list(found.values())


def fault_of_run(record: Record, uncertain: float, allow_uncalibrated: bool = False) -> str | None:
    """Return why the scores of a run's picks cannot become labels, and what to do; None if they can."""
    if record.expected is None:
        return "scores are not calibrated: pick with --second_look True, or with --calibration_path FILE"
    lowest = [row[LOWEST_PROBABILITY] for row in record.expected.values()]
    if any(value is None or value > uncertain for value in lowest):
        point = f"--operating_point \"{{'probability': {uncertain:g}}}\""
        return f"candidates with a score between {uncertain:g} and that of the picks are needed: pick with {point}"
    if _setting(record, "preprocessing", "mask_path") or _setting(record, "preprocessing", "slab_z_angstrom"):
        return "nothing was looked for outside of the mask or slab, which training would take as empty: pick without"
    remedy = "give --allow_uncalibrated to take them nevertheless"
    if record.unfamiliar and not allow_uncalibrated:
        left_out = "leave them out by --excluded_runs"
        return f"scores may be wrong for these tomograms, see summary.csv: {left_out}, or {remedy}"
    weights = _calibration(record)["weights"]
    unfitted = [name for name, row in zip(record.expected, weights, strict=True) if row == list(UNFITTED)]
    if unfitted and not allow_uncalibrated:
        return f"scores of {', '.join(unfitted)} are not calibrated, for want of particles to fit them on: {remedy}"
    return None


def refuse_used_runs(runs: Sequence[str], uses: Mapping[str, Collection[str]]) -> None:
    """Refuse labels for runs that decided about weights, or are to measure them.

    Args:
        runs: names of the runs to label.
        uses: names of runs that are in use, by what for.

    Raises:
        InputError: names the runs and what they are used for.
    """
    listed = used_runs_in_words(runs, uses)
    if listed:
        raise InputError(f"no pseudo-labels for runs that are in use ({listed}): leave them out.")


def require_scores(accept: float, uncertain: float) -> None:
    """Check the lowest scores of a label and of a row.

    Raises:
        InputError: they are not 0 < uncertain <= accept <= 1.
    """
    if not 0 < uncertain <= accept <= 1:
        raise InputError(f"scores must be 0 < uncertain <= accept <= 1; got uncertain {uncertain}, accept {accept}.")


def labels_of(record: Record, candidates: Iterable[Pick], accept: float, uncertain: float) -> list[Pick]:
    """Return the rows of a truth for one run, by falling score.

    A candidate with a score of ``accept`` or more is a particle with that weight, at most `HIGHEST_WEIGHT`. One of
    ``uncertain`` or more has the weight nan: training ignores its place. So has one of ``accept`` or more where a more
    probable one of another species stands at the same place.

    Args:
        record: of the run.
        candidates: its picks, whose scores are probabilities.
        accept: lowest score of a label.
        uncertain: lowest score of a row.

    Raises:
        InputError: the two scores are not 0 < uncertain <= accept <= 1.
    """
    require_scores(accept, uncertain)
    first, second = record.settings["weights_sha256"], _judge(record).get("weights_sha256")
    judge = f"second look {second[:DIGITS]}" if second else "calibrated scores"
    several = [first] if isinstance(first, str) else first
    origin = f"pseudo-label of {record.run}: weights {'+'.join(one[:DIGITS] for one in several)}, {judge}"
    labels, taken = [], set()
    for pick in sorted(candidates, key=lambda pick: -pick.score):
        is_label = pick.score >= accept and pick.xyz_angstrom not in taken
        if is_label:
            taken.add(pick.xyz_angstrom)
        if pick.score >= uncertain:
            weight = min(pick.score, HIGHEST_WEIGHT) if is_label else math.nan
            labels.append(replace(pick, weight=weight, origin=origin))
    return labels


def without_known(labels: Iterable[Pick], truth: Iterable[Pick]) -> list[Pick]:
    """Return the labels that a truth does not decide about.

    A truth decides about a label if, within the label's radius, it has a row of its species, whatever its weight, or a
    particle of any species.
    """
    by_run: defaultdict[str, list[Pick]] = defaultdict(list)
    for row in truth:
        by_run[row.run].append(row)
    return [label for label in labels if not any(_decides(row, label) for row in by_run[label.run])]


def _decides(row: Pick, label: Pick) -> bool:
    is_near = math.dist(row.xyz_angstrom, label.xyz_angstrom) <= label.radius_angstrom
    return is_near and (row.species == label.species or row.weight > 0)


def counts_of_labels(labels: Sequence[Pick]) -> dict[str, tuple[int, int]]:
    """Return by species how many labels are particles, and how many are uncertain."""
    sure, unsure = (
        Counter(one.species for one in labels if math.isnan(one.weight) is is_nan) for is_nan in (False, True)
    )
    return {name: (sure[name], unsure[name]) for name in sorted(sure | unsure)}


def _calibration(record: Record) -> dict[str, Any]:
    """Return the record of the calibration of a run's scores."""
    return dict(_judge(record)["calibration"])


def _judge(record: Record) -> dict[str, Any]:
    """Return the record of the second look, or of the calibration of the network's scores in its place."""
    return dict(_setting(record, "postprocessing", "second_look"))


def _setting(record: Record, stage: str, name: str) -> Any:
    """Return a setting of the one transform of a stage that has it; None if there is none."""
    return next((part[name] for part in record.settings[stage]["transforms"] if name in part), None)


if __name__ == "__main__":
    sys.exit(main())
