"""The card ``<weights>.json`` beside a weights file ``<weights>.pt``: its network, its species, its training.

A weights file alone can be loaded into any network with the same parameter names and shapes, for example one with
another normalisation, which then gives other picks. The card holds the network's recipe, the species, the voxel size,
the contrast, how targets were painted, the window, the SHA-256, and how it was trained. Inference takes network and
species from the card.

From the folder ``bundle``: ``python -m scripts.networks.model_card FILE`` records the SHA-256 of a weights file, or of
a file exported from it, in the card beside it.
"""

from __future__ import annotations

import hashlib
import json
import sys
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from scripts.atomic_files import write_atomically
from scripts.errors import InputError, InputWarning, run_tool
from scripts.networks.recipe import ON_WINDOWS, build_network, pass_on
from scripts.records import as_json, first_difference, record_of
from scripts.species import Species, SpeciesSet, parse_species, read_species, with_thresholds

CARD_FORMAT = 1  # increase when the layout of the file changes
SHA256, PREVIOUS = "weights_sha256", "previous"
FIRST_SHA256 = "first_network_sha256"  # in the card of a second look alone
REQUIRED = ("format", "network_def", "voxel_size_angstrom", "species", "contrast", "painter", SHA256)
SELECTED_ON = "selected_on"
BEHIND_KEYS = ("trained_on", SELECTED_ON)  # runs that weights made from these ones know, too
FITTED_KEYS = (*BEHIND_KEYS, "thresholds_fitted_on")  # the runs that decided about the weights
RADII = ("radius_angstrom", "target_radius_angstrom")
IDENTITY = ("label", *RADII)  # what identifies a species; its threshold may change
OWN_SPECIES = "Leave species_path out to take the model's species, or train on yours"
SPECIES_REMEDY = f"{OWN_SPECIES}: a training with start_from_other_species takes over what these weights know."
RECORD_COMMAND = "python -m scripts.networks.model_card"

Card = dict[str, Any]


def card_path(weights: str | Path) -> Path:
    """Return the path of a weights file's card."""
    return one_file(weights).with_suffix(".json")


def one_file(path: Any) -> Path:
    """Return the path of a file.

    Raises:
        InputError: it is something else, for example a list of files, which only `networks.ensemble` takes.
    """
    if isinstance(path, str | Path):
        return Path(path)
    given = ", ".join(map(str, path)) if isinstance(path, list | tuple) else path
    raise InputError(
        f"checkpoint_path must be one file here; got {given}. Only inference and evaluation by weights files take "
        "several, as an ensemble."
    )


def sha256_of(path: str | Path) -> str:
    """Return the SHA-256 of a file as hexadecimal text."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def make_card(network_recipe: Mapping[str, Any], species_set: SpeciesSet, painter: Any, **facts: Any) -> Card:
    """Return the card of a weights file, ready for JSON, without a SHA-256.

    Args:
        network_recipe: see `recipe.recipe_of`.
        species_set: the species that the network picks, with their thresholds.
        painter: what painted the targets.
        facts: further entries: window, runs, steps, command ...
    """
    rows = [asdict(one) for one in species_set.known]
    species = {row.pop("name"): row for row in rows}
    card: Card = as_json(
        {
            "format": CARD_FORMAT,
            SHA256: {},
            "network_def": dict(network_recipe),
            "voxel_size_angstrom": species_set.voxel_size_angstrom,
            "contrast": "bright",
            "painter": record_of(painter),
            "species": species,
            **record_of(facts),
        }
    )
    return card


def write_card(weights: str | Path, card: Mapping[str, Any]) -> None:
    """Write the card of a weights file."""
    with write_atomically(card_path(weights)) as file:
        file.write(json.dumps(card, indent=4, ensure_ascii=False) + "\n")


def read_card(weights: str | Path) -> Card | None:
    """Read the card of a weights file; None where there is none.

    Raises:
        InputError: the card is damaged, or of a newer version of the bundle.
    """
    path = card_path(weights)
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path}: {error}. Copy it again.") from error
    if isinstance(card, dict) and card.get("format", CARD_FORMAT) != CARD_FORMAT:
        raise InputError(
            f"{path} has the format {card['format']}; this version reads {CARD_FORMAT}. Update the bundle."
        )
    missing = [key for key in REQUIRED if key not in card] if isinstance(card, dict) else list(REQUIRED)
    if missing:
        raise InputError(f"{path} does not describe weights: the key '{missing[0]}' is missing. Copy it again.")
    if not isinstance(card[SHA256], dict):
        raise InputError(f"{path} does not describe weights: {SHA256} is no table. Copy it again.")
    return dict(card)


def current_card(weights: str | Path) -> Card | None:
    """Read the card that belongs to a weights file as it is on disk now; None where there is none.

    While weights are being replaced, the new card contains the old one. If the process was killed before the weights
    file was replaced, the old card is the valid one.

    Raises:
        InputError: the card is damaged.
    """
    card, path = read_card(weights), Path(weights)
    if card is None or PREVIOUS not in card:
        return card
    before = card.pop(PREVIOUS)
    is_old = path.is_file() and before[SHA256].get(path.name) == sha256_of(path)
    return dict(before) if is_old else card


def sha256_of_all(weights: str | Path) -> set[str]:
    """Return the SHA-256 of weights and of the files exported beside them; of an export, also of its weights.

    Raises:
        InputError: the card is damaged.
    """
    card = current_card(weights)
    return {sha256_of(weights)} if card is None else set(card[SHA256].values())


def checked_card(weights: str | Path) -> Card | None:
    """Read the card of a weights file, and check that the file is the one that the card describes.

    Returns:
        The card; None, with a warning, where there is none.

    Raises:
        InputError: the file is missing or has another SHA-256, or the card is damaged.
    """
    path = one_file(weights)
    if not path.is_file():
        raise InputError(f"cannot read {path}: no such file. Set checkpoint_path.")
    card = current_card(path)
    if card is None:
        message = f"{path} has no {card_path(path).name} beside it: nothing says which network and species it is of"
        warnings.warn(f"{message}, so nothing is checked but the shapes of the weights.", InputWarning, stacklevel=3)
        return None
    check_sha256(card, path, sha256_of(path))
    return card


def check_sha256(card: Mapping[str, Any], path: str | Path, found: str, must_be_listed: bool = False) -> None:
    """Check that a file is one of those that a card lists, under its own name or, renamed with the card, under another.

    Args:
        card: of the file.
        path: the file.
        found: its SHA-256.
        must_be_listed: refuse a file of a kind that the card lists none of; otherwise a warning is given.

    Raises:
        InputError: the card lists another content under this name, or was written for weights that replaced the file's.
    """
    path, listed = Path(path), card[SHA256]
    if listed.get(path.name) == found or (path.name not in listed and found in listed.values()):
        return
    of_its_kind = {name: sha256 for name, sha256 in listed.items() if Path(name).suffix == path.suffix}
    if path.name in listed and listed[path.name] is None:
        raise InputError(f"{path} was exported from weights that have been replaced since. Export it again.")
    if not of_its_kind and not must_be_listed:
        message = f"{path} is used unchecked: {card_path(path)} does not list it"
        warnings.warn(f"{message}. Record it with: {RECORD_COMMAND} {path}", InputWarning, stacklevel=4)
        return
    wanted = str(listed.get(path.name) or next(iter(of_its_kind.values()), "none"))
    raise InputError(
        f"{path} is not the file that {card_path(path)} describes: SHA-256 {found[:12]}..., expected {wanted[:12]}.... "
        f"Copy both again, or record your own weights with: {RECORD_COMMAND} {path}"
    )


def record_sha256(weights: str | Path) -> str:
    """Write the SHA-256 of a weights file, or of one exported from it, into the card beside it, and return it.

    Raises:
        InputError: there is no card.
    """
    card = current_card(weights)
    if card is None:
        raise InputError(f"{card_path(weights)} is missing: a training, or an export of this bundle, writes it.")
    card[SHA256][Path(weights).name] = found = sha256_of(weights)
    write_card(weights, card)
    return found


def network_of(checkpoint_path: str | Path) -> nn.Module:
    """Build the network of a weights file from its card; the weights are not loaded.

    Raises:
        InputError: there is no card, or it names a network that is not part of this bundle.
    """
    return build_network(needed_card(checkpoint_path, "network_def")["network_def"], str(card_path(checkpoint_path)))


def tell_how_to_cut_windows(card: Card | None, exported: nn.Module) -> None:
    """Give a network out of an exported file the attributes that windows are cut by; nothing without a card.

    Its ``values_per_voxel`` are those of torch.
    """
    if card is not None:
        with torch.device("meta"):  # nothing is computed
            pass_on(build_network(card["network_def"], "a card"), exported, (*ON_WINDOWS, "values_per_voxel"))


def species_of(
    checkpoint_path: str | Path,
    species_path: str | Path | None = None,
    probability_thresholds: Mapping[str, float] | str | None = None,
) -> SpeciesSet:
    """Return the species that a model picks: those of its card, or of a species file.

    Args:
        checkpoint_path: the weights.
        species_path: a species file; None takes the card's species and thresholds.
        probability_thresholds: see `species.read_species`.

    Raises:
        InputError: there is neither a card nor a species file, or one of them is wrong.
    """
    if species_path is not None:
        return read_species(species_path, probability_thresholds)
    species_set = parse_species(needed_card(checkpoint_path, "species_path"), card_path(checkpoint_path))
    return species_set if probability_thresholds is None else with_thresholds(species_set, probability_thresholds)


def needed_card(checkpoint_path: str | Path, setting: str) -> Card:
    """Return the card of a weights file; the error for a missing card names the setting to use instead.

    Raises:
        InputError: there is no card.
    """
    card = current_card(checkpoint_path)
    if card is None:
        if not Path(checkpoint_path).is_file():
            raise InputError(f"cannot read {checkpoint_path}: no such file. Set checkpoint_path.")
        raise InputError(
            f"{checkpoint_path} has no {card_path(checkpoint_path).name} beside it that says which network and species "
            f"it is of. Copy it too, or set {setting}."
        )
    return card


def check_model(weights: str | Path, species_set: SpeciesSet | None = None, painter: Any = None) -> Card | None:
    """Check a weights file, or a file exported from it, against its card, the species and the painter.

    Args:
        weights: the file.
        species_set: the species to pick; None skips this check.
        painter: what painted the targets, see `training.windows`; None skips this check.

    Returns:
        The card; None, with a warning, where there is none.

    Raises:
        InputError: the file is missing or damaged, or of other species or another painter.
    """
    card = checked_card(weights)
    if card is not None and species_set is not None:
        check_species(card, species_set, weights)
    if card is not None and painter is not None:
        check_painter(card, painter, weights)
    return card


def check_species(card: Mapping[str, Any], species_set: SpeciesSet, weights: str | Path) -> None:
    """Check that the species are those of the training; their thresholds and weights in scores may differ.

    Raises:
        InputError: names the first difference.
    """
    here = make_card({}, species_set, None)
    names = [list(_learned(one)) for one in (card, here)]
    if names[0] != names[1]:
        raise InputError(
            f"{weights} was trained on {len(names[0])} species, {', '.join(names[0])}; the species file has "
            f"{len(names[1])}: {', '.join(names[1])}. {SPECIES_REMEDY}"
        )
    check_voxel_size_of(card, species_set, weights)
    for name in names[0]:
        for key in IDENTITY:
            theirs, ours = card["species"][name][key], here["species"][name][key]
            if theirs != ours:
                raise InputError(
                    f"{weights} was trained with {key} {theirs:g} of '{name}', the species file has {ours:g}. "
                    f"{SPECIES_REMEDY}"
                )


def check_voxel_size_of(
    card: Mapping[str, Any], species_set: SpeciesSet, weights: str | Path, tolerance: float = 0.0
) -> None:
    """Check that the species file has the voxel size of the training, but for a share of it.

    Raises:
        InputError: it has another one.
    """
    theirs, ours = card["voxel_size_angstrom"], species_set.voxel_size_angstrom
    if abs(theirs - ours) > tolerance * theirs:
        raise InputError(
            f"{weights} was trained on voxels of {theirs:g} Å, the species file has {ours:g} Å. {OWN_SPECIES}."
        )


def uses_of_weights(checkpoint_path: Path) -> dict[str, Sequence[str]]:
    """Return the runs that the card of a weights file lists, by what they were used for.

    Raises:
        InputError: there is no card.
    """
    return uses_in_card(needed_card(checkpoint_path, "another checkpoint_path"), checkpoint_path)


def uses_in_card(card: Mapping[str, Any], weights: str | Path) -> dict[str, Sequence[str]]:
    """Return the runs that the card of a weights file lists, by what they were used for, which names the card."""
    path = card_path(weights)
    uses: dict[str, Sequence[str]] = {f"{key} in {path}": card.get(key) or () for key in FITTED_KEYS}
    return {**uses, f"calibration in {path}": card.get("calibration", {}).get("fitted_on", ())}


def used_runs_in_words(runs: Collection[str], uses: Mapping[str, Collection[str]]) -> str:
    """Return which of some runs are in use, and what for; empty if none is."""
    found = {use: [run for run in runs if run in names] for use, names in uses.items()}
    return "; ".join(f"{use}: {', '.join(names)}" for use, names in found.items() if names)


def was_trained_on(card: Mapping[str, Any], species: Species) -> bool:
    """Return whether the weights of a card were trained on a species of that name and of the same radii."""
    theirs = card["species"].get(species.name, {"label": 0})
    return theirs["label"] > 0 and all(theirs[key] == getattr(species, key) for key in RADII)


def check_painter(card: Mapping[str, Any], painter: Any, weights: str | Path) -> None:
    """Check that the painter is the one that painted the targets of the training.

    Raises:
        InputError: names the first difference.
    """
    found = first_difference(card["painter"], record_of(painter))
    if found:
        raise InputError(
            f"{weights} was trained on other targets than the settings say: painter {found}. Give the config overlay "
            "that it was trained with."
        )


def _learned(card: Mapping[str, Any]) -> list[str]:
    rows = sorted(card["species"].items(), key=lambda row: row[1]["label"])
    return [name for name, row in rows if row["label"] > 0]


def record_thresholds(
    weights: str | Path,
    thresholds: Mapping[str, float],
    fitted_on: Sequence[str],
    finder: Any = None,
    kept: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Write fitted thresholds into the card of a weights file.

    Args:
        weights: the file.
        thresholds: by the species' names.
        fitted_on: names of the runs that they were fitted on.
        finder: what they were fitted for.
        kept: why a species keeps the threshold that it had, for those that do.

    Raises:
        InputError: there is no card.
    """
    card = needed_card(weights, "record_thresholds to False")
    for name, threshold in thresholds.items():
        card["species"][name]["probability_threshold"] = threshold
    fitted = {
        "thresholds_fitted_on": list(fitted_on),
        "thresholds_fitted_for": record_of(finder),
        "thresholds_kept": dict(kept),
    }
    write_card(weights, {**card, **fitted})


if __name__ == "__main__":
    sys.exit(run_tool(lambda: print(record_sha256(sys.argv[1]))))
