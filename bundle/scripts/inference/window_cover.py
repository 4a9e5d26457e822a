"""Which part of a volume has to be covered by windows."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

BACKGROUND = -20.0  # logit of what is not looked at: a probability of 2e-9


def part_to_cover(inside: Tensor, window: int, margin: int) -> slice:
    """Return the part of an axis that holds all that is inside and a margin, and a whole window if the axis is so long.

    Args:
        inside: ``(N,)``, true where something is to be seen; nothing counts as the first voxel.
        window: voxels of a window.
        margin: voxels to add at both ends.
    """
    size, found = len(inside), inside.nonzero().flatten().tolist() or [0]
    first, end = max(found[0] - margin, 0), min(found[-1] + 1 + margin, size)
    length = min(max(end - first, window), size)
    first = min(max((first + end - length) // 2, 0), size - length)
    return slice(first, first + length)


def skip_windows_outside(answer_of: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    """Return the same function of windows, which answers `BACKGROUND` for those without a voxel of their region."""
    channels = 0

    def answer_inside(windows: Tensor, condition: Tensor) -> Tensor:
        nonlocal channels
        wanted = condition.flatten(1).any(dim=1)
        wanted[0] |= channels == 0
        answers = answer_of(windows[wanted]) if wanted.any() else windows.new_empty((0, channels, *windows.shape[2:]))
        channels = answers.shape[1]
        logits = answers.new_full((len(windows), channels, *windows.shape[2:]), BACKGROUND, dtype=torch.float32)
        logits[wanted] = answers.float()
        return logits

    return answer_inside
