"""What the files in the output folder of a batch say about its runs: records, notes of failures, the summary."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from scripts.errors import InputError
from scripts.records import canonical, first_difference

RECORD_FILE, PICKS_TABLE, SUMMARY = "run.json", "picks.csv", "summary.csv"
FAILURES = "failures"  # folder with a note for every run that failed
DONE, FAILED, MISSING = "done", "failed", "missing"  # in the summary


def read_facts(folder: Path) -> dict[str, Any] | None:
    """Return what the record of a run's folder holds; None if there is none, or it cannot be read."""
    try:
        facts = json.loads((folder / RECORD_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return facts if isinstance(facts, dict) else None


def failures_in(output_dir: Path) -> dict[str, str]:
    """Return why runs of a batch failed, by run: the first line of every note."""
    names = [path.name.removesuffix(".txt") for path in sorted((output_dir / FAILURES).glob("[!.]*.txt"))]
    return {run: failure for run in names if (failure := read_failure(output_dir, run)) is not None}


def read_failure(output_dir: Path, run: str) -> str | None:
    """Return the first line of the note about a run that failed; None where there is none."""
    try:
        return (output_dir / FAILURES / f"{run}.txt").read_text(encoding="utf-8").split("\n")[0]
    except OSError:
        return None


def read_statuses(output_dir: Path) -> dict[str, str]:
    """Return the status of every run in the summary; of none if there is no summary.

    Raises:
        InputError: it has no column ``run`` or ``status``.
    """
    path = output_dir / SUMMARY
    if not path.exists():
        return {}
    with open(path, encoding="utf-8-sig", newline="") as file:
        table = csv.DictReader(file)
        for column in ("run", "status"):
            if column not in (table.fieldnames or ()):
                raise InputError(f"{path} has no column {column}: restore it, or run the inference again.")
        return {row["run"]: row["status"] for row in table}


def out_of_date(output_dir: Path, runs: Iterable[str]) -> dict[str, str]:
    """Return which runs with a folder are not results of the batch that the others are of, each with the reason.

    The summary is of that batch: it calls them missing, or has none of them. Where there is no summary, their settings
    are not those of most; and if there is no record either, all belong together.

    Raises:
        InputError: see `read_statuses`.
    """
    statuses, settings, found = read_statuses(output_dir), {}, {}
    for run in runs:
        facts = read_facts(output_dir / run)
        if statuses and statuses.get(run, MISSING) == MISSING:
            found[run] = f"missing in {SUMMARY}" if run in statuses else f"not in {SUMMARY}"
        elif facts is None:
            found[run] = f"without a {RECORD_FILE} that can be read"
        else:
            settings[run] = facts.get("settings")
    return {**found, **other_settings(settings)} if settings or statuses else {}


def other_settings(settings: Mapping[str, Any]) -> dict[str, str]:
    """Return the runs whose settings differ from those that most runs have, each with the first difference.

    Args:
        settings: of the records, by run. Of settings that equally many runs have, the first ones count.
    """
    texts = {run: canonical(one) for run, one in settings.items()}
    counts = Counter(texts.values())
    usual = max(texts, key=lambda run: counts[texts[run]], default="")
    others = [run for run in texts if texts[run] != texts[usual]]
    found = {run: first_difference(settings[usual], settings[run]) for run in others}
    return {run: f"picked with other settings than {usual}: {text}" for run, text in found.items() if text}
