"""The same specimen at other voxel sizes: do the picks stay in place?

    python benchmarks/spacing.py [FOLDER]

Resamples the shipped tomogram (10.012 Å) to 5, 7.84 and 13.5 Å with voxel 0 in place, runs the shipped inference config
on each with ``resample``, and compares the picks, in ångströms, with those of the tomogram itself: which share of all
picks, and of the true ones, has a pick of the same species within half a voxel of the model.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import KDTree

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "bundle"))

from scripts.picks import Pick, read_csv, xyz_angstrom_of  # noqa: E402
from scripts.scoring.metrics import score_picks  # noqa: E402
from scripts.species import read_species  # noqa: E402

OWN_ANGSTROM = 10.012
SIZES_ANGSTROM = (5.0, 7.84, 13.5)
HALF_VOXEL_ANGSTROM = OWN_ANGSTROM / 2


def sample_at(volume: NDArray[Any], step_vox: float) -> NDArray[Any]:
    """Sample a volume every ``step_vox`` voxels, from voxel 0 on, by cubic splines; blurred where it gets coarser."""
    if step_vox > 1:
        volume = ndimage.gaussian_filter(volume, (step_vox - 1) / 2)
    shape = tuple(int((size - 1) / step_vox) + 1 for size in volume.shape)
    sampled = ndimage.affine_transform(volume, np.full(3, step_vox), output_shape=shape, order=3, mode="nearest")
    return np.asarray(sampled)


def pick(dataset: Path, output: Path) -> list[Pick]:
    """Run the shipped inference config and return the picks."""
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", "configs/inference.json"]
    settings = ["--dataset_dir", str(dataset), "--output_dir", str(output), "--resample", "True"]
    subprocess.run([*command, *settings], cwd=ROOT / "bundle", check=True, stdout=subprocess.DEVNULL)
    return [Pick(**{**vars(found), "run": "sample"}) for found in read_csv(output / "picks.csv")]


def gaps_angstrom(picks: list[Pick], others: list[Pick]) -> np.ndarray:
    """Return how far from each pick the nearest one of its species is."""
    gaps = np.full(len(picks), np.inf)
    for name in {found.species for found in picks}:
        mine = [number for number, found in enumerate(picks) if found.species == name]
        places = xyz_angstrom_of([found for found in others if found.species == name])
        if len(places):
            gaps[mine] = KDTree(places).query(xyz_angstrom_of([picks[number] for number in mine]))[0]
    return gaps


def main(folder: Path) -> None:
    """Pick the sample at every voxel size and print a row for each."""
    species_set = read_species(ROOT / "bundle" / "configs" / "species.json")
    radius = {species.name: species.radius_angstrom for species in species_set.picked}
    truth = read_csv(ROOT / "sample" / "truth.csv")
    with mrcfile.open(ROOT / "sample" / "sample.mrc") as file:
        volume = file.data.astype(np.float32)
    reference = pick(ROOT / "sample", folder / "own")
    is_true = gaps_angstrom(reference, truth) <= [radius[found.species] / 2 for found in reference]
    print("| voxel size, Å | picks | of the picks | of the true picks | of the new picks | median, voxels | F4 |")
    for size in SIZES_ANGSTROM:
        path = folder / f"{size:g}.mrc"
        with mrcfile.new(path, overwrite=True) as file:
            file.set_data(sample_at(volume, size / OWN_ANGSTROM))
            file.voxel_size = size
        picks = pick(path, folder / f"{size:g}")
        there, back = gaps_angstrom(reference, picks), gaps_angstrom(picks, reference)
        near = there <= HALF_VOXEL_ANGSTROM
        shares = near.mean(), near[is_true].mean(), (back <= HALF_VOXEL_ANGSTROM).mean()
        middle = np.median(there[is_true]) / OWN_ANGSTROM
        score = score_picks(truth, picks, species_set, "kaggle").total
        print(f"| {size:g} | {len(picks)} | {' | '.join(f'{s:.3f}' for s in shares)} | {middle:.3f} | {score:.3f} |")
    score = score_picks(truth, reference, species_set, "kaggle").total
    print(f"| {OWN_ANGSTROM:g} | {len(reference)}, {is_true.sum()} of them true | 1 | 1 | 1 | 0 | {score:.3f} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", metavar="FOLDER", nargs="?", type=Path, help="to write to (default: a temporary one)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        main((options.folder or Path(temporary)).resolve())
