"""MONAI inferers: training windows, and tomograms by sliding window and test-time augmentation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import Any

import torch
from monai.data import MetaTensor
from monai.inferers import SimpleInferer, SlidingWindowInferer
from monai.utils import ensure_tuple_rep
from torch import Tensor, nn

from scripts.inference.precision import autocast, check_precision
from scripts.inference.window_cover import BACKGROUND, SkipWindowsOutside, part_to_cover

SPATIAL_AXES = {"z": -3, "y": -2, "x": -1}


class WindowInferer(SimpleInferer):
    """Run the network on a batch of training windows; the logits are returned in float32.

    Args:
        precision: see `precision.number_format`; not float16, in which gradients underflow.
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
    """Slide a window over a tomogram in every view (rotated, mirrored), and average the logits of the views.

    With a region, the windows cover only its bounding box, extended by half of the overlap of two windows, so that a
    voxel at the region's edge has as much context as one between two windows. Windows without a voxel of the region
    skip the network, except for the first one, whose output gives the number of channels. Skipped windows and
    everything outside the box get the logit `window_cover.BACKGROUND`.

    Args:
        roi_size: window ``(z, y, x)`` in voxels.
        sw_batch_size: number of windows per forward pass.
        overlap: share of a window that the next one overlaps, one number or one per axis ``(z, y, x)``.
        rotations: number of orientations in the xy plane, a quarter turn apart: 1 (as it is) to 4.
        flips: axes to mirror along, out of ``z``, ``y`` and ``x``; every combination is one view.
        precision: see `precision.number_format`.
        progress: show a progress bar over the windows.
        memory_format: memory format to convert the network to, for programs that load it themselves; None keeps it.

    Source:
        Views and the averaging of logits: the CZII CryoET challenge's top solutions.
    """

    unrecorded = ("memory_format",)

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
        """Yield each view: its number of quarter turns in xy, and the axes that it mirrors."""
        for turns, mirrored in product(range(self.rotations), product((False, True), repeat=len(self.flips))):
            yield turns, [SPATIAL_AXES[axis] for axis, mirror in zip(self.flips, mirrored, strict=True) if mirror]

    def __call__(  # type: ignore[override]
        self,
        inputs: Tensor,
        network: Callable[..., Tensor],
        *args: Any,
        region: Tensor | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """Return the mean logits ``(B, C, Z, Y, X)`` of the tomograms ``(B, 1, Z, Y, X)``.

        Args:
            inputs: the tomograms.
            network: maps windows to logits.
            args: passed on to the network, like ``kwargs``.
            region: mask of the shape of ``inputs``, 0 outside; None for the whole volume.

        Raises:
            FloatingPointError: the logits contain NaN or infinity.
        """
        volume = plain(inputs)
        if self.memory_format is not None and isinstance(network, nn.Module):
            network.to(memory_format=self.memory_format)  # type: ignore[call-overload]

        def answer_of(windows: Tensor) -> Tensor:
            with autocast(self.precision, windows.device):
                answer = network(windows, *args, **kwargs)
            return answer.to(torch.float32, copy=True)  # MONAI multiplies the result in place

        if region is None:
            mean = self.mean_of_views(volume, answer_of)
        else:
            wanted = plain(region) != 0
            box = (slice(None), slice(None), *self.box_around(wanted))
            inside = self.mean_of_views(volume[box], answer_of, wanted[box])
            mean = inside.new_full((*inside.shape[:2], *volume.shape[2:]), BACKGROUND)
            mean[box] = inside
        if not torch.isfinite(mean.sum()):
            raise FloatingPointError(
                "the network answered with NaN or infinity: set precision to 'float32', or the weights are damaged."
            )
        return mean

    def mean_of_views(
        self, volume: Tensor, answer_of: Callable[[Tensor], Tensor], region: Tensor | None = None
    ) -> Tensor:
        """Return the logits averaged over the views; windows without a voxel of the region skip the network."""
        total: Tensor | None = None
        views = list(self.views())
        logits_of = answer_of if region is None else SkipWindowsOutside(answer_of)
        for turns, axes in views:
            kept = {} if region is None else {"condition": torch.rot90(region, turns, (-2, -1)).flip(axes)}
            view = torch.rot90(volume, turns, (-2, -1)).flip(axes)
            answer = super().__call__(view, logits_of, **kept)
            assert isinstance(answer, Tensor)
            logits = torch.rot90(answer.flip(axes), -turns, (-2, -1))
            total = logits if total is None else total.add_(logits)
        assert total is not None
        return total if len(views) == 1 else total.div_(len(views))

    def box_around(self, region: Tensor) -> tuple[slice, ...]:
        """Return the box ``(z, y, x)`` that the windows have to cover for a region ``(B, 1, Z, Y, X)``."""
        places = region.flatten(0, 1).any(dim=0)
        layers = places.any(dim=2).any(dim=1), places.any(dim=2).any(dim=0), places.any(dim=1).any(dim=0)
        windows, shares = ensure_tuple_rep(self.roi_size, 3), ensure_tuple_rep(self.overlap, 3)
        return tuple(
            part_to_cover(inside, window, round(window * share / 2))
            for inside, window, share in zip(layers, windows, shares, strict=True)
        )


def plain(volume: Tensor) -> Tensor:
    """Return a plain tensor, without MONAI's metadata."""
    return volume.as_tensor() if isinstance(volume, MetaTensor) else volume
