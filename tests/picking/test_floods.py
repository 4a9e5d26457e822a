"""Networks that see particles everywhere: bounded, and said."""

import numpy as np
import pytest
import torch
from scripts.errors import InputWarning
from scripts.picking.blobs import Blobs
from scripts.picking.peaks import Peaks
from scripts.picking.pick_transform import PickParticlesd
from scripts.picking.proposals import propose
from scripts.picking.second_look_transform import ProposePlacesd
from synthetic import image_of, make_species, noise

SHAPE = (40, 44, 48)
ONE = make_species(1, radius_angstrom=40.0, min_voxels=1)


def pick(probability, finder):
    logits = torch.logit(torch.from_numpy(probability), eps=1e-6)[None]
    sample = {"pred": logits, "image": image_of(noise(shape=SHAPE)), "run": "TS_1"}
    return PickParticlesd("pred", ONE, finder)(sample)["result"]["picks"]


@pytest.mark.parametrize("finder", [Blobs(), Peaks()])
def test_a_volume_full_of_particle_gives_no_pick_and_a_warning_with_the_run(finder):
    with pytest.warns(InputWarning, match="TS_1: 100% of the volume lies above the threshold of a, so none is picked"):
        assert pick(np.ones(SHAPE, np.float32), finder) == []


def test_blobs_that_merge_to_one_pick_are_a_warning():
    scattered = np.zeros(SHAPE, np.float32)
    scattered[::2, ::2, ::2] = 0.9
    scattered[1::2, ::2, ::2] = 0.9
    with pytest.warns(
        InputWarning, match=r"TS_1: one pick of a holds 21120 voxels above .* as many as 79 have: the th"
    ):
        assert len(pick(scattered, Blobs())) == 1


def test_of_too_many_peaks_the_highest_are_judged_and_a_warning_says_so(monkeypatch):
    logits = torch.from_numpy(noise(shape=SHAPE))[None]
    every = propose(logits, 10.0)
    monkeypatch.setattr("scripts.picking.proposals.MOST_PEAKS", 100)
    monkeypatch.setattr("scripts.picking.second_look_transform.MOST_PEAKS", 100)
    sample = {"pred": logits, "image": image_of(noise(shape=SHAPE)), "run": "TS_1"}
    with pytest.warns(InputWarning, match=r"TS_1: \d{4} peaks may be particles, only the 100 highest are judged"):
        some = ProposePlacesd("pred")(sample)["proposals"]
    assert 0 < len(some) <= 100
    assert np.array_equal(some.centres_zyx_vox, every.centres_zyx_vox[: len(some)])
    assert every.left_out == 0
