"""Make the shipped weights: simulate, train, fit thresholds, make a second look, score, install.

    python tools/make_weights.py [--work_dir WORK] [--maps_dir MAPS] [--outside_dir DATA] [--install | --smoke]

Every step is a documented command that runs on a copy of the bundle in WORK and resumes where it was stopped; delete
WORK to start from scratch. Without maps the particles are phantoms. DATA holds annotated tomograms from another source,
if there are any: in the order of their names, the last two are only scored, thresholds and probabilities are fitted on
the one before them, and the others are added to the simulated training data. The second look is trained on simulated
tomograms that the first network has not seen.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "bundle"), str(ROOT / "tools")]

import torch  # noqa: E402
from bundle_steps import Rows, bundle_run, evaluate, read_rows, three  # noqa: E402
from format_configs import layout_of  # noqa: E402
from scripts.atomic_files import write_atomically  # noqa: E402
from scripts.datasets.truth import list_labelled_runs  # noqa: E402
from scripts.errors import InputError, run_tool  # noqa: E402
from scripts.markdown import markdown_table  # noqa: E402
from scripts.networks.weights import read_model, save_model  # noqa: E402
from scripts.records import first_difference  # noqa: E402

FIT, KINDS = "wbp", ("wbp", "denoised")
HARD = ("--imaging#contrast", '{"from": 0.3, "to": 1.0}')  # also series in which particles are barely seen
FAINT = ("--imaging#contrast", '{"from": 0.2, "to": 0.5}')  # only such
COMPACT, SETTINGS_FILE = "compact", "settings.json"
WORKERS = 5 if torch.cuda.is_available() else 0  # that draw windows ahead of a GPU
RESULTS_START, RESULTS_END = "<!-- weights: begin -->", "<!-- weights: end -->"


@dataclass(frozen=True)
class Simulated:
    """A simulated dataset.

    Attributes:
        letter: first letter of its runs.
        runs: their number.
        seed: added to that of the command line.
        settings: of the simulation, beside the shipped ones.
        is_full_size: whether its tomograms are as large as the challenge's.
        is_cell: whether filaments, membranes and specks surround the particles, of which some runs have none.
    """

    letter: str
    runs: int
    seed: int
    settings: tuple[str, ...] = ()
    is_full_size: bool = False
    is_cell: bool = False


def crowded(low: float, high: float) -> tuple[str, str]:
    """Return the setting for a range of crowding."""
    return "--scene#crowding", json.dumps({"from": float(low), "to": float(high)} if low < high else float(low))


DATASETS = {  # by folder
    "simulated": Simulated("S", 76, 0),  # trains the network; the last runs validate
    "more": Simulated("L", 60, 6999, (*crowded(1, 2), *HARD)),  # these three, too
    "cells": Simulated("K", 60, 15999, HARD, is_cell=True),
    "faint": Simulated("F", 40, 19999, (*crowded(1, 2), *FAINT)),
    "second": Simulated("T", 40, 7999, (*crowded(1, 3), *HARD)),  # trains the second look
    "calibration": Simulated("C", 36, 8999, (*crowded(1, 3), *HARD)),  # fits thresholds and probabilities
    "second_cells": Simulated("U", 60, 16999, HARD, is_cell=True),  # the same two in cells
    "calibration_cells": Simulated("V", 72, 17999, HARD, is_cell=True),
    "second_faint": Simulated("W", 32, 20999, (*crowded(1, 2), *FAINT)),  # and of faint particles
    "calibration_faint": Simulated("Y", 64, 21999, (*crowded(1, 2), *FAINT)),
    "held_out": Simulated("H", 4, 1000, crowded(1, 1), is_full_size=True),  # this and the rest are only scored
    "noisy": Simulated("N", 4, 10999, (*crowded(1, 1), "--imaging#contrast", "0.35"), is_full_size=True),
    "cells_held_out": Simulated("X", 4, 18999, is_full_size=True, is_cell=True),
    "crowd2": Simulated("E2", 4, 11999, crowded(2, 2)),
    "crowd4": Simulated("E4", 4, 13999, crowded(4, 4)),
}
SECOND = ("second", "second_cells", "second_faint")  # train the second look
CALIBRATION = ("calibration", "calibration_cells", "calibration_faint")  # fit its probabilities
SCORED = {  # folder, kind: its name in the tables
    ("held_out", "wbp"): "simulated, full size, real crowding, wbp",
    ("held_out", "denoised"): "simulated, full size, real crowding, denoised",
    ("noisy", "wbp"): "the same with a third of the contrast, wbp",
    ("cells_held_out", "wbp"): "simulated, full size, in cells, wbp",
    ("cells_held_out", "denoised"): "simulated, full size, in cells, denoised",
    ("crowd2", "wbp"): "simulated, twice as crowded, wbp",
    ("crowd4", "wbp"): "simulated, four times as crowded, wbp",
}


@dataclass(frozen=True)
class Stage:
    """A part of the training of the network; each goes on from the last.

    Attributes:
        epochs: their number.
        learning_rate: the highest.
        folders: datasets to train on.
        windows_per_epoch: their number.
        batch_size: windows per step.
        falls_over_epochs: after how many the learning rate would be 0; None for ``epochs``.
    """

    epochs: int
    learning_rate: float
    folders: tuple[str, ...] = ("simulated",)
    windows_per_epoch: int = 4000
    batch_size: int = 16
    falls_over_epochs: int | None = None


@dataclass(frozen=True)
class Size:
    """The size of a training: data, epochs, networks."""

    runs: int | None = None  # of every dataset; None for its own number
    validation_runs: int = 4
    shape: tuple[int, int, int] = (128, 320, 320)
    full_shape: tuple[int, int, int] = (184, 630, 630)
    outside_copies: int = 8  # of each outside tomogram, per two kinds of each simulated one
    stages: tuple[Stage, ...] = (Stage(11, 2e-3, ("simulated", "more", "cells", "faint"), falls_over_epochs=18),)
    network: tuple[str, ...] = ()
    threshold_runs: int = 12  # of those for calibration
    second_outside_copies: int = 3
    second_epochs: int = 30
    second_settings: tuple[str, ...] = ()
    scored: tuple[tuple[str, str], ...] = tuple(SCORED)

    @property
    def datasets(self) -> list[str]:
        """The simulated datasets that are needed, in the order of `DATASETS`."""
        trained = {name for stage in self.stages for name in stage.folders}
        needed = {*trained, *SECOND, *CALIBRATION, *(folder for folder, _ in self.scored)}
        return [name for name in DATASETS if name in needed]


SMOKE = Size(
    runs=2, validation_runs=1, shape=(48, 96, 96), full_shape=(64, 128, 128),
    stages=(
        Stage(2, 1e-3, windows_per_epoch=8, batch_size=2, falls_over_epochs=3),
        Stage(1, 5e-4, ("simulated", "cells"), windows_per_epoch=8, batch_size=2),
    ),
    network=("--network_def#widths", "[8,16]", "--network_def#depths", "[1,1]", "--window_size", "[32,48,48]"),
    second_epochs=1,  # a network that has hardly learned proposes nothing at the usual probability
    second_settings=("--windows_per_epoch", "128", "--validate#postprocessing#transforms#0#lowest_logit", "-7.0"),
    scored=(("held_out", "wbp"), ("held_out", "denoised")),
)  # fmt: skip


def main() -> int:
    """Run the command line; return the exit status."""
    try:
        return run_tool(lambda: make_weights(read_arguments()), resumable=True)
    except subprocess.CalledProcessError as error:  # the command has said why
        return int(error.returncode)


def make_weights(options: argparse.Namespace) -> None:
    """Run all steps that are not done yet.

    Raises:
        InputError: the work was begun with other settings, or a step failed.
    """
    size = SMOKE if options.smoke else Size(network=("--network_def#widths", options.widths))
    default = ROOT / "output" / ("weights_smoke" if options.smoke else "weights")
    work = (options.work_dir or default).resolve()
    bundle = work / "bundle"
    check_settings(work, options)
    if not bundle.exists():
        shutil.copytree(ROOT / "bundle", bundle, ignore=shutil.ignore_patterns("__pycache__", "output"))
    for name in size.datasets:
        simulate(bundle, work / name, options.maps_dir, size, name, options.seed)

    outside, names = options.outside_dir, options.outside_names
    own = sorted({item["run"] for item in list_labelled_runs(work / "simulated", tomogram_kind=FIT)})
    validation = own[len(own) - size.validation_runs :]
    train_names, fit_names, test_names = names[:-3], names[-3:-2], names[-2:]

    minutes, weights = 0.0, None
    for number in range(len(size.stages)):
        spent, weights = train(bundle, work, outside, validation, train_names, size, options.seed, number, weights)
        minutes += spent
    assert weights is not None
    folders = [work / "calibration", *([outside] if outside else [])]
    calibration = [item["run"] for item in list_labelled_runs(work / "calibration", tomogram_kind=FIT)]
    fitted = [*calibration[: size.threshold_runs], *fit_names]
    evaluate(bundle, work / "fitted", folders, FIT, fitted, weights, "--record_thresholds", True)
    second_look = make_second_look(bundle, work, outside, train_names, fit_names, weights, size, options.seed)
    scores = score_all(bundle, work, outside, test_names, weights, second_look, size.scored)
    made = {
        "size": asdict(size), "seed": options.seed, "minutes": minutes, "maps": options.maps_dir is not None,
        "outside": outside is not None, "widths": options.widths, "trained_on": read_model(weights)[1]["trained_on"],
        "fitted_on": fitted, "scores": scores,
    }  # fmt: skip
    (work / "weights.json").write_text(json.dumps(made, indent=1) + "\n")
    print(as_tables(scores))
    if options.install:
        install(weights, second_look, made)


def check_settings(work: Path, options: argparse.Namespace) -> None:
    """Write what the steps depend on, or compare it with that of the steps that are done.

    Raises:
        InputError: names the first difference.
    """
    folders = {"maps_dir": options.maps_dir, "outside_dir": options.outside_dir}
    settings: dict[str, Any] = {key: folder and str(folder.resolve()) for key, folder in folders.items()}
    settings |= {"seed": options.seed, "widths": options.widths}
    path = work / SETTINGS_FILE
    difference = first_difference(json.loads(path.read_text()), settings) if path.exists() else None
    if difference:
        raise InputError(
            f"{work} was begun with other settings: {difference}. Give the same ones, or another --work_dir."
        )
    work.mkdir(parents=True, exist_ok=True)
    with write_atomically(path) as file:
        file.write(json.dumps(settings, indent=1) + "\n")


def read_arguments() -> argparse.Namespace:
    """Return the options of the command line, with the names of the outside tomograms as ``outside_names``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work_dir", type=Path, help="where data, weights and scores go; output/weights if not given")
    parser.add_argument("--maps_dir", type=Path, help="density maps, named as in simulate_maps.json")
    parser.add_argument("--outside_dir", type=Path, help="annotated tomograms from elsewhere")
    parser.add_argument("--widths", default=COMPACT, help="compact, or full where a GPU is at hand")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--install", action="store_true", help="put weights, thresholds and scores into the bundle")
    parser.add_argument("--smoke", action="store_true", help="a small and quick one, to see that every step works")
    options = parser.parse_args()
    if options.smoke and options.install:
        parser.error("--smoke makes weights that are not worth installing.")
    options.outside_dir = outside = options.outside_dir.resolve() if options.outside_dir else None
    options.outside_names = names = [] if outside is None else [item["run"] for item in list_labelled_runs(outside)]
    if outside is not None and len(names) < 4:
        parser.error(
            f"{outside} holds {len(names)} annotated tomograms: four or more are needed, one of them to train on"
        )
    return options


def score_all(
    bundle: Path, work: Path, outside: Path | None, test_names: list[str], weights: Path, second_look: Path,
    simulated: Sequence[tuple[str, str]],
) -> dict[str, dict[str, Rows]]:  # fmt: skip
    """Score the first network and the second look on the outside test runs and on some of the simulated `SCORED`.

    Returns:
        By dataset: ``first`` and ``second``, rows of ``scores.csv``; ``points``, rows of ``operating_points.csv``; and
        ``reliability``, rows of ``reliability.csv``.
    """
    wanted: dict[str, tuple[str, list[Path], str | None, list[str] | None]] = {}
    if outside is not None:
        wanted[f"{' and '.join(test_names)}, from another simulator"] = ("outside", [outside], None, test_names)
    for one_of in simulated:
        wanted[SCORED[one_of]] = ("_".join(one_of), [work / one_of[0]], one_of[1], None)
    scores = {}
    for name, (short, folders, kind, runs) in wanted.items():
        first, second = (work / f"scored_{short}_{network}" for network in ("first", "second"))
        one = evaluate(bundle, first, folders, kind, runs, weights, "--second_look", False)
        two = evaluate(
            bundle, second, folders, kind, runs, weights, "--second_look", True, "--second_look_path", second_look
        )
        points, reliability = (read_rows(second / f"{table}.csv") for table in ("operating_points", "reliability"))
        scores[name] = {"first": one, "second": two, "points": points, "reliability": reliability}
    return scores


def simulate(bundle: Path, folder: Path, maps: Path | None, size: Size, name: str, seed: int) -> None:
    """Write a simulated dataset, or the missing part of it."""
    wanted = DATASETS[name]
    overlays = ["maps"] * (maps is not None) + ["cell"] * wanted.is_cell
    configs = ["configs/simulate.json", *(f"configs/simulate_{overlay}.json" for overlay in overlays)]
    where = ["--maps_dir", str(maps.resolve())] if maps else []
    shape = size.full_shape if wanted.is_full_size else size.shape
    settings = ["--runs", size.runs or wanted.runs, "--shape", list(shape), "--seed", seed + wanted.seed]
    named = ["--run_name", wanted.letter + ("{number:03d}" if len(wanted.letter) == 1 else "{number:02d}")]
    bundle_run(bundle, configs, "--dataset_dir", folder, *settings, *named, "--workers", 2, *where, *wanted.settings)


def train(
    bundle: Path, work: Path, outside: Path | None, validation: list[str], names: list[str], size: Size, seed: int,
    number: int, start: Path | None,
) -> tuple[float, Path]:  # fmt: skip
    """Train one stage on both kinds of every simulated run and on several copies of the outside tomograms.

    Returns:
        The minutes that it took, and the averaged weights after its last step.
    """
    output, stage = work / f"trained_{number + 1}", size.stages[number]
    done, weights = output / "minutes.json", output / "model_last.pt"
    if done.exists():
        return float(json.loads(done.read_text())), weights
    simulated = {
        f"{folder}_runs": runs_in([work / folder], list(KINDS), without=validation if folder == "simulated" else [])
        for folder in stage.folders
    }
    overlay: dict[str, Any] = {
        **simulated,
        "outside_runs": runs_in([outside], None, only=names) if outside else [],
        "outside_copies": size.outside_copies,
        "train#dataset#data": "$" + " + ".join(f"@{key}" for key in simulated) + " + @outside_copies * @outside_runs",
    }
    (work / "train_overlay.json").write_text(json.dumps(overlay, indent=1))
    minutes = bundle_run(
        bundle, ["configs/train.json", str(work / "train_overlay.json")],
        "--dataset_dir", work / "simulated", "--tomogram_kind", FIT, "--validation_runs", validation,
        "--epochs", stage.epochs, "--val_interval", 0, "--windows_per_epoch", stage.windows_per_epoch,
        "--batch_size", stage.batch_size, "--num_workers", WORKERS, "--learning_rate", stage.learning_rate,
        "--steps", (stage.falls_over_epochs or stage.epochs) * stage.windows_per_epoch // stage.batch_size,
        "--seed", seed + number, "--output_dir", output, "--cache_dir", work / "cache",
        "--train#handlers#7#accept_complete", True, *(["--checkpoint_path", start] if start else []), *size.network,
        task="training",
    )  # fmt: skip
    done.write_text(json.dumps(round(minutes, 1)))
    return minutes, weights


def runs_in(folders: list[Path], kinds: list[str] | None, **more: Any) -> dict[str, Any]:
    """Return the part of a config that lists the annotated runs of some folders, once per kind."""
    target, where = "scripts.datasets.truth.list_labelled_runs", [str(folder) for folder in folders]
    return {"_target_": target, "repeat_runs": True, "dataset_dir": where, "tomogram_kind": kinds, **more}


def make_second_look(
    bundle: Path, work: Path, outside: Path | None, names: list[str], fit_names: list[str], weights: Path, size: Size,
    seed: int,
) -> Path:  # fmt: skip
    """Train and calibrate the second look, unless that is done already; return its file."""
    output = work / "second_look"
    made = output / "second_look.pt"
    if made.exists():
        return made
    overlay: dict[str, Any] = {
        "simulated_runs": runs_in([work / name for name in SECOND], list(KINDS)),
        "outside_runs": runs_in([outside], None, only=names) if outside else [],
        "training_runs": f"$@simulated_runs + {size.second_outside_copies} * @outside_runs",
        "simulated_calibration": runs_in([work / name for name in CALIBRATION], list(KINDS)),
        "outside_calibration": runs_in([outside], None, only=fit_names) if outside else [],
        "calibration_runs": "$@simulated_calibration + @outside_calibration",
    }
    (work / "second_overlay.json").write_text(json.dumps(overlay, indent=1))
    bundle_run(
        bundle, ["configs/train.json", "configs/second_look.json", str(work / "second_overlay.json")],
        "--checkpoint_path", weights, "--dataset_dir", work / "second", "--validation_runs", ["T000"],
        "--epochs", size.second_epochs, "--seed", seed, "--cache_dir", work / "cache", "--output_dir", output,
        *size.second_settings, task="second_look",
    )  # fmt: skip
    return made


def as_tables(scores: dict[str, dict[str, Rows]]) -> str:
    """Return the scores as Markdown: totals, species, what was asked for and what came, calibration."""
    return "\n\n".join([totals_table(scores), species_table(scores), points_table(scores)])


def totals_table(scores: dict[str, dict[str, Rows]]) -> str:
    """Return a row per dataset and way to pick."""
    rows = []
    for name, tables in scores.items():
        strict = [row for row in tables["first"] if row["mode"] == "one_to_one"]
        species, total = strict[:-1], strict[-1]
        picks, wrong, truths = (sum(int(row[key]) for row in species) for key in ("picks", "fp", "truths"))
        right = picks - wrong
        shares = right / max(picks, 1), right / max(truths, 1), float(total["f1"]), float(total["f4"])
        rows.append([name, "first network alone", *map(three, shares), f"{wrong} of {picks}"])
        for row in tables["points"]:
            if row["species"] == "total" and row["operating_point"] in ("F1", "F4"):
                numbers = [three(row[key]) for key in ("precision", "recall", "f1", "f4")]
                way = f"second look, {row['operating_point']}"
                rows.append(["", way, *numbers, f"{row['wrong']} of {row['picks']}"])
    return markdown_table(["data", "picks of", "precision", "recall", "mean F1", "F4", "wrong picks"], rows)


def species_table(scores: dict[str, dict[str, Rows]]) -> str:
    """Return a row per dataset and species: before, and after the second look."""
    rows = []
    for name, tables in scores.items():
        before = {row["species"]: row for row in tables["first"] if row["mode"] == "one_to_one"}
        reliability = {row["species"]: row for row in tables["reliability"]}
        all_found = {row["species"]: row for row in tables["points"] if row["operating_point"] == "F4"}
        for row in tables["points"]:
            species = row["species"]
            if row["operating_point"] != "F1" or species == "total":
                continue
            old, sure = before[species], reliability[species]
            rows.append(
                [
                    name, species, row["truths"], f"{old['fp']} of {old['picks']}", three(old["f1"]),
                    f"{row['wrong']} of {row['picks']}", *(three(row[key]) for key in ("precision", "recall", "f1")),
                    three(all_found[species]["f4"]),
                    three(sure["average_precision"]), three(sure["calibration_error"]), three(sure["sampling_error"]),
                ]
            )  # fmt: skip
    heads = ["data", "species", "truths", "wrong before", "F1 before", "wrong", "precision", "recall", "F1", "F4"]
    return markdown_table([*heads, "average precision", "calibration error", "of exact scores"], rows)


def points_table(scores: dict[str, dict[str, Rows]]) -> str:
    """Return what came where a precision of 90 % or a recall of 95 % was asked for, by dataset and species."""
    rows = []
    for name, tables in scores.items():
        for label, key, point in ((name, "precision", "precision 0.9"), ("", "recall", "recall 0.95")):
            own = [row for row in tables["points"] if row["operating_point"] == point]
            rows.append([label, point, *(f"{three(row[key])} ({row['picks']})" for row in own)])
    return markdown_table(["data", "asked for", *(row["species"] for row in own)], rows)


def install(weights: Path, second_look: Path, made: dict[str, Any]) -> None:
    """Put both networks, thresholds and scores into the bundle and the documentation."""
    configs, models = ROOT / "bundle" / "configs", ROOT / "bundle" / "models"
    given = f"--seed {made['seed']}{' --maps_dir MAPS' * made['maps']}{' --outside_dir DATA' * made['outside']}"
    given += f" --widths {made['widths']}" * (made["widths"] != COMPACT)
    card = read_model(weights)[1]
    for name, one in ((models / "model.pt", weights), (models / "second_look.pt", second_look)):
        own_content, own_card = read_model(one)
        save_model(name, own_content, {**own_card, "command": f'make weights OPTIONS="--install {given}"'})
        write_atomically_formatted(name.with_suffix(".json"), json.loads(name.with_suffix(".json").read_text()))
    species = json.loads((configs / "species.json").read_text())
    for name_, row in card["species"].items():
        species["species"][name_]["probability_threshold"] = row["probability_threshold"]
    write_atomically_formatted(configs / "species.json", species)
    metadata = json.loads((configs / "metadata.json").read_text())
    dataset, tables = next(iter(made["scores"].items()))
    found = {row["species"]: row for row in tables["points"] if row["operating_point"] == "F4"}
    default = next(row for row in tables["points"] if (row["species"], row["operating_point"]) == ("total", "F1"))
    metadata["eval_metrics"] = {
        "f4_weighted_mean": round(float(found.pop("total")["f4"]), 3),
        **{f"f4_{name}": round(float(row["f4"]), 3) for name, row in found.items()},
        "f1_mean": round(float(default["f1"]), 3),
        "precision": round(float(default["precision"]), 3),
    }
    write_atomically_formatted(configs / "metadata.json", metadata)
    page = ROOT / "docs" / "reference" / "results.md"
    before, _, rest = page.read_text().partition(RESULTS_START)
    after = rest.partition(RESULTS_END)[2]
    with write_atomically(page) as file:
        file.write(f"{before}{RESULTS_START}\n\n{as_tables(made['scores'])}\n\n{RESULTS_END}{after}")
    print(f"installed: {models / 'model.pt'}, second_look.pt, thresholds, scores on {dataset}")


def write_atomically_formatted(path: Path, content: Any) -> None:
    """Write JSON in the layout of the configs."""
    with write_atomically(path) as file:
        file.write(layout_of(json.dumps(content)))


if __name__ == "__main__":
    sys.exit(main())
