"""Pages and pictures of validated tomograms."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import numpy as np
from ignite.engine import Engine, Events
from torch.utils.tensorboard import SummaryWriter

from scripts.file_names import require_file_name
from scripts.handlers.finished_sample import (
    expected_of,
    judged_picks_of,
    picture_of,
    samples_of,
    tomogram_of,
    true_picks_of,
)
from scripts.pages.batch_page import write_summary_page
from scripts.pages.html import PAGE_NAME, check_megabytes
from scripts.pages.run_page import Truth, compare_run, write_run_page
from scripts.picks import Pick
from scripts.scoring.comparison import Comparison
from scripts.scoring.matching import check_mode
from scripts.species import SpeciesSet


class WritePages:
    """Write a page for every tomogram, with picks and truth, and one page over all of them.

    The page of a tomogram is written after its iteration, the page over all at the end. Picks of which the
    truth does not tell whether they are right are not shown.

    Args:
        output_dir: folder for the page over all tomograms; that of each run goes into a folder of its own.
        species_set: the species.
        thresholds: those of `scoring.threshold_sweep.SweepThresholdsd`.
        mode: how it matched picks, see `scoring.metrics`.
        voxel_offset: see `coordinates`.
        page_megabytes: size limit of a run's page; 0 writes no pages.
    """

    def __init__(
        self,
        output_dir: str,
        species_set: SpeciesSet,
        thresholds: Sequence[float],
        mode: str = "kaggle",
        voxel_offset: float = 0.0,
        page_megabytes: float = 20.0,
    ) -> None:
        self.folder, self.species_set, self.thresholds = Path(output_dir), species_set, thresholds
        self.mode, self.voxel_offset = check_mode(mode), voxel_offset
        self.page_megabytes = check_megabytes(page_megabytes)

    def attach(self, engine: Engine) -> None:
        if self.page_megabytes:
            engine.add_event_handler(Events.STARTED, self.reset)
            engine.add_event_handler(Events.ITERATION_COMPLETED, self)
            engine.add_event_handler(Events.COMPLETED, self.write)

    def reset(self, engine: Engine) -> None:
        self.picks: dict[str, list[Pick]] = {}
        self.expected: dict[str, dict[str, Any]] | None = None
        self.comparisons: dict[str, Comparison] = {}

    def __call__(self, engine: Engine) -> None:
        for sample in samples_of(engine):
            tomogram, picks = tomogram_of(sample), judged_picks_of(sample, self.species_set)
            particles = true_picks_of(sample, self.species_set, self.voxel_offset)
            truth = Truth(particles, np.asarray(sample["sweep"].cpu()), self.thresholds, self.mode)
            compared = compare_run(tomogram, picks, self.species_set, truth, self.voxel_offset)
            self.picks[tomogram.run], self.comparisons[tomogram.run] = picks, compared.comparison
            path = self.folder / require_file_name(tomogram.run, "run") / PAGE_NAME
            self.expected = expected_of(sample)
            size = self.page_megabytes
            write_run_page(path, tomogram, picks, self.species_set, size, compared, expected=self.expected)

    def write(self, engine: Engine) -> None:
        path, sweep = self.folder / PAGE_NAME, (self.thresholds, self.mode)
        kept = getattr(engine.state, "kept_thresholds", {})
        notes = [f"{name} keeps its threshold: {reason}." for name, reason in kept.items()]
        write_summary_page(
            path, self.picks, self.species_set, comparisons=self.comparisons, sweep=sweep, notes=notes,
            expected=self.expected,
        )  # fmt: skip


class OverlayToTensorBoard:
    """Write a picture of the first tomogram of every validation, with picks and truth, to TensorBoard.

    The picture is written after the first iteration, on the main process.

    Args:
        log_dir: folder of TensorBoard.
        species_set: the species.
    """

    def __init__(self, log_dir: str, species_set: SpeciesSet) -> None:
        self.log_dir, self.species_set = log_dir, species_set

    def attach(self, engine: Engine) -> None:
        if idist.get_rank() == 0:
            engine.add_event_handler(Events.ITERATION_COMPLETED(once=1), self)

    def __call__(self, engine: Engine) -> None:
        sample = samples_of(engine)[0]
        figure = picture_of(sample, self.species_set, true_picks_of(sample, self.species_set))
        with SummaryWriter(self.log_dir) as writer:
            writer.add_figure("picks", figure, engine.state.epoch)
