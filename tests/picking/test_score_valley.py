import numpy as np
import pytest
from scripts.picking.score_valley import Valley, suggest_threshold


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
