"""Files that are whole or not there."""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from scripts.errors import InputError

TEMPORARY = ".{name}.{id}.tmp"


def require_writable(folder: str | Path) -> None:
    """Make a folder, and refuse to start where it cannot be written to.

    Raises:
        InputError: the folder cannot be made, or no file can be made in it.
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(f"cannot write to {folder}: {error.strerror or error}. Choose another folder.") from error


@contextmanager
def write_atomically(path: str | Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a file that appears under its name only when it is complete and on the disk; folders are made as needed.

    What stood under the name stays as it was when anything goes wrong.

    Args:
        path: the file's final name.
        mode: "w" for UTF-8 text, "wb" for bytes.

    Raises:
        InputError: the place cannot be written to, or the disk is full.
    """
    target = Path(path)
    temporary = _temporary_name(target)
    text = {} if "b" in mode else {"encoding": "utf-8", "newline": ""}
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, mode, **text) as file:  # type: ignore[call-overload]
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}.") from error


@contextmanager
def write_folder_atomically(folder: str | Path) -> Iterator[Path]:
    """Make a folder that appears under its name only when it is complete; yields where to write its files.

    What stood under the name stays until the new one is complete.

    Raises:
        InputError: the place cannot be written to.
    """
    target = Path(folder)
    temporary, old = _temporary_name(target), _temporary_name(target)
    try:
        temporary.mkdir(parents=True)
        try:
            yield temporary
            if target.exists():
                os.replace(target, old)
            os.replace(temporary, target)
            shutil.rmtree(old, ignore_errors=True)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise InputError(f"cannot write {folder}: {error.strerror or error}.") from error


def remove_temporaries(folder: str | Path) -> None:
    """Remove what killed runs of the two functions above left in a folder; only while nobody else writes there."""
    for leftover in Path(folder).glob(TEMPORARY.format(name="*", id="?" * 8)):
        if leftover.is_dir():
            shutil.rmtree(leftover)
        else:
            leftover.unlink()


def _temporary_name(path: Path) -> Path:
    return path.with_name(TEMPORARY.format(name=path.name, id=uuid.uuid4().hex[:8]))
