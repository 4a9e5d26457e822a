"""What each part of the second look is worth: leave one out at a time, train, calibrate, score.

    python benchmarks/second_look/ablate.py --work_dir WORK [--outside_dir DATA] [--seeds 0,1] [--epochs 6]

WORK is the folder of ``tools/make_weights.py`` after it has simulated and trained: its network proposes, its datasets
train, calibrate and score. After few epochs the probabilities rest on the first network, whatever the second look is
like, so its own answers are ranked, too: their average precision is the mean over the species. Every step is a
documented command that is not repeated once it is done. The table goes to ``WORK/ablation/table.md``; results of other
weights, data or epochs are refused there.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from monai.bundle import ConfigParser

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / part) for part in ("bundle", "tools", "benchmarks")]

from bundle_steps import Rows, bundle_run, evaluate, read_rows  # noqa: E402
from conditions import is_there, whole_numbers  # noqa: E402
from make_weights import SCORED  # noqa: E402
from scripts.atomic_files import write_atomically  # noqa: E402
from scripts.datasets.truth import list_labelled_runs  # noqa: E402
from scripts.errors import InputError, run_tool  # noqa: E402
from scripts.handlers.second_look import judge_tomograms  # noqa: E402
from scripts.markdown import markdown_table  # noqa: E402
from scripts.networks.model_card import sha256_of  # noqa: E402
from scripts.picking.second_look import COPIES_USED, load_second_look  # noqa: E402
from scripts.scoring.reliability import average_precision  # noqa: E402

VARIANTS: dict[str, tuple[str, ...]] = {
    "as shipped, trained shorter": (),
    "no mask": ("--mask_radius_angstrom", "0"),
    "no hard negatives": ("--train#dataset#mix#hard", "0.0"),
    "no faded particles": ("--train#dataset#mix#faded", "0.0"),
    "crops of 24 voxels": ("--crop_size", "24", "--mask_radius_angstrom", "110"),
    "half the channels": ("--network_def#widths", "[16,32,64]"),
}
COPIES = {"one copy": 1, "eight turned copies": 8}  # of the network as shipped
FOLDERS = (("crowd2", "wbp"), ("crowd4", "wbp"))
SHORTER: dict[str, Any] = {  # what is scored is known to it from the tomograms of the calibration
    "calibration#known": None
}


def main() -> int:
    """Run the command line; return the exit status."""
    options = read_arguments()
    return run_tool(lambda: ablate(options), resumable=True)


def ablate(options: argparse.Namespace) -> None:
    """Run what is not done yet, and write the table.

    Raises:
        InputError: there are no weights, or the folder holds results of other weights, data or epochs.
    """
    work, folder = options.work_dir.resolve(), options.work_dir.resolve() / "ablation"
    trained = options.checkpoint_path or max(work.glob("trained_*/model_last.pt"), default=None)
    if trained is None:
        raise InputError(f"{work} holds no trained_*/model_last.pt: give the work_dir of tools/make_weights.py.")
    weights = trained.resolve()
    outside = None if options.outside_dir is None else options.outside_dir.resolve()
    check_conditions(folder, weights, outside, options.epochs)
    with write_atomically(folder / "overlay.json") as file:
        file.write(json.dumps(SHORTER, indent=1) + "\n")
    found: dict[str, list[dict[str, Rows]]] = {}
    own: dict[str, list[float]] = {}
    for seed in options.seeds:
        for number, (name, settings) in enumerate(VARIANTS.items()):
            output = folder / f"{number}_{seed}"
            made = train(work, output, weights, seed, options.epochs, settings)
            found.setdefault(name, []).append(score(work, output, weights, made, outside))
            own.setdefault(name, []).append(own_average_precision(work, output, weights, made))
            if number == 0:
                for words, copies in COPIES.items():
                    output, more = folder / f"copies{copies}_{seed}", ("--second_look_copies", copies)
                    found.setdefault(words, []).append(score(work, output, weights, made, outside, *more))
                    own.setdefault(words, []).append(own_average_precision(work, output, weights, made, copies))
    (folder / "table.md").write_text(table(found, own) + "\n")
    print(table(found, own))


def read_arguments() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work_dir", type=Path, default=ROOT / "output" / "weights")
    parser.add_argument("--outside_dir", type=Path, help="annotated tomograms from elsewhere; the last two are scored")
    parser.add_argument("--checkpoint_path", type=Path, help="another first network than the last one in WORK")
    parser.add_argument("--seeds", type=whole_numbers, default="0,1")
    parser.add_argument("--epochs", type=int, default=6, help="of 100 steps")
    return parser.parse_args()


def check_conditions(folder: Path, weights: Path, outside: Path | None, epochs: int) -> None:
    """Write what results depend on, or compare it with that of the results that are there.

    Raises:
        InputError: names the first difference.
    """
    conditions = {
        "weights_sha256": sha256_of(weights), "outside_dir": outside and str(outside), "epochs": epochs,
        "variants": VARIANTS,
    }  # fmt: skip
    path = folder / "conditions.json"
    if not is_there(path, conditions):
        folder.mkdir(parents=True, exist_ok=True)
        with write_atomically(path) as file:
            file.write(json.dumps({"conditions": conditions}, indent=1) + "\n")


def train(work: Path, output: Path, weights: Path, seed: int, epochs: int, settings: tuple[str, ...]) -> Path:
    """Make a second look, unless it is made; return its file."""
    made = output / "second_look.pt"
    if not made.exists():
        overlays = [str(work / "second_overlay.json"), str(output.parent / "overlay.json")]
        configs = ["configs/train.json", "configs/second_look.json", *overlays]
        where = ["--proposals_dir", work / "second_look" / "proposals", "--cache_dir", work / "cache"]
        bundle_run(
            work / "bundle", configs, "--checkpoint_path", weights, "--dataset_dir", work / "second",
            "--validation_runs", ["T000"], "--output_dir", output, "--seed", seed, "--epochs", epochs, *where,
            *settings, task="second_look",
        )  # fmt: skip
    return made


def score(work: Path, output: Path, weights: Path, made: Path, outside: Path | None, *settings: Any) -> dict[str, Rows]:
    """Score a second look on datasets that it was neither trained nor calibrated on; return the rows by dataset."""
    data: dict[str, tuple[Path, str | None, list[str] | None]] = {
        SCORED[key]: (work / key[0], key[1], None) for key in FOLDERS
    }
    if outside is not None:
        names = [row["run"] for row in list_labelled_runs(str(outside))]
        data["another simulator"] = (outside, None, names[-2:])
    scores = {}
    for number, (name, (folder, kind, runs)) in enumerate(data.items()):
        there = output / f"scored_{number}"
        given = ("--second_look", True, "--second_look_path", made, *settings)
        evaluate(work / "bundle", there, [folder], kind, runs, weights, *given)
        scores[name] = read_rows(there / "operating_points.csv")
    return scores


def own_average_precision(work: Path, output: Path, weights: Path, made: Path, copies: int = COPIES_USED) -> float:
    """Return the mean average precision of a second look's own answers to the proposals in `FOLDERS`, and keep it."""
    path = output / "own.csv"
    if not path.exists():
        judged, labels = [], []
        for folder, kind in FOLDERS:
            parser = ConfigParser()
            parser.read_config([str(work / "bundle" / "configs" / name) for name in ("train.json", "second_look.json")])
            parser.update(
                {
                    "bundle_root": str(work / "bundle"), "dataset_dir": str(work / folder), "tomogram_kind": kind,
                    "checkpoint_path": str(weights), "proposals_dir": str(work / "second_look" / "proposals"),
                    "cache_dir": None, "output_dir": str(output), "training_runs": [], "validation_runs": ["none"],
                    "validation_names": [], "calibration_runs#only": None,
                }
            )  # fmt: skip
            parser.parse()
            parser.get_parsed_content("initialize")
            parser.get_parsed_content("pretrained")
            if len(parser.get_parsed_content("validate#dataset")):
                parser.get_parsed_content("validate#evaluator").run()
            species_set = parser.get_parsed_content("species")
            look = load_second_look(made, weights, species_set, copies, parser.get_parsed_content("number_format"))
            data = parser.get_parsed_content("prepared_calibration")
            judged += judge_tomograms(data, look, species_set, parser.get_parsed_content("merge_distance_in_radii"))
            labels += [np.asarray(sample["label"]).reshape(-1, 4)[:, 0] for sample in data]
        rows = []
        for column, species in enumerate(species_set.picked):
            scores, right = (
                np.concatenate([values[one.is_kept[:, column], column] for one, values in pairs])
                for pairs in ([(one, one.log_odds) for one in judged], [(one, one.is_right) for one in judged])
            )
            truths = int(np.count_nonzero(np.concatenate(labels) == species.label))
            rows.append([species.name, average_precision(scores, right, truths)])
        with write_atomically(path) as file:
            csv.writer(file).writerows(rows)
    with open(path, newline="") as file:
        return float(np.mean([float(value) for _, value in csv.reader(file)]))


def table(found: dict[str, list[dict[str, Rows]]], own: dict[str, list[float]]) -> str:
    """Return mean F1 and wrong picks at the F1 point, one column per dataset: the mean over seeds, and each seed.

    The last column has the `own_average_precision`.
    """
    datasets = list(next(iter(found.values()))[0])
    lines = []
    for name, seeds in found.items():
        cells = []
        for dataset in datasets:
            totals = [next(row for row in one[dataset] if row["species"] == "total") for one in seeds]
            f1 = [float(row["f1"]) for row in totals]
            wrong = ", ".join(f"{row['wrong']} of {row['picks']}" for row in totals)
            cells.append(f"{np.mean(f1):.3f} ({', '.join(f'{value:.3f}' for value in f1)}; wrong {wrong})")
        alone = f"{np.mean(own[name]):.3f} ({', '.join(f'{value:.3f}' for value in own[name])})"
        lines.append([name, *cells, alone])
    return markdown_table(["second look", *datasets, "its own average precision"], lines)


if __name__ == "__main__":
    sys.exit(main())
