"""The command ``python -m scripts.scoring TRUTH.csv PICKS.csv``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from scripts.errors import InputError, comma_separated, first_few, run_tool
from scripts.picks import read_csv
from scripts.picks.kaggle_csv import ANNOTATED_FILE
from scripts.scoring.frames import common_shift_of, other_frame_of, pairs_of
from scripts.scoring.matching import MODES
from scripts.scoring.metrics import format_table, score_picks
from scripts.species import SPECIES_FILE, read_species


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m scripts.scoring", description="Score a table of picks.")
    parser.add_argument(
        "truth", metavar="TRUTH.csv", help="annotations: id,experiment,particle_type,x,y,z in ångströms"
    )
    parser.add_argument("picks", metavar="PICKS.csv", help="picks, in the same form")
    parser.add_argument(
        "--runs", type=comma_separated, metavar="A,B", help="tomograms without particles, whose picks are all wrong"
    )
    parser.add_argument("--mode", choices=MODES, default=MODES[0], help="how picks are matched (default: %(default)s)")
    parser.add_argument("--species", default=SPECIES_FILE, help="the species file (default: the bundle's own)")
    options = parser.parse_args(arguments)
    return run_tool(lambda: print_score(options))


def print_score(options: argparse.Namespace) -> None:
    """Print the table of the score and, with all its digits, the total.

    Raises:
        InputError: a file cannot be read or does not fit the species, or the picks are of other runs or match the truth
            in another frame.
    """
    species_set = read_species(options.species)
    truth, picks = read_csv(options.truth), read_csv(options.picks)
    looked_at = [pick for pick in picks if pick.weight > 0]  # rejected ones have 0, uncertain ones nan
    if len(looked_at) < len(picks):
        left_out = len(picks) - len(looked_at)
        print(f"left out: {left_out} picks that are rejected or uncertain (weight 0 or none)", file=sys.stderr)
    picks = looked_at
    score = score_picks(
        truth,
        picks,
        species_set,
        options.mode,
        runs=options.runs,
        truth_source=options.truth,
        picks_source=options.picks,
    )
    if picks and score.dropped == len(picks):
        here, there = (first_few(sorted({pick.run for pick in one})) for one in (picks, truth))
        raise InputError(f"{options.picks} has none of the runs of {options.truth}: it has {here}, not {there}.")
    annotated = Path(options.truth).with_name(ANNOTATED_FILE)
    if annotated.exists():
        found = f"{annotated} is not applied here: what was not annotated counts as empty; run evaluating applies it"
        print(f"warning: {found}.", file=sys.stderr)
    pairs = pairs_of(truth, picks, species_set)
    frame = other_frame_of(pairs, species_set.voxel_size_angstrom)
    if frame:
        raise InputError(f"{options.picks} matches {options.truth} only if {frame}.")
    shift = common_shift_of(pairs)
    if shift is not None:
        moved = f"moved by {', '.join(f'{value:.0f}' for value in shift)} Å in x, y, z"
        found = f"{options.picks} matches {options.truth} only if {moved}: do both count from the first voxel?"
        print(f"warning: {found}", file=sys.stderr)
    print(format_table(score))
    if score.dropped:
        print(f"left out: {score.dropped} picks of runs without truth ({', '.join(score.dropped_runs)})")
    print(f"score {score.total!r}")


if __name__ == "__main__":
    sys.exit(main())
