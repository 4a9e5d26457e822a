"""Recipes: how a network was built, so that it can be built again from the card beside its weights.

A recipe has the form of a config: ``{"_target_": "package.module.Class", "argument": value, ...}``.
"""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import nn

from scripts.errors import InputError
from scripts.records import as_json, record_of

TARGET = "_target_"
FOREIGN_MODULE = "monai.networks.nets"
FOREIGN_NETWORKS = (  # segment volumes, and download nothing
    *("AttentionUnet", "BasicUNet", "BasicUNetPlusPlus", "DynUNet", "FlexibleUNet", "HighResNet", "SegResNet"),
    *("SegResNetDS", "SwinUNETR", "UNETR", "UNet", "VNet"),
)
OWN_NETWORKS = "scripts.networks."

ON_WINDOWS = ("output_stride", "stride", "depends_on_window")  # how windows have to be cut
ASKED_FOR = (*ON_WINDOWS, "values_per_voxel", "recipe")  # what others ask a network for

Network = TypeVar("Network", bound=type[nn.Module])


def recorded(without: Sequence[str] = (), **conversions: Callable[[Any], Any]) -> Callable[[Network], Network]:
    """Class decorator: each network stores the arguments it was built with in its attribute ``recipe``.

    Args:
        without: arguments that are not stored, because they matter only before the first training step.
        conversions: functions that convert single arguments before the network is built, for example the name of a
            preset to its numbers.

    Example:
        >>> @recorded()
        ... class Small(nn.Module):
        ...     def __init__(self, width: int = 4) -> None:
        ...         super().__init__()
        >>> Small(8).recipe["width"]
        8
    """

    def decorate(network_class: Network) -> Network:
        build = network_class.__init__
        signature = inspect.signature(build)
        first, *others = signature.parameters
        extra = next((name for name in others if signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD), "")

        @functools.wraps(build)
        def build_and_record(self: nn.Module, *args: Any, **kwargs: Any) -> None:
            bound = signature.bind(self, *args, **kwargs)
            bound.apply_defaults()
            for name, convert in conversions.items():
                bound.arguments[name] = convert(bound.arguments[name])
            build(*bound.args, **bound.kwargs)
            if type(self) is network_class:  # a subclass with arguments of its own has to be decorated itself
                settings = {**bound.arguments, **bound.arguments.get(extra, {})}
                kept = {key: item for key, item in settings.items() if key not in (first, extra, *without)}
                target = f"{network_class.__module__}.{network_class.__qualname__}"
                self.recipe = as_json({TARGET: target, **record_of(kept)})

        network_class.__init__ = build_and_record  # type: ignore[method-assign]
        return network_class

    return decorate


def foreign(name: str, **settings: Any) -> nn.Module:
    """Build one of MONAI's networks, with its recipe.

    Args:
        name: for example ``monai.networks.nets.UNet``.
        settings: arguments of the class.

    Raises:
        InputError: MONAI has no network of that name.
    """
    module, _, class_name = name.rpartition(".")
    if module != FOREIGN_MODULE or class_name not in FOREIGN_NETWORKS:
        raise InputError(f"'{name}' is not one of {FOREIGN_MODULE}: {', '.join(FOREIGN_NETWORKS)}.")
    for key, value in settings.items():
        if key.startswith("pretrained") and value:
            raise InputError(f"{name}: {key} would download weights: leave it out and set checkpoint_path.")
    network: nn.Module = _named(name)(**settings)
    network.recipe = as_json({TARGET: f"{__name__}.{foreign.__name__}", "name": name, **record_of(settings)})
    return network


def build_network(recipe: Mapping[str, Any], source: str) -> nn.Module:
    """Build the network of a recipe; only classes of this bundle and MONAI's networks are built.

    Args:
        recipe: as a network stores it.
        source: the file that the recipe is from, for messages.

    Raises:
        InputError: the recipe names something else, or the class does not take its arguments.
    """
    settings = dict(recipe)
    target = settings.pop(TARGET, None)
    builder: Any = _named(target) if isinstance(target, str) and target.startswith(OWN_NETWORKS) else None
    is_network = inspect.isclass(builder) and issubclass(builder, nn.Module)
    if not (is_network or builder is foreign):
        raise InputError(
            f"{source}: its network {target} is not part of this bundle: name it by --network_def, or give the config "
            "overlay that it was trained with."
        )
    try:
        network: nn.Module = builder(**settings)
    except (TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{source}: its network cannot be built: {error}") from error
    return network


def rebuild(network: nn.Module, **changes: Any) -> nn.Module:
    """Build a network like another one, with some of its arguments changed.

    Raises:
        InputError: the network has no recipe.
    """
    settings = {**recipe_of(network), **changes}
    builder: Any = _named(settings.pop(TARGET))
    built: nn.Module = builder(**settings)
    return built


def with_defaults(recipe: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Return a recipe with the defaults of the arguments that were added to its class since.

    Args:
        recipe: as a network stored it.
        source: the file that the recipe is from, for messages.

    Raises:
        InputError: see `build_network`.
    """
    with torch.device("meta"):  # nothing is computed
        return recipe_of(build_network(recipe, source))


def output_stride(network: nn.Module) -> int:
    """Return how many voxels a logit covers along each axis: the network's attribute of this name; 1 without one."""
    return int(getattr(network, "output_stride", 1))


def pass_on(network: nn.Module, wrapper: nn.Module, names: Sequence[str] = ASKED_FOR) -> None:
    """Give a wrapper the attributes of the wrapped network, as far as the network has them."""
    for name in names:
        if hasattr(network, name):
            setattr(wrapper, name, getattr(network, name))


def recipe_of(network: nn.Module) -> dict[str, Any]:
    """Return the recipe of a network.

    Raises:
        InputError: the network has none.
    """
    recipe = getattr(network, "recipe", None)
    if not isinstance(recipe, dict):
        name = type(network).__qualname__
        raise InputError(
            f"the network {name} does not say how it was built, so its weights could not be used without its config. "
            "Decorate its class with scripts.networks.recipe.recorded(), or name it to scripts.networks.recipe.foreign."
        )
    return recipe


def _named(dotted: str) -> Any:
    module, _, name = dotted.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name, None)
    except ImportError:
        return None
