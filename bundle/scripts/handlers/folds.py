"""Cross-validation: train a network per fold of the runs, and fit what picking needs on the runs it has not seen."""

from __future__ import annotations

import json
import logging
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from statistics import median_low
from typing import Any

import numpy as np
from ignite.engine import Engine, Events

from scripts.atomic_files import write_atomically, write_table_of_rows
from scripts.command_line import is_bundle_command, require_one_process
from scripts.datasets.splits import FoldPlan
from scripts.errors import InputError
from scripts.handlers.finished_sample import samples_of
from scripts.handlers.training_logs import read_metrics
from scripts.markdown import markdown_table
from scripts.networks.model_card import (
    needed_card,
    record_thresholds,
    sha256_of,
    used_runs_in_words,
    uses_of_weights,
)
from scripts.picking.calibrated_scores import write_calibration
from scripts.picking.image_picks import is_judged
from scripts.picking.peaks import Peaks
from scripts.picking.proposals import Proposals
from scripts.preparation.image_facts import facts_of_image
from scripts.records import as_json, first_difference, record_of
from scripts.scoring.calibration import fit_calibration
from scripts.scoring.metrics import Counts, SpeciesScore, mean_f1, score_counts, score_species
from scripts.scoring.out_of_fold import (
    OutOfFold,
    held_out_calibration_error,
    held_out_counts,
    judge_out_of_fold,
    read_out_of_fold,
    write_out_of_fold,
)
from scripts.scoring.threshold_choice import LEAST_TRUTHS, ThresholdFit, fit_thresholds
from scripts.species import SPECIES_FILE, SpeciesSet

logger = logging.getLogger(__name__)

TASK, FOLD_TASK = "cross_validation", "fold"  # of the config
FOLDS_PLAN, FOLD_WEIGHTS, OUT_OF_FOLD, FOLD_DONE = "plan.json", "model_last.pt", "out_of_fold", "out_of_fold.json"
FOLDS_TABLE, FOLDS_PAGE, CALIBRATION_FILE = "folds.csv", "folds.md", "calibration.json"
BETAS = {"f1": 1.0, "f4": 4.0}
COLUMNS = (
    "fold,operating_point,species,truths,picks,wrong,precision,recall,f1,f4,windows,training_loss,validation_score"
)


def run_folds(
    plan: FoldPlan,
    output_dir: str | Path,
    cache_dir: str | Path | None,
    only_folds: int | Sequence[int] | None = None,
    checkpoint_path: str | Path | None = None,
) -> None:
    """Train the network of every fold, or of some, each by a command of its own in the folder ``fold_N``.

    The command is that of this process with another task; it logs, resumes and refuses as any training does.

    Args:
        plan: the folds.
        output_dir: where their folders are; ``plan.json`` there says what they are.
        cache_dir: of all trainings together.
        only_folds: numbers of the folds to train; None for all.
        checkpoint_path: the weights that all start from, if any.

    Raises:
        InputError: there is no such fold; the weights to start from know a tomogram of a fold, or have no card; other
            folds were begun in ``output_dir``; a fold's command failed; or this process is no command of MONAI's
            bundles, or one of several.
    """
    require_one_process(f"{TASK} starts a process per fold by itself, one after the other")
    if not is_bundle_command():
        raise InputError(f"{TASK} runs a command per fold, so start it as one: python -m monai.bundle run {TASK} ...")
    count = len(plan.runs)
    chosen = range(count) if only_folds is None else np.atleast_1d(only_folds).tolist()
    for number in chosen:
        if number not in range(count):
            raise InputError(f"only_folds names fold {number}; the folds are called 0 to {count - 1}.")
    used = "" if checkpoint_path is None else used_runs_in_words(plan.counts, uses_of_weights(Path(checkpoint_path)))
    if used:
        raise InputError(
            f"{checkpoint_path} knows tomograms that folds hold out ({used}): start from other weights, or leave them "
            "out by excluded_runs."
        )
    keep_plan(Path(output_dir) / FOLDS_PLAN, plan)
    logger.info("%d folds of %d tomograms:\n%s", count, len(plan.counts), plan.table())
    for number in chosen:
        settings = {
            "output_dir": folder_of(output_dir, number), "cache_dir": cache_dir,
            "validation_runs": list(plan.runs[number]),
        }  # fmt: skip
        run_bundle(number, fold_arguments(sys.argv[1:], settings))


def keep_plan(path: Path, plan: FoldPlan) -> None:
    """Write a plan, or check that it is the one that was written before.

    Raises:
        InputError: another number of folds, another seed or other tomograms were begun there.
    """
    record = plan.record()
    if path.exists():
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"cannot read {path}: {error}. Set another output_dir.") from error
        difference = first_difference(before, record)
        if difference:
            raise InputError(f"{path} was begun with other folds: {difference}. Set another output_dir.")
        return
    with write_atomically(path) as file:
        file.write(json.dumps(record, indent=4, ensure_ascii=False) + "\n")


def folder_of(output_dir: str | Path, number: int) -> Path:
    """Return the folder of a fold."""
    return Path(output_dir) / f"fold_{number}"


def fold_arguments(arguments: Sequence[str], settings: Mapping[str, Any]) -> list[str]:
    """Return the arguments of a fold's command: those of the whole one, with its task and with other settings.

    Raises:
        InputError: the task does not stand exactly once among the arguments, so that no fold can be asked for.
    """
    tasks = {TASK: FOLD_TASK} | {f"--run{dash}id={TASK}": f"--run_id={FOLD_TASK}" for dash in "-_"}
    kept: list[str] = []
    following = iter(arguments)
    for argument in following:
        key, equals, _ = argument.removeprefix("--").partition("=")
        if argument.startswith("--") and key.replace("-", "_") in settings:
            if not equals:
                next(following, None)
        else:
            kept.append(tasks.get(argument, argument))
    count = sum(argument in tasks.values() for argument in kept)
    if count != 1:
        raise InputError(
            f"the command must name its task once, which is {FOLD_TASK} for a fold; it is there {count} times: start "
            f"it as python -m monai.bundle run {TASK} ..."
        )
    texts = {key: "$None" if value is None else str(value) for key, value in settings.items()}
    return [*kept, *(part for key, value in texts.items() for part in (f"--{key}", value))]


def run_bundle(number: int, arguments: Sequence[str]) -> None:
    """Run a command of MONAI's bundles for a fold.

    Raises:
        InputError: it failed; it has said why.
    """
    words = ["-m", "monai.bundle", *arguments]
    logger.info("fold %d: python %s", number, shlex.join(words))
    status = subprocess.run([sys.executable, *words], check=False).returncode
    if status:
        raise InputError(f"fold {number} ended with exit status {status}, see above; the same command resumes it.")


class StoreOutOfFold:
    """Write the proposals of every tomogram, its truth and the counts of its sweep to a file of its own.

    Args:
        output_dir: of the fold; the files are in its folder ``out_of_fold``.
        species_set: the species.
    """

    def __init__(self, output_dir: str | Path, species_set: SpeciesSet) -> None:
        self.folder, self.species_set = Path(output_dir) / OUT_OF_FOLD, species_set

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        for sample in samples_of(engine):
            facts = facts_of_image(sample["image"], sample.get("run"))
            particles = np.asarray(sample["label"].cpu(), dtype=np.float64).reshape(-1, 4)
            sweep = np.asarray(sample["sweep"].cpu())
            proposals: Proposals = sample["proposals"]
            places = proposals.centres_zyx_vox
            judged = np.column_stack([is_judged(places, species, sample) for species in self.species_set.picked])
            one = OutOfFold(facts.run, facts.voxel_size_angstrom, proposals, particles, sweep, judged)
            write_out_of_fold(self.folder / f"{facts.run}.npz", one)


def run_out_of_fold(evaluator: Any, output_dir: str | Path, built: Mapping[str, Any]) -> None:
    """Pick in the tomograms that a fold's network has not seen, unless that is done already.

    Args:
        evaluator: one of its handlers is `StoreOutOfFold`.
        output_dir: of the fold.
        built: the objects that the picks depend on, by name.
    """
    done = Path(output_dir) / FOLD_DONE
    record = as_json({"weights_sha256": sha256_of(Path(output_dir) / FOLD_WEIGHTS), **record_of(built)})
    if done.exists() and json.loads(done.read_text(encoding="utf-8")) == record:
        logger.info("%s is complete", output_dir)
        return
    done.unlink(missing_ok=True)
    evaluator.run()
    with write_atomically(done) as file:
        file.write(json.dumps(record) + "\n")


def is_complete(folder: Path) -> bool:
    """Return whether the present weights of a fold have picked in what they have not seen."""
    done, weights = folder / FOLD_DONE, folder / FOLD_WEIGHTS
    if not done.exists() or not weights.exists():
        return False
    return bool(json.loads(done.read_text(encoding="utf-8"))["weights_sha256"] == sha256_of(weights))


def summarise_folds(
    plan: FoldPlan,
    output_dir: str | Path,
    species_set: SpeciesSet,
    thresholds: Sequence[float],
    batch_size: int,
    finder: Any = None,
    least_truths: int = LEAST_TRUTHS,
    merge_distance_in_radii: float = 1.0,
    picking: Mapping[str, Any] | None = None,
    painter: Any = None,
) -> None:
    """Fit thresholds and a calibration on what all folds found, and write them with a table and a page of scores.

    Nothing is written while a fold is missing. Every score is of tomograms that neither the network nor the fit of its
    thresholds has seen: the thresholds of a fold's scores come from the other folds.

    Args:
        plan: the folds.
        output_dir: where their folders are, and where ``thresholds_f1.json``, ``thresholds_f4.json``,
            ``calibration.json``, ``folds.csv`` and ``folds.md`` are written.
        species_set: the species.
        thresholds: those of the sweep.
        batch_size: windows per step of the trainings.
        finder: what the thresholds are for, for the cards of the weights, which get those for F1.
        least_truths: true particles that a species needs to be fitted.
        merge_distance_in_radii: of two candidates nearer than this times their radius the better one counts.
        picking: settings of the folds that picking needs, too, for the commands on the page.
        painter: of the folds' targets, for these, too.

    Raises:
        InputError: the folds picked with different settings, or a file of one is missing or damaged.
    """
    folder, names = Path(output_dir), species_set.names
    folders = [folder_of(folder, number) for number in range(len(plan.runs))]
    missing = [str(number) for number, one in enumerate(folders) if not is_complete(one)]
    if missing:
        logger.info("nothing is fitted before all folds are trained; missing: %s", ", ".join(missing))
        return
    require_same_picking(folders)
    found = [
        [read_out_of_fold(one / OUT_OF_FOLD / f"{run}.npz") for run in runs]
        for one, runs in zip(folders, plan.runs, strict=True)
    ]
    tried = np.asarray(thresholds, dtype=np.float64)
    sweeps = [np.sum([one.sweep for one in fold], axis=0) for fold in found]
    fits = {
        point: fit_thresholds(np.sum(sweeps, axis=0), tried, species_set, beta, least_truths)
        for point, beta in BETAS.items()
    }
    for point, fit in fits.items():
        with write_atomically(folder / f"thresholds_{point}.json") as file:
            file.write(json.dumps(fit.thresholds, indent=4) + "\n")
    runs = sorted(run for fold in plan.runs for run in fold)
    for one in folders:
        record_thresholds(one / FOLD_WEIGHTS, fits["f1"].thresholds, runs, finder, fits["f1"].kept)
    judged = [[judge_out_of_fold(one, species_set, merge_distance_in_radii) for one in fold] for fold in found]
    errors: dict[str, float] = {}
    if any(len(one.logits) for fold in judged for one in fold):
        calibration, left = fit_calibration([one for fold in judged for one in fold], names, least_truths)
        weights = [one / FOLD_WEIGHTS for one in folders]
        write_calibration(
            folder / CALIBRATION_FILE, calibration, names, weights, left, merge_distance_in_radii, least_truths
        )
        errors = held_out_calibration_error(judged, names, least_truths)
    else:
        logger.warning("no calibration: the networks propose nothing. Train for longer")
    facts = [training_facts(one, batch_size) for one in folders]
    scores = {point: held_out_counts(sweeps, tried, species_set, beta, least_truths) for point, beta in BETAS.items()}
    write_table_of_rows(folder / FOLDS_TABLE, COLUMNS.split(","), table_rows(scores, facts, species_set))
    with write_atomically(folder / FOLDS_PAGE) as file:
        file.write(
            page_of(
                plan, folder, species_set, scores, facts, fits, errors, picking_start(picking or {}, finder, painter)
            )
        )
    logger.info("scores of %d folds, and how to use them: %s", len(folders), folder / FOLDS_PAGE)


def require_same_picking(folders: Sequence[Path]) -> None:
    """Check that the networks of all folds picked in the same way.

    Raises:
        InputError: names the first fold that did not, and the setting.
    """
    own = {"weights_sha256": "", "runs": []}
    records = [json.loads((one / FOLD_DONE).read_text(encoding="utf-8")) | own for one in folders]
    for folder, record in zip(folders, records, strict=True):
        difference = first_difference(records[0], record)
        if difference:
            raise InputError(f"{folder} has other settings than {folders[0]}: {difference}. Leave only_folds out.")


def training_facts(folder: Path, batch_size: int) -> dict[str, Any]:
    """Return the windows that a fold's network has seen, its last training loss and the last validation's score."""
    card, rows = needed_card(folder / FOLD_WEIGHTS, "output_dir"), read_metrics(folder / "metrics.csv")
    score = card["validation_score"]
    return {
        "windows": card["steps"] * batch_size,
        "training_loss": rows[-1]["loss"] if rows else "",
        "validation_score": "" if score is None else f"{score:.4f}",
    }


def table_rows(
    scores: Mapping[str, Sequence[Mapping[str, Counts]]], facts: Sequence[Mapping[str, Any]], species_set: SpeciesSet
) -> list[list[Any]]:
    """Return the rows of ``folds.csv``: of every fold and of all, per operating point and species, and their mean."""
    rows = []
    for point, folds in scores.items():
        for fold, counts, known in [
            *zip(range(len(folds)), folds, facts, strict=True),
            ("all", sum_of_folds(folds), {}),
        ]:
            for score in species_scores(counts, species_set):
                shares = score.precision, score.recall, score.f1, score.fbeta
                own = score.counts.truths, score.counts.predicted, score.counts.fp
                more = [known.get(key, "") for key in ("windows", "training_loss", "validation_score")]
                rows.append([fold, point, score.name, *own, *(f"{share:.4f}" for share in shares), *more])
    return rows


def sum_of_folds(folds: Sequence[Mapping[str, Counts]]) -> dict[str, Counts]:
    """Return the sum of the folds' counts, by species."""
    return {name: sum((fold[name] for fold in folds), Counts()) for name in folds[0]}


def species_scores(counts: Mapping[str, Counts], species_set: SpeciesSet) -> list[SpeciesScore]:
    """Return the score of every species, and one called ``total`` with all counts, mean F1 and weighted F4."""
    scores = [score_species(name, own) for name, own in counts.items()]
    total = score_species("total", sum(counts.values(), Counts()))
    return [*scores, replace(total, f1=mean_f1(scores), fbeta=score_counts(counts, species_set))]


def page_of(
    plan: FoldPlan,
    folder: Path,
    species_set: SpeciesSet,
    scores: Mapping[str, Sequence[Mapping[str, Counts]]],
    facts: Sequence[Mapping[str, Any]],
    fits: Mapping[str, ThresholdFit],
    errors: Mapping[str, float],
    start: str,
) -> str:
    """Return ``folds.md``: scores of every fold, what was fitted, the commands that use it, and the tomograms."""
    rows = [
        [number, len(runs), *known.values(), *_shares([folds[number] for folds in scores.values()], species_set)]
        for number, (runs, known) in enumerate(zip(plan.runs, facts, strict=True))
    ]
    together = _shares([sum_of_folds(folds) for folds in scores.values()], species_set)
    rows.append(["all", len(plan.counts), *[""] * len(facts[0]), *together])
    heads = "fold,tomograms,windows seen,training loss,validation score,picks,wrong,precision,recall,mean F1"
    fitted = [
        [
            name,
            sum(row[name] for row in plan.counts.values()),
            *(f"{fit.thresholds[name]:g}" for fit in fits.values()),
            f"{errors[name]:.3f}" if name in errors else "none",
            fits["f1"].kept.get(name, ""),
        ]
        for name in species_set.names
    ]
    f1 = [species_scores(fold, species_set)[-1].f1 for fold in scores["f1"]]
    best, middle = f1.index(max(f1)), f1.index(median_low(f1))
    return "\n\n".join(
        [
            f"# Cross-validation: {len(plan.runs)} folds of {len(plan.counts)} tomograms",
            "Every score is of tomograms that its network has not seen, at thresholds that were fitted on the other "
            "folds: those for F1, in the last two columns those for F4. A pick finds one particle at most.",
            markdown_table([*heads.split(","), "F4", "wrong"], rows),
            f"By mean F1, fold {best} is the best, and fold {middle} the median. They are scored on different "
            "tomograms, so that a better score is no proof of a better network.",
            "## What was fitted on all folds",
            markdown_table(["species", "particles", "for F1", "for F4", "calibration error", "kept because"], fitted),
            "Thresholds, and the error of the probabilities on folds that their fit has not seen.",
            "## Use it",
            "From the folder `bundle`:",
            "```bash\n"
            + "\n\n".join(picking_commands(start, folder, len(plan.runs), best, is_calibrated=bool(errors)))
            + "\n```",
            "## Tomograms",
            plan.table() + "\n",
        ]
    )


def _shares(points: Sequence[Mapping[str, Counts]], species_set: SpeciesSet) -> list[Any]:
    """Return the cells of a row: picks, wrong ones and shares at the first point, F4 and wrong ones at the other."""
    one, other = (species_scores(counts, species_set)[-1] for counts in points)
    shares = (f"{value:.3f}" for value in (one.precision, one.recall, one.f1))
    return [one.counts.predicted, one.counts.fp, *shares, f"{other.fbeta:.3f}", other.counts.fp]


def picking_start(settings: Mapping[str, Any], finder: Any, painter: Any) -> str:
    """Return how a command begins that picks as the folds did: with their overlay, and what is not its own.

    Args:
        settings: of the folds, by names that inference has, too.
        finder: of the folds.
        painter: of the folds' targets.
    """
    names = ["inference.json", "heat_maps.json"] if isinstance(finder, Peaks) else ["inference.json"]
    usual = {key: value for name in names for key, value in read_config(name).items()}
    listed = "[" + ",".join(f"'configs/{name}'" for name in names) + "]"
    configs = shlex.quote(listed) if len(names) > 1 else f"configs/{names[0]}"
    own = {key: value for key, value in settings.items() if value != usual[key]}
    if is_dataclass(painter):
        found = {one.name: getattr(painter, one.name) for one in fields(painter)}
        own |= {f"painter#{key}": value for key, value in found.items() if value != usual["painter"].get(key)}
    if is_dataclass(finder):
        others = [one for one in fields(finder) if one.name not in settings]
        own |= {
            f"finder#{one.name}": getattr(finder, one.name)
            for one in others
            if getattr(finder, one.name) != one.default
        }
    more = "".join(f" --{key} {shlex.quote(str(value))}" for key, value in own.items())
    return f"python -m monai.bundle run --config_file {configs} --dataset_dir TOMOGRAMS --output_dir PICKS{more}"


def read_config(name: str) -> dict[str, Any]:
    """Return the content of one of the bundle's configs."""
    return dict(json.loads(SPECIES_FILE.with_name(name).read_text(encoding="utf-8")))


def picking_commands(start: str, folder: Path, count: int, best: int, is_calibrated: bool) -> list[str]:
    """Return the commands that pick with what was fitted, each with a line that says what it is for."""
    every = ",".join(f"'{folder_of(folder, number) / FOLD_WEIGHTS}'" for number in range(count))
    together = f'{start} \\\n    --checkpoint_path "[{every}]" \\\n   '
    alone = f"{start} \\\n    --checkpoint_path {_quoted(folder_of(folder, best) / FOLD_WEIGHTS)} \\\n   "
    calibrated = f"--calibration_path {_quoted(folder / CALIBRATION_FILE)} --operating_point f1"
    thresholds = f"--second_look False --probability_thresholds {_quoted(folder / 'thresholds_f4.json')}"
    wanted = [
        ("all networks together, for F1; --operating_point f4 finds more", together, calibrated),
        (f"the network of fold {best} alone, in a fraction of the time", alone, calibrated),
        ("all networks together, with thresholds for F4 in place of calibrated scores", together, thresholds),
    ]
    return [f"# {purpose}\n{words} {how}" for purpose, words, how in wanted if is_calibrated or how == thresholds]


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))
