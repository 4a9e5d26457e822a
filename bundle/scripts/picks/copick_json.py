"""copick's JSON files of picks, one per run and species; `copick_project` finds them in a project."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from scripts.atomic_files import write_atomically
from scripts.errors import InputError
from scripts.file_names import shown
from scripts.picks.parsing import ANGSTROM_DIGITS, SCORE_DIGITS, number, read_text
from scripts.picks.pick import Pick


def write_copick_json(
    path: str | Path,
    picks: Iterable[Pick],
    *,
    run: str,
    species: str,
    voxel_size_angstrom: float | None,
    user_id: str,
    session_id: str,
) -> None:
    """Write the picks of one run and one species in copick's format; other picks are left out.

    Args:
        path: copick itself expects ``<user_id>_<session_id>_<species>.json`` in the run's folder ``Picks``.
        picks: the table.
        run: name of the run.
        species: name of the species.
        voxel_size_angstrom: of the tomogram that was picked; None when unknown.
        user_id: who picked: a person or a program.
        session_id: distinguishes the tables of one user.

    Raises:
        InputError: copick would refuse an id, or split the file name in the wrong place.
    """
    check_ids(user_id, session_id)
    mine = [pick for pick in picks if (pick.run, pick.species) == (run, species)]
    content = {
        "pickable_object_name": species,
        "user_id": user_id,
        "session_id": session_id,
        "run_name": run,
        "voxel_spacing": voxel_size_angstrom,
        "unit": "angstrom",
        "trust_orientation": False,  # the matrices below are placeholders
        "points": [
            {
                "location": {
                    axis: round(float(value), ANGSTROM_DIGITS)
                    for axis, value in zip("xyz", pick.xyz_angstrom, strict=True)
                },
                "transformation_": np.eye(4).tolist(),
                "instance_id": 0,
                "score": round(float(pick.score), SCORE_DIGITS),
            }
            for pick in mine
        ],
    }
    with write_atomically(path) as file:
        file.write(json.dumps(content) + "\n")


def check_ids(user_id: str, session_id: str) -> None:
    """Raise an `InputError` if copick would refuse an id, or split a file name of both in the wrong place."""
    for key, value in (("user_id", user_id), ("session_id", session_id)):
        if not re.fullmatch(r"[A-Za-z0-9]+([.-][A-Za-z0-9]+)*", value):
            raise InputError(f"{key} may hold letters, digits, '-' and '.', as copick wants it; got '{value}'.")


def read_copick_json(path: str | Path, run: str | None = None) -> list[Pick]:
    """Read one copick file of picks; the species is stored in the file.

    As in copick, the position of a particle is its ``location`` plus the shift in the last column of its
    ``transformation_``.

    Args:
        path: the JSON file.
        run: name of the run; None takes the one that is stored in the file.

    Raises:
        InputError: the file is not in copick's format, or its run is not known.
    """
    return picks_of_content(path, read_content(path), run)


def read_copick_folder(
    folder: str | Path, run: str, pattern: str = "*.json", others: Collection[str] = ()
) -> list[Pick]:
    """Read every ``*.json`` of the folder ``Picks`` of a run, in the order of the names; the folder may be empty.

    Args:
        folder: the folder.
        run: name of the run.
        pattern: names of the files to read, for example ``user_session_*.json``; hidden ones are left out.
        others: names of the other runs that share the folder, see `copick_files_of_run`.

    Raises:
        InputError: there is no such folder, a file is not in copick's format, two files hold the same species, or a
            file of a shared folder names none of the runs.
    """
    if not Path(folder).is_dir():
        raise InputError(f"cannot read the picks of run '{run}': there is no folder {folder}.")
    read: dict[str, Path] = {}
    picks: list[Pick] = []
    for path in copick_files_of_run(folder, run, pattern, others):
        content = read_content(path)
        name = content["pickable_object_name"]
        if name in read:
            raise InputError(
                f"{path} and {read[name].name} both hold '{name}'; keep one of them in the folder, or name the truth "
                "by truth_user_id and truth_session_id."
            )
        read[name] = path
        picks += picks_of_content(path, content, run)
    return picks


def copick_files(folder: str | Path, pattern: str = "*.json") -> list[Path]:
    """Return the files of a folder ``Picks`` that fit a pattern, sorted by name; hidden ones are left out."""
    return sorted(path for path in Path(folder).glob(pattern) if not path.name.startswith("."))


def copick_files_of_run(
    folder: str | Path, run: str, pattern: str = "*.json", others: Collection[str] = ()
) -> list[Path]:
    """Return the files of a run that fit a pattern: all in the folder, or in a shared folder those that name the run.

    Args:
        folder: the folder.
        run: name of the run.
        pattern: as in `copick_files`.
        others: names of the other runs that share the folder; empty if it is the run's own.

    Raises:
        InputError: a file of a shared folder is not in copick's format, or names none of the runs.
    """
    files = copick_files(folder, pattern)
    if not others:
        return files
    named = {path: read_content(path).get("run_name") for path in files}
    for path, name in named.items():
        if name not in (run, *others):
            said = f"names the run '{shown(str(name))}'" if name else "names no run"
            raise InputError(
                f"{path} lies beside several tomograms ({', '.join(sorted((run, *others)))}) and {said}: state its "
                "run_name, or give each tomogram a folder of its own."
            )
    return [path for path in files if named[path] == run]


def read_content(path: str | Path) -> dict[str, Any]:
    """Return the content of a copick file of picks; its points are not checked yet.

    Raises:
        InputError: the file is not in copick's format, or not in ångströms.
    """
    text = read_text(path)
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


def picks_of_content(path: str | Path, content: Mapping[str, Any], run: str | None) -> list[Pick]:
    """Return the picks of a file that `read_content` read; ``run`` overrides the name that is stored in it.

    Raises:
        InputError: the run is not known, or a point is wrong.
    """
    name = run or content.get("run_name")
    if not name or not isinstance(name, str):
        raise InputError(f"{path} does not say which run it belongs to; give the run's name (--run).")
    picks = []
    for count, point in enumerate(content["points"], start=1):
        source = f"{path}, point {count}"
        if not isinstance(point, dict) or not isinstance(point.get("location"), dict):
            raise InputError(f"{source} has no location.")
        x, y, z = _place_of(source, point)
        score = 1.0 if point.get("score") is None else number(source, "score", point["score"])
        picks.append(Pick(name, content["pickable_object_name"], x, y, z, score))
    return picks


def _place_of(source: str, point: Mapping[str, Any]) -> Iterator[float]:
    matrix = point.get("transformation_") or np.eye(4).tolist()
    if not isinstance(matrix, list) or [isinstance(row, list) and len(row) for row in matrix] != [4, 4, 4, 4]:
        raise InputError(f"{source}: transformation_ must have 4 rows of 4 numbers.")
    for axis, row in zip("xyz", matrix[:3], strict=True):
        yield number(source, axis, point["location"].get(axis)) + number(source, "transformation_", row[3])
