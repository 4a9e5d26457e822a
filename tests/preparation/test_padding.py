"""Padding and gold do not change what becomes of the image."""

import logging
import warnings
from dataclasses import astuple

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from scripts.errors import InputWarning
from scripts.picking.familiarity import statistics_of
from scripts.preparation.contrast import smoothed_skewness
from scripts.preparation.crops import Brightness
from scripts.preparation.padding import find_padding, padded_in_plane, without_padding
from scripts.preparation.scaling import scale_percentiles

SHAPE = (48, 96, 88)


def image(mean=0.0, deviation=20.0, seed=0):
    """Return noise with some bright blocks, so that it is skewed."""
    random = np.random.default_rng(seed)
    volume = random.normal(mean, deviation, SHAPE).astype(np.float32)
    for z, y, x in random.integers(4, 36, (12, 3)):
        volume[z : z + 5, y : y + 5, x : x + 5] += 3 * deviation
    return volume


def scaled_quietly(volume):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return scale_percentiles(volume)


@pytest.mark.parametrize(
    ("dtype", "mean"), [(np.int8, 0), *((dtype, mean) for dtype in (np.int16, np.float32) for mean in (0, 100, 1000))]
)
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_image_is_scaled_as_without_its_padding(mean, share, axis, dtype):
    whole = (np.clip(image(mean), -120, 120) if dtype == np.int8 else image(mean)).astype(dtype)
    rows = max(round(share * whole.shape[axis]), 1)
    padded = whole.copy()
    np.moveaxis(padded, axis, 0)[:rows] = 0
    scaled, alone = (
        np.moveaxis(scaled_quietly(one), axis, 0)
        for one in (padded, np.take(whole, range(rows, whole.shape[axis]), axis))
    )
    np.testing.assert_allclose(scaled[rows:], alone, atol=1e-6)
    assert 0.2 < scaled[:rows].min() == scaled[:rows].max() < 0.8  # no edge towards the image


def test_padding_in_the_corners_of_a_turned_tomogram_is_found():
    whole = image(500.0)
    y, x = np.indices(SHAPE[1:])
    corner = x + y < 60
    padded = np.where(corner, 0, whole)
    found = find_padding(padded, np.sort(padded.ravel()[::7]))
    assert found is not None
    assert found.value == 0
    assert found.voxels == pytest.approx(SHAPE[0] * corner.sum(), rel=0.1)  # its tip is too narrow
    assert np.median(scaled_quietly(padded)[:, corner]) == pytest.approx(0.47, abs=0.1)


@pytest.mark.parametrize("volume", [image(), image().astype(np.int8), np.clip(image(), -30, 30), np.ones(SHAPE)])
def test_an_image_without_padding_has_none(volume):
    """Also where values are few or clipped, and where there is but one value, which is another fault."""
    assert find_padding(volume, np.sort(volume.ravel()[::7])) is None


@pytest.mark.parametrize("percent", [20, 50])
def test_a_denoised_image_that_was_cut_off_at_a_threshold_has_no_padding(percent):
    """It has long runs of that value, too, and would get the median in the places of the lowest voxels."""
    smooth = gaussian_filter(np.random.default_rng(0).normal(size=SHAPE), 3).astype(np.float32)
    cut = np.maximum(smooth, np.percentile(smooth, percent))
    assert find_padding(cut, np.sort(cut.ravel()[::7])) is None
    assert (scaled_quietly(cut)[cut == cut.min()] == 0).all()


def test_runs_shorter_than_sixteen_voxels_are_image():
    plane = np.ones((40, 40))
    plane[3, 2:17] = plane[10:25, 30] = 0
    assert not padded_in_plane(plane, 0).any()
    plane[3, 17] = plane[25, 30] = 0
    assert padded_in_plane(plane, 0).sum() == 32


def test_statistics_of_a_padded_tomogram_are_those_of_its_image():
    padded, alone = image(1000.0), image(1000.0)[:, 40:]
    padded[:, :40] = 0
    one, other = scaled_quietly(padded), scaled_quietly(alone)
    assert astuple(Brightness.of(one)) == pytest.approx(astuple(Brightness.of(other)), rel=1e-6)
    none = np.zeros((0, 5))
    np.testing.assert_allclose(statistics_of(one, none, none), statistics_of(other, none, none), rtol=1e-3)


def test_the_warning_of_dark_particles_ignores_padding():
    random = np.random.default_rng(0)
    noise = random.normal(1000, 20, (80, 130, 130)).astype(np.float32)
    noise[:, :30] = 0
    assert smoothed_skewness(scaled_quietly(noise), 10.0) == pytest.approx(0, abs=0.3)


def test_clipped_values_are_no_padding():
    values = np.clip(np.random.default_rng(0).normal(0.5, 0.2, 200_000), 0.1, 0.9).astype(np.float32)
    assert without_padding(values).size == values.size


@pytest.mark.parametrize("gold", [1000.0, -1000.0])
@pytest.mark.parametrize("share", [0.008, 0.02, 0.05])
def test_gold_is_named_and_does_not_change_the_scaling_of_the_rest(gold, share):
    clean, random = image(), np.random.default_rng(1)
    beads = np.zeros(SHAPE, dtype=bool)
    z, y, x = np.ogrid[-3:4, -3:4, -3:4]
    ball = z**2 + y**2 + x**2 <= 9
    while beads.mean() < share:
        low = random.integers(0, np.array(SHAPE) - 7)
        beads[tuple(slice(a, a + 7) for a in low)] |= ball
    golden = np.where(beads, gold, clean).astype(np.float32)
    with pytest.warns(InputWarning, match="as gold beads are"):
        scaled = scale_percentiles(golden)
    alone = scaled_quietly(clean)
    assert np.abs(scaled - alone)[~beads].max() < 0.02
    np.testing.assert_allclose(scaled[beads], float(gold > 0), atol=1e-6)


def test_padding_and_gold_together(caplog):
    both = image(1000.0)
    both[:, :20] = 0
    both[20:26, 60:66, 40:70] = 5000
    with caplog.at_level(logging.INFO), pytest.warns(InputWarning, match=r"0\.3 % of the voxels"):
        scaled = scale_percentiles(both)
    assert "20.8 % of the voxels are padding" in caplog.text
    assert np.median(scaled[:, :20]) == pytest.approx(0.5, abs=0.1)
