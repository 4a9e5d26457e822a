"""Whether the voxels of an MRC file are of the type and the byte order that its header states.

The header also states the minimum, maximum and mean of the voxels. Where these contradict the voxels as they are read,
and fit them in another type of the same size, that type is taken, with a warning. A header without these numbers tells
nothing; then only a wrong byte order is recognised, from the voxels alone, and refused. A sample of rows is enough for
both, so that a file is not read twice.
"""

from __future__ import annotations

import math
import warnings
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from scripts.errors import InputError, InputWarning

SAMPLED_ROWS = 256
TYPES_OF_SIZE = {1: ("u1", "i1"), 2: ("i2", "u2", "f2"), 4: ("f4",)}  # by bytes per voxel
ROUNDING = 0.01  # share of the stated range by which a voxel may lie outside of it
LEAST_RANGE = 0.2  # share of the stated range that a sample covers
MEAN_DIFFERENCE = 0.1  # share of the stated range; largest difference of a sample's mean from the stated one
LEAST_CORRELATION = 0.1  # of neighbouring voxels
SIGNIFICANT = 6.0  # standard errors


class Statistics(NamedTuple):
    """Minimum, maximum and mean of the voxels, as a header states them."""

    low: float
    high: float
    mean: float

    @property
    def is_stated(self) -> bool:
        """Return whether these are statistics at all: headers without them have 0, 0, 0 or a maximum below the rest."""
        return all(map(math.isfinite, self)) and self.low < self.high and self.low <= self.mean <= self.high


def settle_type(block: NDArray[Any], statistics: Statistics, name: str) -> NDArray[Any]:
    """Return the voxels of a file ``(sections, rows, columns)`` in the type and byte order that they really have.

    Args:
        block: the voxels in the type and byte order that the header states.
        statistics: of the header.
        name: name of the file in messages.

    Raises:
        InputError: the voxels make sense only in the other byte order, and the header has no statistics.
    """
    sample = _sample_of(block)
    if statistics.is_stated and not _fits(sample, statistics):
        stated = f"the header states values from {statistics.low:g} to {statistics.high:g}"
        for dtype in _types_like(block.dtype):
            if _fits(sample.view(dtype), statistics):
                reading = f"they fit as {_words_for(dtype)}, not as {_words_for(block.dtype)}, and are read so"
                warnings.warn(f"{name}: {stated}; {reading}.", InputWarning, stacklevel=4)
                return block.view(dtype)
        if _exceeds(sample, statistics):
            causes = f"these are out of date, or the voxels are not {_words_for(block.dtype)}"
            warnings.warn(f"{name}: {stated}, the voxels exceed them: {causes}.", InputWarning, stacklevel=4)
    if block.dtype.itemsize > 1 and _is_swapped(sample):
        raise InputError(f"{name}: its values make sense only in the byte order that its header does not have.")
    return block


def _sample_of(block: NDArray[Any]) -> NDArray[Any]:
    rows = block.reshape(-1, block.shape[-1])
    places = np.linspace(0, len(rows) - 1, min(len(rows), SAMPLED_ROWS)).astype(int)
    return np.take(rows, places, axis=0)


def _types_like(dtype: np.dtype[Any]) -> list[np.dtype[Any]]:
    """Return all types of the same size, first in the same byte order, and in each order this type first."""
    names = sorted(TYPES_OF_SIZE[dtype.itemsize], key=lambda name: name != dtype.str[1:])
    orders = dtype.byteorder, dtype.newbyteorder("S").byteorder
    return [np.dtype(name).newbyteorder(order) for order in orders for name in names]


def _words_for(dtype: np.dtype[Any]) -> str:
    return dtype.name if dtype.itemsize == 1 else f"{'little' if dtype.str[0] == '<' else 'big'}-endian {dtype.name}"


def _finite(sample: NDArray[Any]) -> NDArray[np.float64]:
    with np.errstate(invalid="ignore"):  # NaN of any kind
        values: NDArray[np.float64] = sample.astype(np.float64).ravel()
    return values[np.isfinite(values)]


def _exceeds(sample: NDArray[Any], statistics: Statistics) -> bool:
    values, slack = _finite(sample), ROUNDING * (statistics.high - statistics.low)
    return bool(((values < statistics.low - slack) | (values > statistics.high + slack)).any())


def _fits(sample: NDArray[Any], statistics: Statistics) -> bool:
    values, stated_range = _finite(sample), statistics.high - statistics.low
    return (
        2 * values.size > sample.size
        and not _exceeds(sample, statistics)
        and bool(np.ptp(values) >= LEAST_RANGE * stated_range)
        and abs(float(values.mean()) - statistics.mean) <= MEAN_DIFFERENCE * stated_range
    )


def _is_swapped(sample: NDArray[Any]) -> bool:
    """Return whether the voxels make sense only with their bytes swapped.

    float32 values in the wrong order are extreme, such as 1e-38 and 1e38. Of two-byte values the finer byte leads in
    the wrong order, so that neighbouring voxels are no longer alike.
    """
    swapped = sample.byteswap()
    if sample.dtype.itemsize == 4:
        return _share_of_ordinary(sample) < 0.8 and _share_of_ordinary(swapped) > 0.99
    alike, alike_swapped = (abs(_correlation_of_neighbours(values)) for values in (sample, swapped))
    least = max(LEAST_CORRELATION, SIGNIFICANT / math.sqrt(sample.size))
    return alike_swapped > least and alike_swapped > 2 * alike + least / 2


def _share_of_ordinary(values: NDArray[Any]) -> float:
    sizes = np.abs(values[values != 0])
    return float(np.mean((sizes > 1e-20) & (sizes < 1e20))) if sizes.size else 0.0


def _correlation_of_neighbours(sample: NDArray[Any]) -> float:
    """Return the correlation of each voxel ``(rows, columns)`` with the next one in its row; 0 where all are equal.

    Values beyond the percentiles 1 and 99 are clipped, so that hot voxels do not decide.
    """
    values = np.nan_to_num(sample.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    values = np.clip(values, *np.percentile(values, (1, 99)))
    values -= values.mean()
    variance = float(np.mean(values**2))
    return float(np.mean(values[:, 1:] * values[:, :-1])) / variance if variance and values.shape[1] > 1 else 0.0
