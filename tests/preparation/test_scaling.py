import numpy as np
import pytest
import torch
from scripts.errors import InputError, InputWarning
from scripts.preparation.scaling import ScalePercentilesd, replace_non_finite, scale_percentiles
from synthetic import SHAPE, image_of, noise


def test_scaling_takes_percentiles_1_and_99_to_0_and_1():
    volume = noise()
    low, high = np.percentile(volume, (1, 99))
    expected = (np.clip(volume.astype(np.float64), low, high) - low) / (high - low)
    scaled = scale_percentiles(volume)
    assert scaled.dtype == np.float32
    assert np.abs(scaled - expected).max() < 1e-6
    assert (scaled.min(), scaled.max()) == (0, 1)


def test_scaling_leaves_its_input_as_it_was():
    volume = noise()
    before = volume.copy()
    scale_percentiles(volume)
    assert np.array_equal(volume, before)


def test_percentiles_are_settings():
    volume = noise()
    assert not np.allclose(scale_percentiles(volume, 5, 95), scale_percentiles(volume, 1, 99))


@pytest.mark.parametrize("factor", [0.5, 1e6])
def test_scaling_forgets_gain_and_offset(factor):
    volume = noise()
    assert np.allclose(scale_percentiles(volume * np.float32(factor) + 3), scale_percentiles(volume), atol=2e-4)


def test_hot_voxels_do_not_matter():
    volume = noise()
    hot = volume.copy()
    hot[3, 4, 5:8] = 1e30
    assert np.abs(scale_percentiles(hot) - scale_percentiles(volume))[hot < 2].max() < 0.02


def test_huge_values_stay_finite():
    volume = noise() * np.float32(5e37)
    scaled = scale_percentiles(volume)
    assert np.isfinite(scaled).all()
    assert np.allclose(scaled, scale_percentiles(volume / np.float32(5e37)), atol=1e-5)


def test_nan_and_infinite_voxels_are_counted_and_become_the_median():
    volume = noise()
    volume[1, 2, 3], volume[4, 5, 6] = np.nan, np.inf
    median = np.median(volume[np.isfinite(volume)])
    with pytest.warns(InputWarning, match="a file: replaced 2 NaN or infinite voxels"):
        assert replace_non_finite(volume, "a file") == 2
    assert volume[1, 2, 3] == volume[4, 5, 6] == median


def test_nan_voxels_change_nothing_elsewhere():
    volume = noise()
    broken = volume.copy()
    broken[1, 2, 3] = np.nan
    with pytest.warns(InputWarning):
        scaled = scale_percentiles(broken)
    others = np.ones(SHAPE, dtype=bool)
    others[1, 2, 3] = False
    assert np.abs(scaled - scale_percentiles(volume))[others].max() < 1e-3


def test_a_volume_of_nan_is_refused():
    with pytest.raises(InputError, match="a file: 20160 of 20160 voxels are NaN or infinite"):
        scale_percentiles(np.full(SHAPE, np.nan, dtype=np.float32), source="a file")


@pytest.mark.parametrize("value", [0, 7.5])
def test_a_constant_volume_becomes_0_with_a_warning(value):
    with pytest.warns(InputWarning, match="a file is constant: nothing can be picked"):
        scaled = scale_percentiles(np.full(SHAPE, value, dtype=np.float32), source="a file")
    assert not scaled.any()


def test_a_volume_constant_but_for_a_few_voxels_says_so():
    volume = np.zeros(SHAPE, dtype=np.float32)
    volume[3, 4, 5] = 1
    with pytest.warns(InputWarning, match="constant between percentiles 1.0 and 99.0"):
        assert not scale_percentiles(volume).any()


def test_bad_percentiles_are_refused():
    with pytest.raises(ValueError, match="percentiles need 0 <= lower < upper <= 100; got 99 and 1"):
        ScalePercentilesd("image", 99, 1)


def test_the_transform_keeps_what_the_volume_knows():
    image = image_of(noise())
    scaled = ScalePercentilesd("image")({"image": image})["image"]
    assert torch.equal(scaled.affine, image.affine)
    assert np.allclose(scaled.numpy(), scale_percentiles(image.numpy()))


def test_inverting_is_scaling_the_negative():
    volume = noise()
    inverted = ScalePercentilesd("image", invert=True)({"image": image_of(volume)})["image"]
    assert np.allclose(inverted[0].numpy(), scale_percentiles(-volume), atol=1e-6)


def test_a_constant_volume_stays_without_contrast_when_inverted():
    with pytest.warns(InputWarning, match="is constant"):
        assert not ScalePercentilesd("image", invert=True)({"image": image_of(np.ones(SHAPE))})["image"].any()
