import numpy as np
import pytest
import torch
from scipy.ndimage import maximum_filter
from scripts.picking.proposals import Proposals, candidates_of, peaks_of, propose
from scripts.volumes.labels import draw_spheres
from synthetic import POINTS, SHAPE, logits_of, make_species, noise


def test_peaks_are_those_of_a_maximum_filter():
    values = noise(shape=(14, 15, 16))
    wanted = np.argwhere((values == maximum_filter(values, 3, mode="nearest")) & (values > 0.5))
    assert peaks_of(torch.from_numpy(values), 0.5).tolist() == wanted.tolist()


def test_of_equal_neighbours_the_first_is_the_peak():
    values = torch.zeros(5, 5, 5)
    values[2, 2, 2:4] = 1
    assert peaks_of(values, 0.5).tolist() == [[2, 2, 2]]


@pytest.mark.parametrize("stride", [1, 2])
def test_a_sphere_is_proposed_at_its_centre_in_the_voxels_of_the_image(stride):
    species_set = make_species(2)
    found = propose(logits_of(species_set), 10.0 / stride, stride)
    order = np.argsort(found.centres_zyx_vox[:, 0])
    assert np.allclose(found.centres_zyx_vox[order], POINTS * stride + (stride - 1) / 2, atol=0.05)
    assert np.allclose(found.logits[order], [[6, -6], [-6, 6]])


def test_a_place_where_two_species_may_be_is_proposed_once_with_both_answers():
    spheres = [draw_spheres(SHAPE, np.array([[10, 14, x]]), 3) for x in (16, 18)]
    logits = torch.as_tensor(np.stack(spheres).astype(np.float32)) * torch.tensor([8.0, 7.0]).reshape(2, 1, 1, 1) - 5
    found = propose(logits, 10.0)
    assert len(found) == 1
    assert np.allclose(found.centres_zyx_vox, [[10, 14, 16]], atol=0.5)
    assert found.logits[0].tolist() == [3, 2]


def test_nothing_is_proposed_below_the_lowest_logit():
    found = propose(torch.full((2, *SHAPE), -3.5), 10.0)
    assert (len(found), found.centres_zyx_vox.shape, found.logits.shape) == (0, (0, 3), (0, 2))


def test_places_that_are_not_judged_are_left_out_after_merging():
    species_set = make_species(1)
    places = np.array([[10.0, 10, 10], [10, 10, 11], [10, 30, 10]])
    proposals, probabilities = Proposals(places, np.zeros((3, 1), dtype=np.float32)), np.array([[0.9], [0.8], [0.7]])
    found = [
        candidates_of(proposals, probabilities, species_set, 10.0, 1.0, is_judged)["a"].scores.tolist()
        for is_judged in (None, np.array([[False], [True], [True]]))
    ]
    assert found == [[0.9, 0.7], [0.7]]  # the second place is still the first one's
