"""Padding: the constant part of a volume that holds no image, such as the border of a rotated tomogram.

Padding has one value. Whole planes of it around the image are cut off, so that a padded tomogram is picked like its
image alone. Other padding is told from image voxels of the same value, of which there are many in files of 8 bits, by
long straight runs along x or y.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from monai.data import MetaTensor
from monai.transforms import MapTransform, SpatialCrop
from numpy.typing import NDArray

from scripts.file_pages import slabs_of
from scripts.preparation.image_facts import source_of

logger = logging.getLogger(__name__)

LEAST_SHARE = 0.003  # of the voxels; less padding moves no percentile by much
EXCESS = 1.5  # how many times as common as the next values padding is; in 8 bits, the commonest value is less so
COUNT_DEVIATIONS = 3.0  # of a count that may be chance
ENOUGH_VALUES = 100_000  # to tell how common one is
MOST_CLIPPED = 0.03  # of the image voxels, at one end; where more are equal, they were clipped there, the runs too
RUN_VOXELS = 16  # so many voxels of one value in a row are no image


def box_of_image(volume: NDArray[Any]) -> tuple[slice, ...]:
    """Return the box of a volume ``(Z, Y, X)`` outside of which it is padding: whole planes of one value.

    Such planes hold the first or the last voxel, and with it a whole row or column beside it.

    Args:
        volume: any real numbers, possibly memory-mapped.

    Returns:
        The slices of z, y and x, of the whole volume where it is constant or too thin to tell.
    """
    box = tuple(slice(0, size) for size in volume.shape)
    if math.prod(sorted(volume.shape)[:2]) < RUN_VOXELS:
        return box
    for corner in (0, -1):
        plane = volume[box][corner]
        value = plane[corner, corner]
        if _equals(plane[corner], value).all() or _equals(plane[:, corner], value).all():
            inner = _box_of_others(volume[box], value)
            box = tuple(slice(o.start + i.start, o.start + i.stop) for o, i in zip(box, inner, strict=True))
    return box


def _equals(values: NDArray[Any], value: Any) -> NDArray[np.bool_]:
    """Return which voxels have a value; NaN is one, too."""
    answer: NDArray[np.bool_] = np.isnan(values) if np.isnan(value) else values == value
    return answer


def _box_of_others(volume: NDArray[Any], value: Any) -> tuple[slice, ...]:
    """Return the bounding box of the voxels of a volume ``(Z, Y, X)`` that differ from a value; all if none does."""
    layers, rows, columns = (np.zeros(size, dtype=bool) for size in volume.shape)
    for slab in slabs_of(volume):
        for z in range(slab.start, slab.stop):
            differs = ~_equals(volume[z], value)
            in_rows = differs.any(axis=1)
            layers[z] = in_rows.any()
            rows |= in_rows
            columns |= differs.any(axis=0)
    if not layers.any():
        return tuple(slice(0, size) for size in volume.shape)
    found = (np.flatnonzero(places) for places in (layers, rows, columns))
    return tuple(slice(int(places[0]), int(places[-1]) + 1) for places in found)


@dataclass(frozen=True)
class Padding:
    """The padding of a volume.

    Attributes:
        value: of its voxels.
        voxels: their number.
    """

    value: float
    voxels: int


def find_padding(volume: NDArray[Any], sorted_sample: NDArray[np.float32]) -> Padding | None:
    """Return the padding of a volume ``(..., Y, X)``, or None.

    Args:
        volume: any real numbers, finite.
        sorted_sample: some of its voxels, in rising order.
    """
    value = too_common_value(sorted_sample)
    if value is None or volume.ndim < 2:
        return None
    voxels = sum(int(padded_in_plane(plane, value).sum()) for plane in planes_of(volume))
    image = volume.size - voxels
    if voxels < LEAST_SHARE * volume.size or image == 0:
        return None
    if value in (sorted_sample[0], sorted_sample[-1]):
        others = sum(int(np.count_nonzero(plane == value)) for plane in planes_of(volume)) - voxels
        if others > MOST_CLIPPED * image:
            return None
    return Padding(value, voxels)


def planes_of(volume: NDArray[Any]) -> NDArray[Any]:
    """Return a view ``(N, Y, X)`` of a volume ``(..., Y, X)``."""
    return volume.reshape(-1, *volume.shape[-2:])


def padded_in_plane(plane: NDArray[Any], value: float) -> NDArray[np.bool_]:
    """Return which voxels of a plane ``(Y, X)`` are padding of this value."""
    equal: NDArray[np.bool_] = plane == value
    if not equal.any():
        return equal
    return _in_runs(equal) | _in_runs(equal.T).T


def _in_runs(equal: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return which voxels ``(Y, X)`` lie in runs of `RUN_VOXELS` along x."""
    inside = np.zeros_like(equal)
    width = equal.shape[1]
    if width < RUN_VOXELS:
        return inside
    starts, length = equal, 1
    while length < RUN_VOXELS:
        step = min(length, RUN_VOXELS - length)
        starts, length = starts[:, :-step] & starts[:, step:], length + step
    spread, length = starts, 1
    while length < RUN_VOXELS:
        step = min(length, RUN_VOXELS - length)
        wider = np.zeros((len(equal), spread.shape[1] + step), dtype=bool)
        wider[:, : spread.shape[1]] = spread
        wider[:, step:] |= spread
        spread, length = wider, length + step
    return spread


def too_common_value(values: NDArray[np.floating[Any]]) -> float | None:
    """Return the value that is far more common than the next lower and the next higher one, if any is."""
    distinct, counts = np.unique(values, return_counts=True)
    if len(distinct) < 2:
        return None
    beside = np.maximum(np.append(0, counts[:-1]), np.append(counts[1:], 0))
    chance = COUNT_DEVIATIONS * np.sqrt(beside + 1)
    is_padding = counts > np.maximum(EXCESS * beside, beside + LEAST_SHARE * values.size) + chance
    return float(distinct[(counts * is_padding).argmax()]) if is_padding.any() else None


def scaled_padding(values: NDArray[np.floating[Any]]) -> float | None:
    """Return the value of the padding among voxels of a scaled volume, or None.

    There padding lies inside the range of the image; many voxels have its ends, because they were clipped.
    """
    flat = values.ravel()
    some = flat[:: flat.size // ENOUGH_VALUES | 1]  # an odd step meets every column of an even width
    return too_common_value(some[(some > some.min()) & (some < some.max())]) if some.size else None


def without_padding(values: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    """Return some voxels of a scaled volume as ``(N,)``, without those that have the padding's value."""
    value, flat = scaled_padding(values), values.ravel()
    return flat if value is None else flat[flat != value]


class CropPaddingd(MapTransform):
    """Cut off whole planes of padding around the image, see `box_of_image`; others are left to the scaling.

    The affine moves along, so that picks are given in the coordinates of the tomogram as it was read, see
    `image_facts.ImageFacts`.

    Args:
        keys: volumes ``(1, Z, Y, X)`` as they were read.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the sample with the images alone; a volume without padding is not changed."""
        sample = dict(data)
        for key in self.key_iterator(sample):
            volume: MetaTensor = sample[key]
            image = SpatialCrop(roi_slices=box_of_image(volume.numpy()[0]))(volume)
            if image.shape != volume.shape:
                share = 100 * (1 - image.numel() / volume.numel())
                logger.info("%s: %.1f %% of the voxels are padding around the image: cut off", source_of(volume), share)
                sample[key] = image
        return sample
