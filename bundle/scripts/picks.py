"""One table of picks, and the files that it is read from and written to.

A table is a list of `Pick`. Every file is written under a temporary name first, so a full disk or a stopped run never
leaves half a file under the final name.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import starfile
from numpy.typing import NDArray

from scripts.coordinates import to_xyz_angstrom, to_zyx_vox
from scripts.errors import InputError
from scripts.files import write_atomically
from scripts.particles import ParticleSet

REQUIRED_COLUMNS = ("experiment", "particle_type", "x", "y", "z")
OPTIONAL_COLUMNS = ("score", "radius_angstrom", "x_voxel", "y_voxel", "z_voxel")
CENTERED_COLUMNS = tuple(f"rlnCenteredCoordinate{axis}Angst" for axis in "XYZ")
UNKNOWN = math.nan


@dataclass(frozen=True)
class Pick:
    """One particle of one tomogram, found or annotated.

    Attributes:
        run: name of the tomogram's run ("experiment" in Kaggle's files).
        particle: name of the species.
        x_angstrom: place in files' coordinates, as are ``y_angstrom`` and ``z_angstrom``.
        score: confidence of the pick; 1 for an annotation.
        radius_angstrom: radius of the species; nan when unknown.
        x_voxel: place in the tomogram's own voxels, as are ``y_voxel`` and ``z_voxel``; nan when unknown.
    """

    run: str
    particle: str
    x_angstrom: float
    y_angstrom: float
    z_angstrom: float
    score: float = 1.0
    radius_angstrom: float = UNKNOWN
    x_voxel: float = UNKNOWN
    y_voxel: float = UNKNOWN
    z_voxel: float = UNKNOWN

    def __post_init__(self) -> None:
        if not all(map(math.isfinite, (*self.xyz_angstrom, self.score))):
            raise ValueError(f"a pick needs finite coordinates and a finite score; got {self}.")

    @property
    def xyz_angstrom(self) -> tuple[float, float, float]:
        """The place ``(x, y, z)`` in ångströms."""
        return self.x_angstrom, self.y_angstrom, self.z_angstrom


def as_records(picks: Iterable[Pick]) -> list[dict[str, str | float | None]]:
    """Return the table as plain dictionaries that JSON can hold; what is unknown becomes None."""
    names = [field.name for field in fields(Pick)]
    return [{name: _plain(getattr(pick, name)) for name in names} for pick in picks]


def xyz_angstrom_of(picks: Sequence[Pick]) -> NDArray[np.float64]:
    """Return the places of the picks, ``(N, 3)``, ``(x, y, z)`` in ångströms."""
    return np.array([pick.xyz_angstrom for pick in picks], dtype=np.float64).reshape(-1, 3)


def write_csv(path: str | Path, picks: Iterable[Pick]) -> None:
    """Write the table with Kaggle's six columns first, then score, radius and voxels; no picks give a header alone.

    Ångströms have 3 decimals, voxels 4, scores 6; what is unknown stays empty.
    """
    with write_atomically(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("id", *REQUIRED_COLUMNS, *OPTIONAL_COLUMNS))
        for number, pick in enumerate(picks):
            angstroms = [_decimal(value, 3) for value in pick.xyz_angstrom]
            voxels = [_decimal(value, 4) for value in (pick.x_voxel, pick.y_voxel, pick.z_voxel)]
            score, radius = _decimal(pick.score, 6), _decimal(pick.radius_angstrom, 3)
            writer.writerow((number, pick.run, pick.particle, *angstroms, score, radius, *voxels))


def read_csv(path: str | Path) -> list[Pick]:
    """Read a table in Kaggle's form, with or without our further columns; other columns are left alone.

    Rows are counted as a spreadsheet does: the header is row 1.

    Raises:
        InputError: the file or one of its rows cannot be used; the message names the row.
    """
    try:
        rows = list(csv.reader(io.StringIO(_read_text(path))))
    except csv.Error as error:
        raise InputError(f"{path} is not a table of comma-separated values: {error}.") from error
    header = [name.strip() for name in rows[0]] if rows else []
    _check_header(path, header)
    return [
        _pick_of_row(f"{path}, row {number}", header, row)
        for number, row in enumerate(rows[1:], start=2)
        if any(value.strip() for value in row)
    ]


def write_copick_json(
    path: str | Path,
    picks: Iterable[Pick],
    *,
    run: str,
    particle: str,
    voxel_size_angstrom: float | None,
    user_id: str,
    session_id: str,
) -> None:
    """Write the picks of one run and one species in copick's form; picks of others are left out.

    Args:
        path: copick itself expects ``<user_id>_<session_id>_<particle>.json`` in the run's folder ``Picks``.
        picks: the table.
        run: name of the run.
        particle: name of the species.
        voxel_size_angstrom: of the tomogram that was picked; None when unknown.
        user_id: who picked: a person or a program.
        session_id: tells apart the tables of one user.

    Raises:
        InputError: copick would refuse an id, or cut the file's name in the wrong place.
    """
    for key, value in (("user_id", user_id), ("session_id", session_id)):
        if not re.fullmatch(r"[A-Za-z0-9]+([.-][A-Za-z0-9]+)*", value):
            raise InputError(f"{key} may hold letters, digits, '-' and '.', as copick wants it; got '{value}'.")
    mine = [pick for pick in picks if (pick.run, pick.particle) == (run, particle)]
    content = {
        "pickable_object_name": particle,
        "user_id": user_id,
        "session_id": session_id,
        "run_name": run,
        "voxel_spacing": voxel_size_angstrom,
        "unit": "angstrom",
        "trust_orientation": False,  # the matrices below say nothing
        "points": [
            {
                "location": {
                    axis: round(float(value), 3) for axis, value in zip("xyz", pick.xyz_angstrom, strict=True)
                },
                "transformation_": np.eye(4).tolist(),
                "instance_id": 0,
                "score": round(float(pick.score), 6),
            }
            for pick in mine
        ],
    }
    with write_atomically(path) as file:
        file.write(json.dumps(content) + "\n")


def read_copick_json(path: str | Path, run: str | None = None) -> list[Pick]:
    """Read one copick file of picks; the species stands in the file.

    As copick has it, a particle lies at its ``location`` plus the shift in the last column of its ``transformation_``.

    Args:
        path: the JSON file.
        run: name of the run; None takes the one that stands in the file.

    Raises:
        InputError: the file is not in copick's form, or nothing says which run it belongs to.
    """
    return _picks_of_copick(path, _read_copick(path), run)


def read_copick_folder(folder: str | Path, run: str, pattern: str = "*.json") -> list[Pick]:
    """Read every ``*.json`` of the folder ``Picks`` of a run, in the order of the names; an empty folder has no picks.

    Args:
        folder: the folder.
        run: name of the run.
        pattern: names of the files to read, for example ``user_session_*.json``; hidden ones are left out.

    Raises:
        InputError: there is no such folder, a file is not in copick's form, or two files hold the same species.
    """
    if not Path(folder).is_dir():
        raise InputError(f"cannot read the picks of run '{run}': there is no folder {folder}.")
    read: dict[str, Path] = {}
    picks: list[Pick] = []
    for path in sorted(path for path in Path(folder).glob(pattern) if not path.name.startswith(".")):
        content = _read_copick(path)
        name = content["pickable_object_name"]
        if name in read:
            raise InputError(
                f"{path} and {read[name].name} both hold '{name}'; keep one of them in the folder, or name the truth "
                "by truth_user_id and truth_session_id."
            )
        read[name] = path
        picks += _picks_of_copick(path, content, run)
    return picks


def write_relion5_star(
    path: str | Path,
    picks: Iterable[Pick],
    *,
    run: str,
    volume_shape_zyx: Sequence[int],
    voxel_size_angstrom: float,
    voxel_offset: float = 0.0,
) -> None:
    """Write the picks of one run as RELION 5 reads them: ångströms from the volume's centre; no picks, no rows.

    The centre is ``shape / 2`` voxels, with voxel ``i`` at ``i``. Species are not told apart: write one file for each.

    Args:
        path: the STAR file.
        picks: the table; those of other runs are left out.
        run: goes into ``rlnTomoName``.
        volume_shape_zyx: shape ``(Z, Y, X)`` of the tomogram.
        voxel_size_angstrom: of the tomogram.
        voxel_offset: that the picks' ångströms were written with; only needed where their voxels are unknown.

    Raises:
        InputError: the run's name has a character that a STAR file cannot hold.
    """
    if not run.isprintable() or "'" in run or '"' in run:
        raise InputError(f"the run's name cannot stand in a STAR file: {run!r} holds a quote or a control character.")
    mine = [pick for pick in picks if pick.run == run]
    # The name does not come first: a row that starts with "data_" or "_" would be read as a heading.
    table = pd.DataFrame(_centered_angstrom(mine, volume_shape_zyx, voxel_size_angstrom, voxel_offset))
    table.columns = list(CENTERED_COLUMNS)
    table["rlnTomoName"] = run
    table["rlnAutopickFigureOfMerit"] = [float(pick.score) for pick in mine]
    text = starfile.to_string({"particles": table}, quote_all_strings="#" in run)
    with write_atomically(path) as file:
        file.write(text.split("\n", 1)[1])  # without the first line, which holds the time: same picks, same bytes


def read_relion5_star(
    path: str | Path,
    *,
    particle: str,
    volume_shape_zyx: Sequence[int],
    voxel_size_angstrom: float,
    voxel_offset: float = 0.0,
) -> list[Pick]:
    """Read picks of one species from a RELION 5 file; undoes `write_relion5_star`.

    Raises:
        InputError: the file is missing, or it has no table with the columns of RELION 5 and numbers in them.
    """
    table = _read_star(path)
    centered = table[list(CENTERED_COLUMNS)].to_numpy(dtype=np.float64)
    voxels = to_zyx_vox(centered, voxel_size_angstrom) + np.array(volume_shape_zyx) / 2
    places = to_xyz_angstrom(voxels, voxel_size_angstrom, voxel_offset)
    scores = table.get("rlnAutopickFigureOfMerit", pd.Series(1.0, index=table.index))
    columns = zip(table["rlnTomoName"], *places.T.tolist(), scores, *voxels.T.tolist(), strict=True)
    return [
        Pick(str(run), particle, x, y, z, score=float(score), x_voxel=x_voxel, y_voxel=y_voxel, z_voxel=z_voxel)
        for run, x, y, z, score, z_voxel, y_voxel, x_voxel in columns
    ]


def check_truth(truth: Iterable[Pick], particles: ParticleSet, source: str) -> None:
    """Refuse a truth that names an unknown species or holds a place of a run twice.

    Args:
        truth: the annotations.
        particles: the known species.
        source: what to call the truth in a message: its file.

    Raises:
        InputError: with the number of the particle, counted from 1 (a header does not count).
    """
    first: dict[tuple[str, float, float, float], int] = {}
    for number, pick in enumerate(truth, start=1):
        particles.named(pick.particle, f"{source}, particle {number}")
        place = (pick.run, *pick.xyz_angstrom)
        if place in first:
            raise InputError(
                f"{source}: particles {first[place]} and {number} stand at the same place of run '{pick.run}', "
                f"x, y, z = {', '.join(f'{value:g}' for value in pick.xyz_angstrom)} Å. Remove one."
            )
        first[place] = number


def _plain(value: str | float) -> str | float | None:
    if isinstance(value, str):
        return value
    return None if math.isnan(value) else float(value)


def _decimal(value: float, digits: int) -> str:
    return "" if math.isnan(value) else f"{value:z.{digits}f}"  # z: no minus sign before a rounded zero


def _centered_angstrom(
    picks: Sequence[Pick], volume_shape_zyx: Sequence[int], voxel_size_angstrom: float, voxel_offset: float
) -> NDArray[np.float64]:
    known = np.array([(pick.z_voxel, pick.y_voxel, pick.x_voxel) for pick in picks], dtype=np.float64).reshape(-1, 3)
    computed = to_zyx_vox(xyz_angstrom_of(picks), voxel_size_angstrom, voxel_offset)
    voxels = np.where(np.isnan(known), computed, known)
    return to_xyz_angstrom(voxels - np.array(volume_shape_zyx) / 2, voxel_size_angstrom)


def _read_text(path: str | Path) -> str:
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}.") from error


def _check_header(path: str | Path, header: list[str]) -> None:
    if not any(header):
        raise InputError(f"{path} is empty; it needs at least a header: id,{','.join(REQUIRED_COLUMNS)}.")
    for mark, name in ((";", "semicolons"), ("\t", "tabs")):
        if len(header) == 1 and mark in header[0]:
            raise InputError(f"{path} is separated by {name}; save it with commas, and with points in its numbers.")
    repeated = sorted({name for name in header if header.count(name) > 1})
    if repeated:
        raise InputError(f"{path}: the columns {', '.join(repeated)} stand there twice; keep one of each.")
    missing = [name for name in REQUIRED_COLUMNS if name not in header]
    if missing:
        raise InputError(f"{path}: the columns {', '.join(missing)} are missing; found {', '.join(header)}.")


def _pick_of_row(source: str, header: list[str], row: list[str]) -> Pick:
    if len(row) != len(header):
        hint = " Write decimals with a point, not a comma." if len(row) > len(header) else ""
        raise InputError(f"{source} has {len(row)} values for {len(header)} columns.{hint}")
    values = {name: value.strip() for name, value in zip(header, row, strict=True)}
    for column in ("experiment", "particle_type"):
        if not values[column]:
            raise InputError(f"{source}: {column} is empty.")
    x, y, z = (_number(source, column, values[column]) for column in "xyz")
    known = {column: _number(source, column, values[column]) for column in OPTIONAL_COLUMNS if values.get(column)}
    return Pick(values["experiment"], values["particle_type"], x, y, z, **known)


def _number(source: str, name: str, text: Any) -> float:
    try:
        number = float(text)
    except (TypeError, ValueError) as error:
        hint = " Write decimals with a point, not a comma." if "," in str(text) else ""
        raise InputError(f"{source}: {name} must be a number; got '{text}'.{hint}") from error
    if not math.isfinite(number):
        raise InputError(f"{source}: {name} must be a finite number; got '{text}'.")
    return number


def _read_copick(path: str | Path) -> dict[str, Any]:
    text = _read_text(path)
    if not text.strip():
        raise InputError(f"{path} is empty; copy or write it again.")
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{path} is not valid JSON: {error}.") from error
    if not isinstance(content, dict) or not isinstance(content.get("pickable_object_name"), str):
        raise InputError(f"{path} is not a copick file of picks: the key 'pickable_object_name' is missing.")
    if content.get("unit", "angstrom") != "angstrom":
        raise InputError(f"{path}: coordinates must be in angstrom; its unit is '{content['unit']}'.")
    if not isinstance(content.get("points"), list):
        raise InputError(f"{path} is not a copick file of picks: the list 'points' is missing.")
    return content


def _picks_of_copick(path: str | Path, content: Mapping[str, Any], run: str | None) -> list[Pick]:
    name = run or content.get("run_name")
    if not name:
        raise InputError(f"{path} does not say which run it belongs to; give the run's name.")
    picks = []
    for number, point in enumerate(content["points"], start=1):
        source = f"{path}, point {number}"
        if not isinstance(point, dict) or not isinstance(point.get("location"), dict):
            raise InputError(f"{source} has no location.")
        x, y, z = _place_of_copick(source, point)
        score = 1.0 if point.get("score") is None else _number(source, "score", point["score"])
        picks.append(Pick(name, content["pickable_object_name"], x, y, z, score))
    return picks


def _place_of_copick(source: str, point: Mapping[str, Any]) -> Iterator[float]:
    matrix = point.get("transformation_") or np.eye(4).tolist()
    if not isinstance(matrix, list) or [isinstance(row, list) and len(row) for row in matrix] != [4, 4, 4, 4]:
        raise InputError(f"{source}: transformation_ must have 4 rows of 4 numbers.")
    for axis, row in zip("xyz", matrix[:3], strict=True):
        yield _number(source, axis, point["location"].get(axis)) + _number(source, "transformation_", row[3])


def _read_star(path: str | Path) -> pd.DataFrame:
    _read_text(path)  # says so when there is no such file
    try:
        blocks = starfile.read(path, always_dict=True, parse_as_string=["rlnTomoName"])
    except (TypeError, ValueError) as error:  # what the library raises on a block without a table
        raise InputError(f"{path} is not a STAR file: {error}.") from error
    table = blocks.get("particles", blocks.get(""))
    columns = list(table) if isinstance(table, pd.DataFrame) else []
    missing = [name for name in ("rlnTomoName", *CENTERED_COLUMNS) if name not in columns]
    if missing:
        raise InputError(f"{path} is not a RELION 5 file of particles: {', '.join(missing)} missing.")
    for name in columns:
        if name in (*CENTERED_COLUMNS, "rlnAutopickFigureOfMerit"):
            for number, value in enumerate(table[name], start=1):
                _number(f"{path}, particle {number}", name, value)
    return table
