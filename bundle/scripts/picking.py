"""From logits to picks: the last step that MONAI Label needs too, and the sweep that finds its thresholds."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from numpy.typing import NDArray
from torch import Tensor

from scripts.coordinates import to_xyz_angstrom, voxel_size_of
from scripts.datasets import run_name
from scripts.metrics import HIT_FRACTION, check_mode, count_hits
from scripts.particles import ParticleSet, Species
from scripts.picks import Pick, as_records
from scripts.postprocessing import Candidates, pick_species
from scripts.region import is_inside
from scripts.targets import draw_spheres
from scripts.transforms import original_affine_of, source_of


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
        Pick(run, species.name, x, y, z, score, species.radius_angstrom, x_voxel, y_voxel, z_voxel)
        for (x, y, z), score, (z_voxel, y_voxel, x_voxel) in zip(
            points.tolist(), scores.tolist(), voxels.tolist(), strict=True
        )
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


def keep_inside(found: Candidates, region: Tensor | None) -> Candidates:
    """Return the candidates with their centre in a region ``(1, Z, Y, X)``, 0 outside; all where there is none.

    Logits outside the region count where blobs are formed, so that a particle at its rim keeps its centre.
    """
    return found if region is None else found.only(is_inside(region[0].cpu().numpy(), found.centres_zyx_vox))


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
        region_key: where to pick ``(1, Z, Y, X)``, see `region.LimitRegiond`; everywhere if there is none.
    """

    def __init__(
        self,
        keys: KeysCollection,
        particles: ParticleSet,
        image_key: str = "image",
        result_key: str = "result",
        merge_distance_in_radii: float = 1.0,
        voxel_offset: float = 0.0,
        region_key: str = "region",
    ) -> None:
        super().__init__(keys)
        if merge_distance_in_radii < 0:
            raise ValueError(f"merge_distance_in_radii must not be negative; got {merge_distance_in_radii}.")
        self.particles, self.image_key, self.result_key = particles, image_key, result_key
        self.merge_distance_in_radii, self.voxel_offset = merge_distance_in_radii, voxel_offset
        self.region_key = region_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the sample with the label map and the picks."""
        sample = dict(data)
        image: MetaTensor = sample[self.image_key]
        run = sample.get("run") or run_name(source_of(image))
        for key in self.key_iterator(sample):
            logits = sample[key]
            if logits.shape[0] != len(self.particles):
                raise ValueError(f"{key} needs {len(self.particles)} channels, one per species; got {logits.shape[0]}.")
            picks = self.pick(logits, image, str(run), sample.get(self.region_key))
            sample[key] = MetaTensor(self.draw(picks, image), meta=image.meta)
            sample[key].affine = original_affine_of(image)
            sample[self.result_key] = {"run": str(run), "picks": as_records(picks)}
        return sample

    def pick(self, logits: Tensor, image: MetaTensor, run: str, region: Tensor | None = None) -> list[Pick]:
        """Return the picks of all species, the surest first, in the voxels of the tomogram as it was read.

        A volume without contrast, which the scaling turned to 0, has none.
        """
        picks: list[Pick] = []
        if not image.any():
            return picks
        for channel, species in zip(logits, self.particles, strict=True):
            probability = torch.sigmoid(channel.float()).cpu().numpy()
            found = pick_species(probability, species, voxel_size_of(image.affine), self.merge_distance_in_radii)
            found = keep_inside(found, region)
            found = found.only(np.argsort(-found.scores, kind="stable"))
            picks += picks_at(found.centres_zyx_vox, found.scores, species, run, image, self.voxel_offset)
        return picks

    def draw(self, picks: Sequence[Pick], image: MetaTensor) -> Tensor:
        """Return the label map ``(1, Z, Y, X)`` of the picks, on the grid of the tomogram as it was read."""
        own = voxel_size_of(original_affine_of(image))
        depth, height, width = (int(size) for size in image.meta.get("spatial_shape", image.shape[1:]))
        shape = depth, height, width
        labels = np.zeros(shape, dtype=np.uint8)
        for species in self.particles:
            centres = [(pick.z_voxel, pick.y_voxel, pick.x_voxel) for pick in picks if pick.particle == species.name]
            sphere = draw_spheres(shape, centres, species.target_radius_angstrom / own, species.label)
            np.copyto(labels, sphere, where=sphere > 0)
        return torch.from_numpy(labels)[None]


def picks_of(sample: Mapping[str, Any]) -> list[Pick]:
    """Return the picks that `PickParticlesd` left in a sample."""
    return [Pick(**record) for record in sample["result"]["picks"]]


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
        region_key: as in `PickParticlesd`.
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
        region_key: str = "region",
    ) -> None:
        super().__init__(keys)
        tried = np.asarray(thresholds, dtype=np.float64)
        if tried.size == 0 or np.any(np.diff(tried) <= 0) or not 0 <= tried[0] <= tried[-1] < 1:
            raise ValueError(f"thresholds are rising probabilities, 0 <= t < 1; got {list(thresholds)}.")
        self.particles, self.thresholds, self.mode = particles, list(thresholds), check_mode(mode)
        self.image_key, self.label_key, self.sweep_key = image_key, label_key, sweep_key
        self.merge_distance_in_radii, self.region_key = merge_distance_in_radii, region_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the sample with the counts."""
        sample = dict(data)
        voxel_size, region = voxel_size_of(sample[self.image_key].affine), sample.get(self.region_key)
        rows = np.asarray(sample[self.label_key].cpu(), dtype=np.float64).reshape(-1, 4)
        for key in self.key_iterator(sample):
            counts = np.zeros((len(self.particles), len(self.thresholds), 3), dtype=np.int64)
            for channel, species, count in zip(sample[key], self.particles, counts, strict=True):
                probability = torch.sigmoid(channel.float()).cpu().numpy()
                truth = rows[rows[:, 0] == species.label, 1:]
                distance = HIT_FRACTION * species.radius_angstrom / voxel_size
                for place, threshold in enumerate(self.thresholds):
                    one = replace(species, probability_threshold=threshold)
                    found = keep_inside(
                        pick_species(probability, one, voxel_size, self.merge_distance_in_radii), region
                    )
                    hits = count_hits(truth, found.centres_zyx_vox, distance, self.mode)
                    count[place] = hits, len(found), len(truth)
            sample[self.sweep_key] = torch.from_numpy(counts)
        return sample
