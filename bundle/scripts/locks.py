"""One process at a time in a folder."""

from __future__ import annotations

import fcntl
import logging
from pathlib import Path
from typing import IO, Any

from scripts.errors import InputError

logger = logging.getLogger(__name__)


def take_lock(lock: IO[Any], work: str, remedy: str, shared: bool = False) -> None:
    """Lock a folder for this process, until the file is closed or the process dies.

    Args:
        lock: an open file in the folder.
        work: what a message calls the work that is done there.
        remedy: what the message tells to do when somebody else does it, apart from waiting.
        shared: others may hold the lock shared too.

    Raises:
        InputError: another process holds it.
    """
    folder = Path(lock.name).parent
    try:
        fcntl.flock(lock, fcntl.LOCK_SH if shared else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise InputError(f"another {work} is at work in {folder}: wait for it, or {remedy}.") from error
    except OSError as error:  # some network disks know no locks
        logger.warning("%s cannot be locked (%s): start no second %s there", lock.name, error.strerror, work)
