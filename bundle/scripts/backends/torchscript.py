"""The network out of a TorchScript file."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from scripts.backends.exported_file import require_exported
from scripts.errors import InputError
from scripts.networks.weights import UNREADABLE, check_recorded, check_whole


def load_torchscript(
    path: str | Path, metadata_path: str | Path | None = None, device: torch.device | str = "cpu"
) -> nn.Module:
    """Return a network out of a TorchScript file, as ``ckpt_export`` and ``trt_export`` write it.

    Args:
        path: the file.
        metadata_path: see `weights.check_recorded`.
        device: where the network is to be.

    Raises:
        InputError: the file is missing, damaged or no TorchScript.
    """
    require_exported(path, "ckpt_export")
    check_recorded(path, metadata_path)
    try:
        check_whole(path)
        network: nn.Module = torch.jit.load(str(path), map_location=device)
    except UNREADABLE as error:
        raise InputError(f"{path} is no TorchScript file, or it is damaged or cut short.") from error
    return network.eval()
