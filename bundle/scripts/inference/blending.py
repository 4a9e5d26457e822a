"""The logits of a volume, blended from those of its windows."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from scripts.file_pages import FilePages, is_large, new_volume, parts_of
from scripts.inference.window_cover import Window

BACKGROUND = -20.0  # logit where no window was looked at: a probability of 2e-9


class BlendedLogits:
    """Add up the weighted logits of windows.

    They are held in float32, or in float16 if they would take more than a quarter of the memory: rounding then changes
    a logit of 8 by less than 0.03. If that is still too much, they are kept in a file, see `file_pages.new_volume`.

    Args:
        shape: ``(Z, Y, X)`` of the volume.
        output_stride: voxels of the volume per voxel of the logits, along each axis.
        memory_gib: limit of the whole program.
    """

    def __init__(self, shape: Sequence[int], output_stride: int, memory_gib: float) -> None:
        self.shape = [-(-size // output_stride) for size in shape]
        self.memory_gib = memory_gib
        self.logits: Tensor | None = None  # the number of channels is unknown until the first window is answered
        self.pages = FilePages(None)

    def add(self, answer: Tensor | None, place: Sequence[Window]) -> None:
        """Add the logits of a window.

        Args:
            answer: ``(C, z, y, x)``, cut at the far ends of the volume; None for `BACKGROUND`.
            place: the window along z, y and x.
        """
        if self.logits is None:
            assert answer is not None
            self.logits = new_logits((len(answer), *self.shape), 0, self.memory_gib, answer.device)
            self.pages = FilePages(self.logits)
        layer, row, column = place
        part = self.logits[:, *(slice(along.first, along.first + len(along.weights)) for along in place)]
        weights = layer.weights[:, None, None] * row.weights[:, None] * column.weights
        if answer is None:
            part += BACKGROUND * weights
        else:
            depth, height, width = weights.shape
            for channel, own in zip(part, answer[:, :depth, :height, :width], strict=True):
                channel += own * weights
        self.pages.release()

    def finish(self) -> Tensor:
        """Return the logits ``(C, Z, Y, X)`` of the volume."""
        assert self.logits is not None
        return self.logits


def new_logits(shape: Sequence[int], value: float, memory_gib: float, device: torch.device) -> Tensor:
    """Return logits ``(C, Z, Y, X)`` of one value, held as `BlendedLogits` says; never in a file but on a CPU."""
    dtype = torch.float16 if is_large(4 * math.prod(shape), memory_gib) else torch.float32
    if device.type != "cpu" or dtype == torch.float32:
        return torch.full(tuple(shape), value, dtype=dtype, device=device)
    logits = torch.from_numpy(new_volume(shape, memory_gib, np.float16))
    if value:
        for channel in parts_of(logits):
            channel.fill_(value)
    return logits
