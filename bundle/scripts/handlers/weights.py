"""What happens to the weights in every step: clipped gradients, moving average."""

from __future__ import annotations

import torch
from ignite.engine import Engine, Events
from monai.engines.utils import IterationEvents
from torch import nn


class GradientClipHandler:
    """Limit the norm of the gradient of every step.

    Args:
        network: whose gradient.
        max_norm: longer gradients are shortened to this.
    """

    unrecorded = ("network",)

    def __init__(self, network: nn.Module, max_norm: float) -> None:
        if not max_norm > 0:
            raise ValueError(f"max_norm must be positive; got {max_norm}.")
        self.network, self.max_norm = network, max_norm

    def attach(self, engine: Engine) -> None:
        """Join the event between the gradient and the step."""
        engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Clip."""
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.max_norm)


class AverageWeights:
    """Keep an exponential moving average of a network's weights in a second network, which is validated and saved.

    The first steps count more, so that the untrained weights are soon forgotten.

    Args:
        network: the network that is trained.
        averaged: a copy of it; takes the average.
        momentum: share of the new weights in every step, once the training is some hundred steps old.
    """

    unrecorded = ("network", "averaged")

    def __init__(self, network: nn.Module, averaged: nn.Module, momentum: float) -> None:
        if not 0 < momentum <= 1:
            raise ValueError(f"momentum is a share, 0 < momentum <= 1; got {momentum}.")
        self.network, self.averaged, self.momentum = network, averaged.eval(), momentum

    def attach(self, engine: Engine) -> None:
        """Join the end of every iteration, and the start, where weights that others loaded are taken over."""
        engine.add_event_handler(Events.STARTED, self.take_over)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def take_over(self, engine: Engine) -> None:
        """Start from the network's weights."""
        self.averaged.load_state_dict(self.network.state_dict())

    @torch.no_grad()
    def __call__(self, engine: Engine) -> None:
        """Move the average towards the weights of this step."""
        share = max(self.momentum, 10 / (10 + engine.state.iteration))
        for average, value in zip(self.averaged.parameters(), self.network.parameters(), strict=True):
            average.lerp_(value, share)
        for kept, statistic in zip(self.averaged.buffers(), self.network.buffers(), strict=True):
            kept.copy_(statistic)
