"""The page over all runs of a batch or an evaluation: counts, outliers, score histograms, links; no images.

From the folder ``bundle``: ``python -m scripts.pages OUTPUT_DIR`` rewrites it.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from scripts.errors import InputError, InputWarning, first_few
from scripts.pages.batch_folder import PICKS_TABLE, failures_in, out_of_date, read_facts
from scripts.pages.html import PAGE_NAME, rounded_down, species_data, valleys_of, write_page
from scripts.picks import Pick, by_species, read_csv
from scripts.scoring.comparison import Comparison
from scripts.species import SpeciesSet

logger = logging.getLogger(__name__)


def write_batch_page(
    output_dir: str | Path,
    species_set: SpeciesSet,
    failures: Mapping[str, str] | None = None,
    runs: Sequence[str] | None = None,
) -> Path:
    """Write ``report.html`` over all runs that have a folder with a ``picks.csv``; log the valleys of their scores.

    Args:
        output_dir: holds one folder per run.
        species_set: the species, with the thresholds that were in use.
        failures: why runs failed, by run.
        runs: only these; None for all that have not failed, by the notes of the batch, and are not out of date, which
            a warning says, see `batch_folder.out_of_date`. Hidden folders are unfinished.

    Returns:
        The page.

    Raises:
        InputError: there is no table and no run is named, or a table cannot be read or names an unknown species.
    """
    folder = Path(output_dir)
    if runs is None:
        failures = {**failures_in(folder), **(failures or {})}
        runs = up_to_date(folder, failures)
        if not runs and not failures:
            raise InputError(f"{folder} holds no folder of a run with a {PICKS_TABLE} to show.")
    tables = [folder / run / PICKS_TABLE for run in sorted(runs)]
    picks = {table.parent.name: read_csv(table) for table in tables}
    for table, found in zip(tables, picks.values(), strict=True):
        for pick in found:
            species_set.named(pick.species, str(table))
    path = folder / PAGE_NAME
    expected = _expected_in([table.parent for table in tables])
    write_summary_page(path, picks, species_set, failures=failures, expected=expected)
    return path


def up_to_date(output_dir: Path, failures: Collection[str]) -> list[str]:
    """Return the runs with a table of picks, sorted, but for ``failures`` and, with a warning, those out of date."""
    found = sorted({path.parent.name for path in output_dir.glob(f"[!.]*/{PICKS_TABLE}")} - set(failures))
    left_out = out_of_date(output_dir, found)
    if left_out:
        runs_of = {reason: [run for run in left_out if left_out[run] == reason] for reason in left_out.values()}
        named = "; ".join(f"{first_few(runs)} ({reason})" for reason, runs in runs_of.items())
        text = f"{output_dir / PAGE_NAME} leaves out {named}: pick them again, or remove their folders."
        warnings.warn(text, InputWarning, stacklevel=3)
    return [run for run in found if run not in left_out]


def _expected_in(folders: Sequence[Path]) -> dict[str, dict[str, Any]] | None:
    """Return what is expected of picks in the first record that can be read; None without a second look."""
    facts = next((found for folder in folders if (found := read_facts(folder))), {})
    return facts.get("expected")


def write_summary_page(
    path: str | Path,
    picks: Mapping[str, Sequence[Pick]],
    species_set: SpeciesSet,
    failures: Mapping[str, str] | None = None,
    comparisons: Mapping[str, Comparison] | None = None,
    sweep: tuple[Sequence[float], str] = ((), ""),
    notes: Sequence[str] = (),
    expected: Mapping[str, Mapping[str, Any]] | None = None,
) -> None:
    """Write the page over runs.

    Args:
        path: of the page; it links the runs' own pages, if they are in folders beside it.
        picks: by run.
        species_set: the species.
        failures: why runs failed, by run.
        comparisons: with the truth, by run; their sum is shown too.
        sweep: thresholds of the comparisons' sweep, and how picks were matched in it.
        notes: sentences on the species' thresholds.
        expected: of the picks of a second look, by species; None without one.
    """
    everything = [pick for found in picks.values() for pick in found]
    valleys = valleys_of(everything, species_set)
    total = sum_of(list((comparisons or {}).values()))
    data: dict[str, Any] = {
        **species_data(species_set, everything, valleys, expected),
        "runs": [_run_data(Path(path).parent, run, found, species_set) for run, found in picks.items()],
        "failures": [{"name": run, "reason": reason} for run, reason in (failures or {}).items()],
        "notes": list(notes),
        "truth": None if total is None else total.as_json(species_set, *sweep),
    }
    for row in data["runs"]:
        if comparisons:
            row["scores"] = _run_scores(comparisons[row["name"]], species_set)
    scripts = ["common.js", "truth.js", "batch.js"] if comparisons else ["common.js", "batch.js"]
    write_page(path, "batch.html", f"Picks in {len(picks)} tomograms", scripts, data)
    logger.info("score valleys: %s", ", ".join(f"{name} {valley}" for name, valley in valleys.items()))
    logger.info("page over %d tomograms in %s", len(picks), path)


def sum_of(comparisons: Sequence[Comparison]) -> Comparison | None:
    """Return the sum of comparisons; None if there are none."""
    if not comparisons:
        return None
    total = comparisons[0]
    for comparison in comparisons[1:]:
        total += comparison
    return total


def _run_data(folder: Path, run: str, picks: Sequence[Pick], species_set: SpeciesSet) -> dict[str, Any]:
    own = by_species(picks)
    scores = [sorted(rounded_down(pick.score, 5) for pick in own[name]) for name in species_set.names]
    has_page = (folder / run / PAGE_NAME).is_file()
    return {"name": run, "page": f"{quote(run)}/{PAGE_NAME}" if has_page else None, "picks": scores}


def _run_scores(comparison: Comparison, species_set: SpeciesSet) -> dict[str, float]:
    wrong, missed = (int(np.sum(table[:, 1:])) for table in (comparison.of_picks, comparison.of_truth))
    return {"f4": comparison.f4("kaggle", species_set), "wrong": wrong, "missed": missed}
