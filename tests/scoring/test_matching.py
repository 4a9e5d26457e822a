import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from scripts.scoring.matching import count_hits

points = st.lists(st.tuples(*[st.integers(0, 9)] * 3), max_size=7)


def test_one_pick_between_two_particles_finds_both_only_in_kaggle_mode():
    truth, pick = [[0, 5, 9], [40, 5, 9]], [[20, 5, 9]]
    assert (count_hits(truth, pick, 30, "kaggle"), count_hits(truth, pick, 30, "one_to_one")) == (2, 1)


def test_two_picks_on_one_particle_find_it_once():
    truth, picks = [[7, 5, 9]], [[7, 5, 9], [8, 5, 9]]
    assert (count_hits(truth, picks, 3, "kaggle"), count_hits(truth, picks, 3, "one_to_one")) == (1, 1)


def test_one_to_one_pairs_better_than_nearest_first():
    # Nearest first gives the pick at 6 to the particle at 0, and leaves nothing for the particle at 15.
    truth, picks = [[0, 2, 3], [15, 2, 3]], [[6, 2, 3], [-8, 2, 3]]
    assert count_hits(truth, picks, 10, "one_to_one") == 2


@pytest.mark.parametrize("mode", ["kaggle", "one_to_one"])
@pytest.mark.parametrize(("distance", "hits"), [(3.0, 1), (2.999, 0)])
def test_a_pick_at_exactly_the_distance_finds(mode, distance, hits):
    assert count_hits([[10, 20, 30]], [[12, 21, 32]], distance, mode) == hits  # 2, 1, 2: 3 apart


@pytest.mark.parametrize("mode", ["kaggle", "one_to_one"])
@pytest.mark.parametrize(("truth", "picks"), [([], []), ([[1, 2, 3]], []), ([], [[1, 2, 3]])])
def test_nothing_to_match_gives_no_hits(mode, truth, picks):
    assert count_hits(truth, picks, 5.0, mode) == 0


@settings(max_examples=80, deadline=None)
@given(truth=points, picks=points, distance=st.integers(1, 6))
def test_hits_equal_those_of_slow_and_plain_ways(truth, picks, distance):
    near = np.array([[np.sum(np.subtract(a, b) ** 2) <= distance**2 for b in picks] for a in truth])
    near = near.reshape(len(truth), len(picks))
    pairs = near[linear_sum_assignment(near, maximize=True)].sum()
    assert count_hits(truth, picks, distance, "kaggle") == near.any(axis=1).sum()
    assert count_hits(truth, picks, distance, "one_to_one") == pairs


def test_matching_does_not_depend_on_order():
    rng = np.random.default_rng(3)
    truth, picks = rng.uniform(0, 40, (60, 3)), rng.uniform(0, 40, (80, 3))
    hits = [count_hits(truth, picks, 5, mode) for mode in ("kaggle", "one_to_one")]
    assert [count_hits(truth[::-1], picks[::-1], 5, mode) for mode in ("kaggle", "one_to_one")] == hits


def test_an_unknown_mode_is_refused():
    with pytest.raises(ValueError, match="mode is kaggle or one_to_one; got 'greedy'"):
        count_hits([[1, 2, 3]], [[1, 2, 3]], 5, "greedy")


@pytest.mark.parametrize("distance", [0, -1, float("nan")])
def test_a_distance_that_is_not_positive_is_refused(distance):
    with pytest.raises(ValueError, match=f"distance must be positive; got {distance}"):
        count_hits([[1, 2, 3]], [[1, 2, 3]], distance)


def test_points_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"picks_xyz needs one row of 3 numbers per point"):
        count_hits([[1, 2, 3]], [[1, 2]], 5)
