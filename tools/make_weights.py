"""Make the shipped weights: simulate, train, fit thresholds on runs that were not trained on, score, install.

    python tools/make_weights.py [--work_dir WORK] [--maps_dir MAPS] [--outside_dir DATA] [--install | --smoke]

Every step is a documented command that runs on a copy of the bundle in WORK and resumes where it was stopped; delete
WORK to start from scratch. Without maps the particles are phantoms. DATA holds annotated tomograms from another source,
if there are any: in the order of their names, the last two are only scored, thresholds are fitted on the one before
them, and the others are added to the simulated training data.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "bundle"), str(ROOT / "tools")]

from format_configs import layout_of  # noqa: E402
from scripts.atomic_files import write_atomically  # noqa: E402
from scripts.datasets.truth import list_labelled_runs  # noqa: E402
from scripts.networks.weights import read_model, save_model  # noqa: E402

FIT, KINDS = "wbp", ("wbp", "denoised")
RESULTS_START, RESULTS_END = "<!-- weights: begin -->", "<!-- weights: end -->"


@dataclass(frozen=True)
class Size:
    """The size of a training: data, epochs, network."""

    runs: int = 76
    validation_runs: int = 4
    shape: tuple[int, int, int] = (128, 320, 320)
    held_out_runs: int = 4
    held_out_shape: tuple[int, int, int] = (184, 630, 630)
    outside_copies: int = 8  # of each outside tomogram, per two kinds of each simulated one
    stages: tuple[tuple[int, float], ...] = ((32, 1e-3),)  # epochs, learning rate; each continues the last
    windows_per_epoch: int = 200
    network: tuple[str, ...] = ()


SMOKE = Size(
    runs=3, validation_runs=1, shape=(48, 96, 96), held_out_runs=1, held_out_shape=(64, 128, 128),
    stages=((2, 1e-3), (1, 5e-4)), windows_per_epoch=8,
    network=("--network_def#widths", "[8,16]", "--network_def#depths", "[1,1]", "--window_size", "[32,48,48]"),
)  # fmt: skip


def main() -> None:
    """Run all steps that are not done yet."""
    options = read_arguments()
    size = SMOKE if options.smoke else Size(network=("--network_def#widths", options.widths))
    default = ROOT / "output" / ("weights_smoke" if options.smoke else "weights")
    work = (options.work_dir or default).resolve()
    bundle = work / "bundle"
    if not bundle.exists():
        shutil.copytree(ROOT / "bundle", bundle, ignore=shutil.ignore_patterns("__pycache__", "output"))
    make_data(bundle, work, options.maps_dir, size, options.seed)

    outside, names = options.outside_dir, options.outside_names
    own = sorted({item["run"] for item in list_labelled_runs(work / "simulated", tomogram_kind=FIT)})
    own_train, own_fit = own[: len(own) - size.validation_runs], own[len(own) - size.validation_runs :]
    train_names, fit_names, test_names = names[:-3], names[-3:-2], names[-2:]

    minutes, weights = 0.0, None
    for number in range(len(size.stages)):
        spent, weights = train(bundle, work, outside, own_fit, train_names, size, options.seed, number, weights)
        minutes += spent
    assert weights is not None
    folders = [work / "simulated", *([outside] if outside else [])]
    evaluate(bundle, work / "fitted", folders, FIT, [*own_fit, *fit_names], weights, fit=True)
    scores = score_all(bundle, work, outside, test_names, weights)
    made = {
        "size": asdict(size), "seed": options.seed, "minutes": minutes, "maps": options.maps_dir is not None,
        "outside": outside is not None,
        "trained_on": {"simulated": own_train, "outside": train_names}, "fitted_on": [*own_fit, *fit_names],
        "scores": scores,
    }  # fmt: skip
    (work / "weights.json").write_text(json.dumps(made, indent=1) + "\n")
    print(as_table(scores))
    if options.install:
        install(weights, made)


def read_arguments() -> argparse.Namespace:
    """Return the options of the command line, with the names of the outside tomograms as ``outside_names``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work_dir", type=Path, help="where data, weights and scores go; output/weights if not given")
    parser.add_argument("--maps_dir", type=Path, help="density maps, named as in simulate_maps.json")
    parser.add_argument("--outside_dir", type=Path, help="annotated tomograms from elsewhere")
    parser.add_argument("--widths", default="compact", help="compact, or full where a GPU is at hand")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--install", action="store_true", help="put weights, thresholds and scores into the bundle")
    parser.add_argument("--smoke", action="store_true", help="a small and quick one, to see that every step works")
    options = parser.parse_args()
    if options.smoke and options.install:
        parser.error("--smoke makes weights that are not worth installing.")
    options.outside_dir = outside = options.outside_dir.resolve() if options.outside_dir else None
    options.outside_names = names = [] if outside is None else [item["run"] for item in list_labelled_runs(outside)]
    if 0 < len(names) < 4:
        parser.error(
            f"{outside} holds {len(names)} annotated tomograms: four or more are needed, one of them to train on"
        )
    return options


def make_data(bundle: Path, work: Path, maps: Path | None, size: Size, seed: int) -> None:
    """Simulate the runs of the training, and full-size runs to score, in the folders ``simulated`` and ``held_out``."""
    simulate(bundle, work / "simulated", maps, size.runs, size.shape, seed, [])
    real = ["--scene#crowding", "1.0", "--run_name", "H{number:03d}"]
    simulate(bundle, work / "held_out", maps, size.held_out_runs, size.held_out_shape, seed + 1000, real)


def score_all(
    bundle: Path, work: Path, outside: Path | None, test_names: list[str], weights: Path
) -> dict[str, list[dict[str, str]]]:
    """Score weights on the outside test runs and on both kinds of the held-out runs; return the rows by dataset."""
    scores = {}
    if outside is not None:
        name = f"{' and '.join(test_names)}, from another simulator"
        scores[name] = evaluate(bundle, work / "scored_outside", [outside], None, test_names, weights)
    for kind in KINDS:
        name = f"simulated, full size, real crowding, {kind}"
        scores[name] = evaluate(bundle, work / f"scored_{kind}", [work / "held_out"], kind, None, weights)
    return scores


def bundle_run(bundle: Path, configs: list[str], *settings: Any, task: str = "run") -> float:
    """Run a command of the bundle and return how many minutes it took."""
    files = "[" + ",".join(f"'{name}'" for name in configs) + "]"
    words = [sys.executable, "-m", "monai.bundle", "run", task, "--config_file", files]
    start = time.perf_counter()
    subprocess.run(
        [*words, *map(str, settings)], cwd=bundle, check=True, env={**os.environ, "THP_MEM_ALLOC_ENABLE": "1"}
    )
    return (time.perf_counter() - start) / 60


def simulate(
    bundle: Path, folder: Path, maps: Path | None, runs: int, shape: tuple[int, ...], seed: int, more: list[str]
) -> None:
    """Write a simulated dataset, or the missing part of it."""
    configs = ["configs/simulate.json", *(["configs/simulate_maps.json"] if maps else [])]
    where = ["--maps_dir", str(maps.resolve())] if maps else []
    settings = ["--runs", runs, "--shape", list(shape), "--seed", seed, "--workers", 2]
    bundle_run(bundle, configs, "--dataset_dir", folder, *settings, *where, *more)


def train(
    bundle: Path, work: Path, outside: Path | None, validation: list[str], names: list[str], size: Size, seed: int,
    number: int, start: Path | None,
) -> tuple[float, Path]:  # fmt: skip
    """Train one stage on both kinds of every simulated run and on several copies of the outside tomograms.

    Returns:
        The minutes that it took, and the averaged weights after its last step.
    """
    output, (epochs, learning_rate) = work / f"trained_{number + 1}", size.stages[number]
    done, weights = output / "minutes.json", output / "model_last.pt"
    if done.exists():
        return float(json.loads(done.read_text())), weights
    listed = {"_target_": "scripts.datasets.truth.list_labelled_runs", "repeat_runs": True}
    overlay: dict[str, Any] = {
        "simulated_runs": {
            **listed, "dataset_dir": "@dataset_dir", "without": "@validation_names", "tomogram_kind": list(KINDS)
        },
        "outside_runs": {**listed, "dataset_dir": str(outside), "only": names} if outside else [],
        "outside_copies": size.outside_copies,
        "train#dataset#data": "$@simulated_runs + @outside_copies * @outside_runs",
    }  # fmt: skip
    (work / "train_overlay.json").write_text(json.dumps(overlay, indent=1))
    minutes = bundle_run(
        bundle, ["configs/train.json", str(work / "train_overlay.json")],
        "--dataset_dir", work / "simulated", "--tomogram_kind", FIT, "--validation_runs", validation,
        "--epochs", epochs, "--val_interval", epochs + 1, "--windows_per_epoch", size.windows_per_epoch,
        "--learning_rate", learning_rate, "--seed", seed + number, "--output_dir", output,
        *(["--checkpoint_path", start] if start else []), *size.network, task="training",
    )  # fmt: skip
    done.write_text(json.dumps(round(minutes, 1)))
    return minutes, weights


def evaluate(
    bundle: Path, output: Path, folders: list[Path], kind: str | None, runs: list[str] | None, weights: Path,
    fit: bool = False,
) -> list[dict[str, str]]:  # fmt: skip
    """Score weights or fit their thresholds, unless that is done already; return the rows of ``scores.csv``."""
    settings: list[Any] = ["--dataset_dir", [str(folder) for folder in folders], "--checkpoint_path", weights]
    settings += ["--validation_runs", runs] if runs else []
    settings += ["--tomogram_kind", kind] if kind else []
    if fit:
        settings += ["--record_thresholds", True]
    else:  # only one threshold in the sweep: each takes a minute on a full-size tomogram
        settings += ["--sweep_thresholds", [0.5]]
    configs = ["configs/train.json", "configs/evaluate.json"]
    if not (output / "thresholds.png").exists():  # the last file that is written
        bundle_run(bundle, configs, *settings, "--output_dir", output, task="evaluating")
    with open(output / "scores.csv", newline="") as file:
        return list(csv.DictReader(file))


def as_table(scores: dict[str, list[dict[str, str]]]) -> str:
    """Return the scores as a Markdown table, one row per dataset and species."""
    heads = ("data", "species", "truths", "picks", "wrong picks", "precision", "recall", "F1", "F4", "F4, one to one")
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for name, rows in scores.items():
        strict = {row["species"]: row["f4"] for row in rows if row["mode"] == "one_to_one"}
        kaggle = [row for row in rows if row["mode"] == "kaggle"]
        for row in kaggle:
            f1, f4, other = float(row["f1"]), float(row["f4"]), float(strict[row["species"]])
            if row["species"] == "total":
                wrong = sum(int(one["fp"]) for one in kaggle if one["fp"])
                total = f"| {name} | **weighted total** | | | {wrong} | | | {f1:.3f} |"
                lines.append(f"{total} **{f4:.3f}** | **{other:.3f}** |")
                continue
            shares = " | ".join(f"{float(row[key]):.3f}" if row[key] else "" for key in ("precision", "recall"))
            counts = " | ".join(row[key] for key in ("truths", "picks", "fp"))
            lines.append(f"| {name} | {row['species']} | {counts} | {shares} | {f1:.3f} | {f4:.3f} | {other:.3f} |")
    return "\n".join(lines)


def install(weights: Path, made: dict[str, Any]) -> None:
    """Put the weights, thresholds and scores into the bundle and the documentation."""
    configs, model = ROOT / "bundle" / "configs", ROOT / "bundle" / "models" / "model.pt"
    content, card = read_model(weights)
    given = f"--seed {made['seed']}{' --maps_dir MAPS' * made['maps']}{' --outside_dir DATA' * made['outside']}"
    save_model(model, content, {**card, "command": f'make weights OPTIONS="--install {given}"'})
    species = json.loads((configs / "species.json").read_text())
    for name, row in card["species"].items():
        species["species"][name]["probability_threshold"] = row["probability_threshold"]
    with write_atomically(configs / "species.json") as file:
        file.write(layout_of(json.dumps(species)))
    metadata = json.loads((configs / "metadata.json").read_text())
    name, rows = next(iter(made["scores"].items()))
    found = {row["species"]: round(float(row["f4"]), 3) for row in rows if row["mode"] == "kaggle"}
    metadata["eval_metrics"] = {
        "f4_weighted_mean": found.pop("total"), **{f"f4_{species}": f4 for species, f4 in found.items()}
    }  # fmt: skip
    with write_atomically(configs / "metadata.json") as file:
        file.write(layout_of(json.dumps(metadata)))
    page = ROOT / "docs" / "reference" / "results.md"
    before, _, rest = page.read_text().partition(RESULTS_START)
    after = rest.partition(RESULTS_END)[2]
    with write_atomically(page) as file:
        file.write(f"{before}{RESULTS_START}\n\n{as_table(made['scores'])}\n\n{RESULTS_END}{after}")
    print(f"installed: {model}, thresholds, scores on {name}")


if __name__ == "__main__":
    main()
