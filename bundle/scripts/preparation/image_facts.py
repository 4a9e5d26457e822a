"""Run, file and grid of the tomogram that an image was read from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from monai.data import MetaTensor
from torch import Tensor

from scripts.coordinates import voxel_size_of
from scripts.datasets.runs import run_name


@dataclass(frozen=True)
class ImageFacts:
    """Run, file and grid of an image.

    Attributes:
        run: name of the run.
        source: the file that the image was read from.
        voxel_size_angstrom: of the image, which may have been resampled.
        own_voxel_size_angstrom: of the tomogram as it was read.
        own_shape_zyx: ``(Z, Y, X)`` of the tomogram as it was read.
    """

    run: str
    source: str
    voxel_size_angstrom: float
    own_voxel_size_angstrom: float
    own_shape_zyx: tuple[int, int, int]


def facts_of_image(image: MetaTensor, run: str | None = None) -> ImageFacts:
    """Return the facts of an image ``(1, Z, Y, X)``.

    Args:
        image: with the metadata of the reader; may have been resampled.
        run: name of the run; None derives it from the file.
    """
    source = source_of(image)
    depth, height, width = (int(size) for size in image.meta.get("spatial_shape", image.shape[1:]))
    return ImageFacts(
        run=str(run or run_name(source)),
        source=source,
        voxel_size_angstrom=voxel_size_of(image.affine),
        own_voxel_size_angstrom=voxel_size_of(original_affine_of(image)),
        own_shape_zyx=(depth, height, width),
    )


def source_of(volume: Any) -> str:
    """Return the file that a volume was read from, for messages."""
    return str(getattr(volume, "meta", {}).get("filename_or_obj", "volume"))


def original_affine_of(image: MetaTensor) -> Tensor:
    """Return the affine of the tomogram as it was read, before any resampling."""
    return torch.as_tensor(image.meta.get("original_affine", image.affine), dtype=torch.float64)
