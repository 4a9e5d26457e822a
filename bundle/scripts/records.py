"""Records of how objects were built, as canonical JSON.

They are compared before a training run or a batch is resumed, and before cached data is reused. A record is derived
from the objects themselves, not from a list kept by hand, so that no setting can be forgotten.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import logging
import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from scripts.errors import InputError

CLASS = "class"
UNRECORDED = {  # attributes of MONAI's and torch's classes that change while they are used, or do not change the result
    "SlidingWindowInferer": ("progress", "device", "sw_device", "sw_batch_size", "buffer_steps", "cpu_thresh"),
    "WarmupCosineSchedule": ("t_total", "warmup_steps"),  # a resumed training may be longer, and so its warm-up
    "Transform": ("lazy", "_lazy", "allow_missing_keys"),
    "TraceableTransform": ("_tracing", "tracing"),
    "Randomizable": ("R",),
    "RandomizableTransform": ("_do_transform",),
    "LRScheduler": ("optimizer", "last_epoch", "verbose"),
    "Module": ("training",),
}
RANDOM, LOADER = "Randomizable", "LoadImage"


def record_of(value: Any, inside: tuple[int, ...] = ()) -> Any:
    """Return a description of how a value was built, ready for JSON.

    Plain values stay as they are. Mappings and sequences are converted item by item, arrays and tensors to lists. A
    function becomes its name, with what else decides what it does: bound arguments, the object of a method, the code of
    a lambda. An object becomes its class and its settings. Its settings are what its method ``record()`` returns, or
    else its ``recipe``, or else its attributes, except those that change while it is used and those that are listed in
    its class attribute ``unrecorded``.

    Args:
        value: anything that a config builds.
        inside: identities of the objects that hold this one; an object within itself becomes its class alone.

    Raises:
        InputError: nothing but its address in memory tells one object of a class from another.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Path):
        return str(value)
    if id(value) in inside:
        return {CLASS: _name_of(type(value))}
    inside = (*inside, id(value))
    if isinstance(value, Mapping):
        return {str(key): record_of(item, inside) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [record_of(item, inside) for item in value]
    if isinstance(value, set | frozenset):
        return sorted((record_of(item, inside) for item in value), key=canonical)
    if inspect.isclass(value):
        return _name_of(value)
    if isinstance(value, functools.partial):
        content = {"function": value.func, "arguments": value.args, "keywords": value.keywords}
        return {CLASS: "functools.partial", **record_of(content, inside)}
    if inspect.isroutine(value):
        return _record_of_function(value, inside)
    if isinstance(value, logging.Logger):
        return value.name
    if hasattr(type(value), "tolist"):  # NumPy or torch
        return value.tolist()
    if not (hasattr(value, "__dict__") or is_dataclass(value)):
        return _text_of(value)
    return {CLASS: _name_of(type(value)), **settings_of(value, inside)}


def settings_of(value: Any, inside: tuple[int, ...] = ()) -> dict[str, Any]:
    """Return the settings of an object, ready for JSON, see `record_of`."""
    kind = type(value)  # the class is asked, as instances of some (Ignite's metrics) seem to have every attribute
    if hasattr(kind, "record"):
        return dict(record_of(value.record(), inside))
    own = {field.name: getattr(value, field.name) for field in fields(value)} if is_dataclass(value) else vars(value)
    if "recipe" in own:
        return {key: item for key, item in own["recipe"].items() if key != "_target_"}
    if "param_groups" in own:  # an optimizer
        groups = [{key: part[key] for key in part if key not in ("params", "lr")} for part in own["param_groups"]]
        return dict(record_of({**own["defaults"], "groups": groups}, inside))
    bases = {base.__name__: base for base in kind.__mro__}
    left_out = set(getattr(kind, "unrecorded", ())).union(*(UNRECORDED.get(name, ()) for name in bases))
    if "LRScheduler" in bases:  # its arguments and functions, not its state
        own = {key: item for key, item in own.items() if not key.startswith("_")}
    elif "Module" in bases and hasattr(kind, "named_buffers"):  # its content, not torch's bookkeeping
        own = {key: item for key, item in own.items() if key not in vars(bases["Module"]())}
        own |= dict(value.named_buffers()) | dict(value.named_children())
    elif kind.__name__ == LOADER:  # the reader that was asked for; the others depend on the environment
        own = {**own, "readers": own["readers"][-1:]}
    return {
        key: record_of(item, inside)
        for key, item in own.items()
        if key not in left_out and not (RANDOM in bases and key.startswith("_rand"))
    }


def _record_of_function(function: Any, inside: tuple[int, ...]) -> Any:
    name = _name_of(function)
    owner = getattr(function, "__self__", None)
    if owner is not None and not inspect.ismodule(owner):
        return {CLASS: name, "of": record_of(owner, inside)}
    if "<" not in name:
        return name
    cells = [record_of(cell.cell_contents, inside) for cell in function.__closure__ or ()]
    content = canonical([_content_of(function.__code__), cells, record_of(function.__defaults__, inside)])
    return {CLASS: name, "code": hashlib.sha256(content.encode()).hexdigest()[:16]}


def _content_of(code: Any) -> list[Any]:
    constants = [_content_of(one) if hasattr(one, "co_code") else repr(one) for one in code.co_consts]
    return [code.co_code.hex(), constants, list(code.co_names), list(code.co_varnames)]


def _name_of(value: Any) -> str:
    return f"{value.__module__}.{value.__qualname__}"


def _text_of(value: Any) -> str:
    text = str(value)  # for example torch's data types and devices
    if " at 0x" in text:
        name = _name_of(type(value))
        raise InputError(
            f"{name} does not say how it was built: give its class a method record() that returns a table."
        )
    return text


def canonical(record: Any) -> str:
    """Return a record as canonical JSON: equal records give the same text."""
    return json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def as_json(record: Any) -> Any:
    """Return a record as it would be read back from a JSON file."""
    return json.loads(json.dumps(record))


def finite_or_none(number: float) -> float | None:
    """Return a number as JSON can hold it: None for NaN and infinity."""
    return number if math.isfinite(number) else None


def first_difference(before: Any, now: Any) -> str | None:
    """Return a description of the first difference between two records; None if they are equal.

    It names the setting and the class that the setting belongs to, or else its path in the record.
    """
    return None if canonical(before) == canonical(now) else _difference((), before, now)


def _difference(path: tuple[str, ...], before: Any, now: Any) -> str | None:
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        if before.get(CLASS) == now.get(CLASS) and CLASS in now:
            path = (_class_of(now), *([f"'{now['name']}'"] if "name" in now else []))
        pairs = [((*path, str(key)), before.get(key), now.get(key)) for key in dict.fromkeys([*now, *before])]
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now) and _has_parts(now):
        pairs = [(path, one, other) for one, other in zip(before, now, strict=True)]
    else:
        same = canonical(before) == canonical(now)  # NaN equals itself
        return None if same else f"{' '.join(path)} was {_shortly(before)}, now it is {_shortly(now)}"
    return next((found for found in (_difference(*pair) for pair in pairs) if found), None)


def _class_of(record: Mapping[str, Any]) -> str:
    return str(record[CLASS]).rpartition(".")[2]


def _has_parts(items: list[Any]) -> bool:
    return any(isinstance(item, Mapping | list) for item in items)


def _shortly(value: Any) -> str:
    if isinstance(value, list) and value and all(isinstance(item, Mapping) and CLASS in item for item in value):
        return ", ".join(_class_of(item) for item in value)
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."
