"""Score picks against the truth."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from ignite.metrics import Metric
from ignite.metrics.metric import reinit__is_reduced, sync_all_reduce

from scripts.atomic_files import write_table_of_rows
from scripts.datasets.annotated import warn_of_points_alone
from scripts.errors import InputWarning
from scripts.handlers.finished_sample import image_facts_of, judged_picks_of, samples_of, true_picks_of
from scripts.networks.ensemble import WeightsFiles, files_of
from scripts.networks.model_card import (
    SELECTED_ON,
    current_card,
    needed_card,
    one_file,
    used_runs_in_words,
    uses_in_card,
)
from scripts.picks import Pick
from scripts.scoring.matching import MODES, check_mode
from scripts.scoring.metrics import (
    Counts,
    count_matches,
    fbeta,
    format_table,
    precision,
    recall,
    score_counts,
    score_picks,
)
from scripts.species import SpeciesSet

logger = logging.getLogger(__name__)


def check_scored_runs(
    runs: Sequence[Mapping[str, Any]],
    checkpoint_path: WeightsFiles,
    judge: Any = None,
    record_thresholds: bool = False,
) -> None:
    """Warn of runs that the weights, or the probabilities, were learned from: scores are too good there.

    Of runs that only chose the epoch of the weights the log says so: validation runs may be used again. Another warning
    names runs of points alone, see `annotated.warn_of_points_alone`.

    Args:
        runs: items of the tomograms to be scored, each with its ``run``.
        checkpoint_path: the weights file, or those of an ensemble; nothing is known of one without a card.
        judge: the second look or the calibration in its place; None if there is neither.
        record_thresholds: thresholds are fitted on the runs and recorded in the card of the weights.

    Raises:
        InputError: thresholds are to be recorded, and the weights have no card.
    """
    names = sorted({one["run"] for one in runs})
    warn_of_points_alone(runs)
    if record_thresholds:
        needed_card(one_file(checkpoint_path), "record_thresholds to False")
    paths = files_of([checkpoint_path] if isinstance(checkpoint_path, str | Path) else checkpoint_path)
    uses: dict[str, Sequence[str]] = dict(getattr(judge, "uses", {}))
    for path in paths:
        uses |= uses_in_card(card, path) if (card := current_card(path)) else {}
    selecting = {use: uses.pop(use) for use in list(uses) if use.startswith(SELECTED_ON)}
    selected, used = used_runs_in_words(names, selecting), used_runs_in_words(names, uses)
    if selected:
        logger.info("scores may be a little too good on runs that chose the epoch of the weights (%s)", selected)
    if used:
        what = "scores, and the thresholds that are recorded," if record_thresholds else "scores"
        message = f"{what} are too good on runs that were learned from ({used}). Set validation_runs to others, "
        message += "unless these are other tomograms of the same names."
        warnings.warn(message, InputWarning, stacklevel=2)


class WriteScores:
    """Collect the picks and the truth of all tomograms; at the end score them, print a table, write ``scores.csv``.

    Both modes of `scoring.metrics` are scored. Picks of which the truth does not tell whether they are right are left
    out, see `finished_sample.judged_picks_of`.

    Args:
        output_dir: where the file is written.
        species_set: the species.
        voxel_offset: see `coordinates`.
    """

    def __init__(self, output_dir: str, species_set: SpeciesSet, voxel_offset: float = 0.0) -> None:
        self.folder, self.species_set, self.voxel_offset = Path(output_dir), species_set, voxel_offset
        self.picks: list[Pick] = []
        self.truth: list[Pick] = []
        self.runs: list[str] = []

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self.reset)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)
        engine.add_event_handler(Events.COMPLETED, self.write)

    def reset(self, engine: Engine) -> None:
        self.picks, self.truth, self.runs = [], [], []

    def __call__(self, engine: Engine) -> None:
        for sample in samples_of(engine):
            self.picks += judged_picks_of(sample, self.species_set)
            self.truth += true_picks_of(sample, self.species_set, self.voxel_offset)
            self.runs.append(image_facts_of(sample).run)

    def write(self, engine: Engine) -> None:
        rows: list[list[Any]] = []
        for mode in MODES:
            score = score_picks(self.truth, self.picks, self.species_set, mode, runs=self.runs)
            print(format_table(score), flush=True)
            for row in score.rows:
                counts = row.counts
                numbers = counts.truths, counts.predicted, counts.tp, counts.fp, counts.fn
                rows.append([mode, row.name, *numbers, row.precision, row.recall, row.f1, row.fbeta])
            rows.append([mode, "total", *[""] * 7, score.mean_f1, score.total])
        columns = "mode,species,truths,picks,tp,fp,fn,precision,recall,f1,f4".split(",")
        write_table_of_rows(self.folder / "scores.csv", columns, rows)
        logger.info("scores in %s", self.folder / "scores.csv")


class PickScore(Metric):
    """Score of the picks against the truth, summed over tomograms and processes; the key metric of validation.

    Reads from every sample ``result`` (the picks), ``label`` (true particles ``(N, 4)``) and ``image`` (voxel size).
    Besides the score, F4, precision and recall of every species become metrics of the engine.

    Args:
        species_set: the species.
        mode: how picks are matched, see `scoring.metrics`.
        voxel_offset: see `coordinates`.
    """

    _state_dict_all_req_keys = ("_counts",)

    def __init__(self, species_set: SpeciesSet, mode: str = "kaggle", voxel_offset: float = 0.0) -> None:
        self.species_set, self.mode, self.voxel_offset = species_set, check_mode(mode), voxel_offset
        super().__init__()

    def record(self) -> dict[str, Any]:
        """Return the settings that the score depends on."""
        return {"species": self.species_set, "mode": self.mode, "voxel_offset": self.voxel_offset}

    @reinit__is_reduced
    def reset(self) -> None:
        self._counts = torch.zeros(len(self.species_set.picked), 3, dtype=torch.int64, device=idist.device())

    def iteration_completed(self, engine: Engine) -> None:
        """Update from `samples_of`: the engine's output alone does not say what is annotated."""
        self.update(samples_of(engine))

    @reinit__is_reduced
    def update(self, output: Sequence[Mapping[str, Any]]) -> None:
        for sample in output:
            found = count_matches(
                true_picks_of(sample, self.species_set, self.voxel_offset),
                judged_picks_of(sample, self.species_set),
                self.species_set,
                self.mode,
            )
            for row, name in enumerate(self.species_set.names):
                counts = found.get(name, Counts())
                self._counts[row] += torch.tensor([counts.tp, counts.predicted, counts.truths]).to(self._counts.device)

    @sync_all_reduce("_counts")
    def compute(self) -> float:
        """Return the score over all samples of all processes."""
        rows = self._counts.tolist()  # summed over the processes only while this function runs
        self.counts = {name: Counts(*row) for name, row in zip(self.species_set.names, rows, strict=True)}
        return score_counts(self.counts, self.species_set)

    def completed(self, engine: Engine, name: str) -> None:
        """Add the score and the numbers of every species to the engine's metrics; warn where nothing can be found."""
        super().completed(engine, name)
        if not any(counts.truths for counts in self.counts.values()):
            fact = "the tomograms that are scored hold no true particle: the score is 0 whatever is picked"
            remedy = "set other validation_runs, unless only the number of wrong picks is wanted"
            warnings.warn(f"{fact}; {remedy}.", InputWarning, stacklevel=2)
        for species, counts in self.counts.items():
            tp, predicted, truths = counts.tp, counts.predicted, counts.truths
            engine.state.metrics |= {
                f"f4_{species}": fbeta(tp, predicted, truths),
                f"precision_{species}": precision(tp, predicted),
                f"recall_{species}": recall(tp, truths),
            }
