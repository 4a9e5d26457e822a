import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.transforms import Compose, LoadImaged
from scripts.errors import InputError, InputWarning, find_input_error
from scripts.picking.image_picks import picks_at
from scripts.preparation.contrast import INVERTED_SKEWNESS, CheckContrastd, smoothed_skewness
from scripts.preparation.scaling import ScalePercentilesd, replace_non_finite, scale_percentiles
from scripts.preparation.voxel_size import CheckVoxelSized, resample
from scripts.volumes.labels import draw_spheres
from scripts.volumes.monai_reader import TomogramReader
from scripts.volumes.reading import read_tomogram
from synthetic import SHAPE, image_of, make_particles, noise

ROOT = Path(__file__).resolve().parents[2]
TOMOGRAMS = [ROOT / "sample" / "sample.mrc", *sorted(ROOT.glob("../shared/data/tomograms/D*/tomogram.mrc"))]
VOXEL_SIZE = 10.0
POINTS = np.array([[6, 9, 11], [13, 20, 30]])


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


def crowded(shape=(72, 72, 72)):
    """Noise with bright balls of 60 Å radius in it."""
    centres = np.random.default_rng(2).uniform(6, 66, (40, 3))
    return noise(shape=shape) + 1.5 * draw_spheres(shape, centres, 6)


def test_bright_particles_are_silent_and_dark_ones_give_a_warning(recwarn):
    bright, dark = image_of(crowded()), image_of(-crowded())
    for image, inverted in ((bright, False), (image_of(noise(shape=(72, 72, 72))), False)):
        CheckContrastd("image", inverted)({"image": image})
    assert not recwarn.list
    with pytest.warns(InputWarning, match=r"tomogram.mrc: its particles look dark .*give --invert True if that is so"):
        assert CheckContrastd("image")({"image": dark})["image"] is dark
    with pytest.warns(InputWarning, match=r"after inversion its particles look dark .*give --invert False"):
        CheckContrastd("image", inverted=True)({"image": dark})


@pytest.mark.parametrize("path", TOMOGRAMS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_tomograms_look_bright_and_their_negatives_dark(path):
    volume = np.asarray(read_tomogram(path).data, dtype=np.float32)
    assert smoothed_skewness(scale_percentiles(volume), 10.012) > 0.5
    assert smoothed_skewness(scale_percentiles(-volume), 10.012) < INVERTED_SKEWNESS


def test_a_volume_too_small_or_too_even_to_tell_is_not_judged():
    assert smoothed_skewness(-crowded((48, 48, 48)), 10.0) is None
    assert smoothed_skewness(np.ones((72, 72, 72), dtype=np.float32), 10.0) is None


def test_another_voxel_size_is_refused_with_the_keys_to_set():
    image = image_of(noise(), 5.0)
    with pytest.raises(InputError, match=r"tomogram.mrc has voxels of 5 Å.*give --resample True, or set voxel_size"):
        CheckVoxelSized("image", VOXEL_SIZE)({"image": image})


def test_a_voxel_size_within_the_tolerance_passes_as_it_is():
    image = image_of(noise(), 10.1)
    assert CheckVoxelSized("image", VOXEL_SIZE, tolerance=0.02)({"image": image})["image"] is image
    with pytest.raises(InputError):
        CheckVoxelSized("image", VOXEL_SIZE, tolerance=0.005)({"image": image})


@pytest.mark.parametrize("voxel_size", [5.0, 7.84, 13.48])
def test_resampling_keeps_a_blob_in_its_place(voxel_size, caplog):
    shape = tuple(round(size * VOXEL_SIZE / voxel_size) for size in (40, 48, 56))
    centre = np.array([17.0, 20.0, 31.0]) * VOXEL_SIZE / voxel_size
    axes = np.ogrid[tuple(slice(0, size) for size in shape)]
    squared = sum((axis - middle) ** 2 for axis, middle in zip(axes, centre, strict=True))
    image = image_of(np.exp(-squared * (voxel_size / VOXEL_SIZE) ** 2 / 18), voxel_size)
    caplog.set_level(logging.WARNING)
    moved = CheckVoxelSized("image", VOXEL_SIZE, resample=True)({"image": image})["image"]
    grid = np.stack(np.meshgrid(*(np.arange(size) for size in moved.shape[1:]), indexing="ij"), axis=-1)
    weights = np.clip(moved[0].numpy() - 0.2, 0, None)
    found = (grid * weights[..., None]).sum((0, 1, 2)) / weights.sum()
    assert np.abs(found - [17, 20, 31]).max() < 0.05
    assert "resampled from" in caplog.text
    picks = picks_at(found[None], np.ones(1), next(iter(make_particles(1))), "run", moved, 0.0)
    assert np.allclose(picks[0].xyz_angstrom, [310, 200, 170], atol=0.6)
    assert np.allclose([picks[0].z_voxel, picks[0].y_voxel, picks[0].x_voxel], centre, atol=0.1)


def test_resampling_to_the_same_grid_changes_nothing():
    volume = torch.as_tensor(noise())[None]
    assert torch.allclose(resample(volume, SHAPE, 1.0), volume)


def test_the_line_of_a_reader_survives_the_chain_of_transforms(tmp_path):
    (tmp_path / "page.mrc").write_text("<!DOCTYPE html>" + " " * 2000)
    load = Compose([LoadImaged("image", reader=TomogramReader(), ensure_channel_first=True)])
    with pytest.raises(RuntimeError) as caught:
        load({"image": str(tmp_path / "page.mrc")})
    assert "page.mrc" in str(find_input_error(caught.value))
