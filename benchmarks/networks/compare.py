"""Train several networks for the same time or steps on the same windows, and score all of them in the same way.

From the folder ``bundle``:

    python ../benchmarks/networks/compare.py --dataset_dir DATA --validation_runs a,b --test_runs c,d \
        --budget_seconds 600 --seeds 0,1 --networks ours,unet,flexible_unet,segresnet,dynunet --output_dir OUT

Everything but the network comes from ``configs/train.json`` and ``configs/evaluate.json``: windows, targets,
augmentation, loss, optimizer, averaging, inference and picking. A seed gives every network the same windows in the same
order. The learning rate's schedule of the config is stretched over the budget, so that each network trains through all
of it. The clock runs while a batch is loaded and a step is made; it is stopped while data is prepared and scored.
``--budget_steps`` in place of ``--budget_seconds`` lets each train for the same number of steps instead.
Thresholds are fitted on the validation runs, and the test runs are scored with them.

On a machine that runs other programs, count processor time instead of wall-clock time, and use one thread:
``OMP_NUM_THREADS=1 python ... --clock processor``.

Every network starts with the same prior in its last convolution, and computes in the floating-point and memory format
that give it the fastest step on the machine. A run that ends writes ``OUT/<network>_seed<seed>.json`` and the tables
``OUT/comparison.md`` and ``OUT/comparison.csv``; a comparison that is started again continues with the missing runs.
``--only_table`` makes the tables of the existing results.

``--settings`` sets keys of ``train.json`` for all networks, such as ``--settings '{"tomogram_kind": "wbp"}'`` if a
project has tomograms of several kinds; keys of ``network_def`` are for our network alone. On a GPU, windows should be
drawn by several processes that are seldom restarted:
``--settings '{"num_workers": 8, "windows_per_epoch": 4000}'``.
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

from conditions import whole_numbers  # noqa: E402
from scripts.atomic_files import write_atomically  # noqa: E402
from scripts.errors import InputError, find_input_error  # noqa: E402
from scripts.scoring.matching import MODES  # noqa: E402
from tables import page_of, with_spread, write_tables_of  # noqa: E402

from networks.clocks import CLOCKS, UNITS  # noqa: E402
from networks.definitions import NEEDS_TIMM, NETWORKS, OWN_NETWORK, Plan, build_networks, settings_of  # noqa: E402
from networks.training import POINTS, fit_and_score, probe, train  # noqa: E402

COUNTED = ("precision", "recall", "picks", "wrong")


def run_all(plan: Plan, names: Sequence[str], seeds: Sequence[int]) -> None:
    """Make the missing results, one seed after the other, and the tables after each result."""
    plan.check()
    conditions, facts = json.loads(json.dumps(plan.conditions())), build_networks(plan, names)
    check_results(read_results(plan.output_dir), conditions, facts)
    for seed, name in product(seeds, names):
        path = result_path(plan, name, seed)
        if path.exists():
            print(f"{name}, seed {seed}: {path} is there", flush=True)
            continue
        earlier = [result["probe"] for result in read_results(plan.output_dir) if result["network"] == name]
        seconds = earlier[0] if earlier else probe(plan, name)
        chosen = min(seconds, key=lambda entry: seconds[entry])
        network, training = train(plan, name, seed, chosen)
        scored = fit_and_score(plan, network, chosen, path.with_suffix(""))
        result = {
            "network": name,
            "seed": seed,
            "format": chosen,
            "probe": seconds,
            **facts[name],
            **training,
            **scored,
        }
        with write_atomically(path) as file:
            file.write(json.dumps({**result, "conditions": conditions}, indent=4) + "\n")
        f1, f4 = result["f1"]["scores"]["f1"], result["f4"]["scores"]["f4"][MODES[0]]["total"]
        print(f"{name}, seed {seed}, {chosen}: {result['steps']} steps, F1 {f1:.4f}, F4 {f4:.4f}", flush=True)
        write_tables(plan.output_dir)
        del network
        gc.collect()  # a trainer and its handlers refer to each other, and keep the accelerator's memory


def result_path(plan: Plan, name: str, seed: int) -> Path:
    """Return the path of the result of a run."""
    return plan.output_dir / f"{name}_seed{seed}.json"


def read_results(folder: Path) -> list[dict[str, Any]]:
    """Return the results in a folder, in the order of `networks.definitions.NETWORKS` and of their seeds."""
    found = [json.loads(path.read_text()) for name in NETWORKS for path in folder.glob(f"{name}_seed*.json")]
    return sorted(found, key=lambda result: (list(NETWORKS).index(result["network"]), result["seed"]))


def check_results(results: Sequence[Mapping[str, Any]], wanted: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """Check that results can be compared in one table.

    Args:
        results: of earlier runs.
        wanted: the conditions of this comparison.
        facts: of the networks of this comparison, see `networks.definitions.build_networks`.

    Raises:
        InputError: a result was made under other conditions, or with other settings of its network.
    """
    for result in results:
        name = result["network"]
        pairs = [(key, result["conditions"].get(key), value) for key, value in wanted.items()]
        if name in facts:
            pairs.append(("definition", result["definition"], facts[name]["definition"]))
        for key, before, now in pairs:
            if before != now:
                raise InputError(
                    f"the result of {name}, seed {result['seed']}, was made with {key} {before}, now it is {now}: set "
                    "another output_dir, or delete that result."
                )


def summarise(results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return one row per network: means over its seeds, and half the range of the totals.

    The keys are those of the table's columns: a score of an operating point has the name of the point before it.
    """
    rows = []
    for name in dict.fromkeys(result["network"] for result in results):
        own = [result for result in results if result["network"] == name]
        row: dict[str, Any] = {"network": name, "seeds": len(own), "parameters": own[0]["parameters"]}
        row["steps"] = fmean(result["steps"] for result in own)
        totals = {"f1": [result["f1"]["scores"]["f1"] for result in own]}
        totals |= {f"f4_{mode}": [result["f4"]["scores"]["f4"][mode]["total"] for result in own] for mode in MODES}
        for key, values in totals.items():
            row |= {key: fmean(values), f"{key}_half_range": (max(values) - min(values)) / 2}
        for point, key in product(POINTS, COUNTED):
            row[f"{key}_at_{point}"] = fmean(result[point]["scores"][key] for result in own)
        for species in own[0]["f4"]["thresholds"]:
            row[f"f4_{species}"] = fmean(result["f4"]["scores"]["f4"][MODES[0]][species] for result in own)
        for key in ("seconds_per_step", "seconds_per_tomogram"):
            row[key] = fmean(result[key] for result in own)
        row["precision"], row["memory_format"] = own[0]["format"].split(", ")
        rows.append(row)
    return rows


def write_tables(folder: Path) -> None:
    """Write ``comparison.md`` and ``comparison.csv`` of the results in a folder.

    Raises:
        InputError: there are none, or they were made under different conditions.
    """
    results = read_results(folder)
    if not results:
        raise InputError(f"{folder} holds no result of {', '.join(NETWORKS)}.")
    definitions = {result["network"]: {"definition": result["definition"]} for result in reversed(results)}
    check_results(results, results[0]["conditions"], definitions)
    rows = summarise(results)
    page = format_page(rows, list(results[0]["f4"]["thresholds"]), results[0]["conditions"])
    write_tables_of(rows, page, folder / "comparison")


def format_page(rows: Sequence[Mapping[str, Any]], species: Sequence[str], conditions: Mapping[str, Any]) -> str:
    """Return the table as Markdown, with the conditions above it."""
    validation, test = (", ".join(conditions[key]) for key in ("validation_runs", "test_runs"))
    budget = next(f"{conditions[f'budget_{unit}']:g} {unit}" for unit in UNITS if f"budget_{unit}" in conditions)
    text = (
        f"Each network trained for {budget} ({conditions['clock']} clock) on {conditions['device']}. Thresholds fitted "
        f"on {validation}, scored on {test}: mean over the seeds ± half their range. Mean F1 of the species, precision "
        "and the first wrong picks one to one with thresholds for F1, all F4 and the second wrong picks with those for "
        f"F4; F4 of a species in mode {MODES[0]}.\n"
    )
    head = ["network", "parameters", "seeds", "steps", "F1", "precision", "wrong picks"]
    head += [*(f"F4 ({mode})" for mode in MODES), "wrong picks", *species]
    lines = [[*head, "s per step", "s per tomogram", "format"]]
    for row in rows:
        line = [row["network"], f"{row['parameters'] / 1e6:.1f} M", str(row["seeds"]), f"{row['steps']:.0f}"]
        line += [with_spread(row, "f1", ".3f"), f"{row['precision_at_f1']:.3f}", wrong_of_all(row, "f1")]
        line += [*(with_spread(row, f"f4_{mode}", ".3f") for mode in MODES), wrong_of_all(row, "f4")]
        line += [f"{row[f'f4_{name}']:.3f}" for name in species]
        line += [f"{row['seconds_per_step']:.3g}", f"{row['seconds_per_tomogram']:.3g}"]
        lines.append([*line, f"{row['precision']}, {row['memory_format']}"])
    return page_of(text, lines[0], lines[1:])


def wrong_of_all(row: Mapping[str, Any], point: str) -> str:
    """Return the mean number of wrong picks at an operating point, of how many."""
    return f"{row[f'wrong_at_{point}']:.0f} of {row[f'picks_at_{point}']:.0f}"


def read_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description="Compare networks that were trained for the same time.")
    parser.add_argument("--dataset_dir", help="the folder with tomograms and truth")
    parser.add_argument("--validation_runs", help="runs to fit thresholds on, with commas between")
    parser.add_argument("--test_runs", help="runs to score; all others are trained on")
    for unit in UNITS:
        parser.add_argument(f"--budget_{unit}", type=float, help=f"how many {unit} each network may train")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="whose seconds count (default: %(default)s)")
    parser.add_argument(
        "--seeds", type=whole_numbers, default="0", help="whole numbers with commas between (default: %(default)s)"
    )
    usual = ",".join(name for name in NETWORKS if name not in NEEDS_TIMM)
    parser.add_argument("--networks", default=usual, help=f"out of {','.join(NETWORKS)} (default: %(default)s)")
    parser.add_argument("--widths", help="of our network: a preset, or numbers with commas (default: train.json's)")
    parser.add_argument("--settings", default="{}", help="JSON: keys of train.json with other values, for all networks")
    parser.add_argument("--output_dir", required=True, help="where the results stand")
    parser.add_argument("--only_table", "--only-table", action="store_true", help="train nothing, make the tables")
    options = parser.parse_args(arguments)
    needed = ("dataset_dir", "validation_runs", "test_runs")
    missing = [f"--{name}" for name in needed if getattr(options, name) is None]
    if missing and not options.only_table:
        parser.error(f"{', '.join(missing)} missing")
    if (options.budget_seconds is None) == (options.budget_steps is None) and not options.only_table:
        parser.error("give either --budget_seconds or --budget_steps")
    return options


def plan_of(options: argparse.Namespace) -> Plan:
    """Return what the command line asks for.

    Raises:
        InputError: the settings are no JSON object.
    """
    settings = settings_of(options.settings)
    if options.widths:
        parts = options.widths.split(",")
        settings[f"{OWN_NETWORK}widths"] = [int(part) for part in parts] if parts[0].isdigit() else options.widths
    validation, test = (tuple(value.split(",")) for value in (options.validation_runs, options.test_runs))
    folder = Path(options.output_dir)
    unit = "seconds" if options.budget_steps is None else "steps"
    budget = getattr(options, f"budget_{unit}")
    return Plan(options.dataset_dir, validation, test, budget, folder, settings, unit, options.clock)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    options = read_arguments(arguments)
    try:
        if not options.only_table:
            names = options.networks.split(",")
            unknown = sorted(set(names) - set(NETWORKS))
            if unknown:
                raise InputError(f"unknown network {', '.join(unknown)}; known are {', '.join(NETWORKS)}.")
            run_all(plan_of(options), names, options.seeds)
        write_tables(Path(options.output_dir))
    except (InputError, RuntimeError) as error:  # MONAI wraps what its components raise
        found = find_input_error(error)
        if found is None:
            raise
        print(f"error: {found}", file=sys.stderr)
        return 1
    print((Path(options.output_dir) / "comparison.md").read_text(), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
