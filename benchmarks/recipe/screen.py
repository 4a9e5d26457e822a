"""Screen changes of the training recipe: one at a time, for an equal number of windows, scored in the same way.

    python benchmarks/recipe/screen.py --dataset_dir A,B --tomogram_kind wbp --fit_runs a,b --test_runs c,d \
        --windows 5000 --seeds 0,1,2 --changes all --output_dir OUT

Everything but the change comes from ``configs/train.json``, with the settings of ``--settings`` for all runs, such as
``'{"batch_size": 16, "learning_rate": 0.002, "num_workers": 5}'`` on a GPU; `changes.CHANGES` lists
the changes. A run trains once through the cosine of the learning rate, of which the first tenth warms up. It trains on
all annotated runs of the folders but those that are scored, in every kind that is named; the first kind is scored. A
seed gives every change the same windows.

The averaged network's peaks are compared with the truth of the test runs: average precision needs no threshold; F1, the
wrong picks and F4 take the thresholds that are best on the fit runs. ``--outside_dir`` adds a second set of tomograms.
``--scored_after 2000,4000,8000`` also scores every training while it is running, for ``learning_curve.py``.

A run that ends writes ``OUT/<change>_seed<seed>.json``, ``recipe.md``, ``recipe.csv`` and ``recipe.png``; a screening
that is started again continues with the missing runs. ``--share 0/3`` takes every third run, so that three processes
share a GPU; each needs the memory of four times the batch. ``--only_table`` makes the tables of the existing results.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

BENCHMARKS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(BENCHMARKS.parent / "bundle"), str(BENCHMARKS)]

import torch  # noqa: E402
from conditions import whole_numbers  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from networks.definitions import settings_of  # noqa: E402
from scripts.atomic_files import write_atomically  # noqa: E402
from scripts.errors import InputError, find_input_error, reason_of  # noqa: E402
from scripts.pages.figures import save_figure  # noqa: E402
from tables import page_of, with_spread, write_tables_of  # noqa: E402

from recipe.changes import BASE, CHANGES  # noqa: E402
from recipe.training import Plan, ScoredSet, run_one  # noqa: E402

MEASURES = ("average_precision", "f1", "wrong", "f4")  # of every set
OWN, OUTSIDE = "own", "outside"  # names of the sets
Row = dict[str, Any]


def run_all(plan: Plan, names: Sequence[str], seeds: Sequence[int], share: tuple[int, int]) -> int:
    """Make the missing results of a share of the runs, and the tables after each; return how many runs failed."""
    plan.check()
    check_results(read_results(plan.output_dir), json.loads(json.dumps(plan.conditions())))
    first, step = share
    failed = 0
    for seed, name in list(product(seeds, names))[first::step]:
        path = plan.output_dir / f"{name}_seed{seed}.json"
        if path.exists():
            print(f"{name}, seed {seed}: {path} is there", flush=True)
            continue
        try:
            result = run_one(plan, name, seed)
        except (InputError, RuntimeError) as error:  # a change that diverges or needs too much memory stops no other
            print(f"error: {name}, seed {seed}: {find_input_error(error) or reason_of(error)}", file=sys.stderr)
            failed += 1
        else:
            with write_atomically(path) as file:
                file.write(json.dumps(result, indent=1) + "\n")
            found = ", ".join(f"{key} AP {one['average_precision']:.4f}" for key, one in result["sets"].items())
            took = f"{result['training_seconds']:.0f} s + {result['scoring_seconds']:.0f} s"
            print(f"{name}, seed {seed}: {found}; {result['steps']} steps, {took}", flush=True)
            write_tables(plan.output_dir)
        gc.collect()  # a trainer and its handlers refer to each other, and keep the accelerator's memory
        torch.cuda.empty_cache()
    return failed


def read_results(folder: Path) -> list[Row]:
    """Return the results in a folder, in the order of `changes.CHANGES` and of their seeds."""
    found = [json.loads(path.read_text()) for name in CHANGES for path in folder.glob(f"{name}_seed*.json")]
    return sorted(found, key=lambda result: (list(CHANGES).index(result["change"]), result["seed"]))


def check_results(results: Sequence[Row], wanted: Mapping[str, Any]) -> None:
    """Check that results can be compared in one table.

    Raises:
        InputError: a result was made under other conditions, or with another definition of its change.
    """
    for result in results:
        definition = json.loads(json.dumps(CHANGES[result["change"]].definition()))
        pairs = [(key, result["conditions"].get(key), value) for key, value in wanted.items()]
        for key, before, now in [*pairs, ("definition", result["definition"], definition)]:
            if before != now:
                raise InputError(
                    f"the result of {result['change']}, seed {result['seed']}, was made with {key} {before}, now it is "
                    f"{now}: set another output_dir, or delete that result."
                )


def summarise(results: Sequence[Row]) -> list[Row]:
    """Return one row per change, the best average precision first: means over its seeds, and half the ranges.

    Differences are those to the base of the same seed.
    """
    base = {result["seed"]: result["average_precision"] for result in results if result["change"] == BASE}
    rows = []
    for name in dict.fromkeys(result["change"] for result in results):
        own = [result for result in results if result["change"] == name]
        row: Row = {"change": name, "seeds": len(own)}
        row |= spread("average_precision", [result["average_precision"] for result in own])
        pairs = [result["average_precision"] - base[result["seed"]] for result in own if result["seed"] in base]
        row |= spread("difference", pairs)
        for key in own[0]["sets"]:
            for measure in MEASURES:
                row |= spread(f"{key}_{measure}", [result["sets"][key][measure] for result in own])
        for measure in ("steps", "training_seconds", "windows_per_second"):
            row[measure] = fmean(result[measure] or 0.0 for result in own)
        rows.append(row)
    return sorted(rows, key=lambda row: -row["average_precision"])


def spread(name: str, values: Sequence[float]) -> Row:
    """Return the mean of values and half their range; None of no values."""
    return {
        name: fmean(values) if values else None,
        f"{name}_half_range": (max(values) - min(values)) / 2 if values else None,
    }


def write_tables(folder: Path) -> None:
    """Write ``recipe.md``, ``recipe.csv`` and ``recipe.png`` of the results in a folder.

    Raises:
        InputError: there are none, or they were made under different conditions.
    """
    results = read_results(folder)
    if not results:
        raise InputError(f"{folder} holds no result of {', '.join(CHANGES)}.")
    check_results(results, results[0]["conditions"])
    rows = summarise(results)
    write_tables_of(rows, format_page(rows, results[0]["conditions"]), folder / "recipe")
    save_figure(difference_figure(rows), folder / "recipe.png")


def format_page(rows: Sequence[Row], conditions: Mapping[str, Any]) -> str:
    """Return the table as Markdown, with the conditions above it."""
    sets = list(conditions["test_runs"])
    text = (
        f"Each change trained on {conditions['windows']} windows on {conditions['device']}, with "
        f"{json.dumps(conditions['settings'])}. "
        + " ".join(
            f"{key.capitalize()}: thresholds fitted on {', '.join(conditions['fit_runs'][key])}, scored on "
            f"{', '.join(conditions['test_runs'][key])}."
            for key in sets
        )
        + " Mean over the seeds ± half their range; AP is the mean average precision of the species, and of the sets; "
        "the difference is to the base of the same seed.\n"
    )
    head = ["change", "seeds", "AP", "difference"]
    head += [f"{key}: {name}" for key in sets for name in ("AP", "F1", "wrong picks", "F4")]
    head += ["steps", "s", "windows per s", "what"]
    lines = []
    for row in rows:
        cells = [
            row["change"],
            str(row["seeds"]),
            with_spread(row, "average_precision"),
            with_spread(row, "difference", "+.4f"),
        ]
        for key in sets:
            cells += [with_spread(row, f"{key}_{name}", ".0f" if name == "wrong" else ".4f") for name in MEASURES]
        cells += [f"{row[key]:.0f}" for key in ("steps", "training_seconds", "windows_per_second")]
        lines.append([*cells, CHANGES[row["change"]].sentence])
    return page_of(text, head, lines)


def difference_figure(rows: Sequence[Row]) -> Figure:
    """Return a figure of the differences to the base, the best change at the top."""
    shown = [row for row in reversed(rows) if row["difference"] is not None]
    figure = Figure(figsize=(8, 1.5 + 0.25 * len(shown)), layout="constrained")
    axes = figure.subplots()
    axes.errorbar(
        [row["difference"] for row in shown],
        range(len(shown)),
        xerr=[row["difference_half_range"] for row in shown],
        fmt="o",
        capsize=3,
    )
    axes.set_yticks(range(len(shown)), [row["change"] for row in shown])
    axes.axvline(0, color="grey", linewidth=1)
    axes.set_xlabel("mean average precision, difference to the base (bars: half the range of the seeds)")
    return figure


def read_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description="Screen changes of the training recipe, one at a time.")
    parser.add_argument("--dataset_dir", type=split, help="folders with tomograms and truth, with commas between")
    parser.add_argument("--tomogram_kind", type=split, default=(), help="kinds to train on; the first is scored")
    parser.add_argument("--fit_runs", type=split, help="runs that thresholds are fitted on, with commas between")
    parser.add_argument("--test_runs", type=split, help="runs that are scored")
    parser.add_argument("--outside_dir", help="a folder with other tomograms to score")
    parser.add_argument("--outside_fit", type=split, default=(), help="its runs that thresholds are fitted on")
    parser.add_argument("--outside_test", type=split, default=(), help="its runs that are scored")
    parser.add_argument("--windows", type=int, help="how many windows each run trains on")
    parser.add_argument(
        "--scored_after",
        type=whole_numbers,
        default=(),
        help="windows after which it is scored, too, with commas between",
    )
    parser.add_argument(
        "--seeds", type=whole_numbers, default="0", help="whole numbers with commas between (default: %(default)s)"
    )
    parser.add_argument("--changes", default="all", help=f"all, or names out of {', '.join(CHANGES)}")
    parser.add_argument("--share", default="0/1", help="i/n: every n-th run from the i-th on (default: %(default)s)")
    parser.add_argument("--settings", default="{}", help="JSON: keys of train.json with other values, for all runs")
    parser.add_argument("--output_dir", type=Path, required=True, help="where the results stand")
    parser.add_argument("--only_table", "--only-table", action="store_true", help="train nothing, make the tables")
    options = parser.parse_args(arguments)
    missing = [
        f"--{name}" for name in ("dataset_dir", "fit_runs", "test_runs", "windows") if not getattr(options, name)
    ]
    if missing and not options.only_table:
        parser.error(f"{', '.join(missing)} missing")
    if options.outside_dir and not (options.outside_fit and options.outside_test):
        parser.error("--outside_dir needs --outside_fit and --outside_test")
    return options


def split(text: str) -> tuple[str, ...]:
    """Return the words of a text with commas."""
    return tuple(text.split(","))


def plan_of(options: argparse.Namespace) -> Plan:
    """Return the plan that the options describe.

    Raises:
        InputError: the settings are no JSON object.
    """
    settings = settings_of(options.settings)
    kinds = options.tomogram_kind
    sets = {OWN: ScoredSet(options.dataset_dir, kinds[0] if kinds else None, options.fit_runs, options.test_runs)}
    if options.outside_dir:
        sets[OUTSIDE] = ScoredSet((options.outside_dir,), None, options.outside_fit, options.outside_test)
    return Plan(options.dataset_dir, kinds, sets, options.windows, options.output_dir, settings, options.scored_after)


def chosen_changes(text: str) -> list[str]:
    """Return the names of the changes that are asked for.

    Raises:
        InputError: one is unknown.
    """
    names = list(CHANGES) if text == "all" else text.split(",")
    unknown = sorted(set(names) - set(CHANGES))
    if unknown:
        raise InputError(f"unknown change {', '.join(unknown)}; known are {', '.join(CHANGES)}.")
    return names


def share_of(text: str) -> tuple[int, int]:
    """Return first and step of a share like ``0/3``.

    Raises:
        InputError: it is none.
    """
    first, _, step = text.partition("/")
    if not (first.isdecimal() and step.isdecimal() and int(first) < int(step)):
        raise InputError(f"share is i/n, with i from 0 to n - 1; got {text}.")
    return int(first), int(step)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    options = read_arguments(arguments)
    failed = 0
    try:
        if not options.only_table:
            failed = run_all(plan_of(options), chosen_changes(options.changes), options.seeds, share_of(options.share))
        write_tables(options.output_dir)
    except (InputError, RuntimeError) as error:  # MONAI wraps what its components raise
        found = find_input_error(error)
        if found is None:
            raise
        print(f"error: {found}", file=sys.stderr)
        return 1
    print((options.output_dir / "recipe.md").read_text(), flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
