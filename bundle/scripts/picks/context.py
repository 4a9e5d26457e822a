"""What a file of picks does not say about itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from scripts.errors import InputError
from scripts.picks.pick import Pick, known_zyx_vox_of, zyx_vox_of

Fact = TypeVar("Fact")


@dataclass(frozen=True)
class Facts:
    """Facts that the user states, each under the key of its name; None is not stated.

    Attributes:
        run: name of the tomogram's run.
        species: name of the species.
        voxel_size_angstrom: of the tomogram that was picked.
        volume_shape: ``(Z, Y, X)`` of that tomogram.
        voxel_offset: of the ångströms in our files, see `coordinates`.
        binning: how often the tilt series' pixels go into the side of a voxel.
        tomogram: path of the tomogram.
        user_id: who picked, for copick.
        session_id: which session, for copick.
    """

    run: str | None = None
    species: str | None = None
    voxel_size_angstrom: float | None = None
    volume_shape: tuple[int, int, int] | None = None
    voxel_offset: float = 0.0
    binning: float | None = None
    tomogram: str | None = None
    user_id: str | None = None
    session_id: str | None = None

    def needed_run(self, path: str | Path) -> str:
        """Return the run's name, or refuse to go on without it."""
        return _needed(self.run, path, "no run is named", "--run NAME")

    def needed_species(self, path: str | Path) -> str:
        """Return the name of the species, or refuse to go on without it."""
        return _needed(self.species, path, "no species is named", "--species NAME")

    def needed_voxel_size(self, path: str | Path) -> float:
        """Return the voxel size in ångströms, or refuse to go on without it."""
        remedy = "--voxel_size_angstrom SIZE, or --tomogram FILE"
        return _needed(self.voxel_size_angstrom, path, "the tomogram's voxel size is not known", remedy)

    def needed_shape(self, path: str | Path) -> tuple[int, int, int]:
        """Return the tomogram's shape ``(Z, Y, X)``, or refuse to go on without it."""
        remedy = "--volume_shape Z Y X, or --tomogram FILE"
        return _needed(self.volume_shape, path, "the tomogram's shape is not known", remedy)


def zyx_vox_for(path: str | Path, picks: Sequence[Pick], facts: Facts) -> NDArray[np.float64]:
    """Return the places of the picks in voxels, ``(N, 3)``, ``(z, y, x)``.

    Args:
        path: the file that they are for, for the message.
        picks: the table.
        facts: the voxel size, where the table does not hold all voxels.

    Raises:
        InputError: neither the table nor the facts say enough.
    """
    known = known_zyx_vox_of(picks)
    if not np.isnan(known).any():
        return known
    return zyx_vox_of(picks, facts.needed_voxel_size(path), facts.voxel_offset)


def _needed(value: Fact | None, path: str | Path, what: str, remedy: str) -> Fact:
    if value is None:
        raise InputError(f"{path}: {what}; give {remedy}.")
    return value
