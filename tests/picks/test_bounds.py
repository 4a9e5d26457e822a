import numpy as np
import pytest
from pick_files import SHAPE
from scripts.errors import InputError, InputWarning
from scripts.picks import check_inside


def points(count_inside, count_outside):
    return np.array([[9.0, 15.0, 30.0]] * count_inside + [[9.0, 15.0, 300.0]] * count_outside)


def test_most_points_outside_are_refused_with_a_question():
    with pytest.raises(
        InputError, match=r"a\.csv: 98% of the points lie outside the tomogram; are they voxels, not Å\?"
    ):
        check_inside(points(2, 98), SHAPE, "a.csv")
    with pytest.raises(InputError, match=r"98% of the points lie outside the tomogram; are they Å, not voxels"):
        check_inside(points(2, 98), SHAPE, "a.coords", "voxel")


def test_most_points_outside_are_a_warning_where_that_is_allowed():
    with pytest.warns(InputWarning, match="98% of the points lie outside"):
        check_inside(points(2, 98), SHAPE, "a.csv", allow_outside=True)


def test_a_few_points_outside_are_a_warning():
    with pytest.warns(InputWarning, match=r"a\.csv: 2 points lie outside the tomogram\."):
        check_inside(points(98, 2), SHAPE, "a.csv")


@pytest.mark.parametrize("place", [(-0.49, -0.49, -0.49), (19.49, 27.49, 35.49)])
def test_a_point_in_the_outermost_voxel_lies_inside(place, recwarn):
    assert check_inside(np.array([place]), SHAPE, "a.csv") is None
    assert not recwarn


def test_angstroms_in_the_first_corner_are_suspicious_and_voxels_are_not(recwarn):
    crowd = np.full((6, 3), 2.0)
    check_inside(crowd, SHAPE, "a.coords", "voxel")
    assert not recwarn
    with pytest.warns(InputWarning, match="all points lie in the first 20% of every axis; are they voxels, not Å"):
        check_inside(crowd, SHAPE, "a.csv")
