"""The formats of picks by name: their file names, and how they are read and written."""

from __future__ import annotations

import glob
import warnings
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from scripts.copick_tree import RUNS, is_project, overlay_folder_of, picks_path
from scripts.errors import InputError, InputWarning
from scripts.file_names import require_file_name
from scripts.picks.context import Facts
from scripts.picks.coords_text import read_coords, write_coords
from scripts.picks.copick_json import picks_of_content, read_content, write_copick_json
from scripts.picks.dynamo_table import DOC, read_dynamo_table, write_dynamo_table
from scripts.picks.imod_text import read_imod_text, write_imod_text
from scripts.picks.kaggle_csv import read_csv, write_csv
from scripts.picks.pick import Pick, by_species
from scripts.picks.portal_ndjson import read_ndjson, write_ndjson
from scripts.picks.relion4_star import TOMOSTAR, read_pixel_star, write_relion4_star, write_warp_star
from scripts.picks.relion5_star import read_relion5_star, write_relion5_star
from scripts.picks.star import CENTERED, RUN_COLUMN, check_name, read_tables

USER_ID, SESSION_ID = "cryoet-particle-segmentation", "0"
TABLE = "csv"  # the format that the bundle itself uses
AUTOMATIC_STAR = "star"


@dataclass(frozen=True)
class Format:
    """One format.

    Attributes:
        name: as users write it.
        file_name: of a file in a run's folder; ``{species}``, ``{user_id}`` and ``{session_id}`` are replaced.
        one_file_per: "table" if the file states run and species: it holds all of them. "species" if it states only
            the run: it holds all runs of one species. Else "run": it holds one species of one run.
        unit: of the numbers in the file.
        read: reads the picks of a file.
        write: writes a file of picks, which are of one species (and run) unless the file states more.
        has_scores: the file stores scores.
        has_binning: the file may count pixels of another size than the tomogram's voxels.
        side_suffix: of a second file that is written beside each.
        from_centre: positions count from the tomogram's centre, not from its first voxel.
        check_run: raises an ``InputError`` if a file cannot hold a run's name.
    """

    name: str
    file_name: str
    one_file_per: Literal["table", "species", "run"]
    unit: Literal["angstrom", "voxel"]
    read: Callable[[Path, Facts], list[Pick]]
    write: Callable[[Path, Sequence[Pick], Facts], None]
    has_scores: bool = True
    has_binning: bool = False
    side_suffix: str | None = None
    from_centre: bool = False
    check_run: Callable[[str], None] = lambda run: None

    def origin_zyx_vox(self, volume_shape_zyx: Sequence[int], voxel_offset: float) -> NDArray[np.float64]:
        """Return the voxel index that the file's coordinates of ångströms count from."""
        return np.asarray(volume_shape_zyx) / 2 if self.from_centre else np.full(3, -voxel_offset)

    def files_at(self, path: Path) -> list[Path]:
        """Return all files that are created by writing to a path."""
        return [path] if self.side_suffix is None else [path, path.with_suffix(self.side_suffix)]

    @property
    def ending(self) -> str:
        """The ending of the file names."""
        return self.file_name.rpartition("}")[2] if "{" in self.file_name else Path(self.file_name).suffix

    def paths_for(self, target: Path, picks: Iterable[Pick], facts: Facts) -> list[tuple[Path, list[Pick], Facts]]:
        """Return the files that a table of picks is written to, each with its picks and its facts.

        Args:
            target: a file, a copick project, or a folder for as many files as ``one_file_per`` says; those of a run
                are in a folder of its own.
            picks: the table; without picks there is one empty file, for the run and species of the facts.
            facts: what is known of all picks.

        Raises:
            InputError: the target is one file and the picks need several, or the run or the species is not known, or
                no file can be called after one of them.
        """
        groups = self._by_file(picks) or {self._file_of(facts.run, facts.species): []}
        layout = self._layout_at(target)
        if layout == "file" and len(groups) > 1:
            held = ", ".join("/".join(filter(None, key)) for key in list(groups)[:3])
            raise InputError(
                f"{target}: {self.name} needs a file for each of {held} ...; give a folder, or --species and --run."
            )
        parts = []
        for (run, species), own in groups.items():
            own_facts = replace(facts, run=run or facts.run, species=species or facts.species)
            if layout == "project":
                path = _path_in_project(target, own_facts)
            elif layout == "file":
                path = target
            elif self.one_file_per == "table":
                path = target / self.file_name
            else:
                folder = target / require_file_name(run, "run") if run else target
                path = path_in_folder(folder, self, own_facts.needed_species(target), own_facts)
            parts.append((path, own, own_facts))
        return parts

    def others_at(self, target: Path, written: Collection[Path], facts: Facts) -> list[Path]:
        """Return the files of this format, in a copick project of the session, that lie beside those that were written.

        Args:
            target: as in `paths_for`.
            written: the paths that it returned.
            facts: a run or a species that they state is the only one looked for.
        """
        layout = self._layout_at(target)
        if layout == "file" or self.one_file_per == "table":
            return []
        folder = overlay_folder_of(target) / RUNS if layout == "project" else target
        run, species = (glob.escape(name) if name else "*" for name in (facts.run, facts.species))
        pattern = self.file_name.format_map({**_ids_of(facts), "species": species})
        found = folder.glob(f"{run}/{pattern}" if self.one_file_per == "run" else pattern)
        return sorted(
            path
            for path in found
            if path not in written and not path.name.startswith(".") and guess_format(path) in (None, self.name)
        )

    def _by_file(self, picks: Iterable[Pick]) -> dict[tuple[str | None, str | None], list[Pick]]:
        """Group picks by the run and the species of their file; None if a file holds all runs or species."""
        groups: dict[tuple[str | None, str | None], list[Pick]] = {}
        for pick in picks:
            groups.setdefault(self._file_of(pick.run, pick.species), []).append(pick)
        return groups

    def _file_of(self, run: str | None, species: str | None) -> tuple[str | None, str | None]:
        """Return the run and the species that decide about a pick's file; None for one that does not."""
        return run if self.one_file_per == "run" else None, None if self.one_file_per == "table" else species

    def _layout_at(self, target: Path) -> Literal["project", "file", "folder"]:
        """Return what is written at a path: files in a copick project, one file, or files in a folder."""
        is_file = target.suffix.lower() in FILE_SUFFIXES
        if self.name == "copick" and (is_project(target) or not is_file):
            return "project"
        return "file" if is_file else "folder"


def _ids_of(facts: Facts) -> dict[str, str]:
    """Return the user and the session, ours where the facts state none."""
    return {"user_id": facts.user_id or USER_ID, "session_id": facts.session_id or SESSION_ID}


def _path_in_project(target: Path, facts: Facts) -> Path:
    run, species = facts.needed_run(target), facts.needed_species(target)
    return picks_path(target, run, species, **_ids_of(facts))


def _write_copick(path: Path, picks: Sequence[Pick], facts: Facts) -> None:
    write_copick_json(
        path,
        picks,
        run=facts.needed_run(path),
        species=facts.needed_species(path),
        voxel_size_angstrom=facts.voxel_size_angstrom,
        **_ids_of(facts),
    )


def _read_copick(path: Path, facts: Facts) -> list[Pick]:
    """Read a file; the run that it states is kept: another one in the facts selects, and names nothing."""
    content = read_content(path)
    stated = content.get("run_name")
    return picks_of_content(path, content, stated if stated and isinstance(stated, str) else facts.run)


def _write_relion5(path: Path, picks: Sequence[Pick], facts: Facts) -> None:
    _warn_of_one_shape(path, picks, facts)
    write_relion5_star(
        path,
        picks,
        volume_shape_zyx=facts.needed_shape(path),
        voxel_size_angstrom=facts.needed_voxel_size(path),
        voxel_offset=facts.voxel_offset,
    )


def _read_relion5(path: Path, facts: Facts) -> list[Pick]:
    picks = read_relion5_star(
        path,
        species=facts.needed_species(path),
        volume_shape_zyx=facts.needed_shape(path),
        voxel_size_angstrom=facts.needed_voxel_size(path),
        voxel_offset=facts.voxel_offset,
    )
    _warn_of_one_shape(path, picks, facts)
    return picks


def _warn_of_one_shape(path: Path, picks: Sequence[Pick], facts: Facts) -> None:
    """Warn that coordinates from the centre of several tomograms are computed with the shape of one."""
    runs = {pick.run for pick in picks}
    if facts.run is None and len(runs) > 1:
        shape = " x ".join(map(str, facts.needed_shape(path)))
        message = (
            f"{path}: all {len(runs)} runs are taken to have {shape} voxels (z, y, x), because RELION 5 counts from "
            "the centre. If they differ, convert one at a time with --run."
        )
        warnings.warn(message, InputWarning, stacklevel=2)


FORMATS = {
    one.name: one
    for one in (
        Format(
            TABLE,
            "picks.csv",
            "table",
            "angstrom",
            lambda path, facts: read_csv(path),
            lambda path, picks, facts: write_csv(path, picks),
        ),
        Format(
            "copick",
            "Picks/{user_id}_{session_id}_{species}.json",
            "run",
            "angstrom",
            _read_copick,
            _write_copick,
        ),
        Format(
            "relion5",
            "{species}.star",
            "species",
            "angstrom",
            _read_relion5,
            _write_relion5,
            from_centre=True,
            check_run=check_name,
        ),
        Format(
            "relion4",
            "{species}.relion4.star",
            "species",
            "voxel",
            read_pixel_star,
            write_relion4_star,
            has_binning=True,
            check_run=check_name,
        ),
        Format(
            "warp",
            "{species}.warp.star",
            "species",
            "voxel",
            read_pixel_star,
            write_warp_star,
            has_binning=True,
            check_run=partial(check_name, ending=TOMOSTAR),
        ),
        Format("imod", "{species}.imod.txt", "run", "voxel", read_imod_text, write_imod_text),
        Format("dynamo", "{species}.tbl", "species", "voxel", read_dynamo_table, write_dynamo_table, side_suffix=DOC),
        Format("ndjson", "{species}.ndjson", "run", "voxel", read_ndjson, write_ndjson),
        Format("coords", "{species}.coords", "run", "voxel", read_coords, write_coords, has_scores=False),
    )
}
BY_SUFFIX = {
    ".csv": TABLE,
    ".json": "copick",
    ".star": AUTOMATIC_STAR,
    ".tbl": "dynamo",
    ".ndjson": "ndjson",
    ".coords": "coords",
}
FILE_SUFFIXES = {*BY_SUFFIX, ".txt"}


def format_named(name: str) -> Format:
    """Return the format of that name.

    Raises:
        InputError: there is no such format.
    """
    if name not in FORMATS:
        raise InputError(f"'{name}' is no format of picks; there are {', '.join(FORMATS)}.")
    return FORMATS[name]


def guess_format(path: str | Path) -> str | None:
    """Return the name of the format that a file name implies; None if it implies none or several."""
    name = Path(path).name.lower()
    longest = [one.name for one in FORMATS.values() if "." in one.ending[1:] and name.endswith(one.ending)]
    guess = longest[0] if longest else BY_SUFFIX.get(Path(name).suffix)
    return None if guess == AUTOMATIC_STAR else guess


def format_of_star(path: str | Path) -> Format:
    """Return the dialect of a STAR file by its columns.

    Raises:
        InputError: the file cannot be read.
    """
    columns = {column for table in read_tables(path).values() for column in table}
    if CENTERED[0] in columns:
        return FORMATS["relion5"]
    return FORMATS["relion4" if RUN_COLUMN in columns else "warp"]


def check_formats(names: Iterable[str]) -> list[Format]:
    """Return the formats that inference writes, by their names.

    Raises:
        InputError: a name is unknown, or the table is not among them.
    """
    formats = [format_named(name) for name in names]
    if FORMATS[TABLE] not in formats:
        raise InputError(f"pick_formats must hold '{TABLE}': tables over all runs are made of it.")
    return formats


def write_run_folder(
    folder: str | Path, picks: Sequence[Pick], species: Iterable[str], formats: Iterable[Format], facts: Facts
) -> None:
    """Write the picks of one run in several formats, with files also for species without picks.

    Args:
        folder: of the run.
        picks: of the run.
        species: names of all species.
        formats: as returned by `check_formats`.
        facts: of the run.

    Raises:
        InputError: a file cannot be written.
    """
    names, own = list(species), by_species(picks)
    for one in formats:
        if one.one_file_per == "table":
            one.write(Path(folder) / one.file_name, picks, facts)
            continue
        for name in names:
            one.write(path_in_folder(folder, one, name, facts), own[name], replace(facts, species=name))


def path_in_folder(folder: str | Path, one: Format, species: str, facts: Facts) -> Path:
    """Return the path of the file of one species in a run's folder.

    Raises:
        InputError: no file can be called after the species or an id.
    """
    names = {**_ids_of(facts), "species": species}
    for what, name in names.items():
        require_file_name(name, what)
    return Path(folder) / one.file_name.format_map(names)
