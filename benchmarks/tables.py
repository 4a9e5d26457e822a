"""Tables of results, as CSV and as Markdown."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scripts.atomic_files import write_atomically
from scripts.markdown import markdown_table


def write_tables_of(rows: Sequence[Mapping[str, Any]], page: str, stem: Path) -> None:
    """Write rows of equal keys as ``<stem>.csv``, and a page of Markdown about them as ``<stem>.md``."""
    with write_atomically(stem.with_suffix(".csv")) as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    with write_atomically(stem.with_suffix(".md")) as file:
        file.write(page)


def page_of(text: str, head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Return a page of Markdown: a text, and a table with its head."""
    return f"{text}\n{markdown_table(head, lines)}\n"


def with_spread(row: Mapping[str, Any], name: str, style: str = ".4f") -> str:
    """Return a mean with half its range, if there are several seeds; a dash where there is none.

    Args:
        row: with the keys ``<name>``, ``<name>_half_range`` and ``seeds``.
        name: of the mean.
        style: format of both; the half range has no sign.
    """
    if row[name] is None:
        return "-"
    half = f" ± {row[f'{name}_half_range']:{style.lstrip('+')}}" if row["seeds"] > 1 else ""
    return f"{row[name]:{style}}{half}"
