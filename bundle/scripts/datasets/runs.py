"""Which tomograms a folder holds, and what their runs are called."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from scripts.copick_tree import (
    RUNS,
    holds_other_volumes,
    is_feature_map,
    project_roots,
    run_folder_of,
)
from scripts.errors import InputError
from scripts.volumes.reading import is_tomogram, refuse_address, stem_of

logger = logging.getLogger(__name__)

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
    runs = [item for found in find_runs(dataset_dir, tomogram_kind).values() for item in found]
    refuse_repeats(runs)
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
        raise InputError(f"{paths_in_words(folders)} holds no tomogram (MRC, OME-Zarr or NIfTI) to work on.")
    logger.info("%d tomograms: %s", len(runs), ", ".join(str(item.get("run", item["image"])) for item in runs))


def run_name(path: str | Path) -> str:
    """Return the name of the run that a tomogram's path stands for."""
    path = Path(path)
    run_folder, stem = run_folder_of(path), stem_of(path)
    if run_folder is not None:
        return run_folder.name
    return Path(os.path.abspath(path)).parent.name if stem.lower() == "tomogram" else stem


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


def paths_in_words(folders: Iterable[Path]) -> str:
    """Return paths as one text, for messages."""
    return ", ".join(map(str, folders))


def find_runs(dataset_dir: Folders, tomogram_kind: Kinds, every_kind: bool = False) -> dict[Path, list[dict[str, str]]]:
    """List the tomograms of every folder: one for each run, or one for each named kind of each run."""
    found = {folder: _tomograms_in(folder) for folder in as_folders(dataset_dir)}
    kinds = None if tomogram_kind is None else as_names(tomogram_kind)
    known = {kind for paths in found.values() for path in paths for kind in _kinds_of(path)}
    unknown = [kind for kind in kinds or () if kind not in known]
    if unknown and any(found.values()):
        there = f"it holds {', '.join(sorted(known))}" if known else "it is no copick project"
        raise InputError(f"{paths_in_words(found)} holds no tomogram_kind {', '.join(unknown)}; {there}.")
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
            refuse_repeats(runs[-len(same) :])
    return runs


def _kinds_of(path: Path) -> tuple[str, ...]:
    """Return what the kind of a project's tomogram may be called, in short and in full; nothing outside of projects."""
    if run_folder_of(path) is None:
        return ()
    return stem_of(path), f"{path.parent.name}/{stem_of(path)}"


def _short_kinds(paths: Iterable[Path]) -> list[str]:
    return sorted({kind for path in paths for kind in _kinds_of(path)[:1]})


def refuse_repeats(runs: Sequence[Mapping[str, str]]) -> None:
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
