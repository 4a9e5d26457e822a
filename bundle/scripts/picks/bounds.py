"""Check that points lie in their tomogram; if they do not, or only in a corner, a unit or a frame is probably wrong."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import bdtrc

from scripts.coordinates import NANOMETRE_ANGSTROM
from scripts.errors import InputError, InputWarning

VOXEL_TOLERANCE = 0.01  # voxels; a larger difference between voxels and ångströms of one pick is an error
MOST_OUTSIDE = 0.5  # a larger fraction of points outside is an error
NEARLY_ALL = 0.9  # a table of another unit may have wrong rows too
DOUBT, CHANCE = 2e-3, 1e-4  # how rarely points in ångströms lie as these do: a warning, and an error
FEWEST_OUTSIDE = 2  # points that lie outside, and inside in another frame: an error; a single one may be a wrong row
QUESTIONS = {
    "angstrom": "do they belong to another tomogram?",
    "voxel": "are they Å, not voxels, or is the binning another?",
}


def check_voxels(
    known_zyx_vox: NDArray[np.float64], computed_zyx_vox: NDArray[np.float64], source: str, grid: str
) -> None:
    """Compare the voxels of picks with those that follow from their ångströms.

    Args:
        known_zyx_vox: ``(N, 3)``, nan where the table holds none.
        computed_zyx_vox: ``(N, 3)``.
        source: the picks' file, for the message.
        grid: what they were computed with, and may be another's.

    Raises:
        InputError: they disagree.
    """
    off = np.abs(known_zyx_vox - computed_zyx_vox).max(axis=1, initial=0) > VOXEL_TOLERANCE
    if off.any():
        raise InputError(f"{source}: voxels and ångströms of particle {int(np.argmax(off)) + 1} disagree: {grid}.")


def check_inside(
    points_zyx_vox: NDArray[np.float64],
    shape_zyx: Sequence[int],
    source: str,
    unit: Literal["angstrom", "voxel"] = "angstrom",
    allow_outside: bool = False,
) -> None:
    """Warn if points lie outside of their tomogram; refuse if most do, or if another frame holds them all.

    Args:
        points_zyx_vox: ``(N, 3)`` voxel indices.
        shape_zyx: ``(Z, Y, X)`` of the tomogram.
        source: name of the points in messages: their file.
        unit: the unit that they were read in.
        allow_outside: only warn, however many points lie outside.

    Raises:
        InputError: more than half of the points lie outside, or `FEWEST_OUTSIDE`, and all of them would lie inside with
            x and z exchanged or counted from the centre; and ``allow_outside`` is off.
    """
    count = int(np.count_nonzero(~_is_inside(points_zyx_vox, shape_zyx)))
    if count == 0:
        return
    is_most, frame = count > MOST_OUTSIDE * len(points_zyx_vox), _frame_of(points_zyx_vox, shape_zyx)
    share = f"{count / len(points_zyx_vox):.0%} of the" if is_most else f"{count}"
    why = f"; all lie inside if {frame}" if frame else f"; {QUESTIONS[unit]}" if is_most else "."
    found = f"{source}: {share} points lie outside the tomogram{why}"
    if (is_most or (frame and count >= FEWEST_OUTSIDE)) and not allow_outside:
        raise InputError(found)
    warnings.warn(found, InputWarning, stacklevel=2)


def check_unit(
    points_zyx_vox: NDArray[np.float64],
    shape_zyx: Sequence[int],
    voxel_size_angstrom: float,
    source: str,
    setting: str,
    origin_zyx_vox: ArrayLike = (0.0, 0.0, 0.0),
    allow_near: bool = False,
) -> None:
    """Refuse points that were read in ångströms and are voxels or nanometres.

    Then they lie so near to their origin that the voxel size, or 10, times as far they are still inside. Of points
    anywhere in the tomogram only one in ``factor³`` does, so that very few points tell.

    Args:
        points_zyx_vox: ``(N, 3)`` voxel indices, of one run or of all runs of a table.
        shape_zyx: ``(Z, Y, X)`` of the tomogram.
        voxel_size_angstrom: of the tomogram.
        source: name of the points in messages: their file.
        setting: for the message: what turns ``allow_near`` on.
        origin_zyx_vox: from where the file counts: the first voxel, or the centre.
        allow_near: only warn, because points in ångströms may lie in one corner alone.

    Raises:
        InputError: chance does not explain where the points lie, and ``allow_near`` is off.
    """
    origin, total = np.asarray(origin_zyx_vox), len(points_zyx_vox)
    chances, near = {}, 0
    for unit, factor in (("voxels", voxel_size_angstrom), ("nm", NANOMETRE_ANGSTROM)):
        inside = int(np.count_nonzero(_is_inside(origin + (points_zyx_vox - origin) * factor, shape_zyx)))
        if factor > 1 and inside >= max(NEARLY_ALL * total, 1):
            chances[unit], near = float(bdtrc(inside - 1, total, factor**-3)), max(near, inside)
    rarest = min(chances.values(), default=1.0)
    if rarest > DOUBT:
        return
    where = f"{near} of {total} points lie close to where the coordinates begin"
    remedy = "Write Å: voxels times the voxel size, nm times 10"
    found = f"{source}: {where}; are they {' or '.join(chances)}, not Å? {remedy}"
    if rarest <= CHANCE and not allow_near:
        raise InputError(f"{found}. If they are Å, give {setting}.")
    warnings.warn(f"{found}.", InputWarning, stacklevel=2)


def _is_inside(points_zyx_vox: NDArray[np.float64], shape_zyx: Sequence[int]) -> NDArray[np.bool_]:
    """Return which points ``(N, 3)`` lie in a voxel of the tomogram."""
    is_within = (points_zyx_vox > -0.5) & (points_zyx_vox < np.asarray(shape_zyx) - 0.5)
    return np.asarray(is_within.all(axis=1))


def _frame_of(points_zyx_vox: NDArray[np.float64], shape_zyx: Sequence[int]) -> str | None:
    """Return the name of the frame in which all points lie inside; None if it is none of those that are often meant."""
    for words, points in (
        ("x and z are exchanged: are the columns z, y, x?", points_zyx_vox[:, ::-1]),
        ("they count from the tomogram's centre: add half of its size.", points_zyx_vox + np.asarray(shape_zyx) / 2),
    ):
        if _is_inside(points, shape_zyx).all():
            return words
    return None
