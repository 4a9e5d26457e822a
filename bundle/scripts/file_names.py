"""Names of runs, species, users and sessions that become names of files and folders."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable
from pathlib import Path

from scripts.errors import InputError

LONGEST = 230  # bytes; file systems allow 255, and endings and temporary names are added
DEVICES = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³])( *\..*)?", re.IGNORECASE)  # of Windows


def fault_of_name(name: str) -> str | None:
    """Return why a file cannot be called after a name on every system, or would lie elsewhere; None if it can."""
    if not name:
        return "is empty"
    if "/" in name or "\\" in name:
        return "holds a slash"
    if not name.isprintable():
        return "holds a character that cannot be printed"
    if name.startswith("."):
        return "starts with a dot"
    if name.endswith((".", " ")):
        return "ends with a dot or a space"
    if DEVICES.fullmatch(name):
        return "is the name of a device in Windows"
    if len(name.encode()) > LONGEST:
        return f"is longer than {LONGEST} bytes"
    return None


def require_file_name(name: str, what: str, source: str = "") -> str:
    """Return a name that a file or a folder is to be called after.

    Args:
        name: the name.
        what: what it names, for the message: ``run``, ``species`` ...
        source: where it comes from, for the message: a file, perhaps with a row.

    Raises:
        InputError: a file cannot be called so, or would lie elsewhere.
    """
    fault = fault_of_name(name)
    if fault:
        before = f"{source}: " if source else ""
        raise InputError(f"{before}the {what} '{shown(name)}' {fault}; a file or folder is called after it. Rename it.")
    return name


def refuse_look_alikes(names: Iterable[str], known: Collection[str], source: str | Path) -> None:
    """Refuse names that would be among the known ones if accents were written alike: composed or decomposed.

    Args:
        names: for example of runs, after their files.
        known: those that a table has.
        source: the table, for the message.

    Raises:
        InputError: names the first such name.
    """
    composed = {unicodedata.normalize("NFC", name): name for name in known}
    for name in names:
        if name not in known and unicodedata.normalize("NFC", name) in composed:
            raise InputError(
                f"{source} writes the accents of run '{shown(name)}' in another way than its file (composed or "
                "decomposed, as on macOS): copy the name from the file, or rename the file."
            )


def shown(name: str) -> str:
    """Return a name as text of one line that can be printed, and is not too long for a message."""
    printable = name if name.isprintable() else repr(name)[1:-1]
    return printable if len(printable) <= 80 else f"{printable[:77]}..."
