import numpy as np
import pytest
from scripts.picking.familiarity import STATISTICS, VISIBILITY, Familiarity, statistics_of, visibility_of
from synthetic import noise

KNOWN = np.random.default_rng(0).normal(size=(30, len(STATISTICS)))


def test_a_tomogram_among_the_known_ones_is_familiar_and_one_far_away_is_not():
    familiarity = Familiarity.learn(KNOWN, KNOWN)
    assert all(familiarity.why_unfamiliar(row) is None for row in KNOWN)
    assert familiarity.why_unfamiliar(KNOWN.mean(axis=0)) is None
    away = KNOWN[3].copy()
    away[STATISTICS.index("second look's confidence")] += 20
    why = familiarity.why_unfamiliar(away)
    low, high = KNOWN[:, 4].min(), KNOWN[:, 4].max()
    where = f"where the probabilities were learned, {low:.2f} to {high:.2f}"
    assert why == f"second look's confidence: {away[4]:.2f}; {where}"


def test_a_tomogram_fainter_than_nearly_all_that_were_fitted_on_is_too_faint():
    fitted = KNOWN[:20].copy()
    fitted[:, VISIBILITY] = np.linspace(-1.0, 0.0, 20)
    familiarity = Familiarity.learn(KNOWN, fitted)
    assert familiarity.least_visibility == pytest.approx(-0.95)
    faint, clear = KNOWN[0].copy(), KNOWN[0].copy()
    faint[VISIBILITY], clear[VISIBILITY] = -0.97, -0.94
    assert familiarity.why_too_faint(clear) is None
    assert familiarity.why_too_faint(faint) == (
        "hardly anything stands out of the noise: visibility -0.97; 95 of 100 tomograms that the probabilities were "
        "fitted on have -0.95 or more"
    )
    assert Familiarity.learn(KNOWN, fitted[:7]).why_too_faint(faint - 10) is None


@pytest.mark.parametrize("voxel_size", [10.0, 5.0])
def test_visibility_tells_bright_particles_from_noise(voxel_size):
    side = round(120 / voxel_size)
    white = noise(shape=(5 * side, 6 * side, 8 * side))
    found = []
    for contrast in (0.0, 0.4, 3.0, -3.0):
        volume = white.copy()
        volume[:side, :side, :side] += contrast
        found.append(visibility_of(volume, voxel_size))
    nothing, faint, clear, dark = found
    assert nothing < -1
    assert faint > nothing + 0.3
    assert clear > faint + 0.3
    assert dark == -2.0
    assert visibility_of(np.ones((8, 8, 8), dtype=np.float32), voxel_size) == -2.0


@pytest.mark.parametrize("value", [-1.0, -0.3, 0.0, 0.3, 1.0])
def test_visibility_ignores_padding_around_the_image_and_in_the_corners_of_a_rotated_one(value):
    clear = noise(shape=(60, 72, 96))
    clear[:12, :12, :12] += 3
    found = visibility_of(clear, 10.0)
    padded = np.pad(clear, [(0, 0), (9, 2), (3, 41)], constant_values=value)
    assert visibility_of(padded, 10.0) == pytest.approx(found, abs=0.05)
    rows, columns = np.mgrid[:72, :96]
    turned = np.where(rows + 0.1 * columns < 76, clear, np.float32(value))  # a wedge of few voxels
    assert visibility_of(turned, 10.0) == pytest.approx(found, abs=0.05)


def test_it_comes_back_from_a_card():
    familiarity = Familiarity.learn(KNOWN, KNOWN)
    again = Familiarity.from_table(familiarity.as_table())
    assert np.allclose(again.rows, familiarity.rows, atol=1e-4)
    assert np.allclose(again.spread, familiarity.spread, atol=1e-4)
    assert again.limit == pytest.approx(familiarity.limit, abs=1e-4)
    assert again.least_visibility == pytest.approx(familiarity.least_visibility, abs=1e-4)
    with pytest.raises(ValueError, match="those of another version"):
        Familiarity.from_table({**familiarity.as_table(), "statistics": ["others"]})


def test_a_few_known_tomograms_say_nothing():
    familiarity = Familiarity.from_table(Familiarity.learn(KNOWN[:3], KNOWN[:3]).as_table())
    assert familiarity.why_unfamiliar(KNOWN[0] + 100) is None
    assert familiarity.why_too_faint(KNOWN[0] - 100) is None


def test_statistics_tell_smooth_noise_from_white_noise():
    logits, log_odds = np.full((4, 2), -2.0), np.full((4, 2), -5.0)
    white = noise(shape=(24, 32, 40))
    smooth = (white + np.roll(white, 1, 2) + np.roll(white, 1, 1) + np.roll(white, 1, 0)) / 4
    rough, blurred = (
        dict(zip(STATISTICS, statistics_of(one, 10.0, logits, log_odds), strict=True)) for one in (white, smooth)
    )
    assert rough["noise between neighbours in x"] == pytest.approx(np.sqrt(2), abs=0.05)
    assert blurred["noise between neighbours in x"] < 0.9 * rough["noise between neighbours in x"]
    assert rough["agreement of both networks"] == 1


def test_a_tomogram_without_proposals_has_statistics():
    for volume in (noise(), noise(shape=(1, 8, 9))):
        found = statistics_of(volume, 10.0, np.zeros((0, 2)), np.zeros((0, 2)))
        assert np.isfinite(found).all()
