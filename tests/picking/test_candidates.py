import numpy as np
import pytest
from scripts.picking.candidates import Candidates, merge_close_candidates


def candidates_at(points, sizes=None, scores=None):
    """Return candidates of size 1 and score 0.5, unless said."""
    points = np.reshape(np.asarray(points, dtype=float), (-1, 3))
    sizes = np.ones(len(points), dtype=np.int64) if sizes is None else np.asarray(sizes)
    scores = np.full(len(points), 0.5) if scores is None else np.asarray(scores, dtype=float)
    return Candidates(points, scores, sizes)


def test_near_points_become_their_mean():
    merged = merge_close_candidates(candidates_at([[5, 9, 11], [5, 9, 15]]), distance_vox=4)
    assert merged.centres_zyx_vox.tolist() == [[5, 9, 13]]


def test_points_farther_apart_stay():
    points = [[5, 9, 11], [5, 9, 15.01]]
    assert merge_close_candidates(candidates_at(points), distance_vox=4).centres_zyx_vox.tolist() == points


@pytest.mark.parametrize(("sizes", "expected_x"), [((1, 1), 13.0), ((1, 3), 14.0), ((9, 3), 12.0)])
def test_a_larger_blob_pulls_the_mean(sizes, expected_x):
    merged = merge_close_candidates(candidates_at([[5, 9, 11], [5, 9, 15]], sizes), distance_vox=4)
    assert merged.centres_zyx_vox.tolist() == [[5, 9, expected_x]]


def test_a_merged_point_has_the_highest_score_and_the_summed_size():
    points = [[5, 9, 11], [15, 20, 30], [5, 9, 15]]
    merged = merge_close_candidates(candidates_at(points, [2, 4, 3], [0.6, 0.7, 0.9]), distance_vox=4)
    assert sorted(zip(merged.scores, merged.sizes, strict=True)) == [(0.7, 4), (0.9, 5)]


def test_a_chain_of_points_becomes_one_although_its_ends_are_far_apart():
    chain = [[5, 9, 11], [5, 9, 14], [5, 9, 17], [5, 9, 20]]
    merged = merge_close_candidates(candidates_at(chain), distance_vox=3)
    assert merged.centres_zyx_vox.tolist() == [[5, 9, 15.5]]


@pytest.mark.parametrize("seed", range(10))
def test_merging_does_not_depend_on_order(seed, assert_points_close):
    rng = np.random.default_rng(seed)
    points, sizes, scores = rng.uniform(0, 30, (40, 3)), rng.integers(1, 9, 40), rng.random(40)
    order = rng.permutation(40)
    merged = merge_close_candidates(candidates_at(points, sizes, scores), distance_vox=5)
    again = merge_close_candidates(candidates_at(points[order], sizes[order], scores[order]), distance_vox=5)
    assert 1 < len(merged) < 40
    assert_points_close(again.centres_zyx_vox, merged.centres_zyx_vox, atol=1e-9)
    assert (sorted(again.scores), sorted(again.sizes)) == (sorted(merged.scores), sorted(merged.sizes))


def test_distance_0_merges_nothing_not_even_equal_points():
    twice = candidates_at([[5, 9, 11], [5, 9, 11]])
    assert len(merge_close_candidates(twice, distance_vox=0)) == 2


@pytest.mark.parametrize("points", [[], [[5, 9, 11]]])
def test_nothing_and_a_lone_point_stay_as_they_are(points):
    merged = merge_close_candidates(candidates_at(points), distance_vox=4)
    assert merged.centres_zyx_vox.tolist() == points
