"""Kaggle's CSV format with additional columns after its six; the bundle stores whole tables in it."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable
from pathlib import Path

from scripts.atomic_files import write_table_of_rows
from scripts.errors import InputError
from scripts.picks.parsing import ANGSTROM_DIGITS, SCORE_DIGITS, VOXEL_DIGITS, decimal, number, read_text
from scripts.picks.pick import UNKNOWN, Pick

REQUIRED_COLUMNS = ("experiment", "particle_type", "x", "y", "z")
OPTIONAL_COLUMNS = ("score", "radius_angstrom", "x_voxel", "y_voxel", "z_voxel", "network_score")
ANNOTATION_COLUMNS = ("weight", "origin")
ANNOTATED_FILE = "annotated.json"  # beside a table of truth, see `datasets.annotated`


def write_csv(path: str | Path, picks: Iterable[Pick]) -> None:
    """Write the table with Kaggle's six columns first, then score, radius, voxels and network score.

    Weight and origin follow if an annotation has another weight than 1, or an origin. Without picks there is only the
    header.

    Ångströms have 3 decimals, voxels 4, scores 6; unknown values are empty.
    """
    table = list(picks)
    more = ANNOTATION_COLUMNS if any(pick.weight != 1 or pick.origin for pick in table) else ()
    rows = (
        (number, *_row_of_pick(pick), *(decimal(pick.weight, SCORE_DIGITS), pick.origin)[: len(more)])
        for number, pick in enumerate(table)
    )
    write_table_of_rows(path, ("id", *REQUIRED_COLUMNS, *OPTIONAL_COLUMNS, *more), rows)


def read_csv(path: str | Path) -> list[Pick]:
    """Read a table in Kaggle's format, with or without the additional columns; other columns are ignored.

    An empty ``weight`` is an uncertain particle: nan. Without the column every weight is 1.

    Rows are counted as a spreadsheet does: the header is row 1.

    Raises:
        InputError: the file or one of its rows cannot be used; the message names the row.
    """
    try:
        rows = list(csv.reader(io.StringIO(read_text(path))))
    except csv.Error as error:
        raise InputError(f"{path} is not a table of comma-separated values: {error}.") from error
    header = [name.strip() for name in rows[0]] if rows else []
    _check_header(path, header)
    return [
        _pick_of_row(f"{path}, row {count}", header, row)
        for count, row in enumerate(rows[1:], start=2)
        if any(value.strip() for value in row)
    ]


def xyz_text(pick: Pick) -> list[str]:
    """Return the position ``x, y, z`` in ångströms as the table has it."""
    return [decimal(value, ANGSTROM_DIGITS) for value in pick.xyz_angstrom]


def _row_of_pick(pick: Pick) -> tuple[str, ...]:
    voxels = [decimal(value, VOXEL_DIGITS) for value in (pick.x_voxel, pick.y_voxel, pick.z_voxel)]
    score, network_score = (decimal(value, SCORE_DIGITS) for value in (pick.score, pick.network_score))
    return (
        pick.run,
        pick.species,
        *xyz_text(pick),
        score,
        decimal(pick.radius_angstrom, ANGSTROM_DIGITS),
        *voxels,
        network_score,
    )


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
    x, y, z = (number(source, column, values[column]) for column in "xyz")
    known = {column: number(source, column, values[column]) for column in OPTIONAL_COLUMNS if values.get(column)}
    if known.get("radius_angstrom", 1.0) <= 0:
        raise InputError(f"{source}: radius_angstrom must be positive; got '{values['radius_angstrom']}'.")
    text = values.get("weight", "1")
    weight = number(source, "weight", text) if text else UNKNOWN
    if not (math.isnan(weight) or 0 <= weight <= 1):
        raise InputError(
            f"{source}: weight is a probability, 0 to 1, or empty for an uncertain particle; got '{text}'."
        )
    origin = values.get("origin", "")
    return Pick(values["experiment"], values["particle_type"], x, y, z, **known, weight=weight, origin=origin)
