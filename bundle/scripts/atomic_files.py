"""Files that are whole or not there, that one process has for itself, that have changed since."""

from __future__ import annotations

import fcntl
import glob
import logging
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from scripts.errors import InputError

logger = logging.getLogger(__name__)

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
def write_folder_atomically(folder: str | Path, remedy: str = "") -> Iterator[Path]:
    """Make a folder that appears under its name only when it is complete; yields where to write its files.

    What stood under the name stays until the new one is complete.

    Args:
        folder: its final name.
        remedy: what the user can do where it cannot be written, one sentence for the message.

    Raises:
        InputError: the place cannot be written to, or the disk is full.
    """
    target = Path(folder)
    temporary, old = _temporary_name(target), _temporary_name(target)
    try:
        temporary.mkdir(parents=True)
        try:
            yield temporary
            try:
                if target.exists():
                    os.replace(target, old)  # a folder cannot take the place of a full one
                os.replace(temporary, target)
            except BaseException:  # Ctrl-C between the two, too
                if old.exists() and not target.exists():
                    os.replace(old, target)
                raise
            shutil.rmtree(old, ignore_errors=True)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise InputError(f"cannot write {folder}: {error.strerror or error}. {remedy}".rstrip()) from error


def remove_temporaries(folder: str | Path, name: str | None = None) -> None:
    """Remove what killed runs of the two functions above left in a folder, as far as this user may.

    Args:
        folder: where they wrote.
        name: the final name of what they wrote; None is any. Nobody else may be writing it now.
    """
    pattern = TEMPORARY.format(name="*" if name is None else glob.escape(name), id="?" * 8)
    for leftover in Path(folder).glob(pattern):
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            with suppress(OSError):
                leftover.unlink()


def take_lock(lock: IO[Any], shared: bool = False, wait: bool = False) -> bool:
    """Lock an open file for this process, until the file is closed or the process dies.

    Args:
        lock: the file.
        shared: together with other processes that share it.
        wait: until those who have it let go.

    Returns:
        False where another process has it and waiting is off.

    Raises:
        OSError: the file system has no locks, as some network disks.
    """
    try:
        fcntl.flock(lock, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True


def lock_folder(lock: IO[Any], work: str, remedy: str, shared: bool = False) -> None:
    """Lock the folder of an open file for this process, until the file is closed or the process dies.

    Where the file system has no locks, a warning says so.

    Args:
        lock: the file.
        work: what a message calls the work that is done there.
        remedy: what the message tells to do when somebody else does it, apart from waiting.
        shared: together with other processes that share it, which is waited for.

    Raises:
        InputError: another process holds it.
    """
    try:
        taken = take_lock(lock, shared, wait=shared)
    except OSError as error:
        logger.warning("%s cannot be locked (%s): start no second %s there", lock.name, error.strerror, work)
        return
    if not taken:
        raise InputError(f"another {work} is at work in {Path(lock.name).parent}: wait for it, or {remedy}.")


def stamps_of(path: Path) -> list[tuple[str, int, int]]:
    """Return name, size and time of change (ns) of a file, of every file in a folder, or of all that a pattern fits.

    Raises:
        OSError: one of them cannot be looked at.
    """
    if path.is_file():
        files = [path]
    elif "*" in path.name:
        files = sorted(path.parent.glob(path.name))
    else:
        files = sorted(part for part in path.rglob("*") if part.is_file())
    return [(str(file), stat.st_size, stat.st_mtime_ns) for file in files for stat in [file.stat()]]


def _temporary_name(path: Path) -> Path:
    return path.with_name(TEMPORARY.format(name=path.name, id=uuid.uuid4().hex[:8]))
