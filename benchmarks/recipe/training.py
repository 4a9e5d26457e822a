"""One run of a screening: train with a change, fit thresholds, score."""

from __future__ import annotations

import copy
import hashlib
import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from time import perf_counter
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.bundle import ConfigParser
from networks.definitions import BUNDLE
from networks.training import HANDLERS_LEFT_OUT, leave_out
from numpy.typing import NDArray
from scripts.atomic_files import require_writable
from scripts.datasets.runs import require_runs
from scripts.datasets.truth import TRUTH_TABLE, list_labelled_runs
from scripts.errors import InputError, InputWarning
from scripts.handlers.training_logs import loss_of
from scripts.inference.inferers import TomogramInferer
from scripts.networks.model_card import sha256_of
from scripts.picking.image_picks import logits_stride_of
from scripts.picking.proposals import propose
from scripts.preparation.cache import prepared_dataset
from scripts.scoring.calibration import judge_candidates
from scripts.scoring.metrics import Counts, mean_f1, precision, recall, score_counts, score_species
from scripts.scoring.reliability import average_precision
from scripts.scoring.threshold_choice import best_threshold
from scripts.species import SpeciesSet
from torch import nn

from recipe.changes import CHANGES

CONFIGS = [BUNDLE / "configs" / name for name in ("train.json", "species.json")]
SCORING_GIB = 16.0  # the whole tomogram in one window
LOWEST_LOGIT = -6.0  # of a candidate: losses without positive weights answer low
MOST_ABOVE = 0.02  # share of all logits that may be above the lowest, so that a flood takes no minutes
Row = dict[Any, Any]  # paths of a tomogram and of its truth, and the name of its run
BETAS = {"f1": 1.0, "f4": 4.0}


@dataclass(frozen=True)
class ScoredSet:
    """Tomograms that are scored together.

    Attributes:
        folders: that hold them.
        kind: of tomogram; None for the only one.
        fit_runs: names of the runs that thresholds are fitted on.
        test_runs: names of the runs that are scored.
    """

    folders: tuple[str, ...]
    kind: str | None
    fit_runs: tuple[str, ...]
    test_runs: tuple[str, ...]

    def rows(self, runs: Sequence[str]) -> list[Row]:
        """Return the paths of some of the tomograms and of their truth.

        Raises:
            InputError: one is missing.
        """
        rows: list[Row] = list_labelled_runs(self.folders, only=runs, tomogram_kind=self.kind)
        require_runs(rows, self.folders)
        return rows

    def is_in(self, folders: Iterable[str]) -> bool:
        """Return whether it is one of some folders, or several of them."""
        return not {Path(one).resolve() for one in self.folders}.isdisjoint(Path(one).resolve() for one in folders)


@dataclass(frozen=True)
class Plan:
    """What all runs of a screening have in common.

    Attributes:
        dataset_dirs: folders with the runs to train on.
        kinds: of the tomograms to train on; each run counts once per kind. Empty for the only kind.
        sets: what is scored, by name; their runs are not trained on.
        windows: how many each run trains on.
        output_dir: where the results are written.
        settings: other values of keys of ``train.json``, for every run.
        scored_after: numbers of windows after which the averaged network is also scored, while the training is running.
    """

    dataset_dirs: tuple[str, ...]
    kinds: tuple[str, ...]
    sets: Mapping[str, ScoredSet]
    windows: int
    output_dir: Path
    settings: Mapping[str, Any]
    scored_after: Sequence[int] = ()

    def parser(self, change: str, seed: int) -> ConfigParser:
        """Return the config of a training.

        Raises:
            InputError: a setting is not in the config.
        """
        parser = ConfigParser()
        parser.read_config(str(CONFIGS[0]))
        fixed = {
            "bundle_root": str(BUNDLE),
            "dataset_dir": list(self.dataset_dirs),
            "tomogram_kind": list(self.kinds) or None,
            "output_dir": str(self.output_dir),
            "epochs": 1,
            "windows_per_epoch": self.windows,
            "warmup_steps": "$@steps // 10",
            "memory_gib": SCORING_GIB,
            "seed": seed,
            "validation_names": self.held_out,
        }
        for key, value in {**fixed, **self.settings}.items():
            if key not in parser:
                raise InputError(f"{key} is not a setting of {CONFIGS[0].name}.")
            parser[key] = copy.deepcopy(value)  # the parser writes references in it anew
        parser["train#dataloader#drop_last"] = True  # a smaller batch would be compiled for itself
        leave_out(parser, "train#handlers", HANDLERS_LEFT_OUT - {"LrScheduleHandler"})
        CHANGES[change].apply(parser)
        return parser

    @property
    def held_out(self) -> list[str]:
        """Names of the runs in ``dataset_dirs`` that are scored."""
        inside = [one for one in self.sets.values() if one.is_in(self.dataset_dirs)]
        return [run for one in inside for run in (*one.fit_runs, *one.test_runs)]

    def scored_at(self, steps: int) -> dict[int, int]:
        """Return the windows of ``scored_after`` by the step of a training, at equal shares of it for every change."""
        found = {math.ceil(steps * windows / self.windows): windows for windows in self.scored_after}
        return {step: windows for step, windows in found.items() if step < steps}

    def conditions(self) -> dict[str, Any]:
        """Return what results must have in common to be compared in one table, ready for JSON."""
        cuda, start = torch.cuda.is_available(), self.settings.get("checkpoint_path")
        return {
            "dataset_dirs": [str(Path(folder).resolve()) for folder in self.dataset_dirs],
            "kinds": list(self.kinds),
            "truths_sha256": [
                sha256_of(path) for folder in self.dataset_dirs for path in Path(folder).glob(TRUTH_TABLE)
            ],
            "scored_dirs": {name: [str(Path(one).resolve()) for one in own.folders] for name, own in self.sets.items()},
            "fit_runs": {name: list(one.fit_runs) for name, one in self.sets.items()},
            "test_runs": {name: list(one.test_runs) for name, one in self.sets.items()},
            "windows": self.windows,
            "start_sha256": None if start is None else sha256_of(start),
            "settings": {key: value for key, value in self.settings.items() if key not in ("cache_dir", "num_workers")},
            "configs_sha256": hashlib.sha256(b"".join(path.read_bytes() for path in CONFIGS)).hexdigest(),
            "device": torch.cuda.get_device_name() if cuda else "CPU",
            "torch": torch.__version__,
        }

    def check(self) -> None:
        """Check for errors that would otherwise show only after the first training.

        Raises:
            InputError: a run is missing, or both fitted and tested on; or ``output_dir`` cannot be written to.
        """
        for one in self.sets.values():
            twice = sorted(set(one.fit_runs) & set(one.test_runs))
            if twice:
                raise InputError(f"{', '.join(twice)} cannot be both fitted and tested on.")
            for runs in (one.fit_runs, one.test_runs):
                one.rows(runs)
        require_writable(self.output_dir)


class FirstStep:
    """Notes when the first step was done: it may include minutes of compilation."""

    def attach(self, engine: Engine) -> None:
        """Attach to the first iteration."""
        engine.add_event_handler(Events.ITERATION_COMPLETED(once=1), self)

    def __call__(self, engine: Engine) -> None:
        """Note the time, after an accelerator is done with the step."""
        loss_of(engine.state.output)
        self.done = perf_counter()


class ScoreBetween:
    """Scores the averaged network whenever a training has seen so many windows, outside the training's time.

    Args:
        score: returns the scores.
        windows_at: numbers of windows by the step that they are scored after.
        name: of the training, for the lines that say the scores.
    """

    def __init__(self, score: Callable[[], dict[str, Any]], windows_at: Mapping[int, int], name: str) -> None:
        self.score, self.windows_at, self.name = score, windows_at, name
        self.curve: list[dict[str, Any]] = []
        self.seconds = 0.0

    def attach(self, engine: Engine) -> None:
        """Attach behind the handlers that average the weights."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Score, if it is time."""
        windows = self.windows_at.get(engine.state.iteration)
        if windows is not None:
            loss_of(engine.state.output)  # waits until an accelerator is done
            started = perf_counter()
            sets = self.add(windows)
            found = [f"{key} AP {one['average_precision']:.4f}, F1 {one['f1']:.4f}" for key, one in sets.items()]
            print(f"{self.name}: {windows} windows, {', '.join(found)}", flush=True)
            self.seconds += perf_counter() - started

    def add(self, windows: int) -> dict[str, Any]:
        """Score after so many windows; return the scores."""
        sets = self.score()
        self.curve.append({"windows": windows, "sets": sets})
        return sets


def run_one(plan: Plan, change: str, seed: int) -> dict[str, Any]:
    """Train with a change, and score all sets; return the result, ready for JSON.

    Its ``curve`` has the scores by windows, those after the last step among them.

    Raises:
        InputError: there are fewer windows than in one batch, or a setting or a file is wrong.
    """
    parser = plan.parser(change, seed)
    torch.compiler.reset()  # otherwise batches of another size are compiled for any size
    parser.get_parsed_content("initialize")
    steps, batch_size = parser.get_parsed_content("steps"), parser.get_parsed_content("batch_size")
    if not steps:
        raise InputError(f"{plan.windows} windows do not fill one batch of {batch_size}: set more windows.")
    trainer, first = parser.get_parsed_content("train#trainer"), FirstStep()
    first.attach(trainer)
    between = ScoreBetween(
        lambda: {name: score_set(parser, one) for name, one in plan.sets.items()},
        plan.scored_at(steps),
        f"{change}, seed {seed}",
    )
    between.attach(trainer)
    started = perf_counter()
    trainer.run()
    loss = loss_of(trainer.state.output)  # waits until an accelerator is done
    ended = perf_counter()
    training_seconds = ended - started - between.seconds
    sets = between.add(plan.windows)
    return {
        "change": change,
        "seed": seed,
        "average_precision": fmean(found["average_precision"] for found in sets.values()),
        "sets": sets,
        "steps": steps,
        "batch_size": batch_size,
        "last_loss": loss,
        "curve": between.curve,
        "training_seconds": training_seconds,
        "windows_per_second": (steps - 1) * batch_size / (ended - first.done - between.seconds) if steps > 1 else None,
        "scoring_seconds": perf_counter() - ended,
        "definition": CHANGES[change].definition(),
        "conditions": plan.conditions(),
    }


@dataclass(frozen=True)
class Judged:
    """The candidates of one species in several tomograms.

    Attributes:
        scores: ``(N,)`` logits.
        is_right: ``(N,)``, each true particle at most once.
        truths: number of true particles.
    """

    scores: NDArray[np.float64]
    is_right: NDArray[np.bool_]
    truths: int

    def counts_above(self, threshold: float) -> Counts:
        """Return hits, picks and truths at a threshold; exactly the threshold is picked."""
        picked = self.scores >= threshold
        return Counts(int(self.is_right[picked].sum()), int(picked.sum()), self.truths)

    def best_threshold(self, beta: float, name: str) -> float:
        """Return the logit with the best F-beta, see `scoring.threshold_choice.best_threshold`; 0 if none is right."""
        order = np.argsort(self.scores, kind="stable")
        scores, right = self.scores[order], self.is_right[order]
        thresholds, first = np.unique(scores, return_index=True)
        hits = np.concatenate([[0], np.cumsum(right)])
        hits, picks = hits[-1] - hits[first], len(scores) - first
        values = (1 + beta**2) * hits / np.maximum(beta**2 * self.truths + picks, 1)
        if not values.any():
            message = f"{name} keeps the threshold 0: none of its {self.truths} true particles was found."
            warnings.warn(message, InputWarning, stacklevel=2)
            return 0.0
        return best_threshold(thresholds, values)


def score_set(parser: ConfigParser, scored: ScoredSet) -> dict[str, Any]:
    """Fit thresholds on a set's fit runs with the averaged network, and score its test runs with them."""
    species_set = parser.get_parsed_content("species")
    fitted, tested = (judge(parser, scored.rows(runs)) for runs in (scored.fit_runs, scored.test_runs))
    return scores_of(fitted, tested, species_set)


def scores_of(fitted: Mapping[str, Judged], tested: Mapping[str, Judged], species_set: SpeciesSet) -> dict[str, Any]:
    """Return the scores of judged candidates, by species, with the thresholds that are best on others."""
    areas = {name: average_precision(one.scores, one.is_right, one.truths) for name, one in tested.items()}
    rows = {
        key: {
            name: score_species(name, one.counts_above(fitted[name].best_threshold(beta, name)))
            for name, one in tested.items()
        }
        for key, beta in BETAS.items()
    }
    at_f1 = rows["f1"].values()
    totals = {key: sum((row.counts for row in of_point.values()), Counts()) for key, of_point in rows.items()}
    return {
        "average_precision": fmean(areas[name] for name, one in tested.items() if one.truths),
        "f1": mean_f1(at_f1),
        "precision": precision(totals["f1"].tp, totals["f1"].predicted),
        "recall": recall(totals["f1"].tp, totals["f1"].truths),
        "picks": totals["f1"].predicted,
        "wrong": totals["f1"].fp,
        "picks_at_f4": totals["f4"].predicted,
        "wrong_at_f4": totals["f4"].fp,
        "f4": score_counts({name: row.counts for name, row in rows["f4"].items()}, species_set),
        "species": {
            name: {
                "average_precision": areas[name],
                "truths": one.truths,
                **{f"{key}_at_f1": getattr(rows["f1"][name], key) for key in ("precision", "recall", "f1")},
                **{f"{key}_at_f4": getattr(rows["f4"][name], key) for key in ("precision", "recall", "fbeta")},
            }
            for name, one in tested.items()
        },
    }


def judge(parser: ConfigParser, rows: Sequence[Row]) -> dict[str, Judged]:
    """Return the averaged network's candidates in some tomograms, by species, compared with the truth."""
    network, device, inferer, species_set, preparation, cache_dir = map(
        parser.get_parsed_content,
        ("averaged", "device", "validate#inferer", "species", "validate#preprocessing", "cache_dir"),
    )
    tomograms = prepared_dataset(rows, preparation, cache_dir)
    found = [
        judge_tomogram(network.eval(), tomograms[number], inferer, species_set, device) for number in range(len(rows))
    ]
    return {
        name: Judged(
            np.concatenate([one[name].scores for one in found]),
            np.concatenate([one[name].is_right for one in found]),
            sum(one[name].truths for one in found),
        )
        for name in species_set.names
    }


@torch.inference_mode()
def judge_tomogram(
    network: nn.Module,
    sample: Mapping[str, Any],
    inferer: TomogramInferer,
    species_set: SpeciesSet,
    device: torch.device,
) -> dict[str, Judged]:
    """Return the peaks of a network's logits in a prepared tomogram, by species, compared with the truth."""
    image, voxel_size = sample["image"].to(device), species_set.voxel_size_angstrom
    logits = inferer(image[None], network)[0]
    lowest = float(logits.flatten().topk(max(1, int(MOST_ABOVE * logits.numel()))).values[-1])
    stride = logits_stride_of(logits.shape[1:], image.shape[1:])
    proposals = propose(logits, voxel_size, stride, max(LOWEST_LOGIT, lowest))
    particles = np.asarray(sample["label"], dtype=np.float64).reshape(-1, 4)
    kept, right = judge_candidates(proposals.centres_zyx_vox, proposals.logits, particles, species_set, voxel_size)
    return {
        one.name: Judged(
            proposals.logits[kept[:, column], column].astype(np.float64),
            right[kept[:, column], column],
            int((particles[:, 0] == one.label).sum()),
        )
        for column, one in enumerate(species_set.picked)
    }
