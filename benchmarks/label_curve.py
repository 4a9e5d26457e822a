"""Train on few labels of species that a network has never learned: how many does it take, and does a start help?

First make the start, weights of the other species alone; ``--write_species`` writes their species file.

    python benchmarks/label_curve.py --species ribosome,thyroglobulin --write_species OTHERS.json
    cd bundle && python -m monai.bundle run training --config_file configs/train.json --species_path OTHERS.json ...

    python benchmarks/label_curve.py --species ribosome,thyroglobulin --start_path OTHERS/model.pt --dataset_dir A \
        --fit_runs a --test_runs b,c --labels 5,10,30,100 --windows 600 --seeds 0,1 --output_dir OUT

Each training sees so many labels of each species, drawn by chance from the runs to train on, as points alone: the rest
of the truth is unknown to it, and so is the background, of which ``configs/points_alone.json`` learns with the mean
number of particles in a tomogram. Runs without a label are left out. ``all`` has the complete truth, and the usual
loss. All make equal steps, once from the start's weights and once from scratch. Thresholds are fitted on the fit runs,
which are annotated completely like the test runs; F1, precision and the wrong picks are those at the best F1, F4 at the
best F4. Each result is ``OUT/<start>_<labels>_seed<seed>.json``; a benchmark that is started again continues with the
missing ones. ``OUT/label_curve.md``, ``.csv`` and ``.png`` are the table and the curve. ``--smoke`` is a trial of a few
windows.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

BENCHMARKS = Path(__file__).resolve().parent
sys.path[:0] = [str(BENCHMARKS.parent / "bundle"), str(BENCHMARKS)]

import numpy as np  # noqa: E402
from conditions import is_there, refuse_mixed, refuse_seen, whole_numbers  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from recipe.changes import BASE  # noqa: E402
from recipe.training import Plan, ScoredSet, run_one  # noqa: E402
from scripts.atomic_files import write_atomically  # noqa: E402
from scripts.datasets.truth import TRUTH_TABLE, list_labelled_runs  # noqa: E402
from scripts.errors import InputError, run_tool  # noqa: E402
from scripts.pages.figures import save_figure  # noqa: E402
from scripts.picks import Pick, read_csv, write_csv  # noqa: E402
from scripts.species import SPECIES_FILE  # noqa: E402
from tables import page_of, with_spread, write_tables_of  # noqa: E402

ALL = "all"
STARTS = ("started", "scratch")
SHARED = ("scored_dirs", "fit_runs", "test_runs", "windows", "configs_sha256", "device", "torch")  # of all results
TINY = {"window_size": [16, 16, 16], "device": "$torch.device('cpu')"}


def without(species: Sequence[str]) -> dict[str, Any]:
    """Return the bundle's species file with some species known, but not learned.

    Raises:
        InputError: a species is not in the file, or none is left.
    """
    content = json.loads(SPECIES_FILE.read_text())
    every = content["species"]
    learned = [name for name, one in every.items() if one["label"] > 0]
    unknown = sorted(set(species) - set(learned))
    left = [name for name in learned if name not in species]
    if unknown or not left:
        raise InputError(f"--species {','.join(species)}: name some of {', '.join(learned)}, but not all.")
    for name, one in every.items():
        one["label"] = 1 + left.index(name) if name in left else 0
        if name not in left:
            one["weight"] = 0.0  # it does not count in F4
    return dict(content)


def draw_labels(truth: Sequence[Pick], species: Sequence[str], count: int | None, seed: int) -> list[Pick]:
    """Return some of the truth: so many particles of each species, by chance; None for all of them.

    A seed's smaller draws are parts of its larger ones.

    Raises:
        InputError: there are fewer.
    """
    chosen: list[Pick] = []
    for name in species:
        own = [one for one in truth if one.species == name]
        if count is not None and count > len(own):
            raise InputError(f"the runs to train on hold {len(own)} {name}, fewer than {count} labels.")
        order = np.random.default_rng(seed).permutation(len(own))
        chosen += [own[place] for place in order[:count]]
    return chosen


def write_labels(folder: Path, labels: Sequence[Pick], tomograms: Mapping[str, str]) -> None:
    """Make a dataset folder: a table of labels, and links to the tomograms of their runs."""
    for run in {one.run for one in labels}:
        link = folder / run / Path(tomograms[run]).name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(Path(tomograms[run]).resolve())
    write_csv(folder / TRUTH_TABLE, labels)


def settings_of_labels(labels: str, start: str, options: argparse.Namespace, expected: Mapping[str, float]) -> Any:
    """Return the settings of `train.json` by which a training differs from the others."""
    settings: dict[str, Any] = {}
    if start == STARTS[0]:
        settings |= {"checkpoint_path": str(options.start_path), "start_from_other_species": True}
    if labels == ALL:
        return settings
    overlay = json.loads((BENCHMARKS.parent / "bundle" / "configs" / "points_alone.json").read_text())
    overlay["loss"]["positive_shares"]["expected_particles"] = dict(expected)
    points = {"annotated": {"*": {"complete": False}}}
    return settings | points | {key: overlay[key] for key in ("loss", "loss_where_known")}


def make_curve(options: argparse.Namespace) -> None:
    """Make the missing results, and the table and the figure after each.

    Raises:
        InputError: a run, a setting or a file is wrong.
    """
    fitted, tested = (tuple(names.split(",")) for names in (options.fit_runs, options.test_runs))
    species = options.species.split(",")
    rest = without(species)
    learned = without([name for name, one in rest["species"].items() if one["label"] > 0])
    options.output_dir.mkdir(parents=True, exist_ok=True)
    species_path = options.output_dir / "species.json"
    with write_atomically(species_path) as file:
        file.write(json.dumps(learned, indent=4) + "\n")
    tomograms = {
        row["run"]: row["image"] for row in list_labelled_runs(options.dataset_dir, without=[*fitted, *tested])
    }
    table = read_csv(Path(options.dataset_dir) / TRUTH_TABLE)
    truth = [one for one in table if one.run in tomograms and one.weight == 1]
    expected = {name: sum(one.species == name for one in truth) / len(tomograms) for name in species}
    counts = [*(int(one) for one in options.labels.split(",")), None]
    scored = {"own": ScoredSet((options.dataset_dir,), None, fitted, tested)}
    refuse_seen(options.start_path, fitted, tested)
    for seed, count, start in product(options.seeds, counts, STARTS):
        labels = ALL if count is None else str(count)
        path = options.output_dir / f"{start}_{labels}_seed{seed}.json"
        folder = options.output_dir / "labels" / f"{labels}_seed{seed}"
        write_labels(folder, draw_labels(truth, species, count, seed), tomograms)
        settings = {"species_path": str(species_path), "cache_dir": None, **options.settings}
        settings |= (TINY if options.smoke else {}) | settings_of_labels(labels, start, options, expected)
        windows = 4 if options.smoke else options.windows
        plan = Plan((str(folder),), (), scored, windows, options.output_dir, settings)
        plan.check()
        shared = {key: plan.conditions()[key] for key in SHARED}
        refuse_mixed((one for start in STARTS for one in options.output_dir.glob(f"{start}_*_seed*.json")), shared)
        if is_there(path, plan.conditions()):
            print(f"{path} is there", flush=True)
            continue
        result = {"labels": labels, "start": start, **run_one(plan, BASE, seed)}
        with write_atomically(path) as file:
            file.write(json.dumps(result, indent=1) + "\n")
        found = result["sets"]["own"]
        print(f"{path.stem}: F1 {found['f1']:.3f}, {found['wrong']} wrong picks, F4 {found['f4']:.3f}", flush=True)
        write_tables(options.output_dir)


def write_tables(folder: Path) -> None:
    """Write the table and the figure of the results in a folder."""
    results = [json.loads(path.read_text()) for start in STARTS for path in folder.glob(f"{start}_*_seed*.json")]
    names = sorted({one["labels"] for one in results}, key=lambda labels: (labels == ALL, labels.zfill(9)))
    rows = []
    for labels, start in product(names, STARTS):
        own = [one["sets"]["own"] for one in results if (one["labels"], one["start"]) == (labels, start)]
        if own:
            f1 = [one["f1"] for one in own]
            row: dict[str, Any] = {"labels": labels, "start": start, "seeds": len(own), "f1": fmean(f1)}
            row["f1_half_range"] = (max(f1) - min(f1)) / 2
            means = ("average_precision", "precision", "wrong", "picks", "f4")
            rows.append(row | {key: fmean(one[key] for one in own) for key in means})
    head = [
        "labels of each species",
        "start",
        "seeds",
        "mean F1",
        "average precision",
        "precision",
        "wrong picks",
        "F4",
    ]
    lines = [
        [
            row["labels"],
            row["start"],
            str(row["seeds"]),
            with_spread(row, "f1", ".3f"),
            f"{row['average_precision']:.3f}",
            f"{row['precision']:.3f}",
            f"{row['wrong']:.0f} of {row['picks']:.0f}",
            f"{row['f4']:.3f}",
        ]
        for row in rows
    ]
    steps = results[0]["steps"]
    page = page_of(f"{steps} steps each; means of the seeds ± half their range.\n", head, lines)
    write_tables_of(rows, page, folder / "label_curve")
    save_figure(curve_figure(rows, names), folder / "label_curve.png")


def curve_figure(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Figure:
    """Return a figure of F1 over the number of labels, a line per start."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for start in STARTS:
        own = [row for row in rows if row["start"] == start]
        places = [names.index(row["labels"]) for row in own]
        spread = [row["f1_half_range"] for row in own]
        axes.errorbar(places, [row["f1"] for row in own], yerr=spread, marker="o", capsize=3, label=start)
    axes.set_xticks(range(len(names)), names)
    axes.set_ylim(0, 1)
    axes.set_xlabel("labels of each species")
    axes.set_ylabel("mean F1 (bars: half the range of the seeds)")
    axes.legend()
    return figure


def run(options: argparse.Namespace) -> None:
    """Write the species file of the start, or make the curve.

    Raises:
        InputError: an option is missing or wrong.
    """
    if options.write_species:
        with write_atomically(options.write_species) as file:
            file.write(json.dumps(without(options.species.split(",")), indent=4) + "\n")
        return
    needed = ("start_path", "dataset_dir", "fit_runs", "test_runs", "output_dir")
    missing = [f"--{name}" for name in needed if getattr(options, name) is None]
    if missing:
        raise InputError(f"{', '.join(missing)} missing.")
    make_curve(options)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(prog="python benchmarks/label_curve.py")
    parser.add_argument("--species", required=True, help="those that are learned, with commas")
    parser.add_argument("--write_species", type=Path, help="only write the species file of the start, of all others")
    parser.add_argument("--start_path", type=Path, help="weights of all other species")
    parser.add_argument("--dataset_dir", help="a folder of completely annotated tomograms with truth.csv")
    parser.add_argument("--fit_runs", help="names of runs to fit thresholds on, with commas")
    parser.add_argument("--test_runs", help="names of runs to score")
    parser.add_argument("--labels", default="5,10,30,100", help="of each species (default: %(default)s, and all)")
    parser.add_argument("--windows", type=int, default=600, help="that each training sees")
    parser.add_argument("--seeds", type=whole_numbers, default="0", help="whole numbers with commas")
    parser.add_argument("--settings", type=json.loads, default={}, help="other settings of train.json, as JSON")
    parser.add_argument("--output_dir", type=Path)
    parser.add_argument("--smoke", action="store_true", help="small windows, four of them")
    options = parser.parse_args(arguments)
    return run_tool(lambda: run(options))


if __name__ == "__main__":
    sys.exit(main())
