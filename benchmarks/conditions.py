"""Results that are there already, and the conditions that they were made under."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scripts.errors import InputError
from scripts.records import first_difference


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
    difference = first_difference(json.loads(path.read_text())["conditions"], json.loads(json.dumps(conditions)))
    if difference:
        raise InputError(f"{path} was made under other conditions: {difference}. Set another output_dir.")
    return True
