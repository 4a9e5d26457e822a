"""Memory, bytes and time of the data of a training step, with few and with many training tomograms.

    python benchmarks/training_memory.py [FOLDER]

Writes one tomogram of noise, 96 x 256 x 256 voxels in float32 (25 MB), and links it under as many names as there are
tomograms. Each row is a process of its own that builds the shipped config's data loader, with prepared tomograms in
memory or in a folder, and draws 16 steps of two windows of 64 x 96 x 96 voxels twice: cold, with the folder's files
dropped from the page cache before each step, and warm.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import mrcfile
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
SHAPE = (96, 256, 256)
COUNTS = (4, 40)
STEPS = 16
SEPARATOR = "|"


def write_dataset(folder: Path, count: int) -> None:
    """Write the tomogram, its links and their truth."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    first = folder / "T00.mrc"
    with mrcfile.new(first) as file:
        file.set_data(generator.normal(size=SHAPE).astype(np.float32))
        file.voxel_size = 10.012
    rows = ["id,experiment,particle_type,x,y,z"]
    places = generator.uniform(100, 800, (30, 3))
    for number in range(count):
        if number:
            os.link(first, folder / f"T{number:02d}.mrc")
        rows += [f"0,T{number:02d},ribosome,{x:.1f},{y:.1f},{z:.1f}" for x, y, z in places]
    (folder / "truth.csv").write_text("\n".join(rows))


def memory_mib(entry: str) -> float:
    """Return ``VmRSS`` or ``VmHWM``, the present or the peak memory of this process, in MiB."""
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{entry}:")[1].split()[0]) / 1024


def bytes_from_storage() -> int:
    """Return the bytes that were read from disk for this process."""
    return int(Path("/proc/self/io").read_text().split("read_bytes:")[1].split()[0])


def drop_from_page_cache(files: list[Path]) -> None:
    """Make the next access to these files read from disk."""
    for path in files:
        with open(path, "rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def measure(dataset: Path, cache_dir: str | None) -> str:
    """Return the numbers of a row, separated by `SEPARATOR`."""
    sys.path.insert(0, str(ROOT / "bundle"))
    warnings.simplefilter("ignore")
    from monai.bundle import ConfigParser

    parser = ConfigParser()
    parser.read_config(ROOT / "bundle" / "configs" / "train.json")
    parser.update({"bundle_root": str(ROOT / "bundle"), "dataset_dir": str(dataset), "cache_dir": cache_dir})
    parser.update({"validation_runs": ["T00"], "windows_per_epoch": 2 * STEPS})
    before = memory_mib("VmRSS")
    loader = parser.get_parsed_content("train#dataloader")
    files = sorted(Path(cache_dir).glob("*/*.npy")) if cache_dir else []
    rows, seconds = [f"{before:.0f}"], {}
    for kind in ("cold", "warm"):
        spent, start, steps = [], bytes_from_storage(), iter(loader)
        for _ in range(STEPS):
            if kind == "cold":
                drop_from_page_cache(files)
            began, worked = time.perf_counter(), time.process_time()
            next(steps)
            spent.append((time.perf_counter() - began, time.process_time() - worked))
        seconds[kind] = 1000 * np.median(spent, axis=0)
        if kind == "cold":
            rows.append(f"{(bytes_from_storage() - start) / STEPS / 1e6:.1f}")
    rows = [rows[0], f"{memory_mib('VmHWM'):.0f}", f"{memory_mib('VmRSS'):.0f}", rows[1]]
    return SEPARATOR.join([*rows, f"{seconds['cold'][0]:.0f}", *(f"{value:.0f}" for value in seconds["warm"])])


def main(folder: Path) -> None:
    """Print a row for every number of tomograms, kept in memory and in a folder."""
    print("| kept in | tomograms | MiB before | peak | at the end | MB per step | ms cold | ms warm | of it at work |")
    for count in COUNTS:
        dataset = folder / f"{count}"
        write_dataset(dataset, count + 1)  # one is validated on
        for place in ("memory", "folder"):
            cache = str(folder / f"cache-{count}") if place == "folder" else ""
            command = [sys.executable, __file__, "--measure", str(dataset), cache]
            done = subprocess.run(command, cwd=ROOT / "bundle", check=True, stdout=subprocess.PIPE, text=True)
            numbers = done.stdout.strip().splitlines()[-1].split(SEPARATOR)
            print(f"| {place} | {count} | {' | '.join(numbers)} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", metavar="FOLDER", nargs="?", type=Path, help="to write to (default: a temporary one)")
    parser.add_argument("--measure", nargs=2, metavar=("DATASET", "CACHE"), help="one row alone; CACHE '' is memory")
    options = parser.parse_args()
    if options.measure:
        print(measure(Path(options.measure[0]), options.measure[1] or None))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            main((options.folder or Path(temporary)).resolve())
