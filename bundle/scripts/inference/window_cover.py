"""Which windows cover a volume, how large they are, and how they are blended.

A window-independent network of stride ``s`` gives a voxel the same answer in every window that starts at a multiple of
``s`` and holds the voxel's surroundings. Therefore windows start at such multiples, and share a few voxels with their
neighbours, across which the weight passes from one to the other.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from scripts.file_pages import is_large

BASE_BYTES = 0.7 * 2**30  # the program itself with its libraries, and slabs of features
IN_USE_BYTES = 0.35 * 2**30  # of a volume that is kept in a file
IN_USE_LOGITS_BYTES = 0.1 * 2**30  # of logits that are kept in a file
LABEL_BYTES = 1  # per voxel, of the label map in which picks are drawn
VALUES_PER_VOXEL = 160  # that a network holds per voxel of a window, if it does not state it
UNUSED_SHARE = 0.3  # of the voxels that two windows share: those at the rim of either one count for nothing
LARGEST_COUNT = 64  # windows along an axis
SMALLEST_WINDOW = 64  # voxels along an axis, whatever the memory
LEAST_BYTES = 0.35 * 2**30  # for windows, however large the volume: smaller ones would share nearly everything


@dataclass(frozen=True)
class WindowPlan:
    """How a volume is cut into windows.

    Attributes:
        window_size: ``(z, y, x)`` in voxels.
        overlap: voxels that neighbouring windows share along each axis, at least.
        align: windows start at multiples of it.
        output_stride: voxels of the volume per voxel of the logits, along each axis.
        at_once: windows that are computed at a time.
    """

    window_size: tuple[int, ...]
    overlap: tuple[int, ...]
    align: int
    output_stride: int
    at_once: int = 1

    def in_words(self) -> str:
        """Return the size of the windows, and how many are computed at a time, for messages."""
        return f"windows of {' x '.join(map(str, self.window_size))} voxels, {self.at_once} at a time"


@dataclass(frozen=True)
class Window:
    """One window along one axis.

    Attributes:
        start: its first voxel in the volume, a multiple of the output stride.
        first: its first voxel in the volume of logits.
        weights: ``(N,)``, weight of each of its voxels there; those of all windows add up to 1 for every voxel.
    """

    start: int
    first: int
    weights: Tensor


def windows_along(
    size: int, window: int, overlap: int, align: int, output_stride: int, device: torch.device | None = None
) -> list[Window]:
    """Cover an axis with windows of equal size; the last one may reach beyond its end.

    Args:
        size: voxels of the volume.
        window: voxels of a window.
        overlap: voxels that a window shares with the next one, at least.
        align: windows start at multiples of it; a multiple of ``output_stride``.
        output_stride: voxels of the volume per voxel of the logits.
        device: where the weights are; the CPU if it is None.
    """
    starts = starts_along(size, window, overlap, align)
    total = -(-size // output_stride)
    ramp = max(overlap // output_stride, 1)
    spans = [(start // output_stride, min((start + window) // output_stride, total)) for start in starts]
    weights = [_hat(stop - first, ramp, first > 0, stop < total) for first, stop in spans]
    sums = torch.zeros(total)
    for (first, stop), hat in zip(spans, weights, strict=True):
        sums[first:stop] += hat
    return [
        Window(start, first, (hat / sums[first:stop]).to(device))
        for start, (first, stop), hat in zip(starts, spans, weights, strict=True)
    ]


def starts_along(size: int, window: int, overlap: int, align: int) -> list[int]:
    """Return the first voxels of as few windows as cover an axis, evenly distributed, at multiples of ``align``."""
    if window >= size:
        return [0]
    last = -(-(size - window) // align) * align
    step = max((window - overlap) // align * align, align)
    count = -(-last // step) + 1
    return [round(last * number / (count - 1) / align) * align for number in range(count)]


def voxels_computed(shape: Sequence[int], plan: WindowPlan) -> int:
    """Return how many voxels all windows of a volume ``(Z, Y, X)`` have, those that are shared counted as often."""
    sides = zip(shape, plan.window_size, plan.overlap, strict=True)
    return math.prod(window * len(starts_along(size, window, overlap, plan.align)) for size, window, overlap in sides)


def _hat(length: int, shared: int, rises: bool, falls: bool) -> Tensor:
    """Return weights that rise within the ``shared`` voxels at the start, and fall within those at the end, if asked.

    They are next to nothing at the rim, where a window lacks what is around it, see `UNUSED_SHARE`; never 0, because a
    window may be the only one there.
    """
    place = torch.arange(length) + 0.5
    far = torch.full_like(place, torch.inf)
    near = torch.minimum(place if rises else far, length - place if falls else far) / shared
    rise = ((near - UNUSED_SHARE) / (1 - 2 * UNUSED_SHARE)).clamp(0, 1)
    return torch.sin(rise * (math.pi / 2)).square() + 1e-6


def largest_window(shape: Sequence[int], overlap: int, align: int, most_voxels: float) -> tuple[int, int, int]:
    """Return the window that covers a volume with the fewest computed voxels.

    Args:
        shape: ``(Z, Y, X)`` of the volume.
        overlap: voxels that neighbouring windows share.
        align: sides of windows, and distances of their starts, are multiples of it.
        most_voxels: limit of a window.
    """

    def choices(size: int) -> list[tuple[int, int]]:  # side of a window, and the voxels that its windows compute
        sides = {-(-(size + (count - 1) * overlap) // count) for count in range(1, LARGEST_COUNT)}
        sides = {-(-side // align) * align for side in sides}
        smallest = min(SMALLEST_WINDOW, *(sides if max(sides) < SMALLEST_WINDOW else [SMALLEST_WINDOW]))
        sides = {side for side in sides if side >= smallest and side > overlap + align} or {max(sides)}
        return [(side, side * len(starts_along(size, side, overlap, align))) for side in sorted(sides)]

    best = min(
        itertools.product(*map(choices, shape)),
        key=lambda sides: (
            max(math.prod(side for side, _ in sides) / most_voxels, 1),
            math.prod(computed for _, computed in sides),
            -math.prod(side for side, _ in sides),
        ),
    )
    depth, height, width = (side for side, _ in best)
    return depth, height, width


def voxels_in_memory(memory_gib: float, shape: Sequence[int], logits_bytes: int, bytes_per_voxel: float) -> float:
    """Return how many voxels a window may have.

    The answer depends on the arguments alone, so that a tomogram has the same windows whatever else is in memory.

    Args:
        memory_gib: for the whole program.
        shape: ``(Z, Y, X)`` of the volume, which is in memory or in a file, see `file_pages.new_volume`.
        logits_bytes: of the whole volume of logits in float32.
        bytes_per_voxel: what the network needs for each voxel of a window.
    """
    volume_bytes = 4 * math.prod(shape)
    held = IN_USE_BYTES if is_large(volume_bytes, memory_gib) else volume_bytes
    held += held_of_logits(logits_bytes, memory_gib)
    left = max(memory_gib * 2**30 - BASE_BYTES - held, LEAST_BYTES)
    return max(left / bytes_per_voxel, SMALLEST_WINDOW**3)


def held_of_logits(logits_bytes: int, memory_gib: float) -> float:
    """Return how much of a volume's logits, ``logits_bytes`` in float32, is in memory, see `blending.new_logits`."""
    if not is_large(logits_bytes, memory_gib):
        return logits_bytes
    half = logits_bytes // 2
    return IN_USE_LOGITS_BYTES if is_large(half, memory_gib) else half


def bytes_to_come(shape: Sequence[int], logits_bytes: int, memory_gib: float, window_bytes: float) -> float:
    """Return the memory that is taken for a volume after it has been read: for its logits, then for its picks.

    Args:
        shape: ``(Z, Y, X)`` of the volume.
        logits_bytes: see `voxels_in_memory`.
        memory_gib: for the whole program.
        window_bytes: what the network needs for the windows that are computed at a time.
    """
    return held_of_logits(logits_bytes, memory_gib) + max(window_bytes, LABEL_BYTES * math.prod(shape))


def part_to_cover(inside: Tensor, window: int, margin: int, align: int) -> slice:
    """Return the range of an axis that covers the region and a margin, at least a window long where the axis is.

    Args:
        inside: ``(N,)``, true where the region has voxels; an empty region counts as the first voxel.
        window: length of a window in voxels.
        margin: voxels to add at both ends.
        align: the range starts at a multiple of it.
    """
    size, found = len(inside), inside.nonzero().flatten().tolist() or [0]
    first, end = max(found[0] - margin, 0), min(found[-1] + 1 + margin, size)
    length = min(max(end - first, window), size)
    first = min(max((first + end - length) // 2, 0), size - length) // align * align
    return slice(first, max(min(first + length, size), end))
