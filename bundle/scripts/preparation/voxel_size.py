"""Check the voxel size of a volume, and resample it on request."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from torch import Tensor

from scripts.coordinates import voxel_size_of
from scripts.errors import InputError
from scripts.preparation.image_facts import source_of
from scripts.preparation.padding import too_common_value
from scripts.preparation.scaling import is_finite, replace_non_finite, sorted_sample_of
from scripts.settings import check_setting

logger = logging.getLogger(__name__)


def resample(volume: Tensor, shape: Sequence[int], step_vox: float) -> Tensor:
    """Resample a volume; voxel 0 stays in place, and output voxel ``i`` lies at input voxel ``i * step_vox``.

    Linear interpolation; for a coarser grid the kernel is wider, so that no input voxel is skipped.

    Args:
        volume: ``(C, Z, Y, X)``.
        shape: ``(Z, Y, X)`` of the result.
        step_vox: input voxels per output voxel.
    """
    width = max(step_vox, 1.0)
    for axis, (size, wanted) in enumerate(zip(volume.shape[1:], shape, strict=True), start=1):
        distance = torch.arange(wanted)[:, None] * step_vox - torch.arange(size)[None]
        kernel = (1 - distance.abs() / width).clamp(min=0)
        kernel = (kernel / kernel.sum(dim=1, keepdim=True)).to(volume)
        volume = torch.tensordot(volume, kernel, dims=([axis], [1])).movedim(-1, axis)
    return volume.contiguous()


def resample_image(volume: MetaTensor, shape: Sequence[int], step_vox: float) -> Tensor:
    """Resample a tomogram as `resample` does; NaN, infinity and padding do not spread.

    A voxel that is not finite is replaced first: it would reach all others. Padding is taken for 0 meanwhile, because a
    weighted mean of equal values is not quite that value, by which it is known.

    Args:
        volume: ``(C, Z, Y, X)``, float32.
        shape: ``(Z, Y, X)`` of the result.
        step_vox: input voxels per output voxel.

    Raises:
        InputError: too many voxels are not finite.
    """
    image = volume.as_tensor()
    if not is_finite(image.numpy()):
        image = image.clone()
        replace_non_finite(image.numpy(), source_of(volume))
    padding = too_common_value(sorted_sample_of(image.numpy()))
    if padding is None:
        return resample(image, shape, step_vox)
    return resample(image - padding, shape, step_vox) + padding


class CheckVoxelSized(MapTransform):
    """Check that a tomogram has the model's voxel size, or resample it to that on request.

    Args:
        keys: volumes ``(1, Z, Y, X)`` that carry their affine.
        voxel_size_angstrom: the model's.
        tolerance: largest accepted difference, as a share of the model's voxel size.
        resample: bring other voxel sizes to the model's; the affine as read is kept in ``original_affine``.

    Raises:
        InputError: the voxel size differs by more than the tolerance, and ``resample`` is off.
    """

    def __init__(
        self, keys: KeysCollection, voxel_size_angstrom: float, tolerance: float = 0.02, resample: bool = False
    ) -> None:
        super().__init__(keys)
        check_setting("voxel_size_tolerance", tolerance)
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
            sample[key] = MetaTensor(resample_image(volume, shape, wanted / own), meta=volume.meta)
            sample[key].affine = affine
        return sample
