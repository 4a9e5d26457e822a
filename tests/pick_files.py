"""Picks, tables of them and files of picks that the tests share."""

from pathlib import Path

from hypothesis import strategies as st
from scripts.picks import Facts, Pick
from scripts.species import read_species

ROOT = Path(__file__).resolve().parents[1]
SPECIES_SET = read_species(ROOT / "bundle" / "configs" / "species.json")
REAL_RUNS = ROOT.parent / "shared" / "data" / "picks" / "ExperimentRuns"
SHAPE = (20, 28, 36)  # z, y, x: the volume's centre is voxel z = 10, y = 14, x = 18
FACTS = Facts("TS_1", "ribosome", 10.0, SHAPE, binning=4)
PICK = Pick("TS_1", "ribosome", 205.0, 135.0, 145.0, 0.75, 150.0, 20.0, 13.0, 14.0)
EXAMPLE = Pick("TS_1", "ribosome", 112.5, 90.0, 60.0, 0.75, x_voxel=11.25, y_voxel=9.0, z_voxel=6.0)
TABLE = [
    Pick("A", "ribosome", 110.0, 90.0, 60.0, 0.75, x_voxel=11.0, y_voxel=9.0, z_voxel=6.0),
    Pick("A", "ribosome", 300.0, 200.0, 130.0, 0.25, x_voxel=30.0, y_voxel=20.0, z_voxel=13.0),
    Pick("B", "thyroglobulin", 50.0, 60.0, 70.0, 0.5, x_voxel=5.0, y_voxel=6.0, z_voxel=7.0),
]
RELION3 = "data_\nloop_\n_rlnMicrographName #1\n_rlnCoordinateX #2\n_rlnCoordinateY #3\n_rlnCoordinateZ #4\n"
NAMES = {
    "A": "apo-ferritin",
    "B": "beta-amylase",
    "G": "beta-galactosidase",
    "R": "ribosome",
    "T": "thyroglobulin",
    "V": "virus-like-particle",
}
BASE = ["A 0", "G 500", "R 1000", "T 1500", "V 2000"]

coordinates = st.floats(-20000, 20000)
places = st.tuples(coordinates, coordinates, coordinates)


def write_text(folder, text, name="picks.csv"):
    path = folder / name
    path.write_bytes(text.encode())
    return path


def table(rows):
    """Turn rows such as "A 30.5" or "A 30.5 E2" (species, x in ångströms, run) into picks with y = z = 0."""
    parts = [(*row.split(), "E1") for row in rows]
    return [Pick(run, NAMES[letter], float(x), 0.0, 0.0) for letter, x, run, *_ in parts]
