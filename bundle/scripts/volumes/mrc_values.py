"""Whether the voxels of an MRC file are of the type and the byte order that its header states.

The header also states the minimum, maximum and mean of the voxels. Where these fit the voxels only in another type of
the same size, that type is taken, with a warning, unless neighbouring voxels are less alike in it. A header without
these numbers tells nothing; then two faults are recognised from the voxels alone: a wrong byte order, which is refused,
and whole numbers without sign under a mode with one, which are read right, with a warning. A sample of rows is enough,
so that a file is not read twice.
"""

from __future__ import annotations

import math
import warnings
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from scripts.errors import InputError, InputWarning
from scripts.file_pages import FilePages

SAMPLED_ROWS = 256
SAMPLED_PARTS = 16  # that are read one after the other
RANGES = ((-32768, 32767), (0, 65535))  # of types, which some programs state in place of statistics
TYPES_OF_SIZE = {1: ("u1", "i1"), 2: ("i2", "u2", "f2"), 4: ("f4",)}  # by bytes per voxel
ROUNDING = 0.01  # share of the stated range by which a voxel may lie outside of it
LEAST_RANGE = 0.2  # share of the stated range that a sample covers
MEAN_DIFFERENCE = 0.1  # share of the stated range; largest difference of a sample's mean from the stated one
EQUAL_MISFIT = 0.1  # of types that fit so equally well, the one whose neighbouring voxels are most alike is taken
LEAST_CORRELATION = 0.1  # of neighbouring voxels
SIGNIFICANT = 6.0  # standard errors
ALMOST = 0.8  # as alike; a wrong type may only shift or bend the values
LEAST_CHANGES = 0.005  # share of neighbours whose signs differ, so that they are no few hot voxels
WRAPPED = 2.0  # how many times as far apart such neighbours are where their sign is wrong


class Statistics(NamedTuple):
    """Minimum, maximum and mean of the voxels, as a header states them."""

    low: float
    high: float
    mean: float

    @property
    def is_stated(self) -> bool:
        """Return whether these are statistics at all: headers without them have 0, 0, 0 or a maximum below the rest."""
        return all(map(math.isfinite, self)) and self.low < self.high and self.low <= self.mean <= self.high

    def are_of(self, sample: NDArray[Any]) -> bool:
        """Return whether they are stated, and not just the range of a type of which a sample covers little."""
        if not self.is_stated or (self.low, self.high) not in RANGES:
            return self.is_stated
        values = _finite(sample)
        return values.size == 0 or float(np.ptp(values)) >= LEAST_RANGE * (self.high - self.low)


def settle_type(block: NDArray[Any], statistics: Statistics, name: str) -> NDArray[Any]:
    """Return the voxels of a file ``(sections, rows, columns)`` in the type and byte order that they really have.

    Args:
        block: the voxels in the type and byte order that the header states.
        statistics: of the header.
        name: name of the file in messages.

    Raises:
        InputError: the voxels make sense only in the other byte order, and the header's statistics do not settle it.
    """
    sample = _sample_of(block)
    if statistics.are_of(sample):
        stated = f"the header states values from {statistics.low:g} to {statistics.high:g}"
        dtype = _best_type(sample, statistics)
        if dtype != block.dtype:
            reading = f"the voxels fit as {_words_for(dtype)}, not as {_words_for(block.dtype)}, and are read so"
            warnings.warn(f"{name}: {stated}; {reading}.", InputWarning, stacklevel=4)
            return block.view(dtype)
        if _misfit(sample, statistics) < math.inf:
            return block
        if _exceeds(sample, statistics):
            causes = f"these are out of date, or the voxels are not {_words_for(block.dtype)}"
            warnings.warn(f"{name}: {stated}, the voxels exceed them: {causes}.", InputWarning, stacklevel=4)
    if block.dtype.itemsize > 1 and _is_swapped(sample):
        raise InputError(f"{name}: its values make sense only in the byte order that its header does not have.")
    if _is_wrapped(sample):
        dtype = _unsigned(block.dtype)
        fact = f"neighbouring voxels are close to each other as {dtype.name}, not as {block.dtype.name}"
        warnings.warn(f"{name}: {fact}, which its mode means, and are read so.", InputWarning, stacklevel=4)
        return block.view(dtype)
    return block


def _best_type(sample: NDArray[Any], statistics: Statistics) -> np.dtype[Any]:
    """Return the type in which a sample fits the statistics; its own where that fits or no other is convincing."""
    views = [sample.view(dtype) for dtype in _types_like(sample.dtype)]
    misfits = [_misfit(view, statistics) for view in views]
    if min(misfits) == math.inf:
        return sample.dtype
    fitting = [view for view, misfit in zip(views, misfits, strict=True) if misfit <= min(misfits) + EQUAL_MISFIT]
    best = max(fitting, key=_alikeness)
    if any(view.dtype == sample.dtype for view in fitting):
        wanted = _clearly_above(sample)
    else:
        wanted = max(_least_alikeness(sample), ALMOST * _alikeness(sample))
    return best.dtype if _alikeness(best) > wanted else sample.dtype


def _sample_of(block: NDArray[Any]) -> NDArray[Any]:
    rows = block.reshape(-1, block.shape[-1])
    places = np.linspace(0, len(rows) - 1, min(len(rows), SAMPLED_ROWS)).astype(int)
    sample = np.empty((len(places), rows.shape[1]), dtype=rows.dtype)
    parts = np.array_split(np.arange(len(places)), SAMPLED_PARTS)
    for part in FilePages(block).after_each(parts):  # with the rows between, which the system has read as well
        sample[part] = rows[places[part]]
    return sample


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


def _misfit(sample: NDArray[Any], statistics: Statistics) -> float:
    """Return how far a sample is from the statistics, as a share of their range; infinite if it does not fit at all."""
    values, stated_range = _finite(sample), statistics.high - statistics.low
    if 2 * values.size <= sample.size or _exceeds(sample, statistics):
        return math.inf
    missing = 1 - float(np.ptp(values)) / stated_range
    difference = abs(float(values.mean()) - statistics.mean) / stated_range
    return max(missing, 0.0) + difference if missing <= 1 - LEAST_RANGE and difference <= MEAN_DIFFERENCE else math.inf


def _is_swapped(sample: NDArray[Any]) -> bool:
    """Return whether the voxels make sense only with their bytes swapped.

    float32 values in the wrong order are extreme, such as 1e-38 and 1e38. Of two-byte values the finer byte leads in
    the wrong order, so that neighbouring voxels are no longer alike.
    """
    swapped = sample.byteswap()
    if sample.dtype.itemsize == 4:
        return _share_of_ordinary(sample) < 0.8 and _share_of_ordinary(swapped) > 0.99
    return _alikeness(swapped) > _clearly_above(sample)


def _is_wrapped(sample: NDArray[Any]) -> bool:
    """Return whether the voxels ``(rows, columns)`` are whole numbers without sign that were taken for signed ones.

    Their upper half then lies below 0, so that neighbours on both sides of its border are far apart. Neighbours on both
    sides of 0 are close in a signed image. Correlations cannot tell this of smooth images, where few voxels lie at the
    border. Voxels of the commonest value are left out: padding lies far from the image in any type.
    """
    if sample.dtype.kind != "i":
        return False
    is_negative = sample < 0
    changes = (is_negative[:, 1:] != is_negative[:, :-1]) & _pairs_of_image(sample)
    if np.count_nonzero(changes) <= LEAST_CHANGES * changes.size:
        return False
    signed, unsigned = (
        float(np.abs(np.diff(view.astype(np.float64), axis=1))[changes].mean())
        for view in (sample, sample.view(_unsigned(sample.dtype)))
    )
    return signed > WRAPPED * unsigned


def _unsigned(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return np.dtype(dtype.str.replace("i", "u"))


def _least_alikeness(sample: NDArray[Any]) -> float:
    """Return from where on a correlation of neighbours is none of chance."""
    return max(LEAST_CORRELATION, SIGNIFICANT / math.sqrt(sample.size))


def _clearly_above(sample: NDArray[Any]) -> float:
    """Return from where on voxels in another type are clearly more alike than a sample's."""
    least = _least_alikeness(sample)
    return max(least, 2 * _alikeness(sample) + least / 2)


def _share_of_ordinary(values: NDArray[Any]) -> float:
    sizes = np.abs(values[values != 0])
    return float(np.mean((sizes > 1e-20) & (sizes < 1e20))) if sizes.size else 0.0


def _alikeness(sample: NDArray[Any]) -> float:
    """Return how much each voxel ``(rows, columns)`` tells about the next one in its row: the size of the correlation.

    Values beyond the percentiles 1 and 99 are clipped, so that hot voxels do not decide. Voxels of the
    commonest value are left out: padding is alike in any type. Equal voxels give 0.
    """
    with np.errstate(invalid="ignore"):  # NaN of any kind
        values = np.nan_to_num(sample.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    values = np.clip(values, *np.percentile(values, (1, 99)))
    is_pair = _pairs_of_image(sample)
    here, beside = values[:, :-1][is_pair], values[:, 1:][is_pair]
    if here.size == 0 or np.ptp(here) == 0 or np.ptp(beside) == 0:
        return 0.0
    return abs(float(np.corrcoef(here, beside)[0, 1]))


def _pairs_of_image(sample: NDArray[Any]) -> NDArray[np.bool_]:
    """Return ``(rows, columns - 1)``: whether neither a voxel nor the next one has the sample's commonest value."""
    bits = sample.view(f"u{sample.itemsize}")
    distinct, counts = np.unique(bits, return_counts=True)
    is_image = bits != distinct[counts.argmax()]
    pairs: NDArray[np.bool_] = is_image[:, :-1] & is_image[:, 1:]
    return pairs
