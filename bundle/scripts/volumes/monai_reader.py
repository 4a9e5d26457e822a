"""The MONAI reader for tomograms of all formats."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from monai.data import ImageReader
from numpy.typing import NDArray

from scripts.errors import InputError
from scripts.file_pages import FilePages, new_volume, slabs_of
from scripts.volumes.reading import PathLike, check_voxel_size, is_tomogram, read_tomogram


class TomogramReader(ImageReader):
    """MONAI reader for tomograms of all formats; the format is recognised by content.

    ``get_data`` returns the array ``[z, y, x]`` and the metadata that MONAI expects, plus ``voxel_size_angstrom``.
    Files are opened there and not in ``read``, because MONAI's ``LoadImage`` keeps only the text of an exception raised
    in ``read``.

    Args:
        voxel_size_angstrom: overrides the voxel size in the file.
        wanted_voxel_size_angstrom: of an OME-Zarr pyramid the level nearest to it is read; None reads the finest.
        allow_missing_chunks: treat chunks that are missing in a Zarr folder as full of the fill value.
        memory_gib: of the whole program. The array is then of float32: mapped to the file and not to be written to,
            where the file holds little-endian float32 in the order z, y, x; otherwise in memory or, if that takes too
            much of it, in a temporary file, see `file_pages`; compressed files are unpacked in memory. None reads into
            memory, in the file's own type.
    """

    unrecorded = ("memory_gib",)

    def __init__(
        self,
        voxel_size_angstrom: float | None = None,
        wanted_voxel_size_angstrom: float | None = None,
        allow_missing_chunks: bool = False,
        memory_gib: float | None = None,
    ) -> None:
        super().__init__()
        check_voxel_size("voxel_size_angstrom", voxel_size_angstrom)
        check_voxel_size("wanted_voxel_size_angstrom", wanted_voxel_size_angstrom)
        self.voxel_size_angstrom, self.wanted_voxel_size_angstrom = voxel_size_angstrom, wanted_voxel_size_angstrom
        self.allow_missing_chunks, self.memory_gib = allow_missing_chunks, memory_gib

    def verify_suffix(self, filename: Sequence[PathLike] | PathLike) -> bool:
        """Return whether the names look like tomograms; MONAI only calls this if no reader is named."""
        return all(is_tomogram(path) for path in _as_paths(filename))

    def read(self, data: Sequence[PathLike] | PathLike, **kwargs: Any) -> tuple[PathLike, ...]:
        """Return the paths; nothing is read yet."""
        if kwargs:
            raise TypeError(f"{type(self).__name__} takes its settings when built; got {sorted(kwargs)}.")
        return _as_paths(data)

    def get_data(self, img: Sequence[PathLike] | PathLike) -> tuple[NDArray[Any], dict[str, Any]]:
        """Read the file that ``read`` was given.

        Raises:
            InputError: the file cannot be read or is inconsistent, or its voxel size is not known.
        """
        path, *more = _as_paths(img)
        if more:
            raise InputError(f"{path}: one tomogram at a time; got {len(more)} more files with it.")
        settings = (self.voxel_size_angstrom, self.wanted_voxel_size_angstrom, self.allow_missing_chunks)
        volume = read_tomogram(path, *settings, memory_gib=self.memory_gib)
        meta = {
            "affine": volume.affine,
            "original_affine": volume.affine.copy(),
            "space": "RAS",
            "spatial_shape": np.array(volume.data.shape),
            "original_channel_dim": float("nan"),  # means in MONAI that there is no channel axis
            "voxel_size_angstrom": volume.voxel_size_angstrom,
        }
        if self.memory_gib is None:
            return _writable(volume.data), meta
        return _as_float32(volume.data, self.memory_gib), meta


def _as_float32(values: NDArray[Any], memory_gib: float) -> NDArray[np.float32]:
    """Return values as float32 in the order z, y, x, copied only if necessary, and then slab by slab."""
    if values.dtype == np.float32 and values.flags.c_contiguous:
        return values if values.flags.writeable else _as_read_only(values)
    copied = new_volume(values.shape, memory_gib)
    for slab in FilePages(values).after_each(slabs_of(copied)):
        np.copyto(copied[slab], values[slab], casting="unsafe")
    return copied


def _as_read_only(values: NDArray[Any]) -> NDArray[Any]:
    """Return an array that is not to be written to, after torch has warned once, unheard, that it cannot be."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.from_numpy(values[:1])
    return values


def _writable(values: NDArray[Any]) -> NDArray[Any]:
    """Return the values as a writable array in memory, copied only if necessary."""
    is_ours = values.flags.writeable and not isinstance(values, np.memmap)
    return np.ascontiguousarray(values) if is_ours else np.array(values, order="C")


def _as_paths(paths: Sequence[PathLike] | PathLike) -> tuple[PathLike, ...]:
    return (paths,) if isinstance(paths, str | os.PathLike) else tuple(paths)
