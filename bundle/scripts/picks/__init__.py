"""Picks: the table in memory, and the file formats of many programs that it is read from and written to.

``pick`` defines the table, ``formats`` lists the formats, which have one module each, and ``conversion`` converts from
any format to any other (on the command line: ``python -m scripts.picks convert``). Only `scripts.coordinates` knows how
the frames and units of the formats differ. Every file is written under a temporary name first, so that a full disk or a
stopped run never leaves an incomplete file under the final name.
"""

from scripts.picks.bounds import check_inside, check_unit
from scripts.picks.context import Facts
from scripts.picks.conversion import convert, warn_of_others
from scripts.picks.copick_json import read_copick_folder, read_copick_json, write_copick_json
from scripts.picks.formats import FORMATS, check_formats, write_run_folder
from scripts.picks.kaggle_csv import read_csv, write_csv, xyz_text
from scripts.picks.pick import Pick, as_records, by_species, check_truth, from_records, xyz_angstrom_of
from scripts.picks.relion5_star import read_relion5_star, write_relion5_star

__all__ = [
    "FORMATS",
    "Facts",
    "Pick",
    "as_records",
    "by_species",
    "check_formats",
    "check_inside",
    "check_truth",
    "check_unit",
    "convert",
    "from_records",
    "read_copick_folder",
    "read_copick_json",
    "read_csv",
    "read_relion5_star",
    "warn_of_others",
    "write_copick_json",
    "write_csv",
    "write_relion5_star",
    "write_run_folder",
    "xyz_angstrom_of",
    "xyz_text",
]
