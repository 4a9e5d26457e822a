"""Train on part labels: what is lost where half of the species is annotated in each half of the runs?

    python benchmarks/part_labels.py --dataset_dir A --fit_runs a --test_runs b,c --windows 5000 --output_dir OUT

Three trainings see the same windows for equal steps: ``complete`` has all truths; ``masked`` has every other species in
the first half of the runs to train on and the rest of them in the second half, and leaves out what was not annotated;
``naive`` has the same truths as ``masked``, and takes what was not annotated as background. Thresholds are fitted on
the fit runs, which are annotated completely like the test runs; F4 and the wrong picks after it are those at the best
F4, all before it is at the best F1. ``OUT/part_labels.json`` has everything, the screen a table. ``--smoke`` is a trial
with a tiny network.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

BENCHMARKS = Path(__file__).resolve().parent
sys.path[:0] = [str(BENCHMARKS.parent / "bundle"), str(BENCHMARKS)]

from recipe.changes import BASE  # noqa: E402
from recipe.training import Plan, ScoredSet, run_one  # noqa: E402
from scripts.atomic_files import write_atomically  # noqa: E402
from scripts.datasets.truth import list_labelled_runs  # noqa: E402
from scripts.errors import InputError, run_tool  # noqa: E402
from scripts.species import SPECIES_FILE, read_species  # noqa: E402
from torch import Tensor, nn  # noqa: E402

LABELS = ("complete", "masked", "naive")
TINY = {
    "network_def#widths": [4, 8],
    "network_def#depths": [1, 1],
    "window_size": [16, 16, 16],
    "device": "$torch.device('cpu')",
}


class UnknownIsBackground(nn.Module):
    """Another loss, for which unknown voxels are background, as they were before they could be left out.

    Args:
        loss: of logits and targets.
    """

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, logits: Tensor, target: Tensor) -> Any:
        """Return the loss of logits."""
        return self.loss(logits, target.nan_to_num(0.0, neginf=0.0))


def halves(runs: Sequence[str], species: Sequence[str]) -> dict[str, list[str]]:
    """Return the annotated species of every run: every other one in the first half of the runs, the rest after it.

    Raises:
        InputError: there are fewer than two runs or two species.
    """
    if min(len(runs), len(species)) < 2:
        raise InputError(f"part labels need two runs to train on and two species; got {len(runs)} and {len(species)}.")
    return {run: list(species[2 * place // len(runs) :: 2]) for place, run in enumerate(sorted(runs))}


def settings_of_labels(labels: str, annotated: dict[str, list[str]]) -> dict[str, Any]:
    """Return the settings of a training by which it differs from the others."""
    if labels == "complete":
        return {}
    loss = {"loss_where_known": {"_target_": "part_labels.UnknownIsBackground", "loss": "@loss"}}
    return {"annotated": annotated} | (loss if labels == "naive" else {})


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(prog="python benchmarks/part_labels.py")
    parser.add_argument("--dataset_dir", required=True, help="completely annotated tomograms")
    parser.add_argument("--tomogram_kind", help="of a copick project's tomograms")
    parser.add_argument("--fit_runs", required=True, help="names of runs to fit thresholds on, with commas")
    parser.add_argument("--test_runs", required=True, help="names of runs to score")
    parser.add_argument("--windows", type=int, default=5000, help="that each training sees")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--settings", type=json.loads, default={}, help="other settings of train.json, as JSON")
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--smoke", action="store_true", help="a tiny network and four windows")
    options = parser.parse_args(arguments)
    return run_tool(lambda: compare_labels(options))


def compare_labels(options: argparse.Namespace) -> None:
    """Make the three trainings, print their table and write the results.

    Raises:
        InputError: a run, a setting or a file is wrong.
    """
    fitted, tested = (tuple(names.split(",")) for names in (options.fit_runs, options.test_runs))
    rows = list_labelled_runs(options.dataset_dir, without=[*fitted, *tested], tomogram_kind=options.tomogram_kind)
    annotated = halves([row["run"] for row in rows], read_species(SPECIES_FILE).names)
    scored = {"own": ScoredSet((options.dataset_dir,), options.tomogram_kind, fitted, tested)}
    kinds = (options.tomogram_kind,) if options.tomogram_kind else ()
    windows = 4 if options.smoke else options.windows
    results = {}
    print("| labels | precision | recall | mean F1 | wrong picks | F4 | wrong picks |\n|---|---|---|---|---|---|---|")
    for labels in LABELS:
        settings = options.settings | (TINY if options.smoke else {}) | settings_of_labels(labels, annotated)
        plan = Plan((options.dataset_dir,), kinds, scored, windows, options.output_dir, settings)
        plan.check()
        results[labels] = run_one(plan, BASE, options.seed)
        found = results[labels]["sets"]["own"]
        at_f1 = " | ".join(f"{found[key]:.3f}" for key in ("precision", "recall", "f1"))
        at_f1 += f" | {found['wrong']} of {found['picks']}"
        at_f4 = f"{found['f4']:.3f} | {found['wrong_at_f4']} of {found['picks_at_f4']}"
        print(f"| {labels} | {at_f1} | {at_f4} |", flush=True)
    with write_atomically(options.output_dir / "part_labels.json") as file:
        file.write(json.dumps({"annotated": annotated, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
