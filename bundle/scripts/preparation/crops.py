"""Crops: cubes around single particles, with their neighbours masked.

A network takes crops of an even side ``S`` with the particle in voxel ``S // 2``. They are cut one voxel larger, so
that the particle stands exactly in the middle and stays there when a crop is turned or mirrored.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scripts.errors import InputError
from scripts.file_pages import FilePages
from scripts.preparation.padding import without_padding

EDGE_VOXELS = 0.7  # width of the mask's soft edge
SAMPLED_STEP = 4  # along each axis, of the voxels that a tomogram's brightness is computed from
# Quarter turns about the beam's axis z, and whether z is mirrored: the first are the most unlike.
COPIES = ((0, False), (2, False), (1, True), (3, True), (1, False), (3, False), (0, True), (2, True))


@dataclass(frozen=True)
class CropShape:
    """What a network sees of a particle.

    Attributes:
        size_voxels: voxels along each side; even.
        mask_radius_angstrom: beyond it the crop fades to 0, the mean of the tomogram; 0 masks nothing.
        voxel_size_angstrom: of the tomogram.

    Raises:
        InputError: the side is not even and positive, or the radius is negative.
    """

    size_voxels: int = 32
    mask_radius_angstrom: float = 150.0
    voxel_size_angstrom: float = 10.0

    def __post_init__(self) -> None:
        if self.size_voxels < 2 or self.size_voxels % 2 or self.mask_radius_angstrom < 0:
            raise InputError(f"a crop has an even side and a mask that is not negative; got {self}.")

    @property
    def cut_size(self) -> int:
        """Voxels along each side of a crop as it is cut."""
        return self.size_voxels + 1

    def mask(self) -> Tensor:
        """Return the mask ``(S, S, S)``: 1 in a sphere around the voxel ``S // 2``, 0 far outside."""
        if self.mask_radius_angstrom == 0:
            return torch.ones(3 * (self.size_voxels,))
        steps = np.arange(self.size_voxels) - self.size_voxels // 2
        distance = np.sqrt(sum(axis**2 for axis in np.meshgrid(steps, steps, steps, indexing="ij")))
        beyond = distance - self.mask_radius_angstrom / self.voxel_size_angstrom
        return torch.from_numpy((1 / (1 + np.exp(beyond / EDGE_VOXELS))).astype(np.float32))


@dataclass(frozen=True)
class Brightness:
    """Mean and standard deviation of a tomogram's voxels, without padding."""

    mean: float
    deviation: float

    @staticmethod
    def of(volume: Any) -> Brightness:
        """Return the brightness of a volume ``(Z, Y, X)``, from one voxel in `SAMPLED_STEP` along each axis."""
        step, (depth, height, width) = SAMPLED_STEP, volume.shape
        layers = FilePages(volume).after_each(range(0, depth, step))
        planes = (volume[z : z + 1, 0:height, 0:width][0] for z in layers)  # also out of a Zarr
        values = without_padding(np.stack([np.asarray(plane[::step, ::step]).astype(np.float64) for plane in planes]))
        return Brightness(float(values.mean()), max(float(values.std()), 1e-6))


def cut_crop(
    volume: Any, centre_zyx_vox: NDArray[np.float64], size_voxels: int, brightness: Brightness
) -> NDArray[np.float32]:
    """Return a cube around the voxel nearest to a centre, scaled to mean 0 and deviation 1 of the tomogram.

    Args:
        volume: ``(Z, Y, X)``, an array or a tensor.
        centre_zyx_vox: voxel index; becomes voxel ``N // 2`` of the crop.
        size_voxels: ``N``.
        brightness: of the volume.

    Returns:
        ``(N, N, N)``; 0 outside of the volume.
    """
    first = np.rint(centre_zyx_vox).astype(np.int64) - size_voxels // 2
    low, high = np.maximum(first, 0), np.minimum(first + size_voxels, volume.shape)
    crop = np.zeros(3 * (size_voxels,), dtype=np.float32)
    if (high > low).all():
        there = tuple(slice(start, stop) for start, stop in zip(low, high, strict=True))
        here = tuple(slice(start, stop) for start, stop in zip(low - first, high - first, strict=True))
        crop[here] = (np.asarray(volume[there], dtype=np.float32) - brightness.mean) / brightness.deviation
    return crop


def as_input(cut: Tensor, mask: Tensor) -> Tensor:
    """Return crops ``(B, 1, S, S, S)`` for the network, out of ``(B, S + 1, S + 1, S + 1)`` as they were cut."""
    size = len(mask)
    return (cut[:, :size, :size, :size] * mask)[:, None]


def turned_copies(cut: Tensor, number: int) -> list[Tensor]:
    """Return the first ``number`` of the `COPIES` of crops ``(B, N, N, N)``.

    The missing wedge turns with the particle, so a network has to be trained on such copies.
    """
    return [
        copy.flip(1) if mirrored else copy
        for copy, mirrored in ((torch.rot90(cut, turns, (2, 3)), mirrored) for turns, mirrored in COPIES[:number])
    ]
