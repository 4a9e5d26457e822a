import numpy as np
import pytest
from scripts.picking.familiarity import STATISTICS, Familiarity, statistics_of
from synthetic import noise

KNOWN = np.random.default_rng(0).normal(size=(30, len(STATISTICS)))


def test_a_tomogram_among_the_known_ones_is_familiar_and_one_far_away_is_not():
    familiarity = Familiarity.learn(KNOWN)
    assert all(familiarity.why_unfamiliar(row) is None for row in KNOWN)
    assert familiarity.why_unfamiliar(KNOWN.mean(axis=0)) is None
    away = KNOWN[3].copy()
    away[STATISTICS.index("skewness")] += 20
    why = familiarity.why_unfamiliar(away)
    low, high = KNOWN[:, 2].min(), KNOWN[:, 2].max()
    assert why == f"skewness: {away[2]:.2f}; where the probabilities were learned, {low:.2f} to {high:.2f}"


def test_it_comes_back_from_a_card():
    familiarity = Familiarity.learn(KNOWN)
    again = Familiarity.from_table(familiarity.as_table())
    assert np.allclose(again.rows, familiarity.rows, atol=1e-4)
    assert np.allclose(again.spread, familiarity.spread, atol=1e-4)
    assert again.limit == pytest.approx(familiarity.limit, abs=1e-4)
    with pytest.raises(ValueError, match="those of another version"):
        Familiarity.from_table({**familiarity.as_table(), "statistics": ["others"]})


def test_a_few_known_tomograms_say_nothing():
    familiarity = Familiarity.from_table(Familiarity.learn(KNOWN[:3]).as_table())
    assert familiarity.why_unfamiliar(KNOWN[0] + 100) is None


def test_statistics_tell_smooth_noise_from_white_noise():
    logits, log_odds = np.full((4, 2), -2.0), np.full((4, 2), -5.0)
    white = noise(shape=(24, 32, 40))
    smooth = (white + np.roll(white, 1, 2) + np.roll(white, 1, 1) + np.roll(white, 1, 0)) / 4
    rough, blurred = (
        dict(zip(STATISTICS, statistics_of(one, logits, log_odds), strict=True)) for one in (white, smooth)
    )
    assert rough["noise between neighbours in x"] == pytest.approx(np.sqrt(2), abs=0.05)
    assert blurred["noise between neighbours in x"] < 0.9 * rough["noise between neighbours in x"]
    assert rough["skewness"] == pytest.approx(0, abs=0.1)
    assert rough["agreement of both networks"] == 1


def test_a_tomogram_without_proposals_has_statistics():
    for volume in (noise(), noise(shape=(1, 8, 9))):
        found = statistics_of(volume, np.zeros((0, 2)), np.zeros((0, 2)))
        assert np.isfinite(found).all()
