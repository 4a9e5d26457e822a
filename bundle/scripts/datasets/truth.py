"""Where the truth of a run stands."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

from scripts.copick_tree import (
    PICKS_FOLDER,
    picks_folders,
    run_folder_of,
    session_file,
)
from scripts.datasets.runs import Folders, Kinds, as_names, find_runs, paths_in_words, refuse_repeats
from scripts.errors import InputError, InputWarning
from scripts.picks import read_csv

TRUTH_TABLE, TRUTH_STAR = "truth.csv", "truth.star"


def list_labelled_runs(
    dataset_dir: Folders,
    only: Sequence[str] | None = None,
    without: Sequence[str] = (),
    tomogram_kind: Kinds = None,
    repeat_runs: bool = False,
    truth_user_id: str | int | None = None,
    truth_session_id: str | int | None = None,
) -> list[dict[str, str]]:
    """List the tomograms that have a truth: a row of `list_runs` with ``label``, the truth's path, added.

    The truth is ``truth.csv`` or ``truth.star`` (RELION 5, one species) in the folder, or ``Picks/*.json`` (copick):
    beside the tomogram, or with its run in the project.

    Args:
        dataset_dir: a folder with tomograms and truth, or several.
        only: names of the runs to list; None means all.
        without: names of runs to leave out.
        tomogram_kind: as in `list_runs`.
        repeat_runs: list a run once for each of the kinds that are named, and runs of one name from several folders.
            For training; where picks are told apart by the run's name, it must come once.
        truth_user_id: whose picks in copick files are the truth; None takes those of the only user.
        truth_session_id: of which session; None takes those of the only session.

    Raises:
        InputError: a name in ``only`` or ``without`` is not in the folders, a run has no truth, a table has no particle
            of any of its runs, or as in `list_runs`.
    """
    only, without = None if only is None else as_names(only), as_names(without)
    found = find_runs(dataset_dir, tomogram_kind, repeat_runs)
    names = sorted({item["run"] for runs in found.values() for item in runs})
    missing = sorted({*(only or ()), *without} - set(names))
    if missing and names:
        raise InputError(f"{paths_in_words(found)} holds no run {', '.join(missing)}; it holds {', '.join(names)}.")
    labelled: list[dict[str, str]] = []
    pattern = None
    if truth_user_id is not None or truth_session_id is not None:
        user_id, session_id = ("*" if name is None else str(name) for name in (truth_user_id, truth_session_id))
        pattern = session_file(user_id, session_id, "*")
    for folder, runs in found.items():
        chosen = [item for item in runs if (only is None or item["run"] in only) and item["run"] not in without]
        here = [{**item, "label": str(truth_path(folder, item, pattern))} for item in chosen]
        _check_names(here, _tables_of(folder)[0])
        labelled += here
    if not repeat_runs:
        refuse_repeats(labelled)
    return labelled


def _check_names(runs: Sequence[Mapping[str, str]], table: Path) -> None:
    names = list(dict.fromkeys(item["run"] for item in runs if item["label"] == str(table)))
    if not names:
        return
    known = sorted({pick.run for pick in read_csv(table)})
    absent = [name for name in names if name not in known]
    if len(absent) == len(names):
        raise InputError(f"{table} has no particle of {', '.join(names)}; its runs are called {', '.join(known)}.")
    if absent:
        message = f"{table} has no particle of {', '.join(absent)}: taken as empty of particles."
        warnings.warn(message, InputWarning, stacklevel=3)


def truth_path(dataset_dir: str | Path, item: Mapping[str, str], pattern: str | None = None) -> Path:
    """Return where the truth of a run stands: a table, a folder of copick files, or files in it by a pattern.

    Args:
        dataset_dir: the one folder that the run was found in.
        item: a row of `list_runs`.
        pattern: names of the copick files that are the truth, where not all of them are; tables then do not count.

    Raises:
        InputError: there is none, or picks of the run stand in two folders of its project.
    """
    tables, run_folder = _tables_of(Path(dataset_dir)), run_folder_of(item["image"])
    if pattern is None and any(table.exists() for table in tables):
        return next(table for table in tables if table.exists())
    places = (
        [Path(item["image"]).parent / PICKS_FOLDER] if run_folder is None else picks_folders(run_folder, dataset_dir)
    )
    folders = [folder for folder in places if folder.exists()]
    full = [folder for folder in folders if any(folder.glob(pattern or "[!.]*.json"))]
    if len(full) > 1:
        raise InputError(
            f"run '{item['run']}' has picks in {full[0]} and in {full[1]}. Keep only its truth there, or name it by "
            "truth_user_id and truth_session_id."
        )
    if pattern is not None:
        if not full:
            raise InputError(f"run '{item['run']}' has no truth {pattern} in {paths_in_words(places)}.")
        return full[0] / pattern
    if not folders:
        missing = " nor ".join(str(place) for place in (tables[0], *places))
        raise InputError(f"run '{item['run']}' has no truth: neither {missing} exists.")
    return (full or folders)[0]


def _tables_of(folder: Path) -> list[Path]:
    place = folder.parent if folder.suffix == ".json" else folder  # .json: a project's config file
    return [place / TRUTH_TABLE, place / TRUTH_STAR]
