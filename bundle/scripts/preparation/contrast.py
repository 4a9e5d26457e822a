"""Check that the particles of a volume are bright."""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from numpy.typing import NDArray

from scripts.coordinates import voxel_size_of
from scripts.errors import InputWarning
from scripts.file_pages import FilePages, slabs_of
from scripts.preparation.image_facts import source_of
from scripts.preparation.padding import padded_in_plane, scaled_padding

SMOOTHED_ANGSTROM = 60.0  # side of the blocks whose means distinguish bright from dark particles
INVERTED_SKEWNESS = -0.3
PADDING_STEP = 4  # every fourth plane and row tells the padding
MIN_BLOCKS = 1000  # with this many blocks, the skewness of pure noise is 0 ± 0.08


def block_means(volume: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """Return the means of cubes of ``side`` voxels; incomplete cubes at the far ends are left out.

    An axis shorter than ``side`` is one block.
    """
    depth, height, width = (min(side, size) for size in volume.shape)
    rows, columns = volume.shape[1] // height, volume.shape[2] // width
    sums = np.empty((volume.shape[0] // depth, rows, columns), dtype=np.float32)
    for slab in slabs_of(volume, depth):
        for layer in range(slab.start // depth, slab.stop // depth):
            plane = volume[layer * depth : (layer + 1) * depth, : rows * height, : columns * width].sum(axis=0)
            lines = plane.reshape(rows, height, -1).sum(axis=1)
            lines.reshape(rows, columns, width).sum(axis=2, out=sums[layer])
    sums /= np.float32(depth * height * width)
    return sums


def block_means_of_image(volume: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """Return the `block_means` ``(N,)`` of a scaled volume without the blocks that hold padding.

    A block of which padding is a part has a mean of its own, so that it has to be known by its voxels.
    """
    means = block_means(volume, side)
    planes = FilePages(volume).after_each(range(0, len(volume), PADDING_STEP))
    value = scaled_padding(np.stack([volume[z, ::PADDING_STEP].copy() for z in planes]))
    if value is None:
        return means.ravel()
    holds_padding = np.zeros(means.shape, dtype=bool)
    rows, columns = means.shape[1:]
    depth, height, width = (min(side, size) for size in volume.shape)
    for slab in slabs_of(volume[: len(means) * depth]):
        for z in range(slab.start, slab.stop):
            padded = padded_in_plane(volume[z], value)[: rows * height, : columns * width]
            holds_padding[z // depth] |= padded.reshape(rows, height, columns, width).any(axis=(1, 3))
    return means[~holds_padding]


def smoothed_skewness(volume: NDArray[np.float32], voxel_size_angstrom: float) -> float | None:
    """Return the skewness of the means of 60 Å blocks: positive for bright particles, negative for dark ones.

    Particles fill little of the volume and deviate to one side; the noise is symmetric and averages out. Padding does
    not count.

    Args:
        volume: ``(Z, Y, X)``.
        voxel_size_angstrom: of the volume.

    Returns:
        None where there are too few blocks, or their means are all equal.
    """
    means = block_means_of_image(volume, max(1, round(SMOOTHED_ANGSTROM / voxel_size_angstrom)))
    return skewness_of(means) if means.size >= MIN_BLOCKS else None


def skewness_of(values: NDArray[np.floating[Any]]) -> float | None:
    """Return the skewness of numbers; None where all are equal or there are none."""
    if not values.size:
        return None
    away = values.astype(np.float64) - values.mean(dtype=np.float64)
    spread = away.std()
    return float(((away / spread) ** 3).mean()) if spread > 0 else None


class CheckContrastd(MapTransform):
    """Warn if the particles of a volume look dark, see `smoothed_skewness`; the volume is not changed.

    Args:
        keys: volumes ``(1, Z, Y, X)``, scaled.
        inverted: whether the volumes were inverted on request; decides the advice in the message.
    """

    def __init__(self, keys: KeysCollection, inverted: bool = False) -> None:
        super().__init__(keys)
        self.inverted = inverted

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the sample unchanged."""
        for key in self.key_iterator(dict(data)):
            volume: MetaTensor = data[key]
            skewness = smoothed_skewness(np.asarray(volume[0].cpu()), voxel_size_of(volume.affine))
            if skewness is not None and skewness < INVERTED_SKEWNESS:
                state, remedy = ("after inversion ", "False") if self.inverted else ("", "True")
                fact = f"{state}its particles look dark (skewness {skewness:.2f})"
                advice = f"the network expects bright ones: give --invert {remedy} if that is so"
                warnings.warn(f"{source_of(volume)}: {fact}; {advice}.", InputWarning, stacklevel=2)
        return dict(data)
