"""Which program runs the network: torch, OpenVINO or ``torch.compile``."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from scripts.backends.held_values import COMPILED, restate_values
from scripts.backends.onnx import OnnxNetwork
from scripts.backends.openvino import HINTS, OpenVinoNetwork, is_installed
from scripts.backends.torchscript import TorchScriptNetwork
from scripts.errors import InputError, InputWarning
from scripts.networks.ensemble import Ensemble
from scripts.networks.recipe import pass_on
from scripts.settings import check_setting

FEWER_VOXELS = 0.8  # of those that a stand-in computes: then torch, which takes about as long for each, is faster
# Largest difference in probability between two programs that pick the same particles. From torch in float32, each
# differs by up to 0.0005 in float32 and 0.04 in bfloat16.
TOLERANCES = {torch.float32: 0.005, torch.bfloat16: 0.1}


def with_backend(
    network: nn.Module, backend: str = "auto", dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> nn.Module:
    """Return a network that answers like the given one, run by another program.

    Args:
        network: its weights may still be loaded before the first window; of an ensemble, each member is run by the
            program.
        backend: ``torch`` returns the network itself; ``openvino`` an `OpenVinoNetwork`; ``compile`` the network
            compiled by ``torch.compile``; ``auto`` uses OpenVINO on a CPU, if it is installed and its answer to the
            first window is torch's, see `CheckedNetwork`, and torch otherwise. Networks out of TorchScript and ONNX
            files stay as they are with ``auto``.
        dtype: what the network computes in, from `inference.precision.number_format`.
        device: where the network runs.

    Raises:
        InputError: there is no such backend, or OpenVINO is asked for where it is not installed, on another device than
            a CPU, in float16, or for a network out of a file.
    """
    if isinstance(network, Ensemble):
        return Ensemble([with_backend(one, backend, dtype, device) for one in network.members], network.combination)
    on_cpu = torch.device(device).type == "cpu"
    is_exported = isinstance(network, torch.jit.ScriptModule | TorchScriptNetwork | OnnxNetwork)
    check_setting("backend", backend)
    if backend == "compile":
        compiled: nn.Module = torch.compile(network)  # type: ignore[assignment]
        if on_cpu and not is_exported:
            restate_values(compiled, COMPILED)
        return compiled
    if backend == "openvino":
        if not on_cpu:
            raise InputError(f"backend 'openvino' runs on the CPU, the device is {device}: set backend to 'auto'.")
        if is_exported:
            raise InputError("backend 'openvino' takes weights, not exported files: set backend to 'auto'.")
        return OpenVinoNetwork(network, dtype)
    if backend == "auto" and on_cpu and dtype in HINTS and not is_exported and is_installed():
        return CheckedNetwork(network, OpenVinoNetwork(network, dtype), TOLERANCES[dtype])
    return network


def program_of(network: nn.Module) -> str:
    """Return the program that was chosen for a network of `with_backend`, as a setting: for example ``openvino``.

    What ran instead, if that failed, is in `CheckedNetwork.fallback`.
    """
    if isinstance(network, Ensemble):
        return program_of(network.members[0])
    return "compile" if hasattr(network, "_orig_mod") else str(getattr(network, "run_by", "torch"))


class CheckedNetwork(nn.Module):
    """A network with a faster stand-in, which is used once it has answered the first window like the network.

    The first window is answered by both. If one probability differs by more than the tolerance, or the stand-in fails,
    a warning says so, and all windows are answered by the network; else all by the stand-in, the first one too: a batch
    that was interrupted begins anew with another window, and must end with the same picks.

    Attributes:
        fallback: that torch has taken over, for all or for the last volume, and why; "" if it has not.

    Args:
        network: what is right.
        fast: what is faster.
        tolerance: largest difference in probability that is allowed.

    Shape:
        Those of the network, see there.
    """

    run_by = "openvino"

    def __init__(self, network: nn.Module, fast: nn.Module, tolerance: float) -> None:
        super().__init__()
        self.network, self.tolerance = network, tolerance
        self.fast: nn.Module | None = fast
        self.is_checked, self.lock, self.fallback = False, threading.Lock(), ""
        pass_on(network, self)
        both: tuple[Any, ...] = (network, fast)  # answer the first window
        stated = [float(one.values_per_voxel) for one in both if hasattr(one, "values_per_voxel")]
        if stated:
            self.values_per_voxel = max(stated)

    @property
    def has_own_threads(self) -> bool:
        """Whether several windows at a time would gain nothing, see `OpenVinoNetwork`."""
        return bool(getattr(self.fast, "has_own_threads", False))

    def program_for(self, computed_by: Callable[[nn.Module], float]) -> nn.Module:
        """Return what answers the windows of a volume: this, or the network alone if the stand-in would take longer.

        The stand-in holds more per voxel. Where little memory is left for windows, it gets smaller ones, which share
        more, see `FEWER_VOXELS`. `fallback` says which it is.

        Args:
            computed_by: returns how many voxels all windows have in the sizes that a network gets.
        """
        if self.fast is None:
            return self
        by_both, by_torch = computed_by(self), computed_by(self.network)
        if by_torch >= FEWER_VOXELS * by_both:
            self.fallback = ""
            return self
        name = type(self.fast).__name__
        self.fallback = (
            f"torch: the windows of {name}, which needs more memory, have {by_both / by_torch:.1f} times its voxels."
        )
        return self.network

    def release_memory(self) -> None:
        """Give back what the stand-in keeps for the next window, see `OpenVinoNetwork`."""
        if isinstance(self.fast, OpenVinoNetwork):
            self.fast.release_memory()

    def forward(self, windows: Tensor) -> Tensor:
        """Return the logits."""
        with self.lock:
            if not self.is_checked:
                return self._checked(windows)
        answer: Tensor = self.network(windows) if self.fast is None else self.fast(windows)
        return answer

    def _checked(self, windows: Tensor) -> Tensor:
        assert self.fast is not None
        wanted: Tensor = self.network(windows)
        try:
            found: Tensor = self.fast(windows)
            fault = self._fault_of(found, wanted)
        except InputError as error:
            fault = str(error)
        except RuntimeError as error:  # of OpenVINO itself
            fault = f"{type(self.fast).__name__} failed: {' '.join(str(error).split())[:200]}."
        self.is_checked = True
        if fault is None:
            return found
        self.fast, self.fallback = None, f"torch: {fault}"
        warnings.warn(f"{fault} The network is run by torch instead.", InputWarning, stacklevel=3)
        return wanted

    def _fault_of(self, found: Tensor, wanted: Tensor) -> str | None:
        """Return in a sentence what is wrong with the answer of the stand-in; None if it is as wanted."""
        name = type(self.fast).__name__
        if found.shape != wanted.shape:
            return f"{name} answers with shape {tuple(found.shape)}, torch with {tuple(wanted.shape)}."
        difference = largest_difference(found, wanted)
        if difference <= self.tolerance:
            return None
        return (
            f"{name} differs from torch by up to {difference:.3f} in probability in the first window; "
            f"{self.tolerance:g} is allowed."
        )


def largest_difference(logits: Tensor, others: Tensor) -> float:
    """Return the largest difference in probability between two tensors of logits of one shape; NaN if one holds NaN."""
    pairs = zip(logits.flatten(0, 1), others.flatten(0, 1), strict=True)  # one channel at a time needs little memory
    return float(
        torch.stack([(one.float().sigmoid() - other.float().sigmoid()).abs().max() for one, other in pairs]).max()
    )
