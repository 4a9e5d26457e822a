"""The network out of an ONNX file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from scripts.backends.exported_file import require_exported
from scripts.errors import InputError
from scripts.networks.weights import check_recorded

Shape = list[int | str]


class OnnxNetwork(nn.Module):
    """A network out of an ONNX file, run by onnxruntime on the CPU; for inference only.

    Args:
        path: the file, as ``onnx_export`` writes it.
        metadata_path: see `weights.check_recorded`.

    Shape:
        ``(B, in_channels, Z, Y, X)`` -> ``(B, out_channels, Z, Y, X)``, float32.

    Raises:
        InputError: onnxruntime is not installed, or the file is missing, damaged or no ONNX.
    """

    def __init__(self, path: str | Path, metadata_path: str | Path | None = None) -> None:
        super().__init__()
        require_exported(path, "onnx_export")
        check_recorded(path, metadata_path)
        self.path, self.session = path, _open_session(path)
        (given,) = self.session.get_inputs()
        self.input_name, self.input_shape = str(given.name), list(given.shape)

    def forward(self, windows: Tensor) -> Tensor:
        """Return the logits of every voxel.

        Raises:
            InputError: the file was exported for windows of another shape.
        """
        if not fits(windows.shape, self.input_shape):
            raise InputError(
                f"{self.path} takes windows of shape {self.input_shape}; got {list(windows.shape)}. Set "
                "inference_window_size and inference_batch_size to it, or export with dynamic_axes."
            )
        (logits,) = self.session.run(None, {self.input_name: windows.float().cpu().numpy()})
        return torch.from_numpy(logits).to(windows.device)


def fits(shape: torch.Size, wanted: Shape) -> bool:
    """Tell whether a shape is the wanted one; an axis that is wanted by a name may have any length."""
    pairs = zip(shape, wanted, strict=False)
    return len(shape) == len(wanted) and all(isinstance(want, str) or have == want for have, want in pairs)


def _open_session(path: str | Path) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise InputError(f"{path} needs onnxruntime to run. Install it with: pip install onnxruntime") from error
    try:
        return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own classes share no other ancestor
        raise InputError(f"{path} is no ONNX file, or it is damaged or cut short.") from error
