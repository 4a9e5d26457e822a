"""The command ``python -m scripts.fetch``: copies remote tomograms and picks to this disk.

An OME-Zarr becomes a Zarr folder, a copick project a project with the same runs. Complete data is not fetched again,
and nothing is overwritten.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from scripts.atomic_files import lock_folder, open_lock, require_writable
from scripts.errors import InputError, comma_separated, positive_number, run_tool, without_user
from scripts.fetch.copick_copy import Choice, fetch_project, in_words, size_of
from scripts.fetch.ome_zarr_copy import choose_level, fetch_level
from scripts.fetch.stores import fact_of, open_source, secrets_in
from scripts.file_names import fault_of_name
from scripts.species import SPECIES_FILE, read_species

FETCH_LOCK = ".fetch.lock"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    options = make_parser().parse_args(arguments)

    def work() -> None:
        size = options.wanted_voxel_size_angstrom or read_species(SPECIES_FILE).voxel_size_angstrom
        choice = Choice(size, options.kind, options.runs, options.picks, options.allow_missing_chunks)
        fetch(options.source, options.folder, choice, options.storage_options)

    return run_tool(work, resumable=True)


def fetch(source: str, folder: Path, choice: Choice, storage_options: Mapping[str, Any] | None = None) -> None:
    """Copy an OME-Zarr or a copick project to this disk, and print one line per tomogram or run.

    Args:
        source: the URL of an OME-Zarr, or the path of a copick config.
        folder: where to copy it; created if needed.
        choice: what to fetch.
        storage_options: options of fsspec's store, for a URL.

    Raises:
        InputError: nothing can be fetched, or, after the last run of a project, some runs failed.
    """
    is_address = "://" in source
    if not is_address and not (source.endswith(".json") and Path(source).is_file()):
        raise InputError(
            f"{source} is neither an address (s3://bucket/x.zarr) nor the path of a copick config (*.json)."
        )
    if is_address and (choice.kinds, choice.runs, choice.picks) != (None, None, Choice.picks):
        raise InputError(
            f"{without_user(source)} is one tomogram: leave out --kind, --runs and --picks, which are for projects."
        )
    if storage_options and not is_address:
        raise InputError(f"{source} states its stores' options itself: leave out --storage_options.")
    require_writable(folder)
    with open_lock(folder / FETCH_LOCK) as lock:
        lock_folder(lock, "fetch", "choose another folder")
        try:
            if is_address:
                fetch_address(source, folder, choice, storage_options or {})
            else:
                fetch_project(Path(source), folder, choice)
        except OSError as error:
            fact = f"cannot fetch {without_user(source)} to {folder}: {fact_of(error, secrets_in(storage_options))}"
            raise InputError(f"{fact}. Check the address, its options and the folder.") from error


def fetch_address(url: str, folder: Path, choice: Choice, storage_options: Mapping[str, Any]) -> None:
    """Copy the OME-Zarr at a URL to ``folder/<name>.zarr``.

    Raises:
        InputError: it cannot be read, or something else has that name.
    """
    source = open_source(url, storage_options)
    name = unquote(source.url.rpartition("/")[2])
    if fault_of_name(name):
        raise InputError(f"{source.url} does not end in the name of a tomogram: {name!r}.")
    level = choose_level(source, choice.voxel_size_angstrom)
    target = folder / (name if name.endswith(".zarr") else f"{name}.zarr")
    is_new = fetch_level(source, level, target, choice.allow_missing_chunks)
    print(f"{target}: {in_words(size_of(level), is_new)}", flush=True)


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(prog="python -m scripts.fetch", description="Tomograms that are elsewhere.")
    parser.add_argument(
        "source", metavar="SOURCE", help="address of an OME-Zarr (s3://...), or a copick config (*.json)"
    )
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="where to, on this disk")
    parser.add_argument("--kind", type=comma_separated, metavar="A,B", help="of tomograms in a project (default: all)")
    parser.add_argument("--runs", type=comma_separated, metavar="A,B", help="of a project (default: all)")
    parser.add_argument(
        "--wanted_voxel_size_angstrom",
        type=positive_number,
        metavar="SIZE",
        help="the nearest is fetched (default: the model's)",
    )
    parser.add_argument(
        "--picks",
        type=_names_or_none,
        default=Choice.picks,
        metavar="USER/SESSION,...",
        help="of a project (default: all; or none)",
    )
    parser.add_argument(
        "--storage_options", type=_object, metavar="JSON", help="for the store, e.g. '{\"anon\": true}'"
    )
    parser.add_argument("--allow_missing_chunks", action="store_true", help="chunks that are not stored are empty")
    return parser


def _names_or_none(text: str) -> list[str]:
    return [] if text == "none" else comma_separated(text)


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError("must be a JSON object")  # not the text itself, which may hold credentials
    return value


if __name__ == "__main__":
    sys.exit(main())
