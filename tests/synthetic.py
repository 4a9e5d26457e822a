"""Small volumes, sets of species, files, networks and samples that the tests share."""

import os
from dataclasses import asdict
from pathlib import Path

import mrcfile
import numpy as np
import torch
from ignite.engine import Engine
from monai.data import MetaTensor
from scripts.coordinates import affine_of
from scripts.networks.convnext_unet import ConvNeXtUNet
from scripts.networks.crop_classifier import CropClassifier
from scripts.networks.model_card import FIRST_SHA256, make_card, sha256_of
from scripts.networks.weights import as_bytes, save_model
from scripts.picking.calibration import Calibration
from scripts.picking.second_look import CALIBRATION, CROP
from scripts.picks import Pick, as_records
from scripts.preparation.crops import CropShape
from scripts.simulation.specimens import distances
from scripts.species import Species, SpeciesSet
from scripts.training.spheres import Spheres
from scripts.volumes.labels import draw_spheres

SHAPE = (20, 28, 36)  # z, y, x: three lengths, so that a swapped axis shows
POINTS = np.array([[6, 9, 11], [13, 20, 30]])
BOX = (slice(4, 11), slice(10, 20), slice(6, 30))


def make_species(count=2, voxel_size_angstrom=10.0, **values):
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
    return SpeciesSet(voxel_size_angstrom, known)


def write_mrc(path, volume, voxel_size_angstrom=10.0, overwrite=False):
    """Write a volume ``[z, y, x]`` as float32 and return the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with mrcfile.new(path, overwrite=overwrite) as file:
        file.set_data(volume.astype("float32"))
        file.voxel_size = voxel_size_angstrom
    return path


def replace_silently(path, other):
    """Give a file the content of another one of the same size, and keep its time, as ``rsync -t`` may do."""
    path, other = Path(path), Path(other)
    before = path.stat()
    path.write_bytes(other.read_bytes())
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size


class BrightBlobs(torch.nn.Module):
    """A network that answers every species with the smoothed volume."""

    def forward(self, x):
        smooth = torch.nn.functional.avg_pool3d(x, 3, stride=1, padding=1)
        return (12 * smooth - 6).expand(-1, 5, -1, -1, -1)


def tiny_network(seed=0, **settings):
    """Return a network of two small stages with the same random weights every time."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return ConvNeXtUNet(**{"widths": (4, 8), "depths": (1, 1), "out_channels": 2, **settings})


def write_weights(path, network=None, species_set=None, painter=None, **facts):
    """Write a network's weights with their card, and return the path."""
    network = tiny_network() if network is None else network
    species_set = species_set or make_species(network.recipe["out_channels"])
    card = make_card(network.recipe, species_set, painter or Spheres(), **facts)
    save_model(path, as_bytes(network.state_dict()), card)
    return path


def tiny_classifier(seed=0, classes=3):
    """Return a classifier of small crops with the same random weights every time."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return CropClassifier(classes, crop_size=8, widths=(4, 4), depths=(1, 1))


def write_second_look(path, weights, species_set, classifier=None, **facts):
    """Write a second look for a first network's weights, with its card, and return the path."""
    names = species_set.names
    classifier = tiny_classifier(classes=len(names) + 1) if classifier is None else classifier
    facts = {
        FIRST_SHA256: sha256_of(weights),
        CROP: asdict(CropShape(8, 40.0, species_set.voxel_size_angstrom)),
        CALIBRATION: Calibration(np.tile([1.0, 1, 0, 0, 0, 0, 0, -1], (len(names), 1)), ("run",)).as_table(names),
        **facts,
    }
    save_model(path, as_bytes(classifier.state_dict()), make_card(classifier.recipe, species_set, Spheres(), **facts))
    return path


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


def box_mask(box=BOX, shape=SHAPE):
    """Return a mask, 1 in a box and 0 elsewhere."""
    mask = np.zeros(shape, dtype=np.float32)
    mask[box] = 1
    return mask


def logits_of(species_set, points=POINTS, shape=SHAPE):
    """Return logits ``[C, z, y, x]`` with each species' sphere at one of the points."""
    masks = [draw_spheres(shape, points[row : row + 1], 3) for row in range(len(species_set.picked))]
    return torch.as_tensor(np.stack(masks).astype(np.float32) * 12 - 6)


def sample_of(truth, picks, run="run"):
    """Return a validated sample: true particles as rows (label, z, y, x), picks as (species, z, y, x)."""
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
