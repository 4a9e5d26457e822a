"""The table of picks: a list of `Pick`."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scripts.coordinates import to_xyz_angstrom, to_zyx_vox
from scripts.errors import InputError
from scripts.records import finite_or_none
from scripts.species import SpeciesSet

UNKNOWN = math.nan


@dataclass(frozen=True)
class Pick:
    """One particle of one tomogram, found or annotated.

    Attributes:
        run: name of the tomogram's run ("experiment" in Kaggle's files).
        species: name of the species.
        x_angstrom: position in file coordinates, with ``y_angstrom`` and ``z_angstrom``.
        score: confidence of the pick, after a second look the probability that it is right; 1 for an annotation.
        radius_angstrom: radius of the species; nan when unknown.
        x_voxel: position in the tomogram's own voxels, with ``y_voxel`` and ``z_voxel``; nan when unknown.
        network_score: the first network's score where `score` is that of a second look; nan elsewhere.
        weight: of an annotation: the probability that it is a particle; 0 was looked at and is none, nan is uncertain.
        origin: of an annotation: who or what it comes from; any text.
    """

    run: str
    species: str
    x_angstrom: float
    y_angstrom: float
    z_angstrom: float
    score: float = 1.0
    radius_angstrom: float = UNKNOWN
    x_voxel: float = UNKNOWN
    y_voxel: float = UNKNOWN
    z_voxel: float = UNKNOWN
    network_score: float = UNKNOWN
    weight: float = 1.0
    origin: str = ""

    def __post_init__(self) -> None:
        if not all(map(math.isfinite, (*self.xyz_angstrom, self.score))):
            raise ValueError(f"a pick needs finite coordinates and a finite score; got {self}.")

    @property
    def xyz_angstrom(self) -> tuple[float, float, float]:
        """The position ``(x, y, z)`` in ångströms."""
        return self.x_angstrom, self.y_angstrom, self.z_angstrom

    @property
    def zyx_voxel(self) -> tuple[float, float, float]:
        """The position ``(z, y, x)`` in the tomogram's own voxels; nan where unknown."""
        return self.z_voxel, self.y_voxel, self.x_voxel


def by_species(picks: Iterable[Pick]) -> dict[str, list[Pick]]:
    """Return the picks of every species that has some, in their order; any other name gives an empty list."""
    groups: defaultdict[str, list[Pick]] = defaultdict(list)
    for pick in picks:
        groups[pick.species].append(pick)
    return groups


def as_records(picks: Iterable[Pick]) -> list[dict[str, str | float | None]]:
    """Return the table as plain dictionaries for JSON; unknown values become None."""
    names = [field.name for field in fields(Pick)]
    return [{name: _plain(getattr(pick, name)) for name in names} for pick in picks]


def from_records(records: Iterable[Mapping[str, Any]]) -> list[Pick]:
    """Return the table that `as_records` turned into dictionaries."""
    known: list[dict[str, Any]] = [
        {key: UNKNOWN if value is None else value for key, value in record.items()} for record in records
    ]
    return [Pick(**row) for row in known]


def xyz_angstrom_of(picks: Sequence[Pick]) -> NDArray[np.float64]:
    """Return the positions of the picks, ``(N, 3)``, ``(x, y, z)`` in ångströms."""
    return np.array([pick.xyz_angstrom for pick in picks], dtype=np.float64).reshape(-1, 3)


def zyx_vox_of(picks: Sequence[Pick], voxel_size_angstrom: float, voxel_offset: float = 0.0) -> NDArray[np.float64]:
    """Return the positions of the picks in voxels, ``(N, 3)``, ``(z, y, x)``: from the table, else from ångströms.

    Args:
        picks: the table.
        voxel_size_angstrom: of the tomogram.
        voxel_offset: that the picks' ångströms were written with.
    """
    known = known_zyx_vox_of(picks)
    return np.where(np.isnan(known), to_zyx_vox(xyz_angstrom_of(picks), voxel_size_angstrom, voxel_offset), known)


def known_zyx_vox_of(picks: Sequence[Pick]) -> NDArray[np.float64]:
    """Return the positions in voxels that the table holds, ``(N, 3)``, ``(z, y, x)``; nan where it holds none."""
    return np.array([pick.zyx_voxel for pick in picks], dtype=np.float64).reshape(-1, 3)


def picks_at(
    points_zyx_vox: NDArray[np.float64],
    runs: Iterable[str],
    species: str,
    scores: Iterable[float],
    voxel_size_angstrom: float,
    voxel_offset: float = 0.0,
) -> list[Pick]:
    """Return a table of one species from positions in voxels.

    Args:
        points_zyx_vox: ``(N, 3)``, ``(z, y, x)``.
        runs: name of the run of each point.
        species: name of the species.
        scores: score of each point.
        voxel_size_angstrom: of the tomogram.
        voxel_offset: for the picks' ångströms, see `coordinates`.
    """
    places = to_xyz_angstrom(points_zyx_vox, voxel_size_angstrom, voxel_offset)
    rows = zip(runs, places.tolist(), scores, points_zyx_vox.tolist(), strict=True)
    return [
        Pick(run, species, x, y, z, float(score), x_voxel=x_voxel, y_voxel=y_voxel, z_voxel=z_voxel)
        for run, (x, y, z), score, (z_voxel, y_voxel, x_voxel) in rows
    ]


def check_truth(truth: Iterable[Pick], species_set: SpeciesSet, source: str) -> None:
    """Refuse a truth with an unknown species, or with two particles at the same position of a run.

    What is uncertain or rejected may stand where an annotation of another species does.

    Args:
        truth: the annotations.
        species_set: the known species.
        source: name of the truth in messages: its file.

    Raises:
        InputError: gives the number of the particle, counted from 1 (a header does not count).
    """
    first: dict[tuple[str, float, float, float], int] = {}
    for number, pick in enumerate(truth, start=1):
        species_set.named(pick.species, f"{source}, particle {number}")
        place = (pick.run, *pick.xyz_angstrom)
        if pick.weight != 1:  # none, or uncertain: a particle of another species may stand there
            continue
        if place in first:
            raise InputError(
                f"{source}: particles {first[place]} and {number} stand at the same place of run '{pick.run}', "
                f"x, y, z = {', '.join(f'{value:g}' for value in pick.xyz_angstrom)} Å. Remove one."
            )
        first[place] = number


def _plain(value: str | float) -> str | float | None:
    return value if isinstance(value, str) else finite_or_none(float(value))
