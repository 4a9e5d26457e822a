"""Depthwise convolution on GPUs, written in Triton, for volumes whose channels lie next to each other in memory."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

VOXELS = 64  # of a tile
CHANNELS = 32  # of a tile
TILES = 32  # whose products one program of the kernel's gradient adds up


@triton.jit
def _beside(place, voxels, depth, height, width, dz, dy, dx):  # type: ignore[no-untyped-def]
    """Return which of the voxels at a place in a batch have a neighbour inside their own volume."""
    x = place % width + dx
    y = place // width % height + dy
    z = place // (width * height) % depth + dz
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height) & (z >= 0) & (z < depth)
    return inside & (place < voxels)


@triton.jit  # type: ignore[untyped-decorator]
def _convolve(  # type: ignore[no-untyped-def]
    volume, weight, bias, answer, voxels, depth, height, width, channels,
    SIDE: tl.constexpr, HAS_BIAS: tl.constexpr, MIRRORED: tl.constexpr, VOXELS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Convolve one tile of voxels and channels."""
    place = tl.program_id(0) * VOXELS + tl.arange(0, VOXELS)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    known = channel < channels
    taps: tl.constexpr = SIDE * SIDE * SIDE
    total = tl.zeros((VOXELS, CHANNELS), tl.float32)
    for tap in tl.static_range(taps):
        dz, dy, dx = tap // (SIDE * SIDE) - SIDE // 2, tap // SIDE % SIDE - SIDE // 2, tap % SIDE - SIDE // 2
        inside = _beside(place, voxels, depth, height, width, dz, dy, dx)
        neighbour = place + (dz * height + dy) * width + dx
        where = neighbour[:, None].to(tl.int64) * channels + channel[None, :]
        values = tl.load(volume + where, mask=inside[:, None] & known[None, :], other=0.0)
        factor = tl.load(weight + channel * taps + (taps - 1 - tap if MIRRORED else tap), mask=known, other=0.0)
        total += values.to(tl.float32) * factor.to(tl.float32)[None, :]
    if HAS_BIAS:
        total += tl.load(bias + channel, mask=known, other=0.0).to(tl.float32)[None, :]
    here = place[:, None].to(tl.int64) * channels + channel[None, :]
    tl.store(answer + here, total.to(answer.dtype.element_ty), mask=(place < voxels)[:, None] & known[None, :])


@triton.jit  # type: ignore[untyped-decorator]
def _add_products(  # type: ignore[no-untyped-def]
    volume, gradient, answer, voxels, depth, height, width, channels,
    SIDE: tl.constexpr, VOXELS: tl.constexpr, CHANNELS: tl.constexpr, TILES: tl.constexpr,
):  # fmt: skip
    """Add the products of the gradient of some tiles with the voxels at one place of the kernel beside them."""
    tap = tl.program_id(0)
    channel = tl.program_id(2) * CHANNELS + tl.arange(0, CHANNELS)
    known = channel < channels
    dz, dy, dx = tap // (SIDE * SIDE) - SIDE // 2, tap // SIDE % SIDE - SIDE // 2, tap % SIDE - SIDE // 2
    total = tl.zeros((VOXELS, CHANNELS), tl.float32)
    for tile in range(TILES):
        place = (tl.program_id(1) * TILES + tile) * VOXELS + tl.arange(0, VOXELS)
        inside = _beside(place, voxels, depth, height, width, dz, dy, dx)[:, None] & known[None, :]
        here = place[:, None].to(tl.int64) * channels + channel[None, :]
        there = here + ((dz * height + dy) * width + dx) * channels
        values = tl.load(volume + there, mask=inside, other=0.0).to(tl.float32)
        total += values * tl.load(gradient + here, mask=inside, other=0.0).to(tl.float32)
    tl.atomic_add(answer + channel * (SIDE * SIDE * SIDE) + tap, tl.sum(total, 0), mask=known)


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, mirrored: bool = False) -> Tensor:
    """Return ``(B, channels, Z, Y, X)``, channels last, convolved with ``(channels, 1, K, K, K)`` or its mirror image.

    Sums are taken in float32.
    """
    batch, channels, depth, height, width = x.shape
    voxels, side = batch * depth * height * width, weight.shape[-1]
    answer = torch.empty_like(x, memory_format=torch.channels_last_3d)
    weight = weight.contiguous()
    _convolve[triton.cdiv(voxels, VOXELS), triton.cdiv(channels, CHANNELS)](
        x, weight, weight if bias is None else bias, answer, voxels, depth, height, width, channels,
        SIDE=side, HAS_BIAS=bias is not None, MIRRORED=mirrored, VOXELS=VOXELS, CHANNELS=CHANNELS,
    )  # fmt: skip
    return answer


def weight_gradient(x: Tensor, gradient: Tensor, side: int) -> Tensor:
    """Return the gradient ``(channels, 1, side, side, side)`` of the kernel in float32, for channels-last volumes."""
    batch, channels, depth, height, width = x.shape
    voxels = batch * depth * height * width
    answer = x.new_zeros(channels, 1, side, side, side, dtype=torch.float32)
    _add_products[side**3, triton.cdiv(voxels, VOXELS * TILES), triton.cdiv(channels, CHANNELS)](
        x, gradient, answer, voxels, depth, height, width, channels,
        SIDE=side, VOXELS=VOXELS, CHANNELS=CHANNELS, TILES=TILES,
    )  # fmt: skip
    return answer
