"""The command ``python -m scripts.pages OUTPUT_DIR``: rewrite the page over all runs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from scripts.errors import InputError, run_tool
from scripts.pages.batch_page import write_batch_page
from scripts.species import SPECIES_FILE, read_species


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m scripts.pages", description="Write the page over all runs.")
    parser.add_argument("output_dir", metavar="OUTPUT_DIR", help="holds one folder with a picks.csv per run")
    parser.add_argument("--species", default=SPECIES_FILE, help="the species file (default: the bundle's own)")
    parser.add_argument("--thresholds", default=None, help="JSON file of the thresholds that were in use")
    options = parser.parse_args(arguments)
    return run_tool(lambda: print_page(options))


def print_page(options: argparse.Namespace) -> None:
    """Write the page and print its path.

    Raises:
        InputError: there is no such folder, or its tables do not fit the species.
    """
    if not Path(options.output_dir).is_dir():
        raise InputError(f"cannot read {options.output_dir}: no such folder.")
    print(write_batch_page(options.output_dir, read_species(options.species, options.thresholds)))


if __name__ == "__main__":
    sys.exit(main())
