"""What all exported files share: a card beside the file, and a message that names the export if it is missing."""

from __future__ import annotations

import hashlib
from pathlib import Path

from scripts.atomic_files import write_atomically
from scripts.errors import InputError
from scripts.networks.model_card import SHA256, Card, card_path, current_card, one_file, write_card


def require_exported(path: str | Path, command: str) -> None:
    """Check that an exported file exists; the error names the command that makes it.

    Raises:
        InputError: there is no such file.
    """
    if not one_file(path).is_file():
        raise InputError(
            f"cannot read {path}: no such file. Make it with: python -m monai.bundle run {command} --config_file "
            "\"['configs/inference.json','configs/export.json']\""
        )


def write_exported(path: str | Path, content: bytes, card: Card | None) -> None:
    """Write an exported network, and the card of its weights beside it.

    Args:
        path: the file.
        content: its bytes.
        card: the card of the weights; None writes no card.

    Raises:
        InputError: the card beside the file is of another model.
    """
    path = Path(path)
    there = current_card(path)
    others = {name: sha256 for name, sha256 in there[SHA256].items() if name != path.name} if there else {}
    if others and (card is None or _without_thresholds(there) != _without_thresholds(card)):
        raise InputError(f"{card_path(path)} describes another model: set another export_path.")
    if card is not None:
        card = {**card, SHA256: {**others, path.name: hashlib.sha256(content).hexdigest()}}
    elif there is not None:
        card_path(path).unlink()
    with write_atomically(path, "wb") as file:
        file.write(content)
    if card is not None:
        write_card(path, card)


def _without_thresholds(card: Card | None) -> Card:
    """Return a card without what a later fit of the thresholds changes, and without the files it lists."""
    fitted = dict.fromkeys(("thresholds_fitted_on", "thresholds_fitted_for", "thresholds_kept"))
    content = {**(card or {}), SHA256: None, **fitted}
    species = {name: {**row, "probability_threshold": None} for name, row in content.get("species", {}).items()}
    return {**content, "species": species}
