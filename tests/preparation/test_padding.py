"""Padding and gold do not change what becomes of the image, and padding in whole planes is cut off."""

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
from scripts.preparation.image_facts import facts_of_image
from scripts.preparation.padding import CropPaddingd, box_of_image, find_padding, padded_in_plane, without_padding
from scripts.preparation.scaling import scale_percentiles
from scripts.preparation.voxel_size import CheckVoxelSized
from synthetic import image_of

SHAPE = (48, 96, 88)


def image(mean=0.0, deviation=20.0, seed=0):
    """Return noise with some bright blocks, so that it is skewed."""
    random = np.random.default_rng(seed)
    volume = random.normal(mean, deviation, SHAPE).astype(np.float32)
    for z, y, x in random.integers(4, 36, (12, 3)):
        volume[z : z + 5, y : y + 5, x : x + 5] += 3 * deviation
    return volume


def padded(volume, before, after=(0, 0, 0), value=0):
    """Return a volume with so many planes of one value before and after z, y and x."""
    return np.pad(volume, list(zip(before, after, strict=True)), constant_values=value)


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
    np.testing.assert_allclose(statistics_of(one, 10.0, none, none), statistics_of(other, 10.0, none, none), rtol=1e-3)


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


@pytest.mark.parametrize("dtype", [np.int8, np.float32])
@pytest.mark.parametrize("value", [0, -128])
@pytest.mark.parametrize(
    ("before", "after"),
    [((1, 0, 0), (0, 0, 0)), ((0, 0, 0), (0, 7, 0)), ((0, 0, 5), (0, 0, 2)), ((3, 1, 5), (2, 9, 70))],
    ids=["an odd start", "the end", "two sides", "all sides"],
)
def test_the_box_of_the_image_is_what_was_padded(before, after, value, dtype):
    volume = np.clip(image(), -127, 127).astype(dtype)
    box = tuple(slice(first, first + size) for first, size in zip(before, SHAPE, strict=True))
    assert box_of_image(padded(volume, before, after, value)) == box


@pytest.mark.parametrize("volume", [image(), image().astype(np.int8), np.zeros(SHAPE), np.eye(40)[:, :1, None]])
def test_a_volume_without_padded_planes_around_the_image_is_its_whole_box(volume):
    assert box_of_image(volume) == tuple(slice(0, size) for size in volume.shape)


def test_equal_planes_within_the_image_and_padded_corners_are_not_cut():
    volume, (y, x) = image(), np.indices(SHAPE[1:])
    volume[20:30] = volume[:, 40] = 0
    volume[:, x + y < 60] = 0
    assert box_of_image(volume) == tuple(slice(0, size) for size in SHAPE)
    assert box_of_image(padded(volume, (2, 0, 0), (0, 0, 3)))[0] == slice(2, 2 + SHAPE[0])


def test_padding_is_cut_off_and_voxels_of_the_image_are_told_in_the_tomogram(caplog):
    whole = image_of(padded(image(), (3, 0, 1), (0, 8, 0)))
    with caplog.at_level(logging.INFO):
        cut = CropPaddingd("image")({"image": whole})["image"]
    assert "tomogram.mrc: 14.1 % of the voxels are padding around the image: cut off" in caplog.text
    assert np.array_equal(cut[0], image())
    facts = facts_of_image(cut)
    assert (facts.start_zyx_voxel, facts.own_shape_zyx) == ((3, 0, 1), (51, 104, 89))
    points = np.array([[2.0, 5.0, 7.5]])
    assert facts.to_own_voxels(points).tolist() == [[5, 5, 8.5]]
    finer = CheckVoxelSized("image", 5.0, resample=True)({"image": cut})["image"]
    assert facts_of_image(finer).to_own_voxels(2 * points).tolist() == [[5, 5, 8.5]]
    assert facts_of_image(finer).from_own_voxels(facts.to_own_voxels(points)).tolist() == (2 * points).tolist()


def test_a_tomogram_without_padding_is_not_touched():
    whole = image_of(image())
    assert CropPaddingd("image")({"image": whole})["image"] is whole


@pytest.mark.parametrize("value", [0.0, np.inf, np.nan])
def test_the_box_of_the_image_leaves_out_planes_of_any_value(value):
    image = np.random.default_rng(0).standard_normal((20, 40, 40)).astype(np.float32)
    volume = np.pad(image, ((2, 3), (8, 0), (4, 5)), constant_values=value)
    assert np.array_equal(volume[box_of_image(volume)], image)
