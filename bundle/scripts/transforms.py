"""Volumes made ready for the network: MONAI transforms that carry settings and call the plain functions above them.

Every volume is ``(C, Z, Y, X)``.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from numpy.typing import NDArray
from torch import Tensor

from scripts.coordinates import voxel_size_of
from scripts.errors import InputError, InputWarning, NoContrastWarning

logger = logging.getLogger(__name__)

MAX_NON_FINITE_SHARE = 0.1
SMOOTHED_ANGSTROM = 60.0  # side of the blocks whose means tell bright particles from dark ones
INVERTED_SKEWNESS = -0.3
MIN_BLOCKS = 1000  # the skewness of so many blocks of noise is 0 ± 0.08


def replace_non_finite(volume: NDArray[np.float32], source: str) -> int:
    """Replace NaN and infinity by the median of the finite voxels, in place; return how many there were.

    Args:
        volume: any shape.
        source: the file, for the message.

    Raises:
        InputError: more than a tenth of the voxels are not finite.
    """
    if np.isfinite(volume.sum(dtype=np.float64)):  # any NaN or infinity would show in the sum
        return 0
    bad = ~np.isfinite(volume)
    count = int(bad.sum())
    if count > MAX_NON_FINITE_SHARE * volume.size:
        raise InputError(f"{source}: {count} of {volume.size} voxels are NaN or infinite; this is no usable tomogram.")
    if count:
        volume[bad] = np.median(volume[~bad])
        warnings.warn(f"{source}: replaced {count} NaN or infinite voxels by the median.", InputWarning, stacklevel=2)
    return count


def scale_percentiles(
    volume: NDArray[np.float32], lower: float = 1.0, upper: float = 99.0, source: str = "volume"
) -> NDArray[np.float32]:
    """Clip a volume to two of its percentiles and stretch them to 0 and 1.

    Args:
        volume: any shape; NaN and infinite voxels are replaced first, see `replace_non_finite`.
        lower: percentile that becomes 0.
        upper: percentile that becomes 1.
        source: the file, for messages.

    Returns:
        A new float32 array; all 0, with a warning, where the two percentiles are the same value.

    Raises:
        InputError: too many voxels are not finite.
    """
    scaled = np.array(volume, dtype=np.float32)
    replace_non_finite(scaled, source)
    low, high = np.percentile(scaled.ravel(), (lower, upper)).tolist()
    if not high > low:
        what = "constant" if scaled.min() == scaled.max() else f"constant between percentiles {lower} and {upper}"
        warnings.warn(f"{source} is {what}: nothing can be picked in it.", NoContrastWarning, stacklevel=2)
        return np.zeros_like(scaled)
    np.clip(scaled, low, high, out=scaled)
    if high - low > np.finfo(np.float32).max / 2:  # the difference of two float32 need not be one
        scaled *= np.float32(0.25)
        low, high = low / 4, high / 4
    scaled -= np.float32(low)
    scaled /= np.float32(high - low)
    return np.clip(scaled, 0, 1, out=scaled)


def block_means(volume: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """Return the means of cubes of ``side`` voxels; what does not fill a cube at the far ends is left out.

    An axis shorter than that is one block.
    """
    sides = [min(side, size) for size in volume.shape]
    counts = [size // length for size, length in zip(volume.shape, sides, strict=True)]
    whole = volume[tuple(slice(count * length) for count, length in zip(counts, sides, strict=True))]
    split = [part for pair in zip(counts, sides, strict=True) for part in pair]
    return whole.reshape(split).mean(axis=(1, 3, 5))


def smoothed_skewness(volume: NDArray[np.float32], voxel_size_angstrom: float) -> float | None:
    """Return the skewness of the means of 60 Å blocks: above 0 with bright particles, below 0 with dark ones.

    Particles are few and stand out to one side; the noise, which is even, is averaged away.

    Args:
        volume: ``(Z, Y, X)``.
        voxel_size_angstrom: of the volume.

    Returns:
        None where there are too few blocks, or all are alike.
    """
    means = block_means(volume, max(1, round(SMOOTHED_ANGSTROM / voxel_size_angstrom))).astype(np.float64)
    spread = means.std()
    if means.size < MIN_BLOCKS or spread == 0:
        return None
    return float((((means - means.mean()) / spread) ** 3).mean())


def resample(volume: Tensor, shape: Sequence[int], step_vox: float) -> Tensor:
    """Sample a volume on another grid whose voxel 0 is the same: output ``i`` lies at input ``i * step_vox``.

    Linear interpolation; where the new grid is coarser the kernel widens, so that nothing is skipped.

    Args:
        volume: ``(C, Z, Y, X)``.
        shape: ``(Z, Y, X)`` of the answer.
        step_vox: input voxels per output voxel.
    """
    width = max(step_vox, 1.0)
    for axis, (size, wanted) in enumerate(zip(volume.shape[1:], shape, strict=True), start=1):
        distance = torch.arange(wanted)[:, None] * step_vox - torch.arange(size)[None]
        kernel = (1 - distance.abs() / width).clamp(min=0)
        kernel = (kernel / kernel.sum(dim=1, keepdim=True)).to(volume)
        volume = torch.tensordot(volume, kernel, dims=([axis], [1])).movedim(-1, axis)
    return volume.contiguous()


def source_of(volume: Any) -> str:
    """Return the file that a volume was read from, for messages."""
    return str(getattr(volume, "meta", {}).get("filename_or_obj", "volume"))


def original_affine_of(image: MetaTensor) -> Tensor:
    """Return the affine of the tomogram as it was read, before any resampling."""
    return torch.as_tensor(image.meta.get("original_affine", image.affine), dtype=torch.float64)


class CheckVoxelSized(MapTransform):
    """Refuse a tomogram whose voxel size is not the model's, or resample it to that on request.

    Args:
        keys: volumes ``(1, Z, Y, X)`` that carry their affine.
        voxel_size_angstrom: the model's.
        tolerance: largest difference to live with, as a share of the model's voxel size.
        resample: bring other voxel sizes to the model's; the original affine stays in ``original_affine``.

    Raises:
        InputError: the voxel size differs by more than the tolerance, and ``resample`` is off.
    """

    def __init__(
        self, keys: KeysCollection, voxel_size_angstrom: float, tolerance: float = 0.02, resample: bool = False
    ) -> None:
        super().__init__(keys)
        if not 0 <= tolerance < 1:
            raise ValueError(f"tolerance is a share of the voxel size, 0 <= tolerance < 1; got {tolerance}.")
        self.voxel_size_angstrom, self.tolerance, self.resample = voxel_size_angstrom, tolerance, resample

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the sample with every volume at the model's voxel size, within the tolerance."""
        sample = dict(data)
        for key in self.key_iterator(sample):
            volume: MetaTensor = sample[key]
            own, wanted = voxel_size_of(volume.affine), self.voxel_size_angstrom
            if abs(own / wanted - 1) <= self.tolerance:
                continue
            if not self.resample:
                raise InputError(
                    f"{source_of(volume)} has voxels of {own:.4g} Å, the model was trained at {wanted:.4g} Å: give "
                    "--resample True, or set voxel_size_angstrom if the file's header is wrong."
                )
            logger.warning("%s: resampled from %.4g Å to %.4g Å", source_of(volume), own, wanted)
            shape = [max(1, round(size * own / wanted)) for size in volume.shape[1:]]
            affine = volume.affine @ torch.diag(torch.tensor([wanted / own] * 3 + [1.0], dtype=volume.affine.dtype))
            sample[key] = MetaTensor(resample(volume.as_tensor(), shape, wanted / own), meta=volume.meta)
            sample[key].affine = affine
        return sample


class ScalePercentilesd(MapTransform):
    """Clip a whole volume to two percentiles and stretch them to 0 and 1, see `scale_percentiles`.

    Args:
        keys: volumes ``(1, Z, Y, X)``.
        lower: percentile that becomes 0.
        upper: percentile that becomes 1.
        invert: for dark particles: the two change places.
    """

    def __init__(self, keys: KeysCollection, lower: float = 1.0, upper: float = 99.0, invert: bool = False) -> None:
        super().__init__(keys)
        if not 0 <= lower < upper <= 100:
            raise ValueError(f"percentiles need 0 <= lower < upper <= 100; got {lower} and {upper}.")
        self.lower, self.upper, self.invert = lower, upper, invert

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the sample with the volumes scaled."""
        sample = dict(data)
        for key in self.key_iterator(sample):
            volume = sample[key]
            values = np.asarray(volume.cpu() if isinstance(volume, Tensor) else volume, dtype=np.float32)
            scaled = torch.from_numpy(scale_percentiles(values, self.lower, self.upper, source_of(volume)))
            if self.invert and scaled.any():  # a volume without contrast stays 0
                scaled = 1 - scaled
            sample[key] = (
                MetaTensor(scaled, meta=volume.meta).to(volume.device) if isinstance(volume, MetaTensor) else scaled
            )
        return sample


class CheckContrastd(MapTransform):
    """Warn of a volume that looks as if its particles were dark, by `smoothed_skewness`; the volume stays as it is.

    Args:
        keys: volumes ``(1, Z, Y, X)``, scaled.
        inverted: whether they were inverted on request, for the remedy in the message.
    """

    def __init__(self, keys: KeysCollection, inverted: bool = False) -> None:
        super().__init__(keys)
        self.inverted = inverted

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the sample as it is."""
        for key in self.key_iterator(dict(data)):
            volume: MetaTensor = data[key]
            skewness = smoothed_skewness(np.asarray(volume[0].cpu()), voxel_size_of(volume.affine))
            if skewness is not None and skewness < INVERTED_SKEWNESS:
                state, remedy = ("after inversion ", "False") if self.inverted else ("", "True")
                fact = f"{state}its particles look dark (skewness {skewness:.2f})"
                advice = f"the network expects bright ones: give --invert {remedy} if that is so"
                warnings.warn(f"{source_of(volume)}: {fact}; {advice}.", InputWarning, stacklevel=2)
        return dict(data)
