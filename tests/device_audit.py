"""An audit of devices that needs no GPU: what a step leaves on another device, and where it waits for the device.

The step runs on torch's device ``meta``, whose tensors have no data: operations only find out shapes. Our layers take
the same way there as on a GPU, because it is not the CPU. On a machine with a GPU the audit takes that one as well.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

ROOT = Path(__file__).resolve().parents[1]
TORCH = str(Path(torch.__file__).parent)
META, CPU = torch.device("meta"), torch.device("cpu")
aten = torch.ops.aten
READ = {aten._local_scalar_dense, aten.equal}
TAKEN, PUT = {aten.index, aten._unsafe_index}, {aten.index_put, aten.index_put_, aten._index_put_impl_}
COUNTED = {aten.nonzero, aten.masked_select, aten._unique2, aten.unique_dim, aten.unique_consecutive, aten.bincount}
COPIED = {torch.tensor, torch.as_tensor, torch.Tensor.new_tensor}  # numbers of Python to a tensor of the device
ROUNDED = {F.conv3d, torch.matmul, Tensor.matmul, Tensor.__matmul__, F.linear, torch.mm, torch.addmm, torch.bmm}
EXACT = {F.group_norm, F.layer_norm, F.binary_cross_entropy_with_logits}


@dataclass(frozen=True)
class Violation:
    """One operation that a step should not do.

    Attributes:
        what: what is wrong with it.
        operation: its name in torch.
        file: where it was called: the innermost file outside torch, relative to the repository if it lies there.
        line: the line there.
        function: the function there.
    """

    what: str
    operation: str
    file: str
    line: int
    function: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line} in {self.function}: {self.what} ({self.operation})"


class Auditor(TorchDispatchMode):
    """Note every operation that leaves the device or waits for it; on a device without data, answer in its place.

    Args:
        device: where everything should be.

    Attributes:
        found: the violations so far.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.device, self.has_data = device, device != META
        self.found: list[Violation] = []

    def note(self, what: str, operation: Any) -> None:
        """Add a violation of the operation that is being called."""
        self.found.append(Violation(what, str(operation), *calling_place(reversed(list(traceback.walk_stack(None))))))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, packet = kwargs or {}, func.overloadpacket
        given = tensors_in((args, kwargs))
        here = [one for one in given if one.device == self.device]
        if here and packet in READ:
            self.note("reads a number on the host", func)
            return func(*args, **kwargs) if self.has_data else number_like(here[0], packet)
        if here and (packet in COUNTED or (packet in TAKEN | PUT and has_mask(args[1]))):
            self.note("waits for the number of elements that are selected", func)
            return func(*args, **kwargs) if self.has_data else everything_selected(packet, args)
        if packet in (aten._to_copy, aten.copy_):
            source, target = (args[0], kwargs.get("device")) if packet is aten._to_copy else (args[1], args[0].device)
            if target is not None and source.device != target:
                self.note(f"copies from {source.device} to {target}", func)
                if not self.has_data:
                    copied = torch.zeros_like(source, device=target, dtype=kwargs.get("dtype"))
                    return copied if packet is aten._to_copy else args[0]
                return func(*args, **kwargs)
        answer = func(*args, **kwargs)
        away = [one for one in (*given, *tensors_in(answer)) if one.device != self.device and not is_argument(one)]
        if away:
            self.note(f"{'mixes devices with' if here else 'works on'} {away[0].device}", func)
        return answer


class CopiedNumbers(TorchFunctionMode):
    """Note numbers of Python that become a tensor of the device, because they are copied there.

    Args:
        auditor: notes it.
    """

    def __init__(self, auditor: Auditor) -> None:
        super().__init__()
        self.auditor = auditor

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        answer = func(*args, **(kwargs or {}))
        if func in COPIED and answer is not args[0] and answer.device == self.auditor.device:
            self.auditor.note("copies from the host", func.__name__)
        return answer


def audit(step: Callable[[], Any], device: torch.device) -> list[Violation]:
    """Run a step, and return what it should not do on a GPU, in the order of its operations.

    A step should create no tensor on another device than its own, copy nothing between devices, and read no value on
    the host. Allowed is a single number on the CPU, which operations take as an argument.

    Args:
        step: what it works on is on the device already; is run within `pretend`.
        device: where everything should be.
    """
    with Auditor(device) as auditor, CopiedNumbers(auditor):
        try:
            step()
        except Exception as error:  # a step that stops is a finding too, such as the mixing of devices
            place = calling_place(traceback.walk_tb(error.__traceback__))
            auditor.found.append(Violation(f"stops: {error}", type(error).__name__, *place))
    found: list[Violation] = auditor.found
    return found


class Autocast(TorchFunctionMode):
    """What `torch.autocast` does on a GPU, for the device ``meta``, on which torch has none.

    Args:
        device_type: is not used.
        dtype: the format of convolutions and matrix products; normalisations and losses are computed in float32.
        enabled: False changes nothing.
    """

    def __init__(self, device_type: str, dtype: torch.dtype, enabled: bool = True) -> None:
        super().__init__()
        self.formats = dict.fromkeys(ROUNDED, dtype) | dict.fromkeys(EXACT, torch.float32) if enabled else {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in self.formats:
            dtype = self.formats[func]
            args, kwargs = tree_map_only(Tensor, lambda one: one.to(dtype), (args, kwargs))
        return func(*args, **(kwargs or {}))


@contextmanager
def pretend(device: torch.device) -> Iterator[None]:
    """Let ``meta`` have an autocast; any other device is taken as it is."""
    if device != META:
        yield
        return
    with mock.patch("torch.autocast", Autocast):
        yield


def tensors_in(values: Any) -> list[Tensor]:
    """Return all tensors in nested containers."""
    return [value for value in tree_leaves(values) if isinstance(value, Tensor)]


def is_argument(value: Tensor) -> bool:
    """Return whether a tensor is a single number on the CPU, which operations take without a copy."""
    return value.ndim == 0 and value.device == CPU


def has_mask(indices: Sequence[Tensor | None]) -> bool:
    """Return whether one of the indices is a mask."""
    return any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in indices)


def number_like(value: Tensor, packet: Any) -> bool | int | float:
    """Return a number that the host might have read from a tensor."""
    if packet is aten.equal or value.dtype == torch.bool:
        return True
    return 1.0 if value.dtype.is_floating_point else 1


def everything_selected(packet: Any, args: Sequence[Any]) -> Tensor:
    """Return what an operation answers if it selects every element."""
    source: Tensor = args[0]
    if packet in PUT:
        return source
    if packet in TAKEN:
        (mask,) = (index for index in args[1] if index is not None)
        return source.new_empty(mask.numel(), *source.shape[mask.ndim :])
    if packet is aten.nonzero:
        return source.new_empty(source.numel(), source.ndim, dtype=torch.int64)
    if packet is aten.masked_select:
        return source.new_empty(source.numel())
    raise NotImplementedError(f"the audit cannot go on after {packet}")


def calling_place(frames: Iterable[tuple[FrameType, int]]) -> tuple[str, int, str]:
    """Return file, line and function of the last frame outside torch and this module; of the last one if none is."""
    places = [(frame.f_code.co_filename, line, frame.f_code.co_name) for frame, line in frames]
    outside = [place for place in places if place[0] != __file__ and not place[0].startswith(TORCH)]
    file, line, function = (outside or places)[-1]
    return file.removeprefix(f"{ROOT}/"), line, function
