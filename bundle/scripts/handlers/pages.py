"""Pages and pictures of validated tomograms."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import ignite.distributed as idist
import numpy as np
from ignite.engine import Engine, Events
from torch.utils.tensorboard import SummaryWriter

from scripts.handlers.finished_sample import picture_of, samples_of, tomogram_of, true_picks_of
from scripts.pages.batch_page import write_summary_page
from scripts.pages.html import PAGE_NAME, check_megabytes
from scripts.pages.run_page import Truth, write_run_page
from scripts.picking.pick_transform import picks_of
from scripts.picks import Pick
from scripts.scoring.comparison import Comparison
from scripts.scoring.matching import check_mode
from scripts.species import SpeciesSet


class WritePages:
    """Write the page of every tomogram with its truth beside its picks, and one page over all.

    Args:
        output_dir: where the pages stand, the runs' in folders of their own.
        species_set: the species.
        thresholds: those that `picking.SweepThresholdsd` tried.
        mode: how it matched picks, see `metrics`.
        voxel_offset: see `coordinates`.
        page_megabytes: largest size of a run's page; 0 writes no pages.
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
        """Join the start, every tomogram and the end, unless there are to be no pages."""
        if self.page_megabytes:
            engine.add_event_handler(Events.STARTED, self.reset)
            engine.add_event_handler(Events.ITERATION_COMPLETED, self)
            engine.add_event_handler(Events.COMPLETED, self.write)

    def reset(self, engine: Engine) -> None:
        """Start anew."""
        self.picks: dict[str, list[Pick]] = {}
        self.comparisons: dict[str, Comparison] = {}

    def __call__(self, engine: Engine) -> None:
        """Write the pages of a batch."""
        for sample in samples_of(engine):
            run, picks = sample["result"]["run"], picks_of(sample)
            true_particles = true_picks_of(sample, self.species_set, self.voxel_offset)
            truth = Truth(true_particles, np.asarray(sample["sweep"].cpu()), self.thresholds, self.mode)
            self.picks[run] = picks
            comparison = write_run_page(
                self.folder / run / PAGE_NAME, tomogram_of(sample), picks, self.species_set, self.page_megabytes, truth
            )
            if comparison is not None:
                self.comparisons[run] = comparison

    def write(self, engine: Engine) -> None:
        """Write the page over all."""
        path, sweep = self.folder / PAGE_NAME, (self.thresholds, self.mode)
        write_summary_page(path, self.picks, self.species_set, comparisons=self.comparisons, sweep=sweep)


class OverlayToTensorBoard:
    """Write a picture of the first validated tomogram with its picks and its truth to TensorBoard.

    Args:
        log_dir: TensorBoard's folder.
        species_set: the species.
    """

    def __init__(self, log_dir: str, species_set: SpeciesSet) -> None:
        self.log_dir, self.species_set = log_dir, species_set

    def attach(self, engine: Engine) -> None:
        """Join the first iteration of every validation, on the main process."""
        if idist.get_rank() == 0:
            engine.add_event_handler(Events.ITERATION_COMPLETED(once=1), self)

    def __call__(self, engine: Engine) -> None:
        """Draw and write."""
        sample = samples_of(engine)[0]
        figure = picture_of(sample, self.species_set, true_picks_of(sample, self.species_set))
        with SummaryWriter(self.log_dir) as writer:
            writer.add_figure("picks", figure, engine.state.epoch)
