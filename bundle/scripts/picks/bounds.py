"""Check that points lie in their tomogram; if they do not, a unit or a coordinate frame is probably wrong."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from scripts.errors import InputError, InputWarning

MOST = 0.5  # a larger fraction of points outside is an error
CORNER, MIN_POINTS = 5, 5  # MIN_POINTS or more points that all lie in the first 1 / CORNER of every axis are suspicious
QUESTIONS = {"angstrom": "are they voxels, not Å?", "voxel": "are they Å, not voxels, or is the binning another?"}


def check_inside(
    points_zyx_vox: NDArray[np.float64],
    shape_zyx: Sequence[int],
    source: str,
    unit: Literal["angstrom", "voxel"] = "angstrom",
    allow_outside: bool = False,
) -> None:
    """Warn if points lie outside of their tomogram, or all of them in its first corner; refuse if most lie outside.

    Args:
        points_zyx_vox: ``(N, 3)`` voxel indices.
        shape_zyx: ``(Z, Y, X)`` of the tomogram.
        source: name of the points in messages: their file.
        unit: the unit that they were read in.
        allow_outside: only warn, however many points lie outside.

    Raises:
        InputError: more than half of the points lie outside, and ``allow_outside`` is off.
    """
    if len(points_zyx_vox) == 0:
        return
    shape = np.asarray(shape_zyx)
    outside = ((points_zyx_vox <= -0.5) | (points_zyx_vox >= shape - 0.5)).any(axis=1)
    if outside.mean() > MOST:
        found = f"{source}: {outside.mean():.0%} of the points lie outside the tomogram; {QUESTIONS[unit]}"
        if not allow_outside:
            raise InputError(found)
        warnings.warn(found, InputWarning, stacklevel=2)
    elif outside.any():
        warnings.warn(f"{source}: {outside.sum()} points lie outside the tomogram.", InputWarning, stacklevel=2)
    if unit == "angstrom" and len(points_zyx_vox) >= MIN_POINTS and (points_zyx_vox < shape / CORNER).all():
        found = f"{source}: all points lie in the first {1 / CORNER:.0%} of every axis; {QUESTIONS[unit]}"
        warnings.warn(found, InputWarning, stacklevel=2)
