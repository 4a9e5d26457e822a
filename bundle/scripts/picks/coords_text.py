"""``.coords``: ``x y z`` per line in voxels, the first voxel at 0, as ArtiaX draws them.

The format does not store scores; further columns are ignored.
"""

from __future__ import annotations

from collections.abc import Sequence
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
        InputError: a fact is missing, or a line is wrong.
    """
    rows = [_read_row(source, words) for source, words in rows_of_text(path)]
    points = from_xyz_pixels(np.array(rows).reshape(-1, 3), "coords")
    runs, species = [facts.needed_run(path)] * len(rows), facts.needed_species(path)
    return picks_at(points, runs, species, [1.0] * len(rows), facts.needed_voxel_size(path), facts.voxel_offset)


def _read_row(source: str, words: list[str]) -> list[float]:
    if len(words) < 3:
        raise InputError(f"{source} has {len(words)} values; a line of .coords is x y z.")
    return [number(source, axis, word) for axis, word in zip("xyz", words, strict=False)]
