"""What a process of its own does, started by ``measure.py``.

These functions import torch, MONAI and other large packages themselves, because a process starts with the peak memory
of the process that started it, and that one imports this module too.
"""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Any

from speed.results import STAGES, Row

ROOT = Path(__file__).resolve().parents[2]
BUNDLE = ROOT / "bundle"

STOCK_WINDOW, STOCK_OVERLAP = (64, 128, 128), 0.25
MEMORY_FORMATS = {"contiguous": "contiguous_format", "channels_last_3d": "channels_last_3d"}
BATCH = 2  # windows of a training step
STEPS = 5  # training steps that are timed, after one that is not
SIDE = 2048  # of the matrices
COPIED_MIB = 512


def write_volume(source: str | None, shape: Sequence[int], path: str) -> Row:
    """Write a tomogram ``(Z, Y, X)`` in float32, mirrored or cut to the shape."""
    import mrcfile
    import numpy as np

    if source is None:
        from full_size import VOXEL_SIZE_ANGSTROM, full_size_volume

        base, voxel_size = full_size_volume(), VOXEL_SIZE_ANGSTROM
    else:
        from scripts.volumes.reading import read_tomogram

        tomogram = read_tomogram(source)
        base, voxel_size = tomogram.data, tomogram.voxel_size_angstrom or 0.0
    layers, rows, columns = (mirrored(wanted, have) for wanted, have in zip(shape, base.shape, strict=True))
    with mrcfile.new_mmap(path, tuple(shape), mrc_mode=2) as file:
        file.voxel_size = voxel_size
        for place, layer in enumerate(layers):
            file.data[place] = base[layer][np.ix_(rows, columns)]
    with open(path, "rb") as written:
        os.fsync(written.fileno())  # nothing is left to be written while others are timed
    return {}


def mirrored(wanted: int, have: int) -> list[int]:
    """Return ``wanted`` indices that go to and fro between the first and the last of ``have`` voxels.

    Example:
        >>> mirrored(7, 3)
        [0, 1, 2, 1, 0, 1, 2]
    """
    period = max(2 * (have - 1), 1)
    return [min(place % period, period - place % period) for place in range(wanted)]


def stock_network(out_channels: int) -> Any:
    """Return MONAI's UNet with random weights, by which every voxel is improbable."""
    import torch
    from monai.networks.nets import UNet
    from networks.definitions import NETWORKS, comparable

    definition, stride = NETWORKS["unet"]
    settings = {key: value for key, value in (definition or {}).items() if key != "_target_"}
    torch.manual_seed(0)
    return comparable(UNet(**{**settings, "out_channels": out_channels}), stride)


def pick_with_stock(tomogram: str, output: str) -> Row:
    """Pick with MONAI's parts, cc3d and a CSV file; return the seconds of every stage and the number of picks."""
    import cc3d
    import torch
    from monai.inferers import SlidingWindowInferer
    from monai.transforms import Compose, LoadImaged, ScaleIntensityRangePercentilesd
    from scripts.inference.precision import autocast
    from scripts.species import read_species
    from scripts.volumes.monai_reader import TomogramReader

    species = read_species(BUNDLE / "configs" / "species.json")
    network = stock_network(len(species.picked)).eval()
    inferer = SlidingWindowInferer(STOCK_WINDOW, sw_batch_size=1, overlap=STOCK_OVERLAP, mode="gaussian")
    reader: Any = TomogramReader()  # MONAI's types know no readers of others
    preparation = Compose(
        [
            LoadImaged("image", reader=reader, ensure_channel_first=True),
            ScaleIntensityRangePercentilesd("image", lower=1, upper=99, b_min=0, b_max=1, clip=True),
        ]
    )
    clock = [perf_counter()]
    image = preparation({"image": tomogram})["image"]
    clock.append(perf_counter())
    with torch.inference_mode(), autocast("auto", torch.device("cpu")):
        logits: Any = inferer(image[None], network)
        probabilities = torch.sigmoid(logits)[0].numpy()
    clock.append(perf_counter())
    picks = []
    for probability, one in zip(probabilities, species.picked, strict=True):
        found = cc3d.statistics(cc3d.connected_components(probability > one.probability_threshold))
        sizes, centres = found["voxel_counts"][1:], found["centroids"][1:]  # entry 0 is the background
        picks += [(one.name, *centre[::-1]) for centre in centres[sizes >= one.min_voxels]]
    clock.append(perf_counter())
    with open(Path(output) / "picks.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("species", "x", "y", "z"))
        for name, *place in picks:
            writer.writerow((name, *(species.voxel_size_angstrom * value for value in place)))
    clock.append(perf_counter())
    stages = {stage: after - before for stage, before, after in zip(STAGES[1:], clock[:-1], clock[1:], strict=True)}
    return {**stages, "picks": len(picks)}


def training_config(version_dir: str, is_stock: bool, case: str) -> Any:
    """Return ``train.json`` of a bundle for the sample, on a CPU, in a number format and a memory order."""
    from monai.bundle import ConfigParser

    precision, order = case.split(", ")
    parser = ConfigParser()
    parser.read_config(str(Path(version_dir) / "configs" / "train.json"))
    if is_stock:
        parser.globals["stock_network"] = stock_network
        parser["network_def"] = "$stock_network(len(@species.picked))"
    parser.update(
        {
            "bundle_root": version_dir, "dataset_dir": str(ROOT / "sample"), "cache_dir": None, "validation_names": [],
            "device": "$torch.device('cpu')", "precision": precision,
            "memory_format": f"$torch.{MEMORY_FORMATS[order]}",
        }
    )  # fmt: skip
    return parser


def time_training(version_dir: str, is_stock: bool, case: str) -> Row:
    """Return the processor seconds of a training step, and of the preparation of its windows, on one thread."""
    import torch

    torch.set_num_threads(1)
    parser = training_config(version_dir, is_stock, case)
    names = ("network", "averaged", "loss", "optimizer", "train#inferer", "train#dataset", "gradient_norm")
    network, averaged, loss_of, optimizer, inferer, dataset, norm = map(parser.get_parsed_content, names)
    network.train()
    steps: list[float] = []
    windows: list[float] = []
    for step in range(STEPS + 1):
        begun = process_time()
        pair = [dataset[BATCH * step + number] for number in range(BATCH)]
        images, targets = (torch.stack([torch.as_tensor(one[key]) for one in pair]) for key in ("image", "label"))
        prepared = process_time()
        optimizer.zero_grad()
        loss_of(inferer(images, network), targets).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), norm)
        optimizer.step()
        with torch.no_grad():
            for average, value in zip(averaged.parameters(), network.parameters(), strict=True):
                average.lerp_(value, 0.005)
        windows.append(prepared - begun)
        steps.append(process_time() - prepared)
    return {"step": median(steps[1:]), "windows": median(windows[1:])}


def time_machine() -> Row:
    """Return how fast the machine multiplies matrices, in GFLOP/s, and copies memory, in GB/s read and written."""
    import torch

    found: Row = {}
    for name in ("float32", "bfloat16"):
        first, second = (torch.rand(SIDE, SIDE).to(getattr(torch, name)) for _ in range(2))
        product_of = torch.empty_like(first)

        def multiply(first: Any = first, second: Any = second, product_of: Any = product_of) -> None:
            torch.mm(first, second, out=product_of)

        found[name] = 2 * SIDE**3 / best_seconds(multiply) / 1e9
    source = torch.ones(COPIED_MIB * 2**18)
    target = torch.zeros_like(source)
    found["copy"] = 2 * COPIED_MIB * 2**20 / best_seconds(lambda: target.copy_(source)) / 1e9
    return found


def best_seconds(work: Callable[[], Any], least: int = 5, seconds: float = 2.0) -> float:
    """Return the best time of at least ``least`` repeats that take ``seconds`` together; one more comes first."""
    work()
    times: list[float] = []
    while len(times) < least or sum(times) < seconds:
        begun = perf_counter()
        work()
        times.append(perf_counter() - begun)
    return min(times)


def count_operations(version_dir: str, is_stock: bool) -> Row:
    """Return the operations per voxel of the network that picks: of all convolutions, and of matrix products alone.

    Multiplications and additions count separately. All convolutions are matrix products but the depthwise ones.
    """
    import torch
    from monai.bundle import ConfigParser
    from torch.utils._python_dispatch import TorchDispatchMode

    counts = {"convolutions": 0, "products": 0}

    class Count(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            answer = function(*args, **(kwargs or {}))
            if function is torch.ops.aten.convolution.default:
                volume, weight, *_, transposed, _, groups = args
                operations = 2 * (volume if transposed else answer).numel() * weight[0].numel()
                counts["convolutions"] += operations
                counts["products"] += operations if groups == 1 else 0
            return answer

    parser = ConfigParser()
    parser.read_config(str(Path(version_dir) / "configs" / "inference.json"))
    parser["bundle_root"] = version_dir
    network = stock_network(5) if is_stock else parser.get_parsed_content("network_def")
    with torch.no_grad(), Count():  # type: ignore[no-untyped-call]
        network.eval().to("meta")(torch.zeros(1, 1, *STOCK_WINDOW, device="meta"))
    return {name: count / math.prod(STOCK_WINDOW) for name, count in counts.items()}


WORK: dict[str, Callable[..., Row]] = {
    function.__name__: function
    for function in (write_volume, pick_with_stock, time_training, time_machine, count_operations)
}
