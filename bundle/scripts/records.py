"""Records of how objects were built, as canonical JSON.

They are compared before a training run or a batch is resumed, and before cached data is reused. A record is derived
from the objects themselves, not from a list kept by hand, so that no setting can be forgotten.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

CLASS = "class"
# attributes that change while an object is used
CHANGING = ("R", "_do_transform", "_tracing", "roi_weight_map", "training")
DEFAULT_READERS = "monai.data.image_reader"  # LoadImage adds these to ours; which ones depends on the environment
UNRECORDED = {  # settings of MONAI's and torch's classes that do not change the result
    "SlidingWindowInferer": ("progress", "device", "sw_device", "sw_batch_size", "buffer_steps", "cpu_thresh"),
    "WarmupCosineSchedule": ("t_total",),  # a resumed training run may be longer
    "Transform": ("lazy", "_lazy", "tracing", "allow_missing_keys"),
}


def record_of(value: Any) -> Any:
    """Return a description of how a value was built, ready for JSON.

    Plain values stay as they are. Mappings and sequences are converted item by item, arrays and tensors to lists. An
    object becomes its class and its settings. Its settings are what its method ``record()`` returns, or else its
    ``recipe``, or else its attributes, except those that change while it is used and those that are listed in its class
    attribute ``unrecorded``.
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
    if hasattr(type(value), "tolist"):  # NumPy or torch
        return value.tolist()
    if not (hasattr(value, "__dict__") or is_dataclass(value)):
        return str(value)  # for example torch's data types and devices
    return {CLASS: f"{type(value).__module__}.{type(value).__qualname__}", **settings_of(value)}


def settings_of(value: Any) -> dict[str, Any]:
    """Return the settings of an object, ready for JSON, see `record_of`."""
    kind = type(value)  # the class is asked, as instances of some (Ignite's metrics) seem to have every attribute
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
    if "last_epoch" in own:  # a learning rate schedule: its arguments, not its state
        own = {name: own[name] for name in inspect.signature(kind).parameters if name in own}
        left_out |= {"optimizer", "last_epoch", "verbose"}
    elif hasattr(kind, "named_buffers"):  # a torch module: its content, not torch's bookkeeping
        own = {key: item for key, item in own.items() if not key.startswith("_")}
        own |= dict(value.named_buffers()) | dict(value.named_children())
    return {
        key: record_of(item)
        for key, item in own.items()
        if key not in left_out and not key.startswith("_rand") and item is not value
    }


def canonical(record: Any) -> str:
    """Return a record as canonical JSON: equal records give the same text."""
    return json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def as_json(record: Any) -> Any:
    """Return a record as it would be read back from a JSON file."""
    return json.loads(json.dumps(record))


def first_difference(before: Any, now: Any) -> str | None:
    """Return a description of the first difference between two records; None if they are equal.

    It names the setting and the class that the setting belongs to, or else its path in the record.
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
