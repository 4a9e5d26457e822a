"""Scale grey values for the network: two percentiles become 0 and 1."""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from numpy.typing import NDArray
from torch import Tensor

from scripts.errors import InputError, InputWarning, NoContrastWarning
from scripts.preparation.image_facts import source_of

MAX_NON_FINITE_SHARE = 0.1


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
    """Clip a volume to two of its percentiles and scale them to 0 and 1.

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
    if high - low > np.finfo(np.float32).max / 2:  # the difference would overflow float32
        scaled *= np.float32(0.25)
        low, high = low / 4, high / 4
    scaled -= np.float32(low)
    scaled /= np.float32(high - low)
    return np.clip(scaled, 0, 1, out=scaled)


class ScalePercentilesd(MapTransform):
    """Clip a whole volume to two percentiles and scale them to 0 and 1, see `scale_percentiles`.

    Args:
        keys: volumes ``(1, Z, Y, X)``.
        lower: percentile that becomes 0.
        upper: percentile that becomes 1.
        invert: swap 0 and 1, for dark particles.
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
