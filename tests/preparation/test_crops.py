import numpy as np
import pytest
import torch
from scripts.preparation.crops import COPIES, Brightness, CropShape, as_input, cut_crop, turned_copies
from synthetic import noise

PLAIN = Brightness(0.0, 1.0)


def test_a_crop_has_its_centre_in_the_middle():
    volume = np.zeros((20, 24, 28), dtype=np.float32)
    volume[9, 12, 15] = 1
    crop = cut_crop(volume, np.array([9.4, 11.6, 15.0]), 9, PLAIN)
    assert np.argwhere(crop).tolist() == [[4, 4, 4]]


def test_what_lies_outside_of_the_volume_is_the_mean():
    crop = cut_crop(noise() + 5, np.array([0.0, 27, 35]), 9, Brightness(5.0, 2.0))
    assert (crop[:4] == 0).all()
    assert (crop[:, 5:] == 0).all()
    assert (crop[:, :, 5:] == 0).all()
    assert np.allclose(crop[4:, :5, :5], noise()[:5, 23:, 31:] / 2, atol=1e-6)
    assert not cut_crop(noise(), np.array([-50.0, 0, 0]), 9, PLAIN).any()


def test_brightness_is_the_mean_and_the_deviation_of_a_tensor_or_an_array():
    volume = 3 + 2 * noise(shape=(64, 64, 64))
    for given in (volume, torch.from_numpy(volume)):
        found = Brightness.of(given)
        assert (found.mean, found.deviation) == (pytest.approx(3, abs=0.1), pytest.approx(2, abs=0.1))


def test_the_mask_is_a_soft_sphere_around_the_middle_voxel():
    mask = CropShape(32, 100.0, 10.0).mask()
    assert mask.shape == (32, 32, 32)
    assert mask[16, 16, 16] > 0.999
    assert mask[16, 16, 26] == pytest.approx(0.5)
    assert mask[16, 6, 16] == pytest.approx(0.5)
    assert mask[16, 16, 31] < 0.01
    assert CropShape(8, 0.0).mask().min() == 1


@pytest.mark.parametrize("settings", [{"size_voxels": 7}, {"size_voxels": 0}, {"mask_radius_angstrom": -1.0}])
def test_a_crop_that_cannot_be_is_refused(settings):
    with pytest.raises(ValueError, match="even side"):
        CropShape(**settings)


def test_a_turned_copy_keeps_the_middle_and_the_direction_of_the_beam():
    cut = torch.zeros(1, 9, 9, 9)
    cut[0, 4, 4, 4], cut[0, 6, 4, 4], cut[0, 4, 4, 7] = 1, 2, 3
    copies = turned_copies(cut, len(COPIES))
    assert len({tuple(copy.flatten().tolist()) for copy in copies}) == len(COPIES)
    for copy, (turns, mirrored) in zip(copies, COPIES, strict=True):
        assert copy[0, 4, 4, 4] == 1
        assert copy[0, 2 if mirrored else 6, 4, 4] == 2
        y, x = {0: (4, 7), 1: (1, 4), 2: (4, 1), 3: (7, 4)}[turns]
        assert copy[0, 4, y, x] == 3


def test_the_network_gets_an_even_crop_with_the_particle_in_the_voxel_of_the_mask():
    shape = CropShape(8, 20.0, 10.0)
    cut = torch.ones(2, shape.cut_size, shape.cut_size, shape.cut_size)
    crops = as_input(cut, shape.mask())
    assert crops.shape == (2, 1, 8, 8, 8)
    assert int(crops[0, 0].argmax()) == np.ravel_multi_index((4, 4, 4), (8, 8, 8))
