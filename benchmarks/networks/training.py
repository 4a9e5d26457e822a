"""One run of a comparison: find the fastest format, train, fit thresholds, score."""

from __future__ import annotations

import csv
import math
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from time import perf_counter
from typing import Any

import torch
from monai.bundle import ConfigParser
from scripts.handlers.thresholds import FitThresholds
from scripts.inference.precision import number_format
from scripts.scoring.matching import MODES
from scripts.scoring.metrics import precision, recall
from scripts.scoring.threshold_choice import fit_thresholds
from torch import nn

from networks.clocks import CLOCKS, TomogramTimes, TrainingBudget
from networks.definitions import EVALUATION, FORMATS, PRIOR, Plan, format_settings

PROBE_SECONDS = 3.0
POINTS = {"f1": 1.0, "f4": 4.0}  # thresholds are fitted for each of these betas
SLOW_SECONDS = 10.0  # longer than an accelerator needs to get ready

# Handlers that the budget replaces, and those that would only cost time.
HANDLERS_LEFT_OUT = {
    "LrScheduleHandler",
    "TensorBoardStatsHandler",
    "scripts.handlers.training_logs.TrainingProgress",
    "scripts.handlers.training_logs.MetricsTable",
    "scripts.handlers.checkpoint.TrainingCheckpoint",
    "scripts.handlers.validation.ValidateEpochs",
}
FITTING = {
    "scripts.scoring.threshold_sweep.SweepThresholdsd",
    "scripts.handlers.thresholds.FitThresholds",
    "scripts.handlers.pages.WritePages",
}


def probe(plan: Plan, name: str) -> dict[str, float]:
    """Return the seconds of a forward and backward pass on one batch, in each of `networks.definitions.FORMATS`.

    bfloat16 is left out on a device that only emulates it, which is always slow.
    """
    native = number_format("auto", plan.parser().get_parsed_content("device")) == torch.bfloat16
    seconds: dict[str, float] = {}
    for chosen in FORMATS:
        if native or not chosen.startswith("bfloat16"):
            best = min(seconds.values(), default=math.inf)
            seconds[chosen] = seconds_of_step(
                plan.parser(network=name, **format_settings(chosen)), best, CLOCKS[plan.clock]
            )
    return seconds


def seconds_of_step(parser: ConfigParser, best: float, now: Callable[[], float] = perf_counter) -> float:
    """Return the best time of some steps on random windows.

    The first step is slower and does not count, unless it is so slow that ``best`` cannot be reached.
    """
    parser.get_parsed_content("initialize")  # it also determines which kernels an accelerator may use
    network, loss, inferer, device = map(parser.get_parsed_content, ("network", "loss", "train#inferer", "device"))
    shape = parser.get_parsed_content("window_size")
    batch_size, species = parser.get_parsed_content("batch_size"), len(parser.get_parsed_content("species").names)
    windows = torch.rand(batch_size, 1, *shape, device=device)
    shape = [-(-size // getattr(parser.get_parsed_content("network_def"), "output_stride", 1)) for size in shape]
    targets = (torch.rand(batch_size, species, *shape, device=device) < PRIOR).float()
    network.train()
    times: list[float] = []
    while len(times) < 2 or sum(times[1:]) < PROBE_SECONDS:
        begun = now()
        value = loss(inferer(windows, network), targets)
        value.backward()
        value.item()  # waits for an accelerator
        times.append(now() - begun)
        if times[0] > max(2 * best, SLOW_SECONDS):
            return times[0]
    return min(times[1:])


def train(plan: Plan, name: str, seed: int, chosen: str) -> tuple[nn.Module, dict[str, Any]]:
    """Train one network until its budget is used up.

    Args:
        plan: the comparison.
        name: one of `networks.definitions.NETWORKS`.
        seed: determines the initial weights and the windows.
        chosen: one of `networks.definitions.FORMATS`.

    Returns:
        The network with the averaged weights, and facts about the training.
    """
    parser = plan.parser(
        network=name,
        seed=seed,
        validation_runs=list(plan.validation_runs),
        excluded_runs=list(plan.test_runs),
        **format_settings(chosen),
    )
    leave_out(parser, "train#handlers", HANDLERS_LEFT_OUT)
    parser.get_parsed_content("initialize")
    trainer, schedule = parser.get_parsed_content("train#trainer"), parser.get_parsed_content("lr_scheduler")
    trainer.state.max_epochs = sys.maxsize  # the budget ends the training
    budget = TrainingBudget(
        plan.budget,
        plan.unit,
        schedule,
        parser.get_parsed_content("steps"),
        f"{name}, seed {seed}, {chosen}",
        CLOCKS[plan.clock],
    )
    budget.attach(trainer)
    trainer.run()
    steps = trainer.state.iteration
    facts = {
        "steps": steps,
        "training_seconds": budget.seconds,
        "seconds_per_step": budget.seconds / steps,
        "last_loss": budget.loss,
    }
    return parser.get_parsed_content("averaged"), facts


def leave_out(parser: ConfigParser, key: str, targets: Collection[str]) -> None:
    """Remove the items with these `_target_` from a list of a config; an item may be a reference to another key."""
    items = parser[key]
    definitions = [parser[item.removeprefix("@")] if isinstance(item, str) else item for item in items]
    parser[key] = [
        item for item, definition in zip(items, definitions, strict=True) if definition["_target_"] not in targets
    ]


def fit_and_score(plan: Plan, network: nn.Module, chosen: str, folder: Path) -> dict[str, Any]:
    """Fit thresholds on the validation runs, and score the test runs with them.

    Args:
        plan: the comparison.
        network: already trained.
        chosen: one of `networks.definitions.FORMATS`.
        folder: where ``validation``, ``test_f1`` and ``test_f4`` are made.

    Returns:
        The thresholds and the scores, see `read_scores`, at each of `POINTS`, and the seconds per tomogram.
    """
    names = plan.parser().get_parsed_content("species").names
    neutral = dict.fromkeys(names, 0.5)  # kept if there is too little to fit; the shipped ones are for our network
    _, handlers = evaluate(plan, network, chosen, plan.validation_runs, neutral, folder / "validation", fit=True)
    (fitted,) = (handler for handler in handlers if isinstance(handler, FitThresholds))
    found: dict[str, Any] = {}
    for point, beta in POINTS.items():
        fit = fit_thresholds(fitted.counts, fitted.thresholds, fitted.species_set, beta, fitted.least_truths)
        times, _ = evaluate(plan, network, chosen, plan.test_runs, fit.thresholds, folder / f"test_{point}", fit=False)
        scores = read_scores(folder / f"test_{point}" / "scores.csv", names)
        found[point] = {"thresholds": fit.thresholds, "scores": scores}
    return {**found, "seconds_per_tomogram": fmean(times)}


def evaluate(
    plan: Plan,
    network: nn.Module,
    chosen: str,
    runs: Sequence[str],
    thresholds: Mapping[str, float],
    folder: Path,
    fit: bool,
) -> tuple[list[float], list[Any]]:
    """Pick and score some runs with the bundle's evaluation.

    Args:
        plan: the comparison.
        network: already trained.
        chosen: one of `networks.definitions.FORMATS`.
        runs: names.
        thresholds: by species.
        folder: where ``scores.csv``, and ``thresholds.json`` if they are fitted, are written.
        fit: fit thresholds, which takes time.

    Returns:
        The seconds of every tomogram, and the handlers of the evaluation.
    """
    parser = replace(plan, settings=plan.common_settings).parser(
        EVALUATION,
        species_path=plan.parser().get_parsed_content("species_path"),  # otherwise those of the shipped weights
        validation_runs=list(runs),
        probability_thresholds=dict(thresholds),
        mode="one_to_one",
        least_truths=1,  # the neutral ones are no network's own
        output_dir=str(folder),
        **format_settings(chosen),
    )
    parser.globals["trained"] = network
    parser["network_def"] = "$trained"
    if not fit:
        for key in ("validate#postprocessing#transforms", "validate#handlers"):
            leave_out(parser, key, FITTING)
    evaluator, times = parser.get_parsed_content("validate#evaluator"), TomogramTimes(CLOCKS[plan.clock])
    times.attach(evaluator)
    evaluator.run()
    return times.seconds, parser.get_parsed_content("validate#handlers")


def read_scores(path: Path, names: Sequence[str]) -> dict[str, Any]:
    """Return what a table of scores says about some species.

    Returns:
        ``f4`` by mode and species, with ``total`` among the species; and one to one the mean ``f1`` of the species, the
        numbers of ``picks`` and of ``wrong`` ones, and the ``precision`` and ``recall`` of all species together.
    """
    with open(path, newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["species"] in (*names, "total")]
    f4: dict[str, dict[str, float]] = {mode: {} for mode in MODES}
    for row in rows:
        f4[row["mode"]][row["species"]] = float(row["f4"])
    own = [row for row in rows if row["mode"] == "one_to_one"]
    (total,) = (row for row in own if row["species"] == "total")
    truths, picks, hits = (sum(int(row[key] or 0) for row in own) for key in ("truths", "picks", "tp"))
    return {
        "f4": f4,
        "f1": float(total["f1"]),
        "precision": precision(hits, picks),
        "recall": recall(hits, truths),
        "picks": picks,
        "wrong": picks - hits,
    }
