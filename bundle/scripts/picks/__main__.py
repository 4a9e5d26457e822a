"""The command ``python -m scripts.picks``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from scripts.coordinates import to_zyx_vox, voxel_size_of
from scripts.errors import (
    InputError,
    finite_number,
    positive_number,
    positive_whole_number,
    run_tool,
)
from scripts.picks.bounds import check_voxels
from scripts.picks.context import Facts
from scripts.picks.conversion import convert
from scripts.picks.corrections import count_annotations, merge_annotations
from scripts.picks.formats import FORMATS
from scripts.picks.fusion import fuse_picks
from scripts.picks.kaggle_csv import read_csv, write_csv
from scripts.picks.pick import known_zyx_vox_of, xyz_angstrom_of
from scripts.species import SPECIES_FILE, read_species


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    options = make_parser().parse_args(arguments)
    return run_tool(lambda: options.work(options))


def print_conversion(options: argparse.Namespace) -> None:
    """Convert picks and print what was written.

    Raises:
        InputError: see `convert`.
    """
    facts = Facts(**{name: getattr(options, name) for name in Facts.__dataclass_fields__})
    if options.volume_shape is not None:
        facts = replace(facts, volume_shape=tuple(options.volume_shape))
    written = convert(
        options.source,
        options.target,
        facts=_with_tomogram(facts),
        from_format=options.from_format,
        to_format=options.to_format,
        min_score=options.min_score,
        allow_outside=options.allow_outside,
        overwrite=options.overwrite,
    )
    for path, count in written.items():
        print(f"{path}: {count} picks")


def print_fusion(options: argparse.Namespace) -> None:
    """Fuse tables of picks and print what was written.

    Raises:
        InputError: a table cannot be read, see `fuse_picks`, or the file to write is there already.
    """
    tables = [read_csv(path) for path in options.tables]
    _refuse_existing(options)
    fused = fuse_picks(tables, options.weights, options.distance_angstrom)
    kept = [pick for pick in fused if options.min_score is None or pick.score >= options.min_score]
    write_csv(options.target, kept)
    print(f"{options.target}: {len(kept)} picks out of {' + '.join(str(len(table)) for table in tables)}")


def print_merge(options: argparse.Namespace) -> None:
    """Merge the annotations of several runs and print what was written.

    Raises:
        InputError: a table cannot be read, see `merge_annotations`, or the file to write is there already.
    """
    annotations = merge_annotations({path: read_csv(path) for path in options.tables})
    _refuse_existing(options)
    write_csv(options.target, annotations)
    runs = len({one.run for one in annotations})
    print(f"{options.target}: {count_annotations(annotations)}, in {runs} runs")


def print_labels(options: argparse.Namespace) -> None:
    """Turn a corrected label volume into a table of annotations and print what was written.

    Raises:
        InputError: a file cannot be used, see `annotations_of_labels`, or the file to write is there already.
    """
    from scripts.picks.label_volume import annotations_of_labels  # imported here because they take seconds
    from scripts.volumes.labels import as_labels
    from scripts.volumes.reading import read_tomogram, stem_of

    _refuse_existing(options)
    path, species_set = options.labels, read_species(options.species)
    run = options.run or stem_of(path)
    picks = [] if options.picks is None else [pick for pick in read_csv(options.picks) if pick.run == run]
    if options.picks is not None and not picks:
        raise InputError(f"{options.picks} has no pick of run '{run}': give --run NAME.")
    volume = read_tomogram(path, options.voxel_size_angstrom)
    labels, size = as_labels(np.asarray(volume.data), path), voxel_size_of(volume.affine)
    grid = f"{path} has voxels of {size:g} Å, with voxel_offset {options.voxel_offset:g}: state what the picks have"
    computed = to_zyx_vox(xyz_angstrom_of(picks), size, options.voxel_offset)
    check_voxels(known_zyx_vox_of(picks), computed, str(options.picks), grid)
    annotations = annotations_of_labels(labels, picks, species_set, run, size, options.voxel_offset, path)
    write_csv(options.target, annotations)
    print(f"{options.target}: {count_annotations(annotations)}")


def _refuse_existing(options: argparse.Namespace) -> None:
    if Path(options.target).exists() and not options.overwrite:
        raise InputError(f"{options.target} is there already; choose another name, or give --overwrite.")


def _with_tomogram(facts: Facts) -> Facts:
    """Take shape and voxel size from the tomogram's header, except where the user states them."""
    if facts.tomogram is None:
        return facts
    from scripts.volumes.ome_zarr import is_zarr, level_sizes  # imported here because they take seconds
    from scripts.volumes.reading import read_extent

    sizes = level_sizes(Path(facts.tomogram)) if is_zarr(Path(facts.tomogram)) else {}
    if len(sizes) > 1 and facts.voxel_size_angstrom is None:
        stated = ", ".join(f"{size:g}" for size in sizes.values())
        raise InputError(
            f"{facts.tomogram} has levels of {stated} Å: say with --voxel_size_angstrom which of them the picks are of "
            "(inference takes the one nearest to the network's voxel size)."
        )
    shape, voxel_size = read_extent(facts.tomogram, facts.voxel_size_angstrom)
    return replace(facts, volume_shape=facts.volume_shape or shape, voxel_size_angstrom=voxel_size)


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(prog="python -m scripts.picks", description="Files of picks.")
    commands = parser.add_subparsers(required=True, metavar="convert|fuse|merge|labels")
    _add_fusion(commands)
    _add_merge(commands)
    _add_labels(commands)
    command = commands.add_parser(
        "convert", help="from one format to another", description="Convert picks; see docs/reference/coordinates.md."
    )
    command.add_argument("source", metavar="IN", help="a file of picks, or a copick project")
    command.add_argument(
        "target", metavar="OUT",
        help=f"a file, a copick project, or a folder, which gets one file ({_formats_with('table')}), a file per "
        f"species with all runs ({_formats_with('species')}), or a folder per run with a file per species "
        f"({_formats_with('run')})",
    )  # fmt: skip
    command.add_argument("--to", dest="to_format", metavar="FORMAT", help=f"of OUT: {', '.join(FORMATS)}")
    command.add_argument("--from", dest="from_format", metavar="FORMAT", help="of IN, where its name does not tell")
    command.add_argument("--run", metavar="NAME", help="the run, where IN does not say; else only this one")
    command.add_argument("--species", metavar="NAME", help="the species, where IN does not say; else only this one")
    command.add_argument("--tomogram", metavar="FILE", help="takes shape and voxel size from its header")
    command.add_argument("--voxel_size_angstrom", type=positive_number, metavar="SIZE", help="of the tomogram")
    command.add_argument(
        "--volume_shape", type=positive_whole_number, nargs=3, metavar=("Z", "Y", "X"), help="voxels of the tomogram"
    )
    command.add_argument("--voxel_offset", type=finite_number, default=0.0, metavar="VOXELS", help="0 (default) or 0.5")
    command.add_argument(
        "--binning",
        type=positive_number,
        metavar="PIXELS",
        help="pixels in STAR files per voxel (default: as the file says, else 1, with a warning)",
    )
    command.add_argument("--user_id", metavar="ID", help="who picked, in copick: reads only theirs, and writes as them")
    command.add_argument("--session_id", metavar="ID", help="which session, in copick: likewise")
    command.add_argument("--min_score", type=finite_number, metavar="SCORE", help="leave out picks with a lower score")
    command.add_argument("--allow_outside", action="store_true", help="go on where most points lie outside")
    command.add_argument("--overwrite", action="store_true", help="replace files")
    command.set_defaults(work=print_conversion)
    return parser


def _formats_with(one_file_per: str) -> str:
    """Return the names of the formats that write such files into a folder; copick writes into a project."""
    return ", ".join(one.name for one in FORMATS.values() if one.one_file_per == one_file_per and one.name != "copick")


def _add_fusion(commands: Any) -> None:
    command = commands.add_parser(
        "fuse", help="of several models to one table", description="Fuse picks; see docs/how_to/ensembles.md."
    )
    command.add_argument("target", metavar="OUT.csv", help="the table to write")
    command.add_argument("tables", metavar="IN.csv", nargs="+", help="a table per model, as inference writes them")
    command.add_argument(
        "--weights", type=positive_number, nargs="+", metavar="WEIGHT", help="of the tables (default: equal)"
    )
    command.add_argument(
        "--distance_angstrom",
        type=positive_number,
        metavar="DISTANCE",
        help="of one particle's picks (default: its radius)",
    )
    command.add_argument(
        "--min_score", type=finite_number, metavar="SCORE", help="leave out particles with a lower score"
    )
    command.add_argument("--overwrite", action="store_true", help="replace the table")
    command.set_defaults(work=print_fusion)


def _add_merge(commands: Any) -> None:
    command = commands.add_parser(
        "merge", help="corrected tables of several runs to one", description="Merge tables; see docs/how_to/report.md."
    )
    command.add_argument("target", metavar="OUT.csv", help="the table to write: truth.csv beside the tomograms")
    command.add_argument("tables", metavar="IN.csv", nargs="+", help="corrected tables, of different runs")
    command.add_argument("--overwrite", action="store_true", help="replace the table")
    command.set_defaults(work=print_merge)


def _add_labels(commands: Any) -> None:
    command = commands.add_parser(
        "labels",
        help="a corrected label volume to a table",
        description="Turn a label volume into a corrected table; see docs/how_to/monai_label.md.",
    )
    command.add_argument("target", metavar="OUT.csv", help="the table to write")
    command.add_argument("labels", metavar="LABELS", help="the label volume of a run")
    command.add_argument("--picks", metavar="PICKS.csv", help="that the labels were painted from")
    command.add_argument("--run", metavar="NAME", help="the run (default: the name of the label volume)")
    command.add_argument("--species", default=SPECIES_FILE, metavar="FILE", help="of the labels (default: ours)")
    command.add_argument(
        "--voxel_size_angstrom", type=positive_number, metavar="SIZE", help="where the header has none"
    )
    command.add_argument("--voxel_offset", type=finite_number, default=0.0, metavar="VOXELS", help="0 (default) or 0.5")
    command.add_argument("--overwrite", action="store_true", help="replace the table")
    command.set_defaults(work=print_labels)


if __name__ == "__main__":
    sys.exit(main())
