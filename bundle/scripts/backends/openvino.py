"""OpenVINO: run a network that was loaded as usual by OpenVINO's program for CPUs; no file is written."""

from __future__ import annotations

import copy
import importlib.util
import math
import os
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from scripts.backends.held_values import OPENVINO, restate_values
from scripts.errors import InputError, reason_of
from scripts.networks.recipe import pass_on

HINTS = {torch.float32: "f32", torch.bfloat16: "bf16"}
STEP = 32  # voxels; the strides of most networks divide it
LONGEST_REASON = 200  # characters of OpenVINO's messages
AGREEMENT = 0.01  # of the range of the logits; two programs in float32 differ by a thousandth of that


def is_installed() -> bool:
    """Return whether OpenVINO can be imported."""
    return importlib.util.find_spec("openvino") is not None


class OpenVinoNetwork(nn.Module):
    """A network run by OpenVINO on the CPU; for inference only.

    The network is converted at the first window. OpenVINO's program is compiled for one shape of windows and kept until
    a window of another shape comes. A batch is answered window by window, which takes as long on a CPU, so its size may
    change. Windows are answered one at a time, each by as many threads as torch is set to.

    Attributes:
        has_own_threads: several windows at a time would gain nothing.

    Args:
        network: computes one tensor from one tensor; its weights may still be loaded before the first window.
        dtype: what OpenVINO computes in, float32 or bfloat16.

    Shape:
        ``(B, in_channels, Z, Y, X)`` -> what the network answers, float32.

    Raises:
        InputError: OpenVINO is not installed, or does not compute in ``dtype``.
    """

    has_own_threads, run_by = True, "openvino"

    def __init__(self, network: nn.Module, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        if dtype not in HINTS:
            raise InputError(f"OpenVINO computes in float32 or bfloat16 on CPUs, not in {dtype}: set precision to one.")
        if not is_installed():
            raise InputError(
                "backend 'openvino' needs OpenVINO. Install it with: pip install 'openvino>=2026.4', or set backend to "
                "'torch'."
            )
        self.network, self.dtype = network, dtype
        pass_on(network, self)
        restate_values(self, OPENVINO)
        self.model: Any = None
        self.model_shape: tuple[int, ...] | None = None  # the only shape that the model is for; None for any
        self.program: Any = None
        self.shape: tuple[int, ...] = ()  # of the program's window
        self.lock = threading.Lock()

    @torch.no_grad()
    def forward(self, windows: Tensor) -> Tensor:
        """Return the network's answer.

        Raises:
            InputError: the windows are not on the CPU, or OpenVINO does not take the network.
        """
        if windows.device.type != "cpu":
            raise InputError(f"OpenVINO runs on the CPU, the windows are on {windows.device}: set backend to 'torch'.")
        windows = windows.float().contiguous()
        shape = tuple(windows.shape[1:])
        with self.lock:
            if shape != self.shape:
                self._prepare(shape)
            answer = windows.new_empty(len(windows), *self.answer_shape)
            for window, place in zip(windows.split(1), answer.split(1), strict=True):
                run(self.program, window, place)
        return answer

    def release_memory(self) -> None:
        """Give back the memory that OpenVINO keeps for the next window: up to 130 bytes per voxel of a window."""
        with self.lock:
            if self.program is not None:
                self.program.get_compiled_model().release_memory()

    def _prepare(self, shape: tuple[int, ...]) -> None:
        self.program, self.shape = None, ()  # two programs at once would need twice the memory
        try:
            if self.model is None or self.model_shape not in (None, shape):
                self.model, self.model_shape = converted(self.network, shape)
            self.program = compiled(self.model, shape, self.dtype)
        except Exception as error:  # OpenVINO's own classes share no other ancestor
            name, reason = type(self.network).__name__, reason_of(error)[:LONGEST_REASON]
            raise InputError(f"OpenVINO does not take {name}: {reason}. Set backend to 'torch'.") from error
        self.answer_shape = tuple(self.program.get_compiled_model().output(0).shape)[1:]
        self.shape = shape


def converted(network: nn.Module, shape: Sequence[int]) -> tuple[Any, tuple[int, ...] | None]:
    """Return OpenVINO's model of a network.

    A trace records what the network does with one window. Where another window shows that the record holds for windows
    of any size, a small window is traced, which takes a tenth of the time and a third of the memory; else one of the
    shape that is needed.

    Args:
        network: its weights are copied.
        shape: ``(channels, Z, Y, X)`` of the windows.

    Returns:
        The model, and the only shape of windows that it is for; None if it is for all.
    """
    plain: Any = copy.deepcopy(network).cpu().float()
    plain = plain.to(memory_format=torch.contiguous_format).eval()
    small = [STEP + size % STEP for size in shape[1:]]
    other = [size + STEP for size in small]
    if math.prod(small) + math.prod(other) <= math.prod(shape[1:]) / 2:
        model = _model_of_any_shape(plain, (shape[0], *small), (shape[0], *other))
        if model is not None:
            return model, None
    return traced(plain, shape), tuple(shape)


def traced(network: nn.Module, shape: Sequence[int]) -> Any:
    """Return OpenVINO's model of a network in float32, traced with a window of a shape ``(channels, Z, Y, X)``."""
    openvino, window = _import_openvino(), _random_window(shape)
    with torch.no_grad(), torch.autocast("cpu", enabled=False), warnings.catch_warnings(), _without_telemetry():
        warnings.simplefilter("ignore")  # what a trace may miss is compared
        trace = torch.jit.trace(network, (window,), check_trace=False, strict=False)
        sizes = openvino.PartialShape([1, shape[0], *[-1] * (len(shape) - 1)])
        model = openvino.convert_model(trace, example_input=window, input=[sizes])
    if len(model.outputs) != 1:
        raise ValueError(f"it has {len(model.outputs)} outputs instead of one")
    return model


def _model_of_any_shape(network: nn.Module, shape: Sequence[int], other: Sequence[int]) -> Any:
    """Return a model traced with a window of one shape if it answers one of another shape like the network; or None."""
    try:
        model = traced(network, shape)
        program = compiled(model, other, torch.float32)
    except Exception:  # the network refuses such windows, or the model has the shape in it
        return None
    window = _random_window(other)
    with torch.no_grad(), torch.autocast("cpu", enabled=False):
        wanted = network(window)
    found = torch.empty(wanted.shape)
    run(program, window, found)
    difference, spread = (found - wanted).abs().max(), wanted.max() - wanted.min()
    return model if difference <= AGREEMENT * spread else None


def compiled(model: Any, shape: Sequence[int], dtype: torch.dtype) -> Any:
    """Return a program (an ``InferRequest``) for one window of a shape ``(channels, Z, Y, X)`` at a time."""
    model.reshape([1, *shape])
    settings = {
        "INFERENCE_PRECISION_HINT": HINTS[dtype],
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "ENABLE_CPU_PINNING": False,  # two programs on one machine would be bound to the same cores
    }
    return _import_openvino().Core().compile_model(model, "CPU", settings).create_infer_request()


def run(program: Any, window: Tensor, answer: Tensor) -> None:
    """Write a program's answer to a window into a tensor; both are contiguous and in float32, nothing is copied."""
    shared = partial(_import_openvino().Tensor, shared_memory=True)
    program.set_input_tensor(shared(window.detach().numpy()))
    program.set_output_tensor(shared(answer.numpy()))
    program.infer()


def _random_window(shape: Sequence[int]) -> Tensor:
    return torch.rand(1, *shape, generator=torch.Generator().manual_seed(0))


def _import_openvino() -> Any:
    with _without_telemetry():
        import openvino
    return openvino


@contextmanager
def _without_telemetry() -> Iterator[None]:
    """Keep OpenVINO from sending statistics of its use, which it does not do under continuous integration."""
    before = os.environ.get("CI")
    os.environ["CI"] = "true"
    try:
        yield
    finally:
        if before is None:
            del os.environ["CI"]
        else:
            os.environ["CI"] = before
