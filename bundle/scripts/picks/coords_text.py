"""``.coords``: ``x y z`` per line in voxels, the first voxel at 0, as ArtiaX draws them.

Further columns, such as angles or a score, are ignored. Where columns stand before x, the file is refused if the first
of them counts up: an index, or IMOD's objects and contours.

Source: ArtiaX, ``src/io/Coords/CoordsParticleData.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from scripts.atomic_files import write_atomically
from scripts.coordinates import from_xyz_pixels, to_xyz_pixels
from scripts.errors import InputError
from scripts.picks.context import Facts, zyx_vox_for
from scripts.picks.parsing import VOXEL_DIGITS, decimal, number, rows_of_text
from scripts.picks.pick import Pick, picks_at


def write_coords(path: str | Path, picks: Sequence[Pick], facts: Facts) -> None:
    """Write the positions of picks of one run and species.

    Raises:
        InputError: the voxels are not known.
    """
    places = to_xyz_pixels(zyx_vox_for(path, picks, facts), "coords")
    with write_atomically(path) as file:
        for place in places.tolist():
            file.write(" ".join(decimal(value, VOXEL_DIGITS) for value in place) + "\n")


def read_coords(path: str | Path, facts: Facts) -> list[Pick]:
    """Read positions of one run and species; every score is 1.

    Raises:
        InputError: a fact is missing, a line is wrong, or the first of more than three columns is not x but counts up.
    """
    lines = list(rows_of_text(path))
    rows = [_read_row(source, words) for source, words in lines]
    if rows and min(len(words) for _, words in lines) > 3 and _counts_up([x for x, _, _ in rows]):
        raise InputError(
            f"{path}: its first column counts up from {rows[0][0]:g} to {rows[-1][0]:g} and would be read as x; remove "
            "the columns before x y z, or read what IMOD's model2point wrote with --from imod."
        )
    points = from_xyz_pixels(np.array(rows).reshape(-1, 3), "coords")
    runs, species = [facts.needed_run(path)] * len(rows), facts.needed_species(path)
    return picks_at(points, runs, species, [1.0] * len(rows), facts.needed_voxel_size(path), facts.voxel_offset)


def _read_row(source: str, words: list[str]) -> list[float]:
    if len(words) < 3:
        raise InputError(f"{source} has {len(words)} values; a line of .coords is x y z.")
    return [number(source, axis, word) for axis, word in zip("xyz", words, strict=False)]


def _counts_up(values: list[float]) -> bool:
    """Return whether values are numbers of rows, objects or contours: whole, from 0 or 1 on, in steps of 0 or 1.

    One value alone, which may be x, is not.
    """
    steps = {after - before for before, after in pairwise(values)}
    return values[0] in (0, 1) and bool(steps) and steps <= {0, 1}
