"""Layers with the same results as torch's that are faster on GPUs, where torch has brought Triton along."""

from __future__ import annotations

import warnings
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from scripts.errors import InputWarning

HAS_KERNELS = torch.cuda.is_available() and find_spec("triton") is not None
if HAS_KERNELS:
    from scripts.networks.gpu_kernels import convolve, weight_gradient


class DepthwiseOnGpu(torch.autograd.Function):
    """Depthwise convolution, forward and backward, of volumes whose channels lie next to each other in memory.

    torch's own kernels want the channels apart, which is slow for everything else in a ConvNeXt block, and their
    gradient of the kernel is added up by one block of threads per weight.

    Shape:
        ``(B, channels, Z, Y, X)``, ``(channels, 1, K, K, K)``, K odd, and ``(channels)`` or None ->
        ``(B, channels, Z, Y, X)`` in autocast's dtype.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return every channel of ``x`` convolved with its own kernel."""
        dtype = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else x.dtype
        x = x.to(dtype).contiguous(memory_format=torch.channels_last_3d)
        ctx.save_for_backward(x, weight)
        return convolve(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Return the gradients of the volume, of the kernel and of the bias."""
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad
        gradient = gradient.contiguous(memory_format=torch.channels_last_3d)
        return (
            convolve(gradient, weight, None, mirrored=True) if of_x else None,
            weight_gradient(x, gradient, weight.shape[-1]).to(weight.dtype) if of_weight else None,
            gradient.sum((0, 2, 3, 4), dtype=torch.float32).to(weight.dtype) if of_bias else None,
        )


def give_up_failing_kernels(device: torch.device) -> None:
    """Leave all volumes to torch if our kernels do not run on a GPU.

    Triton compiles a program that starts a kernel, for which it needs a C compiler, takes no old GPUs, and starts
    kernels on the process's current GPU alone.
    """
    global HAS_KERNELS
    if device.index not in (None, torch.cuda.current_device()):
        HAS_KERNELS = False
        return
    try:
        volume, kernel = (torch.ones(1, 1, side, side, side, device=device) for side in (5, 3))
        convolve(volume.contiguous(memory_format=torch.channels_last_3d), kernel, None)
    except Exception as error:  # of Triton, its compiler or the driver
        reason = " ".join(str(error).split())[:200]
        warnings.warn(f"torch's own convolutions are used, which are slower: {reason}", InputWarning, stacklevel=3)
        HAS_KERNELS = False


def runs_kernels(x: Tensor) -> bool:
    """Return whether volumes are on a GPU that there are kernels for, in channels-last memory, and no file is made."""
    in_rows = HAS_KERNELS and x.is_cuda and x.is_contiguous(memory_format=torch.channels_last_3d)
    return in_rows and not torch.jit.is_tracing() and not torch.compiler.is_exporting()


def fastest_memory_format(device: str | torch.device) -> torch.memory_format:
    """Return the memory format in which networks are fastest on a device; kernels that fail there are given up."""
    where = torch.device(device)
    if HAS_KERNELS and where.type == "cuda":
        give_up_failing_kernels(where)
    in_rows = where.type == "cpu" or HAS_KERNELS
    return torch.channels_last_3d if in_rows else torch.contiguous_format
