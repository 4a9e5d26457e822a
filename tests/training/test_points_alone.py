"""The share of the voxels that particles fill."""

import numpy as np
import pytest
from scripts.errors import InputError
from scripts.training.points_alone import positive_shares
from scripts.training.spheres import Spheres
from scripts.volumes.labels import draw_spheres
from synthetic import SHAPE, make_species, noise, write_mrc


@pytest.fixture
def runs(tmp_path):
    return [{"image": str(write_mrc(tmp_path / "run.mrc", noise()))}]


def test_the_share_is_that_of_as_many_particles(runs):
    voxels = draw_spheres((9, 9, 9), [[4, 4, 4]], 3).sum() / np.prod(SHAPE)
    found = positive_shares({"a": 5, "b": 10}, runs, make_species(2), Spheres())
    assert found == pytest.approx([5 * voxels, 10 * voxels])


@pytest.mark.parametrize(
    ("expected", "message"),
    [
        (None, "expected_particles needs a number above 0 for a, b"),
        ({"a": 5, "b": 0}, "expected_particles needs a number above 0 for b"),
        ({"a": 5, "b": 5, "c": 5}, "expected_particles: unknown species 'c'"),
        ({"a": 5, "b": 500}, "500 particles of b would fill 305% of a tomogram"),
    ],
)
def test_numbers_that_cannot_be_are_refused(runs, expected, message):
    with pytest.raises(InputError, match=message):
        positive_shares(expected, runs, make_species(2), Spheres())
