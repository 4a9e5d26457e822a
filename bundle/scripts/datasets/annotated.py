"""What was annotated in each run: which species, where, and whether all particles of them.

``annotated.json`` beside the truth, or the setting ``annotated``, has one entry per run; ``*`` stands for all other
runs. An entry is a list of species, or an object with ``species``, ``region`` and ``complete``::

    {
        "TS_1": ["ribosome"],
        "TS_2": {"region": {"z_angstrom": [300, 900]}},
        "*": {"species": ["ribosome", "thyroglobulin"], "region": "../masks/{run}.mrc", "complete": false}
    }

Masks stand outside of the folder of tomograms, where they would be taken for one. Without an entry all particles of all
species are annotated.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from numbers import Real
from pathlib import Path
from typing import Any

from scripts.datasets.runs import mask_of_run
from scripts.errors import InputError, InputWarning
from scripts.picks.kaggle_csv import ANNOTATED_FILE
from scripts.records import canonical
from scripts.species import SpeciesSet

ENTRY, MASK = "annotated", "annotated_mask"  # keys of a run's row
OTHERS = "*"
KEYS = ("species", "region", "complete")
BOX_KEYS = tuple(f"{axis}_{unit}" for axis in "zyx" for unit in ("angstrom", "voxel"))


@dataclass(frozen=True)
class Annotated:
    """What was annotated in a run.

    Attributes:
        species: names of the annotated species; None means all.
        complete: whether all particles of them are; otherwise what is not annotated is unknown.
        box: first and last coordinate of what was annotated, by `BOX_KEYS`; an axis that is missing is whole.
        mask: path of a mask of the tomogram, 0 where nothing was annotated.
    """

    species: tuple[str, ...] | None = None
    complete: bool = True
    box: tuple[tuple[str, tuple[float, float]], ...] = ()
    mask: str | None = None

    @staticmethod
    def of_row(row: Mapping[Any, Any]) -> Annotated:
        """Return the entry of a run's row, as `rows_with_annotated` wrote it."""
        if ENTRY not in row:
            return Annotated()
        entry = json.loads(row[ENTRY])
        species = None if entry["species"] is None else tuple(entry["species"])
        box = tuple((key, (first, last)) for key, (first, last) in entry["box"])
        return Annotated(species, entry["complete"], box, row.get(MASK))

    def holds(self, name: str) -> bool:
        """Return whether a species was annotated."""
        return self.species is None or name in self.species

    def may_include(self, xyz_angstrom: Sequence[float]) -> bool:
        """Return whether a place ``(x, y, z)`` in Å may be in the region.

        Only what the box says in Å counts: its voxels, and a mask, need the tomogram.
        """
        ends_by_axis = {key[0]: ends for key, ends in self.box if key.endswith("angstrom")}
        return all(first <= xyz_angstrom["xyz".index(axis)] <= last for axis, (first, last) in ends_by_axis.items())

    def as_row(self) -> dict[str, str]:
        """Return the entry as texts for a run's row; the mask is a path of its own, so that its content is recorded."""
        entry = {key: value for key, value in asdict(self).items() if key != "mask"}
        return {ENTRY: canonical(entry)} | ({MASK: self.mask} if self.mask else {})


def rows_with_annotated(
    rows: Sequence[dict[str, str]], annotated: str | Mapping[str, Any] | None, folder: Path, runs: Sequence[str]
) -> list[dict[str, str]]:
    """Return the rows of runs with what was annotated in them.

    Args:
        rows: of `datasets.truth.list_labelled_runs`.
        annotated: the setting: the entries, or a file of them; None takes ``annotated.json`` in the folder, if there.
        folder: where the truth is.
        runs: names that an entry may have.

    Raises:
        InputError: the file or an entry cannot be used.
    """
    if isinstance(annotated, Mapping):
        entries, source, here = annotated, "annotated", Path()
    else:
        path = folder / ANNOTATED_FILE if annotated is None else Path(annotated)
        if annotated is None and not path.exists():
            return list(rows)
        entries, source, here = _read_entries(path), str(path), path.parent
    unknown = sorted(set(map(str, entries)) - {OTHERS, *runs})
    if unknown and runs:
        raise InputError(
            f"{source}: there is no run {', '.join(unknown)}; the runs are {', '.join(sorted(set(runs)))}."
        )
    by_run = {str(run): entry for run, entry in entries.items()}
    done = []
    for row in rows:
        name = row["run"] if row["run"] in by_run else OTHERS
        entry = _parsed(by_run[name], f"{source}, '{name}'", here, row["run"]) if name in by_run else None
        done.append(row | (entry.as_row() if entry else {}))
    return done


def require_annotated(
    runs: Sequence[Mapping[Any, Any]], species_set: SpeciesSet, needs_background: bool = True
) -> None:
    """Refuse to train on a species that nobody annotated.

    Args:
        runs: the rows of `datasets.truth.list_labelled_runs`.
        species_set: the species.
        needs_background: refuse a species, too, of which there are points alone.

    Raises:
        InputError: a species is unknown, annotated in no run, or nowhere completely.
    """
    entries = [Annotated.of_row(row) for row in runs]
    for row, entry in zip(runs, entries, strict=True):
        for name in entry.species or ():
            species_set.named(name, f"what was annotated in run '{row['run']}'")
    nowhere = [name for name in species_set.names if entries and not any(entry.holds(name) for entry in entries)]
    if nowhere:
        raise InputError(
            f"{', '.join(nowhere)}: annotated in none of the runs to train on. Name a run where it was in "
            f"{ANNOTATED_FILE}, or give a species_path without it."
        )
    found = [name for name in species_set.names if any(entry.holds(name) and entry.complete for entry in entries)]
    alone = [name for name in species_set.names if entries and name not in found]
    if needs_background and alone:
        raise InputError(
            f"{', '.join(alone)}: points alone in every run, so that nothing shows what is none. Annotate a run "
            "completely, or train with the overlay points_alone.json."
        )


def runs_of_points_alone(rows: Iterable[Mapping[Any, Any]]) -> list[str]:
    """Return the runs in which of no species all particles are annotated, sorted: whether a pick is wrong is unknown.

    Args:
        rows: of `datasets.truth.list_labelled_runs`.
    """
    return sorted({row["run"] for row in rows if not Annotated.of_row(row).complete})


def warn_of_points_alone(rows: Iterable[Mapping[Any, Any]]) -> None:
    """Warn of runs to be scored, rows of `datasets.truth.list_labelled_runs`, in which wrong picks are unknown."""
    runs = runs_of_points_alone(rows)
    if runs:
        message = f"{', '.join(runs)}: points alone, so that wrong picks are not counted there, nor thresholds or "
        message += "probabilities fitted. Set validation_runs to runs that are annotated completely."
        warnings.warn(message, InputWarning, stacklevel=3)


def _read_entries(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}.") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not valid JSON: {error}.") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} needs an object with an entry per run; got {type(content).__name__}.")
    return content


def _parsed(entry: Any, source: str, here: Path, run: str) -> Annotated:
    if isinstance(entry, list):
        entry = {"species": entry}
    if not isinstance(entry, Mapping):
        raise InputError(f"{source}: an entry is a list of species, or an object with {', '.join(KEYS)}; got {entry}.")
    wrong = sorted(set(entry) - set(KEYS))
    if wrong:
        raise InputError(f"{source}: unknown key {', '.join(map(str, wrong))}; known are {', '.join(KEYS)}.")
    names, complete, region = entry.get("species"), entry.get("complete", True), entry.get("region") or {}
    if names is not None and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise InputError(f"{source}: species is a list of names; got {names}.")
    if not isinstance(complete, bool):
        raise InputError(f"{source}: complete is true or false; got {complete}.")
    species = None if names is None else tuple(names)
    if isinstance(region, str):
        path = here / str(mask_of_run(region, run))
        if not path.exists():
            raise InputError(f"{source}: cannot read the mask {path}: no such file.")
        return Annotated(species, complete, mask=str(path))
    if not isinstance(region, Mapping) or not all(_is_range(key, ends) for key, ends in region.items()):
        raise InputError(
            f"{source}: region is the path of a mask, or a box with two rising numbers for {', '.join(BOX_KEYS)}; "
            f"got {region}."
        )
    return Annotated(species, complete, tuple((key, (ends[0], ends[1])) for key, ends in region.items()))


def _is_range(key: Any, ends: Any) -> bool:
    numbers = isinstance(ends, list) and len(ends) == 2 and all(isinstance(end, Real) for end in ends)
    return key in BOX_KEYS and numbers and ends[0] < ends[1]
