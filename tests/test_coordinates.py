import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripts.coordinates import affine_of, as_points, directions_of, to_xyz_angstrom, to_zyx_vox, voxel_size_of

coordinates = st.floats(-2000, 2000)
points = st.lists(st.tuples(coordinates, coordinates, coordinates), max_size=5)
voxel_sizes = st.floats(0.5, 50)


def test_a_voxel_index_becomes_x_y_z_in_angstroms():
    assert to_xyz_angstrom([[1, 2, 3], [0, 0, 0]], 10.0).tolist() == [[30, 20, 10], [0, 0, 0]]


def test_angstroms_become_a_voxel_index_z_y_x():
    assert to_zyx_vox([[30, 20, 10]], 10.0).tolist() == [[1, 2, 3]]


def test_with_offset_a_half_voxel_0_lies_half_a_voxel_from_the_corner():
    assert to_xyz_angstrom([[0, 1, 2]], 10.0, voxel_offset=0.5).tolist() == [[25, 15, 5]]
    assert to_zyx_vox([[25, 15, 5]], 10.0, voxel_offset=0.5).tolist() == [[0, 1, 2]]


@settings(deadline=None)
@given(points=points, voxel_size=voxel_sizes, offset=st.sampled_from([0.0, 0.5, -1.25]))
def test_there_and_back_gives_the_same_points(points, voxel_size, offset):
    back = to_zyx_vox(to_xyz_angstrom(points, voxel_size, offset), voxel_size, offset)
    np.testing.assert_allclose(back, np.reshape(points, (-1, 3)), atol=1e-9)


@settings(deadline=None)
@given(points=points, voxel_size=voxel_sizes)
def test_twice_the_voxel_size_gives_twice_the_angstroms(points, voxel_size):
    np.testing.assert_allclose(
        to_xyz_angstrom(points, 2 * voxel_size), 2 * to_xyz_angstrom(points, voxel_size), atol=1e-9
    )


def test_a_step_along_z_moves_the_third_coordinate_only():
    moved = to_xyz_angstrom([[5, 7, 9]], 4.0) - to_xyz_angstrom([[4, 7, 9]], 4.0)
    assert moved.tolist() == [[0, 0, 4]]


@pytest.mark.parametrize("empty", [[], [[]], np.zeros((0, 3)), np.zeros((0, 3), dtype=np.int64)])
def test_no_points_have_shape_0_by_3(empty):
    for array in (as_points(empty, "points"), to_xyz_angstrom(empty, 10.0), to_zyx_vox(empty, 10.0)):
        assert (array.shape, array.dtype) == ((0, 3), np.float64)


def test_whole_numbers_become_floats():
    assert as_points([[1, 2, 3]], "points").dtype == np.float64


@pytest.mark.parametrize(
    ("points", "shape"), [([1, 2, 3], r"\(3,\)"), ([[1, 2]], r"\(1, 2\)"), ([[[1, 2, 3]]], r"\(1, 1, 3\)")]
)
def test_points_of_another_shape_are_refused(points, shape):
    with pytest.raises(ValueError, match=rf"centres needs one row of 3 numbers per point, .*; got shape {shape}\."):
        as_points(points, "centres")


@pytest.mark.parametrize(
    ("convert", "name"), [(to_xyz_angstrom, "points_zyx_vox"), (to_zyx_vox, "points_xyz_angstrom")]
)
def test_a_conversion_names_its_points(convert, name):
    with pytest.raises(ValueError, match=f"{name} needs one row"):
        convert([[1, 2]], 10.0)


def test_the_affine_takes_an_index_to_x_y_z():
    assert (affine_of(10.0) @ [1, 2, 3, 1]).tolist() == [30, 20, 10, 1]


@settings(deadline=None)
@given(point=st.tuples(coordinates, coordinates, coordinates), voxel_size=voxel_sizes)
def test_the_affine_and_the_conversion_agree(point, voxel_size):
    np.testing.assert_allclose(
        (affine_of(voxel_size) @ [*point, 1])[:3], to_xyz_angstrom([point], voxel_size)[0], atol=1e-9
    )


@settings(deadline=None)
@given(voxel_size=voxel_sizes)
def test_an_affine_gives_its_voxel_size_back(voxel_size):
    assert voxel_size_of(affine_of(voxel_size)) == pytest.approx(voxel_size)


def test_the_voxel_size_of_rounded_axes_is_their_mean_wherever_the_volume_lies():
    affine = np.diag([9.9, 10.0, -10.1, 1.0])
    affine[:3, 3] = 500, -700, 900
    assert voxel_size_of(affine) == pytest.approx(10.0)


def test_directions_are_the_signs_along_x_y_and_z():
    assert directions_of(affine_of(10.0)) == (1, 1, 1)
    assert directions_of(np.diag([-1, 1, -1, 1]) @ affine_of(10.0)) == (-1, 1, -1)
