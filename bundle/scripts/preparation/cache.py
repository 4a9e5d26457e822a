"""Prepared tomograms on disk, of which a training window reads only its own rows.

Each tomogram is read, checked and scaled once. The result is stored in a folder as plain ``.npy`` files, and every
access reads only the part it needs, so memory does not grow with the number of tomograms.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Hashable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import CacheDataset, Dataset, MetaTensor
from monai.transforms import Compose, Transform
from torch import Tensor
from tqdm import tqdm

from scripts.atomic_files import (
    digest_of_parts,
    remove_temporaries,
    require_writable,
    stamps_of,
    take_lock,
    write_folder_atomically,
)
from scripts.errors import InputError
from scripts.records import canonical, record_of

logger = logging.getLogger(__name__)

# Increase when the on-disk layout changes: it is part of every entry's hash, so old entries are ignored.
CACHE_FORMAT = 2
META = "meta.json"
PROPOSALS_PATH = "proposals_path"  # key of an item that no preparation reads: two lists of tomograms share an entry
RUN = "run"  # key of an item with the run's name, which may also be that of a file
KEPT_META = ("affine", "original_affine", "spatial_shape", "filename_or_obj")


class StoredVolume:
    """A volume in a ``.npy`` file: it knows its shape, and an index reads that part of the file.

    Not a memory map, because the operating system would read ahead: five times as much for a window of a full-size
    tomogram.

    Args:
        path: the file; its array has the axes ``(C, Z, Y, X)``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with open(path, "rb") as file:
            np.lib.format.read_magic(file)
            shape, _, self.dtype = np.lib.format.read_array_header_1_0(file)
            self.first_byte = file.tell()
        self.shape = torch.Size(shape)

    def __getitem__(self, box: tuple[slice, ...]) -> Tensor:
        """Return the box of four slices without steps; only the rows that it touches are read."""
        channels, layers, rows, columns = (
            range(*part.indices(size)) for part, size in zip(box, self.shape, strict=True)
        )
        _, depth, height, width = self.shape
        values = np.empty([len(channels), len(layers), len(rows), len(columns)], self.dtype)
        with open(self.path, "rb", buffering=0) as file:
            for (channel, place), (number, layer) in product(enumerate(channels), enumerate(layers)):
                row = (place * depth + layer) * height + rows.start
                start, length = self.first_byte + row * width * self.dtype.itemsize, len(rows) * width
                part = np.frombuffer(os.pread(file.fileno(), length * self.dtype.itemsize, start), self.dtype)
                values[channel, number] = part.reshape(-1, width)[:, columns.start : columns.stop]
        return torch.from_numpy(values)


class StoredDataset(Dataset):
    """Tomograms that are prepared once, stored in a folder and read from there at every access.

    An entry is identified by size, modification time and parts of its files and by the settings of the preparation;
    when any of these changes, a new entry is made. Several processes may share a folder; they also share the work.

    Args:
        data: the tomograms, one dictionary of paths and names each.
        preparation: transforms of a whole tomogram; the tensors in their result are stored.
        cache_dir: the folder; may be deleted when no training uses it.
        in_parts: return volumes as `StoredVolume`; otherwise as whole tensors.

    Raises:
        InputError: the folder cannot be written to, or a tomogram cannot be read.
    """

    def __init__(
        self,
        data: Sequence[Mapping[Hashable, Any]],
        preparation: Callable[..., Any],
        cache_dir: str | Path,
        in_parts: bool = False,
    ) -> None:
        super().__init__(data, preparation)
        self.in_parts = in_parts
        self.entries = [Path(cache_dir) / entry_name(item, preparation) for item in data]
        if self.entries:
            require_writable(cache_dir)
        waiting = [place for place, entry in enumerate(self.entries) if not entry.exists()]
        for place in tqdm(waiting, desc="preparing tomograms", disable=len(waiting) < 2):
            self.prepare(place, wait=False)
        for place in waiting:  # those that another process was making
            self.prepare(place, wait=True)
        if waiting:
            logger.info("%d prepared tomograms in %s", len(waiting), cache_dir)

    def prepare(self, place: int, wait: bool) -> None:
        """Make a missing entry; one that another process is making is skipped, or waited for."""
        entry = self.entries[place]
        with open(entry.with_name(f"{entry.name}.lock"), "wb") as lock:
            if entry.exists():
                return
            try:
                taken = take_lock(lock, wait=wait)
            except OSError as error:
                raise InputError(
                    f"cannot lock {lock.name}: {error.strerror}. Set cache_dir to a folder on this machine."
                ) from error
            if taken and not entry.exists():
                write_entry(entry, self.transform(dict(self.data[place])))

    def __getitem__(self, place: int) -> Any:  # type: ignore[override]
        """Return a prepared tomogram."""
        return {**self.data[place], **read_entry(self.entries[place], self.in_parts)}


def prepared_dataset(
    data: Sequence[Mapping[Hashable, Any]],
    preparation: Transform | Sequence[Transform],
    cache_dir: str | Path | None = None,
    in_parts: bool = False,
) -> Dataset:
    """Return tomograms that are prepared once and kept in a folder, see `StoredDataset`, or in memory.

    Args:
        data: the tomograms, one dictionary each.
        preparation: transforms of a whole tomogram.
        cache_dir: the folder; None keeps all of them in memory.
        in_parts: see `StoredDataset`.
    """
    if cache_dir is None:
        return CacheDataset(data, Compose(preparation), num_workers=1, progress=len(data) > 1)
    return StoredDataset(data, Compose(preparation), cache_dir, in_parts)


def entry_name(item: Mapping[Hashable, Any], preparation: Callable[..., Any]) -> str:
    """Return the name of an entry: that of the run, and a hash of the files and the settings.

    Raises:
        InputError: a file cannot be read.
    """
    item = {key: value for key, value in item.items() if key != PROPOSALS_PATH}
    try:
        files = {
            key: [stamps_of(Path(value)), digest_of_parts(Path(value))]
            for key, value in item.items()
            if key != RUN and isinstance(value, str) and (os.path.exists(value) or "*" in value)
        }
    except OSError as error:
        raise InputError(f"cannot read {error.filename}: {error.strerror}.") from error
    content = canonical([CACHE_FORMAT, record_of(item), files, record_of(preparation)])
    digest = hashlib.sha256(content.encode(errors="surrogateescape"))  # a path need not be UTF-8
    return f"{item.get(RUN, 'tomogram')}-{digest.hexdigest()[:16]}"


def write_entry(entry: Path, sample: Mapping[Hashable, Any]) -> None:
    """Write the tensors of a prepared tomogram to a folder, atomically.

    Raises:
        InputError: the folder cannot be written to, or the disk is full.
    """
    remove_temporaries(entry.parent, entry.name)  # left by a killed process: only the holder of the lock writes
    with write_folder_atomically(entry, remedy="Set cache_dir to another folder.") as folder:
        tensors = {str(key): value for key, value in sample.items() if isinstance(value, Tensor)}
        for key, value in tensors.items():
            np.save(folder / f"{key}.npy", np.ascontiguousarray(value))
        known = {key: meta_of(value) for key, value in tensors.items()}
        (folder / META).write_text(json.dumps(known))


def meta_of(tensor: Tensor) -> dict[str, Any] | None:
    """Return the stored part of a volume's metadata, ready for JSON; None for a tensor without metadata."""
    if not isinstance(tensor, MetaTensor):
        return None
    kept = {key: tensor.meta[key] for key in KEPT_META if key in tensor.meta}
    return {key: value if isinstance(value, str) else np.asarray(value).tolist() for key, value in kept.items()}


def read_entry(entry: Path, in_parts: bool) -> dict[str, Tensor | StoredVolume]:
    """Return the tensors of an entry; with ``in_parts``, volumes ``(C, Z, Y, X)`` stay in their files."""
    sample: dict[str, Tensor | StoredVolume] = {}
    for key, meta in json.loads((entry / META).read_text()).items():
        stored = StoredVolume(entry / f"{key}.npy")
        if in_parts and len(stored.shape) == 4:
            sample[key] = stored
            continue
        tensor = torch.from_numpy(np.load(stored.path))
        if meta is not None:
            numbers = {name: value if isinstance(value, str) else np.array(value) for name, value in meta.items()}
            tensor = MetaTensor(tensor, meta={**numbers, "affine": torch.tensor(meta["affine"], dtype=torch.float64)})
        sample[key] = tensor
    return sample
