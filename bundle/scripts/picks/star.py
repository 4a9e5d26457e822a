"""STAR tables of particles: what all dialects share. The library ``starfile`` parses and formats them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import starfile
from numpy.typing import NDArray

from scripts.atomic_files import write_atomically
from scripts.errors import InputError
from scripts.picks.parsing import number, read_text

RUN_COLUMN, MICROGRAPH, SCORE = "rlnTomoName", "rlnMicrographName", "rlnAutopickFigureOfMerit"
CENTERED = tuple(f"rlnCenteredCoordinate{axis}Angst" for axis in "XYZ")
PIXELS = tuple(f"rlnCoordinate{axis}" for axis in "XYZ")
SHIFTS_ANGSTROM = tuple(f"rlnOrigin{axis}Angst" for axis in "XYZ")
SHIFTS_PIXELS = tuple(f"rlnOrigin{axis}" for axis in "XYZ")
TILT_PIXEL, IMAGE_PIXEL = "rlnTomoTiltSeriesPixelSize", "rlnImagePixelSize"
DETECTOR_PIXEL, MAGNIFICATION = "rlnDetectorPixelSize", "rlnMagnification"
USUAL_MAGNIFICATION = 10000.0  # pixels have as many ångströms as those of the detector have micrometres
TURNS = tuple(f"rlnTomoSubtomogram{angle}" for angle in ("Rot", "Tilt", "Psi"))
NO_NAMES = ("nan", "NaN", "<NA>")  # texts that the library takes for missing values
StarTables = dict[str, pd.DataFrame]


def read_tables(path: str | Path) -> StarTables:
    """Return the tables of a STAR file by name; other blocks are left out.

    Raises:
        InputError: the file cannot be read, or a run has one of `NO_NAMES`.
    """
    read_text(path)  # raises if there is no such file
    try:
        blocks = starfile.read(path, always_dict=True, parse_as_string=[RUN_COLUMN, MICROGRAPH])
    except (TypeError, ValueError) as error:  # raised by the library for a block without a table
        raise InputError(f"{path} is not a STAR file: {error}.") from error
    tables = {name: block for name, block in blocks.items() if isinstance(block, pd.DataFrame)}
    for table in tables.values():
        repeated = table.columns[table.columns.duplicated()]
        if len(repeated):
            raise InputError(f"{path}: a table has the column {repeated[0]} twice; remove one.")
    if any(table[name].isna().any() for table in tables.values() for name in (RUN_COLUMN, MICROGRAPH) if name in table):
        raise InputError(f"{path}: a run is called {' or '.join(NO_NAMES)}, which is read as no name: rename it.")
    return tables


def particles_of(path: str | Path, tables: StarTables, required: Sequence[str], kind: str) -> pd.DataFrame:
    """Return the table of particles of a STAR file.

    Args:
        path: the file, for the message.
        tables: as returned by `read_tables`.
        required: the columns that the table must have.
        kind: name of the file's dialect in messages.

    Raises:
        InputError: a column is missing.
    """
    table = tables.get("particles", tables.get("", pd.DataFrame()))
    missing = [name for name in required if name not in table]
    if missing:
        raise InputError(f"{path} is not a {kind} file of particles: {', '.join(missing)} missing.")
    return table


def numbers_of(path: str | Path, table: pd.DataFrame, columns: Sequence[str]) -> NDArray[np.float64]:
    """Return columns of a table as an array, ``(N, len(columns))``.

    Raises:
        InputError: a value is not a number; the message counts the particles from 1.
    """
    rows = zip(*(table[name] for name in columns), strict=True)
    values = [
        [number(f"{path}, particle {count}", name, value) for name, value in zip(columns, row, strict=True)]
        for count, row in enumerate(rows, start=1)
    ]
    return np.array(values, dtype=np.float64).reshape(len(table), len(columns))


def scores_of(path: str | Path, table: pd.DataFrame) -> list[float]:
    """Return the score of every particle; 1 where the file has no column for it.

    Raises:
        InputError: a score is not a number.
    """
    if SCORE not in table:
        return [1.0] * len(table)
    return [float(score) for score in numbers_of(path, table, [SCORE])[:, 0]]


def stated_pixel_size(path: str | Path, tables: StarTables, particles: pd.DataFrame) -> float | None:
    """Return the size in ångströms of the pixels that the coordinates count, if the file states it.

    Raises:
        InputError: it states two sizes, or one that is no number.
    """
    size = _size_in_optics(path, tables, TILT_PIXEL)
    if size is not None or DETECTOR_PIXEL not in particles:
        return size
    sizes = numbers_of(path, particles, [DETECTOR_PIXEL])[:, 0]
    if MAGNIFICATION in particles:
        sizes = sizes * USUAL_MAGNIFICATION / numbers_of(path, particles, [MAGNIFICATION])[:, 0]
    return _only_size(path, sizes)


def shifts_angstrom_of(
    path: str | Path, tables: StarTables, particles: pd.DataFrame, pixel_size_angstrom: float | None = None
) -> NDArray[np.float64]:
    """Return the shifts that a refinement found, ``(N, 3)`` in ångströms, to be subtracted from the coordinates.

    Shifts in pixels count those of the subtomograms, or else of the coordinates.

    Args:
        path: the file, for messages.
        tables: as returned by `read_tables`.
        particles: the one of particles.
        pixel_size_angstrom: of the coordinates; None if only the file may state it.

    Raises:
        InputError: a shift has no x, y or z, is in pixels of unknown size, or is along the axes of a subtomogram that
            was extracted with a rotation.

    Source:
        RELION, ``ParticleSet::getPosition`` and ``StarConverter::translateOffsets``. Differs: RELION takes a shift that
        is missing for 0.
    """
    found = [names for names in (SHIFTS_ANGSTROM, SHIFTS_PIXELS) if any(name in particles for name in names)]
    if not found:
        return np.zeros((len(particles), 3))
    missing = [name for name in found[0] if name not in particles]
    if missing:
        there = ", ".join(name for name in found[0] if name in particles)
        raise InputError(
            f"{path} has shifts in {there} but not in {', '.join(missing)}: add what is missing, or remove all "
            "rlnOrigin... if they are not shifts in the tomogram."
        )
    shifts = numbers_of(path, particles, found[0])
    if found[0] == SHIFTS_PIXELS and shifts.any():
        size = _size_in_optics(path, tables, IMAGE_PIXEL) or pixel_size_angstrom
        size = size or stated_pixel_size(path, tables, particles)
        if size is None:
            raise InputError(
                f"{path}: its shifts ({', '.join(SHIFTS_PIXELS)}) are in pixels of a size that it does not state: add "
                f"{IMAGE_PIXEL} to its table 'optics', or give the shifts in ångströms ({SHIFTS_ANGSTROM[0]}, ...)."
            )
        shifts *= size
    turned = numbers_of(path, particles, [name for name in TURNS if name in particles]).any()
    if turned and shifts.any():
        raise InputError(
            f"{path}: its shifts (rlnOrigin...) are along turned axes ({TURNS[0]}); have RELION apply them."
        )
    return shifts


def _size_in_optics(path: str | Path, tables: StarTables, column: str) -> float | None:
    optics = tables.get("optics", pd.DataFrame())
    return _only_size(path, numbers_of(f"{path}, optics", optics, [column])[:, 0]) if column in optics else None


def _only_size(path: str | Path, sizes: NDArray[np.float64]) -> float | None:
    found = np.unique(np.round(sizes, 6))
    if len(found) > 1:
        raise InputError(f"{path} has pixels of {found[0]:g} and of {found[1]:g} Å; split it by pixel size.")
    return float(found[0]) if len(found) and found[0] > 0 else None


def write_table(path: str | Path, name: str, table: pd.DataFrame) -> None:
    """Write one table; the same table gives the same bytes.

    Args:
        path: the STAR file.
        name: of the table, perhaps empty.
        table: the first column must hold numbers: a row that starts with "data_" or "_" would be read as a heading.

    Raises:
        InputError: a text has a character that a STAR file cannot hold.
    """
    texts = {text for column in (RUN_COLUMN, MICROGRAPH) if column in table for text in table[column]}
    for text in sorted(texts):
        check_name(text)
    printed = starfile.to_string({name: table}, quote_all_strings=any("#" in text for text in texts))
    with write_atomically(path) as file:
        file.write(printed.split("\n", 1)[1])  # without the first line, which states the time


def check_name(run: str, ending: str = "") -> None:
    """Refuse a run's name that a STAR file cannot hold.

    Args:
        run: the name.
        ending: that the file adds to it.

    Raises:
        InputError: it holds a quote or a control character, or is one of `NO_NAMES`.
    """
    if run + ending in NO_NAMES:
        raise InputError(f"the run's name cannot be written to a STAR file: {run!r} would be read as no name.")
    if not run.isprintable() or "'" in run or '"' in run:
        raise InputError(
            f"the run's name cannot be written to a STAR file: {run!r} holds a quote or a control character."
        )
