"""The time that a training may take, and the time that a tomogram takes."""

from __future__ import annotations

import math
from collections.abc import Callable
from time import perf_counter, process_time

import torch
from ignite.engine import Engine, Events
from monai.engines.utils import IterationEvents
from scripts.handlers.training_logs import loss_of
from torch.optim.lr_scheduler import LRScheduler
from tqdm import tqdm

CLOCKS = {"wall": perf_counter, "processor": lambda: process_time() / torch.get_num_threads()}


class TrainingBudget:
    """Stop a training when its time is used up; the learning rate follows the share of the time that is used.

    Args:
        seconds: how long the training may take.
        schedule: schedule of the learning rate, for a training of ``steps`` steps.
        steps: length of the schedule, which is stretched over the budget.
        name: shown in the progress bar.
        now: the clock.
    """

    def __init__(
        self, seconds: float, schedule: LRScheduler, steps: int, name: str, now: Callable[[], float] = perf_counter
    ) -> None:
        self.seconds, self.schedule, self.steps, self.name, self.now = seconds, schedule, steps, name, now
        self.used, self.loss = 0.0, math.nan

    def attach(self, engine: Engine) -> None:
        """Attach to the start and every iteration; must be the last handler, so that the others' work is timed."""
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_STARTED, self.set_learning_rate)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.count)

    def start(self, engine: Engine) -> None:
        """Start the clock."""
        layout = "{desc}: {percentage:3.0f} % of " + f"{self.seconds:g} s" + " |{bar}| {postfix}"
        self.bar = tqdm(total=self.seconds, desc=self.name, bar_format=layout, leave=False)
        self.begun = self.now()

    def set_learning_rate(self, engine: Engine) -> None:
        """Set the learning rate of the present moment."""
        share = min((self.now() - self.begun) / self.seconds, 1.0)
        self.schedule.last_epoch = share * self.steps  # type: ignore[assignment]  # a moment between two steps
        for group, rate in zip(self.schedule.optimizer.param_groups, self.schedule.get_lr(), strict=True):
            group["lr"] = rate

    def count(self, engine: Engine) -> None:
        """Count the step; end the training when the time is over."""
        self.loss = loss_of(engine.state.output)  # waits until an accelerator is done with the step
        self.used = self.now() - self.begun
        self.bar.set_postfix_str(f"step {engine.state.iteration}, loss {self.loss:.4f}", refresh=False)
        self.bar.update(min(self.used, self.seconds) - self.bar.n)
        if self.used >= self.seconds:
            self.bar.close()
            engine.terminate()


class TomogramTimes:
    """Measure the seconds that the network and the picking take for every tomogram.

    Args:
        now: the clock.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self.now = now
        self.seconds: list[float] = []

    def attach(self, engine: Engine) -> None:
        """Attach to every tomogram, after it was read and after it was picked."""
        engine.add_event_handler(Events.ITERATION_STARTED, self.start)
        engine.add_event_handler(IterationEvents.MODEL_COMPLETED, self.stop)

    def start(self, engine: Engine) -> None:
        """Start the clock."""
        self.begun = self.now()

    def stop(self, engine: Engine) -> None:
        """Store the time; the picks are on the CPU by now, so an accelerator has finished."""
        self.seconds.append(self.now() - self.begun)
