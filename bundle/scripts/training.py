"""What a training does at the events of MONAI's trainer: clip, average, save, go on, report."""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import numpy as np
import torch
from ignite.engine import Engine, Events
from ignite.handlers import ProgressBar
from monai.engines.utils import IterationEvents
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from scripts.errors import InputError
from scripts.files import write_atomically
from scripts.weights import check_recorded, install_weights, read_tensors, save_tensors

logger = logging.getLogger(__name__)


class GradientClipHandler:
    """Limit the norm of the gradient of every step.

    Args:
        network: whose gradient.
        max_norm: longer gradients are shortened to this.
    """

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


def loss_of(output: Any) -> float:
    """Return the loss of a step from the trainer's output."""
    return float(output[0]["loss"])


class TrainingProgress(ProgressBar):
    """Show a progress bar over the steps of every epoch, with the loss."""

    def attach(self, engine: Engine) -> None:  # type: ignore[override]
        """Join the end of every iteration, on the main process."""
        if idist.get_rank() == 0:
            super().attach(engine, output_transform=lambda output: {"loss": loss_of(output)})


class TrainingCheckpoint:
    """Save the training after every epoch, and go on from there when it is started again.

    Writes ``training.pt`` (all that is needed to go on), ``model_last.pt`` (the averaged weights of the last epoch) and
    ``model.pt`` (those of the best validation; of the last epoch where nothing is validated).

    Args:
        output_dir: where the files stand.
        model: the averaged network.
        objects: what has a state beside the trainer: network, optimizer, averaged weights.
        schedule: the learning rate's; the number of steps done is its whole state.
        settings: what must not change when a training goes on, ready for JSON.
        evaluator: the validation engine; its key metric decides which model is the best.
        resume: go on from ``training.pt`` where there is one.

    Raises:
        InputError: ``training.pt`` is of a training that is complete, of other settings, or of another network.
    """

    def __init__(
        self,
        output_dir: str,
        model: nn.Module,
        objects: Mapping[str, Any],
        schedule: LRScheduler,
        settings: Mapping[str, Any],
        evaluator: Engine,
        resume: bool = True,
    ) -> None:
        self.settings = json.loads(json.dumps(settings))
        self.folder, self.model, self.objects, self.schedule = Path(output_dir), model, objects, schedule
        self.evaluator, self.resume, self.best = evaluator, resume, -1.0

    def attach(self, engine: Engine) -> None:
        """Join the start and the end of every epoch."""
        engine.add_event_handler(Events.STARTED, self.load)
        if idist.get_rank() == 0:
            engine.add_event_handler(Events.EPOCH_COMPLETED, self.save)
            engine.add_event_handler(Events.COMPLETED, self.tell)

    def tell(self, engine: Engine) -> None:
        """Say where the weights are."""
        logger.info("weights: %s (best validation) and model_last.pt", self.folder / "model.pt")

    def load(self, engine: Engine) -> None:
        """Go on where the checkpoint stands."""
        path = self.folder / "training.pt"
        if not self.resume or not path.exists():
            return
        state = read_tensors(path)
        if state["epoch"] >= engine.state.max_epochs:
            raise InputError(
                f"{path} is a complete training of {state['epoch']} epochs: set another output_dir or more epochs, "
                "or give --resume False to replace it."
            )
        before = json.loads(state["settings"])
        for name, value in self.settings.items():
            if value != before.get(name):
                raise InputError(
                    f"{path} was begun with {name} {before.get(name)}, now it is {value}: set another output_dir, or "
                    "give --resume False to start anew."
                )
        try:
            for name, item in self.objects.items():
                item.load_state_dict(state[name])
        except (RuntimeError, ValueError, KeyError) as error:
            raise InputError(f"{path} is of another network or optimizer: set another output_dir.") from error
        self.best = state["best"]
        engine.state.epoch, engine.state.iteration = state["epoch"], state["iteration"]
        self.schedule.last_epoch = state["iteration"]
        logger.info("going on after epoch %d of %s", state["epoch"], path)

    def save(self, engine: Engine) -> None:
        """Write the files."""
        weights = {name: value.detach().cpu().contiguous() for name, value in self.model.state_dict().items()}
        validation: Any = self.evaluator.state
        validated = validation.epoch == engine.state.epoch and bool(validation.metrics)
        score = validation.metrics[validation.key_metric_name] if validated else None
        if (score is not None and score > self.best) or (score is None and self.best < 0):
            save_tensors(weights, self.folder / "model.pt")
            self.best = self.best if score is None else score
        save_tensors(weights, self.folder / "model_last.pt")
        states = {name: item.state_dict() for name, item in self.objects.items()}
        progress = {
            "epoch": engine.state.epoch,
            "iteration": engine.state.iteration,
            "best": float(self.best),
            "settings": json.dumps(self.settings),
        }
        save_tensors({**states, **progress}, self.folder / "training.pt")


class InstallWeights:
    """Put the weights of a complete training in the place of the bundle's own, see `weights.install_weights`.

    A training that fails, or is stopped, leaves the bundle as it was.

    Args:
        weights: file with the weights to put to use, as `TrainingCheckpoint` wrote it.
        path: the file to replace.
        metadata_path: the bundle's metadata.json.

    Raises:
        InputError: the file to replace is not the one that the metadata describe.
    """

    def __init__(self, weights: str, path: str, metadata_path: str) -> None:
        self.weights, self.path, self.metadata_path = weights, path, metadata_path

    def attach(self, engine: Engine) -> None:
        """Join the start and the end of the training, on the main process."""
        if idist.get_rank() == 0:
            engine.add_event_handler(Events.STARTED, self.check)
            engine.add_event_handler(Events.COMPLETED, self)

    def check(self, engine: Engine) -> None:
        """Refuse to begin with damaged weights."""
        if Path(self.path).exists():
            check_recorded(self.path, self.metadata_path)

    def __call__(self, engine: Engine) -> None:
        """Install."""
        kept = install_weights(self.weights, self.path, self.metadata_path)
        logger.info("%s holds the new weights now; the bundle's own are in %s", self.path, kept)


class MetricsTable:
    """Write one row per epoch to a CSV: loss, learning rate, and the validation's metrics where there was one.

    Args:
        path: the CSV.
        evaluator: the validation engine.
        optimizer: for its learning rate.
    """

    def __init__(self, path: str, evaluator: Engine, optimizer: torch.optim.Optimizer) -> None:
        self.path, self.evaluator, self.optimizer = Path(path), evaluator, optimizer
        self.losses: list[float] = []

    def attach(self, engine: Engine) -> None:
        """Join the end of every iteration and epoch, on the main process."""
        if idist.get_rank() == 0:
            engine.add_event_handler(Events.ITERATION_COMPLETED, self)
            engine.add_event_handler(Events.EPOCH_COMPLETED, self.write)

    def __call__(self, engine: Engine) -> None:
        """Note the loss."""
        self.losses.append(loss_of(engine.state.output))

    def write(self, engine: Engine) -> None:
        """Add the epoch's row, after the rows of earlier epochs."""
        row: dict[str, Any] = {
            "epoch": engine.state.epoch,
            "iteration": engine.state.iteration,
            "loss": f"{np.mean(self.losses):.6f}",
            "learning_rate": f"{self.optimizer.param_groups[0]['lr']:.6g}",
        }
        self.losses = []
        if self.evaluator.state.epoch == engine.state.epoch:
            row |= {name: f"{value:.6f}" for name, value in self.evaluator.state.metrics.items()}
        rows = [old for old in self.read() if int(old["epoch"]) < engine.state.epoch] + [row]
        columns = list(dict.fromkeys(name for one in rows for name in one))
        with write_atomically(self.path) as file:
            writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)

    def read(self) -> list[dict[str, Any]]:
        """Return the rows that are in the file already."""
        if not self.path.exists():
            return []
        with open(self.path, newline="") as file:
            return list(csv.DictReader(file))
