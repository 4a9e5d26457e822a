"""STAR files of particles in pixels: RELION 4 (``rlnTomoName``), Warp, M and RELION 3 (``rlnMicrographName``)."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from scripts.coordinates import from_xyz_pixels, to_xyz_pixels
from scripts.errors import InputWarning
from scripts.picks.context import Facts, zyx_vox_for
from scripts.picks.parsing import runs_of_files
from scripts.picks.pick import UNKNOWN, Pick, picks_at
from scripts.picks.star import (
    MICROGRAPH,
    PIXELS,
    RUN_COLUMN,
    SCORE,
    numbers_of,
    particles_of,
    read_tables,
    scores_of,
    shifts_angstrom_of,
    stated_pixel_size,
    write_table,
)

TOMOSTAR = ".tomostar"  # Warp's file of a tilt series
PIXEL_TOLERANCE = 0.001


def write_relion4_star(path: str | Path, picks: Sequence[Pick], facts: Facts) -> None:
    """Write picks as RELION 4 reads them: ``binning`` pixels per voxel, the first voxel at 0.

    Raises:
        InputError: the voxels are not known, or a STAR file cannot hold a run's name.
    """
    table = _pixels(path, picks, facts, "relion4")
    table.insert(3, RUN_COLUMN, pd.Series([pick.run for pick in picks], dtype=str))
    write_table(path, "particles", table)


def write_warp_star(path: str | Path, picks: Sequence[Pick], facts: Facts) -> None:
    """Write picks as Warp and M read them: as `write_relion4_star`, the run as ``<run>.tomostar``.

    Raises:
        InputError: the voxels are not known, or a STAR file cannot hold a run's name.
    """
    table = _pixels(path, picks, facts, "warp")
    table.insert(3, MICROGRAPH, pd.Series([pick.run + TOMOSTAR for pick in picks], dtype=str))
    write_table(path, "", table)


def read_pixel_star(path: str | Path, facts: Facts) -> list[Pick]:
    """Read picks of one species in pixels from RELION 3 or 4, Warp or M, and apply the shifts of a refinement.

    The pixel size is the voxel size over the binning, or else is read from the file (``rlnTomoTiltSeriesPixelSize``,
    ``rlnDetectorPixelSize``), or else is the voxel size, with a warning. Without a voxel size the picks have ångströms
    only.

    Raises:
        InputError: a fact is missing, or the file has no table with such columns and numbers in them.
    """
    tables = read_tables(path)
    table = particles_of(path, tables, PIXELS, "RELION 4 or Warp")
    name_column = RUN_COLUMN if RUN_COLUMN in table else MICROGRAPH
    particles_of(path, tables, [name_column], "RELION 4 or Warp")
    stated = stated_pixel_size(path, tables, table)
    voxel_size = facts.voxel_size_angstrom or (stated if facts.binning is None else None)
    if voxel_size is None:
        voxel_size = facts.needed_voxel_size(path)
    if facts.binning is None and stated is None:
        warnings.warn(f"{path}: {counts_voxels('this file', '--binning')}", InputWarning, stacklevel=2)
    binning = facts.binning or (voxel_size / stated if stated else 1.0)
    pixel_size = voxel_size / binning
    if stated and not math.isclose(pixel_size, stated, rel_tol=PIXEL_TOLERANCE):
        said = f"its pixels are taken for {pixel_size:g} Å (voxel size / binning), although it states {stated:g} Å"
        warnings.warn(f"{path}: {said}.", InputWarning, stacklevel=2)
    pixels = numbers_of(path, table, PIXELS) - shifts_angstrom_of(path, tables, table, pixel_size) / pixel_size
    if name_column == MICROGRAPH:
        by_file = runs_of_files(path, table[name_column])
        runs = [by_file[name] for name in table[name_column]]
    else:
        runs = _without_tomostar(table)
    points = from_xyz_pixels(pixels, "relion4", binning)
    picks = picks_at(points, runs, facts.needed_species(path), scores_of(path, table), voxel_size, facts.voxel_offset)
    if facts.voxel_size_angstrom is not None:
        return picks
    return [replace(pick, x_voxel=UNKNOWN, y_voxel=UNKNOWN, z_voxel=UNKNOWN) for pick in picks]


def counts_voxels(formats: str, setting: str) -> str:
    """Return the warning that files count the tomogram's voxels, because nothing says how many pixels these are."""
    return (
        f"without {setting}, {formats} counts the tomogram's voxels, as if the tilt series had not been binned: set it "
        "to the tomogram's voxel size divided by the pixel size of the unbinned tilt series."
    )


def stated_binning(path: str | Path, facts: Facts) -> float | None:
    """Return the pixels per voxel that a file counts in; None if the file or the facts state no size.

    Raises:
        InputError: the file has no table of particles in pixels, or states two pixel sizes.
    """
    tables = read_tables(path)
    stated = stated_pixel_size(path, tables, particles_of(path, tables, PIXELS, "RELION 4 or Warp"))
    return facts.voxel_size_angstrom / stated if stated and facts.voxel_size_angstrom else None


def _pixels(path: str | Path, picks: Sequence[Pick], facts: Facts, format_name: str) -> pd.DataFrame:
    points = to_xyz_pixels(zyx_vox_for(path, picks, facts), format_name, facts.binning or 1.0)
    table = pd.DataFrame(points, columns=PIXELS)
    table[SCORE] = [float(pick.score) for pick in picks]
    return table


def _without_tomostar(table: pd.DataFrame) -> list[str]:
    return [str(name).removesuffix(TOMOSTAR) for name in table[RUN_COLUMN]]
