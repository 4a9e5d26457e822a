"""Steps that the tools share: run a command of the bundle, score weights, read tables."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

Rows = list[dict[str, str]]


def bundle_run(bundle: Path, configs: list[str], *settings: Any, task: str = "run") -> float:
    """Run a command of the bundle and return how many minutes it took."""
    files = "[" + ",".join(f"'{name}'" for name in configs) + "]"
    words = [sys.executable, "-m", "monai.bundle", "run", task, "--config_file", files]
    start = time.perf_counter()
    subprocess.run(
        [*words, *map(str, settings)], cwd=bundle, check=True, env={**os.environ, "THP_MEM_ALLOC_ENABLE": "1"}
    )
    return (time.perf_counter() - start) / 60


def evaluate(
    bundle: Path, output: Path, folders: list[Path], kind: str | None, runs: list[str] | None, weights: Path,
    *settings: Any,
) -> Rows:  # fmt: skip
    """Score weights or fit their thresholds, unless that is done already; return the rows of ``scores.csv``."""
    given: list[Any] = ["--dataset_dir", [str(folder) for folder in folders], "--checkpoint_path", weights]
    given += ["--validation_runs", runs] if runs else []
    given += ["--tomogram_kind", kind] if kind else []
    if "--record_thresholds" not in settings:  # only one threshold in the sweep: each takes a minute at full size
        given += ["--sweep_thresholds", [0.5]]
    configs = ["configs/train.json", "configs/evaluate.json"]
    if not (output / "report.html").exists():  # the last file that is written
        bundle_run(bundle, configs, *given, *settings, "--output_dir", output, task="evaluating")
    return read_rows(output / "scores.csv")


def read_rows(path: Path) -> Rows:
    """Return the rows of a table."""
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def three(value: Any) -> str:
    """Return a number with three decimals; nothing for nothing."""
    return f"{float(value):.3f}" if value != "" else ""
