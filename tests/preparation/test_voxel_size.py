import logging

import numpy as np
import pytest
import torch
from scripts.errors import InputError, InputWarning
from scripts.picking.image_picks import picks_in_image
from scripts.preparation.image_facts import facts_of_image
from scripts.preparation.padding import find_padding
from scripts.preparation.scaling import sorted_sample_of
from scripts.preparation.voxel_size import CheckVoxelSized, resample
from synthetic import SHAPE, image_of, make_species, noise

VOXEL_SIZE = 10.0


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
    picks = picks_in_image(found[None], np.ones(1), make_species(1).picked[0], facts_of_image(moved, "run"), 0.0)
    assert np.allclose(picks[0].xyz_angstrom, [310, 200, 170], atol=0.6)
    assert np.allclose([picks[0].z_voxel, picks[0].y_voxel, picks[0].x_voxel], centre, atol=0.1)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_voxel_that_is_not_finite_does_not_spread(value):
    volume = noise()
    damaged = volume.copy()
    damaged[3, 5, 7], volume[3, 5, 7] = (
        value,
        np.median(np.delete(volume.ravel(), np.ravel_multi_index((3, 5, 7), SHAPE))),
    )
    with pytest.warns(InputWarning, match="replaced 1 NaN or infinite voxels by the median"):
        found = CheckVoxelSized("image", 7.84, resample=True)({"image": image_of(damaged, VOXEL_SIZE)})["image"]
    wanted = CheckVoxelSized("image", 7.84, resample=True)({"image": image_of(volume, VOXEL_SIZE)})["image"]
    assert torch.equal(found.as_tensor(), wanted.as_tensor())


@pytest.mark.parametrize("voxel_size", [5.0, 6.7, 13.48])
def test_padding_stays_padding(voxel_size):
    volume = noise(shape=(40, 60, 60)) * 50 + 113.7
    volume[:, np.add.outer(np.arange(60), np.arange(60)) < 40] = 113.7  # a corner, as of a turned volume
    moved = CheckVoxelSized("image", VOXEL_SIZE, resample=True)({"image": image_of(volume, voxel_size)})["image"][
        0
    ].numpy()
    corner = moved[:, : round(10 * voxel_size / 10), : round(10 * voxel_size / 10)]
    assert np.unique(corner).tolist() == [np.float32(113.7)]
    assert find_padding(moved, sorted_sample_of(moved)).value == np.float32(113.7)


def test_resampling_to_the_same_grid_changes_nothing():
    volume = torch.as_tensor(noise())[None]
    assert torch.allclose(resample(volume, SHAPE, 1.0), volume)
