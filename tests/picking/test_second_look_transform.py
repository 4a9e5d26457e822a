import json

import numpy as np
import pytest
import torch
from scripts.errors import InputWarning
from scripts.picking.blobs import Blobs
from scripts.picking.calibration import Calibration
from scripts.picking.familiarity import STATISTICS, Familiarity
from scripts.picking.pick_transform import PickParticlesd
from scripts.picking.second_look import SecondLook
from scripts.picking.second_look_transform import ProposePlacesd, SecondLookd
from scripts.preparation.crops import CropShape
from synthetic import POINTS, box_mask, image_of, logits_of, make_species, noise, tiny_classifier

SPECIES = make_species(2)


class Known(SecondLook):
    """A second look whose probabilities are given."""

    def __init__(self, table, familiarity=None, spreads=(0.0, 0.0)):
        calibration = Calibration(np.ones((2, 8)), spreads=np.array(spreads))
        super().__init__(tiny_classifier(), CropShape(8, 0.0), calibration, familiarity)
        self.table = table

    def judge(self, volume, proposals):
        found = np.array([self.table[tuple(np.rint(place).astype(int))] for place in proposals.centres_zyx_vox])
        return found.reshape(-1, 2), super().judge(volume, proposals)[1]


def looked_at(table, sample=None, operating_point="f1", **settings):
    """Return a sample of two particles after a second look with these probabilities at them."""
    sample = sample or {"pred": logits_of(SPECIES), "image": image_of(noise()), "run": "r"}
    look = Known({tuple(place): row for place, row in zip(POINTS, table, strict=True)}, **settings)
    for step in (
        ProposePlacesd("pred"), SecondLookd("proposals", SPECIES, look),
        PickParticlesd("pred", SPECIES, Blobs(), operating_point=operating_point),
    ):  # fmt: skip
        sample = step(sample)
    return sample


def test_picks_carry_the_probability_and_the_networks_score():
    sample = looked_at([[0.9, 0.001], [0.02, 0.75]])
    picks = [(one["species"], one["z_voxel"], one["score"]) for one in sample["result"]["picks"]]
    assert picks == [("a", pytest.approx(6, abs=0.1), 0.9), ("b", pytest.approx(13, abs=0.1), 0.75)]
    assert sample["result"]["picks"][0]["network_score"] == pytest.approx(1 / (1 + np.exp(-6)))
    assert sample["pred"][0, 6, 9, 11] == 1
    (other,) = sample["result"]["others"]  # the other one, 0.001, is no candidate
    assert (other["species"], other["score"]) == ("a", 0.02)
    assert sample["result"]["expected"]["a"] == {
        "operating_point": "F1", "spread": 0.0, "lowest_probability": 0.9, "picks": 1, "precision": 0.9,
        "precision_low": pytest.approx(0.9 - 1.645 * 0.3), "precision_high": 1.0, "missed": pytest.approx(0.02),
        "missed_low": 0.0, "missed_high": pytest.approx(0.02 + 1.645 * 0.14),
    }  # fmt: skip


def test_what_is_expected_knows_how_far_tomograms_differ():
    found = looked_at([[0.5, 0.001], [0.02, 0.75]], spreads=(2.0, 0.0))["result"]["expected"]
    assert [found[name]["spread"] for name in "ab"] == [2.0, 0.0]
    assert found["b"]["precision_low"] == pytest.approx(0.75 - 1.645 * (0.75 * 0.25) ** 0.5)
    assert found["a"]["missed_high"] == pytest.approx(0.02 + 1.645 * (0.0196 + (2 * 0.0196) ** 2) ** 0.5)


def test_a_place_that_the_second_look_calls_another_species_is_picked_as_that():
    sample = looked_at([[0.05, 0.9], [0.01, 0.95]])
    assert [one["species"] for one in sample["result"]["picks"] if one["score"] > 0.5] == ["b", "b"]


def test_the_operating_point_chooses():
    table = [[0.9, 0.2], [0.3, 0.75]]
    counts = {}
    for point in ({"precision": 0.85}, {"probability": 0.25}, {"probability": 0.1}):
        counts[str(point)] = len(looked_at(table, operating_point=point)["result"]["picks"])
    assert list(counts.values()) == [1, 3, 4]


def test_only_candidates_in_the_region_are_picked_and_counted():
    region = torch.from_numpy(box_mask()[None])
    sample = {"pred": logits_of(SPECIES), "image": image_of(noise()), "run": "r", "region": region}
    box = [tuple(point) for point in POINTS]
    inside = [bool(box_mask()[point]) for point in box]
    found = looked_at([[0.9, 0.001], [0.001, 0.9]], sample)
    assert len(found["result"]["picks"]) == sum(inside)


def test_a_volume_without_contrast_has_no_candidates():
    sample = {"pred": logits_of(SPECIES), "image": image_of(np.zeros_like(noise())), "run": "r"}
    found = looked_at([[0.9, 0.9], [0.9, 0.9]], sample)
    assert found["result"]["picks"] == []
    assert found["result"]["expected"]["a"]["picks"] == 0
    assert json.loads(json.dumps(found["result"], allow_nan=False))["expected"]["a"]["precision"] is None


def test_an_unfamiliar_tomogram_is_said_aloud_and_kept_in_the_result():
    away = Familiarity.learn(*[np.random.default_rng(0).normal(50, 1, (20, len(STATISTICS)))] * 2)
    with pytest.warns(InputWarning, match="r: scores may be wrong for this tomogram: "):
        sample = looked_at([[0.9, 0.001], [0.02, 0.75]], familiarity=away)
    assert "where the probabilities were learned" in sample["result"]["unfamiliar"]
    assert looked_at([[0.9, 0.001], [0.02, 0.75]])["result"]["unfamiliar"] == ""


def test_of_two_candidates_of_one_particle_the_more_probable_is_kept():
    points = np.array([[6, 9, 11], [6, 9, 19]])
    sample = {"pred": logits_of(SPECIES, points), "image": image_of(noise()), "run": "r"}
    look = Known({(6, 9, 11): [0.5, 0.01], (6, 9, 19): [0.75, 0.01]})
    for radius, kept in ((70.0, [0.75, 0.5]), (90.0, [0.75])):
        found = SecondLookd("proposals", make_species(2, radius_angstrom=radius), look)(ProposePlacesd("pred")(sample))
        assert len(found["proposals"]) == 2
        assert found["candidates"]["a"].scores.tolist() == kept
