"""Tables of corrected picks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from scripts.errors import InputError
from scripts.picks.pick import Pick


def merge_annotations(tables: Mapping[str, Sequence[Pick]]) -> list[Pick]:
    """Return the annotations of several tables, by their names in messages.

    Raises:
        InputError: two of them have annotations of the same run.
    """
    first: dict[str, str] = {}
    for source, table in tables.items():
        for run in {pick.run: None for pick in table}:
            if run in first:
                raise InputError(f"run '{run}' is in {first[run]} and in {source}: leave the older one out.")
            first[run] = source
    return [pick for table in tables.values() for pick in table]


def count_annotations(annotations: Sequence[Pick]) -> str:
    """Return a line that counts the particles and the rejected and uncertain places."""
    particles, rejected = (sum(pick.weight == weight for pick in annotations) for weight in (1, 0))
    return f"{particles} particles, {rejected} rejected, {len(annotations) - particles - rejected} uncertain"
