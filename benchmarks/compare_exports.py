"""Export the shipped network as TorchScript and ONNX, and compare files, speed, logits and picks of the sample.

Prints the table of docs/reference/results.md:
``python ../benchmarks/compare_exports.py`` from ``bundle``.
"""

from __future__ import annotations

import os
import sys
import tempfile
import warnings
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "bundle" / "configs"
TASKS = {"ts": "torchscript", "onnx": "onnx"}  # of export.json, by the ending of the file
TRIES = 3


def main() -> None:
    """Export, run everything, print the table."""
    sys.path.insert(0, str(ROOT / "bundle"))
    warnings.simplefilter("ignore")
    os.environ["TQDM_DISABLE"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        seconds = {"network": 0.0}
        paths = {"network": ROOT / "bundle" / "models" / "model.pt"}
        for name, task in TASKS.items():
            paths[name], start = Path(folder) / name / f"model.{name}", perf_counter()
            read_configs("export.json", export_path=str(paths[name])).get_parsed_content(task)
            seconds[name] = perf_counter() - start
        answers = {name: run_sample(name, path) for name, path in paths.items()}
    print(
        "| file | MiB | export, s | s per window | largest logit difference | picks | with a twin | farthest, voxels |"
    )
    print("|---|---|---|---|---|---|---|---|")
    logits, picks = answers["network"]["logits"], answers["network"]["picks"]
    for name, found in answers.items():
        twins = [distance_to_twin(pick, picks) for pick in found["picks"]]
        near = [distance for distance in twins if distance < 1]
        difference = float((found["logits"] - logits).abs().max())
        print(
            f"| {paths[name].name} | {found['bytes'] / 2**20:.1f} | {seconds[name]:.0f} | {found['window']:.2f} "
            f"| {difference:.2g} | {len(twins)} | {len(near)} | {max(near):.4f} |"
        )


def read_configs(*overlays: str, **settings: Any) -> ConfigParser:
    """Return the inference config with overlays and settings."""
    parser = ConfigParser()
    parser.read_config([str(CONFIGS / name) for name in ("inference.json", *overlays)])
    parser.update({"bundle_root": str(ROOT / "bundle"), **settings})
    return parser


def run_sample(name: str, path: Path) -> dict[str, Any]:
    """Return the logits and picks of the sample, and the best time of a window, for one kind of network."""
    overlays = [] if name == "network" else [f"inference_{name}.json"]
    settings = {"device": "$torch.device('cpu')", "precision": "float32", "inferer#progress": False}
    parser = read_configs(*overlays, dataset_dir=str(ROOT / "sample"), checkpoint_path=str(path), **settings)
    if name == "network":
        parser.get_parsed_content("pretrained")
    network, size = parser.get_parsed_content("network").eval(), path.stat().st_size
    sample = parser.get_parsed_content("dataset")[0]
    window = torch.rand(1, 1, *parser.get_parsed_content("inference_window_size"))
    with torch.no_grad():
        times = [seconds_of(network, window) for _ in range(TRIES)]
        logits = parser.get_parsed_content("inferer")(sample["image"][None], network)[0]
    picked = parser.get_parsed_content("postprocessing")({**sample, "pred": logits.clone()})["result"]["picks"]
    return {"logits": logits, "picks": picked, "window": min(times), "bytes": size}


def seconds_of(network: torch.nn.Module, window: torch.Tensor) -> float:
    """Return how long one window takes."""
    start = perf_counter()
    network(window)
    return perf_counter() - start


def distance_to_twin(pick: dict[str, Any], others: list[dict[str, Any]]) -> float:
    """Return the distance to the nearest of the other picks of the same species, in voxels."""
    place = ("x_voxel", "y_voxel", "z_voxel")
    same = [other for other in others if other["species"] == pick["species"]]
    gaps = [float(np.hypot.reduce([pick[axis] - other[axis] for axis in place])) for other in same]
    return min(gaps, default=float("inf"))


if __name__ == "__main__":
    main()
