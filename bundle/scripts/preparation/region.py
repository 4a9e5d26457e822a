"""Where particles are looked for: inside a mask, between two heights, or in the ice itself.

A region is a volume on the grid of the tomogram that the network sees, 0 outside. A particle belongs to it when the
voxel that holds its centre does.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Hashable, Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.engines import default_prepare_batch
from monai.transforms import MapTransform
from numpy.typing import ArrayLike, NDArray

from scripts.coordinates import as_points, voxel_size_of
from scripts.datasets.runs import run_name
from scripts.errors import InputError, InputWarning
from scripts.preparation.contrast import block_means
from scripts.preparation.image_facts import original_affine_of, source_of
from scripts.volumes.reading import read_tomogram

logger = logging.getLogger(__name__)

AUTO, RUN_MARK = "auto", "{run}"
ICE_BLOCK_ANGSTROM = 40.0  # side of the blocks whose spread tells ice from vacuum
ICE_LEVEL = 0.25  # ice begins where the spread has risen by this share from that of the vacuum to that of the ice
LEAST_RISE = 1.1  # a spread that rises by less tells nothing: the ice fills the volume
ICE_MARGIN_ANGSTROM = 100.0


def sample_mask(
    mask: NDArray[Any], mask_voxel_size_angstrom: float, shape_zyx: Sequence[int], voxel_size_angstrom: float
) -> NDArray[np.bool_]:
    """Sample a mask on another grid that covers the same box: each voxel takes the value of the mask's where it lies.

    Args:
        mask: ``(Z, Y, X)``, anything but 0 is inside.
        mask_voxel_size_angstrom: of the mask.
        shape_zyx: ``(Z, Y, X)`` of the answer.
        voxel_size_angstrom: of the answer.
    """
    for axis, size in enumerate(shape_zyx):
        place = (np.arange(size) + 0.5) * (voxel_size_angstrom / mask_voxel_size_angstrom)
        mask = mask.take(np.clip(place.astype(np.int64), 0, mask.shape[axis] - 1), axis=axis)
    answer: NDArray[np.bool_] = mask != 0
    return answer


def fit_slab(volume: NDArray[np.float32], voxel_size_angstrom: float) -> tuple[float, float] | None:
    """Find the heights between which the ice lies, from how much the grey values differ in each layer.

    Layers of blocks of 40 Å are compared by the standard deviation of the blocks' means. The vacuum's is the mean of
    the lowest tenth, the ice's the median of the upper half; ice reaches from the first layer to the last that rises
    by a quarter of the difference, and 100 Å further. A tilted slab is covered whole.

    Args:
        volume: ``(Z, Y, X)``.
        voxel_size_angstrom: of the volume.

    Returns:
        The first and the last height in voxels; None where no layer stands out, so that the ice fills the volume.
    """
    side = max(1, round(ICE_BLOCK_ANGSTROM / voxel_size_angstrom))
    spread = block_means(volume, side).std(axis=(1, 2))
    ordered = np.sort(spread)
    vacuum, ice = ordered[: math.ceil(len(ordered) / 10)].mean(), np.median(ordered[len(ordered) // 2 :])
    if not ice > LEAST_RISE * vacuum:
        return None
    layers = np.flatnonzero(spread > vacuum + ICE_LEVEL * (ice - vacuum))
    margin = ICE_MARGIN_ANGSTROM / voxel_size_angstrom
    low, high = layers[0] * side - margin, (layers[-1] + 1) * side - 1 + margin
    return max(float(low), 0.0), min(float(high), len(volume) - 1.0)


def is_inside(region: NDArray[Any], points_zyx_vox: ArrayLike) -> NDArray[np.bool_]:
    """Tell which points ``(N, 3)`` lie in a region ``(Z, Y, X)``, 0 outside; those outside the volume do not."""
    voxels = np.rint(as_points(points_zyx_vox, "points_zyx_vox")).astype(np.int64)
    shape = np.asarray(region.shape)
    there = ((voxels >= 0) & (voxels < shape)).all(axis=1)
    z, y, x = np.clip(voxels, 0, shape - 1).T
    answer: NDArray[np.bool_] = there & (region[z, y, x] != 0)
    return answer


class LimitRegiond(MapTransform):
    """Say where particles are looked for; without a mask and a slab a sample stays as it is.

    Args:
        keys: volumes ``(1, Z, Y, X)`` as the network sees them; they stay as they are.
        mask_path: the mask of a run, with ``{run}`` in the place of its name: a volume of any format that
            `readers` reads, 0 outside. On the tomogram's own grid, or with a voxel size of its own over the same box.
        slab_z_angstrom: the first and the last height, in the tomogram's coordinates, or ``auto``, see `fit_slab`.
        region_key: where the region ``(1, Z, Y, X)`` is put, uint8.
        label_key: true particles ``(N, 4)``; those outside the region are left out, where there are any.
        voxel_offset: see `coordinates`.

    Raises:
        InputError: the mask cannot be read, or covers another box than the tomogram.
    """

    def __init__(
        self,
        keys: KeysCollection,
        mask_path: str | None = None,
        slab_z_angstrom: str | Sequence[float] | None = None,
        region_key: str = "region",
        label_key: str = "label",
        voxel_offset: float = 0.0,
    ) -> None:
        super().__init__(keys)
        self.slab_z_angstrom = check_slab(slab_z_angstrom)
        self.mask_path, self.voxel_offset = mask_path, voxel_offset
        self.region_key, self.label_key = region_key, label_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the sample with its region."""
        sample = dict(data)
        if self.mask_path is None and self.slab_z_angstrom is None:
            return sample
        for key in self.key_iterator(sample):
            image: MetaTensor = sample[key]
            region = np.ones(image.shape[1:], dtype=bool)
            if self.mask_path is not None:
                run = str(sample.get("run") or run_name(source_of(image)))
                region &= read_mask(self.mask_path.replace(RUN_MARK, run), image)
            if self.slab_z_angstrom is not None:
                first, last = self.heights_of(image)
                height = np.arange(len(region))
                region &= ((height > first - 0.5) & (height < last + 0.5))[:, None, None]
            if not region.any():
                message = f"{source_of(image)}: the region to pick in is empty: nothing is picked."
                warnings.warn(message, InputWarning, stacklevel=2)
            logger.info("%s: %.0f %% of the volume are looked at", source_of(image), 100 * region.mean())
            sample[self.region_key] = torch.from_numpy(region[None].astype(np.uint8))
            if self.label_key in sample:
                rows = sample[self.label_key]
                sample[self.label_key] = rows[torch.from_numpy(is_inside(region, np.asarray(rows)[:, 1:]))]
        return sample

    def heights_of(self, image: MetaTensor) -> tuple[float, float]:
        """Return the first and the last height in the image's voxels."""
        here, depth = voxel_size_of(image.affine), image.shape[1]
        if self.slab_z_angstrom == AUTO:
            found = fit_slab(np.asarray(image[0], dtype=np.float32), here)
            heights = (0.0, depth - 1.0) if found is None else found
            text = "fills the volume" if found is None else f"lies between z = {found[0]:.0f} and {found[1]:.0f} voxels"
            logger.info("%s: the ice %s", source_of(image), text)
            return heights
        shift = self.voxel_offset * voxel_size_of(original_affine_of(image))
        first, last = ((float(height) - shift) / here for height in self.slab_z_angstrom or ())
        return first, last


def check_slab(slab_z_angstrom: str | Sequence[float] | None) -> str | Sequence[float] | None:
    """Return the slab if it is None, ``auto`` or two rising heights.

    Raises:
        InputError: it is none of these.
    """
    if slab_z_angstrom is None or slab_z_angstrom == AUTO:
        return slab_z_angstrom
    numbers = list(slab_z_angstrom) if isinstance(slab_z_angstrom, list | tuple) else []
    if len(numbers) != 2 or not all(isinstance(number, Real) for number in numbers) or not numbers[0] < numbers[1]:
        raise InputError(f"slab_z_angstrom is auto or two rising heights in Å, [low, high]; got {slab_z_angstrom}.")
    return slab_z_angstrom


def read_mask(path: str | Path, image: MetaTensor) -> NDArray[np.bool_]:
    """Read the mask of an image, on the image's grid ``(Z, Y, X)``.

    A mask of the tomogram's own shape lies on its grid, whatever voxel size it states. Any other shape needs a voxel
    size with which it covers the tomogram's box, to a voxel of the coarser one.

    Raises:
        InputError: it cannot be read, or covers another box than the tomogram.
    """
    own = voxel_size_of(original_affine_of(image))
    shape = tuple(int(size) for size in image.meta.get("spatial_shape", image.shape[1:]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InputWarning)  # of the voxel size that is set here, for masks that state none
        values = np.asarray(read_tomogram(path, own, own, allow_missing_chunks=True).data)
    size_angstrom = own
    if values.shape != shape:
        volume = read_tomogram(path, None, own, allow_missing_chunks=True)
        values, size_angstrom = np.asarray(volume.data), float(volume.voxel_size_angstrom or own)
        boxes = [[count * size for count in counts] for counts, size in ((values.shape, size_angstrom), (shape, own))]
        if any(abs(one - other) > max(size_angstrom, own) for one, other in zip(*boxes, strict=True)):
            mask_box, box = (" x ".join(f"{length:.0f}" for length in lengths) for lengths in boxes)
            raise InputError(f"{path}: the mask covers {mask_box} Å (z, y, x), its tomogram {box} Å.")
    return sample_mask(values, size_angstrom, image.shape[1:], voxel_size_of(image.affine))


def prepare_batch(batch: dict[str, Any], device: Any = None, non_blocking: bool = False, **settings: Any) -> Any:
    """Hand the region of a batch to the inferer, beside the volumes; for the ``prepare_batch`` of MONAI's engines."""
    images, labels = default_prepare_batch(batch, device, non_blocking, **settings)
    if "region" not in batch:
        return images, labels
    return images, labels, (), {"region": batch["region"].to(device=device, non_blocking=non_blocking)}
