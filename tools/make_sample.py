"""Make the sample and its truth: ``python tools/make_sample.py MAPS``.

MAPS holds the density maps that ``bundle/configs/simulate_maps.json`` names. Settings that the configs draw at random
have the middle of their range here, except for `CHOSEN`; the positions of the particles are random.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from monai.bundle import ConfigParser
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[1]
FOLDER, BUNDLE = ROOT / "sample", ROOT / "bundle"
sys.path.insert(0, str(BUNDLE))

from scripts.errors import run_tool  # noqa: E402
from scripts.picks import Pick  # noqa: E402
from scripts.simulation.dataset import fill_scene, placed_truth, take_tomograms  # noqa: E402
from scripts.volumes.mrc_writer import write_mrc  # noqa: E402

RUN, KIND = "sample", "wbp"
SHAPE = [96, 288, 288]  # an int8 file of 8 MB
SEED = 4
CHOSEN = {
    "scene#crowding": 2.0,
    "scene#ice_thickness_angstrom": 900.0,
    "imaging#contrast": 0.85,
    "reconstructions": {KIND: {"noise_share": 1.0, "resolution_angstrom": 35.0}},
}
PERCENTILES = (0.1, 99.9)  # become -127 and 127


def main(maps_dir: str) -> None:
    """Write ``sample.mrc`` and ``truth.csv`` in the folder ``sample``."""
    parser = ConfigParser()
    parser.read_config([str(BUNDLE / "configs" / name) for name in ("simulate.json", "simulate_maps.json")])
    parser.update({"bundle_root": str(BUNDLE), "maps_dir": maps_dir, "shape": SHAPE, **CHOSEN})
    settings = middle_of(parser.get_parsed_content("settings"))
    random = np.random.default_rng(SEED)
    scene = fill_scene(settings, random)
    volume = take_tomograms(scene, settings, random)[KIND]
    truth = placed_truth(scene, RUN, parser.get_parsed_content("species"))
    write_mrc(FOLDER / f"{RUN}.mrc", as_int8(volume), settings["voxel_size_angstrom"])
    write_truth(FOLDER / "truth.csv", truth)
    print(dict(Counter(pick.species for pick in truth)))


def middle_of(settings: Any) -> Any:
    """Return settings with every range ``{"from": a, "to": b}`` replaced by its middle."""
    if not isinstance(settings, Mapping):
        return settings
    if set(settings) == {"from", "to"}:
        return (settings["from"] + settings["to"]) / 2
    return {name: middle_of(value) for name, value in settings.items()}


def as_int8(volume: NDArray[np.float32]) -> NDArray[np.int8]:
    """Return a volume ``(Z, Y, X)`` with the values between its `PERCENTILES` scaled to -127 to 127."""
    low, high = np.percentile(volume, PERCENTILES)
    return np.asarray(np.rint(np.clip((volume - low) / (high - low), 0, 1) * 254 - 127), dtype=np.int8)


def write_truth(path: Path, truth: list[Pick]) -> None:
    """Write true particles with the columns of the public challenge's tables, in Å."""
    lines = ["id,experiment,particle_type,x,y,z"]
    for number, pick in enumerate(sorted(truth, key=lambda one: one.species)):
        lines.append(",".join([str(number), pick.run, pick.species, *(f"{value:.3f}" for value in pick.xyz_angstrom)]))
    path.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("maps_dir", metavar="MAPS", help="density maps")
    options = parser.parse_args()
    sys.exit(run_tool(lambda: main(options.maps_dir)))
