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
from scripts.volumes.reading import PathLike, check_voxel_size, is_tomogram, read_tomogram


class TomogramReader(ImageReader):
    """MONAI reader for tomograms of all formats; the format is recognised by content.

    ``get_data`` returns the array ``[z, y, x]`` in the file's own type and the metadata that MONAI expects, plus
    ``voxel_size_angstrom``. Files are opened there and not in ``read``, because MONAI's ``LoadImage`` keeps only the
    text of an exception raised in ``read``.

    Args:
        voxel_size_angstrom: overrides the voxel size in the file.
        wanted_voxel_size_angstrom: of an OME-Zarr pyramid the level nearest to it is read; None reads the finest.
        allow_missing_chunks: treat chunks that are missing in a Zarr folder as full of the fill value.
        in_memory: False leaves a file of little-endian values in the order z, y, x where it is: the array is mapped to
            the file and must not be written to.
    """

    def __init__(
        self,
        voxel_size_angstrom: float | None = None,
        wanted_voxel_size_angstrom: float | None = None,
        allow_missing_chunks: bool = False,
        in_memory: bool = True,
    ) -> None:
        super().__init__()
        check_voxel_size("voxel_size_angstrom", voxel_size_angstrom)
        check_voxel_size("wanted_voxel_size_angstrom", wanted_voxel_size_angstrom)
        self.voxel_size_angstrom, self.wanted_voxel_size_angstrom = voxel_size_angstrom, wanted_voxel_size_angstrom
        self.allow_missing_chunks, self.in_memory = allow_missing_chunks, in_memory

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
        volume = read_tomogram(path, *settings)
        meta = {
            "affine": volume.affine,
            "original_affine": volume.affine.copy(),
            "space": "RAS",
            "spatial_shape": np.array(volume.data.shape),
            "original_channel_dim": float("nan"),  # means in MONAI that there is no channel axis
            "voxel_size_angstrom": volume.voxel_size_angstrom,
        }
        is_mapped = not self.in_memory and isinstance(volume.data, np.memmap) and volume.data.flags.c_contiguous
        return _as_read_only(volume.data) if is_mapped else _writable(volume.data), meta


def _as_read_only(values: NDArray[Any]) -> NDArray[Any]:
    """Return an array that is mapped to a file, after torch has warned once, unheard, that it cannot be written to."""
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
