"""Fit the probability thresholds."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ignite.engine import Engine, Events

from scripts.atomic_files import write_atomically
from scripts.handlers.finished_sample import samples_of
from scripts.pages.figures import save_figure, sweep_figure
from scripts.scoring.metrics import fbeta
from scripts.scoring.threshold_choice import best_threshold
from scripts.species import ParticleSet

logger = logging.getLogger(__name__)


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
