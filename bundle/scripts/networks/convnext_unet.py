"""The network: a 3D ConvNeXt encoder and a light U-Net decoder, one logit per voxel and species."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scripts.networks.cpu_layers import DepthwiseConv3d, mix
from scripts.networks.recipe import recorded

PRESETS = {"full": (64, 128, 256, 512), "compact": (32, 64, 128, 256)}
NORMS = ("group", "instance", "batch", "layer")
MIDDLE_GREY = 0.5  # middle of the range [0, 1] that the network's input is scaled to


class LayerNorm3d(nn.Module):
    """Layer normalisation over the channels of each voxel.

    Shape:
        ``(B, channels, Z, Y, X)`` -> the same.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` normalised over its channels."""
        answer: Tensor = self.norm(x.permute(0, 2, 3, 4, 1)).permute(0, 4, 1, 2, 3)
        return answer


def make_norm(norm: str, channels: int) -> nn.Module:
    """Return a normalisation layer.

    Args:
        norm: ``group`` (one group: statistics over all channels and voxels of a window), ``instance`` (statistics per
            channel, over the voxels of a window), ``batch`` or ``layer``.
        channels: number of input and output channels.
    """
    if norm == "group":
        return nn.GroupNorm(1, channels)
    if norm == "instance":
        return nn.GroupNorm(channels, channels)
    if norm == "batch":
        return nn.BatchNorm3d(channels)
    if norm == "layer":
        return LayerNorm3d(channels)
    raise ValueError(f"norm must be one of {NORMS}; got '{norm}'.")


class EncoderBlock(nn.Module):
    """Residual ConvNeXt block: a depthwise convolution, then two pointwise convolutions that mix the channels.

    Shape:
        ``(B, channels, Z, Y, X)`` -> the same.

    Source:
        Liu et al. 2022, "A ConvNet for the 2020s", section 2.6. Differences: three spatial axes; kernel size 3 instead
        of 7; by default group normalisation with one group instead of layer normalisation; no bias and no layer scale.
    """

    def __init__(self, channels: int, kernel_size: int, norm: str) -> None:
        super().__init__()
        self.look_around = DepthwiseConv3d(channels, kernel_size)
        self.norm = make_norm(norm, channels)
        self.widen = nn.Conv3d(channels, 4 * channels, 1, bias=False)
        self.narrow = nn.Conv3d(4 * channels, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` plus the block's update."""
        seen = self.norm(self.look_around(x))
        return x + mix(seen, self.widen.weight, self.narrow.weight, training=self.training)


class DecoderBlock(nn.Module):
    """ConvNeXt block of the decoder: reduces the channels to ``out_channels`` and has no residual connection.

    Shape:
        ``(B, in_channels, Z, Y, X)`` -> ``(B, out_channels, Z, Y, X)``; with a head, its number of channels.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, norm: str) -> None:
        super().__init__()
        self.look_around = DepthwiseConv3d(in_channels, kernel_size)
        self.norm = make_norm(norm, in_channels)
        self.widen = nn.Conv3d(in_channels, 3 * in_channels, 1, bias=False)
        self.narrow = nn.Conv3d(3 * in_channels, out_channels, 1, bias=False)

    def forward(self, x: Tensor, head: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
        """Return the block's output; with ``head`` and ``bias``, the output of that pointwise convolution after it."""
        seen = self.norm(self.look_around(x))
        narrow = self.narrow.weight
        if head is not None:
            # Fuse `narrow` with the head into one matrix, so that the full-resolution features between them are never
            # materialised.
            narrow = (head.flatten(1) @ narrow.flatten(1))[:, :, None, None, None]
        return mix(seen, self.widen.weight, narrow, bias, training=self.training)


def widths_of(widths: Sequence[int] | str) -> list[int]:
    """Return the channels of each stage: those of a preset in `PRESETS`, or the given numbers.

    Raises:
        ValueError: there is no such preset.
    """
    if isinstance(widths, str) and widths not in PRESETS:
        raise ValueError(f"widths must be numbers of channels or one of {list(PRESETS)}; got '{widths}'.")
    return list(PRESETS[widths] if isinstance(widths, str) else widths)


@recorded(without=["prior"], widths=widths_of)
class ConvNeXtUNet(nn.Module):
    """3D ConvNeXt encoder, trilinear U-Net decoder and a pointwise head.

    Windows may have any size: each axis is padded with zeros at its far end to a multiple of the network's stride, and
    the output is cropped back, so output voxel ``i`` corresponds to input voxel ``i``.

    Args:
        in_channels: channels of the volume; 1 for a tomogram.
        out_channels: one logit per species.
        widths: channels of each encoder stage, from fine to coarse, at least two stages; or the name of a preset:
            ``full`` (64, 128, 256, 512) or ``compact`` (32, 64, 128, 256), for CPUs.
        depths: number of blocks in each stage.
        kernel_size: side of every depthwise kernel in voxels; odd, so that the shape is kept.
        stem_stride: side and stride of the first convolution in voxels.
        norm: ``group``, ``instance``, ``batch`` or ``layer``, see `make_norm`.
        prior: probability that the untrained network predicts for every voxel; sets the head's bias.

    Shape:
        ``(B, in_channels, Z, Y, X)`` -> ``(B, out_channels, Z, Y, X)``, logits.

    Source:
        The ninth-placed solution of the CZII CryoET Object Identification challenge, as far as it is published. The
        prior of the head's bias: Lin et al. 2017, "Focal Loss for Dense Object Detection", section 4.1.
    """

    def __init__(
        self,
        in_channels: int = 1,
        out_channels: int = 5,
        widths: Sequence[int] = PRESETS["full"],
        depths: Sequence[int] = (3, 3, 3, 3),
        kernel_size: int = 3,
        stem_stride: int = 2,
        norm: str = "group",
        prior: float = 1e-3,
    ) -> None:
        super().__init__()
        _check_settings(widths, depths, kernel_size, stem_stride, prior)
        self.stem_stride = stem_stride
        self.stride = stem_stride * 2 ** (len(widths) - 1)
        self.stem = nn.Sequential(
            nn.Conv3d(in_channels, widths[0], stem_stride, stride=stem_stride), make_norm(norm, widths[0])
        )
        self.shrink = nn.ModuleList(
            nn.Sequential(make_norm(norm, fine), nn.Conv3d(fine, coarse, 2, stride=2))
            for fine, coarse in pairwise(widths)
        )
        self.stages = nn.ModuleList(
            nn.Sequential(*(EncoderBlock(width, kernel_size, norm) for _ in range(depth)))
            for width, depth in zip(widths, depths, strict=True)
        )
        self.last_norm = make_norm(norm, widths[-1])

        outs = decoder_widths(widths)
        skips = [*reversed(widths[:-1]), 0]
        ins = [below + skip for below, skip in zip([widths[-1], *outs], skips, strict=False)]
        self.grow = nn.ModuleList(
            DecoderBlock(wide, out, kernel_size, norm) for wide, out in zip(ins, outs, strict=True)
        )
        self.head = nn.Conv3d(outs[-1], out_channels, 1)
        self._set_first_weights(prior)

    @torch.no_grad()
    def _set_first_weights(self, prior: float) -> None:
        """Initialise the weights so that every layer preserves the signal's variance and cancels constant offsets.

        With torch's default initialisation, every convolution reduces the variance to a third, while constant offsets
        (the grey value of an empty volume, the mean of a GELU) are passed on; a normalisation over all channels then
        divides the signal by these offsets.
        """
        for part in self.modules():
            if isinstance(part, nn.Conv3d):
                nn.init.kaiming_normal_(part.weight, nonlinearity="linear")
        for part in self.modules():
            if isinstance(part, EncoderBlock | DecoderBlock):
                part.narrow.weight -= part.narrow.weight.mean(1, keepdim=True)
        first: Any = self.stem[0]
        assert self.head.bias is not None
        first.bias.copy_(-MIDDLE_GREY * first.weight.sum((1, 2, 3, 4)))
        self.head.bias.fill_(math.log(prior / (1 - prior)))

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of every voxel."""
        depth, height, width = x.shape[2], x.shape[3], x.shape[4]
        x = F.pad(x, [0, -width % self.stride, 0, -height % self.stride, 0, -depth % self.stride])
        x = self.stem(x)
        skips: list[Tensor] = []
        for level, stage in enumerate(self.stages):
            x = stage(x)
            skips.append(x)
            for index, shrink in enumerate(self.shrink):  # TorchScript cannot index a ModuleList by a variable
                if index == level:
                    x = shrink(x)
        x = self.last_norm(x)
        steps = len(skips)
        for level, block in enumerate(self.grow):
            if level < steps - 1:
                x = block(torch.cat([upsample(x, 2), skips[steps - 2 - level]], dim=1))
            else:
                x = block(upsample(x, self.stem_stride), self.head.weight, self.head.bias)
        return x[:, :, :depth, :height, :width]


def upsample(x: Tensor, factor: int) -> Tensor:
    """Upsample ``x`` by trilinear interpolation; the centres of the corner voxels stay in place."""
    if factor == 1:
        return x
    size = [x.shape[2] * factor, x.shape[3] * factor, x.shape[4] * factor]
    return F.interpolate(x, size=size, mode="trilinear", align_corners=True)


def decoder_widths(widths: Sequence[int]) -> list[int]:
    """Return the output channels of each decoder block; encoder widths 64, 128, 256, 512 give 128, 64, 32, 32."""
    finest = max(widths[0] // 2, 1)
    return [*reversed(widths[:-2]), finest, finest]


def _check_settings(
    widths: Sequence[int], depths: Sequence[int], kernel_size: int, stem_stride: int, prior: float
) -> None:
    if len(widths) != len(depths) or len(widths) < 2:
        raise ValueError(f"widths and depths need one entry per stage, two stages or more; got {widths} and {depths}.")
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise ValueError(f"kernel_size must be positive and odd to keep the volume's shape; got {kernel_size}.")
    if stem_stride < 1:
        raise ValueError(f"stem_stride must be 1 voxel or more; got {stem_stride}.")
    if not 0 < prior < 1:
        raise ValueError(f"prior is a probability, 0 < prior < 1; got {prior}.")
