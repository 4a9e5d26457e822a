"""What measurements are called, what they have in common, and the file that keeps them."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

STOCK, BEFORE, TORCH, OPENVINO, NOW = "stock", "before", "now_torch", "now_openvino", "now"
NAMES = {
    STOCK: "MONAI's parts",
    BEFORE: "before",
    TORCH: "now, torch",
    OPENVINO: "now, OpenVINO",
    NOW: "now, as shipped",
}
STAGES = ("start and end", "read and scale", "network", "pick", "write")
FLAGS = {"avx2": "AVX2", "avx512f": "AVX-512", "avx512_bf16": "AVX-512 bfloat16", "amx_bf16": "AMX bfloat16"}

Row = dict[str, Any]


class Refusal(Exception):
    """One line that says what to do instead."""


@dataclass(frozen=True)
class Run:
    """One process.

    Attributes:
        part: ``tomogram``, ``training``, ``machine`` or ``network``, what is counted instead of timed.
        contender: one of `NAMES`; of the machine, none.
        case: the volume's shape; or number format and memory order of a training.
        repeat: which repeat, from 0.
    """

    part: str
    contender: str
    case: str
    repeat: int


def identity(row: Mapping[str, Any]) -> Run:
    """Return which run a result is of."""
    return Run(*(row[key] for key in ("part", "contender", "case", "repeat")))


def case_of(shape: Sequence[int]) -> str:
    """Return the name of a shape, for example ``184x630x630``."""
    return "x".join(map(str, shape))


def sizes_of(case: str) -> tuple[int, ...]:
    """Return the shape of a name.

    Raises:
        Refusal: it names none.
    """
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*){2}", case):
        raise Refusal(f"a shape is three numbers of voxels, such as 184x630x630; got {case}.")
    return tuple(map(int, case.split("x")))


def flags_of_cpu() -> tuple[str, list[str]]:
    """Return the name of the CPU, and all of its flags."""
    text = ""
    with suppress(OSError):
        text = Path("/proc/cpuinfo").read_text()
    found = dict(re.findall(r"^(model name|flags)\s*: (.*)$", text, flags=re.MULTILINE))
    return found.get("model name", "unknown CPU"), found.get("flags", "").split()


def conditions_of(threads: int, shape: Sequence[int], volume: str | None) -> Row:
    """Return what results must have in common to share a table."""
    name, flags = flags_of_cpu()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    packages = [package for package in ("torch", "monai", "openvino") if importlib.util.find_spec(package)]
    return {
        "cpu": name,
        "flags": [shown for flag, shown in FLAGS.items() if flag in flags],
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory),
        "packages": {package: version(package) for package in packages},
        "threads": threads,
        "shape": list(shape),
        "volume": "the sample, mirrored" if volume is None else Path(volume).name,
    }


def read_results(path: Path) -> Row:
    """Return the results of a file; without one, there are none."""
    if not path.exists():
        return {"conditions": None, "rows": []}
    found: Row = json.loads(path.read_text())
    return found


def format_results(results: Mapping[str, Any]) -> str:
    """Return results as JSON with one row per line."""
    rows = ",\n".join(f"        {json.dumps(row)}" for row in sorted(results["rows"], key=order_of))
    conditions = json.dumps(results["conditions"], indent=4).replace("\n", "\n    ")
    return f'{{\n    "conditions": {conditions},\n    "rows": [\n{rows}\n    ]\n}}\n'


def order_of(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return by what results are sorted."""
    size = math.prod(sizes_of(row["case"])) if row["part"] == "tomogram" else 0
    return row["part"], size, row["case"], ["", *NAMES].index(row["contender"]), row["repeat"]


def write_text(path: Path, text: str) -> None:
    """Write a file that is never half-written."""
    from scripts.atomic_files import write_atomically

    with write_atomically(path) as file:
        file.write(text)
