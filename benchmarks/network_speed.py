"""Seconds of the compact network on two training windows, by memory order and number format.

python benchmarks/network_speed.py
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from time import perf_counter

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bundle"))

from scripts.networks.convnext_unet import PRESETS, ConvNeXtUNet

WINDOWS = (2, 1, 64, 96, 96)
ORDERS = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last_3d}
REPEATS = 3


def seconds_of(network: torch.nn.Module, windows: torch.Tensor, bfloat16: bool, training: bool) -> float:
    """Return the best time of some repeats."""
    network.train(training)
    times = []
    for _ in range(REPEATS):
        start = perf_counter()
        with torch.set_grad_enabled(training), torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            answer = network(windows).float().mean()
        if training:
            answer.backward()
        times.append(perf_counter() - start)
    return min(times)


def main() -> None:
    """Print one line per memory order and number format."""
    windows = torch.rand(WINDOWS)
    for order, memory_format in ORDERS.items():
        for bfloat16 in (False, True):
            network = ConvNeXtUNet(widths=PRESETS["compact"])
            network.to(memory_format=memory_format)  # type: ignore[call-overload]  # torch's types leave it out
            forward, both = (seconds_of(network, windows, bfloat16, training) for training in (False, True))
            name = "bfloat16" if bfloat16 else "float32"
            print(f"{order}, {name}: forward {forward:.2f} s, forward and backward {both:.2f} s", flush=True)


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    main()
