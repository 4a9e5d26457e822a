"""Inferers: how a volume goes through the network, in windows, views and number formats."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from itertools import product
from typing import Any

import torch
from monai.data import MetaTensor
from monai.inferers import SimpleInferer, SlidingWindowInferer
from monai.utils import ensure_tuple_rep
from torch import Tensor, nn

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
SPATIAL_AXES = {"z": -3, "y": -2, "x": -1}


def check_precision(precision: str) -> str:
    """Return ``precision`` if it is ``auto`` or the name of a number format.

    Raises:
        ValueError: it is neither.
    """
    if precision != "auto" and precision not in PRECISIONS:
        raise ValueError(f"precision must be auto or one of {list(PRECISIONS)}; got '{precision}'.")
    return precision


def number_format(precision: str, device: torch.device) -> torch.dtype:
    """Return the number format to compute in.

    Args:
        precision: ``float32``, ``bfloat16``, ``float16``, or ``auto``: bfloat16 where the device computes in it,
            else float32.
        device: where the network runs.
    """
    if check_precision(precision) != "auto":
        return PRECISIONS[precision]
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if native else torch.float32


def autocast(precision: str, device: torch.device) -> AbstractContextManager[Any]:
    """Return the context in which the network computes in the format of `number_format`."""
    dtype = number_format(precision, device)
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)


class WindowInferer(SimpleInferer):
    """Send a batch of training windows through the network; the logits come back in float32.

    Args:
        precision: see `number_format`; not float16, whose gradients would vanish.
    """

    def __init__(self, precision: str = "auto") -> None:
        super().__init__()
        if check_precision(precision) == "float16":
            raise ValueError("precision float16 is for inference only; train in bfloat16 or float32.")
        self.precision = precision

    def __call__(self, inputs: Tensor, network: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        """Return the logits ``(B, C, Z, Y, X)`` of the windows ``(B, 1, Z, Y, X)``."""
        with autocast(self.precision, inputs.device):
            return network(plain(inputs), *args, **kwargs).float()


class TomogramInferer(SlidingWindowInferer):
    """Slide a window over a tomogram, in every view asked for, and average the logits of the views.

    Args:
        roi_size: window ``(z, y, x)`` in voxels.
        sw_batch_size: windows that go through the network together.
        overlap: share of a window that the next one covers again, one number or one per axis ``(z, y, x)``.
        rotations: quarter turns in the xy plane, from 1 (none) to 4.
        flips: axes to mirror along, out of ``z``, ``y`` and ``x``; every combination is one view.
        precision: see `number_format`.
        progress: show a progress bar over the windows.
        memory_format: the network is brought to it, for programs that load the network themselves; None leaves it.

    Source:
        Views and the averaging of logits: the CZII CryoET challenge's top solutions.
    """

    def __init__(
        self,
        roi_size: Sequence[int],
        sw_batch_size: int = 1,
        overlap: float | Sequence[float] = 0.25,
        rotations: int = 1,
        flips: Sequence[str] = (),
        precision: str = "auto",
        progress: bool = False,
        memory_format: torch.memory_format | None = None,
    ) -> None:
        if rotations not in (1, 2, 3, 4):
            raise ValueError(f"rotations counts the quarter turns to average over, 1 to 4; got {rotations}.")
        if not set(flips) <= set(SPATIAL_AXES) or len(set(flips)) < len(flips):
            raise ValueError(f"flips names axes out of z, y and x, each once; got {list(flips)}.")
        if len(roi_size) != 3 or min(roi_size) < 1:
            raise ValueError(f"roi_size needs three sizes (z, y, x) of 1 voxel or more; got {roi_size}.")
        if not all(0 <= share < 1 for share in ensure_tuple_rep(overlap, 3)):
            raise ValueError(f"overlap is a share of the window, 0 <= overlap < 1; got {overlap}.")
        super().__init__(
            roi_size=roi_size, sw_batch_size=sw_batch_size, overlap=overlap, mode="gaussian", progress=progress
        )
        self.rotations, self.flips, self.precision = rotations, tuple(flips), check_precision(precision)
        self.memory_format = memory_format

    def views(self) -> Iterator[tuple[int, list[int]]]:
        """Yield every view as its quarter turns in xy and the axes that it mirrors."""
        for turns, mirrored in product(range(self.rotations), product((False, True), repeat=len(self.flips))):
            yield turns, [SPATIAL_AXES[axis] for axis, mirror in zip(self.flips, mirrored, strict=True) if mirror]

    def __call__(  # type: ignore[override]
        self, inputs: Tensor, network: Callable[..., Tensor], *args: Any, **kwargs: Any
    ) -> Tensor:
        """Return the mean logits ``(B, C, Z, Y, X)`` of the tomograms ``(B, 1, Z, Y, X)``.

        Raises:
            FloatingPointError: the network answered with NaN or infinity.
        """
        volume = plain(inputs)
        if self.memory_format is not None and isinstance(network, nn.Module):
            network.to(memory_format=self.memory_format)

        def logits_of(windows: Tensor) -> Tensor:
            with autocast(self.precision, windows.device):
                answer = network(windows, *args, **kwargs)
            return answer.to(torch.float32, copy=True)  # MONAI multiplies in place what it gets

        total: Tensor | None = None
        views = list(self.views())
        for turns, axes in views:
            view = torch.rot90(volume, turns, (-2, -1)).flip(axes)
            answer = super().__call__(view, logits_of)
            assert isinstance(answer, Tensor)
            logits = torch.rot90(answer.flip(axes), -turns, (-2, -1))
            total = logits if total is None else total.add_(logits)
        assert total is not None
        mean = total if len(views) == 1 else total.div_(len(views))
        if not torch.isfinite(mean.sum()):
            raise FloatingPointError(
                "the network answered with NaN or infinity: set precision to 'float32', or the weights are damaged."
            )
        return mean


def plain(volume: Tensor) -> Tensor:
    """Return the tensor without MONAI's record of transforms."""
    return volume.as_tensor() if isinstance(volume, MetaTensor) else volume
