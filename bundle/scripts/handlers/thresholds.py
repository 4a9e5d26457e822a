"""Fit the probability thresholds."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ignite.engine import Engine, Events

from scripts.atomic_files import write_atomically
from scripts.errors import InputWarning
from scripts.handlers.finished_sample import samples_of
from scripts.networks.model_card import card_path, needed_card, record_thresholds
from scripts.pages.figures import save_figure, sweep_figure
from scripts.preparation.annotation import Annotation
from scripts.scoring.threshold_choice import LEAST_TRUTHS, fit_thresholds
from scripts.settings import check_setting
from scripts.species import SpeciesSet

logger = logging.getLogger(__name__)


class FitThresholds:
    """Find the best threshold of every species from the counts of `scoring.threshold_sweep.SweepThresholdsd`.

    The counts of every species are summed over the tomograms in which all its particles are annotated: elsewhere hardly
    any pick is wrong, and the lowest threshold would be the best. At the end the thresholds are chosen and written to
    ``thresholds.json``, which inference takes as ``probability_thresholds``, and the curves to ``thresholds.png``. Why
    a species keeps the threshold that it had is in ``kept_thresholds`` of the engine's state, for the page.

    Args:
        output_dir: where the files are written.
        species_set: the species.
        thresholds: those that were tried.
        recorded_for: weights file in whose card the thresholds are stored, so that inference uses them; None for no
            card.
        finder: what the thresholds are for, for the card.
        least_truths: true particles that a species needs; with fewer it keeps its threshold.
    """

    def __init__(
        self,
        output_dir: str,
        species_set: SpeciesSet,
        thresholds: Sequence[float],
        recorded_for: str | Path | None = None,
        finder: Any = None,
        least_truths: int = LEAST_TRUTHS,
    ) -> None:
        self.folder, self.species_set, self.thresholds = Path(output_dir), species_set, np.asarray(thresholds)
        check_setting("least_truths", least_truths)
        self.recorded_for, self.finder, self.least_truths = recorded_for, finder, least_truths

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self.reset)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)
        engine.add_event_handler(Events.COMPLETED, self.write)

    def reset(self, engine: Engine) -> None:
        if self.recorded_for is not None:
            needed_card(self.recorded_for, "record_thresholds to False")  # now, not after the work
        self.counts = np.zeros((len(self.species_set.picked), len(self.thresholds), 3), dtype=np.int64)
        self.runs: list[str] = []

    def __call__(self, engine: Engine) -> None:
        for sample in samples_of(engine):
            known = Annotation.of(sample)
            is_fitted = np.array([known.has_all_of(species.label) for species in self.species_set.picked])
            self.counts += np.asarray(sample["sweep"].cpu()) * is_fitted[:, None, None]
            if is_fitted.any():
                self.runs.append(sample["result"]["run"])

    def write(self, engine: Engine) -> None:
        fit = fit_thresholds(self.counts, self.thresholds, self.species_set, least_truths=self.least_truths)
        engine.state.kept_thresholds = fit.kept  # type: ignore[attr-defined]
        with write_atomically(self.folder / "thresholds.json") as file:
            file.write(json.dumps(fit.thresholds, indent=4) + "\n")
        for name, threshold in fit.thresholds.items():
            if name in fit.kept:
                message = f"{name} keeps the threshold {threshold:g}: {fit.kept[name]}."
                warnings.warn(message, InputWarning, stacklevel=2)
            best = np.interp(threshold, self.thresholds, fit.curves[name])
            logger.info("%s: threshold %.3g, F4 %.4f on the runs it was fitted on", name, threshold, best)
        logger.info("thresholds in %s", self.folder / "thresholds.json")
        if self.recorded_for is not None:
            record_thresholds(self.recorded_for, fit.thresholds, self.runs, self.finder, fit.kept)
            logger.info("and in %s, from where inference takes them", card_path(self.recorded_for))
        figure = sweep_figure(self.thresholds, fit.curves, fit.thresholds, self.species_set)
        save_figure(figure, self.folder / "thresholds.png")
