"""From logits to picks, as a transform, because MONAI Label runs transforms but no handlers."""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from torch import Tensor

from scripts.errors import InputWarning
from scripts.file_pages import parts_of
from scripts.picking.candidates import Candidates, Finder
from scripts.picking.image_picks import (
    find_in_image,
    has_contrast,
    keep_inside,
    logits_stride_of,
    picks_in_image,
    probability_of,
    why_doubtful,
)
from scripts.picking.operating_point import expect, parse_operating_points
from scripts.picks import Pick, as_records, by_species, from_records
from scripts.preparation.image_facts import ImageFacts, facts_of_image, original_affine_of
from scripts.records import finite_or_none
from scripts.species import SpeciesSet
from scripts.volumes.labels import label_map_of


class PickParticlesd(MapTransform):
    """Turn the network's logits into picks and a label map.

    Args:
        keys: logits ``(C, Z, Y, X)``, which may be coarser than the tomogram, see `image_picks.logits_stride_of`;
            replaced by the label map ``(1, Z, Y, X)`` on the grid of the tomogram as it was read, with a sphere of the
            target radius around every pick.
        species_set: the species.
        finder: finds the particles of a species in its probabilities.
        image_key: the tomogram, for its voxel sizes and run.
        result_key: key for ``{"run": name, "picks": [...]}``, one flat dictionary per pick, ready for JSON.
        voxel_offset: see `coordinates`.
        region_key: region to pick in ``(1, Z, Y, X)``, see `preparation.region.LimitRegiond`; without one, the whole
            volume.
        operating_point: which candidates of a second look are picked, see `operating_point`.
        candidates_key: the candidates of a second look, see `second_look_transform.SecondLookd`; without them the
            finder's are picked. The result then also holds the candidates that were not picked, ``others``, and, by
            species, what is ``expected`` of the picks.
    """

    def __init__(
        self,
        keys: KeysCollection,
        species_set: SpeciesSet,
        finder: Finder,
        image_key: str = "image",
        result_key: str = "result",
        voxel_offset: float = 0.0,
        region_key: str = "region",
        operating_point: Any = "f1",
        candidates_key: str = "candidates",
    ) -> None:
        super().__init__(keys)
        self.points, self.candidates_key = parse_operating_points(operating_point, species_set), candidates_key
        self.species_set, self.finder, self.voxel_offset = species_set, finder, voxel_offset
        self.image_key, self.result_key, self.region_key = image_key, result_key, region_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the sample with the label map and the picks."""
        sample = dict(data)
        image: MetaTensor = sample[self.image_key]
        facts = facts_of_image(image, sample.get("run"))
        for key in self.key_iterator(sample):
            logits = sample[key]
            if logits.shape[0] != len(self.species_set.picked):
                raise ValueError(
                    f"{key} needs {len(self.species_set.picked)} channels, one per species; got {logits.shape[0]}."
                )
            region = sample.get(self.region_key)
            result: dict[str, Any] = {"run": facts.run}
            if self.candidates_key in sample:
                picks, more = self.choose(sample[self.candidates_key], facts, region)
                result |= more | {"unfamiliar": sample.get("unfamiliar", "")}
            else:
                picks = self.pick(logits, image, facts, region)
            sample[key] = MetaTensor(self.draw(picks, facts), meta=image.meta)
            sample[key].affine = original_affine_of(image)
            sample[self.result_key] = {**result, "picks": as_records(picks)}
        return sample

    def pick(self, logits: Tensor, image: MetaTensor, facts: ImageFacts, region: Tensor | None = None) -> list[Pick]:
        """Return the picks of all species, each species by falling score, in voxels of the tomogram as it was read.

        A volume without contrast, which the scaling set to 0, has no picks.
        """
        picks: list[Pick] = []
        if not has_contrast(image.as_tensor()):
            return picks
        stride = logits_stride_of(logits.shape[1:], image.shape[1:])
        for channel, species in zip(parts_of(logits), self.species_set.picked, strict=True):
            probability, size = probability_of(channel, self.finder), facts.voxel_size_angstrom
            found = find_in_image(self.finder, probability, species, size, stride)
            doubt = why_doubtful(found, probability, species, size, stride)
            if doubt:
                remedy = "the threshold, the contrast or the weights are wrong"
                warnings.warn(f"{facts.run}: {doubt}: {remedy}.", InputWarning, stacklevel=2)
            found = keep_inside(found, region)
            found = found.only(np.argsort(-found.scores, kind="stable"))
            picks += picks_in_image(found.centres_zyx_vox, found.scores, species, facts, self.voxel_offset)
        return picks

    def choose(
        self, candidates: Mapping[str, Candidates], facts: ImageFacts, region: Tensor | None = None
    ) -> tuple[list[Pick], dict[str, Any]]:
        """Return the picks out of the candidates of a second look, and what else is known of them."""
        picks: list[Pick] = []
        others: list[Pick] = []
        expected = {}
        for species in self.species_set.picked:
            found, point = keep_inside(candidates[species.name], region), self.points[species.name]
            lowest = point.lowest_probability(found.scores)
            is_picked = found.scores >= lowest
            for chosen, part in ((picks, found.only(is_picked)), (others, found.only(~is_picked))):
                chosen += picks_in_image(
                    part.centres_zyx_vox, part.scores, species, facts, self.voxel_offset, part.network_scores
                )
            numbers = {"lowest_probability": lowest, "spread": found.spread}
            numbers |= asdict(expect(found.scores, is_picked, found.spread))
            known = {key: finite_or_none(value) for key, value in numbers.items()}
            expected[species.name] = {"operating_point": str(point), **known}
        return picks, {"others": as_records(others), "expected": expected}

    def draw(self, picks: Sequence[Pick], facts: ImageFacts) -> Tensor:
        """Return the label map ``(1, Z, Y, X)`` of the picks, on the grid of the tomogram as it was read."""
        centres = {name: [pick.zyx_voxel for pick in own] for name, own in by_species(picks).items()}
        labels = label_map_of(facts.own_shape_zyx, centres, self.species_set, facts.own_voxel_size_angstrom)
        return torch.from_numpy(labels)[None]


def picks_of(sample: Mapping[str, Any]) -> list[Pick]:
    """Return the picks that `PickParticlesd` left in a sample."""
    return from_records(sample["result"]["picks"])
