"""IMOD's points as text, for ``point2model`` and from ``model2point``.

A line is ``object contour x y z score``. ``x y z``, ``contour x y z`` and ``object contour x y z`` are read too; as in
``point2model``, the number of columns decides. In IMOD the centre of the first pixel is 0.5 in x and y, and the centre
of the first section is 0 in z (without ``-zcoord``, which would make it 0.5).

Source: options and code of point2model and model2point.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from scripts.atomic_files import write_atomically
from scripts.coordinates import from_xyz_pixels, to_xyz_pixels
from scripts.errors import InputError
from scripts.picks.context import Facts, zyx_vox_for
from scripts.picks.parsing import SCORE_DIGITS, VOXEL_DIGITS, decimal, number, rows_of_text
from scripts.picks.pick import Pick, picks_at

IMOD_COLUMNS = ("object", "contour", "x", "y", "z", "score")
LAYOUTS = {3: IMOD_COLUMNS[2:5], 4: IMOD_COLUMNS[1:5], 5: IMOD_COLUMNS[:5], 6: IMOD_COLUMNS}  # by the number of words


def write_imod_text(path: str | Path, picks: Sequence[Pick], facts: Facts) -> None:
    """Write picks of one run and species: object 1, contour 1, positions, scores, for ``point2model -values 1``.

    Raises:
        InputError: the voxels are not known.
    """
    places = to_xyz_pixels(zyx_vox_for(path, picks, facts), "imod")
    with write_atomically(path) as file:
        for pick, place in zip(picks, places.tolist(), strict=True):
            words = [decimal(value, VOXEL_DIGITS) for value in place]
            file.write(" ".join(("1", "1", *words, decimal(pick.score, SCORE_DIGITS))) + "\n")


def read_imod_text(path: str | Path, facts: Facts) -> list[Pick]:
    """Read picks of one run and species; object and contour are ignored.

    Raises:
        InputError: a fact is missing, or a line is wrong.
    """
    rows = [_read_row(source, words) for source, words in rows_of_text(path)]
    places = np.array([[row[axis] for axis in "xyz"] for row in rows]).reshape(-1, 3)
    return picks_at(
        from_xyz_pixels(places, "imod"),
        [facts.needed_run(path)] * len(rows),
        facts.needed_species(path),
        [row.get("score", 1.0) for row in rows],
        facts.needed_voxel_size(path),
        facts.voxel_offset,
    )


def _read_row(source: str, words: list[str]) -> dict[str, float]:
    if len(words) not in LAYOUTS:
        raise InputError(
            f"{source} has {len(words)} values; IMOD's points have 3 to 6: [object] [contour] x y z [score]."
        )
    row = {name: number(source, name, word) for name, word in zip(LAYOUTS[len(words)], words, strict=True)}
    for name in ("object", "contour"):
        if name in row and (row[name] < 0 or row[name] % 1):
            raise InputError(
                f"{source}: {name} must be a whole number; got '{row[name]:g}'. Are these {', '.join(row)}?"
            )
    return row
