"""Options of a request that MONAI Label would drop without a word, because the bundle does not offer them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

BEGINNINGS = "threshold_", "min_voxels_", "operating_point_"  # of the options of one species


def fault_of_options(request: Mapping[str, Any], offered: Iterable[str]) -> str | None:
    """Return which option of a species is not offered, or is misspelt, and which are; None if all are.

    Other keys are MONAI Label's own.

    Args:
        request: with options among other keys.
        offered: names of the options that the bundle offers.
    """
    names = sorted(offered)
    for key in request:
        beginning = next((one for one in BEGINNINGS if key.startswith(one)), None)
        if beginning is not None and key not in names:
            alike = ", ".join(name for name in names if name.startswith(beginning)) or f"none with {beginning}"
            return f"the request: there is no option '{key}'; there are {alike}."
        meant = difflib.get_close_matches(key, names, n=1, cutoff=0.85)
        if meant and meant[0] != key:
            return f"the request: there is no option '{key}'; there is {meant[0]}."
    return None
