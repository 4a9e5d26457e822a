"""Scale grey values for the network: two percentiles of the image become 0 and 1.

Padding is no image, and neither are voxels far outside of the rest, such as those of gold beads: they are left out of
the percentiles. Padding that is brighter or darker than the image then takes its median, so that its border is
no edge.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from numpy.typing import NDArray
from torch import Tensor

from scripts.errors import InputError, InputWarning, NoContrastWarning
from scripts.file_pages import FilePages, new_volume, slabs_of
from scripts.preparation.image_facts import source_of
from scripts.preparation.padding import Padding, find_padding, padded_in_plane, planes_of

logger = logging.getLogger(__name__)

MAX_NON_FINITE_SHARE = 0.1
MIN_GREY_VALUES = 9  # label maps of a handful of species have fewer, tomograms of 8 bits more
MOST_CHANGES = 0.5  # share of the voxels of a label map that differ from the next one; of noise more do
ALMOST_ALL = 0.99
CHUNK_VOXELS = 2**16  # few enough that a chunk stays in the processor's cache from one operation to the next
SAMPLE_STEP = 499  # every such voxel of a chunk is sampled; a prime, so that no axis length is a multiple of it
BRACKET_WIDTH = 6.0  # standard errors of a sampled percentile on either side of it
TAIL_PERCENT = 6.0  # the distance of this percentile from the median measures how far values reach on either side
FAR = 12.0  # times that distance: 18 standard deviations of noise
LEAST_FAR_SHARE = 0.002  # of the voxels; fewer move no percentile by much

Bracket = tuple[float, float]
Tally = tuple[int, int, NDArray[np.float32], int]  # voxels below low, up to low; values between; voxels up to high


def is_finite(volume: NDArray[Any]) -> bool:
    """Return whether no voxel of a volume of any shape is NaN or infinite."""
    return volume.dtype.kind != "f" or all(np.isfinite(chunk).all() for chunk in _chunks_of(volume))


def replace_non_finite(volume: NDArray[np.float32], source: str) -> int:
    """Replace NaN and infinity by the median of the finite voxels, in place; return how many there were.

    Args:
        volume: any shape.
        source: the file, for the message.

    Raises:
        InputError: more than a tenth of the voxels are not finite.
    """
    count = _count_where(volume, lambda chunk: ~np.isfinite(chunk))
    if count > MAX_NON_FINITE_SHARE * volume.size:
        raise InputError(f"{source}: {count} of {volume.size} voxels are NaN or infinite; this is no usable tomogram.")
    if count == 0:
        return 0
    whole = without_leading_axes(volume)
    for slab in slabs_of(whole):  # the lowest voxels, so that the others are not copied
        whole[slab][~np.isfinite(whole[slab])] = -np.inf
    (median,) = percentiles_of(volume, [50], LeftOut(lowest=count))
    for slab in slabs_of(whole):
        whole[slab][np.isneginf(whole[slab])] = median
    warnings.warn(f"{source}: replaced {count} NaN or infinite voxels by the median.", InputWarning, stacklevel=2)
    return count


def refuse_few_grey_values(volume: NDArray[Any], source: str) -> None:
    """Refuse a volume with so few different values that it is a mask or a label map, given in place of its tomogram.

    Refused and not picked with a warning, because the network finds particles at the borders of a mask. A noisy
    tomogram that was rounded to so few values is none: most of its voxels differ from the next one.

    Args:
        volume: any shape, finite.
        source: the file, for the message.

    Raises:
        InputError: there are fewer than `MIN_GREY_VALUES` different values, and fewer than voxels, in areas. A volume
            that is constant but for a few voxels is another fault.
    """
    found: set[float] = set()
    for chunk in _chunks_of(volume):
        found.update(np.unique(chunk).tolist())
        if len(found) >= min(MIN_GREY_VALUES, volume.size):
            return
    commonest = max(_count_where(volume, partial(np.equal, value)) for value in map(np.float32, found))
    changes = sum(int(np.count_nonzero(np.diff(chunk))) for chunk in _chunks_of(volume))
    if commonest > ALMOST_ALL * volume.size or changes > MOST_CHANGES * volume.size:
        return
    listed = ", ".join(f"{value:g}" for value in sorted(found))
    fact = f"holds only {len(found)} different grey values ({listed})"
    raise InputError(f"{source} {fact}: it is a mask or a label map, not a tomogram. Set dataset_dir to the tomogram.")


@dataclass(frozen=True)
class LeftOut:
    """Voxels of a volume that are no image.

    Attributes:
        lowest: number of the lowest voxels that are left out.
        highest: number of the highest.
        padding: voxels of one value between these, of which `padding_rank` counts the voxels of the volume before them
            in rising order.
        padding_rank: see `padding`.
    """

    lowest: int = 0
    highest: int = 0
    padding: int = 0
    padding_rank: int = 0

    def rank_in_volume(self, rank: int) -> int:
        """Return the rank in the sorted volume of a rank in the sorted image."""
        rank += self.lowest
        return rank + self.padding if rank >= self.padding_rank else rank


ALL_COUNT = LeftOut()


def percentiles_of(
    volume: NDArray[Any],
    percents: Sequence[float],
    left_out: LeftOut = ALL_COUNT,
    sorted_sample: NDArray[np.float32] | None = None,
) -> tuple[float, ...]:
    """Return percentiles of the voxels as float32, the numbers that ``np.percentile`` returns, bit for bit.

    The values on either side of a percentile are found by counting, see `_values_at`; NumPy interpolates between them.

    Args:
        volume: any shape, at least one voxel; any type of real numbers, possibly memory-mapped. It is not copied.
        percents: 0 to 100.
        left_out: voxels that do not count; at least one has to be left.
        sorted_sample: some of all voxels in rising order, see `sorted_sample_of`; None draws them.

    Returns:
        One for each of ``percents``; all NaN if a voxel is NaN.
    """
    size = volume.size - left_out.lowest - left_out.highest - left_out.padding
    places = (size - 1) * (np.asarray(percents, dtype=np.float64) / 100)
    below = np.floor(places).astype(np.int64)
    above = np.minimum(below + 1, size - 1)
    ranks = [[left_out.rank_in_volume(rank) for rank in side.tolist()] for side in (below, above)]
    sample = sorted_sample_of(volume) if sorted_sample is None else sorted_sample
    values = _values_at(volume, [*ranks[0], *ranks[1]], sample)
    return tuple(
        float(np.quantile(np.array([values[first], values[second]], dtype=np.float32), np.array([share]))[0])
        for first, second, share in zip(*ranks, (places - below).tolist(), strict=True)
    )


def find_left_out(
    volume: NDArray[Any], sorted_sample: NDArray[np.float32], source: str
) -> tuple[LeftOut, Padding | None]:
    """Return which voxels of a volume are no image, and its padding; the log and a warning say what was found.

    Args:
        volume: any shape, finite.
        sorted_sample: some of its voxels in rising order.
        source: the file, for messages.
    """
    sample, padding = sorted_sample, find_padding(volume, sorted_sample)
    padded = 0 if padding is None else padding.voxels
    if padding is not None:
        sample = sample[sample != np.float32(padding.value)]
        logger.info("%s: %.1f %% of the voxels are padding", source, 100 * padded / volume.size)
    low, high = _far_limits(sample)
    lowest = 0 if low == -math.inf else _count_where(volume, lambda chunk: chunk < low)
    highest = 0 if high == math.inf else _count_where(volume, lambda chunk: chunk > high)
    far = lowest + highest
    if padding is None or not low <= padding.value <= high:  # padding in the tails is left out with them
        far, left_out = far - padded, LeftOut(lowest, highest)
    else:
        value = np.float32(padding.value)
        rank = _count_where(volume, lambda chunk: chunk <= value) - padded
        left_out = LeftOut(lowest, highest, padded, rank)
    if far > 0:
        share = 100 * far / (volume.size - padded)
        warnings.warn(
            f"{source}: {share:.1f} % of the voxels are far brighter or darker than all others, as gold beads are: "
            "they are left out of the scaling, and picks on or beside them are doubtful.",
            InputWarning,
            stacklevel=2,
        )
    return left_out, padding


def _far_limits(sorted_sample: NDArray[np.float32]) -> tuple[float, float]:
    """Return two values beyond which a voxel is far outside of the rest; infinite where few or none are."""
    if len(sorted_sample) == 0:
        return -math.inf, math.inf
    values = sorted_sample.astype(np.float64)  # the limits may lie beyond float32
    tails = np.percentile(values, [TAIL_PERCENT, 50, 100 - TAIL_PERCENT])
    low, high = (float(tails[1] + FAR * (tail - tails[1])) for tail in (tails[0], tails[2]))
    far = (values < low).sum() + (values > high).sum()
    is_flat = tails[0] == tails[1] or tails[1] == tails[2]  # too few grey values to tell
    return (-math.inf, math.inf) if is_flat or far < LEAST_FAR_SHARE * len(values) else (low, high)


def _count_where(volume: NDArray[Any], is_wanted: Callable[[NDArray[np.float32]], NDArray[np.bool_]]) -> int:
    """Return for how many voxels a condition holds."""
    return sum(int(np.count_nonzero(is_wanted(chunk))) for chunk in _chunks_of(volume))


def scale_between(
    volume: NDArray[Any], low: float, high: float, out: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """Clip a volume, or a slab of one, to two values and scale them to 0 and 1.

    Args:
        volume: any shape, finite; any type of real numbers, possibly memory-mapped.
        low: becomes 0.
        high: becomes 1; more than ``low``.
        out: receives the result, of the shape of ``volume``; may be ``volume`` itself. None makes a new array.
    """
    scaled = np.empty(volume.shape, dtype=np.float32) if out is None else out
    is_wide = high - low > np.finfo(np.float32).max / 2  # the difference would overflow float32
    shrink = 4 if is_wide else 1
    start, width = np.float32(low / shrink), np.float32(high / shrink - low / shrink)
    chunks = np.nditer(
        [volume, scaled],
        flags=["external_loop", "buffered", "zerosize_ok"],
        op_flags=[["readonly"], ["writeonly"]],
        op_dtypes=[np.float32, np.float32],
        casting="unsafe",
        buffersize=CHUNK_VOXELS,
    )
    with chunks:
        for chunk, target in chunks:
            np.clip(chunk, low, high, out=target)
            if is_wide:
                target *= np.float32(0.25)
            target -= start
            target /= width
            np.clip(target, 0, 1, out=target)
    return scaled


def scale_percentiles(
    volume: NDArray[Any],
    lower: float = 1.0,
    upper: float = 99.0,
    source: str = "volume",
    invert: bool = False,
    memory_gib: float | None = None,
) -> NDArray[np.float32]:
    """Clip a volume to two of its percentiles and scale them to 0 and 1.

    Args:
        volume: any shape and type; NaN and infinite voxels are replaced first, see `replace_non_finite`.
        lower: percentile that becomes 0.
        upper: percentile that becomes 1.
        source: the file, for messages.
        invert: swap 0 and 1, for dark particles; a volume without contrast stays 0.
        memory_gib: of the whole program: a result that takes too much of it is kept in a file, see `file_pages`.

    Returns:
        A new float32 array; all 0, with a warning, where the two percentiles are the same value. See the module for
        padding and for voxels far outside of the rest.

    Raises:
        InputError: too many voxels are not finite, or there are too few different values.
    """
    scaled = new_volume(volume.shape, memory_gib)
    if not is_finite(volume):
        np.copyto(scaled, volume, casting="unsafe")
        volume = scaled
        replace_non_finite(scaled, source)
    refuse_few_grey_values(volume, source)
    sample = sorted_sample_of(volume)
    left_out, padding = find_left_out(volume, sample, source)
    low, high = percentiles_of(volume, (lower, upper), left_out, sample)
    if not high > low:
        what = "constant" if volume.min() == volume.max() else f"constant between percentiles {lower} and {upper}"
        warnings.warn(f"{source} is {what}: nothing can be picked in it.", NoContrastWarning, stacklevel=2)
        scaled.fill(0)
        return scaled
    single, result = without_leading_axes(volume), without_leading_axes(scaled)
    fill = None
    if padding is not None and not low < padding.value < high:
        fill = (percentiles_of(volume, [50], left_out, sample)[0] - low) / (high - low)
    for slab in FilePages(volume).after_each(slabs_of(result)):
        scale_between(single[slab], low, high, result[slab])
        if padding is not None and fill is not None:
            for plane, scaled_plane in zip(planes_of(single[slab]), planes_of(result[slab]), strict=True):
                scaled_plane[padded_in_plane(plane, padding.value)] = fill
        if invert:
            np.subtract(1, result[slab], out=result[slab])
    return scaled


def without_leading_axes(volume: NDArray[Any]) -> NDArray[Any]:
    """Return a view of a volume of one axis at least, without leading axes of length 1."""
    volume = np.atleast_1d(volume)
    while volume.ndim > 1 and len(volume) == 1:
        volume = volume[0]
    return volume


def _chunks_of(volume: NDArray[Any]) -> Iterator[NDArray[np.float32]]:
    """Return all voxels as float32, some at a time, in the order of the memory; a chunk is valid until the next."""
    flags: Any = ["external_loop", "buffered", "zerosize_ok"]
    volume = without_leading_axes(volume)
    for slab in slabs_of(volume):
        yield from np.nditer(volume[slab], flags, op_dtypes=[np.float32], casting="unsafe", buffersize=CHUNK_VOXELS)


def sorted_sample_of(volume: NDArray[Any]) -> NDArray[np.float32]:
    """Return every `SAMPLE_STEP`-th voxel of a volume of any shape, in rising order."""
    return np.sort(np.concatenate([chunk[::SAMPLE_STEP].copy() for chunk in _chunks_of(volume)]))


def _values_at(volume: NDArray[Any], ranks: Iterable[int], sample: NDArray[np.float32]) -> dict[int, float]:
    """Return the float32 values at some ranks of the sorted voxels; NaN at all ranks if a voxel is NaN.

    The sample, in rising order, brackets every value. One pass counts the voxels below a bracket and gathers those
    inside. For a value that its bracket missed, a second pass gathers all voxels on that side: slower, but as exact.
    Voxels equal to an end of the bracket are counted and not gathered, so that many equal voxels take no memory.
    """
    brackets = {rank: _bracket_around(rank / volume.size, sample) for rank in ranks}
    values: dict[int, float] = {}
    while brackets:
        tallies = _count(volume, set(brackets.values()))
        if tallies is None:
            return dict.fromkeys(ranks, math.nan)
        missed = {}
        for rank, (low, high) in brackets.items():
            below, up_to_low, inside, up_to_high = tallies[low, high]
            if rank < below:
                missed[rank] = (-math.inf, low)
            elif rank < up_to_low:
                values[rank] = low
            elif rank < up_to_low + len(inside):
                place = rank - up_to_low
                values[rank] = float(np.partition(inside, place)[place])
            elif rank < up_to_high:
                values[rank] = high
            else:
                missed[rank] = (high, math.inf)
        brackets = missed
    return values


def _bracket_around(share: float, sorted_sample: NDArray[np.float32]) -> Bracket:
    """Return two values between which the value at a share of all sorted voxels almost certainly lies."""
    count = len(sorted_sample)
    middle, margin = share * count, 1 + BRACKET_WIDTH * math.sqrt(share * (1 - share) * count)
    first, last = math.floor(middle - margin), math.ceil(middle + margin)
    low = float(sorted_sample[first]) if first >= 0 else -math.inf
    high = float(sorted_sample[last]) if last < count else math.inf
    return low, high


def _count(volume: NDArray[Any], brackets: Iterable[Bracket]) -> dict[Bracket, Tally] | None:
    """Return the counts and the gathered voxels of all brackets, see `Tally`; None if a voxel is NaN."""
    counts = {bracket: np.zeros(3, dtype=np.int64) for bracket in brackets}
    gathered: dict[Bracket, list[NDArray[np.float32]]] = {bracket: [] for bracket in counts}
    for chunk in _chunks_of(volume):
        if np.isnan(chunk.max()):
            return None
        for (low, high), count in counts.items():
            count += [np.count_nonzero(found) for found in (chunk < low, chunk <= low, chunk <= high)]
            gathered[low, high].append(chunk[(chunk > low) & (chunk < high)])
    return {
        bracket: (int(below), int(up_to_low), np.concatenate(gathered[bracket]), int(up_to_high))
        for bracket, (below, up_to_low, up_to_high) in counts.items()
    }


class ScalePercentilesd(MapTransform):
    """Clip a whole volume to two percentiles and scale them to 0 and 1, see `scale_percentiles`.

    Args:
        keys: volumes ``(1, Z, Y, X)``.
        lower: percentile that becomes 0.
        upper: percentile that becomes 1.
        invert: swap 0 and 1, for dark particles.
        memory_gib: see `scale_percentiles`.
    """

    unrecorded = ("memory_gib",)

    def __init__(
        self,
        keys: KeysCollection,
        lower: float = 1.0,
        upper: float = 99.0,
        invert: bool = False,
        memory_gib: float | None = None,
    ) -> None:
        super().__init__(keys)
        if not 0 <= lower < upper <= 100:
            raise ValueError(f"percentiles need 0 <= lower < upper <= 100; got {lower} and {upper}.")
        self.lower, self.upper, self.invert, self.memory_gib = lower, upper, invert, memory_gib

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the sample with the volumes scaled."""
        sample = dict(data)
        for key in self.key_iterator(sample):
            volume = sample[key]
            values = np.asarray(volume.cpu() if isinstance(volume, Tensor) else volume, dtype=np.float32)
            settings = (self.lower, self.upper, source_of(volume), self.invert, self.memory_gib)
            scaled = torch.from_numpy(scale_percentiles(values, *settings))
            sample[key] = (
                MetaTensor(scaled, meta=volume.meta).to(volume.device) if isinstance(volume, MetaTensor) else scaled
            )
        return sample
