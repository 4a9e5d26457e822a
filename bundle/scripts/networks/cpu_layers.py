"""Layers with the same results as torch's, whose gradients are several times faster on CPUs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.grad import conv2d_weight

from scripts.networks.gpu_layers import DepthwiseOnGpu, runs_kernels

# Planes per partial sum; summing the whole volume in one float32 accumulator would lose about three digits.
SUMMED_PLANES = 8
SUMMED_ROWS = 1024  # rows per partial sum
HIDDEN_BLOCK = 2**19  # elements of a hidden tensor that fit in the cache of a core
HIDDEN_LARGE = 2**20  # elements from which computing a hidden tensor twice is faster than storing it


class DepthwiseOnCpu(torch.autograd.Function):
    """Depthwise convolution with a fast backward pass.

    oneDNN has a dedicated kernel for the forward pass of 3D depthwise convolutions, but not for their two gradients,
    which take eight to twelve times as long. Both can be computed with fast kernels: the gradient of the volume is a
    convolution with the mirrored kernel; the gradient of the kernel splits into 2D convolutions, one per plane of the
    kernel, which are computed in float32, because they are several times slower in bfloat16.

    Shape:
        ``(B, channels, Z, Y, X)``, ``(channels, 1, K, K, K)``, K odd, and ``(channels)`` or None ->
        ``(B, channels, Z, Y, X)`` in autocast's dtype.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return every channel of ``x`` convolved with its own kernel."""
        x = x.to(autocast_dtype(x))
        ctx.save_for_backward(x, weight)
        return _depthwise(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Return the gradients of the volume, of the kernel and of the bias."""
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad
        mirrored = weight.flip(2, 3, 4).to(gradient.dtype)
        return (
            _depthwise(gradient, mirrored) if of_x else None,
            _depthwise_weight_gradient(x, gradient, weight.shape[-1]).to(weight.dtype) if of_weight else None,
            _sum_of_rows(_rows(gradient)).to(weight.dtype) if of_bias else None,
        )


def autocast_dtype(x: Tensor) -> torch.dtype:
    """Return the floating-point format that an operation on a tensor computes in on a CPU."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype


def _depthwise(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    with torch.autocast("cpu", enabled=False):
        return F.conv3d(x, weight, bias, padding=weight.shape[-1] // 2, groups=weight.shape[0])


def _depthwise_weight_gradient(x: Tensor, gradient: Tensor, side: int) -> Tensor:
    channels, depth = x.shape[1], x.shape[2]
    exact = torch.promote_types(x.dtype, torch.float32)
    total = x.new_zeros(side, channels, 1, side, side, dtype=exact)
    for volume, answer in zip(x, gradient, strict=True):  # one by one, because slices of a batch would be copied
        volume, answer = volume.to(exact), answer.to(exact)
        for kernel_plane, shift in enumerate(range(-(side // 2), side // 2 + 1)):
            planes = depth - abs(shift)  # of the volume that overlap with this plane of the kernel
            if planes <= 0:
                continue
            inputs = volume.narrow(1, max(shift, 0), planes).transpose(0, 1).split(SUMMED_PLANES)
            gradients = answer.narrow(1, max(-shift, 0), planes).transpose(0, 1).split(SUMMED_PLANES)
            for some, of_some in zip(inputs, gradients, strict=True):
                total[kernel_plane] += conv2d_weight(
                    some, (channels, 1, side, side), of_some, padding=side // 2, groups=channels
                )
    return total.movedim(0, 2)


class DepthwiseConv3d(nn.Conv3d):
    """Depthwise convolution: each channel has its own kernel, and the shape is kept.

    Shape:
        ``(B, channels, Z, Y, X)`` -> the same.
    """

    def __init__(self, channels: int, kernel_size: int, bias: bool = False) -> None:
        super().__init__(channels, channels, kernel_size, padding=kernel_size // 2, groups=channels, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return every channel convolved with its own kernel."""
        if not torch.jit.is_scripting() and self.training:
            if x.device.type == "cpu":
                fast: Tensor = DepthwiseOnCpu.apply(x, self.weight, self.bias)  # type: ignore[no-untyped-call]
                return fast
            if runs_kernels(x):
                fast = DepthwiseOnGpu.apply(x, self.weight, self.bias)  # type: ignore[no-untyped-call]
                return fast
        plain: Tensor = self._conv_forward(x, self.weight, self.bias)
        return plain


class MixOnCpu(torch.autograd.Function):
    """Two pointwise layers with an activation between them, computed for one block of voxels at a time.

    The hidden channels between the layers are the network's largest tensors. Computed block by block, they stay in the
    cache. They are discarded and computed again in the backward pass, which is faster than writing them to memory and
    reading them back.

    Shape:
        ``(B, channels, Z, Y, X)``, ``(hidden, channels)``, ``(out_channels, hidden)``, ``(out_channels)`` or None ->
        ``(B, out_channels, Z, Y, X)`` in autocast's dtype.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, widen: Tensor, narrow: Tensor, bias: Tensor | None, activation: str) -> Tensor:
        """Return what `mix` computes."""
        ctx.save_for_backward(x, widen, narrow)
        ctx.dtype, ctx.activation = autocast_dtype(x), activation
        return mix_in_blocks([x], widen, narrow, bias, activation)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None, None]:
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
            block, of_answer = block.to(ctx.dtype), of_answer.to(ctx.dtype)
            hidden = block @ widen.T
            of_hidden = of_answer @ narrow
            if ctx.activation == "relu":
                active = hidden.relu_()
                of_hidden = torch.ops.aten.threshold_backward(of_hidden, active, 0)
            else:
                active = F.gelu(hidden)
                of_hidden = torch.ops.aten.gelu_backward(of_hidden, hidden)
            of_narrow += of_answer.T @ active
            of_widen += of_hidden.T @ block
            of_block.copy_(of_hidden @ widen)
        of_bias = _sum_of_rows(gradient).to(exact) if ctx.needs_input_grad[3] else None
        return _volumes(of_voxels, x), of_widen, of_narrow, of_bias, None


def mix_in_blocks(
    parts: Sequence[Tensor], widen: Tensor, narrow: Tensor, bias: Tensor | None, activation: str
) -> Tensor:
    """Return what `mix` computes, for matrices instead of kernels and without gradients, in autocast's dtype.

    Args:
        parts: the channels, in one or several tensors ``(B, channels, Z, Y, X)``.
        widen: ``(hidden, channels of all parts)``.
        narrow: ``(out_channels, hidden)``.
        bias: ``(out_channels)``, or None.
        activation: see `activate`.
    """
    dtype = autocast_dtype(parts[0])
    matrices = [one.T for one in widen.to(dtype).split([part.shape[1] for part in parts], dim=1)]
    voxels, narrow, step = [_rows(part) for part in parts], narrow.to(dtype).T, _block_length(widen)
    answer = voxels[0].new_empty(len(voxels[0]), narrow.shape[1], dtype=dtype)
    shift = None if bias is None else bias.to(dtype)
    for *blocks, out in zip(*(rows.split(step) for rows in (*voxels, answer)), strict=True):
        hidden = blocks[0].to(dtype) @ matrices[0]
        for block, matrix in zip(blocks[1:], matrices[1:], strict=True):
            hidden.addmm_(block.to(dtype), matrix)
        active = hidden.relu_() if activation == "relu" else F.gelu(hidden)
        torch.mm(active, narrow, out=out) if shift is None else torch.addmm(shift, active, narrow, out=out)
    return _volumes(answer, parts[0])


def _rows(volumes: Tensor) -> Tensor:
    return volumes.permute(0, 2, 3, 4, 1).flatten(0, 3)


def _sum_of_rows(rows: Tensor) -> Tensor:
    """Return the sum over the rows, in float32 or better: block by block as a matrix product, which is fast."""
    ones = rows.new_ones(1, min(len(rows), SUMMED_ROWS))
    sums = [(ones[:, : len(block)] @ block)[0] for block in rows.split(SUMMED_ROWS)]
    return torch.stack(sums).sum(0, dtype=torch.promote_types(rows.dtype, torch.float32))


def _volumes(rows: Tensor, like: Tensor) -> Tensor:
    answer: Tensor = rows.unflatten(0, [like.shape[0], *like.shape[2:]]).permute(0, 4, 1, 2, 3)
    return answer


def _block_length(widen: Tensor) -> int:
    return max(HIDDEN_BLOCK // len(widen), 1)


class WithFlatKernels(nn.Module):
    """A module with 2D kernels ``(out, in, Y, X)`` that is brought to the memory formats of 3D networks.

    torch refuses such a format for a 2D kernel. Taken as a 3D one of one layer, it gets the same format of 2D networks.
    """

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Convert the parameters, for example to another memory format."""

        def convert(tensor: Tensor) -> Tensor:
            return fn(tensor[:, :, None]).squeeze(2) if tensor.dim() == 4 else fn(tensor)

        super()._apply(convert, recurse)  # type: ignore[no-untyped-call]
        return self


def activate(x: Tensor, activation: str) -> Tensor:
    """Return ``gelu(x)`` or ``relu(x)``."""
    return F.relu(x) if activation == "relu" else F.gelu(x)


def mix(
    x: Tensor,
    widen: Tensor,
    narrow: Tensor,
    bias: Tensor | None = None,
    training: bool = False,
    activation: str = "gelu",
) -> Tensor:
    """Mix the channels of every voxel: ``narrow @ activation(widen @ channels) + bias``.

    On a CPU, large tensors are computed block by block, see `MixOnCpu`.

    Shape:
        ``(B, channels, Z, Y, X)``, ``(hidden, channels, 1, 1, 1)``, ``(out_channels, hidden, 1, 1, 1)`` and
        ``(out_channels)`` -> ``(B, out_channels, Z, Y, X)``.
    """
    if not torch.jit.is_scripting():
        large = x.numel() // x.shape[1] * len(widen) >= HIDDEN_LARGE
        if large and is_eager_on_cpu(x):
            matrices = widen.flatten(1), narrow.flatten(1)
            if training:
                answer: Tensor = MixOnCpu.apply(x, *matrices, bias, activation)  # type: ignore[no-untyped-call]
                return answer
            if not torch.is_grad_enabled():
                mixed = mix_in_blocks([x], *matrices, bias, activation)
                # The layout stays, because torch's group norm loses three digits where channels come last.
                return mixed.contiguous() if x.is_contiguous() else mixed
    return F.conv3d(activate(F.conv3d(x, widen), activation), narrow, bias)


def is_eager_on_cpu(x: Tensor) -> bool:
    """Return whether a tensor is on a CPU and no other program is being made of the operations."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling() and not torch.jit.is_tracing()


class DoubleOnCpu(torch.autograd.Function):
    """Trilinear upsampling by 2 without aligned corners, with a fast backward pass.

    Each axis is interpolated with the weights 1/4 and 3/4, so the gradient is a convolution of stride 2 with the kernel
    1/4, 3/4, 3/4, 1/4 along each axis, over the gradient with its border voxels repeated.

    Shape:
        ``(B, channels, Z, Y, X)`` -> ``(B, channels, 2 Z, 2 Y, 2 X)``.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Return the upsampled volume."""
        return F.interpolate(x, scale_factor=2, mode="trilinear", align_corners=False)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """Return the gradient of the volume."""
        line = gradient.new_tensor([0.25, 0.75, 0.75, 0.25])
        kernel = line[:, None, None] * line[:, None] * line
        channels = gradient.shape[1]
        with torch.autocast("cpu", enabled=False):
            padded = F.pad(gradient, [1, 1, 1, 1, 1, 1], mode="replicate")
            return F.conv3d(padded, kernel.expand(channels, 1, 4, 4, 4), stride=2, groups=channels)


def double(x: Tensor) -> Tensor:
    """Upsample ``x`` by 2 along each axis, trilinearly, without aligned corners."""
    if not torch.jit.is_scripting():
        if x.requires_grad and is_eager_on_cpu(x):
            answer: Tensor = DoubleOnCpu.apply(x)  # type: ignore[no-untyped-call]
            return answer
    return F.interpolate(x, scale_factor=2.0, mode="trilinear", align_corners=False)
