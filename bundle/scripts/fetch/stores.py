"""Files on a server, of any store that fsspec knows: what may pass is tried again, what fails is said in one line."""

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

WAITS = (1.0, 4.0, 10.0)  # seconds before each further try
SILENCE = {"total": None, "sock_connect": 30.0, "sock_read": 60.0}  # seconds that a web server may say nothing
OWN_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG}
PASSING = {errno.EIO, errno.EBUSY, errno.EAGAIN, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETRESET}
PASSING_STATUS = {408, 425, 429}  # and from 500 on
PASSING_NAMES = {"ClientConnectionError", "ClientPayloadError", "IncompleteReadError", "ConnectionLost"}
FINAL_NAMES = {"ClientSSLError"}  # names, because aiohttp and asyncssh may not be installed
Result = TypeVar("Result")


class AccessRefused(InputError):
    """A store knows us too little, or hides what it has not got."""


@dataclass(frozen=True)
class Source:
    """A folder on a server.

    Attributes:
        fs: its store.
        path: where it stands in the store.
        url: what messages and copies call it; holds no user and no password.
        secrets: texts that no message may show.
    """

    fs: Any
    path: str
    url: str
    secrets: tuple[str, ...] = field(default=(), repr=False)


def open_source(url: str, storage_options: Mapping[str, Any]) -> Source:
    """Return the folder at an address; nothing of it is read yet.

    Args:
        url: for example ``s3://bucket/x.zarr`` or ``https://host/x.zarr``.
        storage_options: what fsspec's store takes, credentials for example.

    Raises:
        InputError: there is no store for such an address, or it cannot be reached.
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
        import aiohttp  # here, because only web servers need it

        fs.kwargs.setdefault("timeout", aiohttp.ClientTimeout(**SILENCE))  # its own ends large files after 5 minutes
    return Source(fs, path.rstrip("/"), without_user(fs.unstrip_protocol(path)).rstrip("/"), secrets)


def secrets_in(options: Any) -> tuple[str, ...]:
    """Return every text in a store's options; which of them are secret, only the store knows."""
    if isinstance(options, Mapping | list | tuple):
        values = options.values() if isinstance(options, Mapping) else options
        return tuple(secret for value in values for secret in secrets_in(value))
    return (options,) if isinstance(options, str) and len(options) > 3 else ()


def fetch_file(source: Source, key: str, local: Path, most_bytes: int, stop: Event | None = None) -> int | None:
    """Bring one file to this disk.

    Args:
        source: the folder that it is in.
        key: its path below the folder.
        local: its new path; folders are made as needed.
        most_bytes: a larger one is refused, if the store says its size before much of it is here.
        stop: when set, there is no further try.

    Returns:
        Its bytes, None where the store has not got it.

    Raises:
        InputError: it cannot be read, or is too large.
        OSError: our own disk is full, or may not be written to.
    """
    what = f"{source.url}/{key}"

    def fetch() -> None:
        limit = _Limit(f"{what} is larger than {most_bytes} bytes, which cannot be right.", most_bytes)
        source.fs.get_file(f"{source.path}/{key}", str(local), callback=limit)
        if local.is_file():
            limit.set_size(local.stat().st_size)  # of stores that do not say it beforehand

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
    """Do something with a store, and a few times more where it fails for a reason that may pass.

    Args:
        action: what to do.
        what: what a message calls that which is read.
        secrets: texts that no message may show.
        stop: when set, there is no further try.

    Raises:
        FileNotFoundError: the store has no such file.
        InputError: it does not work, in one line.
        OSError: our own disk is full, or may not be written to.
    """
    tries = 0
    while True:
        try:
            return action()
        except (FileNotFoundError, InputError):
            raise
        # All others, because each store has errors of its own, which share no class.
        except Exception as error:
            if getattr(error, "errno", None) in OWN_DISK:
                raise
            tries += 1
            passing = _may_pass(error)
            if not passing or tries > len(WAITS) or (stop or Event()).wait(WAITS[tries - 1]):
                raise _refusal(error, what, secrets, tries if passing else 0) from error


def fact_of(error: BaseException, secrets: tuple[str, ...] = ()) -> str:
    """Return what an error says, in one line and without secrets."""
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
    """Refuses a file that is larger than it may be, as soon as that is known."""

    def __init__(self, refusal: str, most_bytes: int) -> None:
        super().__init__()
        self.refusal, self.most_bytes = refusal, most_bytes

    def call(self, *names: Any, **values: Any) -> None:
        if max(self.size or 0, self.value) > self.most_bytes:
            raise InputError(self.refusal)
