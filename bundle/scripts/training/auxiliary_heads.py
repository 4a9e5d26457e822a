"""Auxiliary losses: while a network learns, coarser levels of its decoder answer too."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from scripts.errors import InputError


class AuxiliaryHeads(nn.Module):
    """A network together with pointwise heads on some of its levels, for `monai.losses.DeepSupervisionLoss`.

    The heads belong to the training alone: the network itself, which is saved and used, does not change.

    Args:
        network: answers with logits.
        levels: names of modules of the network, from fine to coarse, for example ``grow.1``. Each must be called once
            per window, with features ``(B, any number, z, y, x)`` as its output.
        species_count: logits of every head.
        window_size: ``(z, y, x)`` of the training windows in voxels.
        prior: probability that an untrained head gives to every voxel.

    Shape:
        ``(B, 1, Z, Y, X)`` -> in training the logits of the network and then those of each level, ``(B, species_count,
        z, y, x)``; otherwise the logits of the network.

    Raises:
        InputError: the network has no such level, its output is something else, or the network pads such windows.
    """

    def __init__(
        self,
        network: nn.Module,
        levels: Sequence[str],
        species_count: int,
        window_size: Sequence[int],
        prior: float = 1e-3,
    ) -> None:
        super().__init__()
        names = [name for name, _ in network.named_modules()]
        unknown = [name for name in levels if name not in names]
        self.network, self.levels, self.heads = network, list(levels), nn.ModuleList()
        if unknown or not levels:
            coarse = [name for name in names[1:] if name.count(".") <= 1]  # the first is the network itself
            found = self._features_of_a_window(coarse, window_size)
            usable = [name for name, one in zip(coarse, found, strict=True) if one is not None and one.dim() == 5]
            raise InputError(
                f"auxiliary_levels {list(levels)}: name modules of {type(network).__name__}, such as "
                f"{', '.join(usable)}."
            )
        stride = getattr(network, "stride", 1)
        steps = (getattr(network, "stride_z", stride), stride, stride)
        if any(map(operator.mod, window_size, steps)):
            raise InputError(
                f"window_size {list(window_size)}: with auxiliary losses its sides must be multiples of {list(steps)}, "
                "otherwise the network pads the window, and the voxels of its levels have other places."
            )
        for name, features in zip(levels, self._features_of_a_window(levels, window_size), strict=True):
            if features is None or features.dim() != 5:
                raise InputError(f"auxiliary_levels: {name} does not answer with a volume: name another level.")
            head = nn.Conv3d(features.shape[1], species_count, 1)
            nn.init.constant_(head.bias, math.log(prior / (1 - prior)))  # type: ignore[arg-type]
            self.heads.append(head)

    @torch.enable_grad()
    def _features_of_a_window(self, levels: Sequence[str], window_size: Sequence[int]) -> list[Tensor | None]:
        """Return what modules answer, None for those that are not called; with gradients, as in training."""
        training, device = self.network.training, next(self.network.parameters()).device
        with outputs_of(self.network.eval(), levels) as found:
            self.network(torch.zeros(1, 1, *window_size, device=device))
        self.network.train(training)
        return [found.get(name) for name in levels]

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """Return the logits of the network, in training also those of its levels."""
        if not self.training:
            answer: Tensor = self.network(x)
            return answer
        with outputs_of(self.network, self.levels) as found:
            logits = self.network(x)
        return [logits, *(head(found[name]) for name, head in zip(self.levels, self.heads, strict=True))]


@contextmanager
def outputs_of(network: nn.Module, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Return a table that fills with the outputs of some of a network's modules, as long as the context lasts.

    Args:
        network: is called in the context.
        names: of its modules.
    """
    found: dict[str, Tensor] = {}

    def keep(name: str, output: Tensor) -> None:
        found[name] = output

    handles = [
        network.get_submodule(name).register_forward_hook(lambda _, __, output, name=name: keep(name, output))
        for name in names
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
