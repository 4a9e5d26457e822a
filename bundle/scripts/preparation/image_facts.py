"""Run, file and grid of the tomogram that an image was read from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from scripts.coordinates import directions_of, voxel_size_of
from scripts.datasets.runs import run_name
from scripts.errors import InputError


@dataclass(frozen=True)
class ImageFacts:
    """Run, file and grid of an image.

    Attributes:
        run: name of the run.
        source: the file that the image was read from.
        voxel_size_angstrom: of the image, which may have been resampled.
        own_voxel_size_angstrom: of the tomogram as it was read.
        own_shape_zyx: ``(Z, Y, X)`` of the tomogram as it was read.
        start_zyx_voxel: where the image starts in the tomogram as it was read, behind padding that was cut off.
        own_directions: whether x, y and z run forwards (1) or backwards (-1) in its affine.
    """

    run: str
    source: str
    voxel_size_angstrom: float
    own_voxel_size_angstrom: float
    own_shape_zyx: tuple[int, int, int]
    start_zyx_voxel: tuple[int, int, int]
    own_directions: tuple[int, int, int]

    def to_own_voxels(self, points_zyx_vox: NDArray[np.float64]) -> NDArray[np.float64]:
        """Turn voxel indices ``(..., 3)`` of the image into those of the tomogram as it was read."""
        return points_zyx_vox * (self.voxel_size_angstrom / self.own_voxel_size_angstrom) + self.start_zyx_voxel

    def from_own_voxels(self, points_zyx_voxel: NDArray[np.float64]) -> NDArray[np.float64]:
        """Turn voxel indices ``(..., 3)`` of the tomogram as it was read into those of the image."""
        return (points_zyx_voxel - self.start_zyx_voxel) * (self.own_voxel_size_angstrom / self.voxel_size_angstrom)


def facts_of_image(image: MetaTensor, run: str | None = None) -> ImageFacts:
    """Return the facts of an image ``(1, Z, Y, X)``.

    Args:
        image: with the metadata of the reader; may have been cut out and resampled.
        run: name of the run; None derives it from the file.
    """
    source = source_of(image)
    own_affine = original_affine_of(image)
    z, y, x = (round(place) for place in np.linalg.solve(own_affine, np.asarray(image.affine)[:, 3]).tolist()[:3])
    depth, height, width = (int(size) for size in image.meta.get("spatial_shape", image.shape[1:]))
    return ImageFacts(
        run=str(run or run_name(source)),
        source=source,
        voxel_size_angstrom=voxel_size_of(image.affine),
        own_voxel_size_angstrom=voxel_size_of(own_affine),
        own_shape_zyx=(depth, height, width),
        start_zyx_voxel=(z, y, x),
        own_directions=directions_of(own_affine),
    )


def source_of(volume: Any) -> str:
    """Return the file that a volume was read from, for messages."""
    return str(getattr(volume, "meta", {}).get("filename_or_obj", "volume"))


def original_affine_of(image: MetaTensor) -> Tensor:
    """Return the affine of the tomogram as it was read, before any cropping or resampling."""
    return torch.as_tensor(image.meta.get("original_affine", image.affine), dtype=torch.float64)


def refuse_other_directions(affine: ArrayLike, path: str | Path, facts: ImageFacts) -> None:
    """Refuse a volume whose x and y run the other way in its affine than those of the tomogram that it belongs to.

    They lie on each other half a turn apart, or the affine of one of the two is wrong: the files do not say which.

    Raises:
        InputError: they run the other way.
    """
    if directions_of(affine) != facts.own_directions:
        raise InputError(
            f"{path}: in its affine x and y run the other way than in the tomogram, {facts.source}. Save both with the"
            " same directions, or both as MRC."
        )
