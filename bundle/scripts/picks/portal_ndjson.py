"""Points of the CryoET Data Portal: one JSON object per line, in voxels, the first voxel at 0.

The portal's own files have no scores; ours are stored as ``score``, which other programs ignore.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scripts.atomic_files import write_atomically
from scripts.coordinates import from_xyz_pixels, to_xyz_pixels
from scripts.errors import InputError
from scripts.picks.context import Facts, zyx_vox_for
from scripts.picks.parsing import SCORE_DIGITS, VOXEL_DIGITS, number, read_text
from scripts.picks.pick import Pick, picks_at

TYPES = ("point", "orientedPoint", "instancePoint")


def write_ndjson(path: str | Path, picks: Sequence[Pick], facts: Facts) -> None:
    """Write picks of one run and species as points.

    Raises:
        InputError: the voxels are not known.
    """
    places = to_xyz_pixels(zyx_vox_for(path, picks, facts), "ndjson")
    with write_atomically(path) as file:
        for pick, place in zip(picks, places.tolist(), strict=True):
            location = {axis: round(value, VOXEL_DIGITS) for axis, value in zip("xyz", place, strict=True)}
            point = {"type": "point", "location": location, "score": round(float(pick.score), SCORE_DIGITS)}
            file.write(json.dumps(point) + "\n")


def read_ndjson(path: str | Path, facts: Facts) -> list[Pick]:
    """Read points of one run and species, with or without directions; a point without score gets 1.

    Raises:
        InputError: a fact is missing, or a line is wrong.
    """
    lines = enumerate(read_text(path).splitlines(), start=1)
    points = [
        (f"{path}, row {count}", _read_line(f"{path}, row {count}", line)) for count, line in lines if line.strip()
    ]
    places = [[number(source, axis, point["location"].get(axis)) for axis in "xyz"] for source, point in points]
    return picks_at(
        from_xyz_pixels(np.array(places).reshape(-1, 3), "ndjson"),
        [facts.needed_run(path)] * len(points),
        facts.needed_species(path),
        [number(source, "score", point.get("score", 1.0)) for source, point in points],
        facts.needed_voxel_size(path),
        facts.voxel_offset,
    )


def _read_line(source: str, line: str) -> dict[str, Any]:
    try:
        point = json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError(f"{source} is not valid JSON: {error}.") from error
    if not isinstance(point, dict) or point.get("type") not in TYPES or not isinstance(point.get("location"), dict):
        raise InputError(f"{source} is no point with a location; its type must be one of {', '.join(TYPES)}.")
    return point
