"""Train in rounds on pseudo-labels of tomograms that nobody has annotated.

    python tools/pseudo_rounds.py --work_dir WORK --checkpoint_path MODEL --labelled_dir DATA --unlabelled_dir MORE \
        --validation_runs TS_01 TS_02 --calibration_runs TS_03 TS_04 --second_look_runs TS_05 TS_06 TS_07

A round calibrates the scores of the last weights by a second look, scores them on the validation runs, picks the
unlabelled tomograms, makes labels of the sure picks, and trains the weights on annotations and labels together. It ends
after the given number of rounds, or once the mean F1 of the validation rises by less than asked for. Every step is a
documented command; started again, the tool resumes where it was stopped. See docs/how_to/pseudo_labels.md.

The annotated runs that no option names train the network. Those of --second_look_runs train the second look, and those
of --calibration_runs fit its probabilities; only the validation runs are scored.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "bundle"), str(ROOT / "tools")]

from bundle_steps import bundle_run, read_rows, three  # noqa: E402
from scripts.atomic_files import write_atomically  # noqa: E402
from scripts.copick_tree import run_folder_of  # noqa: E402
from scripts.datasets.runs import list_runs  # noqa: E402
from scripts.datasets.truth import TRUTH_TABLE, list_labelled_runs  # noqa: E402
from scripts.errors import InputError, run_tool  # noqa: E402
from scripts.markdown import markdown_table  # noqa: E402
from scripts.networks.model_card import card_path, needed_card, sha256_of, uses_of_weights  # noqa: E402
from scripts.pages.batch_folder import RECORD_FILE  # noqa: E402
from scripts.picking.second_look import NOT_CALIBRATED, SECOND_LOOK  # noqa: E402
from scripts.picks import read_csv, write_csv  # noqa: E402
from scripts.records import first_difference  # noqa: E402
from scripts.results.pseudo_labels import (  # noqa: E402
    ACCEPT,
    UNCERTAIN,
    counts_of_labels,
    judged_runs,
    labels_of,
    refuse_used_runs,
    require_scores,
)
from scripts.results.run_folder import read_record  # noqa: E402

BUNDLE = ROOT / "bundle"
LABELS, SETTINGS, DONE = "labels", "settings.json", "done"
ARGUMENTS = ("training_args", "second_look_args", "inference_args")
SPLIT = ("validation_runs", "calibration_runs", "second_look_runs")


class Rounds:
    """The steps of all rounds, and where their results are.

    Args:
        options: of the command line.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.work = options, options.work_dir
        kind = options.tomogram_kind
        self.labelled = [row["run"] for row in list_labelled_runs(options.labelled_dir, tomogram_kind=kind)]
        self.unlabelled = [row["run"] for row in list_runs(options.unlabelled_dir, kind)]
        self.kind = ["--tomogram_kind", kind] if kind else []

    def folder(self, number: int) -> Path:
        """Return the folder of a round."""
        return Path(self.work) / f"round_{number}"

    def weights(self, number: int) -> Path:
        """Return the weights that a round begins with.

        Of a training those with the best validation, not the last ones: as among rounds, the validation runs choose.
        """
        return self.folder(number - 1) / "trained" / "model.pt" if number else Path(self.options.checkpoint_path)

    def second_look(self, number: int) -> Path:
        """Return the second look for the weights of a round; make it, unless it is there.

        Raises:
            InputError: see `calibrated`.
        """
        beside = self.weights(number).with_name(SECOND_LOOK)
        if number == 0 and beside.exists():
            return calibrated(beside)
        output = self.folder(number) / "second_look"
        if not (output / SECOND_LOOK).exists():
            named = [run for name in SPLIT[1:] for run in getattr(self.options, name)]
            self.run(
                ["train", "second_look"], "second_look", self.options.second_look_args,
                "--checkpoint_path", self.weights(number), "--dataset_dir", as_text(self.options.labelled_dir),
                "--validation_runs", self.options.calibration_runs,
                "--excluded_runs", [run for run in self.labelled if run not in named], "--output_dir", output,
            )  # fmt: skip
        return calibrated(output / SECOND_LOOK)

    def score(self, number: int) -> list[dict[str, str]]:
        """Score the weights of a round on the validation runs, unless that is done; return rows of ``scores.csv``."""
        output = self.folder(number) / "evaluation"
        done = output / DONE
        if not done.exists():
            self.run(
                ["train", "evaluate"], "evaluating", self.options.inference_args,
                "--checkpoint_path", self.weights(number), "--dataset_dir", as_text(self.options.labelled_dir),
                "--validation_runs", self.options.validation_runs, "--sweep_thresholds", [0.5], "--output_dir", output,
                "--second_look", True, "--second_look_path", self.second_look(number),
            )  # fmt: skip
            done.touch()
        return [row for row in read_rows(output / "scores.csv") if row["mode"] == "one_to_one"]

    def pick(self, number: int) -> None:
        """Pick the unlabelled tomograms with the weights of a round."""
        self.run(
            ["inference"], "run", self.options.inference_args,
            "--checkpoint_path", self.weights(number), "--dataset_dir", self.options.unlabelled_dir,
            "--second_look", True, "--second_look_path", self.second_look(number),
            "--output_dir", self.folder(number) / "picks", "--operating_point", {"probability": self.options.uncertain},
            "--page_megabytes", 0, "--pick_formats", ["csv"],
        )  # fmt: skip

    def label(self, number: int) -> list[str]:
        """Make labels out of the picks of a round, beside links to the tomograms picked, unless that is done.

        Returns:
            The runs that are left out, because their scores are not calibrated.

        Raises:
            InputError: nothing is accepted, or a tomogram that was picked is gone.
        """
        picks, table = self.folder(number) / "picks", self.folder(number) / LABELS / TRUTH_TABLE
        if not table.exists():
            self.pick(number)
        records = [read_record(path.parent) for path in sorted(picks.glob(f"*/{RECORD_FILE}"))]
        flagged = [record.run for record in records if record is not None and record.unfamiliar]
        if not table.exists():
            accept, uncertain = self.options.accept, self.options.uncertain
            runs = judged_runs([picks], uncertain, [*flagged, *self.options.excluded_runs])
            if not runs:
                raise InputError(
                    f"all tomograms in {picks} are flagged: their scores may be wrong, see its summary.csv: there "
                    "is nothing to learn from."
                )
            labels = [label for run in runs for label in labels_of(*run, accept, uncertain)]
            if all(math.isnan(label.weight) for label in labels):
                raise InputError(
                    f"{picks} has no pick with a score of {accept:g} or more: there is nothing to learn from."
                )
            self.link_tomograms([record.run for record in records if record is not None], table.parent)
            write_csv(table, labels)
        return flagged

    def link_tomograms(self, runs: Sequence[str], folder: Path) -> None:
        """Link some of the unlabelled tomograms in a folder, under paths that give the same runs and kinds.

        Raises:
            InputError: one is no longer there.
        """
        rows = {row["run"]: row for row in list_runs(self.options.unlabelled_dir, self.options.tomogram_kind)}
        gone = [run for run in runs if run not in rows]
        if gone:
            raise InputError(f"{self.options.unlabelled_dir} no longer holds {', '.join(gone)}, picked before.")
        for run in runs:
            image = Path(os.path.abspath(rows[run]["image"]))
            spacing = [image.parent.name] if run_folder_of(image) else []
            link = folder.joinpath(run, *spacing, image.name)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.unlink(missing_ok=True)
            link.symlink_to(image)

    def train(self, number: int, without: Sequence[str]) -> None:
        """Train the weights of a round on annotations and labels, unless that is done."""
        output = self.folder(number) / "trained"
        done = output / DONE
        if done.exists():
            return
        overlay = self.folder(number) / "overlay.json"
        card = needed_card(self.weights(number), "another checkpoint_path")
        with write_atomically(overlay) as file:
            file.write(json.dumps({"network_def": card["network_def"]}))
        kept_out = [*self.options.calibration_runs, *self.options.second_look_runs, *self.options.excluded_runs]
        self.run(
            ["train", str(overlay)], "training", self.options.training_args,
            "--checkpoint_path", self.weights(number), "--species_path", card_path(self.weights(number)),
            "--dataset_dir", as_text([*self.options.labelled_dir, self.folder(number) / LABELS]),
            "--validation_runs", self.options.validation_runs, "--excluded_runs", [*kept_out, *without],
            "--cache_dir", self.work / "cache", "--seed", number, "--output_dir", output,
            "--train#handlers#7#accept_complete", True,
        )  # fmt: skip
        done.touch()

    def run(self, configs: Sequence[str], task: str, args_file: Path | None, *settings: Any) -> None:
        """Run a command of the bundle, with the settings of a file beneath those given."""
        files = [name if name.endswith(".json") else f"configs/{name}.json" for name in configs]
        more = ["--args_file", args_file] if args_file else []
        bundle_run(BUNDLE, files, *more, *self.kind, *settings, task=task)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the rounds; return the exit status."""
    options = make_parser().parse_args(arguments)
    try:
        return run_tool(lambda: run_rounds(options), resumable=True)
    except subprocess.CalledProcessError as error:  # the command has said why
        return int(error.returncode)


def run_rounds(options: argparse.Namespace) -> None:
    """Run all steps that are not done yet, and print a table with a row per round.

    Raises:
        InputError: settings have changed, runs are in two places, or a step cannot be done.
    """
    rounds = Rounds(options)
    check_runs(rounds)
    refuse_other_settings(options)
    table: list[list[str]] = []
    scores: list[float] = []
    for number in range(options.rounds + 1):
        rows = rounds.score(number)
        scores.append(float(rows[-1]["f1"]))
        table.append([str(number), *score_cells(rows)])
        if number and scores[-1] < scores[-2] + options.least_gain:
            break
        if number < options.rounds:
            flagged = rounds.label(number)
            labels = read_csv(rounds.folder(number) / LABELS / TRUTH_TABLE)
            counts = counts_of_labels(labels)
            table[-1] += [" / ".join(map(str, counts.get(row["species"], (0, 0)))) for row in rows[:-1]]
            table[-1].append(", ".join(flagged))
            rounds.train(number, flagged)
    names = [row["species"] for row in rows[:-1]]
    heads = ["round", "mean F1", "precision", "wrong picks", "F4", *(f"{name}: accepted / uncertain" for name in names)]
    print(markdown_table([*heads, "not calibrated"], [line + [""] * (len(heads) + 1 - len(line)) for line in table]))
    best = scores.index(max(scores))
    print(f"best: {rounds.weights(best)} with {rounds.second_look(best)}")


def score_cells(rows: Sequence[dict[str, str]]) -> list[str]:
    """Return mean F1, precision, wrong picks and F4 of the rows of ``scores.csv``."""
    picks, wrong = (sum(int(row[key]) for row in rows[:-1]) for key in ("picks", "fp"))
    precision = three((picks - wrong) / picks) if picks else ""
    return [three(rows[-1]["f1"]), precision, f"{wrong} of {picks}", three(rows[-1]["f4"])]


def check_runs(rounds: Rounds) -> None:
    """Check that every annotated run has one use, and that nothing is labelled that has another one.

    Raises:
        InputError: scores are out of order; a run has two uses, or trained the weights that it is to judge; or a run to
            label is annotated, or made the first weights or their second look.
    """
    options, first = rounds.options, rounds.weights(0)
    require_scores(options.accept, options.uncertain)
    named = {name: getattr(options, name) for name in (*SPLIT, "excluded_runs")}
    twice = [run for run, count in Counter(run for runs in named.values() for run in runs).items() if count > 1]
    if twice:
        raise InputError(f"{', '.join(twice)}: a run has one use; name it once among {', '.join(named)}.")
    beside = first.with_name(SECOND_LOOK)
    made = [first, beside] if beside.exists() else [first]
    for name in SPLIT:
        for path in made if name == SPLIT[0] else [first]:  # rounds that use the other runs make a second look anew
            known = [run for run in named[name] if run in runs_known_to(path)]
            if known:
                raise InputError(
                    f"{name}: {', '.join(known)} trained {path}, which would be judged too well: name others."
                )
    uses: dict[str, Sequence[str]] = {"labelled_dir": rounds.labelled}
    uses |= {use: names for path in made for use, names in uses_of_weights(path).items()}
    refuse_used_runs(rounds.unlabelled, uses)


def calibrated(second_look: Path) -> Path:
    """Return the path of a second look whose probabilities are all calibrated.

    Raises:
        InputError: names a species whose probability is not, and why.
    """
    left = needed_card(second_look, "other calibration_runs").get(NOT_CALIBRATED) or {}
    for name, reason in left.items():
        raise InputError(
            f"{second_look}: the probability of {name} is not calibrated: {reason}. Set another work_dir, and name "
            "more calibration_runs."
        )
    return second_look


def runs_known_to(weights: Path) -> set[str]:
    """Return the runs that weights were trained on, or their probabilities fitted on."""
    card = needed_card(weights, "another checkpoint_path")
    return {*(card.get("trained_on") or ()), *card.get("calibration", {}).get("fitted_on", ())}


def refuse_other_settings(options: argparse.Namespace) -> None:
    """Write the settings that the rounds depend on, or compare them with those of before.

    Raises:
        InputError: names the first difference, or a file of settings cannot be read.
    """
    left_out = ("work_dir", "rounds", "least_gain")
    settings = {key: value for key, value in vars(options).items() if key not in left_out}
    settings |= {key: read_arguments(settings[key]) for key in ARGUMENTS if settings[key]}
    beside = options.checkpoint_path.with_name(SECOND_LOOK)
    settings["weights_sha256"] = [sha256_of(path) for path in (options.checkpoint_path, beside) if path.exists()]
    settings = json.loads(json.dumps(settings, default=str))
    path = options.work_dir / SETTINGS
    if path.exists():
        found = first_difference(json.loads(path.read_text()), settings)
        if found:
            raise InputError(f"{options.work_dir} was begun with other settings: {found}. Set another work_dir.")
        return
    with write_atomically(path) as file:
        file.write(json.dumps(settings, indent=4) + "\n")


def read_arguments(path: Path) -> Any:
    """Return the settings in a JSON file.

    Raises:
        InputError: it is missing or no JSON.
    """
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path}: {error}. Give a JSON file of settings.") from error


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work_dir", type=path_of, required=True, help="where everything is written")
    parser.add_argument("--checkpoint_path", type=path_of, required=True, help="the weights to begin with")
    parser.add_argument("--labelled_dir", type=path_of, nargs="+", required=True, help="annotated tomograms")
    parser.add_argument("--unlabelled_dir", type=path_of, required=True, help="tomograms to label")
    parser.add_argument("--tomogram_kind", help="of copick projects")
    for name, what in zip(SPLIT, ("are scored", "fit probabilities", "train the second look"), strict=True):
        parser.add_argument(f"--{name}", nargs="+", required=True, metavar="RUN", help=f"annotated runs that {what}")
    parser.add_argument("--excluded_runs", nargs="+", default=[], metavar="RUN", help="annotated runs to leave out")
    parser.add_argument("--rounds", type=int, default=3, help="the most (default: %(default)s)")
    parser.add_argument("--least_gain", type=float, default=0.005, help="of mean F1, to go on (default: %(default)s)")
    parser.add_argument("--accept", type=float, default=ACCEPT, help="lowest score of a label (default: %(default)s)")
    parser.add_argument(
        "--uncertain", type=float, default=UNCERTAIN, help="lowest score of what is ignored (default: %(default)s)"
    )
    for name, what in (("training",) * 2, ("second_look", "second look"), ("inference", "inference and evaluation")):
        parser.add_argument(f"--{name}_args", type=path_of, metavar="FILE", help=f"JSON with more settings of {what}")
    return parser


def as_text(paths: Sequence[Path]) -> list[str]:
    """Return paths as a command line takes a list of them."""
    return [str(path) for path in paths]


def path_of(text: str) -> Path:
    """Return an absolute path, because the commands run in another folder."""
    return Path(text).absolute()


if __name__ == "__main__":
    sys.exit(main())
