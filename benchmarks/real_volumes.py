"""What the shipped weights pick in real volumes, with and without the second look.

    python benchmarks/real_volumes.py REAL [FOLDER]

REAL holds ``ribosome_80S/*.mrc``, cubes with one ribosome at their centre among unlabelled neighbours;
``microtubule/*.mrc`` with none of the species; and ``lysosome_dark_12.3A.mrc``, where none is known. Prints a row for
each, and leaves all results in FOLDER if it is given.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import mrcfile
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "bundle"))

from scripts.picks import Pick, read_csv, xyz_angstrom_of  # noqa: E402
from scripts.species import HIT_FRACTION, read_species  # noqa: E402

SETTINGS = {"ribosome_80S": [], "microtubule": [], "lysosome_dark_12.3A.mrc": ["--invert", "True"]}
DIGITS = 2


def pick(dataset: Path, output: Path, settings: Sequence[str]) -> list[dict[str, str]]:
    """Run the shipped inference config and return the rows of ``summary.csv``."""
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", "configs/inference.json"]
    given = ["--dataset_dir", str(dataset), "--output_dir", str(output), "--resample", "True", *settings]
    subprocess.run([*command, *given], cwd=ROOT / "bundle", check=True, stdout=subprocess.DEVNULL)
    with open(output / "summary.csv", newline="") as file:
        return list(csv.DictReader(file))


def central_ribosome(path: Path, picks: Sequence[Pick], hit_angstrom: float) -> str:
    """Return the score of the ribosome picked at the centre of a cube; ``missed`` if there is none."""
    with mrcfile.open(path, header_only=True) as file:
        centre = np.array([int(file.header[f"n{axis}"]) // 2 * float(file.voxel_size[axis]) for axis in "xyz"])
    ribosomes = [found for found in picks if found.species == "ribosome"]
    away = np.linalg.norm(xyz_angstrom_of(ribosomes) - centre, axis=1) if ribosomes else np.array([])
    near = [found.score or 0.0 for found, gap in zip(ribosomes, away, strict=True) if gap <= hit_angstrom]
    return f"{max(near):.{DIGITS}f}" if near else "missed"


def main(real: Path, folder: Path) -> None:
    """Pick every volume twice and print a row for each."""
    species_set = read_species(ROOT / "bundle" / "configs" / "species.json")
    hit_angstrom = {one.name: HIT_FRACTION * one.radius_angstrom for one in species_set.picked}["ribosome"]
    print(f"| volume | picks of | {' | '.join(species_set.names)} | central ribosome | flagged |")
    print("|---" * (len(species_set.names) + 4) + "|")
    for name, settings in SETTINGS.items():
        for way, look in (("first network alone", "False"), ("second look", "True")):
            output = folder / f"{name}_{look}"
            rows = pick(real / name, output, [*settings, "--second_look", look])
            picks = read_csv(output / "picks.csv")
            for row in rows:
                own = [found for found in picks if found.run == row["run"]]
                is_cube = name == "ribosome_80S"
                centre = central_ribosome(real / name / f"{row['run']}.mrc", own, hit_angstrom) if is_cube else ""
                flagged = "yes" if row.get("not_calibrated") else ""
                counts = " | ".join(row[species] for species in species_set.names)
                print(f"| {row['run']} | {way} | {counts} | {centre} | {flagged} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("real", metavar="REAL", type=Path)
    parser.add_argument("folder", metavar="FOLDER", nargs="?", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        main(options.real.resolve(), (options.folder or Path(temporary)).resolve())
