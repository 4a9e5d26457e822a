"""The output of inference: a folder per run with a record in it, and the tables over all runs of a batch.

A folder with a record is complete. The tables are made from the folders alone, so the process that finishes last writes
the same tables as a single process would. Times and memory are stored in the records (``run.json``) and in
``summary.csv``; every other file is the same, byte for byte, however often a batch was killed and however many
processes it had.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from scripts.atomic_files import digest_of_parts, stamps_of, write_atomically, write_table_of_rows
from scripts.errors import InputError
from scripts.file_names import fault_of_name, shown
from scripts.pages.batch_folder import (
    DONE,
    FAILED,
    FAILURES,
    MISSING,
    PICKS_TABLE,
    RECORD_FILE,
    SUMMARY,
    failures_in,
    read_facts,
    read_failure,
    read_statuses,
)
from scripts.pages.html import PAGE_NAME
from scripts.picks import Pick, read_csv, write_csv
from scripts.picks.formats import Format
from scripts.records import finite_or_none, first_difference
from scripts.species import SpeciesSet

COMPARED = "bytes", "modified_ns", "parts_sha256"  # of a tomogram
RESERVED = {PICKS_TABLE, SUMMARY, FAILURES, PAGE_NAME}  # beside the folders of the runs
LOWEST_PROBABILITY = "lowest_probability"  # of the picks of a species, which others compare with exactly
# columns after those of the species
SUMMARY_ENDS = "expected_right", "seconds", "peak_memory_gib", "not_calibrated", "failure"


@dataclass(frozen=True)
class Record:
    """What was done with one tomogram, ready for JSON.

    Attributes:
        run: name of the run.
        tomogram: its state, see `state_of`.
        settings: everything that the picks depend on.
        picks: how many there are of every species.
        seconds: how long every stage took.
        peak_memory_gib: largest memory of the process so far.
        expected: after a second look what to expect of the picks of every species, see `picking.operating_point`.
        unfamiliar: why the scores may be wrong for this tomogram; "" if they are.
        fallback: what ran the network in place of the settings' backend, and why; "" if that did.
        voxel_size_angstrom: of the tomogram as it was read.
    """

    run: str
    tomogram: dict[str, Any]
    settings: dict[str, Any]
    picks: dict[str, int]
    seconds: dict[str, float]
    peak_memory_gib: float
    expected: dict[str, dict[str, Any]] | None = None
    unfamiliar: str = ""
    fallback: str = ""
    voxel_size_angstrom: float | None = None


@dataclass(frozen=True)
class SummaryRow:
    """One line of the summary: a run that is done, failed or missing."""

    run: str
    status: str
    record: Record | None = None
    failure: str = ""


def make_record(
    run: str,
    tomogram: Mapping[str, Any],
    settings: Mapping[str, Any],
    picks: Iterable[Pick],
    species_set: SpeciesSet,
    seconds: Mapping[str, float],
    peak_memory_gib: float,
    expected: Mapping[str, Mapping[str, Any]] | None = None,
    unfamiliar: str = "",
    fallback: str = "",
    voxel_size_angstrom: float | None = None,
) -> Record:
    """Return the record of a run that was picked; ``tomogram`` is what `state_of` returns."""
    found = Counter(pick.species for pick in picks)
    counts = {name: found[name] for name in species_set.names}
    times = {stage: round(value, 3) for stage, value in seconds.items()}
    memory = round(peak_memory_gib, 3)
    plain = None if expected is None else {name: _rounded(row) for name, row in expected.items()}
    facts = dict(tomogram), dict(settings)
    return Record(run, *facts, counts, times, memory, plain, unfamiliar, fallback, voxel_size_angstrom)


def _rounded(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row with rounded numbers but for the limit of the picks, and None for those that JSON does not have."""
    return {
        key: finite_or_none(value if key == LOWEST_PROBABILITY else round(value, 4))
        if isinstance(value, float)
        else value
        for key, value in row.items()
    }


def state_of(tomogram: str | Path, mask: str | Path | None = None) -> dict[str, Any]:
    """Return what tells a tomogram from another one, and likewise its ``mask``, if it has one.

    That is of its file, or of all files in its folder: the ``path``, the size in ``bytes``, the time of last change,
    ``modified_ns``, and ``parts_sha256``, see `atomic_files.digest_of_parts`. All but the path are None for a file that
    cannot be read.
    """
    path = Path(tomogram).absolute()
    state: dict[str, Any] = {"path": str(path), **dict.fromkeys(COMPARED)}
    with suppress(OSError):
        stamps = stamps_of(path)
        if stamps:
            _, sizes, times = zip(*stamps, strict=True)
            found = sum(sizes), max(times), digest_of_parts(path)
            state |= dict(zip(COMPARED, found, strict=True))
    return state if mask is None else {**state, "mask": state_of(mask)}


def write_record(folder: Path, record: Record) -> None:
    """Write the record that makes a folder complete."""
    with write_atomically(folder / RECORD_FILE) as file:
        file.write(json.dumps(asdict(record), indent=4, ensure_ascii=False) + "\n")


def read_record(folder: Path) -> Record | None:
    """Return the record of a folder; None if there is none, or it cannot be read."""
    try:
        return Record(**(read_facts(folder) or {}))
    except TypeError:
        return None


def changed_file(before: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """Return the path of the file that changed between two states of a tomogram, see `state_of`; None if none did."""
    for one, other in [(before, now), (before.get("mask") or {}, now.get("mask") or {})]:
        if any(other[key] != one[key] for key in COMPARED if key in other and key in one):
            return str(other["path"])
    return None


def difference(record: Record, tomogram: Mapping[str, Any], settings: Mapping[str, Any]) -> str | None:
    """Return a description of how a record differs from a tomogram and settings; None if it does not.

    Args:
        record: of a finished folder.
        tomogram: what `state_of` returns now; its path may differ, because data may be moved.
        settings: the ``settings`` of `handlers.results.WritePicks` now.
    """
    changed = changed_file(record.tomogram, tomogram)
    if changed:
        return f"was picked before {changed} changed"
    found = first_difference(record.settings, settings)
    return found and f"was picked with other settings: {found}"


def faults_of_runs(runs: Iterable[str], ignores_case: bool, formats: Sequence[Format] = ()) -> dict[str, str]:
    """Return the runs that can have no folder of results, or not all of its files, with the reason in one line.

    Args:
        runs: their names.
        ignores_case: the disk takes names for equal that differ only in capitals.
        formats: of the picks.
    """
    faults: dict[str, str] = {}
    first: dict[str, str] = {}
    for run in runs:
        fault = fault_of_name(run)
        other = first.setdefault(run.casefold(), run)
        if fault is None and run.casefold() in RESERVED:
            fault = "is the name of a file of the batch itself"
        if fault is None and ignores_case and other != run:
            fault = f"differs only in capitals from '{other}', which on this disk is the same folder"
        if fault is not None:
            faults[run] = f"the run '{shown(run)}' {fault}: rename its tomogram."
            continue
        try:
            for one in formats:
                one.check_run(run)
        except InputError as error:
            faults[run] = f"{error} Rename its tomogram, or choose other pick_formats."
    return faults


def write_failure(output_dir: Path, run: str, failure: str, details: str = "") -> None:
    """Write a note that a run failed: the failure in the first line, details below."""
    with write_atomically(output_dir / FAILURES / f"{run}.txt") as file:
        file.write(f"{failure}\n{details}")


def forget_failure(output_dir: Path, run: str) -> None:
    """Remove the note of a failed run that is tried again."""
    (output_dir / FAILURES / f"{run}.txt").unlink(missing_ok=True)


def runs_of_output(output_dir: Path) -> list[str]:
    """Return the names of all runs that an inference picked or was to pick, sorted.

    These are the folders with a record, the runs with a note of a failure, and those of ``summary.csv``.

    Raises:
        InputError: that table lacks a column.
    """
    picked = [path.parent.name for path in output_dir.glob(f"[!.]*/{RECORD_FILE}")]
    return sorted({*picked, *failures_in(output_dir), *read_statuses(output_dir)})


def earlier_runs(output_dir: Path, runs: Collection[str], settings: Mapping[str, Any]) -> dict[str, str | None]:
    """Return the complete runs in a folder other than ``runs``: how their settings differ, None if they do not."""
    folders = [path.parent for path in sorted(output_dir.glob(f"[!.]*/{RECORD_FILE}")) if path.parent.name not in runs]
    records = {folder.name: read_record(folder) for folder in folders if read_failure(output_dir, folder.name) is None}
    return {run: first_difference(one.settings, settings) for run, one in records.items() if one is not None}


@dataclass
class BatchTables:
    """``picks.csv`` and ``summary.csv`` over the runs of a batch, and those that were picked earlier in the same way.

    Attributes:
        output_dir: folder with the folders of the runs, and the tables.
        tomograms: what `state_of` returned for every run, in the order of the tables.
        settings: the ``settings`` of `handlers.results.WritePicks`; folders with other settings count as missing.
        species_set: the species, one column each.
        refused: runs that can have no folder, with the reason, see `faults_of_runs`; they count as failed.
        earlier: what `earlier_runs` returned; those of the same settings follow the others in the tables.
    """

    output_dir: Path
    tomograms: Mapping[str, Mapping[str, Any]]
    settings: Mapping[str, Any]
    species_set: SpeciesSet
    refused: Mapping[str, str] = field(default_factory=dict)
    earlier: Mapping[str, str | None] = field(default_factory=dict)
    _read: dict[str, tuple[Any, SummaryRow, list[Pick]]] = field(default_factory=dict)  # by run, with the file's stamps

    def write(self) -> list[SummaryRow]:
        """Write both tables from the present content of the folders, and return the rows of the summary.

        The tables of older results stay until the first of them is replaced, see `are_older`.
        """
        kept = [run for run, found in self.earlier.items() if found is None]
        found = [self._look_at(run) for run in [*self.tomograms, *kept]]
        rows = [row for row, _ in found]
        if self.are_older(rows):
            return rows
        write_csv(self.output_dir / PICKS_TABLE, [pick for _, picks in found for pick in picks])
        names = self.species_set.names
        columns = "run", "status", "picks", *names, *SUMMARY_ENDS
        write_table_of_rows(self.output_dir / SUMMARY, columns, [_cells(row, names) for row in rows])
        return rows

    def are_older(self, rows: Sequence[SummaryRow]) -> bool:
        """Return whether the folders hold results of an earlier batch, and none of this one."""
        is_any_done = any(row.status == DONE and row.run in self.tomograms for row in rows)
        return not is_any_done and any(read_record(self.output_dir / run) is not None for run in self.tomograms)

    def _look_at(self, run: str) -> tuple[SummaryRow, list[Pick]]:
        if run in self.refused:
            return SummaryRow(shown(run), FAILED, failure=self.refused[run]), []
        folder, failure = self.output_dir / run, read_failure(self.output_dir, run)
        if failure is not None:  # even if there is an older folder, which was to be replaced
            return SummaryRow(run, FAILED, failure=failure), []
        stamps = stamps_of(folder / RECORD_FILE)
        if run not in self._read or self._read[run][0] != stamps:
            self._read[run] = stamps, *self._read_run(run)
        return self._read[run][1:]

    def _read_run(self, run: str) -> tuple[SummaryRow, list[Pick]]:
        record = read_record(self.output_dir / run)
        if record is None or difference(record, self.tomograms.get(run, record.tomogram), self.settings):
            return SummaryRow(run, MISSING), []
        return SummaryRow(run, DONE, record), read_csv(self.output_dir / run / PICKS_TABLE)


def _cells(row: SummaryRow, names: Sequence[str]) -> list[Any]:
    if row.record is None:
        return [row.run, row.status, *[""] * (len(names) + len(SUMMARY_ENDS)), row.failure]
    counts = [row.record.picks[name] for name in names]
    seconds = f"{sum(row.record.seconds.values()):.1f}"
    memory, right = f"{row.record.peak_memory_gib:.2f}", _expected_right(row.record)
    return [row.run, row.status, sum(counts), *counts, right, seconds, memory, row.record.unfamiliar, ""]


def _expected_right(record: Record) -> str:
    """Return how many of the picks are expected to be right; nothing without a second look."""
    if record.expected is None:
        return ""
    return f"{sum(row['picks'] * (row['precision'] or 0) for row in record.expected.values()):.0f}"


def format_summary(rows: Sequence[SummaryRow], species_set: SpeciesSet) -> str:
    """Return the summary as a table for the screen; a run that is not done has its failure in place of numbers."""
    names = species_set.names
    width = max(map(len, ["run", *(row.run for row in rows)]))
    are_judged = any(row.record is not None and row.record.expected is not None for row in rows)
    heads = ["run".ljust(width), "status", "picks", *names, *["right"] * are_judged, "seconds", "GiB"]
    done = {}
    for row in rows:
        if row.status == DONE:
            *counts, right, seconds, memory = map(str, _cells(row, names)[1:-2])
            done[row.run] = [row.run.ljust(width), *counts, *[right] * are_judged, seconds, memory]
    head, *aligned = _align([heads, *done.values()])
    lines = dict(zip(done, aligned, strict=True))
    for row in rows:
        if row.status != DONE:
            lines[row.run] = f"{row.run.ljust(width)}  {row.status}  {row.failure}".rstrip()
    warnings = [
        f"{row.run}: scores may be wrong for this tomogram: {row.record.unfamiliar}"
        for row in rows
        if row.record is not None and row.record.unfamiliar
    ]
    return "\n".join([head, *(lines[row.run] for row in rows), *warnings])


def _align(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return one line per row; the first two columns are aligned on the left, the others on the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = list(zip(row, widths, strict=True))
        left, right = [cell.ljust(width) for cell, width in cells[:2]], [cell.rjust(width) for cell, width in cells[2:]]
        lines.append("  ".join([*left, *right]))
    return lines
