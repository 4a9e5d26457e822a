import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.ndimage import gaussian_filter
from scripts.errors import InputError, InputWarning
from scripts.preparation import scaling
from scripts.preparation.scaling import (
    CHUNK_VOXELS,
    ScalePercentilesd,
    is_finite,
    percentiles_of,
    replace_non_finite,
    scale_between,
    scale_percentiles,
)
from synthetic import SHAPE, image_of, noise

DTYPES = ("float32", "float16", "int8", "int16", "uint16")
percents = st.one_of(st.sampled_from([0, 1, 50, 99, 100]), st.floats(0, 100))


def plainly_scaled(volume, lower=1.0, upper=99.0):
    """Return the volume scaled as NumPy does it, in steps over the whole volume."""
    scaled = np.array(volume, dtype=np.float32)
    low, high = np.percentile(scaled.ravel(), (lower, upper)).tolist()
    np.clip(scaled, low, high, out=scaled)
    scaled -= np.float32(low)
    scaled /= np.float32(high - low)
    return np.clip(scaled, 0, 1, out=scaled)


def assert_percentiles_are_numpys(volume, two=(1, 99)):
    with np.errstate(all="ignore"):
        expected = np.percentile(volume.astype(np.float32).ravel(), two)
        assert np.array_equal(percentiles_of(volume, two), expected, equal_nan=True)


# Percentiles


@settings(max_examples=300, deadline=None)
@given(data=st.data(), dtype=st.sampled_from(DTYPES), two=st.tuples(percents, percents))
def test_the_percentiles_of_any_voxels_are_numpys(data, dtype, two):
    volume = data.draw(hnp.arrays(dtype, hnp.array_shapes(min_dims=1, max_dims=4, max_side=8)))
    assert_percentiles_are_numpys(volume, two)


@settings(max_examples=60, deadline=None)
@given(
    size=st.integers(1, 300_000),
    seed=st.integers(0, 99),
    dtype=st.sampled_from(DTYPES),
    spread=st.sampled_from([0.3, 3, 100]),
    is_sorted=st.booleans(),
    two=st.tuples(percents, percents),
)
def test_the_percentiles_of_many_voxels_are_numpys(size, seed, dtype, spread, is_sorted, two):
    volume = (100 + spread * np.random.default_rng(seed).standard_normal(size)).clip(0, 127).astype(dtype)
    assert_percentiles_are_numpys(np.sort(volume) if is_sorted else volume, two)


@settings(max_examples=60, deadline=None)
@given(
    size=st.integers(1, 200_000),
    share=st.floats(0, 1),
    values=st.tuples(*[st.floats(width=32)] * 2),
    two=st.tuples(percents, percents),
)
def test_the_percentiles_of_two_values_are_numpys(size, share, values, two):
    first, second = values
    volume = np.where(np.random.default_rng(size).random(size) < share, first, second).astype(np.float32)
    assert_percentiles_are_numpys(volume, two)


@pytest.mark.parametrize("turn", [(0, 1, 2), (2, 0, 1)])
@pytest.mark.parametrize("steps", [slice(None), slice(None, None, -2)])
def test_the_order_in_memory_does_not_matter(turn, steps):
    assert_percentiles_are_numpys(noise().transpose(turn)[:, steps], (1, 99))


def test_values_that_no_sampled_voxel_has_are_found():
    volume = np.zeros((3, CHUNK_VOXELS), dtype=np.float32)
    volume[:, np.arange(CHUNK_VOXELS) % scaling.SAMPLE_STEP != 0] = noise(shape=(3, 65404))
    assert (volume[:, :: scaling.SAMPLE_STEP] == 0).all()
    assert_percentiles_are_numpys(volume, (1, 99))
    assert_percentiles_are_numpys(volume, (20, 51))
    for rank in [np.count_nonzero(volume < 0), np.count_nonzero(volume <= 0)]:  # the first 0, the first above 0
        assert_percentiles_are_numpys(volume, 100 * (rank + np.array([-1, 0])) / (volume.size - 1))


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_percentiles_of_a_large_volume_take_a_sample_and_one_pass(monkeypatch, dtype):
    passes = []
    chunks_of = scaling._chunks_of
    monkeypatch.setattr(scaling, "_chunks_of", lambda volume: passes.append(1) or chunks_of(volume))
    volume = 60 + 9 * np.random.default_rng(3).standard_normal((40, 200, 210))
    volume += np.linspace(0, 30, 40)[:, None, None]  # no slab is like the others
    assert_percentiles_are_numpys(volume.clip(0, 127).astype(dtype))
    assert len(passes) == 2


def test_a_nan_makes_both_percentiles_nan():
    volume = noise()
    volume[-1, -1, -1] = np.nan
    assert np.isnan(percentiles_of(volume, (1, 99))).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_voxel_that_is_not_finite_is_noticed(value):
    volume = np.zeros((2, CHUNK_VOXELS), dtype=np.float32)
    assert is_finite(volume)
    volume[1, 7] = value
    assert not is_finite(volume)
    assert is_finite(np.zeros(3, dtype=np.int16))


# Scaling


@pytest.mark.parametrize("dtype", DTYPES)
def test_scaling_by_chunks_gives_every_voxel_what_scaling_at_once_gives(dtype):
    volume = (100 * noise(shape=(3, 200, 210))).clip(-128, 127).astype(dtype)
    assert np.array_equal(scale_percentiles(volume, 2, 97), plainly_scaled(volume, 2, 97))


def test_slabs_scaled_one_by_one_are_the_scaled_volume():
    volume = noise()
    low, high = percentiles_of(volume, (1, 99))
    slabs = [scale_between(volume[start : start + 3], low, high) for start in range(0, len(volume), 3)]
    assert np.array_equal(np.concatenate(slabs), scale_percentiles(volume))
    assert scale_between(volume, low, high, out=volume) is volume
    assert np.array_equal(volume, np.concatenate(slabs))


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


def test_more_than_a_tenth_of_the_voxels_must_not_be_nan():
    volume = noise(shape=(10, 10, 10))
    volume[0] = np.nan
    with pytest.warns(InputWarning, match="replaced 100 NaN"):
        assert np.isfinite(scale_percentiles(volume)).all()
    volume[1, 0, 0] = np.inf
    with pytest.raises(InputError, match="a file: 101 of 1000 voxels are NaN or infinite"):
        scale_percentiles(volume, source="a file")


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


@pytest.mark.parametrize("count", [2, 8])
@pytest.mark.parametrize("dtype", [np.int8, np.float32])
def test_a_mask_or_a_label_map_is_refused_as_a_tomogram(count, dtype):
    labels = np.zeros((30, 60, 60), dtype)
    labels[-3:] = np.arange(3 * 60 * 60).reshape(3, 60, 60) % count
    with pytest.raises(InputError, match=rf"m.mrc holds only {count} different grey values \(0, 1.*\): it is a mask"):
        scale_percentiles(labels, source="m.mrc")


@pytest.mark.parametrize("count", [5, 8])
def test_a_noisy_tomogram_of_few_grey_values_is_no_mask(count):
    rounded = np.clip(np.floor((noise() + 3) / 6 * count), 0, count - 1).astype(np.int8)
    assert len(np.unique(rounded)) == count
    assert scale_percentiles(rounded).max() == 1


def test_a_label_map_of_small_areas_without_background_is_refused():
    labels = np.argmax([gaussian_filter(noise(seed), 2) for seed in range(8)], axis=0)
    with pytest.raises(InputError, match="holds only 8 different grey values"):
        scale_percentiles(labels, source="m.mrc")


def test_nine_grey_values_or_a_few_voxels_are_a_tomogram():
    assert scale_percentiles(np.arange(90.0) % 9).max() == 1
    assert scale_percentiles(np.arange(8.0).reshape(2, 2, 2)).max() > 0.99
