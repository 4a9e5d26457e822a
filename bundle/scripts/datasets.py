"""Which tomograms a folder holds, what their runs are called, and where their truth stands."""

from __future__ import annotations

import logging
import os
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from scripts.errors import InputError, InputWarning
from scripts.picks import read_csv
from scripts.projects import (
    PICKS,
    RUNS,
    holds_other_volumes,
    is_feature_map,
    picks_folders,
    project_roots,
    run_folder_of,
    session_file,
)
from scripts.readers import is_tomogram, refuse_address, stem_of

logger = logging.getLogger(__name__)

TRUTH_TABLE, TRUTH_STAR = "truth.csv", "truth.star"

Folders = str | Path | Sequence[str | Path]
Kinds = str | Sequence[str] | None


def list_runs(dataset_dir: Folders, tomogram_kind: Kinds = None) -> list[dict[str, str]]:
    """List the tomograms in a folder and below, one for each run, sorted by path.

    In a copick project a run is called after its folder. Elsewhere it is called after the tomogram's file, or after the
    file's folder where the file is called ``tomogram.*``.

    Args:
        dataset_dir: a folder, a copick project, one tomogram, or several of them.
        tomogram_kind: which tomogram of a project's run to take, for example ``denoised``; of several kinds the first
            that the run has; None takes the only kind that there is.

    Returns:
        One ``{"image": path, "run": name}`` per tomogram; none where nothing is there, so that a config can be read
        without data (`require_runs` refuses that when the work starts).

    Raises:
        InputError: two tomograms have one name, or ``tomogram_kind`` does not say which one of a run is meant.
    """
    runs = [item for found in _find_runs(dataset_dir, tomogram_kind).values() for item in found]
    _refuse_repeats(runs)
    return runs


def require_runs(runs: Sequence[Mapping[str, str]], dataset_dir: Folders) -> None:
    """Refuse to start without a tomogram.

    Raises:
        InputError: ``runs``, the list that was made of ``dataset_dir``, is empty, or one of several folders is missing.
    """
    folders = as_folders(dataset_dir)
    missing = [str(folder) for folder in folders if not folder.exists()]
    if missing and (not runs or len(folders) > 1):
        raise InputError(f"cannot read {', '.join(missing)}: no such file or folder. Set dataset_dir.")
    if not runs:
        raise InputError(f"{_in_words(folders)} holds no tomogram (MRC, OME-Zarr or NIfTI) to work on.")
    logger.info("%d tomograms: %s", len(runs), ", ".join(str(item.get("run", item["image"])) for item in runs))


def run_name(path: str | Path) -> str:
    """Return the name of the run that a tomogram's path stands for."""
    path = Path(path)
    run_folder, stem = run_folder_of(path), stem_of(path)
    if run_folder is not None:
        return run_folder.name
    return Path(os.path.abspath(path)).parent.name if stem.lower() == "tomogram" else stem


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
    found = _find_runs(dataset_dir, tomogram_kind, repeat_runs)
    names = sorted({item["run"] for runs in found.values() for item in runs})
    missing = sorted({*(only or ()), *without} - set(names))
    if missing and names:
        raise InputError(f"{_in_words(found)} holds no run {', '.join(missing)}; it holds {', '.join(names)}.")
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
        _refuse_repeats(labelled)
    return labelled


def as_names(names: str | int | Sequence[str | int]) -> list[str]:
    """Return names of runs as a list; the command line makes one name a string, and a number of a name like 12."""
    return [str(name) for name in ([names] if isinstance(names, str | int) else names)]


def as_folders(dataset_dir: Folders) -> list[Path]:
    """Return one folder or several as a list, each once.

    Raises:
        InputError: one is not on this disk.
    """
    folders = [dataset_dir] if isinstance(dataset_dir, str | Path) else dataset_dir
    for folder in folders:
        refuse_address(folder)
    return list(dict.fromkeys(Path(folder) for folder in folders))


def _in_words(folders: Iterable[Path]) -> str:
    return ", ".join(map(str, folders))


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
    places = [Path(item["image"]).parent / PICKS] if run_folder is None else picks_folders(run_folder, dataset_dir)
    folders = [folder for folder in places if folder.exists()]
    full = [folder for folder in folders if any(folder.glob(pattern or "[!.]*.json"))]
    if len(full) > 1:
        raise InputError(
            f"run '{item['run']}' has picks in {full[0]} and in {full[1]}. Keep only its truth there, or name it by "
            "truth_user_id and truth_session_id."
        )
    if pattern is not None:
        if not full:
            raise InputError(f"run '{item['run']}' has no truth {pattern} in {_in_words(places)}.")
        return full[0] / pattern
    if not folders:
        missing = " nor ".join(str(place) for place in (tables[0], *places))
        raise InputError(f"run '{item['run']}' has no truth: neither {missing} exists.")
    return (full or folders)[0]


def _tables_of(folder: Path) -> list[Path]:
    place = folder.parent if folder.suffix == ".json" else folder  # .json: a project's config file
    return [place / TRUTH_TABLE, place / TRUTH_STAR]


def split_runs(
    dataset_dir: Folders, validation_runs: Sequence[str], without: Sequence[str] = (), tomogram_kind: Kinds = None
) -> list[str]:
    """Return the names of the runs to validate on: those given, else every fifth run by name, the last one first.

    Runs in ``without`` are left out, and those whose name stands in several folders are not chosen. A single run is not
    split: there is nothing to validate on, and a warning says so.
    """
    if validation_runs:
        return [name for name in as_names(validation_runs) if name not in as_names(without)]
    found = _find_runs(dataset_dir, tomogram_kind)
    names = [item["run"] for runs in found.values() for item in runs if item["run"] not in as_names(without)]
    if len(names) == 1:
        logger.warning("%s holds one run only: it is trained on, and nothing is left to validate on", _in_words(found))
        return []
    return sorted(name for name, count in Counter(names).items() if count == 1)[::-1][::5]


def _find_runs(
    dataset_dir: Folders, tomogram_kind: Kinds, every_kind: bool = False
) -> dict[Path, list[dict[str, str]]]:
    """List the tomograms of every folder: one for each run, or one for each named kind of each run."""
    found = {folder: _tomograms_in(folder) for folder in as_folders(dataset_dir)}
    kinds = None if tomogram_kind is None else as_names(tomogram_kind)
    known = {kind for paths in found.values() for path in paths for kind in _kinds_of(path)}
    unknown = [kind for kind in kinds or () if kind not in known]
    if unknown and any(found.values()):
        there = f"it holds {', '.join(sorted(known))}" if known else "it is no copick project"
        raise InputError(f"{_in_words(found)} holds no tomogram_kind {', '.join(unknown)}; {there}.")
    return {folder: _choose_kinds(folder, paths, kinds, every_kind) for folder, paths in found.items()}


def _choose_kinds(
    folder: Path, paths: Sequence[Path], kinds: Sequence[str] | None, every_kind: bool
) -> list[dict[str, str]]:
    there = _short_kinds(paths)
    if kinds is None and len(there) > 1:
        raise InputError(f"{folder} holds tomograms of several kinds: {', '.join(there)}. Set tomogram_kind to one.")
    of_run: dict[str, list[Path]] = {}
    for path in paths:
        of_run.setdefault(run_name(path), []).append(path)
    runs = []
    for run, mine in of_run.items():
        wanted = [mine]
        if kinds is not None and any(map(_kinds_of, mine)):
            wanted = [found for kind in kinds if (found := [path for path in mine if kind in _kinds_of(path)])]
        if not wanted:
            held = ", ".join(_short_kinds(mine))
            raise InputError(f"{folder}: run '{run}' has no tomogram_kind {', '.join(kinds or ())}; it has {held}.")
        for same in wanted if every_kind else wanted[:1]:
            runs += [{"image": str(path), "run": run} for path in same]
            _refuse_repeats(runs[-len(same) :])
    return runs


def _kinds_of(path: Path) -> tuple[str, ...]:
    """Return what the kind of a project's tomogram may be called, in short and in full; nothing outside of projects."""
    if run_folder_of(path) is None:
        return ()
    return stem_of(path), f"{path.parent.name}/{stem_of(path)}"


def _short_kinds(paths: Iterable[Path]) -> list[str]:
    return sorted({kind for path in paths for kind in _kinds_of(path)[:1]})


def _refuse_repeats(runs: Sequence[Mapping[str, str]]) -> None:
    """Refuse two tomograms of one name."""
    first: dict[str, Path] = {}
    for item in runs:
        path, other = Path(item["image"]), first.get(item["run"])
        if other is not None:
            kinds = [kind for one in (other, path) for kind in _kinds_of(one)[1:]]
            remedy = f"Set tomogram_kind to {' or '.join(kinds)}" if len(set(kinds)) > 1 else "Rename one"
            raise InputError(f"two tomograms are called '{item['run']}': {other} and {path}. {remedy}.")
        first[item["run"]] = path


def _tomograms_in(folder: Path) -> list[Path]:
    roots = [Path(os.path.abspath(root)) for root in project_roots(folder)]
    tops = [root / RUNS for root in roots if not root.is_relative_to(os.path.abspath(folder))]
    if folder.is_dir() or not roots:
        tops.insert(0, folder)
    paths: list[Path] = []
    for top in tops:
        paths += sorted(_tomograms_below(top)) if top.is_dir() and not is_tomogram(top) else [top]
    return [path for path in paths if path.exists()]


def _tomograms_below(folder: Path) -> Iterator[Path]:
    seen: set[str] = set()
    for here, folders, files in os.walk(folder, followlinks=True):
        if os.path.realpath(here) in seen or holds_other_volumes(here):  # seen: a link to a folder above or beside
            folders.clear()
            continue
        seen.add(os.path.realpath(here))
        for name in [*folders, *files]:
            if is_tomogram(Path(here) / name) and not is_feature_map(Path(here) / name):
                yield Path(here) / name
        folders[:] = [name for name in folders if not name.startswith(".") and not is_tomogram(Path(here) / name)]
