"""Search the settings that picking depends on, on what a cross-validation has stored; minutes, without a network.

    python tools/search_picking.py FOLDS [--operating_point f4] [--trials 200] [--seed 0]

FOLDS is the output folder of `run cross_validation`, see docs/how_to/folds.md. Searched are a threshold on the
calibrated probability of every species, and the distance within which picks are merged. FOLDS/search.json is an overlay
on inference.json with the best of them. Settings that were chosen on some tomograms are always too good on these:
beside that score, the whole search is repeated without each fold, and scored on it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "bundle"))

from scripts.atomic_files import write_atomically  # noqa: E402
from scripts.errors import InputError, run_tool  # noqa: E402
from scripts.handlers.folds import CALIBRATION_FILE, FOLD_WEIGHTS, FOLDS_PLAN, OUT_OF_FOLD, folder_of  # noqa: E402
from scripts.networks.model_card import species_of  # noqa: E402
from scripts.picking.calibration import Calibration  # noqa: E402
from scripts.picking.operating_point import NAMED, OperatingPoint, parse_operating_points  # noqa: E402
from scripts.picking.proposals import candidates_of  # noqa: E402
from scripts.scoring.calibration import fit_calibration, judge_scores  # noqa: E402
from scripts.scoring.metrics import Counts, fbeta  # noqa: E402
from scripts.scoring.out_of_fold import OutOfFold, judge_out_of_fold, read_out_of_fold  # noqa: E402
from scripts.species import SpeciesSet  # noqa: E402

MERGE_DISTANCES = (0.4, 1.6)  # particle radii
PROBABILITIES = (0.02, 0.98)
MERGED, LEAST = "merge_distance_in_radii", "least_truths"
Settings = Mapping[str, float]  # MERGED, and a probability by species


def main(arguments: Sequence[str] | None = None) -> int:
    """Search, print the scores, write the overlay; return the exit status."""
    options = make_parser().parse_args(arguments)
    return run_tool(lambda: run_search(options.folder, options.operating_point, options.trials, options.seed))


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FOLDS")
    parser.add_argument("--operating_point", choices=list(NAMED), default="f1", help="what is searched for")
    parser.add_argument("--trials", type=int, default=200, help="settings that every search tries")
    parser.add_argument("--seed", type=int, default=0)
    return parser


def run_search(folder: Path, wanted: str, trials: int, seed: int) -> None:
    """Search on all folds and, for an honest score, on all but each; print the scores and write ``search.json``.

    Raises:
        InputError: the cross-validation is not complete.
    """
    if not (folder / CALIBRATION_FILE).exists():
        raise InputError(f"{folder} holds no {CALIBRATION_FILE}: finish run cross_validation with it as output_dir.")
    fitted = json.loads((folder / CALIBRATION_FILE).read_text())
    merged, least = (fitted.get(key) for key in (MERGED, LEAST))
    for key, value in ((MERGED, merged), (LEAST, least)):
        if value is None:
            raise InputError(f"{folder / CALIBRATION_FILE} has no {key}: start the same run cross_validation again.")
    runs = json.loads((folder / FOLDS_PLAN).read_text())["runs"].values()
    folds = [
        [read_out_of_fold(folder_of(folder, number) / OUT_OF_FOLD / f"{run}.npz") for run in names]
        for number, names in enumerate(runs)
    ]
    species_set, beta = species_of(folder_of(folder, 0) / FOLD_WEIGHTS), NAMED[wanted]
    everything = [one for fold in folds for one in fold]
    usual = parse_operating_points(wanted, species_set)
    calibration = calibration_on(everything, species_set, merged, least)
    best = search(everything, calibration, species_set, beta, trials, seed)
    scores = {
        "before": score(count(everything, calibration, species_set, usual, merged), beta),
        "after": score(count_with(everything, calibration, species_set, best), beta),
    }
    before, after = ({name: Counts() for name in species_set.names} for _ in range(2))
    for number, fold in enumerate(folds):
        others = [one for place, other in enumerate(folds) if place != number for one in other]
        without = calibration_on(others, species_set, merged, least)
        found = search(others, without, species_set, beta, trials, seed)
        before = add(before, count(fold, without, species_set, usual, merged))
        after = add(after, count_with(fold, without, species_set, found))
    scores |= {"before, held out": score(before, beta), "after, held out": score(after, beta)}
    told = ", ".join(f"{name} {value:.4f}" for name, value in scores.items())
    overlay: dict[str, Any] = {
        "_desc_": f"overlay on inference.json, of {trials} trials on {len(everything)} tomograms: mean {wanted} {told}",
        "calibration_path": str((folder / CALIBRATION_FILE).resolve()),
        MERGED: best[MERGED],
        "operating_point": {name: {"probability": best[name]} for name in species_set.names},
    }
    with write_atomically(folder / "search.json") as file:
        file.write(json.dumps(overlay, indent=4) + "\n")
    print(f"mean {wanted}: {told}")
    if scores["after, held out"] <= scores["before, held out"]:
        usually = f"--operating_point {wanted} --{MERGED} {merged:g}"
        print(f"not worth it: on tomograms that a search has not seen, {usually} is as good or better")
    print(f"settings: {folder / 'search.json'}")


def calibration_on(
    tomograms: Sequence[OutOfFold], species_set: SpeciesSet, merge_distance_in_radii: float, least_truths: int
) -> Calibration:
    """Return the calibration that fits some tomograms."""
    judged = [judge_out_of_fold(one, species_set, merge_distance_in_radii) for one in tomograms]
    return fit_calibration(judged, species_set.names, least_truths)[0]


def search(
    tomograms: Sequence[OutOfFold],
    calibration: Calibration,
    species_set: SpeciesSet,
    beta: float,
    trials: int,
    seed: int,
) -> Settings:
    """Return the settings with the best score in some tomograms, rounded; the first trial is 0.5 for every species.

    Raises:
        InputError: optuna is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise InputError("this search needs optuna: pip install optuna.") from error

    def try_settings(trial: optuna.Trial) -> float:
        settings = {MERGED: trial.suggest_float(MERGED, *MERGE_DISTANCES, step=0.05)}
        settings |= {name: trial.suggest_float(name, *PROBABILITIES, step=0.02) for name in species_set.names}
        return score(count_with(tomograms, calibration, species_set, settings), beta)

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed))
    study.enqueue_trial({MERGED: 1.0, **dict.fromkeys(species_set.names, 0.5)})
    study.optimize(try_settings, n_trials=trials)
    return {name: round(value, 2) for name, value in study.best_params.items()}


def count_with(
    tomograms: Sequence[OutOfFold], calibration: Calibration, species_set: SpeciesSet, settings: Settings
) -> dict[str, Counts]:
    """Return the counts of every species with some settings, see `count`."""
    points = {name: OperatingPoint("probability", settings[name]) for name in species_set.names}
    return count(tomograms, calibration, species_set, points, settings[MERGED])


def count(
    tomograms: Sequence[OutOfFold],
    calibration: Calibration,
    species_set: SpeciesSet,
    points: Mapping[str, OperatingPoint],
    merge_distance_in_radii: float,
) -> dict[str, Counts]:
    """Return hits, picks that the truth tells of, and truths of every species in some tomograms, one to one."""
    counts = {name: Counts() for name in species_set.names}
    for one in tomograms:
        probabilities = calibration.probabilities(one.proposals.logits, one.proposals.logits)
        every, told = (
            candidates_of(
                one.proposals, probabilities, species_set, one.voxel_size_angstrom, merge_distance_in_radii, is_judged
            )
            for is_judged in (None, one.is_judged)
        )
        judged = judge_scores(told, one.particles, species_set, one.voxel_size_angstrom, every)
        counts = add(counts, {name: row.counts_at(points[name])[0] for name, row in judged.items()})
    return counts


def add(one: Mapping[str, Counts], other: Mapping[str, Counts]) -> dict[str, Counts]:
    """Return the sum of counts by species."""
    return {name: counts + other[name] for name, counts in one.items()}


def score(counts: Mapping[str, Counts], beta: float) -> float:
    """Return the mean F-beta of the species that have true particles."""
    values = [fbeta(row.tp, row.predicted, row.truths, beta) for row in counts.values() if row.truths]
    return sum(values) / max(len(values), 1)


if __name__ == "__main__":
    sys.exit(main())
