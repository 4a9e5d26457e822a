"""Save a training after every epoch, resume it, install its weights."""

from __future__ import annotations

import json
import logging
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ignite.distributed as idist
from ignite.engine import Engine, Events
from monai.data import Dataset
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from scripts.errors import InputError
from scripts.networks.model_card import checked_card, make_card, sha256_of
from scripts.networks.recipe import recipe_of
from scripts.networks.weights import as_bytes, install_weights, read_tensors, save_model, save_tensors
from scripts.records import as_json, canonical, first_difference, record_of
from scripts.species import SpeciesSet

logger = logging.getLogger(__name__)


class TrainingCheckpoint:
    """Save the training after every epoch, and resume it when it is started again.

    Writes ``training.pt`` (all that is needed to resume), ``model_last.pt`` (the averaged weights of the last epoch)
    and ``model.pt`` (those of the best validation; of the last epoch where nothing is validated). Both models get a
    card, see `networks.model_card`.

    Args:
        output_dir: where the files are stored.
        model: the averaged network.
        objects: what has a state beside the trainer: network, optimizer, averaged weights.
        schedule: the learning rate's; the number of steps done is its whole state.
        built: the objects that decide what the training learns, by name; a resumed training must share their records.
        species_set: the species, for the card.
        painter: what paints the targets, for the card.
        window_size: ``(z, y, x)`` of a training window in voxels, for the card.
        windows: the dataset of windows, for the card.
        evaluator: the validation engine; its key metric decides which model is the best.
        started_from: the weights that the training started from, for the card; None: the first weights.
        resume: go on from ``training.pt`` where there is one.

    Raises:
        InputError: ``training.pt`` is of a training that is complete, of other settings, or of another network; or the
            network does not say how it was built.
    """

    def __init__(
        self,
        output_dir: str,
        model: nn.Module,
        objects: Mapping[str, Any],
        schedule: LRScheduler,
        built: Mapping[str, Any],
        species_set: SpeciesSet,
        painter: Any,
        window_size: Sequence[int],
        windows: Dataset,
        evaluator: Engine,
        started_from: str | Path | None = None,
        resume: bool = True,
    ) -> None:
        self.built = as_json(record_of(built))
        self.folder, self.model, self.objects, self.schedule = Path(output_dir), model, objects, schedule
        self.evaluator, self.resume, self.best = evaluator, resume, -1.0
        facts = {
            "window_size": list(window_size),
            "thresholds_fitted_on": None,
            "trained_on": sorted({str(item.get("run", item["image"])) for item in windows.data}),
            "started_from": started_from and sha256_of(started_from),
            "command": shlex.join(["python", "-m", "monai.bundle", *sys.argv[1:]]),
        }
        self.card = make_card(recipe_of(model), species_set, painter, **facts)

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
        """Resume from the checkpoint."""
        path = self.folder / "training.pt"
        if not self.resume or not path.exists():
            return
        state = read_tensors(path)
        if state["epoch"] >= engine.state.max_epochs:
            raise InputError(
                f"{path} is a complete training of {state['epoch']} epochs: set another output_dir or more epochs, "
                "or give --resume False to replace it."
            )
        if "built" not in state:
            raise InputError(f"{path} was begun by an older version: set another output_dir, or give --resume False.")
        difference = first_difference(json.loads(state["built"]), self.built)
        if difference:
            raise InputError(
                f"{path} was begun with other settings: {difference}. Set another output_dir, or give --resume False "
                "to start anew."
            )
        try:
            for name, item in self.objects.items():
                item.load_state_dict(state[name])
        except (RuntimeError, ValueError, KeyError) as error:
            raise InputError(f"{path} is of another network or optimizer: set another output_dir.") from error
        self.best = state["best"]
        engine.state.epoch, engine.state.iteration = state["epoch"], state["iteration"]
        self.schedule.last_epoch = state["iteration"]
        logger.info("resuming after epoch %d of %s", state["epoch"], path)

    def save(self, engine: Engine) -> None:
        """Write the files."""
        weights = as_bytes({name: value.detach().cpu().contiguous() for name, value in self.model.state_dict().items()})
        validation: Any = self.evaluator.state
        validated = validation.epoch == engine.state.epoch and bool(validation.metrics)
        score = validation.metrics[validation.key_metric_name] if validated else None
        card = {**self.card, "steps": engine.state.iteration, "validation_score": score}
        if (score is not None and score > self.best) or (score is None and self.best < 0):
            save_model(self.folder / "model.pt", weights, card)
            self.best = self.best if score is None else score
        save_model(self.folder / "model_last.pt", weights, card)
        states = {name: item.state_dict() for name, item in self.objects.items()}
        progress = {
            "epoch": engine.state.epoch,
            "iteration": engine.state.iteration,
            "best": float(self.best),
            "built": canonical(self.built),
        }
        save_tensors({**states, **progress}, self.folder / "training.pt")


class InstallWeights:
    """Put the weights of a complete training in the place of the bundle's own, see `weights.install_weights`.

    A training that fails, or is stopped, leaves the bundle as it was.

    Args:
        weights: file with the weights to put to use, as `TrainingCheckpoint` wrote it.
        path: the file to replace.

    Raises:
        InputError: the file to replace is not the one that its card describes.
    """

    def __init__(self, weights: str, path: str) -> None:
        self.weights, self.path = weights, path

    def attach(self, engine: Engine) -> None:
        """Join the start and the end of the training, on the main process."""
        if idist.get_rank() == 0:
            engine.add_event_handler(Events.STARTED, self.check)
            engine.add_event_handler(Events.COMPLETED, self)

    def check(self, engine: Engine) -> None:
        """Refuse to begin with damaged weights."""
        if Path(self.path).exists():
            checked_card(self.path)

    def __call__(self, engine: Engine) -> None:
        """Install."""
        kept = install_weights(self.weights, self.path)
        logger.info("%s holds the new weights now; the bundle's own are in %s", self.path, kept)
