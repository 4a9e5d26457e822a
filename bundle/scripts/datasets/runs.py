"""Finding the tomograms in a folder, and the names of their runs."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from scripts.copick_tree import (
    RUNS,
    holds_other_volumes,
    is_feature_map,
    project_roots,
    run_folder_of,
)
from scripts.errors import InputError
from scripts.file_names import require_file_name, shown
from scripts.volumes.reading import is_tomogram, refuse_address, stem_of

logger = logging.getLogger(__name__)

Folders = str | Path | Sequence[str | Path]
Kinds = str | Sequence[str] | None

OF_THE_DISK = "lost+found"  # a folder that only root may list, on the top of a disk


@dataclass(frozen=True)
class TomogramFile:
    """A tomogram that was found in a folder.

    Attributes:
        path: its file or Zarr folder.
        run: name of its run.
        kinds: short and full name of its kind, for example ``denoised`` and ``VoxelSpacing10.012/denoised``; empty
            outside of copick projects.
    """

    path: Path
    run: str
    kinds: tuple[str, ...]

    @staticmethod
    def at(path: Path) -> TomogramFile:
        """Return the tomogram at a path; run and kinds are taken from the path alone."""
        stem = stem_of(path)
        kinds = () if run_folder_of(path) is None else (stem, f"{path.parent.name}/{stem}")
        return TomogramFile(path, run_name(path), kinds)

    @property
    def row(self) -> dict[str, str]:
        """The tomogram as a row of `list_runs`: ``{"image": path, "run": name}``."""
        return {"image": str(self.path), "run": self.run}


def list_runs(dataset_dir: Folders, tomogram_kind: Kinds = None) -> list[dict[str, str]]:
    """List the tomograms in a folder and below, one for each run, sorted by path.

    In a copick project a run is named after its folder. Otherwise it is named after the tomogram's file, or after the
    file's folder if the file is called ``tomogram.*``.

    Args:
        dataset_dir: a folder, a copick project, one tomogram, or several of them.
        tomogram_kind: kind of tomogram to take of each run of a project, for example ``denoised``; of several kinds the
            first that the run has. None takes the only kind that exists.

    Returns:
        One ``{"image": path, "run": name}`` per tomogram. The list is empty if there are none, so that a config can be
        read without data; `require_runs` raises an error when the work starts.

    Raises:
        InputError: two tomograms have the same name, ``tomogram_kind`` does not select one tomogram per run, a folder
            cannot be listed, or a link leads nowhere.
    """
    found = find_runs(dataset_dir, tomogram_kind)
    tomograms = [tomogram for tomograms in found.values() for tomogram in tomograms]
    refuse_repeats(tomograms)
    return [tomogram.row for tomogram in tomograms]


def require_runs(runs: Sequence[Mapping[str, str]], dataset_dir: Folders) -> None:
    """Refuse to start without a tomogram.

    Raises:
        InputError: ``runs``, the tomograms found in ``dataset_dir``, is empty, or one of several folders is missing.
    """
    folders = as_folders(dataset_dir)
    missing = [str(folder) for folder in folders if not folder.exists()]
    if missing and (not runs or len(folders) > 1):
        raise InputError(f"cannot read {', '.join(missing)}: no such file or folder. Set dataset_dir.")
    if not runs:
        raise InputError(f"{paths_in_words(folders)} holds no tomogram (MRC, OME-Zarr or NIfTI) to work on.")
    logger.info("%d tomograms: %s", len(runs), ", ".join(shown(str(item.get("run", item["image"]))) for item in runs))


def require_run_names(runs: Iterable[Mapping[str, str]]) -> None:
    """Refuse to start where a folder of results cannot be called after a run.

    Args:
        runs: the rows of `list_runs`.

    Raises:
        InputError: names the first such tomogram.
    """
    for item in runs:
        require_file_name(item["run"], "run", item["image"])


def run_name(path: str | Path) -> str:
    """Return the name of a tomogram's run, which follows from its path."""
    path = Path(path)
    run_folder, stem = run_folder_of(path), stem_of(path)
    if run_folder is not None:
        return run_folder.name
    return Path(os.path.abspath(path)).parent.name if stem.lower() == "tomogram" else stem


def mask_of_run(mask_path: str | None, run: str) -> str | None:
    """Return the path of a run's mask: ``{run}`` in ``mask_path`` is the run's name; None if there is no mask."""
    return None if mask_path is None else mask_path.replace("{run}", run)


def as_names(names: str | float | Sequence[str | float] | None) -> list[str]:
    """Return names of runs as a list; the command line gives one name as a string, and a name like 12 as a number."""
    if names is None:
        return []
    return [str(name) for name in ([names] if isinstance(names, str | int | float) else names)]


def quoting_in_words(unknown: Iterable[str], known: Iterable[str]) -> str:
    """Return how to type the known names that the command line takes for numbers, and that became unknown ones by it.

    It gives 202401 for ``2024_01`` and 100000.0 for ``1e5``. The text is empty if no known name is such a number.
    """
    numbers = {_as_number(name) for name in unknown} - {None}
    meant = [name for name in known if _as_number(name) in numbers]
    return f' Quote names that read as numbers: "{meant}".' if meant else ""


def _as_number(name: str) -> float | None:
    try:
        return float(name)
    except ValueError:
        return None


def as_folders(dataset_dir: Folders) -> list[Path]:
    """Return one folder or several as a list without duplicates.

    Raises:
        InputError: one is a URL.
    """
    folders = [dataset_dir] if isinstance(dataset_dir, str | Path) else dataset_dir
    for folder in folders:
        refuse_address(folder)
    return list(dict.fromkeys(Path(folder) for folder in folders))


def paths_in_words(folders: Iterable[Path]) -> str:
    """Return paths as text for messages."""
    return ", ".join(map(str, folders))


def find_runs(dataset_dir: Folders, tomogram_kind: Kinds, every_kind: bool = False) -> dict[Path, list[TomogramFile]]:
    """List the tomograms of every folder: one per run, or with ``every_kind`` one per run and named kind.

    Raises:
        InputError: as in `list_runs`, but two folders may hold runs of the same name.
    """
    found = {folder: _tomograms_in(folder) for folder in as_folders(dataset_dir)}
    kinds = None if tomogram_kind is None else as_names(tomogram_kind)
    _check_kinds(found, kinds or ())
    return {folder: _choose_kinds(folder, tomograms, kinds, every_kind) for folder, tomograms in found.items()}


def refuse_repeats(tomograms: Iterable[TomogramFile]) -> None:
    """Refuse two tomograms of the same run.

    Raises:
        InputError: names both, and says what to change.
    """
    first: dict[str, TomogramFile] = {}
    for tomogram in tomograms:
        other = first.get(tomogram.run)
        if other is not None:
            kinds = [*other.kinds[1:], *tomogram.kinds[1:]]
            remedy = f"Set tomogram_kind to {' or '.join(kinds)}" if len(set(kinds)) > 1 else "Rename one"
            raise InputError(f"two tomograms are called '{tomogram.run}': {other.path} and {tomogram.path}. {remedy}.")
        first[tomogram.run] = tomogram


def _check_kinds(found: Mapping[Path, Sequence[TomogramFile]], kinds: Iterable[str]) -> None:
    """Refuse kinds that no tomogram has, unless there is no tomogram at all."""
    known = {kind for tomograms in found.values() for tomogram in tomograms for kind in tomogram.kinds}
    unknown = [kind for kind in kinds if kind not in known]
    if unknown and any(found.values()):
        there = f"it holds {', '.join(sorted(known))}" if known else "it is no copick project"
        raise InputError(f"{paths_in_words(found)} holds no tomogram_kind {', '.join(unknown)}; {there}.")


def _choose_kinds(
    folder: Path, tomograms: Sequence[TomogramFile], kinds: Sequence[str] | None, every_kind: bool
) -> list[TomogramFile]:
    """Return the tomogram of each run: of the first of the ``kinds`` that it has, or one of each of them."""
    there = _short_kinds(tomograms)
    if kinds is None and len(there) > 1:
        raise InputError(f"{folder} holds tomograms of several kinds: {', '.join(there)}. Set tomogram_kind to one.")
    by_run: dict[str, list[TomogramFile]] = {}
    for tomogram in tomograms:
        by_run.setdefault(tomogram.run, []).append(tomogram)
    chosen: list[TomogramFile] = []
    for run, of_run in by_run.items():
        groups = _groups_of_kinds(of_run, kinds)
        if not groups:
            held = ", ".join(_short_kinds(of_run))
            raise InputError(f"{folder}: run '{run}' has no tomogram_kind {', '.join(kinds or ())}; it has {held}.")
        for same_kind in groups if every_kind else groups[:1]:
            refuse_repeats(same_kind)
            chosen += same_kind
    return chosen


def _groups_of_kinds(of_run: list[TomogramFile], kinds: Sequence[str] | None) -> list[list[TomogramFile]]:
    """Group the tomograms of one run by ``kinds``, in that order; kinds that the run lacks are left out.

    All are in one group if ``kinds`` is None, and outside of copick projects, where tomograms have no kinds.
    """
    if kinds is None or not any(tomogram.kinds for tomogram in of_run):
        return [of_run]
    groups = [[tomogram for tomogram in of_run if kind in tomogram.kinds] for kind in kinds]
    return [group for group in groups if group]


def _short_kinds(tomograms: Iterable[TomogramFile]) -> list[str]:
    return sorted({kind for tomogram in tomograms for kind in tomogram.kinds[:1]})


def _tomograms_in(folder: Path) -> list[TomogramFile]:
    """List the tomograms in a folder and below, and in the other roots that its ``copick.json`` names.

    Raises:
        InputError: a folder cannot be listed, or a link leads nowhere; what lies there is not left out in silence.
    """
    try:
        return [TomogramFile.at(path) for path in _paths_in(folder) if path.exists()]
    except OSError as error:
        place = error.filename or folder
        raise InputError(
            f"cannot list {place}: {error.strerror or error}. Give the right to read it, or move it elsewhere."
        ) from error


def _paths_in(folder: Path) -> list[Path]:
    """Return the paths of the tomograms in a folder and in the other roots of its project."""
    roots = [Path(os.path.abspath(root)) for root in project_roots(folder)]
    tops = [root / RUNS for root in roots if not root.is_relative_to(os.path.abspath(folder))]
    if folder.is_dir() or not roots:
        tops.insert(0, folder)
    paths: list[Path] = []
    seen: set[str] = set()
    for top in tops:
        paths += sorted(_tomograms_below(top, seen)) if top.is_dir() and not is_tomogram(top) else [top]
    return paths


def _tomograms_below(folder: Path, seen: set[str]) -> Iterator[Path]:
    """Yield the tomograms in a folder and below, but not in folders whose real path is ``seen``, and add its own."""
    for here, folders, files in os.walk(folder, onerror=_raise, followlinks=True):
        if os.path.realpath(here) in seen or holds_other_volumes(here):  # seen: reached again through a link
            folders.clear()
            continue
        seen.add(os.path.realpath(here))
        for name in [*folders, *files]:
            _refuse_broken_link(Path(here) / name)
            if is_tomogram(Path(here) / name) and not is_feature_map(Path(here) / name):
                yield Path(here) / name
        folders[:] = [name for name in folders if _may_hold_tomograms(Path(here) / name)]


def _may_hold_tomograms(folder: Path) -> bool:
    return not (folder.name.startswith(".") or folder.name == OF_THE_DISK or is_tomogram(folder))


def _refuse_broken_link(path: Path) -> None:
    """Refuse a link to a tomogram or a folder that is not there; hidden links and those to other files may be."""
    may_be_one = stem_of(path) != path.name or not path.suffix  # a folder has none, or that of Zarr
    if path.is_symlink() and not path.exists() and may_be_one and not path.name.startswith("."):
        raise InputError(
            f"{path} is a link to {os.readlink(path)}, which is not there: mount its disk, or remove the link."
        )


def _raise(error: OSError) -> None:
    raise error  # os.walk would leave the folder out
