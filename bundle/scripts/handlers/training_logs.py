"""What a training run reports: progress, loss, a table of metrics."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import numpy as np
import torch
from ignite.engine import Engine, Events
from ignite.handlers import ProgressBar

from scripts.atomic_files import write_atomically
from scripts.errors import InputError


def loss_of(output: Any) -> float:
    """Return the loss of a step from the trainer's output."""
    return float(output[0]["loss"])


class TrainingProgress(ProgressBar):
    """Show a progress bar over the steps of every epoch, with the loss, on the main process."""

    def attach(self, engine: Engine) -> None:  # type: ignore[override]
        if idist.get_rank() == 0:
            super().attach(engine, output_transform=lambda output: {"loss": loss_of(output)})


class MetricsTable:
    """Write one row per epoch to a CSV: mean loss, learning rate, and the metrics of the validation if there was one.

    The row is written at the end of the epoch, on the main process. A loss that is no finite number ends the training:
    nothing would be learned any more, and the weights would be lost.

    Args:
        path: the CSV.
        evaluator: the validation engine.
        optimizer: for its learning rate.
    """

    def __init__(self, path: str, evaluator: Engine, optimizer: torch.optim.Optimizer) -> None:
        self.path, self.evaluator, self.optimizer = Path(path), evaluator, optimizer
        self.losses: list[float] = []

    def attach(self, engine: Engine) -> None:
        if idist.get_rank() == 0:
            engine.add_event_handler(Events.ITERATION_COMPLETED, self)
            engine.add_event_handler(Events.EPOCH_COMPLETED, self.write)

    def __call__(self, engine: Engine) -> None:
        """Note the loss of a step.

        Raises:
            InputError: it is not finite.
        """
        loss = loss_of(engine.state.output)
        if not math.isfinite(loss):
            raise InputError(
                f"the loss is {loss} at step {engine.state.iteration}: nothing can be learned any more. Set a smaller "
                "learning_rate, or precision float32; after points_alone.json name no overlay with another loss."
            )
        self.losses.append(loss)

    def write(self, engine: Engine) -> None:
        """Add the epoch's row; rows of the same or later epochs, left by an interrupted run, are removed."""
        row: dict[str, Any] = {
            "epoch": engine.state.epoch,
            "iteration": engine.state.iteration,
            "loss": f"{np.mean(self.losses):.6f}",
            "learning_rate": f"{self.optimizer.param_groups[0]['lr']:.6g}",
        }
        self.losses = []
        if self.evaluator.state.epoch == engine.state.epoch:
            row |= {name: f"{value:.6f}" for name, value in self.evaluator.state.metrics.items()}
        rows = [old for old in read_metrics(self.path) if int(old["epoch"]) < engine.state.epoch] + [row]
        columns = list(dict.fromkeys(name for one in rows for name in one))
        with write_atomically(self.path) as file:
            writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a table that `MetricsTable` wrote; none if it is missing."""
    if not path.exists():
        return []
    with open(path, newline="") as file:
        return list(csv.DictReader(file))
