"""Which picks are read from copick files: those of a project on a local disk, of a folder, or of one file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from scripts.copick_tree import IDS, PICKS_FOLDER, RUNS, project_roots
from scripts.errors import InputError, first_few
from scripts.picks.context import Facts
from scripts.picks.copick_json import picks_of_content, read_content
from scripts.picks.pick import Pick

SELECTED = ("run", "species", *IDS)  # facts that select picks


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
        raise InputError(f"{path} has no picks of {_in_words(facts, SELECTED)}; it has {first_few(others)}.")
    return picks


def files_of_ids(source: str | Path, files: Sequence[Path], facts: Facts) -> list[Path]:
    """Return the copick files, out of one or several, of the user and the session in the facts; None takes all.

    Args:
        source: the file or the folder, for the message.
        files: the files.
        facts: ``user_id`` and ``session_id`` select files by what is stored in them.

    Raises:
        InputError: a file is not in copick's format, or none is theirs.
    """
    contents = {file: read_content(file) for file in files}
    chosen = [file for file, content in contents.items() if _is_of_ids(content, facts)]
    if not chosen:
        there = sorted({f"{content.get('user_id')}, {content.get('session_id')}" for content in contents.values()})
        listed = first_few(f"({ids})" for ids in there)
        raise InputError(
            f"{source} has no picks of {_in_words(facts, IDS)}; it has those of {' and '.join(IDS)} {listed}."
        )
    return chosen


def _files_of(path: str | Path, facts: Facts) -> Iterator[tuple[str, Path, dict[str, Any]]]:
    for file in _all_files(path):
        run = file.parents[1].name
        if facts.run in (None, run):
            content = read_content(file)
            if facts.species in (None, content["pickable_object_name"]) and _is_of_ids(content, facts):
                yield run, file, content


def _all_files(path: str | Path) -> Iterator[Path]:
    for root in project_roots(path):
        yield from sorted((root / RUNS).glob(f"*/{PICKS_FOLDER}/[!.]*.json"))


def _is_of_ids(content: Mapping[str, Any], facts: Facts) -> bool:
    return all(getattr(facts, key) in (None, str(content.get(key))) for key in IDS)


def _in_words(facts: Facts, keys: Sequence[str]) -> str:
    return ", ".join(f"{key} '{value}'" for key in keys if (value := getattr(facts, key)) is not None)
