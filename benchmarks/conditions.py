"""Results that are there already, the conditions that they were made under, and runs that weights have seen."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from scripts.errors import InputError
from scripts.networks.model_card import used_runs_in_words, uses_of_weights
from scripts.records import as_json, first_difference


def is_there(path: Path, conditions: Mapping[str, Any]) -> bool:
    """Return whether a result is there.

    Args:
        path: JSON with the key ``conditions``.
        conditions: those that it would be made under now, as `json.dumps` takes them.

    Raises:
        InputError: it was made under other conditions.
    """
    if not path.exists():
        return False
    _refuse_other(path, _conditions_in(path), conditions)
    return True


def refuse_mixed(paths: Iterable[Path], conditions: Mapping[str, Any]) -> None:
    """Refuse results that must not be compared in one table.

    Args:
        paths: of all results, JSON with the key ``conditions``.
        conditions: those that all must share, as `json.dumps` takes them; others may differ.

    Raises:
        InputError: a result was made under others.
    """
    for path in paths:
        own = _conditions_in(path)
        _refuse_other(path, {key: own.get(key) for key in conditions}, conditions)


def _conditions_in(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text())["conditions"])


def _refuse_other(path: Path, own: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    difference = first_difference(own, as_json(wanted))
    if difference:
        raise InputError(f"{path} was made under other conditions: {difference}. Set another output_dir.")


def refuse_seen(weights: Path, fitted: Sequence[str], tested: Sequence[str]) -> None:
    """Refuse to score weights on runs that they have seen.

    Args:
        weights: their file, with its card.
        fitted: runs that thresholds are fitted on: the weights were not trained on them.
        tested: runs that are scored: nothing of the weights was trained, chosen or fitted on them.

    Raises:
        InputError: names the runs.
    """
    uses = uses_of_weights(weights)
    trained = {use: runs for use, runs in uses.items() if use.startswith("trained_on")}
    seen = used_runs_in_words(tested, uses) or used_runs_in_words(fitted, trained)
    if seen:
        raise InputError(f"{weights} has seen these runs, which are to be scored or fitted on: {seen}. Name others.")


def whole_numbers(text: str) -> list[int]:
    """Return whole numbers, given with commas between; of the command line."""
    return [int(part) for part in text.split(",")]
