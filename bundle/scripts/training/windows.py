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

from scripts.errors import InputError
from scripts.preparation.annotation import DOUBTFUL, REGION, Annotation, pop_annotation
from scripts.preparation.cache import StoredVolume
from scripts.preparation.interest import CELL_VOXELS, INTEREST
from scripts.settings import check_setting
from scripts.species import SpeciesSet
from scripts.volumes.labels import box_around

MARGIN_ANGSTROM = 300.0  # farther outside of a window a doubtful particle is not painted
SHOWN = 0.01  # voxels whose target is higher belong to a particle
UNLABELLED = -np.inf  # target of voxels in which a particle may not have been annotated


class RandWindowd(RandomizableTransform):
    """Cut a random window: around a particle with a random offset, or anywhere, or by a map of interest.

    The particle's species is drawn by weight, among those present in the tomogram. What was looked at and rejected
    counts as a particle here, so that the network sees what it is mistaken for; what is uncertain does not. Windows
    elsewhere have their middle in the box of what was annotated.

    Args:
        species_set: the species.
        window_size: ``(z, y, x)`` in voxels, y equal to x; a smaller tomogram is padded with zeros at the far end.
        particle_share: share of the windows drawn around a particle.
        image_key: the tomogram ``(1, Z, Y, X)``.
        label_key: the true particles ``(N, 4)``; shifted to the window's coordinates.
        volume_key: a label volume ``(1, Z, Y, X)``, if there is one; cut like the tomogram.
        species_weights: of every species, by name; None for those of the species.
        interest_share: share of the windows drawn by the map of `preparation.interest`, in a tomogram that has one;
            the others as above.
        output_stride: of the network, see `PaintTargetsd`.

    Raises:
        InputError: an argument is out of its range, or a side of the window is no multiple of ``output_stride``.
    """

    def __init__(
        self,
        species_set: SpeciesSet,
        window_size: Sequence[int],
        particle_share: float = 0.5,
        image_key: str = "image",
        label_key: str = "label",
        volume_key: str = "label_volume",
        species_weights: Mapping[str, float] | None = None,
        interest_share: float = 0.0,
        output_stride: int = 1,
    ) -> None:
        super().__init__()
        check_setting("window_size", window_size)
        check_setting("particle_share", particle_share)
        check_setting("interest_share", interest_share)
        if window_size[1] != window_size[2]:
            raise InputError(f"window_size needs y equal to x, because windows are turned in xy; got {window_size}.")
        if any(side % output_stride for side in window_size):
            raise InputError(
                f"window_size {list(window_size)}: the network answers once per {output_stride} voxels, and mirrored "
                "targets would lie beside their particles. Set its sides to multiples of that, for example "
                f"{[-(-side // output_stride) * output_stride for side in window_size]}."
            )
        self.weights = {
            species.label: species.weight if species_weights is None else species_weights[species.name]
            for species in species_set.picked
        }
        self.size, self.particle_share = np.asarray(window_size), particle_share
        self.image_key, self.label_key, self.volume_key = image_key, label_key, volume_key
        self.interest_share = interest_share

    def start_of_window(
        self, shape: Sequence[int], points: NDArray[np.floating[Any]], box: NDArray[np.int64] | None = None
    ) -> NDArray[np.int64]:
        """Draw the first voxel ``(z, y, x)`` of a window in a tomogram; ``box`` is that of `annotation.Annotation`."""
        last = np.maximum(np.asarray(shape) - self.size, 0)
        if len(points) == 0 or self.R.uniform() >= self.particle_share:
            low, high = (0 * last, last) if box is None else np.clip(box - self.size // 2, 0, last)
            return np.array([self.R.randint(start, end + 1) for start, end in zip(low, high, strict=True)])
        present = [label for label in self.weights if (points[:, 0] == label).any()]
        weights = np.array([self.weights[label] for label in present])
        share = weights / weights.sum() if weights.sum() > 0 else np.full(len(present), 1 / len(present))
        same = points[points[:, 0] == self.R.choice(present, p=share), 1:]
        centre = same[self.R.randint(len(same))]
        return self.around(centre, last)

    def around(self, place: NDArray[np.floating[Any]], last: NDArray[np.int64]) -> NDArray[np.int64]:
        """Draw the start of a window that holds a place ``(z, y, x)``; ``last`` is the last start."""
        answer: NDArray[np.int64] = np.clip(np.floor(place - self.R.uniform(0, self.size)).astype(int) + 1, 0, last)
        return answer

    def start_by_map(self, shape: Sequence[int], interest: NDArray[np.float32]) -> NDArray[np.int64]:
        """Draw the start of a window that holds a voxel of a cell drawn by the map ``(z, y, x)``."""
        sums = np.cumsum(interest, dtype=np.float64)
        drawn = np.searchsorted(sums, self.R.uniform(0, sums[-1]), side="right")
        first = CELL_VOXELS * np.array(np.unravel_index(drawn, interest.shape))
        voxel = first + np.floor(self.R.uniform(0, np.minimum(np.asarray(shape) - first, CELL_VOXELS)))
        return self.around(voxel, np.maximum(np.asarray(shape) - self.size, 0))

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the sample cut to one window."""
        sample = dict(data)
        points = np.asarray(sample[self.label_key])
        known = Annotation.of(sample)
        is_looked_at = ~np.isnan(known.doubtful[:, 4])
        centres = np.concatenate([points, known.doubtful[is_looked_at, :4]])
        start = self.start_of_window(sample[self.image_key].shape[1:], centres, known.box)
        if INTEREST in sample:
            interest = np.asarray(sample.pop(INTEREST))
            if self.R.uniform() < self.interest_share:
                start = self.start_by_map(sample[self.image_key].shape[1:], interest)
        for key in (self.image_key, self.volume_key, REGION):
            if key in sample:
                sample[key] = self.cut(sample[key], start)
        moved = points.copy()
        moved[:, 1:] -= start
        sample[self.label_key] = torch.from_numpy(moved)
        if DOUBTFUL in sample:
            sample[DOUBTFUL] = torch.from_numpy(known.doubtful - [0, *start, 0]).float()
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

    The target of a particle that is known with a probability is that probability; where two of a species overlap, it is
    that of the nearer one. Unknown voxels are NaN: those outside the annotated region, and those that an uncertain
    particle would cover. For a species whose annotation is incomplete, all others but those of its particles and of
    rejected ones are `UNLABELLED`. See `losses.KnownVoxels` and `losses.NonNegativeRisk`.

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
        known = pop_annotation(sample)
        labels = sample.pop(self.volume_key, None)
        of_labels = getattr(self.painter, "of_labels", None)
        for key in self.key_iterator(sample):
            if labels is None or of_labels is None:
                target = self.painter((depth, height, width), sample[key], self.species_set)
            else:
                target = of_labels(np.asarray(labels[0]), self.species_set)
            target = self.with_annotation(target, known)
            sample[key] = mean_of_cubes(torch.from_numpy(target), self.output_stride)
        return sample

    def with_annotation(self, target: NDArray[np.float32], known: Annotation) -> NDArray[np.float32]:
        """Return the target ``(C, Z, Y, X)`` with the doubtful particles painted, and what is not known marked."""
        if not len(known.doubtful) and known.is_complete is None and known.region is None:
            return target
        shape = target.shape[1], target.shape[2], target.shape[3]
        margin = MARGIN_ANGSTROM / self.species_set.voxel_size_angstrom
        places, weights = known.doubtful[:, 1:4], known.doubtful[:, 4]
        is_close = ((places > -margin) & (places < np.array(shape) + margin)).all(axis=1)

        def painted(chosen: NDArray[np.bool_]) -> NDArray[np.float32]:
            rows = known.doubtful[chosen & is_close, :4]
            return self.painter(shape, rows, self.species_set) if len(rows) else np.zeros_like(target)

        perhaps = weights > 0
        if (perhaps & is_close).any():
            probability = nearest_weights(target.shape, known.doubtful[perhaps & is_close], margin)
            np.maximum(target, probability * painted(perhaps), out=target)
        is_unknown = (
            painted(np.isnan(weights)) > SHOWN if np.isnan(weights).any() else np.zeros(target.shape, dtype=bool)
        )
        if known.is_complete is not None:
            is_shown = (target > SHOWN) | (painted(weights == 0) > SHOWN)
            target[~is_shown & ~known.is_complete[:, None, None, None]] = UNLABELLED
        if known.region is not None:
            is_unknown |= np.asarray(known.region) == 0
        target[is_unknown] = np.nan
        return target


def nearest_weights(shape: Sequence[int], rows: NDArray[np.float64], margin_voxels: float) -> NDArray[np.float32]:
    """Return the weight of the nearest particle of the species at every voxel of a window, ``(C, Z, Y, X)``.

    Args:
        shape: ``(C, Z, Y, X)``.
        rows: ``(N, 5)``, label, voxel index and weight.
        margin_voxels: farther from a particle along an axis it counts no more, and without any the weight is 0.
    """
    nearest, least = np.zeros(shape, dtype=np.float32), np.full(shape, np.inf, dtype=np.float32)
    for row in rows:
        box = box_around(row[1:4], margin_voxels, shape[1:])
        if box is None:
            continue
        z, y, x = (
            ((axis - middle) ** 2).astype(np.float32) for axis, middle in zip(np.ogrid[box], row[1:4], strict=True)
        )
        squared, place = z + y + x, (int(row[0]) - 1, *box)
        is_nearer = squared < least[place]
        least[place][is_nearer], nearest[place][is_nearer] = squared[is_nearer], row[4]
    return nearest


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
