"""Layers with the same results as torch's, whose gradients are several times faster on CPUs."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.grad import conv2d_weight

# Planes per partial sum; summing the whole volume in one float32 accumulator would lose about three digits.
SUMMED_PLANES = 8
HIDDEN_BLOCK = 2**18  # elements of a hidden tensor that fit in the cache of a core
HIDDEN_LARGE = 2**24  # elements from which computing a hidden tensor twice is faster than storing it


class DepthwiseOnCpu(torch.autograd.Function):
    """Depthwise convolution with a fast backward pass.

    oneDNN has a dedicated kernel for the forward pass of 3D depthwise convolutions, but not for their two gradients,
    which take eight to twelve times as long. Both can be computed with fast kernels: the gradient of the volume is a
    convolution with the mirrored kernel; the gradient of the kernel splits into 2D convolutions, one per plane of the
    kernel.

    Shape:
        ``(B, channels, Z, Y, X)`` and ``(channels, 1, K, K, K)``, K odd -> ``(B, channels, Z, Y, X)``.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        """Return every channel of ``x`` convolved with its own kernel."""
        ctx.save_for_backward(x, weight)
        return _depthwise(x, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Return the gradients of the volume and of the kernel."""
        x, weight = ctx.saved_tensors
        of_x, of_weight = ctx.needs_input_grad
        return (
            _depthwise(gradient, weight.flip(2, 3, 4)) if of_x else None,
            _depthwise_weight_gradient(x, gradient, weight.shape[-1]) if of_weight else None,
        )


def _depthwise(x: Tensor, weight: Tensor) -> Tensor:
    return F.conv3d(x, weight, padding=weight.shape[-1] // 2, groups=weight.shape[0])


def _depthwise_weight_gradient(x: Tensor, gradient: Tensor, side: int) -> Tensor:
    channels, depth = x.shape[1], x.shape[2]
    total = x.new_zeros(side, channels, 1, side, side)
    for kernel_plane, shift in enumerate(range(-(side // 2), side // 2 + 1)):
        planes = depth - abs(shift)  # of the volume that overlap with this plane of the kernel
        if planes <= 0:
            continue
        for volume, answer in zip(x, gradient, strict=True):  # one by one, because slices of a batch would be copied
            inputs = volume.narrow(1, max(shift, 0), planes).transpose(0, 1).split(SUMMED_PLANES)
            gradients = answer.narrow(1, max(-shift, 0), planes).transpose(0, 1).split(SUMMED_PLANES)
            for some, of_some in zip(inputs, gradients, strict=True):
                total[kernel_plane] += conv2d_weight(
                    some, (channels, 1, side, side), of_some, padding=side // 2, groups=channels
                )
    return total.movedim(0, 2)


class DepthwiseConv3d(nn.Conv3d):
    """Depthwise convolution: each channel has its own kernel, and the shape is kept.

    During training on a CPU it computes in float32 even under bfloat16 autocast, because the gradient of a depthwise
    kernel takes up to five times longer in bfloat16.

    Shape:
        ``(B, channels, Z, Y, X)`` -> the same.
    """

    def __init__(self, channels: int, kernel_size: int) -> None:
        super().__init__(channels, channels, kernel_size, padding=kernel_size // 2, groups=channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return every channel convolved with its own kernel."""
        if not torch.jit.is_scripting() and self.training and x.device.type == "cpu":
            with torch.autocast("cpu", enabled=False):
                fast: Tensor = DepthwiseOnCpu.apply(x.float(), self.weight)  # type: ignore[no-untyped-call]
                return fast
        plain: Tensor = self._conv_forward(x, self.weight, self.bias)
        return plain


class MixOnCpu(torch.autograd.Function):
    """Two pointwise layers with a GELU between them, computed for one block of voxels at a time.

    The hidden channels between the layers are the network's largest tensors. Computed block by block, they stay in the
    cache. They are discarded and computed again in the backward pass, which is faster than writing them to memory and
    reading them back.

    Shape:
        ``(B, channels, Z, Y, X)``, ``(hidden, channels)``, ``(out_channels, hidden)``, ``(out_channels)`` or None ->
        ``(B, out_channels, Z, Y, X)`` in autocast's dtype.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, widen: Tensor, narrow: Tensor, bias: Tensor | None) -> Tensor:
        """Return what `mix` computes."""
        ctx.save_for_backward(x, widen, narrow)
        ctx.dtype = dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
        voxels, widen, narrow = _rows(x), widen.to(dtype), narrow.to(dtype)
        answer = voxels.new_empty(len(voxels), len(narrow), dtype=dtype)
        step = _block_length(widen)
        for block, out in zip(voxels.split(step), answer.split(step), strict=True):
            torch.mm(F.gelu(block.to(dtype) @ widen.T), narrow.T, out=out)
        if bias is not None:
            answer += bias.to(dtype)
        return _volumes(answer, x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Return the gradients of the voxels, of both matrices and of the bias."""
        x, *matrices = ctx.saved_tensors
        exact = torch.promote_types(ctx.dtype, torch.float32)  # bfloat16 is too coarse for a sum over many blocks
        of_widen, of_narrow = (torch.zeros_like(matrix, dtype=exact) for matrix in matrices)
        widen, narrow = (matrix.to(ctx.dtype) for matrix in matrices)
        voxels, gradient = _rows(x), _rows(gradient)
        of_voxels = torch.empty_like(voxels)
        step = _block_length(widen)
        for block, of_answer, of_block in zip(
            voxels.split(step), gradient.split(step), of_voxels.split(step), strict=True
        ):
            block = block.to(ctx.dtype)
            hidden = block @ widen.T
            of_narrow += of_answer.T @ F.gelu(hidden)
            of_hidden = torch.ops.aten.gelu_backward(of_answer @ narrow, hidden)
            of_widen += of_hidden.T @ block
            of_block.copy_(of_hidden @ widen)
        of_bias = gradient.sum(0, dtype=exact) if ctx.needs_input_grad[3] else None
        return _volumes(of_voxels, x), of_widen, of_narrow, of_bias


def _rows(volumes: Tensor) -> Tensor:
    return volumes.permute(0, 2, 3, 4, 1).flatten(0, 3)


def _volumes(rows: Tensor, like: Tensor) -> Tensor:
    answer: Tensor = rows.unflatten(0, [like.shape[0], *like.shape[2:]]).permute(0, 4, 1, 2, 3)
    return answer


def _block_length(widen: Tensor) -> int:
    return max(HIDDEN_BLOCK // len(widen), 1)


def mix(x: Tensor, widen: Tensor, narrow: Tensor, bias: Tensor | None = None, training: bool = False) -> Tensor:
    """Mix the channels of every voxel: ``narrow @ gelu(widen @ channels) + bias``.

    During training on a CPU, large tensors are computed by `MixOnCpu`.

    Shape:
        ``(B, channels, Z, Y, X)``, ``(hidden, channels, 1, 1, 1)``, ``(out_channels, hidden, 1, 1, 1)`` and
        ``(out_channels)`` -> ``(B, out_channels, Z, Y, X)``.
    """
    if not torch.jit.is_scripting() and training and x.device.type == "cpu" and not torch.compiler.is_compiling():
        if x.numel() // x.shape[1] * len(widen) >= HIDDEN_LARGE:
            answer: Tensor = MixOnCpu.apply(x, widen.flatten(1), narrow.flatten(1), bias)  # type: ignore[no-untyped-call]
            return answer
    return F.conv3d(F.gelu(F.conv3d(x, widen)), narrow, bias)
