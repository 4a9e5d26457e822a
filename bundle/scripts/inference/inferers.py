"""MONAI inferers: training windows, and tomograms by sliding window and test-time augmentation."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from monai.data import MetaTensor
from monai.inferers import Inferer, SimpleInferer
from torch import Tensor, nn
from tqdm import tqdm

from scripts.errors import InputError
from scripts.file_pages import FilePages, parts_of
from scripts.inference.blending import BACKGROUND, BlendedLogits, new_logits
from scripts.inference.precision import autocast, check_precision, number_format
from scripts.inference.window_cover import (
    VALUES_PER_VOXEL,
    Window,
    WindowPlan,
    bytes_to_come,
    largest_window,
    part_to_cover,
    voxels_computed,
    voxels_in_memory,
    windows_along,
)
from scripts.memory import is_out_of_memory, require_memory
from scripts.settings import check_setting
from scripts.threads import AT_ONCE, in_threads

logger = logging.getLogger(__name__)

SPATIAL_AXES = {"z": -3, "y": -2, "x": -1}
DEFAULT_WINDOW = (64, 128, 128)
COPIED_LAYERS = 16  # of a file's volume, at a time
CPU = torch.device("cpu")
MOST_SPECIES = 6  # logits that the estimate of the memory allows for
Answering = Callable[[Tensor, Sequence[int]], Tensor]  # logits of windows, and where these start in the volume


class WindowInferer(SimpleInferer):
    """Run the network on a batch of training windows; the logits are returned in float32.

    A network with auxiliary heads answers with a list of logits.

    Args:
        precision: see `precision.number_format`; not float16, in which gradients underflow.
    """

    def __init__(self, precision: str = "auto") -> None:
        super().__init__()
        if check_precision(precision) == "float16":
            raise InputError("precision float16 is for inference only; train in bfloat16 or float32.")
        self.precision = precision

    def __call__(self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Return the logits ``(B, C, Z, Y, X)`` of the windows ``(B, 1, Z, Y, X)``."""
        with autocast(self.precision, inputs.device):
            answer = network(plain(inputs), *args, **kwargs)
        return answer.float() if isinstance(answer, Tensor) else [logits.float() for logits in answer]


class TomogramInferer(Inferer):
    """Slide a window over a tomogram, average the logits of its views (rotated, mirrored), and blend the windows.

    Where a network's answer does not depend on the window, windows are as large as the memory allows, because large
    windows share less. With a region, windows cover only its bounding box and some context around it; windows without a
    voxel of the region skip the network. These and everything outside the box get the logit `blending.BACKGROUND`.

    Args:
        window_size: ``(z, y, x)`` in voxels; None chooses it, see `plan`.
        overlap_voxels: number of voxels that neighbouring windows share along an axis, at least; at most half a window.
        memory_gib: limit of the whole program, for the choice of the window.
        rotations: number of orientations in the xy plane, a quarter turn apart: 1 (as it is) to 4.
        flips: axes to mirror along, out of ``z``, ``y`` and ``x``; every combination is one view.
        precision: see `precision.number_format`.
        progress: show a progress bar over the windows.
        memory_format: memory format to convert the network to, for programs that load it themselves; None keeps it.

    Source:
        Views and the averaging of logits: the CZII CryoET challenge's top solutions.
    """

    unrecorded = ("memory_format", "progress")

    def __init__(
        self,
        window_size: Sequence[int] | None = None,
        overlap_voxels: int = 64,
        memory_gib: float = 2.0,
        rotations: int = 1,
        flips: Sequence[str] = (),
        precision: str = "auto",
        progress: bool = False,
        memory_format: torch.memory_format | None = None,
    ) -> None:
        super().__init__()
        check_setting("inference_window_size", window_size)
        check_setting("inference_overlap_voxels", overlap_voxels)
        check_setting("memory_gib", memory_gib)
        check_setting("rotations", rotations)
        check_setting("flips", flips)
        self.window_size, self.overlap_voxels, self.memory_gib = window_size, overlap_voxels, memory_gib
        self.rotations, self.flips, self.precision = rotations, tuple(flips), check_precision(precision)
        self.progress, self.memory_format = progress, memory_format

    def views(self) -> Iterator[tuple[int, list[int]]]:
        """Yield each view: its number of quarter turns in xy, and the axes that it mirrors."""
        for turns, mirrored in product(range(self.rotations), product((False, True), repeat=len(self.flips))):
            yield turns, [SPATIAL_AXES[axis] for axis, mirror in zip(self.flips, mirrored, strict=True) if mirror]

    def __call__(
        self,
        inputs: Tensor,
        network: Callable[..., Tensor],
        *args: Any,
        region: Tensor | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """Return the logits of tomograms, in float32 or, see `BlendedLogits`, in float16.

        Args:
            inputs: the tomograms ``(B, 1, Z, Y, X)``.
            network: maps windows to logits, which may be coarser by its attribute ``output_stride``.
            args: passed on to the network, like ``kwargs``.
            region: mask of the shape of ``inputs``, 0 outside; None for the whole volume.

        Returns:
            ``(B, C, Z, Y, X)``, the axes divided by the network's output stride and rounded up.

        Raises:
            InputError: the logits contain NaN or infinity, also where they were computed in float32; or memory does not
                suffice, also not for one small window.
        """
        volumes = plain(inputs)
        if self.memory_format is not None and isinstance(network, nn.Module):
            network.to(memory_format=self.memory_format)  # type: ignore[call-overload]
        source = source_in_words(inputs)

        def logits_of(volume: Tensor, wanted: Tensor | None) -> Tensor:
            program = self.program_for(volume, network)
            if program is not network:
                logger.info("%s is computed by %s", source, getattr(network, "fallback", "another program"))

            def run(windows: Tensor, precision: str) -> Tensor:
                with autocast(precision, windows.device):
                    return self.mean_of_views(windows, lambda view: program(view, *args, **kwargs))

            def answer_of(windows: Tensor, start: Sequence[int]) -> Tensor:
                return self.finite_answer(run, windows, f"{source}: the window at voxel {list(start)} (z, y, x)")

            return self.logits_in_memory(volume, program, answer_of, wanted, source)

        regions = [None] * len(volumes) if region is None else [one[0] != 0 for one in plain(region)]
        answers = [logits_of(volume[0], wanted) for volume, wanted in zip(volumes, regions, strict=True)]
        release = getattr(network, "release_memory", None)  # of a network run by OpenVINO
        if release is not None:
            release()
        return answers[0][None] if len(answers) == 1 else torch.stack(answers)  # which copies

    def program_for(self, volume: Tensor, network: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """Return what answers the windows of a volume ``(Z, Y, X)``: the network, or another form of it, if it has one.

        See `backends.choice.CheckedNetwork.program_for`.
        """
        choose = getattr(network, "program_for", None)
        if choose is None or self.window_size is not None:
            return network

        def computed_by(one: Callable[..., Tensor]) -> int:
            return voxels_computed(volume.shape, self.plan(volume.shape, one, volume.device))

        program: Callable[..., Tensor] = choose(computed_by)
        return program

    def finite_answer(self, run: Callable[[Tensor, str], Tensor], windows: Tensor, what: str) -> Tensor:
        """Return the logits of windows, computed in float32 where others overflow.

        Args:
            run: returns the logits of windows in a precision.
            windows: for ``run``.
            what: they are, for messages.

        Raises:
            InputError: the logits contain NaN or infinity in float32, too.
        """
        answer = run(windows, self.precision)
        if _is_finite(answer):  # for which a GPU is waited for
            return answer
        used = number_format(self.precision, windows.device)
        if used != torch.float32:
            logger.warning("%s gives NaN or infinity in %s: it is computed again in float32", what, used)
            answer = run(windows, "float32")
            if _is_finite(answer):
                return answer
        raise InputError(
            f"{what} gives NaN or infinity in float32: the weights are damaged; or, if another program than torch "
            "runs them, give --backend torch."
        )

    def logits_in_memory(
        self,
        volume: Tensor,
        network: Callable[..., Tensor],
        answer_of: Answering,
        region: Tensor | None,
        source: str,
    ) -> Tensor:
        """Return the logits of a volume, see `logits_of`; where memory runs out, with fewer or smaller windows.

        Raises:
            InputError: memory does not suffice.
        """
        plan = self.plan(volume.shape, network, volume.device)
        if volume.device.type == "cpu":
            of_windows = plan.at_once * math.prod(plan.window_size) * self.bytes_per_voxel(network, volume.device)
            of_logits = logits_bytes(volume.shape, plan.output_stride)
            size = bytes_to_come(volume.shape, of_logits, self.memory_gib, of_windows)
            what = f"{source} ({' x '.join(map(str, volume.shape))} voxels)"
            require_memory(size, what, "give a smaller --memory_gib, or pick on a machine with more memory")
        while True:
            try:
                return self.logits_of(volume, answer_of, plan, region)
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                smaller = self.smaller_plan(plan, volume.shape, network, volume.device)
                if smaller is None:
                    raise InputError(
                        f"{source}: memory ran out in {plan.in_words()}: give a smaller --inference_window_size or "
                        "--memory_gib, or pick on a machine with more memory."
                    ) from error
            logger.warning("%s: memory ran out in %s: again in %s", source, plan.in_words(), smaller.in_words())
            plan = smaller

    def smaller_plan(
        self, plan: WindowPlan, shape: Sequence[int], network: Callable[..., Tensor], device: torch.device
    ) -> WindowPlan | None:
        """Return windows that need less memory and give the same picks; None if there are none.

        At first one window at a time; then windows of half the size, if the network's answer does not depend on it and
        the size was not asked for.
        """
        if plan.at_once > 1:
            return replace(plan, at_once=1)
        smaller = self.plan(shape, network, device, math.prod(plan.window_size) / 2)
        is_smaller = math.prod(smaller.window_size) < math.prod(plan.window_size)
        return replace(smaller, at_once=1) if is_smaller else None

    def bytes_per_voxel(self, network: Callable[..., Tensor], device: torch.device) -> float:
        """Return what a network needs for each voxel of a window."""
        values: float = getattr(network, "values_per_voxel", VALUES_PER_VOXEL)
        return values * number_format(self.precision, device).itemsize

    def plan(
        self,
        shape: Sequence[int],
        network: Callable[..., Tensor],
        device: torch.device = CPU,
        most_voxels: float | None = None,
    ) -> WindowPlan:
        """Return which windows cover a volume ``(Z, Y, X)``.

        If a window has no size yet, it is `DEFAULT_WINDOW` for a network whose answer depends on the window (its
        attribute ``depends_on_window``), and else as large as the memory allows, or ``most_voxels``. Windows start at
        multiples of the network's stride, where it states one, and are not smaller; their sides are multiples of its
        output's. Those of a network that takes no other shape (``has_fixed_windows``) are filled where the volume is
        smaller.
        """
        stride = int(getattr(network, "output_stride", 1))
        free = not getattr(network, "depends_on_window", True)
        align = int(getattr(network, "stride", stride)) if free else stride
        window = [-(-side // stride) * stride for side in self.window_size or DEFAULT_WINDOW]
        at_once = AT_ONCE if device.type == "cpu" and not getattr(network, "has_own_threads", False) else 1
        if free:
            window = [max(side, align) for side in window]  # smaller ones would leave gaps between their starts
        if free and self.window_size is None:
            per_voxel = at_once * self.bytes_per_voxel(network, device)
            most = most_voxels or voxels_in_memory(self.memory_gib, shape, logits_bytes(shape, stride), per_voxel)
            window = list(largest_window(shape, self.overlap_voxels, align, most))
        is_fixed = bool(getattr(network, "has_fixed_windows", False))
        if free and not is_fixed:  # what lies beyond the volume's end is the same for every grid of windows
            window = [min(side, -(-size // align) * align) for side, size in zip(window, shape, strict=True)]
        overlap = tuple(min(self.overlap_voxels, side // 2) for side in window)
        return WindowPlan(tuple(window), overlap, align, stride, at_once)

    def logits_of(self, volume: Tensor, answer_of: Answering, plan: WindowPlan, region: Tensor | None = None) -> Tensor:
        """Return the logits ``(C, Z, Y, X)`` of a volume ``(Z, Y, X)``, by ``plan.output_stride`` coarser."""
        if region is None:
            return self.blend(volume, answer_of, plan)
        box = self.box_around(region, plan)
        corner = [part.start for part in box]
        inside = self.blend(volume[box], answer_of, plan, region[box], corner)
        coarse = plan.output_stride
        shape = len(inside), *(-(-size // coarse) for size in volume.shape)
        answer = new_logits(shape, BACKGROUND, self.memory_gib, inside.device)
        first = [start // coarse for start in corner]
        place = tuple(slice(start, start + size) for start, size in zip(first, inside.shape[1:], strict=True))
        for whole, part in zip(parts_of(answer), parts_of(inside), strict=True):
            whole[place] = part
        return answer

    def blend(
        self,
        volume: Tensor,
        answer_of: Answering,
        plan: WindowPlan,
        region: Tensor | None = None,
        corner: Sequence[int] = (0, 0, 0),
    ) -> Tensor:
        """Return the logits of a volume, window by window; those without a voxel of the region skip the network.

        ``corner`` is the volume's first voxel ``(z, y, x)`` in what it is a part of, for messages.
        """
        layers, rows, columns = (
            windows_along(size, window, overlap, plan.align, plan.output_stride, volume.device)
            for size, window, overlap in zip(volume.shape, plan.window_size, plan.overlap, strict=True)
        )
        blended = BlendedLogits(volume.shape, plan.output_stride, self.memory_gib)
        grid = list(product(layers, rows, columns))
        pages = FilePages(volume)

        def box_of(place: tuple[Window, ...]) -> tuple[slice, ...]:
            return tuple(
                slice(along.start, along.start + size) for along, size in zip(place, plan.window_size, strict=True)
            )

        def is_outside(place: tuple[Window, ...]) -> bool:
            return region is not None and not bool(region[box_of(place)].any())

        def logits_at(place: tuple[Window, ...]) -> Tensor | None:
            outside = is_outside(place)
            if outside and place is not grid[0]:  # the first window tells the number of channels
                return None
            part = volume[box_of(place)]
            window = _filled(_copied(part, pages) if pages.stretches else part, plan.window_size)
            start = [first + along.start for first, along in zip(corner, place, strict=True)]
            answer = answer_of(window[None, None], start)[0]
            return torch.full_like(answer, BACKGROUND) if outside else answer

        answers = in_threads(logits_at, grid, plan.at_once)
        progress = tqdm(grid, desc="windows", unit="window", leave=False, disable=not self.progress)
        for place, answer in zip(progress, answers, strict=True):
            blended.add(answer, place)
        return blended.finish()

    def mean_of_views(self, window: Tensor, answer_of: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the logits of windows in float32, averaged over the views."""
        total: Tensor | None = None
        views = list(self.views())
        for turns, axes in views:
            if turns == 0 and not axes:  # torch would copy it
                logits = answer_of(window).float()
            else:
                answer = answer_of(torch.rot90(window, turns, (-2, -1)).flip(axes)).float()
                logits = torch.rot90(answer.flip(axes), -turns, (-2, -1))
            total = logits if total is None else total + logits
        assert total is not None
        return total if len(views) == 1 else total / len(views)

    def box_around(self, region: Tensor, plan: WindowPlan) -> tuple[slice, ...]:
        """Return the box ``(z, y, x)`` that the windows have to cover for a region ``(Z, Y, X)``."""
        layers = region.any(dim=2).any(dim=1), region.any(dim=2).any(dim=0), region.any(dim=1).any(dim=0)
        return tuple(
            part_to_cover(inside, window, overlap // 2, plan.align)
            for inside, window, overlap in zip(layers, plan.window_size, plan.overlap, strict=True)
        )


def _copied(part: Tensor, pages: FilePages) -> Tensor:
    """Return a copy of a part of a file's volume, of which only some layers are in memory at a time."""
    copied = torch.empty(part.shape, dtype=part.dtype)
    places = pages.after_each(copied.split(COPIED_LAYERS))
    for layers, place in zip(part.split(COPIED_LAYERS), places, strict=True):
        place.copy_(layers)
    return copied


def _filled(window: Tensor, size: Sequence[int]) -> Tensor:
    """Return a window in float32, filled with zeros at the far ends up to its size."""
    missing = [wanted - have for wanted, have in zip(size, window.shape, strict=True)]
    window = window.float()
    return F.pad(window, [0, missing[2], 0, missing[1], 0, missing[0]]) if any(missing) else window


def logits_bytes(shape: Sequence[int], output_stride: int) -> int:
    """Return the size of the logits of a volume ``(Z, Y, X)`` in float32."""
    return MOST_SPECIES * 4 * math.prod(shape) // output_stride**3


def source_in_words(inputs: Tensor) -> str:
    """Return the files that tomograms were read from, for messages."""
    files = getattr(inputs, "meta", {}).get("filename_or_obj", "volume")
    return files if isinstance(files, str) else ", ".join(map(str, files))


def _is_finite(answer: Tensor) -> bool:
    return bool(torch.isfinite(answer.sum()))


def plain(volume: Tensor) -> Tensor:
    """Return a plain tensor, without MONAI's metadata."""
    return volume.as_tensor() if isinstance(volume, MetaTensor) else volume
