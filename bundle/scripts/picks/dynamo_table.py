"""Dynamo's tables ``.tbl``, and the ``.doc`` beside a table that lists the tomograms by number.

A row has 35 numbers. Used here are the tag (column 1), the shift (4 to 6), the cross-correlation (10), the tomogram's
number (20) and the position (24 to 26). Positions count from the volume's corner: the centre of the first voxel is 0.5.
A line of the ``.doc`` is the number and the path of a tomogram, with blanks or a tab between.

Source: Dynamo's wiki, pages "Table convention" and "Volume center".
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from scripts.atomic_files import write_atomically
from scripts.coordinates import from_xyz_pixels, to_xyz_pixels
from scripts.errors import InputError
from scripts.picks.context import Facts, zyx_vox_for
from scripts.picks.parsing import (
    SCORE_DIGITS,
    VOXEL_DIGITS,
    decimal,
    number,
    read_text,
    rows_of_text,
    run_of_file,
    runs_of_files,
)
from scripts.picks.pick import Pick, picks_at

DYNAMO_COLUMNS = 35
TAG, ALIGNED, SHIFT, CC, TOMOGRAM, PLACE = 1, 2, 4, 10, 20, 24  # counted from 1, as Dynamo does
FEWEST = PLACE + 2
DOC = ".doc"


def write_dynamo_table(path: str | Path, picks: Sequence[Pick], facts: Facts) -> None:
    """Write picks of one species, and the ``.doc`` beside them; runs are numbered in the order of their names.

    The ``.doc`` holds the path of the tomogram if it is known, or else the names of the runs, to be replaced by paths.
    A name that ends like a file's gets another ending, which reading it takes away.

    Raises:
        InputError: the voxels are not known.
    """
    runs = sorted({pick.run for pick in picks} | ({facts.run} if facts.run else set()))
    numbers = {run: count for count, run in enumerate(runs, start=1)}
    places = to_xyz_pixels(zyx_vox_for(path, picks, facts), "dynamo")
    with write_atomically(path) as file:
        for tag, (pick, place) in enumerate(zip(picks, places.tolist(), strict=True), start=1):
            row = ["0"] * DYNAMO_COLUMNS
            row[TAG - 1], row[ALIGNED - 1], row[TOMOGRAM - 1] = str(tag), "1", str(numbers[pick.run])
            row[CC - 1] = decimal(pick.score, SCORE_DIGITS)
            row[PLACE - 1 : PLACE + 2] = [decimal(value, VOXEL_DIGITS) for value in place]
            file.write(" ".join(row) + "\n")
    with write_atomically(Path(path).with_suffix(DOC)) as file:
        for run, count in numbers.items():
            name = run if run_of_file(run) == run else f"{run}.mrc"
            file.write(f"{count} {facts.tomogram if facts.tomogram and len(runs) == 1 else name}\n")


def read_dynamo_table(path: str | Path, facts: Facts) -> list[Pick]:
    """Read picks of one species; the runs' names come from the ``.doc`` beside the table, or else from the facts.

    Where the ``.doc`` names the tomogram of the facts, the run is that of the facts: its file may be called otherwise.

    Raises:
        InputError: a fact is missing, or a row is wrong.
    """
    rows = [_read_row(source, words) for source, words in rows_of_text(path)]
    table = np.array(rows).reshape(-1, FEWEST)
    places = table[:, PLACE - 1 : PLACE + 2] + table[:, SHIFT - 1 : SHIFT + 2]
    return picks_at(
        from_xyz_pixels(places, "dynamo"),
        _runs_of(path, [int(value) for value in table[:, TOMOGRAM - 1]], facts),
        facts.needed_species(path),
        table[:, CC - 1].tolist(),
        facts.needed_voxel_size(path),
        facts.voxel_offset,
    )


def _read_row(source: str, words: list[str]) -> list[float]:
    if len(words) < FEWEST:
        raise InputError(f"{source} has {len(words)} columns; a row of a Dynamo table has {DYNAMO_COLUMNS}.")
    return [number(source, f"column {count}", word) for count, word in enumerate(words[:FEWEST], start=1)]


def _runs_of(path: str | Path, tomograms: list[int], facts: Facts) -> list[str]:
    different, map_path = sorted(set(tomograms)), Path(path).with_suffix(DOC)
    names = _read_doc(map_path, different) if map_path.is_file() else {}
    if facts.run is not None and facts.tomogram is not None:
        names = {count: facts.run if name == run_of_file(facts.tomogram) else name for count, name in names.items()}
    if facts.run is not None and len(different) <= 1 and not any(map(names.get, different)):
        return [facts.run] * len(tomograms)
    if not map_path.is_file():
        if len(different) > 1:
            raise InputError(f"{path} holds tomograms {different}; put their names into {map_path.name} beside it.")
        return [facts.needed_run(path)] * len(tomograms)
    missing = [count for count in different if not names.get(count)]
    if missing:
        raise InputError(f"{map_path} does not name tomogram {missing[0]}, which {path} holds.")
    return [names[count] for count in tomograms]


def _read_doc(path: Path, wanted: Sequence[int]) -> dict[int, str]:
    """Return the runs' names by number: the names of the tomograms' files without folder and ending."""
    names = {}
    for count, line in enumerate(read_text(path).splitlines(), start=1):
        words = line.strip().split(maxsplit=1)  # a path may hold blanks
        if words:
            key = int(number(f"{path}, row {count}", "the tomogram's number", words[0]))
            if key in wanted:
                names[key] = "".join(words[1:])
    runs = runs_of_files(path, names.values())
    return {key: runs[name] for key, name in names.items()}
