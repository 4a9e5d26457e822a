"""Volumes that are larger than the memory they may take: kept in a file, of which only the part in use is in memory."""

from __future__ import annotations

import ctypes
import math
import mmap
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from scripts.errors import InputError
from scripts.memory import require_memory

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")

MEMORY_SHARE = 0.25  # of the memory of a program; a larger volume is kept in a file
SLAB_VOXELS = 2**24  # read or written before its pages are given back


def new_volume(
    shape: Sequence[int], memory_gib: float | None, dtype: type[np.floating[Any]] = np.float32
) -> NDArray[Any]:
    """Return a volume of zeros: in memory or, if it takes too much of it, in a temporary file.

    The file has no name any more; the system deletes it when the volume is not used any longer. It lies in Python's
    folder for temporary files, which the environment variable ``TMPDIR`` sets.

    Args:
        shape: of the volume.
        memory_gib: of the whole program; None for any size in memory.
        dtype: of the voxels.

    Raises:
        InputError: memory or, for a file, the disk is too small.
    """
    size = np.dtype(dtype).itemsize * math.prod(shape)
    what = f"a volume of {' x '.join(map(str, shape))} voxels"
    if memory_gib is None or not is_large(size, memory_gib):
        require_memory(size, what, "give a smaller --memory_gib, or take a machine with more memory")
        return np.zeros(shape, dtype=dtype)
    with tempfile.TemporaryFile() as file:
        _reserve(file.fileno(), size, what)
        return np.frombuffer(mmap.mmap(file.fileno(), size), dtype=dtype).reshape(shape)


def _reserve(file: int, size: int, what: str) -> None:
    """Give an open file its size and its place on the disk: a full disk would otherwise end the program with SIGBUS."""
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file, 0, size)
        else:
            os.ftruncate(file, size)
    except OSError as error:
        raise InputError(
            f"{what} needs {size / 2**30:.1f} GiB in {tempfile.gettempdir()}: {error.strerror}. Let the environment "
            "variable TMPDIR name a folder with more space."
        ) from error


def is_large(size: int, memory_gib: float) -> bool:
    """Return whether so many bytes are more than `MEMORY_SHARE` of the memory of a program."""
    return size > MEMORY_SHARE * memory_gib * 2**30


def slabs_of(volume: NDArray[Any], multiple: int = 1) -> Iterator[slice]:
    """Yield the ranges of the first axis that make up a volume; of a file's volume, each leaves memory after use.

    Args:
        volume: at least one axis.
        multiple: the ranges start at multiples of it.
    """
    layers = max(SLAB_VOXELS * len(volume) // max(volume.size, 1) // multiple, 1) * multiple
    for first in FilePages(volume).after_each(range(0, len(volume), layers)):
        yield slice(first, min(first + layers, len(volume)))


class FilePages:
    """The memory that a volume's file takes, found once, which takes milliseconds, and given back as often as wanted.

    Of a part of a volume that is the whole stretch of the file from its first to its last voxel. Nothing is given back
    of volumes in memory, of others than arrays and tensors, and outside Linux.

    Args:
        volume: is kept, because its addresses would otherwise become those of something else.
    """

    def __init__(self, volume: Any) -> None:
        self.volume = volume
        place = _place_of(volume)
        self.stretches = [] if place is None else list(_stretches_of_files(*place))

    def release(self) -> None:
        """Give the memory back to the system, which reads the file again when the volume is used again.

        What was written stays: pages of a shared mapping belong to the file.
        """
        for first, last in self.stretches:
            ctypes.CDLL(None).madvise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), mmap.MADV_DONTNEED)

    def after_each(self, items: Iterable[T]) -> Iterator[T]:
        """Yield items, and give the memory back after what is done with each."""
        for item in items:
            yield item
            self.release()


def parts_of(volumes: Tensor) -> Iterator[Tensor]:
    """Yield what lies along the first axis, as the channels of logits; of a file's, each leaves memory after use."""
    return FilePages(volumes).after_each(volumes)


def release_file_pages(volume: NDArray[Any] | Tensor) -> None:
    """Give the memory of a file's volume back to the system, see `FilePages`."""
    FilePages(volume).release()


def _place_of(volume: Any) -> tuple[int, int] | None:
    """Return the addresses, first and end, of an array or of a tensor on a CPU; None of anything else."""
    if isinstance(volume, np.ndarray):
        start, strides, width = volume.ctypes.data, volume.strides, volume.itemsize
    elif getattr(getattr(volume, "device", None), "type", None) == "cpu":
        width = volume.element_size()
        start, strides = volume.data_ptr(), tuple(width * step for step in volume.stride())
    else:
        return None
    return start, start + sum(max(size - 1, 0) * step for size, step in zip(volume.shape, strides, strict=True)) + width


def _stretches_of_files(start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield the addresses, first and end, of what lies between two of them in files that are shared with the system."""
    if not sys.platform.startswith("linux"):
        return
    with open("/proc/self/maps") as lines:
        for line in lines:
            place, permissions, _, _, inode = line.split()[:5]
            first, last = (int(number, 16) for number in place.split("-"))
            if first < end and start < last and permissions[3] == "s" and inode != "0":
                yield max(first, start // mmap.PAGESIZE * mmap.PAGESIZE), min(last, end)
