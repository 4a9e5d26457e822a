"""Make a picker for species of which only the structure is known; no annotated tomogram is needed.

    python tools/make_picker.py --structure p97.mrc --name p97 --mass_kda 540 [--output_dir OUT] [--maps_dir MAPS]

Tomograms are simulated in which the new species lie among the built-in ones; the shipped network learns the new species
beside those that it knows; a second look is trained and its probabilities are calibrated; and the picks are scored on
simulated tomograms of other seeds and several contrasts. OUT then holds weights, a species file and ``picker.md``: what
to expect, and the command that picks. Several structures, with as many names, make one picker. The same command goes on
where it was stopped; delete OUT/work to save space.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "bundle"), str(ROOT / "tools")]

from bundle_steps import bundle_run, evaluate, read_rows, three  # noqa: E402
from monai.bundle import ConfigParser  # noqa: E402
from scripts.atomic_files import lock_folder, require_disk_space, require_writable, write_atomically  # noqa: E402
from scripts.copick_tree import session_file  # noqa: E402
from scripts.errors import InputError, first_few, run_tool  # noqa: E402
from scripts.file_names import require_file_name  # noqa: E402
from scripts.markdown import markdown_table  # noqa: E402
from scripts.networks.model_card import sha256_of  # noqa: E402
from scripts.networks.weights import read_model, read_tensors, save_model  # noqa: E402
from scripts.records import as_json, first_difference  # noqa: E402
from scripts.simulation.dataset import (  # noqa: E402
    SIMULATION_SESSION_ID,
    SIMULATION_USER_ID,
    check_sources,
    digests_of_sources,
)
from scripts.simulation.settings import check_imaging  # noqa: E402
from scripts.species import SPECIES_FILE, check_targets, parse_species  # noqa: E402
from structures import Wanted, new_species, read_structure  # noqa: E402

BUNDLE = ROOT / "bundle"
SHIPPED = BUNDLE / "models" / "model.pt"
WRITTEN = ("model.pt", "model.json", "second_look.pt", "second_look.json", "species.json", "picker.md")
KINDS = ("wbp", "denoised")
MOST_SEED = 1_000_000_000  # others are added to it
COPIES = 2.0  # of every tomogram: a pyramid, and most of them scaled for the trainings
DISK_REMEDY = "free some, or set another --output_dir"
CONTRASTS = (1.0, 0.5, 0.3)
PER_SQUARE_MICROMETER, COMPANION_SHARE = 100, 0.3  # of a new species: about as many as of the others
PER_STRUCTURE = ("mass_kda", "map_voxel_size_angstrom", "min_value", "radius_angstrom", "target_radius_angstrom")
DRAWN = ("dose_per_square_angstrom", "defocus_angstrom", "contrast")  # from a range for every run
IMAGING = ("tilt_range_degree", "tilt_step_degree", *DRAWN)

logger = logging.getLogger("picker")


@dataclass(frozen=True)
class Simulated:
    """A simulated dataset.

    Attributes:
        letters: beginning of its runs' names.
        runs: their number.
        seed: added to that of the command line.
        crowding: range of the crowding; None for that of the overlay for cells.
        contrast: None for the range to train on.
    """

    letters: str
    runs: int
    seed: int
    crowding: tuple[float, float] | None = (1.0, 3.0)
    contrast: float | None = None


DATASETS = {  # by folder
    "training": Simulated("T", 20, 1000),
    "training_cells": Simulated("K", 8, 2000, None),
    "second": Simulated("U", 12, 3000),  # trains the second look
    "calibration": Simulated("C", 10, 4000),  # fits thresholds and probabilities
    **{
        f"contrast_{contrast}": Simulated(f"E{number}", 4, 5000 + 1000 * number, (2.0, 2.0), contrast)  # only scored
        for number, contrast in enumerate(CONTRASTS)
    },
}


@dataclass(frozen=True)
class Size:
    """How large the data and the trainings are."""

    runs: int | None = None  # of every dataset; None for its own number
    shape: tuple[int, int, int] = (128, 320, 320)
    epochs: int = 5
    training: tuple[str, ...] = ("--windows_per_epoch", "400", "--batch_size", "2")
    threshold_runs: int = 4
    thresholds: tuple[float, ...] = tuple(round(0.1 * step, 1) for step in range(1, 10))
    second_epochs: int = 12
    second_settings: tuple[str, ...] = ()
    contrasts: tuple[float, ...] = CONTRASTS
    kinds: tuple[str, ...] = KINDS  # that are scored


SMOKE = Size(
    runs=1, shape=(48, 96, 96), epochs=1, threshold_runs=1, thresholds=(0.5,), second_epochs=1, contrasts=(1.0,),
    kinds=("wbp",),
    training=("--windows_per_epoch", "4", "--batch_size", "2", "--window_size", "[32,48,48]"),
    second_settings=("--windows_per_epoch", "128", "--network_def#widths", "[8,8]", "--network_def#depths", "[1,1]"),
)  # fmt: skip


@dataclass(frozen=True)
class Step:
    """A step, with the minutes that it takes on two cores."""

    does: str
    minutes: float
    work: Callable[[], object]


def main() -> None:
    """Make the picker, or resume making it."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    options = read_arguments()
    sys.exit(run_tool(lambda: make_picker(options), resumable=True))


def read_arguments(words: list[str] | None = None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--structure", type=Path, nargs="+", required=True, help="density maps (MRC) or atomic models (PDB, mmCIF)")
    add("--name", nargs="+", required=True, help="a name for each")
    for key, text in zip(
        PER_STRUCTURE,
        (
            "mass of each particle; estimated if not given",
            "of each map; of its header if not given",
            "lower values of each map are solvent; a bound by its faces if not given",
            "radius of each particle; holds 95 %% of its mass if not given",
            "radius of each training target; half or a third of the particle's if not given",
        ),
        strict=True,
    ):
        add(f"--{key}", type=float, nargs="+", default=[], help=text)
    add("--without_neighbours", nargs="*", default=[], help="built-in neighbours to leave out: like your particle")
    add("--maps_dir", type=Path, help="density maps of the built-in species, named as in simulate_maps.json")
    add("--tilt_range_degree", type=float, nargs=2)
    add("--tilt_step_degree", type=float)
    for key in DRAWN:
        add(f"--{key}", type=float, nargs=2, metavar=("LOW", "HIGH"), default=[0.3, 1.0] if key == "contrast" else None)
    add("--output_dir", type=Path, help="output/picker_NAME if not given")
    add("--seed", type=int, default=0)
    add("--smoke", action="store_true", help="a small and useless one, to see that every step works")
    options = parser.parse_args(words)
    if options.output_dir is None:
        options.output_dir = ROOT / "output" / ("picker_" + "_".join(options.name))
    return options


def wanted_species(options: argparse.Namespace) -> list[Wanted]:
    """Return the new species that the command line describes.

    Raises:
        InputError: an option has not one value per structure, or its value is not possible.
    """
    count = len(options.structure)
    for key in ("name", *PER_STRUCTURE):
        values = getattr(options, key)
        if values and len(values) != count:
            raise InputError(f"--{key} needs one value per structure, {count}; got {len(values)}.")
        if key in PER_STRUCTURE and key != "min_value" and any(not value > 0 for value in values):
            raise InputError(f"--{key} must be positive; got {min(values):g}.")
    for key in ("tilt_range_degree", *DRAWN):
        low, high = getattr(options, key) or (0, 0)
        if low > high:
            raise InputError(f"--{key} needs LOW, then HIGH; got {low:g} {high:g}.")
    given = {key: getattr(options, key) or [None] * count for key in PER_STRUCTURE}
    return [
        Wanted(name, path.resolve(), **{key: values[number] for key, values in given.items()})
        for number, (name, path) in enumerate(zip(options.name, options.structure, strict=True))
    ]


def make_picker(options: argparse.Namespace) -> None:
    """Do every step that is not done yet.

    Raises:
        InputError: a structure or an option cannot be used, the folder holds another picker, or a step failed.
    """
    wanted = wanted_species(options)
    simulation = json.loads((BUNDLE / "configs" / "simulate.json").read_text())
    check_names(options.name, options.without_neighbours, simulation)
    if not 0 <= options.seed <= MOST_SEED:
        raise InputError(f"--seed must be from 0 to {MOST_SEED}; got {options.seed}.")
    output, work = options.output_dir.resolve(), options.output_dir.resolve() / "work"
    refuse_foreign_files(output, work / "picker.json")
    require_writable(work)
    with open(output / ".picker.lock", "a") as lock:
        lock_folder(lock, "make_picker", "set another --output_dir")
        record, begun = record_of_options(options, wanted), work / "picker.json"
        require_same(begun, record)
        describe(options, wanted, simulation, work)
        if not begun.exists():
            require_maps(options.maps_dir)
            require_disk_space(work, least_bytes(SMOKE if options.smoke else Size()), DISK_REMEDY)
        write_json(begun, record)
        do_steps(steps(options, [one.name for one in wanted], work, output))
    logger.info("%s says what to expect, and how to pick", output / "picker.md")


def check_names(names: list[str], left_out: Iterable[str], simulation: Mapping[str, Any]) -> None:
    """Check the new species' names, and those of the neighbours to leave out.

    Raises:
        InputError: a name is given twice, is a built-in species', or cannot be one; or there is no such neighbour.
    """
    folded = [name.casefold() for name in names]
    for name in names:
        require_file_name(name, "species", "--name")
        session_file(SIMULATION_USER_ID, SIMULATION_SESSION_ID, name)
        if folded.count(name.casefold()) > 1:
            raise InputError(f"--name '{name}' is given twice: choose another name.")
        if name.casefold() in simulation["specimens"]:
            raise InputError(f"--name '{name}' is a species that the simulation has already: choose another name.")
    unknown = sorted(set(left_out) - set(simulation["distractors"]))
    if unknown:
        known = ", ".join(simulation["distractors"])
        raise InputError(f"--without_neighbours {unknown[0]}: there is no such neighbour; they are {known}.")


def record_of_options(options: argparse.Namespace, wanted: Iterable[Wanted]) -> dict[str, Any]:
    """Return what a picker depends on, to be compared when it is resumed."""
    settings = {key: getattr(options, key) for key in ("without_neighbours", *IMAGING, "seed", "smoke")}
    maps_dir = options.maps_dir and str(options.maps_dir.resolve())
    species = [
        {**asdict(one), "structure": sha256_of(one.structure) if one.structure.is_file() else None} for one in wanted
    ]
    maps = {"maps_dir": maps_dir, "maps": digests_of_maps(options.maps_dir)}
    return dict(as_json({**settings, **maps, "species": species, "shipped": sha256_of(SHIPPED)}))


def digests_of_maps(maps_dir: Path | None) -> dict[str, str]:
    """Return a SHA-256 of every map of the built-in species in a folder, by its path; of those that can be read."""
    return {} if maps_dir is None else digests_of_sources(built_in_with(maps_dir))


def require_maps(maps_dir: Path | None) -> None:
    """Check that a folder holds usable maps of the built-in species, before hours of work.

    Raises:
        InputError: one is missing or cannot be used.
    """
    if maps_dir is not None:
        check_sources(built_in_with(maps_dir))


def built_in_with(maps_dir: Path) -> dict[str, Any]:
    """Return the settings of a simulation of the built-in species with the maps in a folder."""
    parser = ConfigParser()
    parser.read_config([str(BUNDLE / "configs" / name) for name in ("simulate.json", "simulate_maps.json")])
    parser.update({"bundle_root": str(BUNDLE), "maps_dir": str(maps_dir.resolve())})
    keys = ("specimens", "distractors", "voxel_size_angstrom")
    return {key: parser.get_parsed_content(key) for key in keys}


def refuse_foreign_files(output: Path, begun: Path) -> None:
    """Check that a folder in which no picker was begun holds none of the files that this one will write.

    Raises:
        InputError: it holds one.
    """
    found = [] if begun.exists() else [name for name in WRITTEN if (output / name).exists()]
    if found:
        raise InputError(f"{output} holds {first_few(found)} of another picker or model: set another --output_dir.")


def require_same(begun: Path, record: Mapping[str, Any]) -> None:
    """Check that a picker that was begun depends on the same things.

    Raises:
        InputError: something is different.
    """
    older = {"maps": record["maps"]}  # of versions that did not record them
    before = {**older, **json.loads(begun.read_text())} if begun.exists() else record
    difference = first_difference(before, record)
    if difference:
        raise InputError(f"{begun.parents[1]} was begun with other options: {difference}. Set another --output_dir.")


def least_bytes(size: Size) -> int:
    """Return about how much the simulated tomograms take on the disk, in float32, with what is prepared of them."""
    runs = sum(len(run_names(name, size)) for name in DATASETS)
    return int(COPIES * 4 * runs * len(KINDS) * math.prod(size.shape))


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file."""
    with write_atomically(path) as file:
        json.dump(content, file, indent=4)


def describe(options: argparse.Namespace, wanted: list[Wanted], simulation: Mapping[str, Any], work: Path) -> None:
    """Write the species file and the overlay of the simulation.

    Raises:
        InputError: a structure or a setting of the imaging cannot be used.
    """
    content = json.loads(SPECIES_FILE.read_text())
    known = parse_species(content, SPECIES_FILE)
    weight = sum(one.weight for one in known.picked) / len(wanted)  # half of the windows are around new species
    unwanted = {one.name.casefold() for one in wanted} | set(options.without_neighbours)
    left_out = [name for name in simulation["distractors"] if name in unwanted]
    logger.info("built-in neighbours that are left out: %s", ", ".join(left_out) or "none")
    overlay: dict[str, Any] = {
        **{f"distractors#{name}#per_square_micrometer": 0 for name in left_out},
        **{f"imaging#{key}": value for key, value in imaging_of(options, simulation).items()},
    }
    for label, one in enumerate(wanted, len(known.picked) + 1):
        source, specimen = read_structure(one, known.voxel_size_angstrom, work / "structures")
        row = asdict(new_species(one, specimen, label, weight))
        content["species"][row.pop("name")] = row
        overlay[f"specimens#{one.name}"] = {
            "sources": [source],
            "per_square_micrometer": PER_SQUARE_MICROMETER,
            "companion_share": COMPANION_SHARE,
            "companion_distance_angstrom": [round(part * specimen.radius_angstrom) for part in (1.75, 2.3)],
        }
        logger.info(
            "%s: %.0f kDa, radius %g Å, target radius %g Å", one.name, specimen.mass_kda, row["radius_angstrom"],
            row["target_radius_angstrom"],
        )  # fmt: skip
    check_targets("--name", parse_species(content, "--name"))
    write_json(work / "species.json", content)
    write_json(work / "simulation.json", overlay)


def imaging_of(options: argparse.Namespace, simulation: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of the imaging that the command line gives.

    Raises:
        InputError: one of them is not possible.
    """
    given = {key: getattr(options, key) for key in IMAGING if getattr(options, key) is not None}
    settings = {key: as_range(*value) if key in DRAWN else value for key, value in given.items()}
    check_imaging({**simulation["imaging"], **settings})
    return settings


def steps(options: argparse.Namespace, names: list[str], work: Path, output: Path) -> list[Step]:
    """Return everything that is to be done, in order."""
    size = SMOKE if options.smoke else Size()
    weights, second_look = work / "trained" / "model_last.pt", work / "second_look" / "second_look.pt"
    scored = [(contrast, kind, f"scored_{contrast}_{kind}") for contrast in size.contrasts for kind in size.kinds]
    datasets = {name: wanted for name, wanted in DATASETS.items() if wanted.contrast in (None, *size.contrasts)}

    def fit_thresholds() -> None:
        runs = run_names("calibration", size)[: size.threshold_runs]
        evaluate(
            BUNDLE, work / "fitted", [work / "calibration"], "wbp", runs, weights, "--record_thresholds", True,
            "--sweep_thresholds", list(size.thresholds),
        )  # fmt: skip

    def score(contrast: float, kind: str, folder: str) -> None:
        where = [work / f"contrast_{contrast}"]
        evaluate(BUNDLE, work / folder, where, kind, None, weights, "--second_look_path", second_look)

    def finish() -> None:
        for path in (weights, second_look):
            save_model(output / ("model.pt" if path == weights else path.name), *read_model(path))
        write_json(output / "species.json", json.loads((work / "species.json").read_text()))
        found = {(contrast, kind): read_rows(work / name / "operating_points.csv") for contrast, kind, name in scored}
        with write_atomically(output / "picker.md") as file:
            file.write(page(output, names, found))

    return [
        *(
            Step(f"simulate {name}", 0.12 * wanted.runs, partial(simulate, options, size, work, name))
            for name, wanted in datasets.items()
        ),
        Step("train the network", 23, partial(train, work, size, options.seed)),
        Step("fit its thresholds", 2, fit_thresholds),
        Step("train and calibrate the second look", 11, partial(train_second_look, work, size, options.seed)),
        *(Step(f"score at contrast {one[0]}, {one[1]}", 0.7, partial(score, *one)) for one in scored),
        Step("write the picker", 0.1, finish),
    ]


def do_steps(todo: list[Step]) -> None:
    """Do the steps, which skip what is done, and say how long the rest will take.

    Raises:
        InputError: a step failed.
    """
    spent, planned = 0.0, 0.0
    for number, step in enumerate(todo, 1):
        pace = spent / planned if planned >= 1 else 1.0  # this machine's minutes for a planned one
        left = pace * sum(one.minutes for one in todo[number - 1 :])
        logger.info("[%d of %d] %s; about %.0f minutes left", number, len(todo), step.does, left)
        start = time.perf_counter()
        try:
            step.work()
        except subprocess.CalledProcessError as error:
            raise InputError(f"could not {step.does}, see above; the same command goes on from here.") from error
        minutes = (time.perf_counter() - start) / 60
        if minutes > 0.1 * step.minutes:  # else it was done before
            spent, planned = spent + minutes, planned + step.minutes


def run_names(name: str, size: Size) -> list[str]:
    """Return the names of a dataset's runs."""
    wanted = DATASETS[name]
    return [f"{wanted.letters}{number:02d}" for number in range(size.runs or wanted.runs)]


def simulate(options: argparse.Namespace, size: Size, work: Path, name: str) -> None:
    """Write a simulated dataset, or what is missing of it."""
    wanted = DATASETS[name]
    names = ["simulate", *(["simulate_maps"] if options.maps_dir else [])]
    names += ["simulate_cell"] if wanted.crowding is None else []
    settings = [] if wanted.contrast is None else ["--imaging#contrast", wanted.contrast]
    settings += ["--maps_dir", options.maps_dir.resolve()] if options.maps_dir else []
    settings += [] if wanted.crowding is None else ["--scene#crowding", json.dumps(as_range(*wanted.crowding))]
    bundle_run(
        BUNDLE, [*(f"configs/{one}.json" for one in names), str(work / "simulation.json")],
        "--dataset_dir", work / name, "--species_path", work / "species.json", "--runs", len(run_names(name, size)),
        "--run_name", wanted.letters + "{number:02d}", "--seed", options.seed + wanted.seed,
        "--shape", list(size.shape), *settings,
    )  # fmt: skip


def as_range(low: float, high: float) -> float | dict[str, float]:
    """Return a setting of the simulation that is drawn from a range for every run."""
    return {"from": low, "to": high} if low < high else low


def train(work: Path, size: Size, seed: int) -> None:
    """Teach the shipped network the new species, on both kinds of every run."""
    output = work / "trained"
    if is_trained(output, size.epochs):
        return
    bundle_run(
        BUNDLE, ["configs/train.json"],
        "--dataset_dir", [str(work / name) for name in ("training", "training_cells")], "--tomogram_kind", list(KINDS),
        "--validation_runs", run_names("training", size)[:1], "--val_interval", 0,
        "--species_path", work / "species.json", "--checkpoint_path", SHIPPED, "--start_from_other_species", True,
        "--rate_of_old_layers", 0.3, "--epochs", size.epochs, *size.training, "--seed", seed, "--output_dir", output,
        task="training",
    )  # fmt: skip


def train_second_look(work: Path, size: Size, seed: int) -> None:
    """Train and calibrate the second look, unless it is there."""
    output = work / "second_look"
    if (output / "second_look.pt").exists():
        return
    bundle_run(
        BUNDLE, ["configs/train.json", "configs/second_look.json"],
        "--dataset_dir", [str(work / name) for name in ("second", "calibration")], "--tomogram_kind", list(KINDS),
        "--validation_runs", run_names("calibration", size), "--checkpoint_path", work / "trained" / "model_last.pt",
        "--epochs", size.second_epochs, "--seed", seed, "--output_dir", output, *size.second_settings,
        task="second_look",
    )  # fmt: skip


def is_trained(folder: Path, epochs: int) -> bool:
    """Return whether a training has reached its last epoch."""
    state = folder / "training.pt"
    return state.exists() and int(read_tensors(state)["epoch"]) >= epochs


PAGE = """# A picker for {names}

Made by `tools/make_picker.py` from structures and simulated tomograms alone. From the folder `bundle`:

```bash
../.venv/bin/python -m monai.bundle run --config_file configs/inference.json \\
    --checkpoint_path {weights} --dataset_dir /path/to/tomograms --output_dir /path/to/picks
```

Tomograms of another voxel size: add `--resample True`; dark particles: `--invert True`. The species that the shipped
weights know are picked, too: they keep the new ones apart from what resembles them. Leave out their files.

## What to expect

Scored on simulated tomograms of other seeds, each species with the picks that give the best F1, and F4 with those that
are asked for by `--operating_point f4`. A contrast of 1 is what the simulation's physics gives; real tomograms, thick
or lossy, have less. `wbp` are raw back-projections, `denoised` have a third of the noise.

{table}

The simulation has no misaligned tilts, no bent particles and no preferred orientations: expect less on real tomograms,
and look at the pages of the first ones before you trust the picks of all.
"""


def page(output: Path, names: list[str], found: Mapping[tuple[float, str], list[dict[str, str]]]) -> str:
    """Return the page that says how to pick, and what to expect."""
    rows = []
    for (contrast, kind), points in found.items():
        for name in names:
            best, most = (
                next(row for row in points if (row["species"], row["operating_point"]) == (name, point))
                for point in ("F1", "F4")
            )
            numbers = (three(best[key]) for key in ("precision", "recall", "f1"))
            wrong = f"{best['wrong']} of {best['picks']}"
            rows.append([contrast, kind, name, best["truths"], *numbers, wrong, three(most["f4"])])
    heads = ["contrast", "kind", "species", "particles", "precision", "recall", "F1", "wrong picks", "F4"]
    return PAGE.format(names=", ".join(names), weights=output / "model.pt", table=markdown_table(heads, rows))


if __name__ == "__main__":
    main()
