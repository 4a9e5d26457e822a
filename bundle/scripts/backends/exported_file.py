"""What all exported files have in common."""

from __future__ import annotations

from pathlib import Path

from scripts.errors import InputError


def require_exported(path: str | Path, command: str) -> None:
    """Refuse an exported file that is missing, and name the command that makes it."""
    if not Path(path).is_file():
        raise InputError(f"cannot read {path}: no such file. Make it with: python -m monai.bundle {command}")
