"""Finding the truth of runs."""

from __future__ import annotations

import warnings
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.copick_tree import (
    PICKS_FOLDER,
    id_text,
    picks_folders,
    run_folder_of,
    session_file,
)
from scripts.datasets.annotated import ENTRY, Annotated, rows_with_annotated
from scripts.datasets.runs import (
    Folders,
    Kinds,
    TomogramFile,
    as_names,
    find_runs,
    paths_in_words,
    quoting_in_words,
    refuse_repeats,
    run_name,
)
from scripts.errors import InputError, InputWarning
from scripts.file_names import refuse_look_alikes
from scripts.picks import Pick, read_copick_folder, read_csv, read_relion5_star
from scripts.picks.copick_json import copick_files_of_run
from scripts.picks.kaggle_csv import ANNOTATED_FILE
from scripts.settings import check_setting
from scripts.species import SpeciesSet
from scripts.volumes.reading import is_tomogram

TRUTH_TABLE, TRUTH_STAR = "truth.csv", "truth.star"


def list_labelled_runs(
    dataset_dir: Folders,
    only: Sequence[str] | None = None,
    without: Sequence[str] = (),
    tomogram_kind: Kinds = None,
    repeat_runs: bool = False,
    truth_user_id: str | int | None = None,
    truth_session_id: str | int | None = None,
    annotated: str | Mapping[str, Any] | None = None,
) -> list[dict[str, str]]:
    """List the tomograms that have a truth: rows of `list_runs` with the path of the truth added as ``label``.

    The truth is ``truth.csv`` or ``truth.star`` (RELION 5, one species) in the folder, or else ``Picks/*.json``
    (copick) beside the tomogram or in its run's folder in the project. Where several tomograms lie beside ``Picks``,
    each file there has to name one of their runs.

    Args:
        dataset_dir: a folder with tomograms and truth, or several.
        only: names of the runs to list; None means all.
        without: names of runs to leave out.
        tomogram_kind: as in `list_runs`.
        repeat_runs: list a run once per named kind, and allow runs of the same name in several folders. For training
            only: otherwise the run's name identifies its picks, so it must be unique.
        truth_user_id: user whose picks in copick files are the truth; None if there is only one.
        truth_session_id: session whose picks are the truth; None if there is only one.
        annotated: what was annotated in the runs, see `datasets.annotated`.

    Raises:
        InputError: a name in ``only`` or ``without`` is not in the folders, a run has no truth, a table has no particle
            of any run of its folder or writes the accents of one's name in another way, or a case of `list_runs`.
    """
    only, without = None if only is None else as_names(only), as_names(without)
    found = find_runs(dataset_dir, tomogram_kind, repeat_runs)
    _check_runs(found, {*(only or ()), *without})
    pattern = _session_pattern(truth_user_id, truth_session_id)
    listed: list[TomogramFile] = []
    rows: list[dict[str, str]] = []
    for folder, tomograms in found.items():
        chosen = [one for one in tomograms if (only is None or one.run in only) and one.run not in without]
        source = TruthSource(folder, pattern)
        here = [{**one.row, "label": str(source.path_for(one))} for one in chosen]
        table = source.tables[0]
        beside = [one.run for other, every in found.items() if TruthSource(other).tables[0] == table for one in every]
        _check_table(table, beside, [row["run"] for row in here if row["label"] == str(table)])
        named = beside if annotated is None else [one.run for every in found.values() for one in every]
        here = rows_with_annotated(here, annotated, table.parent, named)
        _warn_of_absent_species([row for row in here if Path(row["label"]) not in source.tables])
        listed += chosen
        rows += here
    if not repeat_runs:
        refuse_repeats(listed)
    return rows


@dataclass(frozen=True)
class TruthSource:
    """Where to look for the truth of the runs in a folder.

    Attributes:
        folder: the dataset folder, or the config file of a copick project.
        pattern: names of the copick files that are the truth, for example ``user_*_*.json``; tables are then ignored.
            None takes the table of the folder, or else all copick files of the run.
    """

    folder: Path
    pattern: str | None = None

    @property
    def tables(self) -> tuple[Path, Path]:
        """Paths that a table of the folder may have, whether or not it exists; the first one takes precedence."""
        place = self.folder.parent if self.folder.suffix == ".json" else self.folder
        return place / TRUTH_TABLE, place / TRUTH_STAR

    def path_for(self, tomogram: TomogramFile) -> Path:
        """Return the path of a tomogram's truth: a table, a folder of copick files, or a pattern for files in one.

        Raises:
            InputError: there is none, the run has picks in two folders of its project, or a file beside several
                tomograms names none of their runs.
        """
        if self.pattern is None:
            for table in self.tables:
                if table.exists():
                    return table
        places = self._picks_folders(tomogram)
        there = [place for place in places if place.exists()]
        filled = [place for place in there if _truth_files(place / (self.pattern or "*.json"), tomogram.run)]
        if len(filled) > 1:
            raise InputError(
                f"run '{tomogram.run}' has picks in {filled[0]} and in {filled[1]}. Keep only its truth there, or name "
                "it by truth_user_id and truth_session_id."
            )
        if self.pattern is not None:
            if not filled:
                raise InputError(f"run '{tomogram.run}' has no truth {self.pattern} in {paths_in_words(places)}.")
            return filled[0] / self.pattern
        if not there:
            missing = " nor ".join(str(place) for place in (self.tables[0], *places))
            raise InputError(f"run '{tomogram.run}' has no truth: neither {missing} exists.")
        return (filled or there)[0]

    def _picks_folders(self, tomogram: TomogramFile) -> list[Path]:
        """Return the folders that may hold copick files of a tomogram's run, whether or not they exist."""
        run_folder = run_folder_of(tomogram.path)
        if run_folder is None:
            return [tomogram.path.parent / PICKS_FOLDER]
        return picks_folders(run_folder, self.folder)


def count_truths(rows: Iterable[Mapping[str, str]], names: Sequence[str]) -> dict[str, dict[str, int]]:
    """Return the number of true particles by run and species; several kinds of a run have the same truth.

    Rejected and uncertain ones are not counted, nor are those of species that were not annotated in their run, or
    outside of a box in Å that was. No header is read: with a mask, with a box in voxels, and in a RELION 5 file, which
    counts from the centre, the particles of the whole run are counted.

    Args:
        rows: of `list_labelled_runs`.
        names: of the species to count; a RELION 5 file, which does not tell species apart, is of the first.

    Raises:
        InputError: a file cannot be read.
    """
    tables: dict[str | tuple[str, str], list[Pick]] = {}  # one for many runs, or copick files by folder and run
    counts: dict[str, dict[str, int]] = {}
    entries = {(row["label"], row["run"]): Annotated.of_row(row) for row in rows}
    for (path, run), entry in entries.items():
        key = path if path.endswith((".star", ".csv")) else (path, run)
        if key not in tables and path.endswith(".star"):
            tables[key] = read_relion5_star(  # particles are counted: it does not matter where they lie
                path, species=names[0], volume_shape_zyx=(1, 1, 1), voxel_size_angstrom=1.0
            )
        elif key not in tables:
            tables[key] = read_annotations(path, run)
        own = [pick for pick in tables[key] if pick.run == run and pick.weight == 1 and entry.holds(pick.species)]
        has_places = not path.endswith(".star")
        found = Counter(pick.species for pick in own if not has_places or entry.may_include(pick.xyz_angstrom))
        before = counts.get(run, {})
        counts[run] = {name: found[name] + before.get(name, 0) for name in names}
    return counts


def runs_of_probable_truth(tables: Iterable[str | Path]) -> list[str]:
    """Return the runs of which nothing is certain, sorted: pseudo-labels alone.

    They have rows with another weight than 1 and 0, and none with 1. A run without rows is certainly empty.

    Args:
        tables: paths of truths; only a table has weights, others are skipped.

    Raises:
        InputError: a table cannot be read.
    """
    weights: defaultdict[str, set[float]] = defaultdict(set)
    for path in {Path(table) for table in tables}:
        for pick in read_csv(path) if path.name == TRUTH_TABLE and path.exists() else ():
            weights[pick.run].add(pick.weight)
    return sorted(run for run, found in weights.items() if found - {0} and 1 not in found)


def window_weights(rows: Iterable[Mapping[str, str]], species_set: SpeciesSet, rule: str) -> dict[str, float]:
    """Return how often windows are drawn around a particle of every species, relative to one another.

    Args:
        rows: of `list_labelled_runs`, that are trained on.
        species_set: the species.
        rule: ``weight``: the species' weights; ``rarity``: these, divided by the square root of the number of
            particles, so that of a species with a quarter of the particles twice as many windows are drawn.

    Raises:
        InputError: there is no such rule, or a row is of a label volume, in which particles are not counted.
    """
    check_setting("window_species", rule)
    weights = {species.name: species.weight for species in species_set.picked}
    if rule == "weight":
        return weights
    rows = list(rows)
    volumes = [row["label"] for row in rows if "run" not in row]  # as MONAI Label lists them
    if volumes:
        raise InputError(f"{volumes[0]}: window_species rarity counts no particles of label volumes: set it to weight.")
    counts = count_truths(rows, species_set.names).values()
    return {name: weight / max(sum(row[name] for row in counts), 1) ** 0.5 for name, weight in weights.items()}


def read_annotations(path: str | Path, run: str) -> list[Pick]:
    """Read the true particles of all runs of a Kaggle CSV, or those of one run from copick files.

    Args:
        path: the CSV, a folder of copick files, or a folder and a glob pattern of copick files.
        run: name of the run.

    Raises:
        InputError: a file cannot be read, or a copick file beside several tomograms names none of their runs.
    """
    folder, pattern = _folder_and_pattern(Path(path))
    if not pattern.endswith(".json"):
        return read_csv(path)
    return read_copick_folder(folder, run, pattern, _other_runs_beside(folder, run))


def _session_pattern(user_id: str | int | None, session_id: str | int | None) -> str | None:
    """Return the pattern of the copick files of a user and a session; None if neither is given."""
    if user_id is None and session_id is None:
        return None
    ids = {"truth_user_id": user_id, "truth_session_id": session_id}
    user, session = ("*" if name is None else id_text(key, name) for key, name in ids.items())
    return session_file(user, session, "*")


def _check_runs(found: Mapping[Path, Sequence[TomogramFile]], wanted: Collection[str]) -> None:
    """Refuse names of runs that no folder holds, unless there are no runs at all."""
    names = sorted({one.run for tomograms in found.values() for one in tomograms})
    missing = sorted(set(wanted) - set(names))
    if missing and names:
        raise InputError(
            f"{paths_in_words(found)} holds no run {', '.join(missing)}; it holds {', '.join(names)}."
            f"{quoting_in_words(missing, names)}"
        )


def _warn_of_absent_species(rows: Sequence[Mapping[str, str]]) -> None:
    """Warn of species that the copick files of some runs hold and those of others do not.

    Whether nobody looked for them there or there are none, only the user can tell, see `datasets.annotated`.
    """
    held = {row["run"]: _species_of_files(Path(row["label"]), row["run"]) for row in rows}
    every = set().union(*held.values())
    asked = [row["run"] for row in rows if ENTRY not in row and every - held[row["run"]]]
    if asked:
        absent = "; ".join(f"{run} ({', '.join(sorted(every - held[run]))})" for run in dict.fromkeys(asked))
        message = (
            f"no copick file of species that other runs have: {absent}. Taken as empty of them; if nobody looked for "
            f"them there, say so in {ANNOTATED_FILE}."
        )
        warnings.warn(message, InputWarning, stacklevel=3)


def _species_of_files(path: Path, run: str) -> set[str]:
    """Return the species in the names of a run's copick files: those of a folder, or of a folder and a pattern."""
    return {file.stem.split("_", 2)[-1] for file in _truth_files(path, run)}


def _truth_files(path: Path, run: str) -> list[Path]:
    """Return the copick files of a run in a folder, or those of a folder and a pattern."""
    folder, pattern = _folder_and_pattern(path)
    return copick_files_of_run(folder, run, pattern, _other_runs_beside(folder, run))


def _folder_and_pattern(path: Path) -> tuple[Path, str]:
    return (path, "*.json") if path.is_dir() else (path.parent, path.name)


def _other_runs_beside(folder: Path, run: str) -> set[str]:
    """Return the other runs whose tomograms lie with the run's own beside a folder ``Picks``; in a project none do."""
    if folder.name != PICKS_FOLDER or not folder.parent.is_dir():
        return set()
    runs = {run_name(path) for path in folder.parent.iterdir() if is_tomogram(path)}
    return runs - {run} if run in runs else set()


def _check_table(table: Path, beside: Iterable[str], chosen: Iterable[str]) -> None:
    """Refuse a table whose names of runs are wrong, and warn of the chosen runs that it lacks: they may be empty.

    Args:
        table: its path.
        beside: all runs of its folder, chosen or not: a table that has none of them is of other runs.
        chosen: the runs whose truth it is.
    """
    names, chosen = list(dict.fromkeys(beside)), list(dict.fromkeys(chosen))
    if not chosen:
        return
    known = sorted({pick.run for pick in read_csv(table)})
    refuse_look_alikes(names, known, table)
    if not set(known) & set(names):
        raise InputError(f"{table} has no particle of {', '.join(names)}; its runs are called {', '.join(known)}.")
    absent = [name for name in chosen if name not in known]
    if absent:
        message = f"{table} has no particle of {', '.join(absent)}: taken as empty of particles."
        warnings.warn(message, InputWarning, stacklevel=3)
