"""Records of how objects were built, as canonical JSON: what a resumed training, a resumed batch or a cache must share.

A record is derived from the objects themselves, never listed by hand, so that no setting can be forgotten.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

CLASS = "class"
CHANGING = (
    "R",
    "_do_transform",
    "_tracing",
    "roi_weight_map",
    "training",
)  # attributes that change while an object is used
DEFAULT_READERS = "monai.data.image_reader"  # MONAI adds to ours those that the environment has
UNRECORDED = {  # settings of MONAI's and torch's classes that do not change what comes out
    "SlidingWindowInferer": ("progress", "device", "sw_device", "sw_batch_size", "buffer_steps", "cpu_thresh"),
    "WarmupCosineSchedule": ("t_total",),  # the length of a training may grow
    "Transform": ("lazy", "_lazy", "tracing", "allow_missing_keys"),
}


def record_of(value: Any) -> Any:
    """Return how a value was built, ready for JSON.

    Plain values stay as they are; mappings and sequences are taken item by item, arrays and tensors as lists. An object
    becomes its class and its settings: what its method ``record()`` returns; else its ``recipe``; else its attributes,
    without those that change while it is used and those that its class attribute ``unrecorded`` names.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): record_of(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [record_of(item) for item in value if type(item).__module__ != DEFAULT_READERS]
    if isinstance(value, set | frozenset):
        return sorted((record_of(item) for item in value), key=canonical)
    if inspect.isclass(value) or inspect.isroutine(value):
        return f"{value.__module__}.{value.__qualname__}"
    if hasattr(type(value), "tolist"):  # of NumPy or torch
        return value.tolist()
    if not (hasattr(value, "__dict__") or is_dataclass(value)):
        return str(value)  # torch's number formats and devices, for example
    return {CLASS: f"{type(value).__module__}.{type(value).__qualname__}", **settings_of(value)}


def settings_of(value: Any) -> dict[str, Any]:
    """Return the settings of an object, ready for JSON, see `record_of`."""
    kind = type(value)  # some classes, such as Ignite's metrics, answer to every attribute of an object
    if hasattr(kind, "record"):
        return dict(record_of(value.record()))
    if is_dataclass(value):
        return {field.name: record_of(getattr(value, field.name)) for field in fields(value)}
    own = vars(value)
    if "recipe" in own:
        return {key: item for key, item in own["recipe"].items() if key != "_target_"}
    if "param_groups" in own:  # an optimizer
        return dict(record_of(own["defaults"]))
    left_out = {*CHANGING, *getattr(kind, "unrecorded", ())}
    for base in kind.__mro__:
        left_out.update(UNRECORDED.get(base.__name__, ()))
    if "last_epoch" in own:  # a schedule of the learning rate: its arguments, not its state
        own = {name: own[name] for name in inspect.signature(kind).parameters if name in own}
        left_out |= {"optimizer", "last_epoch", "verbose"}
    elif hasattr(kind, "named_buffers"):  # a torch module: what it holds, not torch's bookkeeping
        own = {key: item for key, item in own.items() if not key.startswith("_")}
        own |= dict(value.named_buffers()) | dict(value.named_children())
    return {
        key: record_of(item)
        for key, item in own.items()
        if key not in left_out and not key.startswith("_rand") and item is not value
    }


def canonical(record: Any) -> str:
    """Return a record as JSON with one form only: the same record gives the same text."""
    return json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def as_json(record: Any) -> Any:
    """Return a record as it comes back from a JSON file."""
    return json.loads(json.dumps(record))


def first_difference(before: Any, now: Any) -> str | None:
    """Say in words where two records first differ; None where they do not.

    The setting is named by its own name and the class that it belongs to, or by its path in the record.
    """
    return _difference((), before, now)


def _difference(path: tuple[str, ...], before: Any, now: Any) -> str | None:
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        if before.get(CLASS) == now.get(CLASS) and CLASS in now:
            path = (str(now[CLASS]).rpartition(".")[2], *([f"'{now['name']}'"] if "name" in now else []))
        pairs = [((*path, str(key)), before.get(key), now.get(key)) for key in dict.fromkeys([*now, *before])]
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now) and _has_parts(now):
        pairs = [(path, one, other) for one, other in zip(before, now, strict=True)]
    else:
        same = before == now
        return None if same else f"{' '.join(path)} was {_shortly(before)}, now it is {_shortly(now)}"
    return next((found for found in (_difference(*pair) for pair in pairs) if found), None)


def _has_parts(items: list[Any]) -> bool:
    return any(isinstance(item, Mapping | list) for item in items)


def _shortly(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."
