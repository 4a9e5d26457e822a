"""Start a training from weights of other species: a new head on the old layers, which may learn slowly or not at all.

The head is what depends on the number of species: the weights with one row per species. The rows of species that the
weights know, with the same radii, are taken over.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from scripts.errors import InputError
from scripts.networks.model_card import Card, check_model, check_voxel_size_of, needed_card, was_trained_on
from scripts.networks.recipe import rebuild, recipe_of
from scripts.networks.weights import check_fit, check_network, load_weights, read_tensors
from scripts.settings import check_setting
from scripts.species import SpeciesSet

logger = logging.getLogger(__name__)

OUTPUTS = "out_channels"  # the argument of a network that says how many species it answers


def species_taken_over(
    path: str | Path | None, species_set: SpeciesSet, voxel_size_tolerance: float = 0.0
) -> list[str]:
    """Return the names of the species whose rows of the head are taken over from weights.

    Args:
        path: the weights to start from.
        species_set: the species to learn.
        voxel_size_tolerance: largest difference between the voxel sizes of both, as a share of that of the weights.

    Raises:
        InputError: there are no weights to start from, they have no card, or they are of another voxel size.
    """
    if path is None:
        raise InputError("start_from_other_species needs the weights to start from: set checkpoint_path.")
    card = needed_card(path, "another checkpoint_path")
    check_voxel_size_of(card, species_set, path, voxel_size_tolerance)
    return [species.name for species in species_set.picked if was_trained_on(card, species)]


def start_from(
    network: nn.Module,
    path: str | Path,
    species_set: SpeciesSet,
    painter: Any = None,
    device: torch.device | str = "cpu",
    taken_over: Sequence[str] | None = None,
    rate_of_old_layers: float = 1.0,
) -> nn.Module:
    """Load the weights that a training starts from.

    Args:
        network: the network to load the weights into.
        path: the weights file.
        species_set: the species to learn.
        painter: what paints the targets; None skips its check.
        device: where the network is.
        taken_over: None for weights of the same species, which all weights are taken from. Otherwise, the species whose
            rows of the head are taken over, see `species_taken_over`; the others keep the network's first weights.
        rate_of_old_layers: at 0 all but the head is frozen.

    Returns:
        The network.

    Raises:
        InputError: see `networks.weights.load_weights`; or nothing tells the head from the rest of the network.
    """
    if taken_over is None:
        load_weights(network, path, species_set, painter, device)
    else:
        card = check_model(path, painter=painter)
        assert card is not None  # it was read for `taken_over`
        _load_all_but_new_rows(network, path, card, species_set, taken_over, device)
        new = [name for name in species_set.names if name not in taken_over]
        logger.info("%s: species taken over: %s; new: %s", path, _listed(taken_over), _listed(new))
    if rate_of_old_layers == 0:
        freeze(network)
    return network


def head_of(network: nn.Module) -> list[str]:
    """Return the names of the weights with one row per species.

    They are found by comparing the network with one that has a species more.

    Raises:
        InputError: the network has no argument ``out_channels``, or more than rows depends on it.
    """
    name, outputs = type(network).__qualname__, recipe_of(network).get(OUTPUTS)
    if not isinstance(outputs, int):
        raise InputError(f"nothing tells the head of the network {name} from its rest: it has no argument {OUTPUTS}.")
    with torch.device("meta"):  # nothing is computed
        wider = rebuild(network, **{OUTPUTS: outputs + 1}).state_dict()
    own = network.state_dict()
    found = [key for key, value in wider.items() if key not in own or own[key].shape != value.shape]
    for key in found:
        has_rows = key in own and own[key].shape[:1] == (outputs,) and own[key].shape[1:] == wider[key].shape[1:]
        if not has_rows:
            raise InputError(
                f"the head of the network {name} cannot be told from its rest: {key} depends on {OUTPUTS}, but has not "
                "one row per species. Take a network that ends in a plain convolution."
            )
    return found


def parameter_groups(
    network: nn.Module,
    learning_rate: float,
    rate_of_old_layers: float = 1.0,
    started_from: str | Path | None = None,
    more: nn.Module | None = None,
) -> list[Any]:
    """Return what an optimizer learns: the head, and the layers that the weights at the start have taught already.

    Args:
        network: the network that is trained.
        learning_rate: of the head.
        rate_of_old_layers: what the learning rate of the other layers is multiplied by, from 0 to 1.
        started_from: the weights at the start; None for none.
        more: what learns beside the network, as fast as its head.

    Raises:
        InputError: the rate is none, there are no weights at the start, or see `head_of`.
    """
    check_setting("rate_of_old_layers", rate_of_old_layers)
    beside = [] if more is None else list(more.parameters())
    if rate_of_old_layers == 1:
        return [*network.parameters(), *beside]
    if started_from is None:
        raise InputError("rate_of_old_layers is for layers that have learned already: set checkpoint_path.")
    head = head_of(network)
    new, old = (
        [value for name, value in network.named_parameters() if (name in head) == is_head] for is_head in (True, False)
    )
    return [{"params": [*new, *beside]}, {"params": old, "lr": learning_rate * rate_of_old_layers}]


def freeze(network: nn.Module) -> None:
    """Keep everything but the head as it is, the statistics of batch norms included.

    Raises:
        InputError: see `head_of`.
    """
    head = head_of(network)
    for name, value in network.named_parameters():
        value.requires_grad_(name in head)
    network.register_forward_pre_hook(_use_fixed_statistics)


def _use_fixed_statistics(network: nn.Module, inputs: Any) -> None:
    """Put batch norms that do not learn into evaluation mode; a trainer puts the whole network into training mode."""
    for part in network.modules():
        if isinstance(part, _BatchNorm) and not any(value.requires_grad for value in part.parameters()):
            part.eval()


@torch.no_grad()
def _load_all_but_new_rows(
    network: nn.Module, path: str | Path, card: Card, species_set: SpeciesSet, taken_over: Sequence[str], device: Any
) -> None:
    head = head_of(network)
    same_outputs = {**card["network_def"], OUTPUTS: recipe_of(network)[OUTPUTS]}
    check_network({**card, "network_def": same_outputs}, network, path)
    own, given = network.state_dict(), read_tensors(path, device)
    old_rows = {name: row["label"] - 1 for name, row in card["species"].items()}
    new_rows = {species.name: species.label - 1 for species in species_set.picked}
    mixed: dict[str, Tensor] = {name: own[name].clone() for name in head}
    check_fit(network, {**given, **mixed}, path)
    for name, value in mixed.items():
        for species in taken_over:
            value[new_rows[species]] = given[name][old_rows[species]]
    network.load_state_dict({**given, **mixed})


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"
