"""The network: a 3D ConvNeXt encoder and a light U-Net decoder, one logit per voxel and species."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scripts.errors import InputError
from scripts.networks.cpu_layers import DepthwiseConv3d, autocast_dtype, double, is_eager_on_cpu, mix, mix_in_blocks
from scripts.networks.gpu_layers import DepthwiseOnGpu, runs_kernels
from scripts.networks.recipe import recorded
from scripts.rules import POSITIVE_NUMBERS, a_number, one_of

PRESETS = {"full": (64, 128, 256, 512), "compact": (32, 64, 128, 256)}
NORMS = ("group", "instance", "batch", "layer", "none")
ACTIVATIONS = ("gelu", "relu")
GREY_SPREAD = 0.2  # standard deviation of a tomogram that is scaled to [0, 1]
SLAB_VALUES = 2**23  # of the features that are computed together
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
            channel, over the voxels of a window), ``batch``, ``layer`` or ``none``. The first two make a voxel's
            answer depend on the whole window.
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
    if norm == "none":
        return nn.Identity()
    raise InputError(f"norm must be one of {NORMS}; got '{norm}'.")


def conv_then_norm(x: Tensor, conv: nn.Conv3d, norm: nn.Module) -> Tensor:
    """Return ``norm(conv(x))``; a batch norm with fixed statistics becomes a part of the convolution.

    Shape:
        ``(B, in_channels, Z, Y, X)`` -> that of the convolution.
    """
    if not isinstance(norm, nn.BatchNorm3d) or norm.training:
        answer: Tensor = norm(conv(x))
        return answer
    weight, bias = weight_with_norm(conv, norm)
    if isinstance(conv, DepthwiseConv3d) and runs_kernels(x):
        answer = DepthwiseOnGpu.apply(x, weight, bias)  # type: ignore[no-untyped-call]
        return answer
    return F.conv3d(x, weight, bias, conv.stride, conv.padding, conv.dilation, conv.groups)


def weight_with_norm(conv: nn.Conv3d, norm: nn.Module) -> tuple[Tensor, Tensor | None]:
    """Return weight and bias of a convolution with the norm after it: a batch norm with fixed statistics, or none."""
    if not isinstance(norm, nn.BatchNorm3d):
        return conv.weight, conv.bias
    factor, shift = _factor_and_shift(norm)
    bias = shift if conv.bias is None else shift + factor * conv.bias
    return conv.weight * factor.reshape(-1, 1, 1, 1, 1), bias


def norm_then_conv(x: Tensor, norm: nn.Module, conv: nn.Conv3d) -> Tensor:
    """Return ``conv(norm(x))`` for a convolution without padding, see `conv_then_norm`."""
    if not isinstance(norm, nn.BatchNorm3d) or norm.training:
        answer: Tensor = conv(norm(x))
        return answer
    factor, shift = _factor_and_shift(norm)
    bias = conv.weight.sum((2, 3, 4)) @ shift + (0 if conv.bias is None else conv.bias)
    return F.conv3d(x, conv.weight * factor.reshape(1, -1, 1, 1, 1), bias, conv.stride)


def _factor_and_shift(norm: nn.BatchNorm3d) -> tuple[Tensor, Tensor]:
    """Return by what a batch norm multiplies each channel, and what it adds."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    factor = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    return factor, norm.bias - norm.running_mean * factor


class EncoderBlock(nn.Module):
    """Residual ConvNeXt block: a depthwise convolution, then two pointwise convolutions that mix the channels.

    Shape:
        ``(B, channels, Z, Y, X)`` -> the same.

    Source:
        Liu et al. 2022, "A ConvNet for the 2020s", section 2.6. Differences: three spatial axes; kernel size 3 instead
        of 7; by default group normalisation with one group instead of layer normalisation; no bias and no layer scale.
    """

    def __init__(self, channels: int, kernel_size: int, norm: str, activation: str) -> None:
        super().__init__()
        self.activation = activation
        self.look_around = DepthwiseConv3d(channels, kernel_size, bias=norm == "none")
        self.norm = make_norm(norm, channels)
        self.widen = nn.Conv3d(channels, 4 * channels, 1, bias=False)
        self.narrow = nn.Conv3d(4 * channels, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` plus the block's update."""
        if torch.jit.is_scripting():
            seen = self.norm(self.look_around(x))
        else:
            if answers_in_slabs(x, self.norm, self.training):
                return self.in_place(x.to(autocast_dtype(x), copy=True))
            seen = conv_then_norm(x, self.look_around, self.norm)
        matrices = self.widen.weight, self.narrow.weight
        return x + mix(seen, matrices[0], matrices[1], None, self.training, self.activation)

    def in_place(self, x: Tensor) -> Tensor:
        """Replace ``x`` by the block's output, slab by slab: nothing else is as large as the window."""
        weight, bias = weight_with_norm(self.look_around, self.norm)
        matrices = self.widen.weight.flatten(1), self.narrow.weight.flatten(1)
        reach = weight.shape[-1] // 2
        before = x[:, :, :0]  # the layers before the slab, as they were
        for slab, around, inner in slabs_along_z(x, reach):
            features = joined_along_z(before, x[:, :, slab.start : around.stop])
            before = x[:, :, max(slab.stop - reach, 0) : slab.stop].clone()
            seen = F.conv3d(features, weight, bias, padding=reach, groups=len(weight))[:, :, inner]
            x[:, :, slab] += mix_in_blocks([seen], *matrices, None, self.activation)
        return x


class DecoderBlock(nn.Module):
    """ConvNeXt block of the decoder: reduces the channels to ``out_channels`` and has no residual connection.

    Shape:
        ``(B, channels, Z, Y, X)`` and the rest of ``in_channels``, finer by ``factor`` along each axis ->
        ``(B, out_channels, factor Z, factor Y, factor X)``; with a head, its number of channels.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        norm: str,
        activation: str,
        factor: int,
        align_corners: bool,
    ) -> None:
        super().__init__()
        self.activation, self.factor, self.align_corners = activation, factor, align_corners
        self.look_around = DepthwiseConv3d(in_channels, kernel_size, bias=norm == "none")
        self.norm = make_norm(norm, in_channels)
        self.widen = nn.Conv3d(in_channels, 3 * in_channels, 1, bias=False)
        self.narrow = nn.Conv3d(3 * in_channels, out_channels, 1, bias=False)

    def forward(self, x: Tensor, skip: Tensor | None, head: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
        """Return the block's output.

        Args:
            x: features of the level below, not upsampled yet.
            skip: features of the encoder, whose channels come after those of ``x``; None for none.
            head: weights of a pointwise convolution, whose output is returned instead.
            bias: of that convolution.
        """
        narrow = self.narrow.weight
        if head is not None:
            # Fuse `narrow` with the head into one matrix, so that the features between them are never materialised.
            narrow = (head.flatten(1) @ narrow.flatten(1))[:, :, None, None, None]
        if not torch.jit.is_scripting():
            if skip is not None and self.factor == 2 and not self.align_corners:
                if answers_in_slabs(x, self.norm, self.training):
                    return self.in_slabs(x, skip, narrow, bias)
        x = upsample(x, self.factor, self.align_corners)
        if skip is not None:
            x = torch.cat([x, skip], dim=1)
        if torch.jit.is_scripting():
            seen = self.norm(self.look_around(x))
        else:
            seen = conv_then_norm(x, self.look_around, self.norm)
        return mix(seen, self.widen.weight, narrow, bias, self.training, self.activation)

    def in_slabs(self, x: Tensor, skip: Tensor, narrow: Tensor, bias: Tensor | None) -> Tensor:
        """Return the block's output, computed slab by slab: no upsampled features are as large as the window.

        Upsampled and skipped features stay in two tensors, because each channel is convolved with a kernel of its own.
        """
        weight, shift = weight_with_norm(self.look_around, self.norm)
        reach, below = weight.shape[-1] // 2, x.shape[1]
        shifts = (None, None) if shift is None else (shift[:below], shift[below:])
        in_rows = skip.is_contiguous(memory_format=torch.channels_last_3d)
        layout = torch.channels_last_3d if in_rows else torch.contiguous_format
        shape = (len(skip), len(narrow), *skip.shape[2:])
        answer = torch.empty(shape, dtype=autocast_dtype(x), device=x.device, memory_format=layout)
        for slab, around, inner in slabs_along_z(skip, reach):
            first = max(around.start // 2 - 1, 0)  # the coarse layers that these fine ones lie between
            fine = double(x[:, :, first : (around.stop + 1) // 2 + 1])
            fine = fine[:, :, around.start - 2 * first : around.stop - 2 * first]
            parts = [
                F.conv3d(features, some, own_shift, padding=reach, groups=len(some))[:, :, inner]
                for features, some, own_shift in zip(
                    (fine, skip[:, :, around]), (weight[:below], weight[below:]), shifts, strict=True
                )
            ]
            answer[:, :, slab] = mix_in_blocks(
                parts, self.widen.weight.flatten(1), narrow.flatten(1), bias, self.activation
            )
        return answer


def answers_in_slabs(x: Tensor, norm: nn.Module, training: bool) -> bool:
    """Return whether a block may be computed slab by slab: on a CPU, for inference, with norms that see one voxel."""
    norm_is_fixed = isinstance(norm, nn.BatchNorm3d | nn.Identity)
    return norm_is_fixed and not training and not torch.is_grad_enabled() and is_eager_on_cpu(x)


def joined_along_z(first: Tensor, second: Tensor) -> Tensor:
    """Join features ``(B, channels, Z, Y, X)`` along z, in channels-last memory, where layers follow each other."""
    if first.shape[2] == 0:
        return second
    parts = [part.permute(0, 2, 3, 4, 1) for part in (first, second)]
    return torch.cat(parts, dim=1).permute(0, 4, 1, 2, 3)


def slabs_along_z(x: Tensor, reach: int) -> Iterator[tuple[slice, slice, slice]]:
    """Divide the layers of features ``(B, channels, Z, Y, X)`` into slabs of about `SLAB_VALUES` values.

    Yields:
        The layers of the slab; these with ``reach`` more on both sides, as far as there are any; and the place of the
        former in the latter.
    """
    depth = x.shape[2]
    step = max(SLAB_VALUES * depth // max(x.numel(), 1), 2 * reach, 1)
    for first in range(0, depth, step):
        last = min(first + step, depth)
        low, high = max(first - reach, 0), min(last + reach, depth)
        yield slice(first, last), slice(low, high), slice(first - low, last - low)


class Stem(nn.Sequential):
    """The first convolution and its norm, in this order; ``(B, in_channels, Z, Y, X)`` -> coarser."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the features of the first stage."""
        if torch.jit.is_scripting():
            for part in self:
                x = part(x)
            return x
        conv, norm = self
        return conv_then_norm(x, conv, norm)  # type: ignore[arg-type]


class Shrink(nn.Sequential):
    """A norm and a convolution of stride 2, in this order; ``(B, channels, Z, Y, X)`` -> half as fine."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the features of the next stage."""
        if torch.jit.is_scripting():
            for part in self:
                x = part(x)
            return x
        norm, conv = self
        return norm_then_conv(x, norm, conv)  # type: ignore[arg-type]


def widths_of(widths: Sequence[int] | str) -> list[int]:
    """Return the channels of each stage: those of a preset in `PRESETS`, or the given numbers.

    Raises:
        InputError: there is no such preset, or it is no list of numbers.
    """
    if isinstance(widths, str) and widths not in PRESETS:
        raise InputError(f"widths must be numbers of channels or one of {list(PRESETS)}; got '{widths}'.")
    channels = PRESETS[widths] if isinstance(widths, str) else widths
    POSITIVE_NUMBERS.require("widths", channels)
    return list(channels)


@recorded(without=["prior"], widths=widths_of)
class ConvNeXtUNet(nn.Module):
    """3D ConvNeXt encoder, trilinear U-Net decoder and a pointwise head.

    Windows may have any size: each axis is padded with zeros at its far end to a multiple of the network's stride, and
    the output is cropped back. Output voxel ``i`` covers the ``output_stride`` input voxels from ``output_stride * i``.

    Args:
        in_channels: channels of the volume; 1 for a tomogram.
        out_channels: one logit per species.
        widths: channels of each encoder stage, from fine to coarse, at least two stages; or the name of a preset:
            ``full`` (64, 128, 256, 512) or ``compact`` (32, 64, 128, 256), for CPUs.
        depths: number of blocks in each stage.
        kernel_size: side of every depthwise kernel in voxels; odd, so that the shape is kept.
        stem_stride: side and stride of the first convolution in voxels.
        norm: ``group``, ``instance``, ``batch``, ``layer`` or ``none``, see `make_norm`.
        activation: ``gelu``, or ``relu``, which takes less time.
        output_stride: 1, one logit per input voxel, or ``stem_stride``: without the decoder's finest level, one logit
            per voxel of the first encoder stage.
        align_corners: upsample so that the corner voxels of a window keep their places, as published; then a voxel's
            place between the coarser ones depends on the window's size. False keeps the distances.
        prior: probability that the untrained network predicts for every voxel; sets the head's bias.

    Shape:
        ``(B, in_channels, Z, Y, X)`` -> ``(B, out_channels, Z, Y, X)``, logits; the three axes divided by
        ``output_stride`` and rounded up.

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
        activation: str = "gelu",
        output_stride: int = 1,
        align_corners: bool = True,
    ) -> None:
        super().__init__()
        _check_settings(widths, depths, kernel_size, stem_stride, prior, activation, output_stride)
        self.stem_stride, self.output_stride, self.align_corners = stem_stride, output_stride, align_corners
        self.stride = stem_stride * 2 ** (len(widths) - 1)
        self.depends_on_window = norm in ("group", "instance")
        self.stem = Stem(nn.Conv3d(in_channels, widths[0], stem_stride, stride=stem_stride), make_norm(norm, widths[0]))
        self.shrink = nn.ModuleList(
            Shrink(make_norm(norm, fine), nn.Conv3d(fine, coarse, 2, stride=2)) for fine, coarse in pairwise(widths)
        )
        self.stages = nn.ModuleList(
            nn.Sequential(*(EncoderBlock(width, kernel_size, norm, activation) for _ in range(depth)))
            for width, depth in zip(widths, depths, strict=True)
        )
        # without norms, one factor and one number to add per channel
        self.last_norm = make_norm(norm, widths[-1]) if norm != "none" else DepthwiseConv3d(widths[-1], 1, bias=True)

        outs = decoder_widths(widths)[: len(widths) if output_stride == 1 else -1]
        skips = [*reversed(widths[:-1]), 0]
        ins = [below + skip for below, skip in zip([widths[-1], *outs], skips, strict=False)]
        factors = [*(2 for _ in widths[1:]), stem_stride]
        self.grow = nn.ModuleList(
            DecoderBlock(wide, out, kernel_size, norm, activation, factor, align_corners)
            for wide, out, factor in zip(ins, outs, factors, strict=False)
        )
        self.head = nn.Conv3d(outs[-1], out_channels, 1)
        # numbers that are held for every voxel of a window: tensors as large as the finest features, and the rest
        whole = 8 if norm not in ("batch", "none") else 4 if align_corners else 2  # the latter are computed in slabs
        self.values_per_voxel = whole * widths[0] / stem_stride**3 + 2 * ins[-1] * (output_stride == 1) + 4
        self._set_first_weights(prior, norm)

    @torch.no_grad()
    def _set_first_weights(self, prior: float, norm: str) -> None:
        """Initialise the weights so that every layer preserves the signal's variance and cancels constant offsets.

        With torch's default initialisation, every convolution reduces the variance to a third, while constant offsets
        (the grey value of an empty volume, the mean of a GELU) are passed on; a normalisation over all channels then
        divides the signal by these offsets.
        """
        if self.head.weight.is_meta:
            return
        for part in self.modules():
            if isinstance(part, nn.Conv3d):
                nn.init.kaiming_normal_(part.weight, nonlinearity="linear")
        for part in self.modules():
            if isinstance(part, EncoderBlock | DecoderBlock):
                part.narrow.weight -= part.narrow.weight.mean(1, keepdim=True)
        first: Any = self.stem[0]
        if norm == "none":
            first.weight /= GREY_SPREAD
            last: Any = self.last_norm
            nn.init.ones_(last.weight)
            nn.init.zeros_(last.bias)
        assert self.head.bias is not None
        first.bias.copy_(-MIDDLE_GREY * first.weight.sum((1, 2, 3, 4)))
        self.head.bias.fill_(math.log(prior / (1 - prior)))

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of every voxel."""
        depth, height, width = x.shape[2], x.shape[3], x.shape[4]
        missing = [0, -width % self.stride, 0, -height % self.stride, 0, -depth % self.stride]
        if torch.jit.is_scripting():
            x = F.pad(x, missing)
        elif torch.compiler.is_compiling() or torch.jit.is_tracing() or sum(missing) > 0:
            # what is exported or traced takes windows of any size
            x = F.pad(x, missing)
        x = self.stem(x)
        skips: list[Tensor] = []
        for level, stage in enumerate(self.stages):
            for block in stage:  # type: ignore[attr-defined]
                if torch.jit.is_scripting():
                    x = block(x)
                elif answers_in_slabs(x, block.norm, self.training) and x.dtype == autocast_dtype(x):
                    x = block.in_place(x)  # nothing else refers to these features
                else:
                    x = block(x)
            skips.append(x)
            for index, shrink in enumerate(self.shrink):  # TorchScript cannot index a ModuleList by a variable
                if index == level:
                    x = shrink(x)
        x = self.last_norm(x)
        skips.pop()
        for level, block in enumerate(self.grow):
            skip = skips.pop() if len(skips) > 0 else None
            is_last = level == len(self.grow) - 1
            x = block(x, skip, self.head.weight, self.head.bias) if is_last else block(x, skip, None, None)
        step = self.output_stride
        depth, height, width = (depth + step - 1) // step, (height + step - 1) // step, (width + step - 1) // step
        return x[:, :, :depth, :height, :width]


def upsample(x: Tensor, factor: int, align_corners: bool) -> Tensor:
    """Upsample ``x`` by trilinear interpolation; ``align_corners`` keeps the centres of the corner voxels in place."""
    if factor == 1:
        return x
    if factor == 2 and not align_corners:
        return double(x)
    size = [x.shape[2] * factor, x.shape[3] * factor, x.shape[4] * factor]
    return F.interpolate(x, size=size, mode="trilinear", align_corners=align_corners)


def decoder_widths(widths: Sequence[int]) -> list[int]:
    """Return the output channels of each decoder block; encoder widths 64, 128, 256, 512 give 128, 64, 32, 32."""
    finest = max(widths[0] // 2, 1)
    return [*reversed(widths[:-2]), finest, finest]


def _check_settings(
    widths: Sequence[int],
    depths: Sequence[int],
    kernel_size: int,
    stem_stride: int,
    prior: float,
    activation: str,
    output_stride: int,
) -> None:
    POSITIVE_NUMBERS.require("depths", depths)
    if len(widths) != len(depths) or len(widths) < 2:
        raise InputError(f"widths and depths need one entry per stage, two stages or more; got {widths} and {depths}.")
    a_number(1, whole=True).require("kernel_size", kernel_size)
    a_number(1, whole=True).require("stem_stride", stem_stride)
    a_number(above=0, below=1).require("prior", prior)
    one_of(*ACTIVATIONS).require("activation", activation)
    if kernel_size % 2 == 0:
        raise InputError(f"kernel_size must be odd to keep the volume's shape; got {kernel_size}.")
    if output_stride not in (1, stem_stride):
        raise InputError(f"output_stride must be 1 or stem_stride, {stem_stride}; got {output_stride}.")
