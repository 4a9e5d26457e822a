"""Picks in a copick project on a local disk, read and written as files in the project's tree."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from scripts.copick_tree import PICKS_FOLDER, RUNS, project_roots
from scripts.errors import InputError, first_few
from scripts.picks.context import Facts
from scripts.picks.copick_json import picks_of_content, read_content
from scripts.picks.pick import Pick

SELECTED = ("run", "species", "user_id", "session_id")  # facts that select picks


def read_copick_project(path: str | Path, facts: Facts) -> list[Pick]:
    """Read the picks of all runs and species of a project, or of those in the facts.

    Args:
        path: the project's folder, or its config file.
        facts: ``run``, ``species``, ``user_id`` and ``session_id`` select picks; None takes all.

    Raises:
        InputError: a file is wrong, several of one run hold the same species, or there are picks but not those.
    """
    picks: list[Pick] = []
    first: dict[tuple[str, str], Path] = {}
    for run, file, content in _files_of(path, facts):
        key = (run, content["pickable_object_name"])
        if key in first:
            raise InputError(
                f"run '{run}' has picks of '{key[1]}' in {first[key].name} and in {file.name}; "
                "choose with --user_id and --session_id."
            )
        first[key] = file
        picks += picks_of_content(file, content, run)
    others = [] if first else [f"{file.parents[1].name}/{file.name}" for file in _all_files(path)]
    if others:
        wanted = ", ".join(f"{key} '{value}'" for key in SELECTED if (value := getattr(facts, key)) is not None)
        raise InputError(f"{path} has no picks of {wanted}; it has {first_few(others)}.")
    return picks


def _files_of(path: str | Path, facts: Facts) -> Iterator[tuple[str, Path, dict[str, Any]]]:
    wanted = {"pickable_object_name": facts.species, "user_id": facts.user_id, "session_id": facts.session_id}
    for file in _all_files(path):
        run = file.parents[1].name
        if facts.run in (None, run):
            content = read_content(file)
            if all(value is None or str(content.get(key)) == value for key, value in wanted.items()):
                yield run, file, content


def _all_files(path: str | Path) -> Iterator[Path]:
    for root in project_roots(path):
        yield from sorted((root / RUNS).glob(f"*/{PICKS_FOLDER}/[!.]*.json"))
