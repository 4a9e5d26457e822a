"""Small volumes, particle sets, files, networks and samples that the tests share."""

import mrcfile
import numpy as np
import torch
from ignite.engine import Engine
from monai.data import MetaTensor
from scripts.coordinates import affine_of
from scripts.networks.convnext_unet import ConvNeXtUNet
from scripts.picks import Pick, as_records
from scripts.simulation.specimens import distances
from scripts.species import ParticleSet, Species

SHAPE = (20, 28, 36)  # z, y, x: three lengths, so that a swapped axis shows


def make_particles(count=2, voxel_size_angstrom=10.0, **values):
    """Return ``count`` species "a", "b", ... with labels from 1; ``values`` replace those of every species."""
    common = {
        "radius_angstrom": 40.0,
        "target_radius_angstrom": 30.0,
        "weight": 1.0,
        "positive_weight": 16.0,
        "probability_threshold": 0.5,
        "min_voxels": 1,
    }
    known = tuple(Species(name=chr(ord("a") + n), label=n + 1, **{**common, **values}) for n in range(count))
    return ParticleSet(voxel_size_angstrom, known)


def write_mrc(path, volume, voxel_size_angstrom=10.0, overwrite=False):
    """Write a volume ``[z, y, x]`` as float32 and return the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with mrcfile.new(path, overwrite=overwrite) as file:
        file.set_data(volume.astype("float32"))
        file.voxel_size = voxel_size_angstrom
    return path


def tiny_network(seed=0, **settings):
    """Return a network of two small stages with the same random weights every time."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return ConvNeXtUNet(**{"widths": (4, 8), "depths": (1, 1), "out_channels": 2, **settings})


def noise(seed=0, shape=SHAPE):
    """Return a volume ``[z, y, x]`` of Gaussian noise, float32."""
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def image_of(volume, voxel_size_angstrom=10.0, name="tomogram.mrc"):
    """Return a volume ``[z, y, x]`` as the readers give it: ``(1, Z, Y, X)`` with its affine and its file."""
    meta = {
        "affine": torch.as_tensor(affine_of(voxel_size_angstrom)),
        "original_affine": affine_of(voxel_size_angstrom),
        "spatial_shape": np.array(volume.shape),
        "filename_or_obj": name,
    }
    return MetaTensor(torch.as_tensor(np.asarray(volume, dtype=np.float32))[None], meta=meta)


def sample_of(truth, picks, run="run"):
    """Return a validated sample: true particles as rows (label, z, y, x), picks as (particle, z, y, x)."""
    records = as_records(Pick(run, name, 10.0 * x, 10.0 * y, 10.0 * z, 0.9, 40.0, x, y, z) for name, z, y, x in picks)
    return {
        "image": image_of(np.zeros(SHAPE), name=f"{run}.mrc"),
        "label": torch.tensor(truth, dtype=torch.float32).reshape(-1, 4),
        "result": {"run": run, "picks": records},
    }


def run_engine(samples, *handlers):
    """Run an engine whose output is one sample after another."""
    engine = Engine(lambda engine, batch: [batch])
    for handler in handlers:
        handler.attach(engine)
    engine.run(samples, max_epochs=1)


def gyration_radius_angstrom(specimen):
    """Return the root of the mean squared distance of a specimen's mass from its centre."""
    squared = (distances(specimen.density_kda.shape[0]) * specimen.voxel_size_angstrom) ** 2
    return np.sqrt(np.average(squared, weights=specimen.density_kda))
