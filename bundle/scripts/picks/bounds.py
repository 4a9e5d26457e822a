"""Do points lie in their tomogram? Where they do not, a unit or a frame was mistaken."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from scripts.errors import InputError, InputWarning

MOST = 0.5  # more of the points than this outside is a mistake
CORNER, MIN_POINTS = 5, 5  # so many points in so small a share of every axis are suspicious
QUESTIONS = {"angstrom": "are they voxels, not Å?", "voxel": "are they Å, not voxels, or is the binning another?"}


def check_inside(
    points_zyx_vox: NDArray[np.float64],
    shape_zyx: Sequence[int],
    source: str,
    unit: Literal["angstrom", "voxel"] = "angstrom",
    allow_outside: bool = False,
) -> None:
    """Warn of points outside of a tomogram and of points crowded into its first corner; refuse most of them outside.

    Args:
        points_zyx_vox: ``(N, 3)`` voxel indices.
        shape_zyx: ``(Z, Y, X)`` of the tomogram.
        source: what to call the points in a message: their file.
        unit: what they were read as.
        allow_outside: warn of any number outside.

    Raises:
        InputError: more than half of the points lie outside.
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
