"""What an image says about the tomogram that it was read from."""

from __future__ import annotations

from typing import Any

import torch
from monai.data import MetaTensor
from torch import Tensor


def source_of(volume: Any) -> str:
    """Return the file that a volume was read from, for messages."""
    return str(getattr(volume, "meta", {}).get("filename_or_obj", "volume"))


def original_affine_of(image: MetaTensor) -> Tensor:
    """Return the affine of the tomogram as it was read, before any resampling."""
    return torch.as_tensor(image.meta.get("original_affine", image.affine), dtype=torch.float64)
