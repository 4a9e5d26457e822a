"""Limit picking to a region: a mask, a z range, or the ice itself.

A region is a volume on the grid of the network's input, 0 outside. A particle is inside if the voxel at its centre is.
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
from monai.transforms import MapTransform
from numpy.typing import ArrayLike, NDArray

from scripts.coordinates import as_points
from scripts.datasets.runs import mask_of_run
from scripts.errors import InputError, InputWarning
from scripts.preparation.contrast import block_means
from scripts.preparation.image_facts import ImageFacts, facts_of_image, refuse_other_directions
from scripts.volumes.ome_zarr import is_zarr
from scripts.volumes.reading import read_tomogram

logger = logging.getLogger(__name__)

AUTO = "auto"
ICE_BLOCK_ANGSTROM = 40.0  # side of the blocks whose spread distinguishes ice from vacuum
ICE_LEVEL = 0.25  # where the ice begins: share of the rise in spread from vacuum to ice
LEAST_RISE = 1.1  # spread of ice over vacuum; below it no boundary is visible: the ice fills the volume
ICE_MARGIN_ANGSTROM = 100.0


def sample_mask(
    mask: NDArray[Any],
    mask_voxel_size_angstrom: float,
    shape_zyx: Sequence[int],
    voxel_size_angstrom: float,
    start_zyx_angstrom: Sequence[float] = (0.0, 0.0, 0.0),
) -> NDArray[np.bool_]:
    """Resample a mask to another grid in the same box: each voxel takes the value of the mask voxel it lies in.

    Args:
        mask: ``(Z, Y, X)``, inside where it is neither 0 nor NaN.
        mask_voxel_size_angstrom: of the mask.
        shape_zyx: ``(Z, Y, X)`` of the result.
        voxel_size_angstrom: of the result.
        start_zyx_angstrom: where the result starts in the mask: its face, not the centre of its first voxel.
    """
    for axis, (size, start) in enumerate(zip(shape_zyx, start_zyx_angstrom, strict=True)):
        place = (np.arange(size) + 0.5) * (voxel_size_angstrom / mask_voxel_size_angstrom)
        place += start / mask_voxel_size_angstrom
        mask = mask.take(np.clip(place.astype(np.int64), 0, mask.shape[axis] - 1), axis=axis)
    answer: NDArray[np.bool_] = (mask != 0) & ~np.isnan(mask)
    return answer


def fit_slab(volume: NDArray[np.float32], voxel_size_angstrom: float) -> tuple[float, float] | None:
    """Find the z range of the ice from the spread of the grey values in each layer.

    The volume is divided into blocks of 40 Å. The spread of a layer of blocks is the standard deviation of the blocks'
    means. The spread of the vacuum is the mean of the lowest tenth of the layers, that of the ice the median of the
    upper half. The ice reaches from the first to the last layer whose spread exceeds that of the vacuum by a quarter of
    the difference, and 100 Å further on both sides. A tilted slab is covered completely.

    Args:
        volume: ``(Z, Y, X)``.
        voxel_size_angstrom: of the volume.

    Returns:
        The first and the last z in voxels; None where no boundary is visible because the ice fills the volume.
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
    """Return which points ``(N, 3)`` lie in a region ``(Z, Y, X)``, 0 outside; points outside the volume do not."""
    voxels = np.rint(as_points(points_zyx_vox, "points_zyx_vox")).astype(np.int64)
    shape = np.asarray(region.shape)
    there = ((voxels >= 0) & (voxels < shape)).all(axis=1)
    z, y, x = np.clip(voxels, 0, shape - 1).T
    answer: NDArray[np.bool_] = there & (region[z, y, x] != 0)
    return answer


class LimitRegiond(MapTransform):
    """Add the region to pick in; without mask and slab the sample is not changed.

    Args:
        keys: network inputs ``(1, Z, Y, X)``; not changed.
        mask_path: path of a run's mask, with ``{run}`` for the run's name: a volume in any format that
            `volumes.reading` reads, 0 outside, on the tomogram's own grid or with its own voxel size over the same box.
        slab_z_angstrom: first and last z in the tomogram's coordinates, or ``auto``, see `fit_slab`.
        region_key: key for the region ``(1, Z, Y, X)``, uint8.
        label_key: true particles ``(N, 4)``, if there are any; only those inside the region stay.
        doubtful_key: of `annotation.Annotation`: those outside are added as uncertain, so that a pick of one, whose
            centre may lie inside, is neither right nor wrong.
        voxel_offset: see `coordinates`.
        allow_missing_chunks: treat chunks that are missing in a Zarr mask as full of the fill value.

    Raises:
        InputError: the mask cannot be read, or does not lie over the tomogram, see `read_mask`.
    """

    unrecorded = ("doubtful_key",)

    def __init__(
        self,
        keys: KeysCollection,
        mask_path: str | None = None,
        slab_z_angstrom: str | Sequence[float] | None = None,
        region_key: str = "region",
        label_key: str = "label",
        doubtful_key: str = "doubtful",
        voxel_offset: float = 0.0,
        allow_missing_chunks: bool = False,
    ) -> None:
        super().__init__(keys)
        self.slab_z_angstrom = check_slab(slab_z_angstrom)
        self.mask_path, self.voxel_offset = mask_path, voxel_offset
        self.region_key, self.label_key, self.doubtful_key = region_key, label_key, doubtful_key
        self.allow_missing_chunks = allow_missing_chunks

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the sample with its region."""
        sample = dict(data)
        if self.mask_path is None and self.slab_z_angstrom is None:
            return sample
        for key in self.key_iterator(sample):
            image: MetaTensor = sample[key]
            facts = facts_of_image(image, sample.get("run"))
            region = self.region_of(image, facts)
            if not region.any():
                message = f"{facts.source}: the region to pick in is empty: nothing is picked."
                warnings.warn(message, InputWarning, stacklevel=2)
            logger.info("%s: %.0f %% of the volume are looked at", facts.source, 100 * region.mean())
            sample[self.region_key] = torch.from_numpy(region[None].astype(np.uint8))
            if self.label_key in sample:
                rows = sample[self.label_key]
                inside = torch.from_numpy(is_inside(region, np.asarray(rows)[:, 1:]))
                outside = torch.nn.functional.pad(rows[~inside], (0, 1), value=torch.nan)
                sample[self.label_key] = rows[inside]
                sample[self.doubtful_key] = torch.cat([sample.get(self.doubtful_key, outside[:0]), outside])
        return sample

    def region_of(self, image: MetaTensor, facts: ImageFacts) -> NDArray[np.bool_]:
        """Return the region ``(Z, Y, X)`` on the grid of an image."""
        region = np.ones(image.shape[1:], dtype=bool)
        mask = mask_of_run(self.mask_path, facts.run)
        if mask is not None:
            region &= read_mask(mask, image.shape[1:], facts, self.allow_missing_chunks)
        if self.slab_z_angstrom is not None:
            first, last = self.z_range_of(image, facts)
            z = np.arange(len(region))
            region &= ((z > first - 0.5) & (z < last + 0.5))[:, None, None]
        return region

    def z_range_of(self, image: MetaTensor, facts: ImageFacts) -> tuple[float, float]:
        """Return the first and the last z of the slab, in voxels of the image."""
        here, depth = facts.voxel_size_angstrom, image.shape[1]
        if self.slab_z_angstrom == AUTO:
            found = fit_slab(np.asarray(image[0], dtype=np.float32), here)
            heights = (0.0, depth - 1.0) if found is None else found
            text = "fills the volume" if found is None else f"lies between z = {found[0]:.0f} and {found[1]:.0f} voxels"
            logger.info("%s: the ice %s", facts.source, text)
            return heights
        shift = (self.voxel_offset + facts.start_zyx_voxel[0]) * facts.own_voxel_size_angstrom
        first, last = ((float(height) - shift) / here for height in self.slab_z_angstrom or ())
        return first, last


def check_slab(slab_z_angstrom: str | Sequence[float] | None) -> str | Sequence[float] | None:
    """Return the slab if it is None, ``auto`` or two increasing z values.

    Raises:
        InputError: it is none of these.
    """
    if slab_z_angstrom is None or slab_z_angstrom == AUTO:
        return slab_z_angstrom
    numbers = list(slab_z_angstrom) if isinstance(slab_z_angstrom, list | tuple) else []
    if len(numbers) != 2 or not all(isinstance(number, Real) for number in numbers) or not numbers[0] < numbers[1]:
        raise InputError(f"slab_z_angstrom is auto or two rising heights in Å, [low, high]; got {slab_z_angstrom}.")
    return slab_z_angstrom


def read_mask(
    path: str | Path, shape_zyx: Sequence[int], facts: ImageFacts, allow_missing_chunks: bool = False
) -> NDArray[np.bool_]:
    """Read the mask of an image, on the image's grid ``(Z, Y, X)``.

    A mask with the tomogram's shape is taken to be on its grid, whatever voxel size its header states. A mask of any
    other shape must cover the same box with its own voxel size, to within one voxel of the coarser grid.

    Args:
        path: the mask.
        shape_zyx: ``(Z, Y, X)`` of the image.
        facts: of the image.
        allow_missing_chunks: treat chunks that are missing in a Zarr mask as full of the fill value.

    Raises:
        InputError: it cannot be read, is a folder of masks, covers another box than the tomogram, or its axes run the
            other way.
    """
    if Path(path).is_dir() and not is_zarr(Path(path)):
        raise InputError(f"{path}: the mask is a folder. Give the path of a file; {{run}} in it is the run's name.")
    own, shape = facts.own_voxel_size_angstrom, facts.own_shape_zyx
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InputWarning)  # about the voxel size set here, for masks that state none
        volume = read_tomogram(path, own, own, allow_missing_chunks)
    if volume.data.shape != shape:
        try:
            volume = read_tomogram(path, None, own, allow_missing_chunks)
        except InputError as error:  # read before, with another voxel size
            ours, theirs = (" x ".join(map(str, one)) for one in (volume.data.shape, shape))
            raise InputError(
                f"{path}: the mask has {ours} voxels (z, y, x), its tomogram {theirs}, and the mask states no usable "
                "voxel size. Save it with its voxel size, or on the tomogram's grid."
            ) from error
    refuse_other_directions(volume.affine, path, facts)
    values, size_angstrom = np.asarray(volume.data), float(volume.voxel_size_angstrom or own)
    boxes = [[count * size for count in counts] for counts, size in ((values.shape, size_angstrom), (shape, own))]
    if any(abs(one - other) > max(size_angstrom, own) for one, other in zip(*boxes, strict=True)):
        mask_box, box = (" x ".join(f"{length:.0f}" for length in lengths) for lengths in boxes)
        raise InputError(f"{path}: the mask covers {mask_box} Å (z, y, x), its tomogram {box} Å.")
    # resampling keeps the centre of the first voxel, not its face
    start = [(place + 0.5) * own - 0.5 * facts.voxel_size_angstrom for place in facts.start_zyx_voxel]
    return sample_mask(values, size_angstrom, shape_zyx, facts.voxel_size_angstrom, start)
