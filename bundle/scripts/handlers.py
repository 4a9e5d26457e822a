"""Join the work of the other modules to the events of MONAI's engines."""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from time import perf_counter
from typing import Any

import ignite.distributed as idist
import numpy as np
import torch
from ignite.engine import Engine, Events
from ignite.handlers import EMAHandler, ProgressBar
from ignite.metrics import Metric
from ignite.metrics.metric import reinit__is_reduced, sync_all_reduce
from monai.data import MetaTensor
from monai.engines.utils import IterationEvents
from matplotlib.figure import Figure
from torch import nn
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.tensorboard import SummaryWriter

from scripts.coordinates import voxel_size_of
from scripts.errors import InputError
from scripts.metrics import (
    MODES,
    Counts,
    best_threshold,
    count_matches,
    fbeta,
    format_table,
    precision,
    recall,
    score_counts,
    score_picks,
)
from scripts.particles import ParticleSet
from scripts.picks import Pick, write_atomically, write_copick_json, write_csv, write_relion5_star
from scripts.report import overlay_figure, save_figure, sweep_figure
from scripts.transforms import original_affine_of, true_picks
from scripts.weights import read_tensors, save_tensors

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


class AveragedWeights(EMAHandler):
    """Keep an exponential moving average of the weights: ``ema_model``, which is validated and saved.

    Args:
        model: the network that is trained.
        momentum: share of the new weights in every step, once warm.
        momentum_warmup: the same at the first step.
        warmup_iters: steps until ``momentum`` is reached.
    """

    def attach(self, engine: Engine) -> None:  # type: ignore[override]
        """Join the end of every iteration, and the start, where weights loaded by other handlers are taken over."""
        engine.add_event_handler(Events.STARTED, self.take_over)
        super().attach(engine)

    def take_over(self, engine: Engine) -> None:
        """Start from the network's weights, unless the training goes on from a checkpoint."""
        if engine.state.iteration == 0:
            self.ema_model.load_state_dict(self.model.state_dict())


class TrainingProgress(ProgressBar):
    """Show a progress bar over the steps of every epoch, with the loss."""

    def attach(self, engine: Engine) -> None:  # type: ignore[override]
        """Join the end of every iteration, on the main process."""
        if idist.get_rank() == 0:
            super().attach(engine, output_transform=lambda output: {"loss": float(output[0]["loss"])})


class TrainingCheckpoint:
    """Save the training after every epoch, and go on from there when it is started again.

    Writes ``training.pt`` (all that is needed to go on), ``model_last.pt`` (the averaged weights of the last epoch) and
    ``model.pt`` (those of the best validation; of the last epoch where nothing is validated).

    Args:
        output_dir: where the files stand.
        model: the averaged network.
        objects: what has a state beside the trainer: network, optimizer, averaged weights.
        schedule: the learning rate's; the number of steps done is its whole state.
        evaluator: the validation engine; its key metric decides which model is the best.
        resume: go on from ``training.pt`` where there is one.

    Raises:
        InputError: ``training.pt`` belongs to a training that is complete, or to another network.
    """

    def __init__(
        self,
        output_dir: str,
        model: nn.Module,
        objects: Mapping[str, Any],
        schedule: LRScheduler,
        evaluator: Engine,
        resume: bool = True,
    ) -> None:
        self.folder, self.model, self.objects, self.schedule = Path(output_dir), model, objects, schedule
        self.evaluator, self.resume, self.best = evaluator, resume, -1.0

    def attach(self, engine: Engine) -> None:
        """Join the start and the end of every epoch."""
        engine.add_event_handler(Events.STARTED, self.load)
        if idist.get_rank() == 0:
            engine.add_event_handler(Events.EPOCH_COMPLETED, self.save)

    def load(self, engine: Engine) -> None:
        """Go on where the checkpoint stands."""
        path = self.folder / "training.pt"
        if not self.resume or not path.exists():
            return
        state = read_tensors(path)
        if state["epoch"] >= engine.state.max_epochs:
            raise InputError(
                f"{path} is a complete training of {state['epoch']} epochs: set another output_dir, more epochs, or "
                "resume to false to replace it."
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
        validated = self.evaluator.state.epoch == engine.state.epoch and bool(self.evaluator.state.metrics)
        score = self.evaluator.state.metrics[self.evaluator.state.key_metric_name] if validated else None
        if (score is not None and score > self.best) or (score is None and self.best < 0):
            save_tensors(weights, self.folder / "model.pt")
            self.best = self.best if score is None else score
        save_tensors(weights, self.folder / "model_last.pt")
        states = {name: item.state_dict() for name, item in self.objects.items()}
        progress = {"epoch": engine.state.epoch, "iteration": engine.state.iteration, "best": float(self.best)}
        save_tensors({**states, **progress}, self.folder / "training.pt")


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
        self.losses.append(float(engine.state.output[0]["loss"]))

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


class PickScore(Metric):
    """Score of the picks against the truth, summed over tomograms and processes; the key metric of validation.

    Reads from every sample ``result`` (the picks), ``label`` (true particles ``(N, 4)``) and ``image`` (voxel size).
    Beside the score under its own name, F4, precision and recall of every species become metrics of the engine.

    Args:
        particles: the species.
        mode: how picks are matched, see `metrics`.
    """

    _state_dict_all_req_keys = ("_counts",)

    def __init__(self, particles: ParticleSet, mode: str = "kaggle") -> None:
        self.particles, self.mode = particles, mode
        super().__init__()

    @reinit__is_reduced
    def reset(self) -> None:
        """Start anew."""
        self._counts = torch.zeros(len(self.particles), 3, dtype=torch.int64, device=idist.device())

    @reinit__is_reduced
    def update(self, output: Sequence[Mapping[str, Any]]) -> None:
        """Add the samples of one batch."""
        for sample in output:
            found = count_matches(truth_of(sample, self.particles), picks_of(sample), self.particles, self.mode)
            for row, name in enumerate(self.particles.names):
                counts = found.get(name, Counts())
                self._counts[row] += torch.tensor([counts.tp, counts.predicted, counts.truths]).to(self._counts.device)

    @sync_all_reduce("_counts")
    def compute(self) -> float:
        """Return the score over all samples."""
        return score_counts(self.counts(), self.particles)

    def counts(self) -> dict[str, Counts]:
        """Return the counts of every species."""
        rows = self._counts.tolist()
        return {name: Counts(*row) for name, row in zip(self.particles.names, rows, strict=True)}

    def completed(self, engine: Engine, name: str) -> None:
        """Put the score and the numbers of every species into the engine's metrics."""
        super().completed(engine, name)
        for species, counts in self.counts().items():
            tp, predicted, truths = counts.tp, counts.predicted, counts.truths
            engine.state.metrics |= {
                f"f4_{species}": fbeta(tp, predicted, truths),
                f"precision_{species}": precision(tp, predicted),
                f"recall_{species}": recall(tp, truths),
            }


class OverlayToTensorBoard:
    """Write a picture of the first validated tomogram with its picks and its truth to TensorBoard.

    Args:
        log_dir: TensorBoard's folder.
        particles: the species.
    """

    def __init__(self, log_dir: str, particles: ParticleSet) -> None:
        self.log_dir, self.particles = log_dir, particles

    def attach(self, engine: Engine) -> None:
        """Join the first iteration of every validation, on the main process."""
        if idist.get_rank() == 0:
            engine.add_event_handler(Events.ITERATION_COMPLETED(once=1), self)

    def __call__(self, engine: Engine) -> None:
        """Draw and write."""
        sample = engine.state.output[0]
        figure = overlay_of(sample, self.particles, truth_of(sample, self.particles))
        with SummaryWriter(self.log_dir) as writer:
            writer.add_figure("picks", figure, engine.state.epoch)


class WritePicks:
    """Write every tomogram's picks into a folder of its own, and one table over all.

    A run's folder holds ``picks.csv``, ``Picks/<user>_<session>_<species>.json`` (copick), ``<species>.star`` (RELION 5)
    and ``overlay.png``.

    Args:
        output_dir: where the folders stand.
        particles: the species.
        user_id: who picked, for copick.
        session_id: which session, for copick.
        voxel_offset: see `coordinates`.
    """

    def __init__(
        self, output_dir: str, particles: ParticleSet, user_id: str, session_id: str, voxel_offset: float = 0.0
    ) -> None:
        self.folder, self.particles = Path(output_dir), particles
        self.user_id, self.session_id, self.voxel_offset = user_id, session_id, voxel_offset
        self.picks: list[Pick] = []

    def attach(self, engine: Engine) -> None:
        """Join the start, every tomogram and the end."""
        engine.add_event_handler(Events.STARTED, self.reset)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)
        engine.add_event_handler(Events.COMPLETED, self.write)

    def reset(self, engine: Engine) -> None:
        """Start anew."""
        self.picks = []

    def __call__(self, engine: Engine) -> None:
        """Write the folders of a batch."""
        for source, sample in zip(engine.state.batch, engine.state.output, strict=True):
            picks = picks_of(sample)
            self.write_run(source["run"], picks, sample)
            self.picks += picks

    def write_run(self, run: str, picks: Sequence[Pick], sample: Mapping[str, Any]) -> None:
        """Write one run's folder."""
        folder = self.folder / run
        voxel_size = voxel_size_of(original_affine_of(sample["image"]))
        shape = tuple(sample["pred"].shape[1:])
        write_csv(folder / "picks.csv", picks)
        for species in self.particles:
            own = [pick for pick in picks if pick.particle == species.name]
            write_copick_json(
                folder / "Picks" / f"{self.user_id}_{self.session_id}_{species.name}.json",
                own,
                run=run,
                particle=species.name,
                voxel_size_angstrom=voxel_size,
                user_id=self.user_id,
                session_id=self.session_id,
            )
            write_relion5_star(
                folder / f"{species.name}.star",
                own,
                run=run,
                volume_shape_zyx=shape,
                voxel_size_angstrom=voxel_size,
                voxel_offset=self.voxel_offset,
            )
        save_figure(overlay_of(sample, self.particles), folder / "overlay.png")
        logger.info("%s: %d picks in %s", run, len(picks), folder)

    def write(self, engine: Engine) -> None:
        """Write the table over all runs."""
        write_csv(self.folder / "picks.csv", self.picks)
        logger.info("%d picks in %s", len(self.picks), self.folder / "picks.csv")


class WriteScores:
    """Compare all picks with the truth, in both modes: a table for the screen, and ``scores.csv``.

    Args:
        output_dir: where the file stands.
        particles: the species.
    """

    def __init__(self, output_dir: str, particles: ParticleSet) -> None:
        self.folder, self.particles = Path(output_dir), particles
        self.picks: list[Pick] = []
        self.truth: list[Pick] = []

    def attach(self, engine: Engine) -> None:
        """Join the start, every tomogram and the end."""
        engine.add_event_handler(Events.STARTED, self.reset)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)
        engine.add_event_handler(Events.COMPLETED, self.write)

    def reset(self, engine: Engine) -> None:
        """Start anew."""
        self.picks, self.truth = [], []

    def __call__(self, engine: Engine) -> None:
        """Note the picks and the truth of a batch."""
        for sample in engine.state.output:
            self.picks += picks_of(sample)
            self.truth += truth_of(sample, self.particles)

    def write(self, engine: Engine) -> None:
        """Score, show and write."""
        rows: list[list[Any]] = []
        for mode in MODES:
            score = score_picks(self.truth, self.picks, self.particles, mode)
            print(format_table(score), flush=True)
            for row in score.rows:
                counts = row.counts
                numbers = counts.truths, counts.predicted, counts.tp, counts.fp, counts.fn
                rows.append([mode, row.name, *numbers, row.precision, row.recall, row.fbeta])
            rows.append([mode, "total", *[""] * 7, score.total])
        with write_atomically(self.folder / "scores.csv") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow("mode,species,truths,picks,tp,fp,fn,precision,recall,f4".split(","))
            writer.writerows(rows)
        logger.info("scores in %s", self.folder / "scores.csv")


class StageTimes:
    """Log how long each stage of every tomogram took, and the largest memory so far; stands last among the handlers."""

    def attach(self, engine: Engine) -> None:
        """Join the end of every stage."""
        engine.add_event_handler(Events.GET_BATCH_STARTED, self.start)
        engine.add_event_handler(Events.GET_BATCH_COMPLETED, self.mark, "read and scale")
        engine.add_event_handler(IterationEvents.FORWARD_COMPLETED, self.mark, "network")
        engine.add_event_handler(IterationEvents.MODEL_COMPLETED, self.mark, "pick")
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.report)

    def start(self, engine: Engine) -> None:
        """Start the clock."""
        self.last, self.stages = perf_counter(), {}

    def mark(self, engine: Engine, stage: str) -> None:
        """Note the time since the last mark."""
        now = perf_counter()
        self.stages[stage], self.last = now - self.last, now

    def report(self, engine: Engine) -> None:
        """Write the line."""
        self.mark(engine, "write")
        stages = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in self.stages.items())
        memory = getrusage(RUSAGE_SELF).ru_maxrss / 2**20
        logger.info("%s: %s; peak memory %.2f GiB", engine.state.batch[0]["run"], stages, memory)


class FitThresholds:
    """Find the best threshold of every species from the counts that `transforms.SweepThresholdsd` left in the samples.

    Writes ``thresholds.json``, which inference takes as ``probability_thresholds``, and ``thresholds.png``, the curves.

    Args:
        output_dir: where the files stand.
        particles: the species.
        thresholds: those that were tried.
    """

    def __init__(self, output_dir: str, particles: ParticleSet, thresholds: Sequence[float]) -> None:
        self.folder, self.particles, self.thresholds = Path(output_dir), particles, np.asarray(thresholds)

    def attach(self, engine: Engine) -> None:
        """Join the start, every tomogram and the end."""
        engine.add_event_handler(Events.STARTED, self.reset)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)
        engine.add_event_handler(Events.COMPLETED, self.write)

    def reset(self, engine: Engine) -> None:
        """Start anew."""
        self.counts = np.zeros((len(self.particles), len(self.thresholds), 3), dtype=np.int64)

    def __call__(self, engine: Engine) -> None:
        """Add the counts of a batch."""
        for sample in engine.state.output:
            self.counts += np.asarray(sample["sweep"].cpu())

    def write(self, engine: Engine) -> None:
        """Choose and write."""
        curves, chosen = {}, {}
        for species, counts in zip(self.particles, self.counts, strict=True):
            curve = np.array([fbeta(*map(int, row)) for row in counts])
            chosen[species.name] = best_threshold(
                self.thresholds, curve, species.probability_threshold, int(counts[0, 2]), name=species.name
            )
            curves[species.name] = curve
        with write_atomically(self.folder / "thresholds.json") as file:
            file.write(json.dumps(chosen, indent=4) + "\n")
        save_figure(sweep_figure(self.thresholds, curves, chosen, self.particles), self.folder / "thresholds.png")
        logger.info("thresholds in %s: %s", self.folder / "thresholds.json", chosen)


def picks_of(sample: Mapping[str, Any]) -> list[Pick]:
    """Return the picks that `transforms.PickParticlesd` left in a sample."""
    return [Pick(**record) for record in sample["result"]["picks"]]


def truth_of(sample: Mapping[str, Any], particles: ParticleSet) -> list[Pick]:
    """Return the true particles of a sample, from its ``label`` ``(N, 4)``."""
    return true_picks(sample["label"], particles, sample["result"]["run"], sample["image"])


def overlay_of(sample: Mapping[str, Any], particles: ParticleSet, truth: Sequence[Pick] | None = None) -> Figure:
    """Return the picture of a sample's tomogram, as the network saw it, with its picks."""
    image: MetaTensor = sample["image"]
    here, own = voxel_size_of(image.affine), voxel_size_of(original_affine_of(image))

    def drawn(pick: Pick) -> Pick:  # where the volume was resampled, its voxels are not the tomogram's
        x, y, z = (value * own / here for value in (pick.x_voxel, pick.y_voxel, pick.z_voxel))
        return replace(pick, x_voxel=x, y_voxel=y, z_voxel=z)

    picks = [drawn(pick) for pick in picks_of(sample)]
    truths = None if truth is None else [drawn(pick) for pick in truth]
    title = f"{sample['result']['run']}: {len(picks)} picks"
    return overlay_figure(image[0].cpu().numpy(), picks, particles, here, title, truths)
