"""Time the finders on one volume of heat maps: how much faster are peaks than blobs?

    OMP_NUM_THREADS=1 python benchmarks/finders.py

The heat maps are those of a full-size tomogram at the network's output stride of 2: 5 species, 92 x 315 x 315 voxels of
20 Å, 1000 particles at random places, Gaussians of 60 Å. All on one thread, in turns; medians of processor time.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "bundle"))

from scripts.picking.blobs import Blobs  # noqa: E402
from scripts.picking.candidates import Finder  # noqa: E402
from scripts.picking.peaks import Peaks  # noqa: E402
from scripts.species import SpeciesSet, read_species  # noqa: E402
from scripts.training.heat_maps import HeatMaps  # noqa: E402

SHAPE, STRIDE, PARTICLES = (92, 315, 315), 2, 1000
THRESHOLDS = (0.5, 0.2, 0.05)
ROUNDS = 5


def heat_maps(species_set: SpeciesSet, seed: int = 0) -> np.ndarray:
    """Return the heat maps ``(C, Z, Y, X)`` of particles at random places."""
    random = np.random.default_rng(seed)
    labels = random.choice([species.label for species in species_set.picked], PARTICLES)
    points = np.column_stack([labels, random.uniform(0, SHAPE, (PARTICLES, 3))])
    coarse = replace(species_set, voxel_size_angstrom=STRIDE * species_set.voxel_size_angstrom)
    return HeatMaps(sigma_angstrom=60.0)(SHAPE, points, coarse)


def seconds_and_picks(
    finder: Finder, target: np.ndarray, species_set: SpeciesSet, threshold: float
) -> tuple[float, int]:
    """Return the processor seconds of finding all species once, and the number of picks."""
    start, count = time.process_time(), 0
    for channel, species in zip(target, species_set.picked, strict=True):
        one = replace(species, probability_threshold=threshold, min_voxels=1)
        count += len(finder(channel, one, STRIDE * species_set.voxel_size_angstrom))
    return time.process_time() - start, count


def main() -> None:
    """Time both finders at every threshold and print a row for each."""
    torch.set_num_threads(1)
    species_set = read_species(ROOT / "bundle" / "configs" / "species.json")
    target, finders = heat_maps(species_set), (Blobs(), Peaks())
    print("| threshold | blobs, seconds | peaks, seconds | blobs take | picks of blobs | picks of peaks |")
    print("|---|---|---|---|---|---|")
    for threshold in THRESHOLDS:
        rounds = [
            [seconds_and_picks(finder, target, species_set, threshold) for finder in finders] for _ in range(ROUNDS)
        ]
        blobs, peaks = (statistics.median(row[place][0] for row in rounds) for place in range(len(finders)))
        counts = [found for _, found in rounds[0]]
        print(f"| {threshold} | {blobs:.2f} | {peaks:.3f} | {blobs / peaks:.1f} times | {counts[0]} | {counts[1]} |")


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    main()
