"""A small 3D network that classifies the particle at the centre of a crop: one of the species, or none."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from scripts.errors import InputError
from scripts.networks.recipe import recorded
from scripts.rules import POSITIVE_NUMBERS, a_number

STRIDE = 2  # of the first layer: 2 x 2 x 2 voxels become channels, which costs nothing


@recorded()
class CropClassifier(nn.Module):
    """Convolutions in stages of halved resolution, and a linear layer on all features of the last stage.

    Args:
        classes: species and, as class 0, nothing.
        crop_size: voxels along each side of a crop; divisible by 2 once per stage.
        widths: channels of each stage.
        depths: convolutions of each stage.
        dropout: share of the last features that is dropped in training.

    Shape:
        ``(B, 1, S, S, S)`` -> ``(B, classes)`` logits.

    Raises:
        InputError: a setting is wrong, for example the crop size not divisible.
    """

    def __init__(
        self,
        classes: int,
        crop_size: int = 32,
        widths: Sequence[int] = (32, 64, 128),
        depths: Sequence[int] = (2, 2, 2),
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        a_number(2, whole=True).require("crop_size", crop_size)
        POSITIVE_NUMBERS.require("widths", widths)
        POSITIVE_NUMBERS.require("depths", depths)
        a_number(0, 1).require("dropout", dropout)
        if len(widths) != len(depths):
            raise InputError(f"widths and depths need one entry per stage; got {widths} and {depths}.")
        if crop_size % (STRIDE * 2 ** (len(widths) - 1)):
            raise InputError(f"crop_size must be divisible by {STRIDE * 2 ** (len(widths) - 1)}; got {crop_size}.")
        self.crop_size = crop_size
        layers: list[nn.Module] = []
        before = STRIDE**3
        for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            for number in range(depth):
                layers.append(ConvNormReLU(before, width, 2 if stage > 0 and number == 0 else 1))
                before = width
        self.layers = nn.Sequential(*layers)
        side = crop_size // STRIDE // 2 ** (len(widths) - 1)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(before * side**3, classes)

    def forward(self, crops: Tensor) -> Tensor:
        """Return the logits of every class."""
        features: Tensor = self.layers(channels_of_cubes(crops))
        answer: Tensor = self.head(self.dropout(features.flatten(1)))
        return answer

    def folded(self, dtype: torch.dtype = torch.float32) -> CropClassifier:
        """Return a copy for inference, in another number format, with the batch norms folded into the convolutions."""
        copied = copy.deepcopy(self).eval()
        for layer in copied.layers:
            assert isinstance(layer, ConvNormReLU)
            layer.conv = fuse_conv_bn_eval(layer.conv, layer.norm)  # type: ignore[arg-type]
            layer.norm = nn.Identity()
        return copied.to(dtype=dtype).to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload,no-any-return]


class ConvNormReLU(nn.Module):
    """Convolution, batch norm, ReLU; added to its input where the shapes agree."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.norm: nn.Module = nn.BatchNorm3d(outputs)
        self.is_residual = inputs == outputs and stride == 1

    def forward(self, features: Tensor) -> Tensor:
        """Return the features of the next layer."""
        answer = F.relu(self.norm(self.conv(features)))
        return features + answer if self.is_residual else answer


def channels_of_cubes(volumes: Tensor) -> Tensor:
    """Return ``(B, 8, S / 2, S / 2, S / 2)``: each cube of 2 x 2 x 2 voxels of ``(B, 1, S, S, S)`` as channels."""
    half = volumes.shape[-1] // STRIDE
    cubes = volumes.reshape(len(volumes), half, STRIDE, half, STRIDE, half, STRIDE)
    channels: Tensor = cubes.permute(0, 2, 4, 6, 1, 3, 5).reshape(len(volumes), STRIDE**3, half, half, half)
    return channels.contiguous(memory_format=torch.channels_last_3d)
