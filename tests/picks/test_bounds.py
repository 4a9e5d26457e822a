import numpy as np
import pytest
from pick_files import SHAPE
from scripts.errors import InputError, InputWarning
from scripts.picks import check_inside, check_unit


def points(count_inside, count_outside):
    return np.array([[9.0, 15.0, 30.0]] * count_inside + [[9.0, 15.0, 300.0]] * count_outside)


def test_most_points_outside_are_refused_with_a_question():
    with pytest.raises(
        InputError, match=r"a\.csv: 98% of the points lie outside the tomogram; do they belong to another tomogram\?"
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


def anywhere(count, shape=SHAPE, seed=0):
    return np.random.default_rng(seed).uniform(0, np.array(shape) - 1, (count, 3))


@pytest.mark.parametrize(
    ("voxel_size", "factor", "units"),
    [(10.0, 10.0, "voxels or nm"), (5.0, 5.0, "voxels"), (13.48, 13.48, "voxels or nm"), (5.0, 10.0, "voxels or nm")],
)
def test_a_handful_of_points_in_voxels_or_nanometres_is_refused(voxel_size, factor, units):
    wrong = rf"t\.csv: 8 of 8 points lie close to where the coordinates begin; are they {units}, not Å\? Write Å: .*"
    with pytest.raises(InputError, match=rf"{wrong}10\. If they are Å, give --x\.$"):
        check_unit(anywhere(8) / factor, SHAPE, voxel_size, "t.csv", "--x")
    with pytest.warns(InputWarning, match=rf"{wrong}10\.$"):
        check_unit(anywhere(8) / factor, SHAPE, voxel_size, "t.csv", "--x", allow_near=True)


def test_two_points_tell_the_unit_and_one_is_a_warning():
    with pytest.raises(InputError, match="2 of 2 points lie close"):
        check_unit(anywhere(2) / 10, SHAPE, 10.0, "t.csv", "--x")
    with pytest.warns(InputWarning, match="1 of 1 points lie close .* are they voxels or nm"):
        check_unit(anywhere(1) / 10, SHAPE, 10.0, "t.csv", "--x")


def test_a_wrong_row_does_not_hide_the_unit():
    points = anywhere(20) / 10
    points[7] = 15.0
    with pytest.raises(InputError, match="19 of 20 points lie close"):
        check_unit(points, SHAPE, 10.0, "t.csv", "--x")


def test_voxels_that_count_from_the_centre_are_recognised():
    centre = np.array(SHAPE) / 2
    with pytest.raises(InputError, match="6 of 6 points lie close"):
        check_unit(centre + (anywhere(6) - centre) / 10, SHAPE, 10.0, "t.star", "--x", centre)


@pytest.mark.parametrize("points", [anywhere(0), anywhere(1), anywhere(50), anywhere(9) / 2, anywhere(5, (9, 9, 9))])
def test_points_in_angstroms_are_not_questioned(points, recwarn):
    check_unit(points, SHAPE, 10.0, "t.csv", "--x")
    check_unit(points, SHAPE, 1.0, "t.csv", "--x")
    assert not recwarn


def test_exchanged_axes_are_refused_though_few_points_lie_outside():
    slab = (20, 60, 64)
    points = np.vstack([anywhere(8, (20, 60, 20)), [[50.0, 9.0, 15.0], [40.0, 9.0, 12.0]]])
    wrong = r"2 points lie outside the tomogram; all lie inside if x and z are exchanged: are the columns z, y, x\?"
    with pytest.raises(InputError, match=wrong):
        check_inside(points, slab, "t.csv")
    with pytest.warns(InputWarning, match=r"1 points lie outside the tomogram; all lie inside if x and z are exch"):
        check_inside(points[:-1], slab, "t.csv")
    with pytest.raises(InputError, match=r"100% of the points lie outside the tomogram; all lie inside if x and z"):
        check_inside(points[-2:], slab, "t.csv")


def test_points_that_count_from_the_centre_are_refused_with_the_remedy():
    with pytest.raises(InputError, match=r"lie outside the tomogram; all lie inside if they count from the tomogram's"):
        check_inside(anywhere(12) - np.array(SHAPE) / 2, SHAPE, "t.csv")
