"""Join the comparison with the truth to the events of MONAI's evaluator: scores, thresholds, pages."""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ignite.engine import Engine, Events

from scripts.batch_page import write_summary_page
from scripts.comparison import Comparison
from scripts.files import write_atomically
from scripts.metrics import MODES, check_mode, fbeta, format_table, score_picks
from scripts.page import PAGE_NAME, Truth, check_megabytes, write_run_page
from scripts.particles import ParticleSet
from scripts.picking import picks_of
from scripts.picks import Pick
from scripts.report import save_figure, sweep_figure
from scripts.samples import samples_of, tomogram_of, truth_of
from scripts.thresholds import best_threshold

logger = logging.getLogger(__name__)


class WriteScores:
    """Compare all picks with the truth, in both modes: a table for the screen, and ``scores.csv``.

    Args:
        output_dir: where the file stands.
        particles: the species.
        voxel_offset: see `coordinates`.
    """

    def __init__(self, output_dir: str, particles: ParticleSet, voxel_offset: float = 0.0) -> None:
        self.folder, self.particles, self.voxel_offset = Path(output_dir), particles, voxel_offset
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
        for sample in samples_of(engine):
            self.picks += picks_of(sample)
            self.truth += truth_of(sample, self.particles, self.voxel_offset)

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


class FitThresholds:
    """Find the best threshold of every species from the counts that `picking.SweepThresholdsd` left in the samples.

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
        for sample in samples_of(engine):
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
        for name, threshold in chosen.items():
            best = np.interp(threshold, self.thresholds, curves[name])
            logger.info("%s: threshold %.3g, F4 %.4f on the runs it was fitted on", name, threshold, best)
        logger.info("thresholds in %s", self.folder / "thresholds.json")


class WritePages:
    """Write the page of every tomogram with its truth beside its picks, and one page over all.

    Args:
        output_dir: where the pages stand, the runs' in folders of their own.
        particles: the species.
        thresholds: those that `picking.SweepThresholdsd` tried.
        mode: how it matched picks, see `metrics`.
        voxel_offset: see `coordinates`.
        page_megabytes: largest size of a run's page; 0 writes no pages.
    """

    def __init__(
        self,
        output_dir: str,
        particles: ParticleSet,
        thresholds: Sequence[float],
        mode: str = "kaggle",
        voxel_offset: float = 0.0,
        page_megabytes: float = 20.0,
    ) -> None:
        self.folder, self.particles, self.thresholds = Path(output_dir), particles, thresholds
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
            true_particles = truth_of(sample, self.particles, self.voxel_offset)
            truth = Truth(true_particles, np.asarray(sample["sweep"].cpu()), self.thresholds, self.mode)
            self.picks[run] = picks
            comparison = write_run_page(
                self.folder / run / PAGE_NAME, tomogram_of(sample), picks, self.particles, self.page_megabytes, truth
            )
            if comparison is not None:
                self.comparisons[run] = comparison

    def write(self, engine: Engine) -> None:
        """Write the page over all."""
        path, sweep = self.folder / PAGE_NAME, (self.thresholds, self.mode)
        write_summary_page(path, self.picks, self.particles, comparisons=self.comparisons, sweep=sweep)
