"""Files on servers, in any store of fsspec: temporary failures are retried, others reported in one line."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any, TypeVar

import fsspec
from fsspec.callbacks import Callback

from scripts.errors import InputError, without_user

WAITS = (1.0, 4.0, 10.0)  # seconds before each retry
SILENCE = {"total": None, "sock_connect": 30.0, "sock_read": 60.0}  # timeouts for web servers, seconds
OWN_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG}
PASSING = {errno.EIO, errno.EBUSY, errno.EAGAIN, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETRESET}
PASSING_STATUS = {408, 425, 429}  # and 500 or higher
PASSING_NAMES = {"ClientConnectionError", "ClientPayloadError", "IncompleteReadError", "ConnectionLost"}
FINAL_NAMES = {"ClientSSLError"}  # by name, because aiohttp and asyncssh may not be installed
Result = TypeVar("Result")


class AccessRefused(InputError):
    """The store denied access. Some stores also answer this way for files that do not exist."""


@dataclass(frozen=True)
class Source:
    """A folder on a server.

    Attributes:
        fs: its store.
        path: its path in the store.
        url: its name in messages and copies, without user and password.
        secrets: texts that must not appear in messages.
    """

    fs: Any
    path: str
    url: str
    secrets: tuple[str, ...] = field(default=(), repr=False)


def open_source(url: str, storage_options: Mapping[str, Any]) -> Source:
    """Return the folder at a URL; nothing is read yet.

    Args:
        url: for example ``s3://bucket/x.zarr`` or ``https://host/x.zarr``.
        storage_options: options of fsspec's store, for example credentials.

    Raises:
        InputError: fsspec has no store for such a URL, or it cannot be reached.
    """
    url, secrets = url.rstrip("/"), secrets_in(storage_options)
    shown = without_user(url)
    if url.startswith("http") and "?" in url:
        raise InputError(f"{shown.partition('?')[0]}: an address with '?' is one file's; give that of the folder.")
    fs, path = persist(lambda: fsspec.core.url_to_fs(url, **storage_options), shown, secrets)
    return source_in(fs, path, secrets)


def source_in(fs: Any, path: str, secrets: tuple[str, ...] = ()) -> Source:
    """Return the folder at a path of a store."""
    if "http" in fs.protocol:
        import aiohttp  # imported here because only web servers need it

        fs.kwargs.setdefault(
            "timeout", aiohttp.ClientTimeout(**SILENCE)
        )  # its default stops large files after 5 minutes
    return Source(fs, path.rstrip("/"), without_user(fs.unstrip_protocol(path)).rstrip("/"), secrets)


def secrets_in(options: Any) -> tuple[str, ...]:
    """Return all texts in a store's options: only the store knows which of them are secret."""
    if isinstance(options, Mapping | list | tuple):
        values = options.values() if isinstance(options, Mapping) else options
        return tuple(secret for value in values for secret in secrets_in(value))
    return (options,) if isinstance(options, str) and len(options) > 3 else ()


def fetch_file(source: Source, key: str, local: Path, most_bytes: int, stop: Event | None = None) -> int | None:
    """Copy one file to this disk.

    Args:
        source: the folder that it is in.
        key: its path below the folder.
        local: its new path; folders are created if needed.
        most_bytes: a larger file is refused as soon as its size is known.
        stop: when set, there is no further retry.

    Returns:
        Its size in bytes; None if the store does not have it.

    Raises:
        InputError: it cannot be read, or is too large.
        OSError: the local disk is full or not writable.
    """
    what = f"{source.url}/{key}"

    def fetch() -> None:
        limit = _Limit(f"{what} is larger than {most_bytes} bytes, which cannot be right.", most_bytes)
        source.fs.get_file(f"{source.path}/{key}", str(local), callback=limit)
        if local.is_file():
            limit.set_size(local.stat().st_size)  # for stores that do not state it beforehand

    local.parent.mkdir(parents=True, exist_ok=True)
    try:
        persist(fetch, what, source.secrets, stop)
    except FileNotFoundError:
        local.unlink(missing_ok=True)
    if not local.is_file():
        return None
    with open(local, "rb") as file:
        os.fsync(file.fileno())
    return local.stat().st_size


def persist(
    action: Callable[[], Result], what: str, secrets: tuple[str, ...] = (), stop: Event | None = None
) -> Result:
    """Call a function that accesses a store, and retry it a few times after temporary failures.

    Args:
        action: the function.
        what: name in messages of what is read.
        secrets: texts that must not appear in messages.
        stop: when set, there is no further retry.

    Raises:
        FileNotFoundError: the store has no such file.
        InputError: access failed.
        OSError: the local disk is full or not writable.
    """
    tries = 0
    while True:
        try:
            return action()
        except (FileNotFoundError, InputError):
            raise
        # All others, because every store has its own errors, without a common base class.
        except Exception as error:
            if getattr(error, "errno", None) in OWN_DISK:
                raise
            tries += 1
            passing = _may_pass(error)
            if not passing or tries > len(WAITS) or (stop or Event()).wait(WAITS[tries - 1]):
                raise _refusal(error, what, secrets, tries if passing else 0) from error


def fact_of(error: BaseException, secrets: tuple[str, ...] = ()) -> str:
    """Return the message of an error in one line and without secrets."""
    status, strerror = getattr(error, "status", None), getattr(error, "strerror", None)
    said = f"{status} {getattr(error, 'message', '')}" if isinstance(status, int) else strerror or str(error)
    line = without_user(" ".join(str(said).split()).rstrip(".")) or type(error).__name__
    for secret in secrets:
        line = line.replace(secret, "***")
    return line[:300]


def _refusal(error: Exception, what: str, secrets: tuple[str, ...], tries: int) -> InputError:
    line = f"cannot read {what}: {fact_of(error, secrets)}."
    if tries:
        return InputError(f"{line} Tried {tries} times; start again later, what is complete stays.")
    if isinstance(error, ImportError):
        return InputError(f"{line} Install what is missing with pip.")
    is_refused = isinstance(error, PermissionError) or getattr(error, "status", None) in (401, 403)
    return (AccessRefused if is_refused else InputError)(f"{line} Check the address, and the credentials for it.")


def _may_pass(error: Exception) -> bool:
    status, names = getattr(error, "status", None), {kind.__name__ for kind in type(error).__mro__}
    if isinstance(status, int):
        return status in PASSING_STATUS or status >= 500
    if names & FINAL_NAMES:
        return False
    passing = isinstance(error, TimeoutError | ConnectionError | EOFError) or bool(names & PASSING_NAMES)
    return passing or getattr(error, "errno", None) in PASSING


class _Limit(Callback):  # type: ignore[misc]
    """Refuses a file that is too large as soon as its size is known."""

    def __init__(self, refusal: str, most_bytes: int) -> None:
        super().__init__()
        self.refusal, self.most_bytes = refusal, most_bytes

    def call(self, *names: Any, **values: Any) -> None:
        if max(self.size or 0, self.value) > self.most_bytes:
            raise InputError(self.refusal)
