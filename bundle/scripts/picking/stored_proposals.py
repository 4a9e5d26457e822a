"""Proposals on disk: what a first network proposes in the tomograms that a second look is trained and fitted on."""

from __future__ import annotations

from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from scripts.atomic_files import write_atomically
from scripts.errors import InputError
from scripts.picking.proposals import Proposals


def write_proposals(path: Path, proposals: Proposals) -> None:
    """Write proposals, atomically."""
    with write_atomically(path, "wb") as file:
        np.savez(file, centres_zyx_vox=proposals.centres_zyx_vox, logits=proposals.logits)


def read_proposals(path: Path) -> Proposals:
    """Read what `write_proposals` wrote.

    Raises:
        InputError: the file is missing or damaged.
    """
    try:
        with open(path, "rb") as file, np.load(file) as content:
            return Proposals(content["centres_zyx_vox"], content["logits"])
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise InputError(f"cannot read the proposals in {path}: {error}. Delete it, and start again.") from error
