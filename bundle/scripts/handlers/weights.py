"""What happens in every training step: gradients are clipped, weights are averaged."""

from __future__ import annotations

import torch
from ignite.engine import Engine, Events
from monai.engines.utils import IterationEvents
from torch import nn

from scripts.settings import check_setting


class GradientClipHandler:
    """Limit the norm of the gradient, after each backward pass and before the optimizer's step.

    Args:
        network: the network that is trained.
        max_norm: largest norm; a larger gradient is scaled down to it.
    """

    unrecorded = ("network",)

    def __init__(self, network: nn.Module, max_norm: float) -> None:
        check_setting("gradient_norm", max_norm)
        self.network, self.max_norm = network, max_norm

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.max_norm)


class AverageWeights:
    """Keep an exponential moving average of a network's weights in a second network, which is validated and saved.

    At the start of the training the average is set to the network's weights, which may have been loaded from a file. It
    is updated after every step; early steps count more, so that the untrained weights are soon forgotten.

    Args:
        network: the network that is trained.
        averaged: a copy of it, for the average.
        momentum: share of the new weights in every step, after some hundred steps.
    """

    unrecorded = ("network", "averaged")

    def __init__(self, network: nn.Module, averaged: nn.Module, momentum: float) -> None:
        check_setting("averaging_momentum", momentum)
        self.network, self.averaged, self.momentum = network, averaged.eval(), momentum

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self.take_over)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def take_over(self, engine: Engine) -> None:
        self.averaged.load_state_dict(self.network.state_dict())

    @torch.no_grad()
    def __call__(self, engine: Engine) -> None:
        share = max(self.momentum, 10 / (10 + engine.state.iteration))
        for average, value in zip(self.averaged.parameters(), self.network.parameters(), strict=True):
            average.lerp_(value, share)
        for kept, statistic in zip(self.averaged.buffers(), self.network.buffers(), strict=True):
            if kept.is_floating_point():  # of batch norms, which follow the last few batches
                kept.lerp_(statistic, share)
            else:
                kept.copy_(statistic)
