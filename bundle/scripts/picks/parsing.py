"""Reading numbers and lines of text files, with messages that name the place, and writing numbers as text."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from scripts.copick_tree import SPACING_FOLDER
from scripts.errors import InputError

ANGSTROM_DIGITS, VOXEL_DIGITS, SCORE_DIGITS = 3, 4, 6  # decimals in written files
IMAGE_ENDING = re.compile(r"(\.tomostar|(\.ome)?\.zarr|\.(mrcs?|rec|st|map|nii)(\.gz|\.bz2)?(:mrcs?)?)$", re.IGNORECASE)


def run_of_file(name: str) -> str:
    """Return the name of the run from the path of a tomogram or tilt series, as `datasets.runs.run_name` does.

    That is the file's name without its ending, or the folder's if the file is called ``tomogram.*``, or that of the run
    in a copick project.
    """
    path = PurePosixPath(name)
    stem = IMAGE_ENDING.sub("", path.name)
    if SPACING_FOLDER.fullmatch(path.parent.name):
        return path.parent.parent.name or stem
    return (stem.lower() == "tomogram" and path.parent.name) or stem


def runs_of_files(source: str | Path, names: Iterable[str]) -> dict[str, str]:
    """Return the runs by the paths of their tomograms or tilt series, see `run_of_file`.

    Raises:
        InputError: two different paths would be one run.
    """
    runs: dict[str, str] = {}
    first: dict[str, str] = {}
    for name in dict.fromkeys(names):
        runs[name] = run_of_file(name)
        other = first.setdefault(runs[name], name)
        if PurePosixPath(other) != PurePosixPath(name):
            raise InputError(f"{source}: {other} and {name} would both be run '{runs[name]}': rename one of them.")
    return runs


def read_text(path: str | Path) -> str:
    """Return the text of a file, without a byte order mark.

    Raises:
        InputError: it cannot be read, or is not UTF-8.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is not UTF-8 text: {error.reason} at byte {error.start}. Save it as UTF-8."
        ) from error
    if 4 * text.count("\0") > len(text):  # a single one is the fault of a name
        raise InputError(f"{path} is not UTF-8 text: it holds zeros, as UTF-16 does. Save it as UTF-8.")
    return text


def rows_of_text(path: str | Path) -> Iterator[tuple[str, list[str]]]:
    """Yield every line as its name in messages and its words; empty lines and ``#`` comments are skipped.

    Raises:
        InputError: the file cannot be read.
    """
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        words = line.partition("#")[0].split()
        if words:
            yield f"{path}, row {number}", words


def number(source: str, name: str, text: Any) -> float:
    """Return a text as a finite number.

    Raises:
        InputError: it is none; the message begins with ``source`` and ``name``.
    """
    try:
        value = float(text)
    except (TypeError, ValueError) as error:
        hint = " Write decimals with a point, not a comma." if "," in str(text) else ""
        raise InputError(f"{source}: {name} must be a number; got '{text}'.{hint}") from error
    if not math.isfinite(value):
        raise InputError(f"{source}: {name} must be a finite number; got '{text}'.")
    return value


def decimal(value: float, digits: int) -> str:
    """Return a number as text with a fixed number of decimals; empty if it is unknown (nan)."""
    return "" if math.isnan(value) else f"{value:z.{digits}f}"  # z: no minus sign before a rounded zero
