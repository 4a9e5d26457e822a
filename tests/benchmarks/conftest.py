import numpy as np
import pytest
import torch
from scripts.volumes.labels import draw_spheres
from synthetic import SHAPE, noise, write_mrc

VOXEL_SIZE = 10.012


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Small volumes gain nothing from more threads, and lose much on busy cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def write_spheres(tmp_path):
    """Returns a function that writes tomograms of bright spheres and their truth, and returns their folder."""

    def write(runs, centres):
        rows = ["id,experiment,particle_type,x,y,z"]
        for seed, run in enumerate(runs):
            volume = noise(seed) + sum(6 * draw_spheres(SHAPE, points, radius_vox=3) for points in centres.values())
            write_mrc(tmp_path / "data" / run / "tomogram.mrc", volume, VOXEL_SIZE)
            for name, points in centres.items():
                rows += [f"0,{run},{name},{x},{y},{z}" for x, y, z in np.array(points)[:, ::-1] * VOXEL_SIZE]
        (tmp_path / "data" / "truth.csv").write_text("\n".join(rows))
        return tmp_path / "data"

    return write
