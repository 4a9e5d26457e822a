"""Hits, picks and truths for a range of thresholds."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform

from scripts.coordinates import voxel_size_of
from scripts.picking.candidates import Finder
from scripts.picking.image_picks import find_in_image, is_judged, keep_inside, logits_stride_of, probability_of
from scripts.scoring.matching import check_mode, count_hits
from scripts.settings import check_setting
from scripts.species import HIT_FRACTION, SpeciesSet


class SweepThresholdsd(MapTransform):
    """Count hits for a range of thresholds; comes before the transform that picks, because that replaces the logits.

    Args:
        keys: logits ``(C, Z, Y, X)``; not changed.
        species_set: the species.
        finder: as in `picking.pick_transform.PickParticlesd`.
        thresholds: probability thresholds to try.
        image_key: the tomogram, for its voxel size.
        label_key: the true particles ``(N, 4)``.
        sweep_key: key for the counts ``(C, T, 3)``: hits, picks and truths by species and threshold.
        mode: how picks are matched, see `scoring.metrics`.
        region_key: as in `picking.pick_transform.PickParticlesd`.
    """

    def __init__(
        self,
        keys: KeysCollection,
        species_set: SpeciesSet,
        finder: Finder,
        thresholds: Sequence[float],
        image_key: str = "image",
        label_key: str = "label",
        sweep_key: str = "sweep",
        mode: str = "kaggle",
        region_key: str = "region",
    ) -> None:
        super().__init__(keys)
        check_setting("sweep_thresholds", np.asarray(thresholds).tolist())
        self.species_set, self.thresholds, self.mode = species_set, list(thresholds), check_mode(mode)
        self.image_key, self.label_key, self.sweep_key = image_key, label_key, sweep_key
        self.finder, self.region_key = finder, region_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the sample with the counts."""
        sample = dict(data)
        voxel_size, region = voxel_size_of(sample[self.image_key].affine), sample.get(self.region_key)
        rows = np.asarray(sample[self.label_key].cpu(), dtype=np.float64).reshape(-1, 4)
        for key in self.key_iterator(sample):
            stride = logits_stride_of(sample[key].shape[1:], sample[self.image_key].shape[1:])
            counts = np.zeros((len(self.species_set.picked), len(self.thresholds), 3), dtype=np.int64)
            for channel, species, count in zip(sample[key], self.species_set.picked, counts, strict=True):
                probability = probability_of(channel, self.finder)
                truth = rows[rows[:, 0] == species.label, 1:]
                distance = HIT_FRACTION * species.radius_angstrom / voxel_size
                for place, threshold in enumerate(self.thresholds):
                    one = replace(species, probability_threshold=threshold)
                    found = keep_inside(find_in_image(self.finder, probability, one, voxel_size, stride), region)
                    found = found.only(is_judged(found.centres_zyx_vox, species, sample, self.label_key))
                    hits = count_hits(truth, found.centres_zyx_vox, distance, self.mode)
                    count[place] = hits, len(found), len(truth)
            sample[self.sweep_key] = torch.from_numpy(counts)
        return sample
