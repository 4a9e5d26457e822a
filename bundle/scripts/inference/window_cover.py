"""Which part of a volume the windows cover, and which windows skip the network."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

BACKGROUND = -20.0  # logit outside the region: a probability of 2e-9


def part_to_cover(inside: Tensor, window: int, margin: int) -> slice:
    """Return the range of an axis that covers the region and a margin, at least a window long where the axis is.

    Args:
        inside: ``(N,)``, true where the region has voxels; an empty region counts as the first voxel.
        window: length of a window in voxels.
        margin: voxels to add at both ends.
    """
    size, found = len(inside), inside.nonzero().flatten().tolist() or [0]
    first, end = max(found[0] - margin, 0), min(found[-1] + 1 + margin, size)
    length = min(max(end - first, window), size)
    first = min(max((first + end - length) // 2, 0), size - length)
    return slice(first, first + length)


class SkipWindowsOutside:
    """Wrap ``answer_of`` so that windows without a voxel of the region skip the network; their logits are `BACKGROUND`.

    The first window always goes through the network, because its output gives the number of channels.

    Args:
        answer_of: maps windows ``(B, 1, Z, Y, X)`` to logits ``(B, C, Z, Y, X)``.
    """

    def __init__(self, answer_of: Callable[[Tensor], Tensor]) -> None:
        self.answer_of = answer_of
        self.channels = 0  # unknown until the first window is answered

    def __call__(self, windows: Tensor, condition: Tensor) -> Tensor:
        """Return float32 logits of the windows; ``condition`` is their part of the region, ``(B, 1, Z, Y, X)``."""
        wanted = condition.flatten(1).any(dim=1)
        if self.channels == 0:
            wanted[0] = True
        if not wanted.any():
            return self._background(windows)
        answers = self.answer_of(windows[wanted])
        self.channels = answers.shape[1]
        logits = self._background(windows)
        logits[wanted] = answers.float()
        return logits

    def _background(self, windows: Tensor) -> Tensor:
        shape = (len(windows), self.channels, *windows.shape[2:])
        return windows.new_full(shape, BACKGROUND, dtype=torch.float32)
