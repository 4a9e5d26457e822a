"""Check a bundle's folder before it is published: ``python publish/check_bundle.py FOLDER [--results PAGE]``.

Every check prints a line; the first one that fails ends the program with one line and status 1. Checks that only read
files come first; MONAI, and with it the bundle's own code, runs only if they pass.
"""

from __future__ import annotations

import argparse
import logging
import sys
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

from check_configs import check_configs, check_logging
from check_files import check_layout, check_personal_paths, check_sizes, check_weights
from check_metadata import check_numbers, check_packages, check_schema, check_species
from refusal import Refusal
from sbom import check_sbom

Check = Callable[[Path], str]


def reading_checks(results: Path | None = None) -> dict[str, Check]:
    """Return the checks that only read files, by subject."""
    return {
        "files": check_layout,
        "sizes": check_sizes,
        "personal paths": check_personal_paths,
        "metadata": check_schema,
        "species and versions": check_species,
        "packages": check_packages,
        "SBOM": check_sbom,
        "scores": partial(check_numbers, results=results),
        "configs": check_configs,
        "logging.conf": check_logging,
        "weights": check_weights,
    }


def running_checks() -> dict[str, Check]:
    """Return the checks that run the bundle."""
    from check_monai import check_in_and_out, check_properties, check_torchscript  # MONAI takes seconds to import

    return {
        "properties": check_properties,
        "network in and out": check_in_and_out,
        "TorchScript": check_torchscript,
    }


def run_checks(bundle: Path, checks: dict[str, Check]) -> None:
    """Run checks and print a line for each.

    Raises:
        Refusal: the first that fails.
    """
    for name, check in checks.items():
        try:
            print(f"✓ {name}: {check(bundle)}", flush=True)
        except Refusal:
            raise
        except Exception as error:  # the bundle's own code can fail in any way
            first = root_of(error)
            raise Refusal(f"{name}: {type(first).__name__}: {' '.join(str(first).split())}") from error


def root_of(error: BaseException) -> BaseException:
    """Return the exception that an exception was first raised from."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def check_bundle(bundle: Path, results: Path | None = None) -> None:
    """Run all checks on a bundle's folder; its scripts are imported into this process.

    Raises:
        Refusal: the first that fails.
    """
    run_checks(bundle, reading_checks(results))
    sys.path.insert(0, str(bundle))
    run_checks(bundle, running_checks())


def main() -> int:
    """Check the folder that the command line names; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="the bundle")
    parser.add_argument("--results", type=Path, help="the page whose table of the shipped weights holds the scores")
    given = parser.parse_args()
    warnings.simplefilter("ignore")  # MONAI's warning that configs are programs; they are checked here
    logging.disable(logging.WARNING)  # MONAI repeats what it was called with
    try:
        check_bundle(given.folder.resolve(), given.results)
    except Refusal as reason:
        print(f"✗ {given.folder.name}: {reason}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
