import numpy as np
import pytest
from scripts.training.spheres import Spheres
from scripts.volumes.labels import draw_spheres
from synthetic import SHAPE, make_species

SPECIES_SET = make_species(3)


def test_every_species_is_painted_in_its_own_channel():
    targets = Spheres()(SHAPE, [[3, 6, 9, 11], [1, 13, 20, 30]], SPECIES_SET)
    assert targets.shape == (3, *SHAPE)
    np.testing.assert_array_equal(targets[0], draw_spheres(SHAPE, [[13, 20, 30]], radius_vox=3))
    assert targets[1].sum() == 0
    np.testing.assert_array_equal(targets[2], draw_spheres(SHAPE, [[6, 9, 11]], radius_vox=3))


def test_the_target_radius_is_in_angstroms():
    targets = Spheres()(SHAPE, [[1, 10, 14, 18]], make_species(1, 6.0))
    np.testing.assert_array_equal(targets[0], draw_spheres(SHAPE, [[10, 14, 18]], radius_vox=5))


def test_a_species_that_is_not_picked_is_not_painted():
    targets = Spheres()(SHAPE, [[0, 6, 9, 11]], SPECIES_SET)
    assert targets.sum() == 0


def test_species_may_overlap():
    targets = Spheres()(SHAPE, [[1, 6, 9, 11], [2, 6, 9, 12]], SPECIES_SET)
    assert targets[:, 6, 9, 11].tolist() == [1, 1, 0]


@pytest.mark.parametrize("points", [[], np.zeros((0, 4))])
def test_no_points_give_empty_targets(points):
    targets = Spheres()(SHAPE, points, SPECIES_SET)
    assert (targets.shape, targets.dtype, targets.sum()) == ((3, *SHAPE), np.float32, 0)


@pytest.mark.parametrize(
    ("points", "shape"), [([[6, 9, 11]], r"\(1, 3\)"), ([1, 6, 9, 11], r"\(4,\)"), ([[6, 9, 11]] * 4, r"\(4, 3\)")]
)
def test_points_without_a_label_are_refused(points, shape):
    with pytest.raises(ValueError, match=rf"labelled_points needs one row .*, shape \(N, 4\); got shape {shape}"):
        Spheres()(SHAPE, points, SPECIES_SET)
