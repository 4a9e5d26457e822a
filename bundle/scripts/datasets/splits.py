"""Choice of the validation runs."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence

from scripts.datasets.runs import Folders, Kinds, as_names, find_runs, paths_in_words

logger = logging.getLogger(__name__)


def split_runs(
    dataset_dir: Folders, validation_runs: Sequence[str], without: Sequence[str] = (), tomogram_kind: Kinds = None
) -> list[str]:
    """Return the names of the runs to validate on: those given, or else every fifth run, from the last one by name.

    Runs in ``without`` are left out, and runs whose name occurs in several folders are not chosen. A single run is not
    split: the list is empty, and a warning says that there is nothing to validate on.
    """
    if validation_runs:
        return [name for name in as_names(validation_runs) if name not in as_names(without)]
    found = find_runs(dataset_dir, tomogram_kind)
    runs = [tomogram.run for tomograms in found.values() for tomogram in tomograms]
    names = [run for run in runs if run not in as_names(without)]
    if len(names) == 1:
        logger.warning(
            "%s holds one run only: it is trained on, and nothing is left to validate on", paths_in_words(found)
        )
        return []
    return sorted(name for name, count in Counter(names).items() if count == 1)[::-1][::5]
