"""Training windows: a box cut out of a tomogram, and the target painted into it."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, RandomizableTransform
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from scripts.preparation.cache import StoredVolume
from scripts.species import SpeciesSet


class RandWindowd(RandomizableTransform):
    """Cut a random window: around a particle with a random offset, or anywhere.

    The particle's species is drawn with the species' weights, among those present in the tomogram.

    Args:
        species_set: the species, for their weights.
        window_size: ``(z, y, x)`` in voxels, y equal to x; a smaller tomogram is padded with zeros at the far end.
        particle_share: share of the windows drawn around a particle.
        image_key: the tomogram ``(1, Z, Y, X)``.
        label_key: the true particles ``(N, 4)``; shifted to the window's coordinates.
        volume_key: a label volume ``(1, Z, Y, X)``, if there is one; cut like the tomogram.
    """

    def __init__(
        self,
        species_set: SpeciesSet,
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
        self.weights = {species.label: species.weight for species in species_set.picked}
        self.size, self.particle_share = np.asarray(window_size), particle_share
        self.image_key, self.label_key, self.volume_key = image_key, label_key, volume_key

    def start_of_window(self, shape: Sequence[int], points: NDArray[np.float32]) -> NDArray[np.int64]:
        """Draw the first voxel ``(z, y, x)`` of a window in a tomogram of the given shape."""
        last = np.maximum(np.asarray(shape) - self.size, 0)
        if len(points) == 0 or self.R.uniform() >= self.particle_share:
            return np.array([self.R.randint(end + 1) for end in last])
        present = [label for label in self.weights if (points[:, 0] == label).any()]
        weights = np.array([self.weights[label] for label in present])
        share = weights / weights.sum() if weights.sum() > 0 else np.full(len(present), 1 / len(present))
        same = points[points[:, 0] == self.R.choice(present, p=share), 1:]
        centre = same[self.R.randint(len(same))]
        answer: NDArray[np.int64] = np.clip(np.floor(centre - self.R.uniform(0, self.size)).astype(int) + 1, 0, last)
        return answer

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


class Painter(Protocol):
    """Paints the target of a window; for example `training.spheres.Spheres`.

    If the truth is a label volume and the painter has a method ``of_labels(label_volume, species_set)``, that method
    makes the target; otherwise the painter is given the centres of the label volume's blobs.
    """

    def __call__(
        self, shape: tuple[int, int, int], labelled_points: ArrayLike, species_set: SpeciesSet
    ) -> NDArray[np.float32]:
        """Return the target ``(C, Z, Y, X)`` of a window, from rows ``(N, 4)`` of label and voxel index."""


class PaintTargetsd(MapTransform):
    """Turn the true particles of a window into the target of the loss.

    Args:
        keys: the true particles ``(N, 4)``, rows of label and voxel index; become the target ``(C, Z, Y, X)``.
        species_set: the species, one channel for each that is picked.
        painter: paints the target.
        image_key: the window ``(1, Z, Y, X)``, for its shape.
        volume_key: a label volume ``(1, Z, Y, X)``, if there is one.
        output_stride: of the network; the target is painted on the window's voxels and averaged over cubes of this
            side, so that the centres of mass stay where they are.
    """

    def __init__(
        self,
        keys: KeysCollection,
        species_set: SpeciesSet,
        painter: Painter,
        output_stride: int = 1,
        image_key: str = "image",
        volume_key: str = "label_volume",
    ) -> None:
        super().__init__(keys)
        self.species_set, self.painter, self.output_stride = species_set, painter, output_stride
        self.image_key, self.volume_key = image_key, volume_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the sample with the target in place of the points."""
        sample = dict(data)
        depth, height, width = sample[self.image_key].shape[1:]
        labels = sample.pop(self.volume_key, None)
        of_labels = getattr(self.painter, "of_labels", None)
        for key in self.key_iterator(sample):
            if labels is None or of_labels is None:
                target = self.painter((depth, height, width), sample[key], self.species_set)
            else:
                target = of_labels(np.asarray(labels[0]), self.species_set)
            sample[key] = mean_of_cubes(torch.from_numpy(target), self.output_stride)
        return sample


def mean_of_cubes(volume: Tensor, side: int) -> Tensor:
    """Average a volume ``(C, Z, Y, X)`` over cubes of voxels; incomplete cubes at the far ends are filled with 0."""
    if side == 1:
        return volume
    if any(size % side for size in volume.shape[1:]):
        depth, height, width = (-size % side for size in volume.shape[1:])
        volume = torch.nn.functional.pad(volume, [0, width, 0, height, 0, depth])
    for axis in (1, 2, 3):
        parts = [volume[(slice(None),) * axis + (slice(first, None, side),)] for first in range(side)]
        volume = torch.stack(parts).sum(0) if side > 2 else parts[0] + parts[1]
    return volume / side**3
