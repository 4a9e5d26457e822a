"""Weights on disk: written whole, read without running code, checked before use."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import sys
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

METADATA_KEY = "weights_sha256"
UNRECORDED = ""
KEPT = "_shipped"
RECORD = "python -m scripts.networks.weights"
UNREADABLE = (RuntimeError, EOFError, OSError, ValueError, zipfile.BadZipFile, zlib.error)


def sha256_of(path: str | Path) -> str:
    """Return the SHA-256 of a file, as hexadecimal text."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def save_tensors(content: Mapping[str, Any], path: str | Path) -> None:
    """Write what `torch.save` can hold; the old file stays until the new one is whole."""
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
        size = os.path.getsize(path)
        raise InputError(f"{path} is no checkpoint, or it is damaged or cut short ({size} bytes).") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} holds a {type(content).__name__}, not a table of weights.")
    return content


def load_weights(
    network: nn.Module, path: str | Path, metadata_path: str | Path | None = None, device: torch.device | str = "cpu"
) -> nn.Module:
    """Load a bare state_dict into a network.

    Args:
        network: takes the weights.
        path: the weights.
        metadata_path: the bundle's metadata.json; where it lists the SHA-256 of a file of that name beside it in
            ``models/``, the file must have it.
        device: where the network is.

    Returns:
        The network, in evaluation mode.

    Raises:
        InputError: the file is missing, damaged or of another network.
    """
    if not Path(path).is_file():
        raise InputError(f"cannot read {path}: no such file. Set checkpoint_path.")
    check_recorded(path, metadata_path)
    weights = read_tensors(path, device)
    _check_fit(network, weights, path)
    network.load_state_dict(weights)
    return network.eval()


def check_recorded(path: str | Path, metadata_path: str | Path | None) -> None:
    """Refuse a file of the bundle's ``models/`` that is not the one its metadata list; warn where they list none.

    Args:
        path: the file; one that stands elsewhere is not checked.
        metadata_path: the bundle's metadata.json; None checks nothing.

    Raises:
        InputError: the file has another SHA-256.
    """
    wanted = recorded_sha256(path, metadata_path) if metadata_path is not None else None
    if wanted == UNRECORDED:
        message = f"{path} is used unchecked: {metadata_path} does not list it. Record it with: {RECORD} {path}"
        warnings.warn(message, InputWarning, stacklevel=3)
    elif wanted is not None and sha256_of(path) != wanted:
        raise InputError(
            f"{path} is not the file that {metadata_path} describes: SHA-256 {sha256_of(path)[:12]}..., expected "
            f"{wanted[:12]}.... Fetch it again, or record your own weights with: {RECORD} {path}"
        )


def recorded_sha256(path: str | Path, metadata_path: str | Path) -> str | None:
    """Return the SHA-256 that a bundle's metadata lists for a file in its ``models/``; None for a file elsewhere.

    A file in ``models/`` that is not listed gives `UNRECORDED`.
    """
    metadata_path, path = Path(metadata_path).resolve(), Path(path).resolve()
    if path.parent != metadata_path.parents[1] / "models" or not metadata_path.is_file():
        return None
    return str(json.loads(metadata_path.read_text()).get(METADATA_KEY, {}).get(path.name, UNRECORDED))


def record_sha256(path: str | Path, metadata_path: str | Path) -> str:
    """Write the SHA-256 of a weights file into a bundle's metadata and return it."""
    sha256 = sha256_of(path)
    _write_record(path, metadata_path, sha256)
    return sha256


def install_weights(source: str | Path, path: str | Path, metadata_path: str | Path) -> Path | None:
    """Put new weights in the place of a bundle's own, which stay beside them as ``<name>_shipped.pt``.

    The metadata forget the old SHA-256 before the file is replaced and learn the new one after it. Whenever the process
    is killed, the file under ``path`` is whole, old or new, and is not refused.

    Args:
        source: the new weights.
        path: the file to replace, in the bundle's ``models/``.
        metadata_path: the bundle's metadata.json.

    Returns:
        Where the bundle's own weights are kept; None where there were none.

    Raises:
        InputError: the new weights are damaged, or are not finite.
    """
    weights, path = read_tensors(source), Path(path)
    for name, value in weights.items():
        if isinstance(value, Tensor) and not torch.isfinite(value).all():
            raise InputError(f"{source} is not put to use: {name} is not finite. Train with a lower learning_rate.")
    kept = path.with_stem(f"{path.stem}{KEPT}")
    if path.exists() and not kept.exists():
        _copy(path, kept)
        record_sha256(kept, metadata_path)
    _write_record(path, metadata_path, None)
    _copy(source, path)
    record_sha256(path, metadata_path)
    return kept if kept.exists() else None


def _copy(source: str | Path, path: Path) -> None:
    with write_atomically(path, "wb") as file:
        file.write(Path(source).read_bytes())


def _write_record(path: str | Path, metadata_path: str | Path, sha256: str | None) -> None:
    metadata = json.loads(Path(metadata_path).read_text())
    recorded = metadata.setdefault(METADATA_KEY, {})
    recorded.pop(Path(path).name, None)
    if sha256 is not None:
        recorded[Path(path).name] = sha256
    with write_atomically(metadata_path) as file:
        file.write(json.dumps(metadata, indent=4, ensure_ascii=False) + "\n")


def check_whole(path: str | Path) -> None:
    """Raise `zipfile.BadZipFile` where a checksum in one of torch's archives is wrong; torch does not compare them."""
    with zipfile.ZipFile(path) as archive:
        if archive.testzip() is not None:
            raise zipfile.BadZipFile(f"{path}: a checksum is wrong.")


def _check_fit(network: nn.Module, weights: Mapping[str, Any], path: str | Path) -> None:
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
                "Check network_def and the number of species in particles.json."
            )


def _first(names: list[str]) -> str:
    return f" (first: {names[0]})" if names else ""


if __name__ == "__main__":
    file = Path(sys.argv[1])
    print(record_sha256(file, file.resolve().parents[1] / "configs" / "metadata.json"))
