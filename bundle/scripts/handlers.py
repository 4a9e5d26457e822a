"""Join the work of the other modules to the events of MONAI's evaluator: score, write, draw, time."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from time import perf_counter
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from ignite.metrics import Metric
from ignite.metrics.metric import reinit__is_reduced, sync_all_reduce
from monai.engines.utils import IterationEvents
from torch.utils.tensorboard import SummaryWriter

from scripts.coordinates import voxel_size_of
from scripts.files import write_folder_atomically
from scripts.metrics import Counts, check_mode, count_matches, fbeta, precision, recall, score_counts
from scripts.page import PAGE_NAME, check_megabytes, write_run_page
from scripts.particles import ParticleSet
from scripts.picking import picks_of
from scripts.picks import Facts, Pick, check_formats, write_run_folder
from scripts.report import save_figure
from scripts.run_folders import make_record, write_record
from scripts.samples import overlay_of, samples_of, tomogram_of, truth_of
from scripts.transforms import original_affine_of, source_of

logger = logging.getLogger(__name__)


class PickScore(Metric):
    """Score of the picks against the truth, summed over tomograms and processes; the key metric of validation.

    Reads from every sample ``result`` (the picks), ``label`` (true particles ``(N, 4)``) and ``image`` (voxel size).
    Beside the score under its own name, F4, precision and recall of every species become metrics of the engine.

    Args:
        particles: the species.
        mode: how picks are matched, see `metrics`.
        voxel_offset: see `coordinates`.
    """

    _state_dict_all_req_keys = ("_counts",)

    def __init__(self, particles: ParticleSet, mode: str = "kaggle", voxel_offset: float = 0.0) -> None:
        self.particles, self.mode, self.voxel_offset = particles, check_mode(mode), voxel_offset
        super().__init__()

    @reinit__is_reduced
    def reset(self) -> None:
        """Start anew."""
        self._counts = torch.zeros(len(self.particles), 3, dtype=torch.int64, device=idist.device())

    @reinit__is_reduced
    def update(self, output: Sequence[Mapping[str, Any]]) -> None:
        """Add the samples of one batch."""
        for sample in output:
            found = count_matches(
                truth_of(sample, self.particles, self.voxel_offset), picks_of(sample), self.particles, self.mode
            )
            for row, name in enumerate(self.particles.names):
                counts = found.get(name, Counts())
                self._counts[row] += torch.tensor([counts.tp, counts.predicted, counts.truths]).to(self._counts.device)

    @sync_all_reduce("_counts")
    def compute(self) -> float:
        """Return the score over all samples of all processes."""
        rows = self._counts.tolist()  # summed over the processes only while this function runs
        self.counts = {name: Counts(*row) for name, row in zip(self.particles.names, rows, strict=True)}
        return score_counts(self.counts, self.particles)

    def completed(self, engine: Engine, name: str) -> None:
        """Put the score and the numbers of every species into the engine's metrics."""
        super().completed(engine, name)
        for species, counts in self.counts.items():
            tp, predicted, truths = counts.tp, counts.predicted, counts.truths
            engine.state.metrics |= {
                f"f4_{species}": fbeta(tp, predicted, truths),
                f"precision_{species}": precision(tp, predicted),
                f"recall_{species}": recall(tp, truths),
            }


class WritePicks:
    """Write every tomogram's picks into a folder of its own, which is complete or not there.

    A run's folder holds ``picks.csv``, ``overlay.png``, ``report.html`` and the record ``run.json``, see `run_folders`,
    and for the other formats what `picks.formats` names.

    Args:
        output_dir: where the folders stand.
        particles: the species.
        user_id: who picked, for copick.
        session_id: which session, for copick.
        voxel_offset: see `coordinates`.
        formats: names of the formats to write, see `picks.formats`.
        binning: how often the tilt series' pixels go into the side of a voxel, for formats that count them.
        settings: everything that the picks depend on, for the record.
        page_megabytes: largest size of a run's page; 0 writes no pages.

    Raises:
        InputError: there is no such format.
    """

    def __init__(
        self,
        output_dir: str,
        particles: ParticleSet,
        user_id: str | int,
        session_id: str | int,
        voxel_offset: float = 0.0,
        formats: Sequence[str] = ("csv", "copick", "relion5"),
        binning: float = 1.0,
        settings: Mapping[str, Any] | None = None,
        page_megabytes: float = 20.0,
    ) -> None:
        self.folder, self.particles, self.settings = Path(output_dir), particles, settings or {}
        self.page_megabytes = check_megabytes(page_megabytes)
        self.user_id, self.session_id, self.voxel_offset = str(user_id), str(session_id), voxel_offset
        self.formats, self.binning = check_formats(formats), binning

    def attach(self, engine: Engine) -> None:
        """Join every tomogram."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Write the folders of a batch."""
        started = perf_counter()
        for sample in samples_of(engine):
            run, picks, tomogram = sample["result"]["run"], picks_of(sample), source_of(sample["image"])
            with write_folder_atomically(self.folder / run) as folder:
                self.write_files(folder, run, picks, sample)
                seconds = {**getattr(engine.state, "seconds", {}), "write": perf_counter() - started}
                memory = peak_memory_gib()
                record = make_record(run, tomogram, self.settings, picks, self.particles, seconds, memory)
                write_record(folder, record)
            logger.info("%s: %d picks in %s", run, len(picks), self.folder / run)

    def write_files(self, folder: Path, run: str, picks: Sequence[Pick], sample: Mapping[str, Any]) -> None:
        """Write one run's picks in every format, and their picture."""
        facts = Facts(
            run=run,
            voxel_size_angstrom=voxel_size_of(original_affine_of(sample["image"])),
            volume_shape=tuple(sample["pred"].shape[1:]),
            voxel_offset=self.voxel_offset,
            binning=self.binning,
            user_id=self.user_id,
            session_id=self.session_id,
        )
        write_run_folder(folder, picks, self.particles.names, self.formats, facts)
        save_figure(overlay_of(sample, self.particles), folder / "overlay.png")
        write_run_page(folder / PAGE_NAME, tomogram_of(sample), picks, self.particles, self.page_megabytes)


class StageTimes:
    """Log how long each stage of every tomogram took, and the largest memory so far; stands last among the handlers.

    While a tomogram is worked on, the engine's ``state.seconds`` holds the time of the stages that are over.
    """

    def attach(self, engine: Engine) -> None:
        """Join the end of every stage."""
        engine.add_event_handler(Events.GET_BATCH_STARTED, self.start)
        engine.add_event_handler(Events.GET_BATCH_COMPLETED, self.mark, "read and scale")
        engine.add_event_handler(IterationEvents.FORWARD_COMPLETED, self.mark, "network")
        engine.add_event_handler(IterationEvents.MODEL_COMPLETED, self.mark, "pick")
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.report)

    def start(self, engine: Engine) -> None:
        """Start the clock."""
        self.last = perf_counter()
        self.stages: dict[str, float] = {}
        engine.state.seconds = self.stages  # type: ignore[attr-defined]

    def mark(self, engine: Engine, stage: str) -> None:
        """Note the time since the last mark."""
        now = perf_counter()
        self.stages[stage], self.last = now - self.last, now

    def report(self, engine: Engine) -> None:
        """Write the line."""
        self.mark(engine, "write")
        stages = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in self.stages.items())
        run = samples_of(engine)[0]["result"]["run"]
        logger.info("%s: %s; peak memory %.2f GiB", run, stages, peak_memory_gib())


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
        sample = samples_of(engine)[0]
        figure = overlay_of(sample, self.particles, truth_of(sample, self.particles))
        with SummaryWriter(self.log_dir) as writer:
            writer.add_figure("picks", figure, engine.state.epoch)


def peak_memory_gib() -> float:
    """Return the largest memory that this process has had."""
    unit = 2**30 if sys.platform == "darwin" else 2**20  # bytes there, KiB elsewhere
    return getrusage(RUSAGE_SELF).ru_maxrss / unit
