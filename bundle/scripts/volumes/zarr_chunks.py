"""The chunk files of a Zarr array: which there should be, and whether they are complete."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from scripts.errors import InputError

COPY_AGAIN = "Copy it again, or give --allow_missing_chunks True if it was written without its empty chunks"


def refuse_incomplete_chunks(folder: Path, shape: Sequence[int], allow_missing: bool) -> None:
    """Check that every chunk file exists and is complete, because the Zarr library does not.

    The library returns the fill value for a missing chunk, and arbitrary memory for a truncated Blosc chunk.
    """
    is_blosc = chunk_layout(folder)[-1]
    for chunk in chunk_names(folder, shape):
        if not (folder / chunk).is_file():
            if not allow_missing:
                raise InputError(f"{folder}: the chunk file {chunk} is missing. {COPY_AGAIN}.")
        elif (found := (folder / chunk).stat().st_size) < (promised := _promised_bytes(folder / chunk, is_blosc)):
            fact = f"the chunk file {chunk} is cut short: it should have {promised} bytes or more, it has {found}"
            raise InputError(f"{folder}: {fact}. Copy it again.")


def chunk_names(folder: Path, shape: Sequence[int]) -> Iterator[str]:
    """Return the paths below an array of shape ``shape`` of the files that its chunks should have."""
    lengths, prefix, separator, _ = chunk_layout(folder)
    if separator not in (".", "/"):  # any other could lead out of the folder
        raise ValueError(f"'{separator}' cannot part the numbers of a chunk")
    if min(lengths) < 1:  # otherwise there would be no chunk at all
        raise ValueError(f"a chunk has {min(lengths)} voxels along an axis")
    grid = [range(-(-count // length)) for count, length in zip(shape, lengths, strict=True)]
    return (prefix + separator.join(map(str, place)) for place in itertools.product(*grid))


def _promised_bytes(chunk: Path, is_blosc: bool) -> int:
    """Return the least size in bytes of a complete chunk file: as in its Blosc header, or 1 without Blosc."""
    if not is_blosc:
        return 1
    with open(chunk, "rb") as file:
        return max(16, int.from_bytes(file.read(16)[12:], "little"))  # a header of 16 bytes ends with the length


def chunk_layout(folder: Path) -> tuple[Sequence[int], str, str, bool]:
    """Return how an array is stored.

    Returns:
        Lengths of the chunks (of the shards, if there are any), prefix and separator in the names of their files, and
        whether Blosc compressed them.
    """
    if (folder / ".zarray").is_file():
        metadata = json.loads((folder / ".zarray").read_text())
        is_blosc = (metadata.get("compressor") or {}).get("id") == "blosc"
        return metadata["chunks"], "", metadata.get("dimension_separator", "."), is_blosc
    metadata = json.loads((folder / "zarr.json").read_text())
    grid, keys = metadata["chunk_grid"], metadata["chunk_key_encoding"]
    if grid["name"] != "regular":
        raise ValueError(f"the grid '{grid['name']}' is not known, only a regular one")
    is_default, is_blosc = keys["name"] == "default", metadata["codecs"][-1]["name"] == "blosc"
    separator = keys.get("configuration", {}).get("separator", "/" if is_default else ".")
    return grid["configuration"]["chunk_shape"], f"c{separator}" if is_default else "", separator, is_blosc
