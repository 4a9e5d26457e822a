"""Atomic file and folder writes, folder locks, and stamps that tell whether files have changed."""

from __future__ import annotations

import csv
import fcntl
import glob
import hashlib
import logging
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any
from weakref import WeakSet

from scripts.errors import InputError

logger = logging.getLogger(__name__)

TEMPORARY = ".{name}.{id}.tmp"
PARTS, PART_BYTES = 24, 2**14  # what `digest_of_parts` reads
LOCKS: WeakSet[IO[Any]] = WeakSet()  # of `lock_folder`
os.register_at_fork(after_in_child=lambda: [lock.close() for lock in LOCKS])


def require_writable(folder: str | Path) -> None:
    """Create a folder if needed, and check that it can be written to.

    Raises:
        InputError: the folder cannot be made, or no file can be made in it.
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(f"cannot write to {folder}: {error.strerror or error}. Choose another folder.") from error


def require_disk_space(folder: str | Path, size: int, remedy: str) -> None:
    """Check that a folder's disk has room for what will be written; quotas are not seen.

    Args:
        folder: where it will be written.
        size: bytes that it takes at least.
        remedy: for the message: what the user can do.

    Raises:
        InputError: less is free.
    """
    free = shutil.disk_usage(folder).free
    if size > free:
        raise InputError(f"{folder} has {free / 1e6:.1f} MB free, at least {size / 1e6:.1f} MB are needed: {remedy}.")


@contextmanager
def write_atomically(path: str | Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a file for writing that gets its final name only once it is complete and on the disk.

    Folders above it are created if needed. An existing file of that name stays unchanged if anything goes wrong.

    Args:
        path: the file's final name.
        mode: "w" for UTF-8 text, "wb" for bytes.

    Raises:
        InputError: the file cannot be written, for example because the disk is full.
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


def write_table_of_rows(path: str | Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a table of comma-separated values with one line of column names, atomically."""
    with write_atomically(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)


@contextmanager
def write_folder_atomically(folder: str | Path, remedy: str = "") -> Iterator[Path]:
    """Create a folder that gets its final name only once it is complete; yields the temporary folder to write to.

    An existing folder of that name is replaced, but only once the new one is complete.

    Args:
        folder: its final name.
        remedy: one sentence for the message if it cannot be written: what the user can do.

    Raises:
        InputError: the folder cannot be written, for example because the disk is full.
    """
    target = Path(os.path.realpath(folder))  # a link stays, and what it leads to is replaced
    temporary, old = _temporary_name(target), _temporary_name(target)
    try:
        temporary.mkdir(parents=True)
        try:
            yield temporary
            try:
                if target.exists():
                    os.replace(target, old)  # os.replace does not replace a folder with content
                os.replace(temporary, target)
            except BaseException:  # also on Ctrl-C between the two calls
                if old.exists() and not target.exists():
                    os.replace(old, target)
                raise
            shutil.rmtree(old, ignore_errors=True)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise InputError(f"cannot write {folder}: {error.strerror or error}. {remedy}".rstrip()) from error


def remove_temporaries(folder: str | Path, name: str | None = None) -> None:
    """Remove the temporary files and folders that killed processes left behind, as far as permissions allow.

    Args:
        folder: the folder that they were written in.
        name: final name of the file or folder; None means any. No other process may be writing it at the moment.
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
        shared: share the lock with other processes that ask for a shared one.
        wait: wait until other processes release it.

    Returns:
        False if another process holds the lock and ``wait`` is off.

    Raises:
        OSError: the file system does not support locks; some network file systems do not.
    """
    try:
        fcntl.flock(lock, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True


def open_lock(path: Path) -> IO[str]:
    """Open a file for `lock_folder`, and create it where it is missing.

    Raises:
        InputError: it cannot be written to, for example because it is another user's.
    """
    try:
        return open(path, "a")
    except OSError as error:
        raise InputError(f"cannot write to {path}: {error.strerror or error}. Choose another folder.") from error


def lock_folder(lock: IO[Any], work: str, remedy: str, shared: bool = False) -> None:
    """Lock the folder of an open file for this process, until the file is closed or the process dies.

    Processes that are forked later do not keep it. If the file system does not support locks, a warning is logged.

    Args:
        lock: the file.
        work: what is running here, for the message.
        remedy: for the message: what to do if it is already running, apart from waiting.
        shared: share the lock with other processes, and wait while another process holds it exclusively.

    Raises:
        InputError: another process holds the lock.
    """
    LOCKS.add(lock)
    try:
        taken = take_lock(lock, shared, wait=shared)
    except OSError as error:
        logger.warning("%s cannot be locked (%s): start no second %s there", lock.name, error.strerror, work)
        return
    if not taken:
        raise InputError(f"another {work} is at work in {Path(lock.name).parent}: wait for it, or {remedy}.")


def ignores_case(file: Path) -> bool:
    """Return whether the disk takes names for equal that differ only in capitals, shown by a file that exists."""
    return file.with_name(file.name.swapcase()).exists()


def stamps_of(path: Path) -> list[tuple[str, int, int]]:
    """Return name, size and modification time (ns) of a file, of all files in a folder, or of all that match a pattern.

    Raises:
        OSError: one of them cannot be accessed.
    """
    return [(str(file), stat.st_size, stat.st_mtime_ns) for file in _files_of(path) for stat in [file.stat()]]


def digest_of(path: Path) -> str:
    """Return a SHA-256 of names and contents of the files that `stamps_of` lists.

    Raises:
        OSError: one of them cannot be read.
    """
    digest = hashlib.sha256()
    for file in _files_of(path):
        with open(file, "rb") as content:
            line = f"{file.name} {hashlib.file_digest(content, 'sha256').hexdigest()}\n"
            digest.update(line.encode(errors="surrogateescape"))  # a name need not be UTF-8
    return digest.hexdigest()


def digest_of_parts(path: Path) -> str:
    """Return a SHA-256 of some parts of the files that `stamps_of` lists, less than half a megabyte in all.

    The parts are spread evenly, over a file from its first to its last byte, and over the files of a folder: of a
    tomogram that another one replaced they differ, even if sizes and times agree.

    Raises:
        OSError: one of them cannot be read.
    """
    files, digest = _files_of(path), hashlib.sha256()
    for place in _spread(len(files) - 1, min(PARTS, len(files))):
        with open(files[place], "rb", buffering=0) as content:
            last = max(os.fstat(content.fileno()).st_size - PART_BYTES, 0)
            for start in _spread(last, max(PARTS // len(files), 1)):
                digest.update(os.pread(content.fileno(), PART_BYTES, start))
    return digest.hexdigest()


def _spread(last: int, count: int) -> list[int]:
    """Return numbers from 0 to ``last``, evenly spread, without duplicates; 0 alone if ``count`` is 1."""
    return sorted({last * number // max(count - 1, 1) for number in range(count)})


def _files_of(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if "*" in path.name:
        return sorted(path.parent.glob(path.name))
    return sorted(_files_below(path)) if path.is_dir() else []


def _files_below(folder: str | Path) -> Iterator[Path]:
    with os.scandir(folder) as entries:  # unlike `Path.rglob` it knows without a look at each what is a file
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _files_below(entry.path)
            elif entry.is_file():
                yield Path(entry.path)


def _temporary_name(path: Path) -> Path:
    return path.with_name(TEMPORARY.format(name=path.name, id=uuid.uuid4().hex[:8]))
