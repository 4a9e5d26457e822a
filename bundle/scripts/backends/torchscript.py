"""TorchScript: export the network, and load a TorchScript file in place of the network of the configs."""

from __future__ import annotations

import copy
import io
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from scripts.backends.exported_file import require_exported, write_exported
from scripts.backends.held_values import TORCHSCRIPT, restate_values
from scripts.errors import InputError
from scripts.networks.cpu_layers import WithFlatKernels
from scripts.networks.model_card import check_model, current_card, tell_how_to_cut_windows
from scripts.networks.recipe import pass_on
from scripts.networks.weights import UNREADABLE, check_whole
from scripts.species import SpeciesSet


def export_torchscript(network: nn.Module, checkpoint_path: str | Path, path: str | Path) -> None:
    """Write a network with its weights as a TorchScript file, and its card beside it.

    Args:
        network: with the weights loaded.
        checkpoint_path: the weights, for their card.
        path: the file.

    Raises:
        InputError: TorchScript does not take the network, or the file cannot be written.
    """
    card = current_card(checkpoint_path)
    plain = copy.deepcopy(network).cpu().to(memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload]
    stream = io.BytesIO()
    try:
        torch.jit.save(torch.jit.script(plain), stream)
    except RuntimeError as error:
        raise InputError(f"TorchScript does not take this network: {str(error).strip().splitlines()[0]}") from error
    write_exported(path, stream.getvalue(), card)


class TorchScriptNetwork(WithFlatKernels):
    """A network from a TorchScript file, which may have 2D kernels, too.

    Args:
        network: what `torch.jit.load` returned.

    Shape:
        Those of the network, see there.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        pass_on(network, self)

    def forward(self, windows: Tensor) -> Tensor:
        """Return the logits of every voxel."""
        logits: Tensor = self.network(windows)
        return logits


def load_torchscript(
    path: str | Path,
    species_set: SpeciesSet | None = None,
    painter: Any = None,
    device: torch.device | str = "cpu",
) -> nn.Module:
    """Load a network from a TorchScript file of `export_torchscript` or of MONAI's ``ckpt_export``, ``trt_export``.

    Args:
        path: the file.
        species_set: the species to pick, see `networks.model_card.check_model`.
        painter: what painted the targets.
        device: device to load the network to.

    Raises:
        InputError: the file is missing, damaged or no TorchScript, or of other species or another painter.
    """
    require_exported(path, "torchscript")
    card = check_model(path, species_set, painter)
    try:
        check_whole(path)
        network = TorchScriptNetwork(torch.jit.load(str(path), map_location=device))
    except UNREADABLE as error:
        raise InputError(f"{path} is no TorchScript file, or it is damaged or cut short.") from error
    if not hasattr(network, "output_stride"):  # a trace keeps no attributes
        tell_how_to_cut_windows(card, network)
    restate_values(network, TORCHSCRIPT)
    return network.eval()
