"""Time and memory of a full-size tomogram, and the same picks from every kind of file.

    python benchmarks/full_size.py [FOLDER]

Tiles the sample to 184 x 630 x 630 voxels with a little noise, writes it as float32, float16, int8, big-endian,
axis-swapped MRC and as OME-Zarr, runs the shipped inference config on each in a process of its own, and compares the
picks with those of the float32 file: how many have a twin within half a voxel, and the largest distance between twins.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import zarr
from scipy.spatial import KDTree

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "bundle"))

from scripts.picks import Pick, read_csv  # noqa: E402

SHAPE = (184, 630, 630)
VOXEL_SIZE_ANGSTROM = 10.012
TWIN_VOX = 0.5


def full_size_volume() -> np.ndarray:
    """Return the sample, mirrored until it fills the shape, with noise that is lost in an int8 file."""
    with mrcfile.open(ROOT / "sample" / "sample.mrc") as file:
        sample = file.data.astype(np.float32)
    volume = np.pad(sample, [(0, full - size) for full, size in zip(SHAPE, sample.shape, strict=True)], mode="reflect")
    return volume + np.random.default_rng(0).normal(0, 0.3, SHAPE).astype(np.float32)


def write_mrc(path: Path, volume: np.ndarray) -> None:
    """Write an MRC file."""
    with mrcfile.new(path) as file:
        file.set_data(volume)
        file.voxel_size = VOXEL_SIZE_ANGSTROM


def write_swapped(path: Path, volume: np.ndarray) -> None:
    """Write an MRC file with columns along z, rows along y and sections along x."""
    with mrcfile.new(path) as file:
        file.set_data(np.ascontiguousarray(volume.transpose(2, 1, 0)))
        file.header.mapc, file.header.mapr, file.header.maps = 3, 2, 1
        file.header.mx, file.header.my, file.header.mz = volume.shape[::-1]
        cell = np.array(volume.shape[::-1]) * VOXEL_SIZE_ANGSTROM
        file.header.cella.x, file.header.cella.y, file.header.cella.z = cell


def write_zarr(path: Path, volume: np.ndarray) -> None:
    """Write an OME-Zarr folder of one level."""
    group = zarr.open_group(str(path), mode="w", zarr_format=2)
    array = group.create_array("0", shape=volume.shape, chunks=(128, 128, 128), dtype=volume.dtype)
    array[:] = volume
    scale = {"type": "scale", "scale": [VOXEL_SIZE_ANGSTROM] * 3}
    axes = [{"name": name, "type": "space", "unit": "angstrom"} for name in "zyx"]
    level: dict[str, Any] = {"path": "0", "coordinateTransformations": [scale]}
    group.attrs["multiscales"] = [{"version": "0.4", "axes": axes, "datasets": [level]}]


KINDS: dict[str, tuple[str, Callable[[Path, np.ndarray], None]]] = {
    "float32": ("mrc", write_mrc),
    "float16": ("mrc", lambda path, volume: write_mrc(path, volume.astype(np.float16))),
    "int8": ("mrc", lambda path, volume: write_mrc(path, np.clip(np.rint(volume), -128, 127).astype(np.int8))),
    "big-endian": ("mrc", lambda path, volume: write_mrc(path, volume.astype(">f4"))),
    "axis-swapped": ("mrc", write_swapped),
    "ome-zarr": ("zarr", write_zarr),
}


def pick(dataset: Path, output: Path) -> tuple[list[Pick], str]:
    """Run the shipped inference config; return the picks and the line of stage times."""
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", "configs/inference.json"]
    command += ["--resume", "False", "--overwrite", "True"]
    done = subprocess.run(
        [*command, "--dataset_dir", str(dataset), "--output_dir", str(output)],
        cwd=ROOT / "bundle", check=True, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    (times,) = (line for line in done.stdout.splitlines() if "peak memory" in line)
    return read_csv(output / "picks.csv"), times.split(": ", 1)[1]


def compare(picks: list[Pick], reference: list[Pick]) -> str:
    """Return how many picks have a twin in the reference, the largest distance of twins, and how many have none."""
    gaps: list[float] = []
    for name in {pick.species for pick in picks}:
        own, other = ([(p.z_voxel, p.y_voxel, p.x_voxel) for p in table if p.species == name]
                      for table in (picks, reference))  # fmt: skip
        gaps += KDTree(other).query(own)[0].tolist() if other else [np.inf] * len(own)
    twins = [gap for gap in gaps if gap <= TWIN_VOX]
    lonely = len(gaps) - len(twins)
    return (
        f"{len(picks)} picks, {len(twins)} with a twin at most {max(twins, default=0):.3f} voxel away, {lonely} without"
    )


def main(folder: Path) -> None:
    """Run every kind and print a line for each."""
    volume = full_size_volume()
    reference: list[Pick] | None = None
    for kind, (suffix, write) in KINDS.items():
        path = folder / f"{kind}.{suffix}"
        write(path, volume)
        picks, times = pick(path, folder / f"picks-{kind}")
        reference = picks if reference is None else reference
        print(f"{kind}: {compare(picks, reference)}; {times}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", metavar="FOLDER", nargs="?", type=Path, help="to write to (default: a temporary one)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        main((options.folder or Path(temporary)).resolve())
