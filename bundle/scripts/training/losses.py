"""Losses: of voxels whose truth is known, and for heat maps, in which the few voxels of particles count.

Networks answer with logits. The losses for heat maps are squared errors: they compare ``sigmoid(logits)`` with the heat
map, so that networks trained by them are used like any other: their probabilities are the heat map, and a threshold is
a value of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from scripts.rules import a_number
from scripts.training.windows import UNLABELLED

CERTAINLY_NOT = -1e4  # a logit whose probability is 0 in every number format


class KnownVoxels(nn.Module):
    """Another loss, in which voxels with an unknown target, NaN or unlabelled, have no error and no gradient.

    They count as voxels without an error in the loss's mean, so that a known voxel weighs the same in every window.

    Args:
        loss: of logits and targets.

    Shape:
        Logits and targets ``(B, C, Z, Y, X)`` -> a number.
    """

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, logits: Tensor, target: Tensor) -> Any:
        """Return the loss of logits."""
        is_unknown = ~target.isfinite()
        if target.is_cpu and not is_unknown.any():  # elsewhere the host would wait for the answer
            return self.loss(logits, target)
        return self.loss(logits.masked_fill(is_unknown, CERTAINLY_NOT), target.masked_fill(is_unknown, 0.0))


class SumOfLosses(nn.Module):
    """The sum of several losses.

    Args:
        losses: their modules, of logits and targets.

    Shape:
        Logits and targets ``(B, C, Z, Y, X)`` -> a number.
    """

    def __init__(self, losses: Sequence[nn.Module]) -> None:
        super().__init__()
        self.losses = nn.ModuleList(losses)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the sum of the losses of logits."""
        return torch.stack([loss(logits, target) for loss in self.losses]).sum()


class NonNegativeRisk(nn.Module):
    """Cross-entropy of particles that are annotated in part: the other voxels are unlabelled, not background.

    In the windows in which a channel has unlabelled voxels, those and the labelled ones are a sample of all voxels, of
    which a share ``p`` is positive. Background is learned from them without its positives: the risk is ``p R(labelled
    as 1) + max(0, R(all as 0) - p R(labelled as 0))``. Known background in these windows, and all voxels of the other
    windows, have the usual cross-entropy; unknown voxels, NaN, have no error.

    Args:
        positive_shares: ``p`` of every channel, see `points_alone.positive_shares`.
        positive_weights: of every channel: how much more a positive voxel counts.

    Shape:
        Logits and targets ``(B, C, Z, Y, X)`` -> a number.

    Source:
        Kiryo et al. 2017, "Positive-Unlabeled Learning with Non-Negative Risk Estimator", equation 6. Differs: where
        the estimate is negative it is cut off at 0, without steps against the gradient.
    """

    def __init__(self, positive_shares: Sequence[float], positive_weights: Sequence[float]) -> None:
        super().__init__()
        self.positive_shares, self.positive_weights = list(positive_shares), list(positive_weights)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss of logits."""
        values, axes = logits.float(), (0, 2, 3, 4)
        share, weight = (values.new_tensor(each) for each in (self.positive_shares, self.positive_weights))
        is_unlabelled, labelled = target == UNLABELLED, target.nan_to_num(0.0, neginf=0.0)
        as_one = weight.reshape(-1, 1, 1, 1) * nn.functional.softplus(-values)
        as_zero = nn.functional.softplus(values)
        is_sample = is_unlabelled | ((labelled > 0) & is_unlabelled.any(4, True).any(3, True).any(2, True))
        sampled = labelled * is_sample
        particles = sampled.sum(axes).clamp(min=1e-6)
        size = is_sample.sum(axes).clamp(min=1)
        positive, not_negative = ((sampled * error).sum(axes) / particles for error in (as_one, as_zero))
        rest = (as_zero * is_sample).sum(axes) / size - share * not_negative
        voxels = target[:, 0].numel()
        risk = (share * positive + rest.clamp(min=0.0)) * size / voxels
        is_known = ~is_sample & target.isfinite()
        known = ((labelled * as_one + (1 - labelled) * as_zero) * is_known).sum(axes) / voxels
        return (risk + known).mean()


class WeightedSquaredError(nn.Module):
    """Mean of ``(target + background_weight) * (sigmoid(logits) - target)**2`` over all voxels.

    Args:
        background_weight: weight of a voxel whose target is 0; that of a particle's centre is higher by 1.

    Shape:
        Logits and targets ``(B, C, Z, Y, X)`` -> a number.

    Raises:
        InputError: the weight is not positive.
    """

    def __init__(self, background_weight: float = 0.1) -> None:
        super().__init__()
        a_number(above=0).require("background_weight", background_weight)
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
