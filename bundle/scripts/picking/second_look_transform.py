"""The second look as transforms between the network and the picking."""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from scripts.errors import InputWarning
from scripts.picking.calibrated_scores import CalibratedScores
from scripts.picking.image_picks import has_contrast, logits_stride_of
from scripts.picking.proposals import LOWEST_LOGIT, MOST_PEAKS, Proposals, candidates_of, propose
from scripts.picking.second_look import SecondLook
from scripts.preparation.image_facts import facts_of_image
from scripts.species import SpeciesSet

WITHOUT = "without_second_look"  # key of a sample whose logits are of another network than the second look's


class ProposePlacesd(MapTransform):
    """Find the places where a particle of any species may be, see `proposals.propose`.

    Args:
        keys: logits ``(C, Z, Y, X)``; not changed.
        image_key: the tomogram, for its shape and voxel size.
        proposals_key: key for the `proposals.Proposals`, in voxels of the image.
        lowest_logit: of a proposal.
    """

    def __init__(
        self,
        keys: KeysCollection,
        image_key: str = "image",
        proposals_key: str = "proposals",
        lowest_logit: float = LOWEST_LOGIT,
    ) -> None:
        super().__init__(keys)
        self.image_key, self.proposals_key, self.lowest_logit = image_key, proposals_key, lowest_logit

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the sample with its proposals; a volume without contrast, which the scaling set to 0, has none."""
        sample = dict(data)
        if sample.get(WITHOUT):
            return sample
        image: MetaTensor = sample[self.image_key]
        for key in self.key_iterator(sample):
            logits = sample[key]
            if not has_contrast(image.as_tensor()):
                sample[self.proposals_key] = Proposals(np.zeros((0, 3)), np.zeros((0, len(logits)), np.float32))
                continue
            stride = logits_stride_of(logits.shape[1:], image.shape[1:])
            facts = facts_of_image(image, sample.get("run"))
            proposals = propose(logits, facts.voxel_size_angstrom, stride, self.lowest_logit)
            if proposals.left_out:
                count = proposals.left_out + MOST_PEAKS
                fact = f"{count} peaks may be particles, only the {MOST_PEAKS} highest are judged"
                message = f"{facts.run}: {fact}: the contrast or the weights are wrong."
                warnings.warn(message, InputWarning, stacklevel=2)
            sample[self.proposals_key] = proposals
        return sample


class SecondLookd(MapTransform):
    """Judge the proposed places, and make candidates of every species out of them.

    Args:
        keys: the `proposals.Proposals`.
        species_set: the species.
        second_look: judges them.
        merge_distance_in_radii: of two candidates of a species nearer than this times its radius the more probable one
            is kept.
        image_key: the tomogram.
        candidates_key: key for the candidates: a table of `candidates.Candidates` by the species' names, whose scores
            are probabilities.
        warning_key: key for why the scores of this tomogram may be wrong, see `familiarity`; else "".
    """

    def __init__(
        self,
        keys: KeysCollection,
        species_set: SpeciesSet,
        second_look: SecondLook | CalibratedScores,
        merge_distance_in_radii: float = 1.0,
        image_key: str = "image",
        candidates_key: str = "candidates",
        warning_key: str = "unfamiliar",
    ) -> None:
        super().__init__(keys)
        self.species_set, self.second_look = species_set, second_look
        self.merge_distance_in_radii = merge_distance_in_radii
        self.image_key, self.candidates_key, self.warning_key = image_key, candidates_key, warning_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the sample with the candidates."""
        sample = dict(data)
        if sample.get(WITHOUT):
            return sample
        image: MetaTensor = sample[self.image_key]
        facts = facts_of_image(image, sample.get("run"))
        for key in self.key_iterator(sample):
            proposals: Proposals = sample[key]
            probabilities, warning = self.second_look.judge(image.as_tensor()[0].cpu(), proposals)
            sample[self.warning_key] = warning or ""
            if warning:
                message = f"{facts.run}: scores may be wrong for this tomogram: {warning}."
                warnings.warn(message, InputWarning, stacklevel=2)
            candidates = candidates_of(
                proposals, probabilities, self.species_set, facts.voxel_size_angstrom, self.merge_distance_in_radii
            )
            calibration = self.second_look.calibration
            sample[self.candidates_key] = {
                name: replace(found, spread=calibration.spread_of(column) if calibration else 0.0)
                for column, (name, found) in enumerate(candidates.items())
            }
        return sample
