"""Conversion of picks from any format to any other."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from scripts.coordinates import to_zyx_vox
from scripts.copick_tree import IDS, is_project
from scripts.errors import InputError, InputWarning, first_few
from scripts.file_names import require_file_name
from scripts.picks.bounds import check_inside, check_unit, check_voxels
from scripts.picks.context import Facts
from scripts.picks.copick_json import copick_files
from scripts.picks.copick_project import files_of_ids, read_copick_project
from scripts.picks.formats import FORMATS, Format, format_named, format_of_star, guess_format
from scripts.picks.pick import Pick, known_zyx_vox_of, xyz_angstrom_of, zyx_vox_of
from scripts.picks.relion4_star import PIXEL_TOLERANCE, counts_voxels, stated_binning


def convert(
    source: str | Path,
    target: str | Path,
    *,
    facts: Facts,
    from_format: str | None = None,
    to_format: str | None = None,
    min_score: float | None = None,
    allow_outside: bool = False,
    overwrite: bool = False,
) -> dict[Path, int]:
    """Convert a file of picks, or the picks of a copick project.

    Args:
        source: a file, a copick project or a folder of copick files.
        target: a file, a copick project, or a folder for one or several files, see `Format.paths_for`.
        facts: what the source does not state. If it states them, ``run``, ``species``, ``user_id`` and ``session_id``
            select from its picks; a target in copick's format is written as that user and session.
        from_format: a name in `FORMATS`; None recognises the format by the file's name and content.
        to_format: the same for the target; None recognises the format by its name.
        min_score: picks with a lower score are left out.
        allow_outside: continue if most of the points lie outside of the tomogram.
        overwrite: replace files; a warning names those of the same format, or session, that get no picks and stay.

    Returns:
        The files that were written, with their numbers of picks.

    Raises:
        InputError: a file or a fact is wrong or missing, or a file exists already.
    """
    reader = _source_format(source, from_format)
    writer = _target_format(target, to_format)
    _refuse_without_meaning(reader, writer, facts)
    picks = _read(Path(source), reader, facts)
    _check_names(picks, source)
    picks = _chosen(picks, source, facts, min_score)
    _check_places(picks, reader, source, facts, allow_outside)
    if facts.binning is None and reader.has_binning and writer.has_binning:
        binning = stated_binning(source, facts)
        if binning is not None and not math.isclose(binning, 1, rel_tol=PIXEL_TOLERANCE):
            said = f"it counts the pixels that {source} states, {binning:g} per voxel"
            warnings.warn(f"{target}: {said}: read it with --binning {binning:g}.", InputWarning, stacklevel=2)
        facts = replace(facts, binning=binning)
    if not writer.has_scores and any(pick.score != 1 for pick in picks):
        warnings.warn(f"{target}: {writer.name} has no room for scores; they are left out.", InputWarning, stacklevel=2)
    if writer.name != "csv" and any(pick.weight != 1 for pick in picks):
        found = f"{target}: {writer.name} has no room for weights: what was rejected (weight 0) is left out"
        warnings.warn(f"{found}, and what is doubtful is written as a particle.", InputWarning, stacklevel=2)
        picks = [pick for pick in picks if pick.weight != 0]
    if not picks and writer.one_file_per != "table" and facts.species is None:
        enough = "" if min_score is None else f" with a score of {min_score:g} or more"
        raise InputError(f"{source} holds no picks{enough}; to write an empty file, give --species NAME.")
    parts = writer.paths_for(Path(target), picks, facts)
    there = [file for path, _, _ in parts for file in writer.files_at(path) if file.exists()]
    if there and not overwrite:
        raise InputError(f"{there[0]} is there already; choose another name, or give --overwrite.")
    for run in sorted({pick.run for _, own, _ in parts for pick in own}):
        writer.check_run(run)  # before the first file is written
    if facts.binning is None and writer.has_binning and not reader.has_binning:
        warnings.warn(f"{target}: {counts_voxels(writer.name, '--binning')}", InputWarning, stacklevel=2)
    for path, own, own_facts in parts:
        writer.write(path, own, own_facts)
    others = writer.others_at(Path(target), [path for path, _, _ in parts], facts) if overwrite else []
    warn_of_others(target, others, source)
    return {path: len(own) for path, own, _ in parts}


def warn_of_others(target: str | Path, others: Sequence[Path], source: str | Path) -> None:
    """Warn of files that stay beside those that are replaced, if there are any: they would be read with the new ones.

    Args:
        target: what is replaced.
        others: the files.
        source: where the picks come from.
    """
    if others:
        said = f"{target}: {first_few(others)} stay as they were, because no pick of {source} goes there"
        warnings.warn(f"{said}: remove what is not to be read.", InputWarning, stacklevel=3)


def _source_format(source: str | Path, name: str | None) -> Format:
    path = Path(source)
    if name is not None:
        return format_named(name)
    if path.is_dir() or (path.suffix == ".json" and is_project(path)):
        return FORMATS["copick"]
    if path.suffix.lower() == ".star":
        return format_of_star(path)
    guess = guess_format(path)
    if guess is None:
        raise InputError(f"{source}: its name does not tell its format; give --from, one of {', '.join(FORMATS)}.")
    return FORMATS[guess]


def _target_format(target: str | Path, name: str | None) -> Format:
    if name is not None:
        return format_named(name)
    guess = "copick" if is_project(target) else guess_format(target)
    if guess is None:
        raise InputError(f"{target}: its name does not tell its format; give --to, one of {', '.join(FORMATS)}.")
    return FORMATS[guess]


def _refuse_without_meaning(reader: Format, writer: Format, facts: Facts) -> None:
    has_binning, has_ids = reader.has_binning or writer.has_binning, "copick" in (reader.name, writer.name)
    for name, has_meaning in {"binning": has_binning, **dict.fromkeys(IDS, has_ids)}.items():
        if getattr(facts, name) is not None and not has_meaning:
            raise InputError(f"{name} has no meaning from {reader.name} to {writer.name}; leave it out.")


def _read(path: Path, reader: Format, facts: Facts) -> list[Pick]:
    if reader.name == "copick":
        if (path.is_dir() or path.suffix == ".json") and is_project(path):
            return read_copick_project(path, facts)
        files = copick_files(path) if path.is_dir() else [path]
        if files:
            return _read_copick_files(files_of_ids(path, files, facts), reader, facts)
    if path.is_dir():
        raise InputError(f"{path} is a folder; give one file of picks, or a copick project.")
    return reader.read(path, facts)


def _read_copick_files(files: Sequence[Path], reader: Format, facts: Facts) -> list[Pick]:
    """Read copick files: each is of the run that it states, or else of that in the facts.

    Raises:
        InputError: a file is wrong or names no run, or two files hold the same species of a run.
    """
    picks: list[Pick] = []
    first: dict[tuple[str, str], Path] = {}
    for file in files:
        own = reader.read(file, facts)
        for run, species in {(pick.run, pick.species) for pick in own if facts.run in (None, pick.run)}:
            other = first.setdefault((run, species), file)
            if other != file:
                both = f"{file} and {other.name} both hold '{species}' of run '{run}'"
                raise InputError(f"{both}; keep one of them, or choose with --user_id and --session_id.")
        picks += own
    return picks


def _check_names(picks: Sequence[Pick], source: str | Path) -> None:
    for number, pick in enumerate(picks, start=1):
        require_file_name(pick.run, "run", f"{source}, particle {number}")
        require_file_name(pick.species, "species", f"{source}, particle {number}")


def _chosen(picks: list[Pick], source: str | Path, facts: Facts, min_score: float | None) -> list[Pick]:
    for what, wanted, names in (
        ("run", facts.run, [pick.run for pick in picks]),
        ("species", facts.species, [pick.species for pick in picks]),
    ):
        if picks and wanted is not None and wanted not in names:
            raise InputError(f"{source} holds no {what} '{wanted}'; it has {', '.join(sorted(set(names)))}.")
    return [
        pick
        for pick in picks
        if facts.run in (None, pick.run)
        and facts.species in (None, pick.species)
        and (min_score is None or pick.score >= min_score)
    ]


def _check_places(picks: Sequence[Pick], reader: Format, source: str | Path, facts: Facts, allow_outside: bool) -> None:
    if facts.voxel_size_angstrom is None:
        return
    computed = to_zyx_vox(xyz_angstrom_of(picks), facts.voxel_size_angstrom, facts.voxel_offset)
    grid = f"voxel_size_angstrom {facts.voxel_size_angstrom:g} or voxel_offset {facts.voxel_offset:g} is not its own"
    check_voxels(known_zyx_vox_of(picks), computed, str(source), grid)
    if facts.volume_shape is not None:
        points = zyx_vox_of(picks, facts.voxel_size_angstrom, facts.voxel_offset)
        if reader.unit == "angstrom":
            size, origin = facts.voxel_size_angstrom, reader.origin_zyx_vox(facts.volume_shape, facts.voxel_offset)
            check_unit(points, facts.volume_shape, size, str(source), "--allow_outside", origin, allow_outside)
        check_inside(points, facts.volume_shape, str(source), reader.unit, allow_outside)
