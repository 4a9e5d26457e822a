"""The particle species and their settings, read from the species file."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from scripts.errors import InputError, is_finite_number
from scripts.file_names import require_file_name

SPECIES_FILE = Path(__file__).resolve().parents[1] / "configs" / "species.json"  # the bundle's own
NAME = re.compile(r"\w[\w .,+()-]{0,99}")  # a part of file names, and of configs
HIT_FRACTION = 0.5  # a pick within this fraction of a particle's radius of its centre finds it
MAX_LABELS = 255  # a label volume has one byte per voxel


@dataclass(frozen=True)
class Species:
    """One particle species.

    Attributes:
        name: as in files of picks and truth.
        label: value in a label volume, and number of the network's output channel, counted from 1. A species with label
            0 may occur in truth files but is not learned, picked or scored.
        radius_angstrom: radius of the particle; a pick within half of it of a particle's centre is a hit.
        target_radius_angstrom: radius of the sphere that is painted as training target.
        weight: weight of the species in the score.
        positive_weight: weight in the loss of a voxel inside a target, relative to one outside.
        probability_threshold: voxels with a higher probability belong to a particle.
        min_voxels: smaller blobs are dropped as noise.
    """

    name: str
    label: int
    radius_angstrom: float
    target_radius_angstrom: float
    weight: float
    positive_weight: float
    probability_threshold: float
    min_voxels: int


@dataclass(frozen=True)
class SpeciesSet:
    """All species of a species file, sorted by label, and the voxel size that the network works at.

    Attributes:
        voxel_size_angstrom: side of a voxel.
        known: every species of the file.
    """

    voxel_size_angstrom: float
    known: tuple[Species, ...]

    @property
    def picked(self) -> tuple[Species, ...]:
        """The species that the network picks; entry ``i`` has label ``i + 1``. Label 0 is known, not picked."""
        return tuple(species for species in self.known if species.label > 0)

    @property
    def names(self) -> list[str]:
        """Names of the picked species."""
        return [species.name for species in self.picked]

    def named(self, name: str, source: str) -> Species:
        """Return the species of that name.

        Raises:
            InputError: ``source`` (a file, perhaps with a row) names a species that is not in the species file.
        """
        for species in self.known:
            if species.name == name:
                return species
        known = [species.name for species in self.known]
        plain = {re.sub(r"[\W_]", "", one).casefold(): one for one in known}
        near = difflib.get_close_matches(re.sub(r"[\W_]", "", name).casefold(), plain, n=1, cutoff=0.8)
        hint = f"Did you mean '{plain[near[0]]}'?" if near else "Add it to species.json (label 0: known, not picked)."
        raise InputError(f"{source}: unknown species '{name}'; known are {', '.join(known)}. {hint}")


def read_species(
    path: str | Path | None, probability_thresholds: Mapping[str, float] | str | None = None
) -> SpeciesSet:
    """Read and check the species file.

    Args:
        path: JSON file with ``voxel_size_angstrom`` and ``species``: one object of `Species` values per name; None is
            refused.
        probability_thresholds: thresholds that replace those of the file, by name, or the path of a JSON file that
            holds them (as written by threshold fitting); None keeps those of the file.

    Raises:
        InputError: the file, a key or a value is missing or wrong.
    """
    if path is None:
        raise InputError("species_path is null: give the file of the species to learn.")
    species_set = parse_species(_read_json(path), path)
    check_targets(path, species_set)
    return species_set if probability_thresholds is None else with_thresholds(species_set, probability_thresholds)


def parse_species(content: Mapping[str, Any], path: str | Path) -> SpeciesSet:
    """Check the content of a species file.

    Args:
        content: the parsed JSON, see `read_species`.
        path: its name in messages.

    Raises:
        InputError: a key or a value is missing or wrong.
    """
    if "particles" in content and "species" not in content:
        raise InputError(f"{path}: the key 'particles' is now called 'species': rename it.")
    for key in ("voxel_size_angstrom", "species"):
        if key not in content:
            raise InputError(f"{path}: the key '{key}' is missing.")
    if not isinstance(content["species"], dict):
        raise InputError(f"{path}: species must be an object with one entry per species.")
    voxel_size_angstrom = content["voxel_size_angstrom"]
    if not (is_finite_number(voxel_size_angstrom) and voxel_size_angstrom > 0):
        raise InputError(f"{path}: voxel_size_angstrom must be positive; got {voxel_size_angstrom!r}.")
    known = tuple(sorted((_species(path, *item) for item in content["species"].items()), key=lambda one: one.label))
    labels = [species.label for species in known if species.label > 0]
    if len(labels) > MAX_LABELS:
        raise InputError(f"{path}: at most {MAX_LABELS} species can have a label; got {len(labels)}.")
    if not labels or labels != list(range(1, len(labels) + 1)):
        raise InputError(f"{path}: labels must be 1, 2, 3 ... without gaps or repeats; got {labels}.")
    return SpeciesSet(float(voxel_size_angstrom), known)


def check_targets(path: str | Path, species_set: SpeciesSet) -> None:
    """Check the radii of what is to be learned; those in the card of weights were.

    Raises:
        InputError: a target is smaller than half a voxel or larger than its particle, as radii in nm or voxels are.
    """
    least = species_set.voxel_size_angstrom / 2
    for species in species_set.picked:
        if not least <= species.target_radius_angstrom <= species.radius_angstrom:
            raise InputError(
                f"{path}: target_radius_angstrom of '{species.name}' must be from {least:g} (half a voxel) to "
                f"{species.radius_angstrom:g} (its radius_angstrom); got {species.target_radius_angstrom:g}. Give both "
                "radii in Å, not in nm or voxels."
            )


def with_thresholds(
    species_set: SpeciesSet, probability_thresholds: Mapping[str, float] | str, source: str = "probability_thresholds"
) -> SpeciesSet:
    """Return the species with other probability thresholds, given by name or as the path of a JSON file of them.

    Messages call thresholds that are given by name ``source``.

    Raises:
        InputError: a name is unknown, or a threshold is not a probability.
    """
    if isinstance(probability_thresholds, str):
        source, thresholds = probability_thresholds, _read_json(probability_thresholds)
    else:
        thresholds = dict(probability_thresholds)
    for name, threshold in thresholds.items():
        species_set.named(name, source)
        _check_threshold(source, name, threshold)
    return replace(
        species_set,
        known=tuple(
            replace(species, probability_threshold=float(thresholds.get(species.name, species.probability_threshold)))
            for species in species_set.known
        ),
    )


def positive_weights(species_set: SpeciesSet) -> list[float]:
    """Return the loss weight of a voxel inside a target, one per picked species."""
    return [species.positive_weight for species in species_set.picked]


def _species(path: str | Path, name: str, values: Any) -> Species:
    wanted = {field.name for field in fields(Species)} - {"name"}
    require_file_name(name, "species", str(path))
    if not NAME.fullmatch(name):
        raise InputError(f"{path}: '{name}' cannot name a species: files are called after it. Use letters and digits.")
    if not isinstance(values, dict):
        raise InputError(f"{path}: species '{name}' needs an object of settings; got {values!r}.")
    if set(values) != wanted:
        wrong = sorted(set(values) ^ wanted)
        raise InputError(f"{path}: species '{name}' needs exactly the keys {sorted(wanted)}; check {wrong}.")
    for key, value in values.items():
        if not is_finite_number(value):
            raise InputError(f"{path}: {key} of '{name}' must be a number; got {value!r}.")
    for key in ("radius_angstrom", "target_radius_angstrom", "positive_weight", "min_voxels"):
        if not values[key] > 0:
            raise InputError(f"{path}: {key} of '{name}' must be positive; got {values[key]}.")
    for key in ("label", "min_voxels"):
        if values[key] != int(values[key]) or values[key] < 0:
            raise InputError(f"{path}: {key} of '{name}' must be a whole number from 0; got {values[key]}.")
    if values["weight"] < 0:
        raise InputError(f"{path}: weight of '{name}' must not be negative; got {values['weight']}.")
    _check_threshold(path, name, values["probability_threshold"])
    whole = {key: int(values[key]) for key in ("label", "min_voxels")}
    return Species(name=name, **{**values, **whole})


def _check_threshold(source: str | Path, name: str, threshold: Any) -> None:
    if not (is_finite_number(threshold) and 0 <= threshold < 1):
        raise InputError(f"{source}: the threshold of '{name}' is a probability, 0 <= t < 1; got {threshold!r}.")


def _read_json(path: str | Path) -> dict[str, Any]:
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise InputError(f"cannot read {path}: no such file.") from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}.") from error
    except ValueError as error:  # not JSON, or not UTF-8
        raise InputError(f"{path} is not valid JSON: {error}.") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} must hold a JSON object; got a {type(content).__name__}.")
    return content
