"""Losses for heat maps: squared errors of probabilities, in which the few voxels of particles count.

Networks answer with logits. Both losses compare ``sigmoid(logits)`` with the heat map, so that networks trained by them
are used like any other: their probabilities are the heat map, and thresholds are heights in it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class WeightedSquaredError(nn.Module):
    """Mean of ``(target + background_weight) * (sigmoid(logits) - target)**2`` over all voxels.

    Args:
        background_weight: weight of a voxel whose target is 0; that of a particle's centre is higher by 1.

    Shape:
        Logits and targets ``(B, C, Z, Y, X)`` -> a number.

    Raises:
        ValueError: the weight is not positive.
    """

    def __init__(self, background_weight: float = 0.1) -> None:
        super().__init__()
        if not background_weight > 0:
            raise ValueError(f"background_weight must be above 0; got {background_weight}.")
        self.background_weight = background_weight

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss of logits."""
        return ((target + self.background_weight) * squared_error(logits, target)).mean()


class BalancedSquaredError(nn.Module):
    """Mean of ``(sigmoid(logits) - target)**2`` over the particles, plus its mean over the background.

    A voxel belongs to the particles by the share ``target`` and to the background by the rest. Without a particle the
    first mean is 0.

    Shape:
        Logits and targets ``(B, C, Z, Y, X)`` -> a number.
    """

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss of logits."""
        error = squared_error(logits, target)
        return _mean(error, target) + _mean(error, 1 - target)


def squared_error(logits: Tensor, target: Tensor) -> Tensor:
    """Return the squared difference of probabilities and target, voxel by voxel, in float32."""
    return (torch.sigmoid(logits.float()) - target) ** 2


def _mean(values: Tensor, weight: Tensor) -> Tensor:
    return (values * weight).sum() / weight.sum().clamp(min=1.0)
