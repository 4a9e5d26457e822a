"""The bundle as it is published: out of its zip, in a folder of its own, under its name, used from another folder.

Needs `make bundle` first; `make test-clients` does both.
"""

import sys
import zipfile
from pathlib import Path

import pytest
from documented import run_line
from make_bundle import NAME

ROOT = Path(__file__).resolve().parents[2]
MLFLOW = ROOT / ".mlflow"
ARCHIVE = ROOT / "dist" / f"{NAME}.zip"
CENTRES = {"apo-ferritin": [(6, 9, 11), (13, 20, 30)], "ribosome": [(10, 20, 9)], "thyroglobulin": [(9, 8, 27)]}
VOXEL_SIZE = 10.012

sys.path.append(str(MLFLOW))  # before MONAI is imported, which looks for MLflow then; last, so nothing else changes


@pytest.fixture(scope="session")
def published(tmp_path_factory):
    """Return the published folder; ``scripts`` are its own, and the working directory is another one."""
    if not ARCHIVE.exists():
        pytest.fail(f"{ARCHIVE} is not there; make bundle writes it.")
    folder = tmp_path_factory.mktemp("published")
    with zipfile.ZipFile(ARCHIVE) as archive:
        archive.extractall(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(folder / NAME), *(path for path in sys.path if path != str(ROOT / "bundle"))])
        for name in [name for name in sys.modules if name.split(".")[0] == "scripts"]:
            patch.delitem(sys.modules, name)
        patch.chdir(tmp_path_factory.mktemp("elsewhere"))
        yield folder / NAME


@pytest.fixture(scope="session")
def dataset_dir(published, tmp_path_factory):
    """Return a folder with two small tomograms, ``one`` and ``two``, and their truth."""
    from synthetic import SHAPE, noise, write_mrc  # after the published scripts took their place

    folder, rows = tmp_path_factory.mktemp("data"), ["experiment,particle_type,x,y,z"]
    for seed, run in enumerate(("one", "two")):
        write_mrc(folder / f"{run}.mrc", noise(seed, SHAPE), VOXEL_SIZE)
        for name, points in CENTRES.items():
            rows += [f"{run},{name},{x * VOXEL_SIZE},{y * VOXEL_SIZE},{z * VOXEL_SIZE}" for z, y, x in points]
    (folder / "truth.csv").write_text("\n".join(rows))
    return folder


@pytest.fixture
def run_command(monkeypatch):
    """Run a documented command line from a folder; small unless told otherwise."""

    def run(line, folder, shorten=True):
        monkeypatch.chdir(folder)
        run_line(line, shorten)

    return run
