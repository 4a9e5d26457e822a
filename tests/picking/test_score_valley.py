import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripts.errors import InputWarning
from scripts.picking.score_valley import Valley, suggest_threshold
from scripts.scoring.threshold_choice import best_threshold


def scores_of(log_odds):
    """Return probabilities with the six decimals of a table of picks."""
    return np.round(1 / (1 + np.exp(-np.asarray(log_odds))), 6)


def two_hills(rng, low=1.0, high=7.0, count=100):
    return np.concatenate([rng.normal(low, 1, count // 2), rng.normal(high, 1, count - count // 2)])


@pytest.mark.parametrize("seed", range(5))
def test_the_valley_between_two_hills_is_found(seed):
    valley = suggest_threshold(scores_of(two_hills(np.random.default_rng(seed))))
    assert scores_of(2.5) < valley.threshold < scores_of(5.5)
    assert valley.low <= valley.threshold <= valley.high
    assert valley.agreement > 0.9


def test_surest_picks_that_all_round_to_one_are_a_hill():
    rng = np.random.default_rng(0)
    valley = suggest_threshold(np.concatenate([scores_of(rng.normal(0, 1, 60)), np.ones(40)]))
    assert 0.9 < valley.threshold < 0.99999


@pytest.mark.parametrize(
    "draw",
    [
        lambda rng: rng.normal(5, 2.5, 100),
        lambda rng: rng.normal(11, 3, 100),
        lambda rng: rng.exponential(3, 100),
        lambda rng: rng.uniform(0, 9, 100),
    ],
    ids=["one hill", "one hill that saturates", "falling", "flat"],
)
def test_scores_without_two_hills_have_no_clear_valley(draw):
    found = [suggest_threshold(scores_of(draw(np.random.default_rng(seed)))).threshold for seed in range(10)]
    assert found.count(None) >= 9


@pytest.mark.parametrize("scores", [[], [0.7], [0.9] * 19, [0.9] * 50, [0.1] * 48 + [0.9999] * 2])
def test_too_few_or_equal_picks_have_no_clear_valley(scores):
    assert suggest_threshold(scores).threshold is None


def test_more_picks_make_the_place_surer():
    rng = np.random.default_rng(0)
    few, many = (suggest_threshold(scores_of(two_hills(rng, 1, 6, count))) for count in (60, 3000))
    assert np.ptp(np.log([many.low / (1 - many.low), many.high / (1 - many.high)])) < 0.5 * np.ptp(
        np.log([few.low / (1 - few.low), few.high / (1 - few.high)])
    )


def test_the_order_of_the_scores_does_not_matter():
    scores = scores_of(two_hills(np.random.default_rng(0)))
    assert suggest_threshold(scores) == suggest_threshold(scores[::-1])


def test_a_valley_says_what_it_is():
    assert str(Valley(0.9731, 0.9512, 0.9888, 0.97)) == "0.973 (0.951 to 0.989)"
    assert str(Valley(None)) == "no clear valley"


# Where there is truth


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        pytest.param([0.70, 0.798, 0.80, 0.797, 0.70], 0.3, id="middle of the plateau"),
        pytest.param([0.80, 0.799, 0.797, 0.50, 0.40], 0.2, id="the best at its end"),
        pytest.param([0.50, 0.796, 0.799, 0.80, 0.10], 0.3, id="the best at its other end"),
        pytest.param([0.70, 0.79, 0.799, 0.80, 0.794], 0.3, id="the lower of two in the middle"),
        pytest.param([0.80, 0.50, 0.799, 0.799, 0.799], 0.1, id="a plateau apart does not count"),
        pytest.param([0.10, 0.20, 0.30, 0.40, 0.80], 0.5, id="no plateau"),
        pytest.param([0.80, 0.70, 0.80, 0.80, 0.80], 0.1, id="of equal maxima the lowest"),
        pytest.param([0.80, 0.80, 0.80, 0.80, 0.80], 0.3, id="all equal"),
    ],
)
def test_the_threshold_stands_in_the_middle_of_the_plateau_around_the_best(values, expected):
    assert best_threshold([0.1, 0.2, 0.3, 0.4, 0.5], values, fallback=0.9, truths=50) == expected


@settings(max_examples=40, deadline=None)
@given(values=st.lists(st.floats(0.01, 1), min_size=1, max_size=12))
def test_the_threshold_is_one_that_was_tried_and_nearly_the_best(values):
    thresholds = np.linspace(0.1, 0.9, len(values))
    chosen = best_threshold(thresholds, values, fallback=0.5, truths=50)
    assert values[thresholds.tolist().index(chosen)] >= max(values) - 0.005


def test_too_few_particles_keep_the_default_and_say_so():
    with pytest.warns(InputWarning, match=r"ribosome keeps the threshold 0.5: 2 true particles, at least 3 needed"):
        assert best_threshold([0.1, 0.2], [0.1, 0.9], fallback=0.5, truths=2, name="ribosome") == 0.5


def test_three_particles_are_enough():
    assert best_threshold([0.1, 0.2], [0.1, 0.9], fallback=0.5, truths=3) == 0.2


@pytest.mark.parametrize(("thresholds", "values"), [([0.1, 0.2], [0.0, 0.0]), ([], [])])
def test_a_species_that_was_never_found_keeps_the_default_and_says_so(thresholds, values):
    with pytest.warns(InputWarning, match="ribosome keeps the threshold 0.25: none of its 9 true particles was found"):
        assert best_threshold(thresholds, values, fallback=0.25, truths=9, name="ribosome") == 0.25


@pytest.mark.parametrize(("thresholds", "values"), [([0.1, 0.2], [0.5]), ([0.2, 0.1], [0.5, 0.6])])
def test_thresholds_that_do_not_fit_are_refused(thresholds, values):
    with pytest.raises(ValueError, match="thresholds must rise and have one F-beta each; got"):
        best_threshold(thresholds, values, fallback=0.5, truths=9)
