"""Facts about picks that their file does not state."""

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
    """Facts that the user states; None means not stated.

    Attributes:
        run: name of the tomogram's run.
        species: name of the species.
        voxel_size_angstrom: of the tomogram that was picked.
        volume_shape: ``(Z, Y, X)`` of that tomogram.
        voxel_offset: of the ångströms in our files, see `coordinates`.
        binning: pixels of the tilt series per voxel along each axis.
        tomogram: path of the tomogram.
        user_id: who picked, for copick: of a copick source only their picks are read, and a target is written as them.
        session_id: which session, for copick, likewise.
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
        """Return the run's name; raise an ``InputError`` if it is not stated."""
        return _needed(self.run, path, "no run is named", "--run NAME")

    def needed_species(self, path: str | Path) -> str:
        """Return the name of the species; raise an ``InputError`` if it is not stated."""
        return _needed(self.species, path, "no species is named", "--species NAME")

    def needed_voxel_size(self, path: str | Path) -> float:
        """Return the voxel size in ångströms; raise an ``InputError`` if it is not stated."""
        remedy = "--voxel_size_angstrom SIZE, or --tomogram FILE"
        return _needed(self.voxel_size_angstrom, path, "the tomogram's voxel size is not known", remedy)

    def needed_shape(self, path: str | Path) -> tuple[int, int, int]:
        """Return the tomogram's shape ``(Z, Y, X)``; raise an ``InputError`` if it is not stated."""
        remedy = "--volume_shape Z Y X, or --tomogram FILE"
        return _needed(self.volume_shape, path, "the tomogram's shape is not known", remedy)


def zyx_vox_for(path: str | Path, picks: Sequence[Pick], facts: Facts) -> NDArray[np.float64]:
    """Return the positions of the picks in voxels, ``(N, 3)``, ``(z, y, x)``.

    Args:
        path: the file that they are written to, for the message.
        picks: the table.
        facts: state the voxel size, which is needed if the table does not hold all positions in voxels.

    Raises:
        InputError: the voxel size is needed and not stated.
    """
    known = known_zyx_vox_of(picks)
    if not np.isnan(known).any():
        return known
    return zyx_vox_of(picks, facts.needed_voxel_size(path), facts.voxel_offset)


def _needed(value: Fact | None, path: str | Path, what: str, remedy: str) -> Fact:
    if value is None:
        raise InputError(f"{path}: {what}; give {remedy}.")
    return value
