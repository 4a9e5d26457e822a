"""Score weights and ensembles of them with each finder: thresholds from some runs, F1 and F4 on others.

From the folder ``bundle``:

    python ../benchmarks/networks/score.py --dataset_dir DATA --validation_runs a --test_runs b,c --output_dir OUT \
        --models spheres=A/model_last.pt heat=B/model_last.pt both=A/model_last.pt,B/model_last.pt \
        --ensembles mean,rank --finders Blobs,Peaks

A model is a name and the files of its weights with commas between; several files are an ensemble, which is scored in
each of the given ways, also where the bundle would refuse to average targets of two kinds. Everything is one to one, by
the network alone, without a second look. ``OUT/scores.md`` and ``OUT/scores.csv`` are the table. A row that is there
already stays, if it was made under the same conditions.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

BENCHMARKS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(BENCHMARKS.parent / "bundle"), str(BENCHMARKS)]

from conditions import is_there, refuse_mixed, refuse_seen  # noqa: E402
from scripts.atomic_files import write_atomically  # noqa: E402
from scripts.errors import InputError, run_tool  # noqa: E402
from scripts.inference.precision import number_format  # noqa: E402
from scripts.networks.ensemble import COMBINATIONS, Ensemble  # noqa: E402
from scripts.networks.model_card import network_of, sha256_of  # noqa: E402
from scripts.networks.weights import load_weights  # noqa: E402
from scripts.species import SpeciesSet  # noqa: E402
from tables import page_of, write_tables_of  # noqa: E402
from torch import device, nn  # noqa: E402

from networks.clocks import CLOCKS  # noqa: E402
from networks.definitions import Plan, settings_of  # noqa: E402
from networks.training import fit_and_score  # noqa: E402

FINDERS = {"Blobs": "scripts.picking.blobs.Blobs", "Peaks": "scripts.picking.peaks.Peaks"}
MODE, RESULT = "one_to_one", "result.json"
ONE = "one"  # how the logits of a single network are combined


def network_of_model(paths: Sequence[str], combination: str, species_set: SpeciesSet) -> nn.Module:
    """Return the network of a file, or an ensemble of several, with its weights.

    Raises:
        InputError: a file cannot be used, or is of other species.
    """
    members = [load_weights(network_of(path), path, species_set) for path in paths]
    return members[0] if len(members) == 1 else Ensemble(members, combination).eval()


def score_all(plan: Plan, models: Sequence[str], ensembles: Sequence[str], finders: Sequence[str]) -> None:
    """Make the missing results, and the table after each.

    Raises:
        InputError: a model, a finder or a run is wrong, or a result was made under other conditions.
    """
    plan.check_scored()
    shared = {key: value for key, value in plan.conditions().items() if key != "settings"}  # the finder is one of them
    refuse_mixed(plan.output_dir.glob(f"*/{RESULT}"), shared)
    species_set = plan.parser().get_parsed_content("species")
    for model in models:
        name, equals, files = model.partition("=")
        paths = files.split(",")
        if not (name and equals and files):
            raise InputError(f"--models {model}: write a name and its files, such as both=a.pt,b.pt.")
        for path in paths:
            refuse_seen(Path(path), plan.validation_runs, plan.test_runs)
        for combination, finder in product(ensembles if len(paths) > 1 else [ONE], finders):
            network = network_of_model(paths, combination, species_set)
            own = replace(plan, settings={**plan.settings, "finder#_target_": FINDERS[finder]})
            conditions = {**own.conditions(), "weights_sha256": [sha256_of(path) for path in paths]}
            folder = plan.output_dir / f"{name}_{combination}_{finder}"
            if not is_there(folder / RESULT, conditions):
                found = fit_and_score(own, network, f"{precision_here()}, contiguous", folder)
                parameters = sum(value.numel() for value in network.parameters())
                row = {"model": name, "ensemble": combination, "finder": finder, "parameters": parameters, **found}
                with write_atomically(folder / RESULT) as file:
                    file.write(json.dumps({**row, "conditions": conditions}, indent=4) + "\n")
            write_scores(plan)


def precision_here() -> str:
    """Return the number format that inference takes on a CPU."""
    return str(number_format("auto", device("cpu"))).removeprefix("torch.")


def write_scores(plan: Plan) -> None:
    """Write the table of the results that are there."""
    results = [json.loads(path.read_text()) for path in sorted(plan.output_dir.glob(f"*/{RESULT}"))]
    rows = []
    for result in results:
        row = {key: result[key] for key in ("model", "ensemble", "finder", "parameters")}
        row |= {key: result["f1"]["scores"][key] for key in ("precision", "recall", "f1")}
        row |= {
            f"{key}_at_{point}": result[point]["scores"][key] for point in ("f1", "f4") for key in ("wrong", "picks")
        }
        rows.append(
            row | {"f4": result["f4"]["scores"]["f4"][MODE]["total"]} | {"seconds": result["seconds_per_tomogram"]}
        )
    head = ["model", "ensemble", "finder", "parameters", "precision", "recall", "mean F1", "wrong picks", "F4"]
    lines = [
        [
            row["model"],
            row["ensemble"],
            row["finder"],
            f"{row['parameters'] / 1e6:.1f} M",
            *(f"{row[key]:.3f}" for key in ("precision", "recall", "f1")),
            f"{row['wrong_at_f1']} of {row['picks_at_f1']}",
            f"{row['f4']:.3f}",
            f"{row['wrong_at_f4']} of {row['picks_at_f4']}",
            f"{row['seconds']:.1f}",
        ]
        for row in rows
    ]
    text = (
        f"Thresholds fitted on {', '.join(plan.validation_runs)}, scored on {', '.join(plan.test_runs)}; the first "
        "wrong picks with thresholds for F1, the second ones with those for F4.\n"
    )
    write_tables_of(rows, page_of(text, [*head, "wrong picks", "s per tomogram"], lines), plan.output_dir / "scores")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(description="Score weights and ensembles of them with each finder.")
    parser.add_argument("--dataset_dir", required=True, help="the folder with tomograms and truth")
    parser.add_argument("--validation_runs", required=True, help="runs to fit thresholds on, with commas between")
    parser.add_argument("--test_runs", required=True, help="runs to score")
    parser.add_argument("--models", nargs="+", required=True, help="NAME=FILE, or NAME=FILE,FILE for an ensemble")
    parser.add_argument("--ensembles", default="mean", help=f"out of {','.join(COMBINATIONS)} (default: %(default)s)")
    parser.add_argument("--finders", default="Blobs", help=f"out of {','.join(FINDERS)} (default: %(default)s)")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="whose seconds count (default: %(default)s)")
    parser.add_argument("--settings", default="{}", help="JSON: keys of train.json with other values")
    parser.add_argument("--output_dir", required=True, help="where the results stand")
    options = parser.parse_args(arguments)
    return run_tool(lambda: score_chosen(options))


def score_chosen(options: argparse.Namespace) -> None:
    """Score what the command line names, and print the table.

    Raises:
        InputError: a name is unknown, or see `score_all`.
    """
    ensembles, finders = options.ensembles.split(","), options.finders.split(",")
    for given, known in ((ensembles, COMBINATIONS), (finders, FINDERS)):
        unknown = sorted(set(given) - set(known))
        if unknown:
            raise InputError(f"unknown {', '.join(unknown)}; known are {', '.join(known)}.")
    fitted, tested = (tuple(value.split(",")) for value in (options.validation_runs, options.test_runs))
    folder = Path(options.output_dir)
    plan = Plan(options.dataset_dir, fitted, tested, 1.0, folder, settings_of(options.settings), clock=options.clock)
    score_all(plan, options.models, ensembles, finders)
    print((folder / "scores.md").read_text(), flush=True)


if __name__ == "__main__":
    sys.exit(main())
