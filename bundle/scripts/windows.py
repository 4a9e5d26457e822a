"""Training windows: the truth of a tomogram, a box cut out of it, and the target painted into the box."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, RandomizableTransform
from numpy.typing import NDArray
from torch import Tensor

from scripts.cache import StoredVolume
from scripts.coordinates import to_zyx_vox, voxel_size_of
from scripts.datasets import run_name
from scripts.errors import InputError
from scripts.particles import ParticleSet
from scripts.picks import (
    Pick,
    check_inside,
    check_truth,
    read_copick_folder,
    read_csv,
    read_relion5_star,
    xyz_angstrom_of,
)
from scripts.readers import is_tomogram, read_tomogram
from scripts.targets import paint_targets, points_of_labels, split_labels
from scripts.transforms import original_affine_of, source_of


def read_truth(path: str | Path, run: str, particles: ParticleSet) -> list[Pick]:
    """Read the true particles of one run from a Kaggle CSV, or from copick files.

    Args:
        path: the table, a folder of copick files, or some of them: the folder and a pattern of their names.
        run: name of the run.
        particles: the species.

    Raises:
        InputError: a file cannot be read or names an unknown species.
    """
    folder, pattern = (Path(path), "*.json") if Path(path).is_dir() else (Path(path).parent, Path(path).name)
    picks = read_copick_folder(folder, run, pattern) if pattern.endswith(".json") else read_csv(path)
    truth = [pick for pick in picks if pick.run == run]
    check_truth(truth, particles, str(path))
    return truth


class LoadTruthd(MapTransform):
    """Load the true particles of a tomogram: points from a table, or the blobs of a ready label volume.

    Args:
        keys: path of a Kaggle CSV, of a folder of copick JSON, or of a label volume; becomes ``(N, 4)`` rows of label
            and voxel index ``(label, z, y, x)``. Species with label 0 are left out.
        particles: the species.
        image_key: the tomogram ``(1, Z, Y, X)``, for its shape, voxel size and run.
        volume_key: where a label volume ``(1, Z, Y, X)`` is put as well.
        voxel_offset: see `coordinates`.

    Raises:
        InputError: the truth cannot be read, names an unknown species or label, or has another shape than the volume.
    """

    def __init__(
        self,
        keys: KeysCollection,
        particles: ParticleSet,
        image_key: str = "image",
        volume_key: str = "label_volume",
        voxel_offset: float = 0.0,
    ) -> None:
        super().__init__(keys)
        self.particles, self.voxel_offset = particles, voxel_offset
        self.image_key, self.volume_key = image_key, volume_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the sample with its truth loaded."""
        sample = dict(data)
        for key in self.key_iterator(sample):
            path, image = sample[key], sample[self.image_key]
            if is_tomogram(path):
                labels = self.read_labels(path, image)
                sample[self.volume_key] = torch.from_numpy(labels[None])
                points = points_of_labels(labels, self.particles, str(path))
            else:
                points = self.read_points(path, sample.get("run") or run_name(source_of(image)), image)
            sample[key] = torch.as_tensor(np.asarray(points, dtype=np.float32).reshape(-1, 4))
        return sample

    def read_labels(self, path: str, image: MetaTensor) -> NDArray[np.uint8]:
        """Return the label volume ``(Z, Y, X)`` of an image, whole numbers."""
        values = np.asarray(read_tomogram(path, voxel_size_of(original_affine_of(image))).data)
        shape, own = tuple(image.shape[1:]), torch.as_tensor(original_affine_of(image))
        if values.shape != shape:
            hint = "" if torch.allclose(image.affine.to(own), own) else ", resampled: give --resample False"
            raise InputError(f"{path}: the label volume has shape {values.shape}, its tomogram {shape}{hint}.")
        labels = np.rint(values)
        if (labels != values).any() or labels.min() < 0 or labels.max() > np.iinfo(np.uint8).max:
            raise InputError(f"{path} is no label volume: it holds other values than whole numbers from 0 to 255.")
        return labels.astype(np.uint8)

    def read_points(self, path: str, run: str, image: MetaTensor) -> NDArray[np.float64]:
        """Return the true particles ``(N, 4)`` of a run in the image's voxels."""
        is_star = Path(path).suffix == ".star"
        truth = self.read_star(path, run, image) if is_star else read_truth(path, run, self.particles)
        labels = [self.particles.named(pick.particle, path).label for pick in truth]
        own = voxel_size_of(original_affine_of(image))
        points = to_zyx_vox(xyz_angstrom_of(truth), own, self.voxel_offset) * (own / voxel_size_of(image.affine))
        check_inside(points, image.shape[1:], f"{path}, run '{run}'")
        rows = np.column_stack([np.asarray(labels, dtype=np.float64).reshape(-1, 1), points])
        return rows[rows[:, 0] > 0]

    def read_star(self, path: str, run: str, image: MetaTensor) -> list[Pick]:
        """Return the true particles of a run from a RELION 5 file, which does not tell species apart."""
        known = [species.name for species in self.particles]
        if len(known) != 1:
            names = ", ".join(known)
            raise InputError(f"{path} does not tell species apart, and there are {len(known)}: {names}. Use truth.csv.")
        picks = read_relion5_star(
            path,
            particle=known[0],
            volume_shape_zyx=[int(size) for size in image.meta.get("spatial_shape", image.shape[1:])],
            voxel_size_angstrom=voxel_size_of(original_affine_of(image)),
            voxel_offset=self.voxel_offset,
        )
        truth = [pick for pick in picks if pick.run == run]
        if picks and not truth:
            there = ", ".join(sorted({pick.run for pick in picks}))
            raise InputError(f"{path} has no particle of '{run}'; its tomograms are called {there}.")
        check_truth(truth, self.particles, path)
        return truth


class RandWindowd(RandomizableTransform):
    """Cut a random window: around a particle with a random offset, or anywhere.

    The particle's species is drawn by the species' weights, among those that the tomogram has.

    Args:
        particles: the species, for their weights.
        window_size: ``(z, y, x)`` in voxels, y equal to x; a smaller tomogram is padded with zeros at the far end.
        particle_share: share of the windows drawn around a particle.
        image_key: the tomogram ``(1, Z, Y, X)``.
        label_key: the true particles ``(N, 4)``; moved into the window's frame.
        volume_key: a label volume ``(1, Z, Y, X)``, where there is one; cut like the tomogram.
    """

    def __init__(
        self,
        particles: ParticleSet,
        window_size: Sequence[int],
        particle_share: float = 0.5,
        image_key: str = "image",
        label_key: str = "label",
        volume_key: str = "label_volume",
    ) -> None:
        super().__init__()
        if len(window_size) != 3 or min(window_size) < 1:
            raise ValueError(f"window_size needs three positive numbers of voxels (z, y, x); got {window_size}.")
        if window_size[1] != window_size[2]:
            raise ValueError(f"window_size needs y equal to x, because windows are turned in xy; got {window_size}.")
        if not 0 <= particle_share <= 1:
            raise ValueError(f"particle_share is a share, 0 to 1; got {particle_share}.")
        self.weights = {species.label: species.weight for species in particles}
        self.size, self.particle_share = np.asarray(window_size), particle_share
        self.image_key, self.label_key, self.volume_key = image_key, label_key, volume_key

    def start_of_window(self, shape: Sequence[int], points: NDArray[np.float32]) -> NDArray[np.int64]:
        """Draw the first voxel ``(z, y, x)`` of a window in a tomogram of that shape."""
        last = np.maximum(np.asarray(shape) - self.size, 0)
        if len(points) == 0 or self.R.uniform() >= self.particle_share:
            return np.array([self.R.randint(end + 1) for end in last])
        present = [label for label in self.weights if (points[:, 0] == label).any()]
        weights = np.array([self.weights[label] for label in present])
        share = weights / weights.sum() if weights.sum() > 0 else np.full(len(present), 1 / len(present))
        same = points[points[:, 0] == self.R.choice(present, p=share), 1:]
        centre = same[self.R.randint(len(same))]
        return np.clip(np.floor(centre - self.R.uniform(0, self.size)).astype(int) + 1, 0, last)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the sample cut to one window."""
        sample = dict(data)
        points = np.asarray(sample[self.label_key])
        start = self.start_of_window(sample[self.image_key].shape[1:], points)
        for key in (self.image_key, self.volume_key):
            if key in sample:
                sample[key] = self.cut(sample[key], start)
        moved = points.copy()
        moved[:, 1:] -= start
        sample[self.label_key] = torch.from_numpy(moved)
        return sample

    def cut(self, volume: Tensor | StoredVolume, start: NDArray[np.int64]) -> Tensor:
        """Return the window ``(C, z, y, x)`` that starts at a voxel ``(z, y, x)``."""
        box = tuple(slice(int(first), int(first + size)) for first, size in zip(start, self.size, strict=True))
        window = (volume.as_tensor() if isinstance(volume, MetaTensor) else volume)[(slice(None), *box)]
        short = [int(size - have) for size, have in zip(self.size, window.shape[1:], strict=True)]
        return torch.nn.functional.pad(window, [0, short[2], 0, short[1], 0, short[0]]).clone()


class PaintTargetsd(MapTransform):
    """Paint the true particles of a window as spheres: the target that the loss compares with.

    Args:
        keys: the true particles ``(N, 4)``, rows of label and voxel index; become the target ``(C, Z, Y, X)``.
        particles: the species: channels, target radii and voxel size.
        image_key: the window ``(1, Z, Y, X)``, for its shape.
        volume_key: a ready label volume ``(1, Z, Y, X)``; where there is one it is the target.
    """

    def __init__(
        self, keys: KeysCollection, particles: ParticleSet, image_key: str = "image", volume_key: str = "label_volume"
    ) -> None:
        super().__init__(keys)
        self.particles, self.image_key, self.volume_key = particles, image_key, volume_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the sample with the target in place of the points."""
        sample = dict(data)
        shape = tuple(sample[self.image_key].shape[1:])
        labels = sample.pop(self.volume_key, None)
        for key in self.key_iterator(sample):
            if labels is None:
                target = paint_targets(shape, sample[key], self.particles, self.particles.voxel_size_angstrom)
            else:
                target = split_labels(np.asarray(labels[0]), self.particles)
            sample[key] = torch.from_numpy(target.astype(np.float32))
        return sample
