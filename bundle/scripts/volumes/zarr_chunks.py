"""The chunk files of a Zarr array: which there should be, and whether they are complete."""

from __future__ import annotations

import itertools
import json
import math
import os
import re
import stat
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from scripts.errors import InputError, InputWarning

COPY_AGAIN = "Copy it again, or give --allow_missing_chunks True if it was written without its empty chunks"
ABSENT = 2**64 - 1  # in the index of a shard: offset and length of a chunk that is not stored
CHECKSUM_BYTES = 4  # of crc32c


class ChunkLayout(NamedTuple):
    """How an array is stored.

    Attributes:
        lengths: voxels of a chunk along each axis; of a shard, if there are any.
        prefix: beginning of the names of the chunks' files.
        separator: what parts the numbers in these names.
        is_blosc: whether Blosc compressed them.
        sharding: settings of the codec that packs the chunks into shards; None if there are no shards.
    """

    lengths: Sequence[int]
    prefix: str
    separator: str
    is_blosc: bool
    sharding: Mapping[str, Any] | None


def refuse_incomplete_chunks(folder: Path, shape: Sequence[int], allow_missing: bool) -> None:
    """Check that every chunk is there and complete, because the Zarr library does not.

    The library returns the fill value for a missing chunk, whether it has a file of its own or is a part of a shard,
    and arbitrary memory for a truncated Blosc chunk. Chunk files outside of the shape give a warning.
    """
    layout = chunk_layout(folder)
    names = list(chunk_names(folder, shape))
    for place, chunk in zip(_places(shape, layout.lengths), names, strict=True):
        found = _size_of(os.path.join(folder, chunk))
        if found is None:
            if not allow_missing:
                raise InputError(f"{folder}: the chunk file {chunk} is missing. {COPY_AGAIN}.")
            continue
        promised = _promised_bytes(folder / chunk, layout.is_blosc)
        if found < promised:
            fact = f"the chunk file {chunk} is cut short: it should have {promised} bytes or more, it has {found}"
            raise InputError(f"{folder}: {fact}. Copy it again.")
        if layout.sharding is not None and not allow_missing:
            corner = [number * length for number, length in zip(place, layout.lengths, strict=True)]
            _refuse_absent_parts(folder, chunk, corner, layout, shape)
    _mention_other_chunks(folder, shape, layout, set(names))


def chunk_names(folder: Path, shape: Sequence[int]) -> Iterator[str]:
    """Return the paths below an array of shape ``shape`` of the files that its chunks should have."""
    layout = chunk_layout(folder)
    if layout.separator not in (".", "/"):  # any other could lead out of the folder
        raise ValueError(f"'{layout.separator}' cannot part the numbers of a chunk")
    if min(layout.lengths) < 1:  # otherwise there would be no chunk at all
        raise ValueError(f"a chunk has {min(layout.lengths)} voxels along an axis")
    return (layout.prefix + layout.separator.join(map(str, place)) for place in _places(shape, layout.lengths))


def chunk_layout(folder: Path) -> ChunkLayout:
    """Return how an array is stored."""
    if (folder / ".zarray").is_file():
        metadata = json.loads((folder / ".zarray").read_text())
        is_blosc = (metadata.get("compressor") or {}).get("id") == "blosc"
        return ChunkLayout(metadata["chunks"], "", metadata.get("dimension_separator", "."), is_blosc, None)
    metadata = json.loads((folder / "zarr.json").read_text())
    grid, keys, codecs = metadata["chunk_grid"], metadata["chunk_key_encoding"], metadata["codecs"]
    if grid["name"] != "regular":
        raise ValueError(f"the grid '{grid['name']}' is not known, only a regular one")
    is_default = keys["name"] == "default"
    separator = keys.get("configuration", {}).get("separator", "/" if is_default else ".")
    return ChunkLayout(
        lengths=grid["configuration"]["chunk_shape"],
        prefix=f"c{separator}" if is_default else "",
        separator=separator,
        is_blosc=codecs[-1]["name"] == "blosc",
        sharding=codecs[0]["configuration"] if codecs[0]["name"] == "sharding_indexed" else None,
    )


def _places(shape: Sequence[int], lengths: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Return the numbers, along every axis, of the chunks that cover a shape."""
    return itertools.product(*(range(-(-count // length)) for count, length in zip(shape, lengths, strict=True)))


def _size_of(path: str) -> int | None:
    """Return how many bytes a file has; None if there is no file."""
    with suppress(FileNotFoundError, NotADirectoryError):
        found = os.stat(path)
        return found.st_size if stat.S_ISREG(found.st_mode) else None
    return None


def _promised_bytes(chunk: Path, is_blosc: bool) -> int:
    """Return the least size in bytes of a complete chunk file: as in its Blosc header, or 1 without Blosc."""
    if not is_blosc:
        return 1
    with open(chunk, "rb") as file:
        return max(16, int.from_bytes(file.read(16)[12:], "little"))  # a header of 16 bytes ends with the length


def _refuse_absent_parts(
    folder: Path, shard: str, corner: Sequence[int], layout: ChunkLayout, shape: Sequence[int]
) -> None:
    """Refuse a shard without one of its chunks; those that lie outside of the shape are never stored.

    Args:
        folder: the array.
        shard: the shard's file, below it.
        corner: the shard's first voxel.
        layout: of the array.
        shape: of the array.
    """
    sharding: Mapping[str, Any] = layout.sharding or {}
    lengths, codecs = sharding["chunk_shape"], sharding["index_codecs"]
    grid = [whole // part for whole, part in zip(layout.lengths, lengths, strict=True)]
    checksum = CHECKSUM_BYTES * any(codec["name"] == "crc32c" for codec in codecs)
    order = ">" if any(codec.get("configuration", {}).get("endian") == "big" for codec in codecs) else "<"
    size = 16 * math.prod(grid)
    with open(folder / shard, "rb") as file:
        if sharding.get("index_location", "end") == "end":
            file.seek(max(0, (folder / shard).stat().st_size - size - checksum))
        index = np.frombuffer(file.read(size), f"{order}u8")
    if index.nbytes < size:
        raise InputError(f"{folder}: the chunk file {shard} is cut short: it has no complete index. Copy it again.")
    for place, offset in zip(itertools.product(*map(range, grid)), index[::2].tolist(), strict=True):
        first = [start + number * step for start, number, step in zip(corner, place, lengths, strict=True)]
        if offset == ABSENT and all(voxel < count for voxel, count in zip(first, shape, strict=True)):
            raise InputError(f"{folder}: the chunk at voxel {tuple(first)} is missing in {shard}. {COPY_AGAIN}.")


def _mention_other_chunks(folder: Path, shape: Sequence[int], layout: ChunkLayout, names: set[str]) -> None:
    """Give a warning if there are chunk files outside of the shape: it may be too small."""
    separator = re.escape(layout.separator)
    is_chunk = re.compile(rf"{re.escape(layout.prefix)}\d+({separator}\d+){{{len(shape) - 1}}}")
    there = {
        os.path.join(os.path.relpath(place, folder), name).removeprefix("./")
        for place, _, files in os.walk(folder)
        for name in files
    }
    others = sorted(name for name in there - names if is_chunk.fullmatch(name))
    if others:
        stated = " x ".join(map(str, shape))
        fact = f"{len(others)} chunk files, such as {others[0]}, lie outside of the stated shape {stated}"
        warnings.warn(f"{folder}: {fact} and are ignored.", InputWarning, stacklevel=2)
