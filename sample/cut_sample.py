"""Cut the sample out of a larger tomogram with known truth: ``python sample/cut_sample.py TOMOGRAM.mrc TRUTH.csv RUN``.

The box keeps the whole depth; its place is the first, row by row, with the most particles of the rarest species.
"""

from __future__ import annotations

import csv
import sys
from collections import Counter
from itertools import product
from pathlib import Path

import mrcfile
import numpy as np

SIDE_VOX, STEP_VOX = 176, 8
FOLDER = Path(__file__).parent


def main(tomogram: str, truth: str, run: str) -> None:
    """Write ``sample.mrc`` and ``truth.csv`` beside this file."""
    with mrcfile.open(tomogram) as file:
        volume, voxel_size = file.data.copy(), float(file.voxel_size.x)
    with open(truth, newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["experiment"] == run]
    names = sorted({row["particle_type"] for row in rows})

    def inside(start: tuple[int, int]) -> list[dict[str, str]]:
        low = np.array(start) * voxel_size
        high = low + (SIDE_VOX - 1) * voxel_size
        return [
            r
            for r in rows
            if (low <= (float(r["y"]), float(r["x"]))).all() and (high >= (float(r["y"]), float(r["x"]))).all()
        ]

    starts = product(*(range(0, size - SIDE_VOX + 1, STEP_VOX) for size in volume.shape[1:]))

    def richness(start: tuple[int, int]) -> tuple[int, ...]:
        counts = Counter(row["particle_type"] for row in inside(start))
        return (*sorted(counts[name] for name in names), -start[0], -start[1])

    y, x = max(starts, key=richness)
    with mrcfile.new(FOLDER / "sample.mrc", overwrite=True) as file:
        file.set_data(np.ascontiguousarray(volume[:, y : y + SIDE_VOX, x : x + SIDE_VOX]))
        file.voxel_size = voxel_size
    with open(FOLDER / "truth.csv", "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow("id,experiment,particle_type,x,y,z".split(","))
        for number, row in enumerate(inside((y, x))):
            place = float(row["x"]) - x * voxel_size, float(row["y"]) - y * voxel_size, float(row["z"])
            writer.writerow([number, "sample", row["particle_type"], *(f"{value:.3f}" for value in place)])
    print(f"cut at y {y}, x {x}")


if __name__ == "__main__":
    main(*sys.argv[1:])
