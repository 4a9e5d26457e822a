"""The settings of a simulated dataset: what each must be, and how ranges among them are drawn.

A number may be a range ``{"from": a, "to": b}``: it is drawn from a uniform distribution for every run.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from scripts.copick_tree import session_file, tomogram_path
from scripts.errors import InputError
from scripts.rules import TRUE_OR_FALSE, Rule, a_number, one_of, or_null
from scripts.settings import SETTINGS
from scripts.simulation.imaging import Imaging
from scripts.species import SpeciesSet

Settings = Mapping[str, Any]


SETTINGS_TABLE = Rule("a table of settings", lambda value: isinstance(value, Mapping))
PAIR = a_number(count=2)
DENSITY = a_number(-100_000, 100_000)  # a range that begins below 0 leaves some runs without any
DATASET = {
    "runs": a_number(1, 100_000, whole=True),
    "run_name": Rule("a text", lambda value: isinstance(value, str)),
    "seed": SETTINGS["seed"],
    "workers": or_null(a_number(0, whole=True)),
    "shape": a_number(16, count=3, whole=True),
    "voxel_size_angstrom": a_number(1, 100),
    "spacing_folder_angstrom": a_number(1, 100),
    "particles_are": one_of("bright", "dark"),
    "write_mrc": TRUE_OR_FALSE,
    **dict.fromkeys(("specimens", "distractors", "scene", "imaging"), SETTINGS_TABLE),
    "reconstructions": Rule(
        "a table of one reconstruction or more", lambda value: SETTINGS_TABLE.holds(value) and bool(value)
    ),
}
CROWD = {
    "sources": Rule(
        "a list of tables, each of a map, a model or a phantom",
        lambda value: isinstance(value, list) and bool(value) and all(map(SETTINGS_TABLE.holds, value)),
    ),
    "per_square_micrometer": DENSITY,
    "companion_share": a_number(0, 1),
    "companion_distance_angstrom": a_number(0, count=2),
}
COMPANIONS = ("companion_share", "companion_distance_angstrom")  # may both be left out
SCENE = {
    "crowding": a_number(-1000, 1000),
    "count_variation": a_number(0, 5),
    "specimen_scale": a_number(0.1, 10),
    "ice_thickness_angstrom": a_number(1),
    "slab_tilt_y_degree": a_number(-80, 80),
    "slab_tilt_x_degree": a_number(-80, 80),
    "ice_grain_kda_per_voxel": a_number(0),
    "vesicles_per_square_micrometer": DENSITY,
    "vesicle_radius_angstrom": a_number(1, count=2),
    "vesicle_layers": a_number(1, 100, count=2, whole=True),
    "membranes_per_square_micrometer": DENSITY,
    "membrane_radius_angstrom": a_number(1, count=2),
    "microtubules_per_square_micrometer": DENSITY,
    "actin_filaments_per_square_micrometer": DENSITY,
    "specks_per_square_micrometer": DENSITY,
    "speck_mass_kda": a_number(1, 100_000, count=2),
    "gold_per_square_micrometer": DENSITY,
    "gold_radius_angstrom": a_number(1, count=2),
    "carbon_probability": a_number(0, 1),
    "carbon_share": a_number(0, 1),
    "carbon_thickness_angstrom": a_number(0),
}
RECONSTRUCTION = {"noise_share": a_number(0), "resolution_angstrom": a_number(0)}
NOT_OF_IMAGING = {  # of `Imaging`, and set elsewhere
    "ice_thickness_angstrom": "scene#ice_thickness_angstrom",
    "resolution_angstrom": "reconstructions#KIND#resolution_angstrom",
}


def check_settings(settings: Settings, species_set: SpeciesSet) -> None:
    """Check the settings, except for the files that they name.

    Args:
        settings: those of `simulation.dataset.simulate_dataset`, with ``runs``, ``run_name``, ``seed`` and ``workers``.
        species_set: the species.

    Raises:
        InputError: a setting is not valid; the message states it, its value, and what it must be.
    """
    _check_table("", settings, DATASET)
    for choose in (min, max):  # the ends of every range
        ends = drawn(settings, choose)
        for group in ("specimens", "distractors"):
            for name, crowd in ends[group].items():
                _check_table(f"{group}#{name}", crowd, CROWD, COMPANIONS)
                if crowd.get("companion_share") and "companion_distance_angstrom" not in crowd:
                    raise InputError(f"{group}#{name} has a companion_share: set its companion_distance_angstrom, too.")
        _check_table("scene", ends["scene"], SCENE)
        for kind, options in ends["reconstructions"].items():
            _check_table(f"reconstructions#{kind}", options, RECONSTRUCTION)
    check_imaging(settings["imaging"])
    _check_names(settings, species_set)


def check_imaging(settings: Settings) -> None:
    """Check the settings of the imaging, with both ends of every range.

    Raises:
        InputError: one of them is not possible.
    """
    if elsewhere := sorted(set(NOT_OF_IMAGING) & set(settings)):
        raise InputError(f"imaging has no setting {elsewhere[0]}: set {NOT_OF_IMAGING[elsewhere[0]]}.")
    for choose in (min, max):
        Imaging.of({**drawn(settings, choose, "imaging"), "ice_thickness_angstrom": 1000.0})


def _check_table(place: str, values: Any, rules: Mapping[str, Rule], optional: Collection[str] = ()) -> None:
    """Check that a table has exactly the settings that have rules, and that each holds."""
    SETTINGS_TABLE.require(place, values)
    if unknown := sorted(set(values) - set(rules)):
        raise InputError(
            f"{place or 'a simulation'} has no setting {', '.join(unknown)}; it has {', '.join(sorted(rules))}."
        )
    if missing := sorted(set(rules) - set(optional) - set(values)):
        raise InputError(f"{place or 'a simulation'} needs the setting {missing[0]}.")
    for name, value in values.items():
        rules[name].require(f"{place}#{name}".lstrip("#"), value)


def _check_names(settings: Settings, species_set: SpeciesSet) -> None:
    """Check that truth can be written of every specimen, and tomograms of every kind."""
    names = {species.name for species in species_set.known}
    if unknown := sorted(set(settings["specimens"]) - names):
        raise InputError(f"specimens names {', '.join(unknown)}, which species.json does not: distractors may.")
    placed = {name for name, crowd in settings["distractors"].items() if crowd["per_square_micrometer"] != 0}
    if twice := sorted(placed & set(settings["specimens"])):
        raise InputError(
            f"distractors names {', '.join(twice)}, as specimens does: set its per_square_micrometer to 0."
        )
    for name in names:
        session_file("*", "*", name)
    for kind in settings["reconstructions"]:
        tomogram_path("", "run", settings["spacing_folder_angstrom"], kind)


def drawn(settings: Any, choose: Callable[[float, float], float], place: str = "") -> Any:
    """Return settings with a number for every range in them, in their order.

    Args:
        settings: perhaps nested.
        choose: returns a number between two, for example ``random.uniform``; ``min`` and ``max`` give the ends.
        place: of the settings, for messages.

    Raises:
        InputError: a range does not have exactly the keys ``from`` and ``to``, or they are no rising numbers.
    """
    if isinstance(settings, Mapping):
        if {"from", "to"} & set(settings):
            if set(settings) != {"from", "to"} or not PAIR.holds([settings["from"], settings["to"]]):
                given = json.dumps(dict(settings))
                raise InputError(f'{place}: a range is {{"from": a, "to": b}}, {PAIR.words}; got {given}.')
            return float(choose(settings["from"], settings["to"]))
        return {name: drawn(value, choose, f"{place}#{name}".lstrip("#")) for name, value in settings.items()}
    if isinstance(settings, Sequence) and not isinstance(settings, str):
        return [drawn(value, choose, place) for value in settings]
    return settings
