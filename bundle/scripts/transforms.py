"""MONAI transforms: thin shells that carry settings and call the plain functions of this and other modules.

Every volume is ``(C, Z, Y, X)``.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, RandomizableTransform
from numpy.typing import NDArray
from torch import Tensor

from scripts.coordinates import to_xyz_angstrom, to_zyx_vox, voxel_size_of
from scripts.datasets import run_name
from scripts.errors import InputError, InputWarning
from scripts.metrics import HIT_FRACTION, count_hits
from scripts.particles import ParticleSet, Species
from scripts.picks import Pick, as_records, check_truth, read_copick_folder, read_csv, xyz_angstrom_of
from scripts.postprocessing import pick_species
from scripts.readers import is_tomogram, read_tomogram
from scripts.targets import draw_spheres, paint_targets, points_of_labels, split_labels

logger = logging.getLogger(__name__)

MAX_NON_FINITE_SHARE = 0.1


def replace_non_finite(volume: NDArray[np.float32], source: str) -> int:
    """Replace NaN and infinity by the median of the finite voxels, in place; return how many there were.

    Args:
        volume: any shape.
        source: the file, for the message.

    Raises:
        InputError: more than a tenth of the voxels are not finite.
    """
    if np.isfinite(volume.sum(dtype=np.float64)):  # any NaN or infinity would show in the sum
        return 0
    bad = ~np.isfinite(volume)
    count = int(bad.sum())
    if count > MAX_NON_FINITE_SHARE * volume.size:
        raise InputError(f"{source}: {count} of {volume.size} voxels are NaN or infinite; this is no usable tomogram.")
    if count:
        volume[bad] = np.median(volume[~bad])
        warnings.warn(f"{source}: replaced {count} NaN or infinite voxels by the median.", InputWarning, stacklevel=2)
    return count


def scale_percentiles(
    volume: NDArray[np.float32], lower: float = 1.0, upper: float = 99.0, source: str = "volume"
) -> NDArray[np.float32]:
    """Clip a volume to two of its percentiles and stretch them to 0 and 1.

    Args:
        volume: any shape; NaN and infinite voxels are replaced first, see `replace_non_finite`.
        lower: percentile that becomes 0.
        upper: percentile that becomes 1.
        source: the file, for messages.

    Returns:
        A new float32 array; all 0, with a warning, where the two percentiles are the same value.

    Raises:
        InputError: too many voxels are not finite.
    """
    scaled = np.array(volume, dtype=np.float32)
    replace_non_finite(scaled, source)
    low, high = (float(value) for value in np.percentile(scaled.ravel(), (lower, upper)))
    if not high > low:
        what = "constant" if scaled.min() == scaled.max() else f"constant between percentiles {lower} and {upper}"
        warnings.warn(f"{source} is {what}: nothing can be picked in it.", InputWarning, stacklevel=2)
        return np.zeros_like(scaled)
    np.clip(scaled, low, high, out=scaled)
    if high - low > np.finfo(np.float32).max / 2:  # the difference of two float32 need not be one
        scaled, low, high = scaled / 4, low / 4, high / 4
    scaled -= np.float32(low)
    scaled /= np.float32(high - low)
    return np.clip(scaled, 0, 1, out=scaled)


def resample(volume: Tensor, shape: Sequence[int], step_vox: float) -> Tensor:
    """Sample a volume on another grid whose voxel 0 is the same: output ``i`` lies at input ``i * step_vox``.

    Linear interpolation; where the new grid is coarser the kernel widens, so that nothing is skipped.

    Args:
        volume: ``(C, Z, Y, X)``.
        shape: ``(Z, Y, X)`` of the answer.
        step_vox: input voxels per output voxel.
    """
    width = max(step_vox, 1.0)
    for axis, (size, wanted) in enumerate(zip(volume.shape[1:], shape, strict=True), start=1):
        distance = torch.arange(wanted)[:, None] * step_vox - torch.arange(size)[None]
        kernel = (1 - distance.abs() / width).clamp(min=0)
        kernel = (kernel / kernel.sum(dim=1, keepdim=True)).to(volume)
        volume = torch.tensordot(volume, kernel, dims=([axis], [1])).movedim(-1, axis)
    return volume.contiguous()


def read_truth(path: str | Path, run: str, particles: ParticleSet) -> list[Pick]:
    """Read the true particles of one run from a Kaggle CSV or a folder of copick JSON.

    Raises:
        InputError: the file cannot be read or names an unknown species.
    """
    picks = read_copick_folder(path, run) if Path(path).is_dir() else read_csv(path)
    truth = [pick for pick in picks if pick.run == run]
    check_truth(truth, particles, str(path))
    return truth


class CheckVoxelSized(MapTransform):
    """Refuse a tomogram whose voxel size is not the model's, or resample it to that on request.

    Args:
        keys: volumes ``(1, Z, Y, X)`` that carry their affine.
        voxel_size_angstrom: the model's.
        tolerance: largest difference to live with, as a share of the model's voxel size.
        resample: bring other voxel sizes to the model's; the original affine stays in ``original_affine``.

    Raises:
        InputError: the voxel size differs by more than the tolerance, and ``resample`` is off.
    """

    def __init__(
        self, keys: KeysCollection, voxel_size_angstrom: float, tolerance: float = 0.02, resample: bool = False
    ) -> None:
        super().__init__(keys)
        if not 0 <= tolerance < 1:
            raise ValueError(f"tolerance is a share of the voxel size, 0 <= tolerance < 1; got {tolerance}.")
        self.voxel_size_angstrom, self.tolerance, self.resample = voxel_size_angstrom, tolerance, resample

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the sample with every volume at the model's voxel size, within the tolerance."""
        sample = dict(data)
        for key in self.key_iterator(sample):
            volume: MetaTensor = sample[key]
            own, wanted = voxel_size_of(volume.affine), self.voxel_size_angstrom
            if abs(own / wanted - 1) <= self.tolerance:
                continue
            if not self.resample:
                raise InputError(
                    f"{source_of(volume)} has voxels of {own:.4g} Å, the model was trained at {wanted:.4g} Å: set "
                    "resample to true, or voxel_size_angstrom if the file's header is wrong."
                )
            logger.warning("%s: resampled from %.4g Å to %.4g Å", source_of(volume), own, wanted)
            shape = [max(1, round(size * own / wanted)) for size in volume.shape[1:]]
            affine = volume.affine @ torch.diag(torch.tensor([wanted / own] * 3 + [1.0], dtype=volume.affine.dtype))
            sample[key] = MetaTensor(resample(volume.as_tensor(), shape, wanted / own), meta=volume.meta)
            sample[key].affine = affine
        return sample


class ScalePercentilesd(MapTransform):
    """Clip a whole volume to two percentiles and stretch them to 0 and 1, see `scale_percentiles`.

    Args:
        keys: volumes ``(1, Z, Y, X)``.
        lower: percentile that becomes 0.
        upper: percentile that becomes 1.
    """

    def __init__(self, keys: KeysCollection, lower: float = 1.0, upper: float = 99.0) -> None:
        super().__init__(keys)
        if not 0 <= lower < upper <= 100:
            raise ValueError(f"percentiles need 0 <= lower < upper <= 100; got {lower} and {upper}.")
        self.lower, self.upper = lower, upper

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the sample with the volumes scaled."""
        sample = dict(data)
        for key in self.key_iterator(sample):
            volume = sample[key]
            values = np.asarray(volume.cpu() if isinstance(volume, Tensor) else volume, dtype=np.float32)
            scaled = torch.from_numpy(scale_percentiles(values, self.lower, self.upper, source_of(volume)))
            sample[key] = (
                MetaTensor(scaled, meta=volume.meta).to(volume.device)
                if isinstance(volume, MetaTensor)
                else scaled
            )
        return sample


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
                labels = self.read_labels(path, tuple(image.shape[1:]))
                sample[self.volume_key] = torch.from_numpy(labels[None])
                points = points_of_labels(labels, self.particles, str(path))
            else:
                points = self.read_points(path, sample.get("run") or run_name(source_of(image)), image)
            sample[key] = torch.as_tensor(np.asarray(points, dtype=np.float32).reshape(-1, 4))
        return sample

    def read_labels(self, path: str, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """Return a label volume ``(Z, Y, X)`` of whole numbers."""
        values = np.asarray(read_tomogram(path, voxel_size_angstrom=self.particles.voxel_size_angstrom).data)
        if values.shape != shape:
            raise InputError(f"{path}: the label volume has shape {values.shape}, its tomogram {shape}.")
        labels = np.rint(values)
        if (labels != values).any() or labels.min() < 0 or labels.max() > np.iinfo(np.uint8).max:
            raise InputError(f"{path} is no label volume: it holds other values than whole numbers from 0 to 255.")
        return labels.astype(np.uint8)

    def read_points(self, path: str, run: str, image: MetaTensor) -> NDArray[np.float64]:
        """Return the true particles ``(N, 4)`` of a run in the image's voxels."""
        truth = read_truth(path, run, self.particles)
        labels = [self.particles.named(pick.particle, path).label for pick in truth]
        points = to_zyx_vox(xyz_angstrom_of(truth), voxel_size_of(image.affine), self.voxel_offset)
        _check_inside(points, image, f"{path}, run '{run}'")
        rows = np.column_stack([np.asarray(labels, dtype=np.float64).reshape(-1, 1), points])
        return rows[rows[:, 0] > 0]


class RandWindowd(RandomizableTransform):
    """Cut a random window: around a particle with a random offset, or anywhere.

    The particle's species is drawn by the species' weights, among those that the tomogram has.

    Args:
        particles: the species, for their weights.
        window_size: ``(z, y, x)`` in voxels; a smaller tomogram is padded with zeros at the far end.
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

    def cut(self, volume: Tensor, start: NDArray[np.int64]) -> Tensor:
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


class PickParticlesd(MapTransform):
    """Turn the network's logits into picks and a label map: the last step that MONAI Label needs too.

    Args:
        keys: logits ``(C, Z, Y, X)``; become the label map ``(1, Z, Y, X)`` of the tomogram as it was read, a sphere
            of the target radius around every pick.
        particles: the species.
        image_key: the tomogram, for its voxel size and run.
        result_key: where ``{"run": name, "picks": [...]}`` is put, one flat dictionary per pick, ready for JSON.
        merge_distance_in_radii: see `postprocessing.pick_species`.
        voxel_offset: see `coordinates`.
    """

    def __init__(
        self,
        keys: KeysCollection,
        particles: ParticleSet,
        image_key: str = "image",
        result_key: str = "result",
        merge_distance_in_radii: float = 1.0,
        voxel_offset: float = 0.0,
    ) -> None:
        super().__init__(keys)
        if merge_distance_in_radii < 0:
            raise ValueError(f"merge_distance_in_radii must not be negative; got {merge_distance_in_radii}.")
        self.particles, self.image_key, self.result_key = particles, image_key, result_key
        self.merge_distance_in_radii, self.voxel_offset = merge_distance_in_radii, voxel_offset

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the sample with the label map and the picks."""
        sample = dict(data)
        image: MetaTensor = sample[self.image_key]
        run = sample.get("run") or run_name(source_of(image))
        for key in self.key_iterator(sample):
            logits = sample[key]
            if logits.shape[0] != len(self.particles):
                raise ValueError(f"{key} needs {len(self.particles)} channels, one per species; got {logits.shape[0]}.")
            picks = self.pick(logits, image, str(run))
            sample[key] = MetaTensor(self.draw(picks, image), meta=image.meta)
            sample[key].affine = original_affine_of(image)
            sample[self.result_key] = {"run": str(run), "picks": as_records(picks)}
        return sample

    def pick(self, logits: Tensor, image: MetaTensor, run: str) -> list[Pick]:
        """Return the picks of all species, the surest first, in the voxels of the tomogram as it was read."""
        picks: list[Pick] = []
        for channel, species in zip(logits, self.particles, strict=True):
            probability = torch.sigmoid(channel.float()).cpu().numpy()
            found = pick_species(probability, species, voxel_size_of(image.affine), self.merge_distance_in_radii)
            order = np.argsort(-found.scores, kind="stable")
            picks += picks_at(
                found.centres_zyx_vox[order], found.scores[order], species, run, image, self.voxel_offset
            )
        return picks

    def draw(self, picks: Sequence[Pick], image: MetaTensor) -> Tensor:
        """Return the label map ``(1, Z, Y, X)`` of the picks, on the grid of the tomogram as it was read."""
        own = voxel_size_of(original_affine_of(image))
        shape = tuple(int(size) for size in np.atleast_1d(image.meta.get("spatial_shape", image.shape[1:])))
        labels = np.zeros(shape, dtype=np.uint8)
        for species in self.particles:
            centres = [(pick.z_voxel, pick.y_voxel, pick.x_voxel) for pick in picks if pick.particle == species.name]
            sphere = draw_spheres(shape, centres, species.target_radius_angstrom / own, species.label)
            np.copyto(labels, sphere, where=sphere > 0)
        return torch.from_numpy(labels)[None]


class SweepThresholdsd(MapTransform):
    """Count hits for a range of thresholds; stands before `PickParticlesd`, which replaces the logits.

    Args:
        keys: logits ``(C, Z, Y, X)``; left as they are.
        particles: the species.
        thresholds: probability thresholds to try.
        image_key: the tomogram, for its voxel size.
        label_key: the true particles ``(N, 4)``.
        sweep_key: where the counts are put: ``(C, T, 3)``, for every species and threshold hits, picks and truths.
        mode: how picks are matched, see `metrics`.
        merge_distance_in_radii: see `postprocessing.pick_species`.
    """

    def __init__(
        self,
        keys: KeysCollection,
        particles: ParticleSet,
        thresholds: Sequence[float],
        image_key: str = "image",
        label_key: str = "label",
        sweep_key: str = "sweep",
        mode: str = "kaggle",
        merge_distance_in_radii: float = 1.0,
    ) -> None:
        super().__init__(keys)
        if not all(0 <= threshold < 1 for threshold in thresholds):
            raise ValueError(f"thresholds are probabilities, 0 <= t < 1; got {list(thresholds)}.")
        self.particles, self.thresholds, self.mode = particles, list(thresholds), mode
        self.image_key, self.label_key, self.sweep_key = image_key, label_key, sweep_key
        self.merge_distance_in_radii = merge_distance_in_radii

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the sample with the counts."""
        sample = dict(data)
        voxel_size = voxel_size_of(sample[self.image_key].affine)
        rows = np.asarray(sample[self.label_key].cpu(), dtype=np.float64).reshape(-1, 4)
        for key in self.key_iterator(sample):
            counts = np.zeros((len(self.particles), len(self.thresholds), 3), dtype=np.int64)
            for channel, species, count in zip(sample[key], self.particles, counts, strict=True):
                probability = torch.sigmoid(channel.float()).cpu().numpy()
                truth = rows[rows[:, 0] == species.label, 1:]
                distance = HIT_FRACTION * species.radius_angstrom / voxel_size
                for place, threshold in enumerate(self.thresholds):
                    one = replace(species, probability_threshold=threshold)
                    found = pick_species(probability, one, voxel_size, self.merge_distance_in_radii)
                    hits = count_hits(truth, found.centres_zyx_vox, distance, self.mode)
                    count[place] = hits, len(found), len(truth)
            sample[self.sweep_key] = torch.from_numpy(counts)
        return sample


def picks_at(
    centres_zyx_vox: NDArray[np.float64],
    scores: NDArray[np.float64],
    species: Species,
    run: str,
    image: MetaTensor,
    voxel_offset: float,
) -> list[Pick]:
    """Return picks at voxels of an image, in the coordinates of the tomogram as it was read.

    Args:
        centres_zyx_vox: ``(N, 3)`` in the voxels of ``image``, which may have been resampled.
        scores: ``(N,)``.
        species: what was picked.
        run: name of the run.
        image: carries its own and its original affine.
        voxel_offset: see `coordinates`.
    """
    own = voxel_size_of(original_affine_of(image))
    voxels = centres_zyx_vox * (voxel_size_of(image.affine) / own)
    points = to_xyz_angstrom(voxels, own, voxel_offset)
    return [
        Pick(run, species.name, *map(float, point), float(score), species.radius_angstrom, *map(float, voxel[::-1]))
        for point, score, voxel in zip(points, scores, voxels, strict=True)
    ]


def true_picks(
    rows: Tensor, particles: ParticleSet, run: str, image: MetaTensor, voxel_offset: float = 0.0
) -> list[Pick]:
    """Return the true particles ``(N, 4)`` of an image as picks, see `LoadTruthd` and `picks_at`."""
    values = np.asarray(rows.cpu(), dtype=np.float64).reshape(-1, 4)
    truth: list[Pick] = []
    for species in particles:
        centres = values[values[:, 0] == species.label, 1:]
        truth += picks_at(centres, np.ones(len(centres)), species, run, image, voxel_offset)
    return truth


def source_of(volume: Any) -> str:
    """Return the file that a volume was read from, for messages."""
    return str(getattr(volume, "meta", {}).get("filename_or_obj", "volume"))


def original_affine_of(image: MetaTensor) -> Tensor:
    """Return the affine of the tomogram as it was read, before any resampling."""
    return torch.as_tensor(image.meta.get("original_affine", image.affine), dtype=torch.float64)


def _check_inside(points_zyx_vox: NDArray[np.float64], image: MetaTensor, source: str) -> None:
    if len(points_zyx_vox) == 0:
        return
    inside = ((points_zyx_vox > -0.5) & (points_zyx_vox < np.asarray(image.shape[1:]) - 0.5)).all(axis=1)
    share = 1 - inside.mean()
    if share > 0.5:
        raise InputError(f"{source}: {share:.0%} of the points lie outside the tomogram; are they voxels, not Å?")
    if share > 0:
        warnings.warn(f"{source}: {(~inside).sum()} points lie outside the tomogram.", InputWarning, stacklevel=3)
