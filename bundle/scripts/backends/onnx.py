"""ONNX: export the network, and run an ONNX file in place of the network of the configs."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from scripts.backends.exported_file import require_exported, write_exported
from scripts.backends.held_values import ONNXRUNTIME, restate_values
from scripts.errors import InputError
from scripts.networks.model_card import check_model, current_card, tell_how_to_cut_windows
from scripts.species import SpeciesSet

Shape = list[int | str]


def export_onnx(network: nn.Module, checkpoint_path: str | Path, path: str | Path, window_size: Sequence[int]) -> None:
    """Write a network with its weights as an ONNX file for windows of any size, and its card beside it.

    Args:
        network: with the weights loaded.
        checkpoint_path: the weights, for their card.
        path: the file.
        window_size: ``(z, y, x)`` of the window that the network is traced with.

    Raises:
        InputError: onnx is not installed, or the file cannot be written.
    """
    card = current_card(checkpoint_path)
    plain = copy.deepcopy(network).cpu().to(memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload]
    axes = {0: "batch", 2: "z", 3: "y", 4: "x"}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "network.onnx"
        try:
            torch.onnx.export(
                plain,
                (torch.rand(1, 1, *window_size),),
                str(file),
                input_names=["image"],
                output_names=["pred"],
                dynamic_axes={"image": axes, "pred": axes},
                external_data=False,
            )
        except ImportError as error:
            raise InputError(
                f"an ONNX export needs {error.name}. Install it with: pip install onnx onnxscript"
            ) from error
        write_exported(path, file.read_bytes(), card)


class OnnxNetwork(nn.Module):
    """A network from an ONNX file, run by onnxruntime on the CPU by as many threads as torch is set to; for inference.

    Args:
        path: the file, written by `export_onnx` or by MONAI's ``onnx_export``.
        species_set: the species to pick, see `networks.model_card.check_model`.
        painter: what painted the targets.

    Shape:
        ``(B, in_channels, Z, Y, X)`` -> ``(B, out_channels, Z, Y, X)``, float32.

    Raises:
        InputError: onnxruntime is not installed, or the file is missing, damaged or no ONNX.
    """

    has_own_threads, run_by = True, "onnxruntime"

    def __init__(self, path: str | Path, species_set: SpeciesSet | None = None, painter: Any = None) -> None:
        super().__init__()
        require_exported(path, "onnx")
        tell_how_to_cut_windows(check_model(path, species_set, painter), self)
        restate_values(self, ONNXRUNTIME)
        self.path, self.session = path, _open_session(path)
        (given,) = self.session.get_inputs()
        self.input_name, self.input_shape = str(given.name), list(given.shape)

    @property
    def has_fixed_windows(self) -> bool:
        """Whether the file takes windows of one shape alone."""
        return not any(isinstance(length, str) for length in self.input_shape[2:])

    def forward(self, windows: Tensor) -> Tensor:
        """Return the logits of every voxel.

        Raises:
            InputError: the file was exported for windows of another shape.
        """
        if not fits(windows.shape, self.input_shape):
            raise InputError(
                f"{self.path} takes windows of shape {self.input_shape}; got {list(windows.shape)}. Set "
                "inference_window_size to it, or export with dynamic_axes."
            )
        (logits,) = self.session.run(None, {self.input_name: windows.float().cpu().numpy()})
        return torch.from_numpy(logits).to(windows.device)


def fits(shape: torch.Size, wanted: Shape) -> bool:
    """Return whether a shape matches the wanted one; an axis with a name instead of a length may have any length."""
    pairs = zip(shape, wanted, strict=False)
    return len(shape) == len(wanted) and all(isinstance(want, str) or have == want for have, want in pairs)


def _open_session(path: str | Path) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise InputError(f"{path} needs onnxruntime to run. Install it with: pip install onnxruntime") from error
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = torch.get_num_threads()  # by default it takes every core of the machine
    try:
        return onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own classes share no other ancestor
        raise InputError(f"{path} is no ONNX file, or it is damaged or cut short.") from error
