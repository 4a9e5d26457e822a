"""The time or the steps that a training may take, and the time that a tomogram takes."""

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

UNITS = ("seconds", "steps")
CLOCKS = {"wall": perf_counter, "processor": lambda: process_time() / torch.get_num_threads()}


class TrainingBudget:
    """Stop a training when its seconds or steps are used up; the learning rate follows the share that is used.

    Args:
        budget: how long the training may take.
        unit: of the budget, one of `UNITS`.
        schedule: schedule of the learning rate, for a training of ``steps`` steps.
        steps: length of the schedule, which is stretched over the budget.
        name: shown in the progress bar.
        now: the clock.

    Attributes:
        seconds: that the training took, whatever the unit.
        loss: of the last step.
    """

    def __init__(
        self,
        budget: float,
        unit: str,
        schedule: LRScheduler,
        steps: int,
        name: str,
        now: Callable[[], float] = perf_counter,
    ) -> None:
        self.budget, self.unit, self.schedule, self.steps, self.name, self.now = (
            budget, unit, schedule, steps, name, now,
        )  # fmt: skip
        self.seconds, self.loss = 0.0, math.nan

    def attach(self, engine: Engine) -> None:
        """Attach to the start and every iteration; must be the last handler, so that the others' work is timed."""
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_STARTED, self.set_learning_rate)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.count)

    def start(self, engine: Engine) -> None:
        """Start the clock."""
        layout = "{desc}: {percentage:3.0f} % of " + f"{self.budget:g} {self.unit}" + " |{bar}| {postfix}"
        self.bar = tqdm(total=self.budget, desc=self.name, bar_format=layout, leave=False)
        self.begun = self.now()

    def used(self, steps: int) -> float:
        """Return how much of the budget is used, after so many steps."""
        return steps if self.unit == "steps" else self.now() - self.begun

    def set_learning_rate(self, engine: Engine) -> None:
        """Set the learning rate of the present moment; the iteration that starts is counted already."""
        share = min(self.used(engine.state.iteration - 1) / self.budget, 1.0)
        self.schedule.last_epoch = share * self.steps  # type: ignore[assignment]  # a moment between two steps
        for group, rate in zip(self.schedule.optimizer.param_groups, self.schedule.get_lr(), strict=True):
            group["lr"] = rate

    def count(self, engine: Engine) -> None:
        """Count the step; end the training when the budget is used up."""
        self.loss = loss_of(engine.state.output)  # waits until an accelerator is done with the step
        self.seconds = self.now() - self.begun
        used = self.used(engine.state.iteration)
        self.bar.set_postfix_str(f"step {engine.state.iteration}, loss {self.loss:.4f}", refresh=False)
        self.bar.update(min(used, self.budget) - self.bar.n)
        if used >= self.budget:
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
