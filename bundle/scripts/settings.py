"""What the settings of training, evaluation and inference may be: one table, by the names that the configs give them.

Settings that depend on files, species or units (``operating_point``, ``slab_z_angstrom``) are checked where they are
used.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from scripts.errors import is_finite_number
from scripts.rules import TRUE_OR_FALSE, Rule, a_number, list_of, one_of, or_null, text

AXES = ("z", "y", "x")
MOST_SEED = 2**32 - 1  # of NumPy's generators

FOLDER, FILE = text("a folder"), text("a file")
ONE_NAME = Rule("a name", lambda value: isinstance(value, str | int | float) and not isinstance(value, bool))
NAMES = list_of(ONE_NAME, "a name, or a list of names", alone=True)
SHARE, POSITIVE, NOT_NEGATIVE = a_number(0, 1), a_number(above=0), a_number(0)
COUNT, COUNT_FROM_0 = a_number(1, whole=True), a_number(0, whole=True)
SIZE = a_number(1, count=3, whole=True)._replace(words="three whole numbers (z, y, x), each 1 or more")


def _are_rising(values: Any) -> bool:
    if not (isinstance(values, list | tuple) and values and all(map(a_number(0, below=1).holds, values))):
        return False
    return all(one < following for one, following in pairwise(values))


def _are_axes(values: Any) -> bool:
    named = isinstance(values, str | list | tuple) and all(isinstance(axis, str) and axis in AXES for axis in values)
    return named and len(set(values)) == len(values)


def _are_numbers_by_name(values: Any) -> bool:
    return isinstance(values, Mapping) and all(map(POSITIVE.holds, values.values()))


def _is_device(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"(cpu|cuda|mps|xpu)(:\d+)?", value) is not None


def _is_file_or_table(value: Any) -> bool:
    return isinstance(value, str | Mapping)


SETTINGS: Mapping[str, Rule] = {
    **dict.fromkeys(("bundle_root", "output_dir", "proposals_dir"), FOLDER),
    **dict.fromkeys(("species_path", "interest_table", "install_path"), or_null(FILE)),
    **dict.fromkeys(("second_look_path", "calibration_path"), or_null(FILE)),
    "dataset_dir": list_of(FOLDER, "a folder, a copick project, one tomogram, or a list of them", alone=True),
    "checkpoint_path": or_null(list_of(FILE, "a file of weights, or a list of them", alone=True)),
    "cache_dir": or_null(FOLDER),
    "mask_path": or_null(text("a path with {run} for the run's name")),
    **dict.fromkeys(("tomogram_kind", "validation_runs"), or_null(NAMES)),
    "excluded_runs": NAMES,
    **dict.fromkeys(("truth_user_id", "truth_session_id"), or_null(ONE_NAME)),
    "annotated": or_null(Rule("a file, or entries by run", _is_file_or_table)),
    "probability_thresholds": or_null(Rule("a table by name, or a file", _is_file_or_table)),
    **dict.fromkeys(
        (
            *("start_from_other_species", "load_pretrain", "resample", "allow_missing_chunks", "invert", "compile"),
            *("allow_truth_near_origin", "resume", "record_thresholds", "write_to_project", "overwrite"),
        ),
        TRUE_OR_FALSE,
    ),
    "voxel_size_angstrom": or_null(POSITIVE),
    "voxel_size_tolerance": a_number(0, below=1),
    "voxel_offset": one_of(0, 0.5),
    "validation_share": or_null(a_number(above=0, most=0.5)),
    **dict.fromkeys(("epochs", "windows_per_epoch", "batch_size", "least_truths"), COUNT),
    **dict.fromkeys(("warmup_steps", "num_workers", "val_interval", "inference_overlap_voxels"), COUNT_FROM_0),
    "window_size": SIZE,
    "inference_window_size": or_null(SIZE),
    **dict.fromkeys(("particle_share", "interest_share", "rate_of_old_layers"), SHARE),
    **dict.fromkeys(("learning_rate", "gradient_norm", "memory_gib"), POSITIVE),
    **dict.fromkeys(("weight_decay", "merge_distance_in_radii", "mask_radius_angstrom"), NOT_NEGATIVE),
    "averaging_momentum": a_number(above=0, most=1),
    "seed": a_number(0, MOST_SEED, whole=True),
    "rotations": a_number(1, 4, whole=True),
    "flips": Rule("a list of axes out of z, y and x, each once", _are_axes),
    "window_species": one_of("weight", "rarity"),
    "precision": one_of("auto", "float32", "bfloat16", "float16"),
    "backend": one_of("auto", "torch", "openvino", "compile"),
    "ensemble": one_of("mean", "rank"),
    "mode": one_of("kaggle", "one_to_one"),
    "sweep_thresholds": Rule("a list of rising probabilities, each from 0 to less than 1", _are_rising),
    "second_look": one_of("auto", True, False),
    "second_look_copies": a_number(1, 8, whole=True),
    "page_megabytes": Rule(
        "0, or a number from 1", lambda value: is_finite_number(value) and (value == 0 or value >= 1)
    ),
    "pick_formats": list_of(text("a format"), "a list of names of formats"),
    "pick_binning": or_null(POSITIVE),
    "folds": a_number(2, whole=True),
    "only_folds": or_null(list_of(COUNT_FROM_0, "a number from 0, or a list of them", alone=True)),
    "crop_size": COUNT,
    "expected_particles": or_null(Rule("a number above 0 for every species, by name", _are_numbers_by_name)),
    "device": Rule("cpu, cuda, cuda:0 or another of torch's", _is_device),
    "auxiliary_levels": list_of(text("a module"), "a list of names of modules"),
}


def check_setting(name: str, value: Any) -> None:
    """Raise ``InputError`` if a setting of `SETTINGS` cannot have the value; the message says what it may be."""
    SETTINGS[name].require(name, value)
