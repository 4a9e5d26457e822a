"""Save a training after every epoch, resume it, install its weights."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ignite.distributed as idist
from ignite.engine import Engine, Events
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from scripts.errors import InputError
from scripts.networks.weights import check_recorded, install_weights, read_tensors, save_tensors

logger = logging.getLogger(__name__)


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
