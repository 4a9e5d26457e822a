"""Weights files: written atomically, read without running code, checked against their card before use."""

from __future__ import annotations

import hashlib
import io
import pickle
import warnings
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from scripts.atomic_files import write_atomically
from scripts.errors import InputError, InputWarning
from scripts.networks.model_card import (
    PREVIOUS,
    SHA256,
    Card,
    card_path,
    check_model,
    check_sha256,
    current_card,
    needed_card,
    write_card,
)
from scripts.networks.recipe import with_defaults
from scripts.records import first_difference
from scripts.species import SpeciesSet

KEPT = "_shipped"
DOS_FOLDER = 0x10  # bit of a zip entry's attributes
UNREADABLE = (RuntimeError, EOFError, OSError, ValueError, zipfile.BadZipFile, zlib.error)


def save_tensors(content: Mapping[str, Any], path: str | Path) -> None:
    """Write tensors and plain values with `torch.save`, atomically."""
    with write_atomically(path, "wb") as file:
        torch.save(dict(content), file)


def read_tensors(path: str | Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read what `save_tensors` wrote; nothing in the file is executed.

    Raises:
        InputError: the file is missing, damaged, or holds anything but tensors and plain values.
    """
    try:
        check_whole(path)
        content = torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError as error:
        raise InputError(f"cannot read {path}: no such file.") from error
    except pickle.UnpicklingError as error:
        raise InputError(f"{path} holds more than tensors; it is refused: loading it could run code.") from error
    except UNREADABLE as error:
        size = Path(path).stat().st_size
        raise InputError(f"{path} is no checkpoint, or it is damaged or cut short ({size} bytes).") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} holds a {type(content).__name__}, not a table of weights.")
    return content


def load_weights(
    network: nn.Module,
    path: str | Path,
    species_set: SpeciesSet | None = None,
    painter: Any = None,
    device: torch.device | str = "cpu",
) -> nn.Module:
    """Load a state_dict into a network, after a check of network, species and painter against its card.

    Args:
        network: the network to load the weights into.
        path: the weights file; without a card beside it a warning is given, and only names and shapes are compared.
        species_set: the species to pick; None skips this check.
        painter: what painted the targets, see `training.windows`; None skips this check.
        device: where the network is.

    Returns:
        The network, in evaluation mode.

    Raises:
        InputError: the file is missing, damaged, of another network, of other species or of another painter.
    """
    card = check_model(path, species_set, painter)
    if card is not None:
        check_network(card, network, path)
    weights = read_tensors(path, device)
    check_fit(network, weights, path)
    network.load_state_dict(weights)
    return network.eval()


def check_network(card: Mapping[str, Any], network: nn.Module, weights: str | Path) -> None:
    """Check that a network was built like the one on the card; a network without a recipe is not checked.

    Raises:
        InputError: names the first difference.
    """
    here = getattr(network, "recipe", None)
    if here is None:
        name = type(network).__qualname__
        message = (
            f"{weights}: the network {name} does not say how it was built, so only the shapes of weights are compared"
        )
        warnings.warn(f"{message}.", InputWarning, stacklevel=3)
        return
    recorded = card["network_def"]
    if set(here) - set(recorded):
        recorded = with_defaults(recorded, str(weights))
    found = first_difference(recorded, here)
    if found:
        raise InputError(
            f"{weights} is of another network than the settings say: {found.strip()}. Leave network_def out to take "
            f"the network from {card_path(weights).name}, or train one of that kind."
        )


def save_model(path: str | Path, content: bytes, card: Mapping[str, Any]) -> None:
    """Write a weights file and its card, replacing older ones.

    If the process is killed at any moment, the weights file is complete, old or new, and the card describes it: the new
    card contains the old one until the weights are replaced.

    Args:
        path: the weights file.
        content: its bytes.
        card: the new card; its SHA-256 is filled in.
    """
    path, old = Path(path), current_card(path)
    stale = dict.fromkeys((old or {}).get(SHA256, {}))  # what was exported from the old weights
    new = {**card, SHA256: {**stale, path.name: hashlib.sha256(content).hexdigest()}}
    if old is not None:
        write_card(path, {**new, PREVIOUS: old})
    elif not path.exists():
        write_card(path, new)
    with write_atomically(path, "wb") as file:
        file.write(content)
    write_card(path, new)


def read_model(path: str | Path) -> tuple[bytes, Card]:
    """Read a weights file and its card, to be stored elsewhere.

    Returns:
        The bytes of the weights, and the card that lists them.

    Raises:
        InputError: one of them is missing, or the weights are not those of the card.
    """
    card = needed_card(path, "another checkpoint_path")
    content = read_bytes(path)
    check_sha256(card, path, hashlib.sha256(content).hexdigest(), must_be_listed=True)
    return content, card


def read_bytes(path: str | Path) -> bytes:
    """Return the content of a file.

    Raises:
        InputError: it cannot be read.
    """
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}.") from error


def as_bytes(weights: Mapping[str, Tensor]) -> bytes:
    """Return the content of a weights file."""
    stream = io.BytesIO()
    torch.save(dict(weights), stream)
    return stream.getvalue()


def install_weights(source: str | Path, path: str | Path) -> Path | None:
    """Replace a bundle's weights and card by new ones; the shipped ones are kept as ``<name>_shipped.pt``.

    Args:
        source: the new weights, with their card.
        path: the file to replace.

    Returns:
        The path of the shipped weights; None where there were none.

    Raises:
        InputError: the new weights are damaged or not finite, or they have no card.
    """
    path, weights = Path(path), read_tensors(source)
    if not card_path(source).exists():
        raise InputError(f"{source} is not put to use: {card_path(source).name} is missing beside it.")
    content, card = read_model(source)
    for name, value in weights.items():
        if isinstance(value, Tensor) and not torch.isfinite(value).all():
            raise InputError(f"{source} is not put to use: {name} is not finite. Train with a lower learning_rate.")
    kept = path.with_stem(f"{path.stem}{KEPT}")
    if path.exists() and not kept.exists():
        keep_model(path, kept)
    save_model(path, content, card)
    return kept if kept.exists() else None


def keep_model(path: Path, kept: Path) -> None:
    """Copy weights and, where they have one, their card."""
    card, content = current_card(path), read_bytes(path)
    if card is not None:
        save_model(kept, content, card)
        return
    with write_atomically(kept, "wb") as file:
        file.write(content)


def check_whole(path: str | Path) -> None:
    """Raise `zipfile.BadZipFile` for a damage of a torch archive that torch itself does not notice.

    These are a wrong checksum, and an entry marked as a folder: torch leaves its tensor uninitialised.
    """
    with zipfile.ZipFile(path) as archive:
        if archive.testzip() is not None:
            raise zipfile.BadZipFile(f"{path}: a checksum is wrong.")
        if any(entry.external_attr & DOS_FOLDER for entry in archive.infolist()):
            raise zipfile.BadZipFile(f"{path}: an entry is marked as a folder.")


def check_fit(network: nn.Module, weights: Mapping[str, Any], path: str | Path) -> None:
    """Check that a state_dict has the names and shapes of a network's.

    Raises:
        InputError: names the first difference.
    """
    own = network.state_dict()
    missing, extra = sorted(set(own) - set(weights)), sorted(set(weights) - set(own))
    if missing or extra:
        raise InputError(
            f"{path} is of another network: {len(missing)} weights missing{_first(missing)}, {len(extra)} unknown"
            f"{_first(extra)}. Check network_def."
        )
    for name, value in own.items():
        given = weights[name]
        if not isinstance(given, Tensor) or given.shape != value.shape:
            shape = tuple(given.shape) if isinstance(given, Tensor) else type(given).__name__
            raise InputError(
                f"{path} is of another network: {name} has shape {shape}, the network wants {tuple(value.shape)}. "
                "Check network_def and the number of species in species.json."
            )


def _first(names: list[str]) -> str:
    return f" (first: {names[0]})" if names else ""
