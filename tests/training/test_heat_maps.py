"""Heat maps: a Gaussian per particle, at its exact place, in its species' channel."""

import numpy as np
import pytest
import torch
from scripts.training.heat_maps import REACH_IN_SIGMAS, HeatMaps
from scripts.training.windows import PaintTargetsd
from synthetic import SHAPE, make_species

SPECIES_SET = make_species(2, radius_angstrom=40.0)


def gaussian(centre, sigma_vox, shape=SHAPE):
    axes = np.ogrid[tuple(slice(size) for size in shape)]
    squared = sum((axis - middle) ** 2 for axis, middle in zip(axes, centre, strict=True))
    return np.exp(-squared / (2 * sigma_vox**2))


@pytest.mark.parametrize("centre", [(6, 9, 11), (6.3, 9.75, 11.5), (-2.2, 14.0, 36.9)])
def test_a_particle_is_a_gaussian_of_height_1_at_its_place_between_the_voxels(centre):
    target = HeatMaps(sigma_angstrom=30.0)(SHAPE, [[2, *centre]], SPECIES_SET)
    assert (target.shape, target.dtype) == ((2, *SHAPE), np.float32)
    assert target[0].sum() == 0
    np.testing.assert_allclose(target[1], gaussian(centre, 3.0), atol=np.exp(-(REACH_IN_SIGMAS**2) / 2))


def test_the_width_is_in_angstroms_or_in_radii_of_the_species():
    species_set = make_species(1, voxel_size_angstrom=5.0, radius_angstrom=40.0)
    for painter, sigma_vox in ((HeatMaps(sigma_angstrom=10.0), 2.0), (HeatMaps(sigma_in_radii=0.5), 4.0)):
        target = painter(SHAPE, [[1, 10, 14, 18]], species_set)
        np.testing.assert_allclose(target[0], gaussian((10, 14, 18), sigma_vox), atol=4e-6)


def test_where_particles_of_a_species_meet_the_higher_value_counts():
    target = HeatMaps(sigma_angstrom=60.0)(SHAPE, [[1, 10, 14, 12], [1, 10, 14, 22]], SPECIES_SET)
    wanted = np.maximum(gaussian((10, 14, 12), 6.0), gaussian((10, 14, 22), 6.0))
    np.testing.assert_allclose(target[0], wanted, atol=4e-6)


def test_species_do_not_mix_and_one_that_is_not_picked_is_not_painted():
    target = HeatMaps(sigma_angstrom=30.0)(SHAPE, [[1, 10, 14, 12], [2, 10, 14, 12], [0, 5, 5, 5]], SPECIES_SET)
    np.testing.assert_array_equal(target[0], target[1])
    assert target[0, 5, 5, 5] < 0.2


@pytest.mark.parametrize("points", [[], np.zeros((0, 4)), [[1, 10, 14, -80]]])
def test_no_particle_near_gives_an_empty_target(points):
    assert HeatMaps(sigma_angstrom=60.0)(SHAPE, points, SPECIES_SET).sum() == 0


@pytest.mark.parametrize("settings", [{}, {"sigma_angstrom": 60.0, "sigma_in_radii": 0.5}, {"sigma_in_radii": 0.0}])
def test_one_width_is_needed(settings):
    with pytest.raises(ValueError, match="either sigma_angstrom or sigma_in_radii, above 0"):
        HeatMaps(**settings)


def test_points_without_a_label_are_refused():
    with pytest.raises(ValueError, match=r"labelled_points needs one row .*, shape \(N, 4\); got shape \(1, 3\)"):
        HeatMaps(sigma_angstrom=60.0)(SHAPE, [[6, 9, 11]], SPECIES_SET)


def test_a_label_volume_is_painted_by_the_centres_of_its_blobs():
    paint = PaintTargetsd("label", SPECIES_SET, HeatMaps(sigma_angstrom=30.0))
    sample = {"image": torch.zeros(1, *SHAPE), "label": torch.tensor([[1.0, 10, 14, 18]])}
    with_volume = paint({**sample, "label_volume": torch.ones(1, *SHAPE)})
    torch.testing.assert_close(with_volume["label"], paint(sample)["label"])
    assert "label_volume" not in with_volume
