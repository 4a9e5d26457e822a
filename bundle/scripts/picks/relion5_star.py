"""RELION 5's STAR files of particles: ångströms from the volume's centre."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from scripts.coordinates import from_xyz_centered_angstrom, to_xyz_centered_angstrom
from scripts.picks.pick import Pick, picks_at, zyx_vox_of
from scripts.picks.star import (
    CENTERED,
    RUN_COLUMN,
    SCORE,
    check_name,
    numbers_of,
    particles_of,
    read_tables,
    scores_of,
    shifts_angstrom_of,
    write_table,
)


def write_relion5_star(
    path: str | Path,
    picks: Iterable[Pick],
    *,
    run: str | None = None,
    volume_shape_zyx: Sequence[int],
    voxel_size_angstrom: float,
    voxel_offset: float = 0.0,
) -> None:
    """Write picks as RELION 5 reads them: in ångströms from the volume's centre; the table may be empty.

    The centre is ``shape / 2`` voxels, with voxel ``i`` at ``i``. The file does not state the species: write one file
    per species.

    Args:
        path: the STAR file.
        picks: the table.
        run: picks of other runs are left out; None takes all.
        volume_shape_zyx: shape ``(Z, Y, X)`` of the tomogram.
        voxel_size_angstrom: of the tomogram.
        voxel_offset: that the picks' ångströms were written with; only used if their voxels are unknown.

    Raises:
        InputError: the run's name has a character that a STAR file cannot hold.
    """
    check_name(run or "")
    mine = [pick for pick in picks if run is None or pick.run == run]
    points = zyx_vox_of(mine, voxel_size_angstrom, voxel_offset)
    table = pd.DataFrame(to_xyz_centered_angstrom(points, voxel_size_angstrom, volume_shape_zyx), columns=CENTERED)
    table[RUN_COLUMN] = pd.Series([pick.run for pick in mine], dtype=str)
    table[SCORE] = [float(pick.score) for pick in mine]
    write_table(path, "particles", table)


def read_relion5_star(
    path: str | Path,
    *,
    species: str,
    volume_shape_zyx: Sequence[int],
    voxel_size_angstrom: float,
    voxel_offset: float = 0.0,
) -> list[Pick]:
    """Read picks of one species from a RELION 5 file: inverts `write_relion5_star`, and applies a refinement's shifts.

    Raises:
        InputError: the file is missing, it has no table with the columns of RELION 5 and numbers in them, or its shifts
            cannot be applied, see `shifts_angstrom_of`.
    """
    tables = read_tables(path)
    table = particles_of(path, tables, (RUN_COLUMN, *CENTERED), "RELION 5")
    places = numbers_of(path, table, CENTERED) - shifts_angstrom_of(path, tables, table)
    points = from_xyz_centered_angstrom(places, voxel_size_angstrom, volume_shape_zyx)
    return picks_at(points, table[RUN_COLUMN], species, scores_of(path, table), voxel_size_angstrom, voxel_offset)
