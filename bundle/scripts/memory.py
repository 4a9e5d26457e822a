"""How much memory there is, and whether it ran out."""

from __future__ import annotations

import ctypes
import math
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from scripts.errors import InputError

GIB = 2**30
MEMINFO, GROUPS_OF_SELF, GROUPS = Path("/proc/meminfo"), Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
# files of a control group, by version: its limit and its use; then the part of it that is files, and can be given back
GROUP_FILES = {
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", r"^total_(?:in)?active_file (\d+)"),
    2: ("memory.max", "memory.current", r"^(?:in)?active_file (\d+)"),
}
# as PyTorch says it: of a device, of the machine, and in Windows; then as cuBLAS, cuDNN and cuFFT do
OUT_OF_MEMORY = re.compile(
    r"out of memory|(?:can't|cannot|unable to) allocate|not enough memory|alloc(?:ation)?_failed", re.IGNORECASE
)


def require_memory(size: float, what: str, remedy: str) -> None:
    """Check that memory is free before it is taken: otherwise the system may end this program, or another one.

    Args:
        size: bytes that will be taken.
        what: takes them, for the message.
        remedy: for the message: what the user can do.

    Raises:
        InputError: less is free.
    """
    free = available_bytes()
    if size > free:
        raise InputError(f"{what} needs about {size / GIB:.1f} GiB of memory, {free / GIB:.1f} GiB are free: {remedy}.")


def available_bytes() -> float:
    """Return how much memory this process can take: of the machine, and of its container or batch job.

    Infinity where the system does not tell; Linux does.
    """
    return min([*_free_in_machine(), *_free_in_groups()], default=math.inf)


def return_freed_memory() -> None:
    """Give memory that was freed back to the system: glibc keeps it. Where there is no glibc, nothing happens."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(ctypes.c_size_t(0))


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether memory, of the machine or of a GPU, could not be allocated."""
    is_told = isinstance(error, RuntimeError) and OUT_OF_MEMORY.search(str(error))
    return bool(is_told) or isinstance(error, MemoryError)


def _free_in_machine() -> Iterator[int]:
    with suppress(OSError):
        yield from (1024 * int(found) for found in re.findall(r"MemAvailable:\s+(\d+) kB", MEMINFO.read_text()))


def _free_in_groups() -> Iterator[int]:
    """Yield what the limits of this process's control group, and of those above it, leave free."""
    with suppress(OSError):
        for line in GROUPS_OF_SELF.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers in ("", "memory"):
                version, top = (1, GROUPS / "memory") if controllers else (2, GROUPS)
                group = top / path.strip("/")
                for folder in (group, *group.parents):
                    if folder.is_relative_to(top):
                        yield from _free_in_group(folder, version)


def _free_in_group(folder: Path, version: int) -> Iterator[int]:
    limit, used, of_files = GROUP_FILES[version]
    with suppress(OSError, ValueError):  # no such files, or no limit: "max"
        cached = sum(map(int, re.findall(of_files, (folder / "memory.stat").read_text(), re.MULTILINE)))
        yield max(int((folder / limit).read_text()) - int((folder / used).read_text()) + cached, 0)
