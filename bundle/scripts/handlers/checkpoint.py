"""Run a training alone in its folder, save it after every epoch, resume it, install its weights."""

from __future__ import annotations

import json
import logging
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.data import Dataset
from monai.engines import Trainer
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from scripts.atomic_files import lock_folder, open_lock, remove_temporaries
from scripts.command_line import is_bundle_command
from scripts.errors import InputError
from scripts.networks.model_card import BEHIND_KEYS, checked_card, current_card, make_card, sha256_of
from scripts.networks.recipe import recipe_of
from scripts.networks.weights import as_bytes, install_weights, read_tensors, save_model, save_tensors
from scripts.records import as_json, canonical, first_difference, record_of
from scripts.species import SpeciesSet

logger = logging.getLogger(__name__)

TRAINING_LOCK = ".training.lock"


def run_training(trainer: Trainer, output_dir: str) -> None:
    """Run a training; meanwhile the main process locks its folder.

    Args:
        trainer: one of its handlers is `TrainingCheckpoint`, with the same ``output_dir``.
        output_dir: an existing folder.

    Raises:
        InputError: another training is running in ``output_dir``, or its lock is another user's.
    """
    with open_lock(Path(output_dir) / TRAINING_LOCK) as lock:
        if idist.get_rank() == 0:
            lock_folder(lock, "training", "set another output_dir")
        trainer.run()


def runs_behind(started_from: str | Path | None) -> dict[str, set[str]]:
    """Return the runs that the card of the weights at the start of a training lists, by `BEHIND_KEYS`."""
    card = (None if started_from is None else current_card(started_from)) or {}
    return {key: set(card.get(key) or ()) for key in BEHIND_KEYS}


def run_names(items: Iterable[Mapping[str, Any]]) -> set[str]:
    """Return the names of the runs of items; of those of MONAI Label, which name none, the files."""
    return {str(item.get("run", item["image"])) for item in items}


class TrainingCheckpoint:
    """Save the training run after every epoch, and resume it when it is started again.

    At the start every process loads ``training.pt``, if there is one. The main process removes what a killed training
    left half-written and, at the end of every epoch, writes ``training.pt`` (everything needed to resume),
    ``model_last.pt`` (the averaged weights) and, if the validation was the best so far or there is none, ``model.pt``
    (the same weights). Both models get a card, see `networks.model_card`; that of a ``model.pt`` with a score lists the
    validation runs as those that selected it. At the end of the training the main process logs where the weights are.

    The random numbers of an epoch, of dropout for example, depend on the seed and the epoch's number alone, so that a
    resumed training draws the same ones.

    Args:
        output_dir: where the files are stored.
        model: the averaged network.
        objects: objects with a state, besides the trainer: network, optimizer, averaged weights.
        schedule: of the learning rate; its only state is the number of steps.
        built: the objects that determine what is learned, by name; their records must be the same when a run is
            resumed.
        species_set: the species, for the card.
        painter: what paints the targets, for the card.
        window_size: ``(z, y, x)`` of a training window in voxels, for the card.
        windows: the dataset of windows, for the card.
        validation_items: those of the validation, whose runs select the best model, for the card.
        evaluator: the validation engine; its key metric determines which model is the best.
        started_from: the weights that the training started from, for the card; None for initialised weights.
        taken_over: where these are of other species, those that were taken over, for the card, see
            `networks.transfer`; None where they are of the same.
        seed: of torch's random numbers.
        resume: continue from ``training.pt`` if there is one.
        accept_complete: a complete training with these settings stays as it is; otherwise it is refused.

    Raises:
        InputError: ``training.pt`` is of a run that is complete, or that has other settings or another network; or the
            network has no recipe.
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
        validation_items: Sequence[Mapping[str, Any]],
        evaluator: Engine,
        started_from: str | Path | None = None,
        taken_over: Sequence[str] | None = None,
        seed: int = 0,
        resume: bool = True,
        accept_complete: bool = False,
    ) -> None:
        self.built = as_json(record_of(built))
        self.folder, self.model, self.objects, self.schedule = Path(output_dir), model, objects, schedule
        self.evaluator, self.resume, self.best = evaluator, resume, -1.0
        self.seed, self.accept_complete, self.validation_runs = seed, accept_complete, run_names(validation_items)
        behind = runs_behind(started_from)
        new = [name for name in species_set.names if name not in (taken_over or [])]
        facts = {
            "window_size": list(window_size),
            "thresholds_fitted_on": None,
            "thresholds_fitted_for": None,
            "thresholds_kept": None,
            "trained_on": sorted(run_names(windows.data) | behind["trained_on"]),
            "selected_on": sorted(behind["selected_on"]),
            "started_from": started_from and sha256_of(started_from),
            "species_at_start": None if taken_over is None else {"taken_over": list(taken_over), "new": new},
            "command": shlex.join(["python", "-m", "monai.bundle", *sys.argv[1:]]) if is_bundle_command() else None,
        }
        self.card = make_card(recipe_of(model), species_set, painter, **facts)

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self.load)
        engine.add_event_handler(Events.EPOCH_STARTED, self.draw_anew)
        if idist.get_rank() == 0:
            engine.add_event_handler(Events.STARTED, lambda _: remove_temporaries(self.folder))
            engine.add_event_handler(Events.EPOCH_COMPLETED, self.save)
            engine.add_event_handler(Events.COMPLETED, self.tell)

    def tell(self, engine: Engine) -> None:
        chosen = "best validation" if self.best >= 0 else "last epoch, not validated"
        logger.info("weights: %s (%s) and model_last.pt", self.folder / "model.pt", chosen)

    def load(self, engine: Engine) -> None:
        path = self.folder / "training.pt"
        if not self.resume or not path.exists():
            return
        state = read_tensors(path)
        if state["epoch"] >= engine.state.max_epochs and not self.accept_complete:
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
        self.best, self.card["started_from"] = state["best"], state["started_from"] or None
        self.card["species_at_start"] = state.get("species_at_start")
        for key in BEHIND_KEYS:
            self.card[key] = sorted({*self.card[key], *state.get(key, ())})
        engine.state.epoch, engine.state.iteration = state["epoch"], state["iteration"]
        self.schedule.last_epoch = state["iteration"]
        logger.info("resuming after epoch %d of %s", state["epoch"], path)

    def draw_anew(self, engine: Engine) -> None:
        torch.manual_seed(np.random.RandomState((self.seed, engine.state.epoch)).randint(2**31))

    def save(self, engine: Engine) -> None:
        if not all(value.isfinite().all() for value in self.model.state_dict().values()):
            raise InputError(
                f"weights are no numbers any more after step {engine.state.iteration}: they are not written. Set a "
                "smaller learning_rate, or precision float32."
            )
        weights = as_bytes({name: value.detach().cpu().contiguous() for name, value in self.model.state_dict().items()})
        validation: Any = self.evaluator.state
        validated = validation.epoch == engine.state.epoch and bool(validation.metrics)
        score = validation.metrics[validation.key_metric_name] if validated else None
        card = {**self.card, "steps": engine.state.iteration, "validation_score": score}
        if (score is not None and score >= self.best) or (score is None and self.best < 0):
            selected = () if score is None else self.validation_runs
            selected_on = sorted({*card["selected_on"], *selected})
            save_model(self.folder / "model.pt", weights, {**card, "selected_on": selected_on})
            self.best = self.best if score is None else score
        save_model(self.folder / "model_last.pt", weights, card)
        states = {name: item.state_dict() for name, item in self.objects.items()}
        progress = {
            "epoch": engine.state.epoch,
            "iteration": engine.state.iteration,
            "best": float(self.best),
            "built": canonical(self.built),
            "started_from": self.card["started_from"] or "",
            "species_at_start": self.card["species_at_start"],
            **{key: self.card[key] for key in BEHIND_KEYS},
        }
        save_tensors({**states, **progress}, self.folder / "training.pt")


class InstallWeights:
    """Replace the bundle's weights by those of a complete training, see `networks.weights.install_weights`.

    At the start of the training the main process checks that the file to replace is intact; at its end it replaces it.
    A training that fails or is stopped does not change the bundle.

    Args:
        weights: file with the new weights, written by `TrainingCheckpoint`.
        path: the file to replace.

    Raises:
        InputError: the file to replace is not the one that its card describes.
    """

    def __init__(self, weights: str, path: str) -> None:
        self.weights, self.path = weights, path

    def attach(self, engine: Engine) -> None:
        if idist.get_rank() == 0:
            engine.add_event_handler(Events.STARTED, self.check)
            engine.add_event_handler(Events.COMPLETED, self)

    def check(self, engine: Engine) -> None:
        if Path(self.path).exists():
            checked_card(self.path)

    def __call__(self, engine: Engine) -> None:
        kept = install_weights(self.weights, self.path)
        logger.info("%s holds the new weights now%s", self.path, f"; the bundle's own are in {kept}" if kept else "")
