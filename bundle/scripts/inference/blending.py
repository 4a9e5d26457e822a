"""The logits of a volume, blended from those of its windows."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from scripts.file_pages import MEMORY_SHARE
from scripts.inference.window_cover import Window

BACKGROUND = -20.0  # logit where no window was looked at: a probability of 2e-9


class BlendedLogits:
    """Add up the weighted logits of windows, which come layer by layer in z.

    Only the layers under way are held in a buffer of their own, in float32. Finished layers are stored in float32 too,
    or in float16 if all of them would take more than a quarter of the memory.

    Args:
        shape: ``(Z, Y, X)`` of the volume.
        output_stride: voxels of the volume per voxel of the logits, along each axis.
        memory_gib: limit of the whole program.
    """

    def __init__(self, shape: Sequence[int], output_stride: int, memory_gib: float) -> None:
        self.shape = [-(-size // output_stride) for size in shape]
        self.memory_gib = memory_gib
        self.channels, self.first = 0, 0  # the number of channels is unknown until the first window is answered
        self.buffer = self.total = torch.empty(0)

    def add(self, answer: Tensor | None, place: Sequence[Window]) -> None:
        """Add the logits of a window.

        Args:
            answer: ``(C, z, y, x)``, cut at the far ends of the volume; None for `BACKGROUND`.
            place: the window along z, y and x.
        """
        layer, row, column = place
        if self.channels == 0:
            assert answer is not None
            self._begin(answer)
        if layer.first > self.first:
            self._store(layer.first)
        depth, height, width = (len(along.weights) for along in place)
        missing = self.first + self.buffer.shape[1] - layer.first - depth
        if missing < 0:
            more = self.buffer.new_zeros(self.channels, -missing, *self.shape[1:])
            self.buffer = torch.cat([self.buffer, more], dim=1)
        weights = layer.weights[:, None, None] * row.weights[:, None] * column.weights
        part = self.buffer[:, :depth, row.first : row.first + height, column.first : column.first + width]
        if answer is None:
            part += BACKGROUND * weights
        else:
            part.addcmul_(answer[:, :depth, :height, :width], weights)

    def finish(self) -> Tensor:
        """Return the logits ``(C, Z, Y, X)`` of the volume."""
        self._store(self.shape[0])
        return self.total

    def _begin(self, answer: Tensor) -> None:
        self.channels = len(answer)
        size = 4 * self.channels * math.prod(self.shape)
        dtype = torch.float32 if size <= MEMORY_SHARE * self.memory_gib * 2**30 else torch.float16
        self.total = torch.empty(self.channels, *self.shape, dtype=dtype, device=answer.device)
        self.buffer = torch.zeros(self.channels, 0, *self.shape[1:], device=answer.device)

    def _store(self, end: int) -> None:
        """Store the layers before ``end``, which no further window touches."""
        done = end - self.first
        if done == self.shape[0] and self.total.dtype == self.buffer.dtype:
            self.total = self.buffer  # all of them at once: no copy
            return
        self.total[:, self.first : end] = self.buffer[:, :done]
        self.buffer, self.first = self.buffer[:, done:].clone(), end
