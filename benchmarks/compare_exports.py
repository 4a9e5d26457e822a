"""Compare picks and speed of the programs that run a network: torch, OpenVINO, TorchScript, onnxruntime, torch.compile.

From the folder ``bundle``:

    OMP_NUM_THREADS=1 python ../benchmarks/compare_exports.py FOLDER ... --programs "torch bfloat16,openvino bfloat16"

Every program picks the tomograms of every folder (by default the sample) on the CPU, and its picks are compared with
those of torch in float32; all by the network alone, because an exported file has no second look beside it. "openvino
int8" is OpenVINO's program after post-training quantisation by NNCF (``pip install nncf``), which measures the range of
every layer in windows of the tomograms in ``--quantise_with``. One table is printed per folder:

- making, s: export, conversion and compilation, including by how much the first window takes longer than the best
- s per tomogram, processor and wall: the best time of a window but the first, for all windows of a tomogram
- probability: the largest difference of a voxel's probability, both rounded to float16
- with a twin, farthest: picks with one of torch's in float32 nearer than a voxel, and the largest of these distances
- lost or new: picks of either program without a twin in the other whose score is further than 0.02 from the threshold
- precision, F1, F4, wrong picks: against the truth, where the folder has one; the matching is one to one
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "bundle"))

from scripts.backends.choice import with_backend  # noqa: E402
from scripts.backends.openvino import OpenVinoNetwork, traced  # noqa: E402
from scripts.datasets.truth import list_labelled_runs  # noqa: E402
from scripts.errors import InputError, run_tool  # noqa: E402
from scripts.picks import Pick  # noqa: E402
from scripts.preparation.truth import read_truth  # noqa: E402
from scripts.scoring.metrics import score_picks  # noqa: E402
from scripts.species import SpeciesSet  # noqa: E402

CONFIGS = ROOT / "bundle" / "configs"
WEIGHTS = ROOT / "bundle" / "models" / "model.pt"
REFERENCE = "torch float32"
PROGRAMS = {  # backend, precision
    REFERENCE: ("torch", "float32"),
    "torch bfloat16": ("torch", "bfloat16"),
    "openvino float32": ("openvino", "float32"),
    "openvino bfloat16": ("openvino", "bfloat16"),
    "openvino int8": ("int8", "float32"),
    "torchscript": ("ts", "float32"),
    "onnxruntime": ("onnx", "float32"),
    "torch.compile": ("compile", "float32"),
}
TASKS = {"ts": "torchscript", "onnx": "onnx"}  # of export.json, by the ending of the file
NEEDS = {"openvino": "openvino", "int8": "nncf"}  # the package that a backend needs
EXPORT_WINDOW = (64, 128, 128)  # that the network is traced with
QUANTISED_WINDOWS = 8  # in which the ranges of the layers are measured
TWIN_VOX, MARGIN = 1.0, 0.02
HEADER = (
    "program | making, s | processor, s per tomogram | wall, s per tomogram | probability | picks | with a twin "
    "| farthest, voxels | lost or new | precision | F1 | F4 | wrong picks"
)


@dataclass
class Outcome:
    """What a program found in a folder.

    Attributes:
        making: seconds until the program was ready for its second window, without the time of a window.
        processor: processor time of a tomogram's windows in seconds, of all threads.
        wall: wall-clock time of a tomogram's windows in seconds.
        picks: of all tomograms.
        probabilities: ``(C, Z, Y, X)`` of each tomogram, float16.
    """

    making: float = 0.0
    processor: float = 0.0
    wall: float = 0.0
    picks: list[Pick] = field(default_factory=list)
    probabilities: list[Tensor] = field(default_factory=list)


class TimedNetwork(nn.Module):
    """A network that notes how long it takes for each window."""

    has_own_threads = True  # one window at a time, so that a window's time is its own

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.seconds: list[tuple[float, float]] = []  # processor and wall clock of each window

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("network"), name)

    def forward(self, windows: Tensor) -> Tensor:
        """Return the network's answer."""
        start = process_time(), perf_counter()
        answer: Tensor = self.network(windows)
        self.seconds.append((process_time() - start[0], perf_counter() - start[1]))
        return answer


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(description="Compare the programs that run a network, by picks and speed.")
    parser.add_argument("folders", nargs="*", type=Path, default=[ROOT / "sample"], help="tomograms, with truth or not")
    parser.add_argument("--programs", default=",".join(PROGRAMS), help="names of programs (default: %(default)s)")
    parser.add_argument("--quantise_with", type=Path, default=ROOT / "sample", help="tomograms (default: the sample)")
    parser.add_argument("--checkpoint_path", type=Path, default=WEIGHTS, help="the weights (default: the shipped ones)")
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    os.environ["TQDM_DISABLE"] = "1"
    programs = options.programs.split(",")
    return run_tool(lambda: compare_all(options.folders, programs, options.checkpoint_path, options.quantise_with))


def compare_all(folders: Sequence[Path], programs: Sequence[str], checkpoint_path: Path, quantise_with: Path) -> None:
    """Print a table for every folder.

    Raises:
        InputError: there is no such program, or a folder holds no tomogram.
    """
    for name in programs:
        if name not in PROGRAMS:
            raise InputError(f"--programs names some of {', '.join(PROGRAMS)}; got '{name}'.")
    names = [REFERENCE, *(name for name in programs if name != REFERENCE)]
    with tempfile.TemporaryDirectory() as place:
        files, exporting = exported(names, checkpoint_path, Path(place))
        for folder in folders:
            print(
                f"\n{folder}, {torch.get_num_threads()} threads\n\n| {HEADER} |\n{'|---' * HEADER.count('|')}|---|",
                flush=True,
            )
            compare_in(folder, names, files, exporting, quantise_with)


def exported(names: Sequence[str], checkpoint_path: Path, place: Path) -> tuple[dict[str, Path], dict[str, float]]:
    """Return the file of every program's network, and the seconds that its export took."""
    files, seconds = dict.fromkeys(names, checkpoint_path), dict.fromkeys(names, 0.0)
    for name in names:
        backend = PROGRAMS[name][0]
        if backend in TASKS:
            files[name], start = place / backend / f"model.{backend}", perf_counter()
            settings = {"export_path": str(files[name]), "inference_window_size": list(EXPORT_WINDOW)}
            parser = read_configs("export.json", checkpoint_path=str(checkpoint_path), **settings)
            parser.get_parsed_content(TASKS[backend])
            seconds[name] = perf_counter() - start
    return files, seconds


def compare_in(
    folder: Path, names: Sequence[str], files: Mapping[str, Path], exporting: Mapping[str, float], quantise_with: Path
) -> None:
    """Print a row for every program, compared with the first one."""
    reference: Outcome | None = None
    for name in names:
        package = NEEDS.get(PROGRAMS[name][0])
        if package and not all(map(importlib.util.find_spec, ("openvino", package))):
            print(f"| {name} | not installed |", flush=True)
            continue
        outcome, species_set = pick_all(folder, name, files[name], quantise_with)
        outcome.making += exporting[name]
        reference = reference or outcome
        print("| " + " | ".join(row_of(name, outcome, reference, species_set, *truth_in(folder, species_set))) + " |")
        sys.stdout.flush()
        if outcome is not reference:
            outcome.probabilities.clear()


def read_configs(*overlays: str, **settings: Any) -> ConfigParser:
    """Return the inference config with overlays and settings."""
    parser = ConfigParser()
    parser.read_config([str(CONFIGS / name) for name in ("inference.json", *overlays)])
    parser.update({"bundle_root": str(ROOT / "bundle"), "device": "$torch.device('cpu')", **settings})
    return parser


def quantised(network: nn.Module, folder: Path) -> OpenVinoNetwork:
    """Return a network run by OpenVINO in int8, whose layers have the ranges of the tomograms in a folder."""
    import nncf

    answering = OpenVinoNetwork(network)
    windows = list(windows_of(folder))
    dataset = nncf.Dataset(windows, lambda window: window.numpy())
    answering.model = nncf.quantize(traced(network.eval(), windows[0].shape[1:]), dataset, subset_size=len(windows))
    return answering


def windows_of(folder: Path) -> Iterator[Tensor]:
    """Yield windows ``(1, 1, Z, Y, X)`` at random places of the scaled tomograms in a folder."""
    generator = torch.Generator().manual_seed(0)
    images = [sample["image"] for sample in read_configs(dataset_dir=str(folder)).get_parsed_content("dataset")]
    for number in range(QUANTISED_WINDOWS):
        image = images[number % len(images)].as_tensor().float()
        for axis, size in enumerate(EXPORT_WINDOW, 1):
            first = int(torch.randint(max(image.shape[axis] - size, 0) + 1, (), generator=generator))
            image = image.narrow(axis, first, min(size, image.shape[axis]))
        yield image[None].contiguous()


def pick_all(folder: Path, name: str, path: Path, quantise_with: Path) -> tuple[Outcome, SpeciesSet]:
    """Return what a program finds in the tomograms of a folder, and the species."""
    backend, precision = PROGRAMS[name]
    overlays = [f"inference_{backend}.json"] if backend in TASKS else []
    settings = {"dataset_dir": str(folder), "checkpoint_path": str(path), "precision": precision, "second_look": False}
    parser = read_configs(*overlays, **settings, **{"inferer#progress": False})
    if backend not in TASKS:
        parser.get_parsed_content("pretrained")
    network, start = parser.get_parsed_content("network").eval(), perf_counter()
    dtype = getattr(torch, precision)
    if backend == "int8":
        answering: nn.Module = quantised(network, quantise_with)
    else:
        answering = network if backend in TASKS else with_backend(network, backend, dtype)
    timed = TimedNetwork(answering)
    outcome = Outcome(making=perf_counter() - start)
    inferer, postprocessing = (parser.get_parsed_content(key) for key in ("inferer", "postprocessing"))
    for sample in parser.get_parsed_content("dataset"):
        with torch.no_grad():
            logits = inferer(sample["image"][None], timed)[0]
        outcome.probabilities.append(logits.float().sigmoid().half())
        found = postprocessing({**sample, "pred": logits})["result"]["picks"]
        outcome.picks += [Pick(**record) for record in found]
    first, *others = timed.seconds
    processor, wall = zip(*(others or [first]), strict=True)
    windows = len(timed.seconds) / len(outcome.probabilities)  # of a tomogram
    outcome.processor, outcome.wall = windows * min(processor), windows * min(wall)
    outcome.making += first[1] - min(wall)
    return outcome, parser.get_parsed_content("species")


def truth_in(folder: Path, species_set: SpeciesSet) -> tuple[list[Pick], list[str]]:
    """Return the true particles of the runs in a folder, and these runs; none if it has no truth."""
    try:
        rows = list_labelled_runs(folder)
    except InputError:
        return [], []
    picked = set(species_set.names)
    truth = [pick for row in rows for pick in read_truth(row["label"], row["run"], species_set)]
    return [pick for pick in truth if pick.species in picked], [row["run"] for row in rows]


def row_of(
    name: str,
    outcome: Outcome,
    reference: Outcome,
    species_set: SpeciesSet,
    truth: Sequence[Pick],
    runs: Sequence[str],
) -> Iterator[str]:
    """Yield the cells of a program's row, see the module's docstring."""
    pairs = zip(outcome.probabilities, reference.probabilities, strict=True)
    yield name
    yield f"{max(outcome.making, 0):.1f}"
    yield f"{outcome.processor:.2f}"
    yield f"{outcome.wall:.2f}"
    yield f"{max(float((one.float() - other.float()).abs().max()) for one, other in pairs):.2g}"
    gaps = [distance_to_twin(pick, reference.picks) for pick in outcome.picks]
    near = [gap for gap in gaps if gap < TWIN_VOX]
    yield f"{len(gaps)}"
    yield f"{len(near)}"
    yield f"{max(near, default=0):.4f}"
    lonely = [*alone(outcome.picks, reference.picks), *alone(reference.picks, outcome.picks)]
    thresholds = {species.name: species.probability_threshold for species in species_set.known}
    yield f"{sum(abs(pick.score - thresholds[pick.species]) > MARGIN for pick in lonely)}"
    if not runs:
        yield from "----"
        return
    score = score_picks(truth, outcome.picks, species_set, "one_to_one", runs=runs)
    wrong = sum(row.counts.fp for row in score.rows)
    yield f"{1 - wrong / max(len(gaps), 1):.3f}"
    yield f"{score.mean_f1:.3f}"
    yield f"{score.total:.3f}"
    yield f"{wrong}"


def alone(picks: Sequence[Pick], others: Sequence[Pick]) -> list[Pick]:
    """Return the picks that have no twin among the others."""
    return [pick for pick in picks if distance_to_twin(pick, others) >= TWIN_VOX]


def distance_to_twin(pick: Pick, others: Sequence[Pick]) -> float:
    """Return the distance to the nearest of the other picks of the same run and species, in voxels."""
    same = [other for other in others if (other.run, other.species) == (pick.run, pick.species)]
    gaps = [float(np.linalg.norm(np.subtract(pick.zyx_voxel, other.zyx_voxel))) for other in same]
    return min(gaps, default=float("inf"))


if __name__ == "__main__":
    sys.exit(main())
