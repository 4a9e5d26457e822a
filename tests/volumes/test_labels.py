import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripts.errors import InputError
from scripts.volumes.labels import draw_spheres, points_of_labels, split_labels
from synthetic import SHAPE, make_species

SPECIES_SET = make_species(3)

shapes = st.tuples(st.integers(1, 16), st.integers(1, 18), st.integers(1, 20))

centres = st.lists(st.tuples(*[st.floats(-6, 26)] * 3), max_size=4)


def slow_spheres(shape, points, radius):
    indices = np.stack(np.indices(shape), axis=-1)
    painted = np.zeros(shape, dtype=bool)
    for point in points:
        painted |= ((indices - point) ** 2).sum(-1) <= radius**2
    return painted


# Spheres


def test_a_sphere_of_radius_1_is_a_voxel_and_its_six_neighbours():
    painted = draw_spheres(SHAPE, [[6, 9, 11]], radius_vox=1)
    assert sorted(np.argwhere(painted).tolist()) == [
        [5, 9, 11], [6, 8, 11], [6, 9, 10], [6, 9, 11], [6, 9, 12], [6, 10, 11], [7, 9, 11],
    ]  # fmt: skip


def test_a_centre_between_two_voxels_paints_both_alike():
    painted = draw_spheres(SHAPE, [[6, 9, 11.5]], radius_vox=0.5)
    assert np.argwhere(painted).tolist() == [[6, 9, 11], [6, 9, 12]]


def test_a_shipped_target_paints_as_many_voxels_as_published(shipped_species):
    sizes = [
        draw_spheres(SHAPE, [[10, 14, 18]], one.target_radius_angstrom / shipped_species.voxel_size_angstrom).sum()
        for one in shipped_species.picked
    ]
    assert sizes == [93, 389, 485, 341, 389]


@settings(max_examples=60, deadline=None)
@given(shape=shapes, points=centres, radius=st.floats(0.1, 7))
def test_spheres_equal_those_of_a_slow_and_plain_way(shape, points, radius):
    np.testing.assert_array_equal(draw_spheres(shape, points, radius), slow_spheres(shape, points, radius))


@pytest.mark.parametrize("outside", [[-4, 9, 11], [6, 40, 11], [6, 9, 39], [-100, -100, -100]])
def test_a_sphere_outside_the_volume_paints_nothing(outside):
    assert draw_spheres(SHAPE, [outside], radius_vox=3).sum() == 0


def test_spheres_have_the_value_asked_for():
    assert np.unique(draw_spheres(SHAPE, [[6, 9, 11]], radius_vox=2, value=5)).tolist() == [0, 5]


def test_no_centres_paint_nothing():
    painted = draw_spheres(SHAPE, [], radius_vox=3)
    assert (painted.shape, painted.dtype, painted.sum()) == (SHAPE, np.uint8, 0)


def test_centres_of_another_shape_are_refused():
    with pytest.raises(ValueError, match="centres_zyx_vox needs one row of 3 numbers per point"):
        draw_spheres(SHAPE, [6, 9, 11], radius_vox=3)


# Label volumes


def test_labels_become_one_channel_per_species():
    labels = draw_spheres(SHAPE, [[6, 9, 11]], 2, value=2) + draw_spheres(SHAPE, [[13, 20, 30]], 3, value=3)
    channels = split_labels(labels, SPECIES_SET.picked)
    assert (channels.shape, channels.dtype) == ((3, *SHAPE), np.uint8)
    assert [channel.sum() for channel in channels] == [0, 33, 123]
    assert channels[1][6, 9, 11] == channels[2][13, 20, 30] == 1


def test_points_of_labels_are_label_and_centre_of_every_blob(assert_points_close):
    labels = draw_spheres(SHAPE, [[6, 9, 11], [13, 20, 9]], 2, value=3) + draw_spheres(SHAPE, [[13, 20, 30]], 3)
    rows = points_of_labels(labels, SPECIES_SET, "labels.mrc")
    assert sorted(rows[:, 0]) == [1, 3, 3]
    assert_points_close(rows[rows[:, 0] == 3, 1:], [[6, 9, 11], [13, 20, 9]], atol=1e-9)
    assert_points_close(rows[rows[:, 0] == 1, 1:], [[13, 20, 30]], atol=1e-9)


def test_blobs_that_touch_stay_apart_when_their_labels_differ(assert_points_close):
    labels = np.zeros(SHAPE, dtype=np.int16)
    labels[5, 9, 10:13], labels[5, 9, 13:16] = 1, 2
    rows = points_of_labels(labels, SPECIES_SET, "labels.mrc")
    assert sorted(rows.tolist()) == [[1, 5, 9, 11], [2, 5, 9, 14]]


def test_voxels_that_share_a_corner_are_one_blob():
    labels = np.zeros(SHAPE, dtype=np.uint8)
    labels[5, 9, 11] = labels[6, 10, 12] = 1
    assert points_of_labels(labels, SPECIES_SET, "labels.mrc").tolist() == [[1, 5.5, 9.5, 11.5]]


def test_points_become_labels_and_points_again(assert_points_close):
    rows = np.array([[1, 5, 6, 7], [2, 14, 20, 8], [2, 6, 20, 28], [3, 14, 7, 27]])
    labels = sum(draw_spheres(SHAPE, [row[1:]], 3, value=int(row[0])) for row in rows)
    found = points_of_labels(labels, SPECIES_SET, "labels.mrc")
    assert sorted(found[:, 0]) == [1, 2, 2, 3]
    assert_points_close(100 * found[:, :1] + found[:, 1:], 100 * rows[:, :1] + rows[:, 1:], atol=1e-9)


@pytest.mark.parametrize("order", ["C", "F"])
def test_the_layout_in_memory_does_not_matter(order):
    labels = np.asarray(draw_spheres(SHAPE, [[6, 9, 11]], 2), order=order)
    assert points_of_labels(labels, SPECIES_SET, "labels.mrc").tolist() == [[1, 6, 9, 11]]


def test_an_empty_label_volume_gives_no_points():
    assert points_of_labels(np.zeros(SHAPE, dtype=np.uint8), SPECIES_SET, "labels.mrc").shape == (0, 4)


def test_a_label_volume_without_background_gives_one_point():
    labels = np.full((3, 5, 7), 2, dtype=np.uint8)
    assert points_of_labels(labels, SPECIES_SET, "labels.mrc").tolist() == [[2, 1, 2, 3]]


@pytest.mark.parametrize(("label", "dtype"), [(4, np.uint8), (257, np.int32), (-1, np.int16)])
def test_a_label_without_a_species_is_refused(label, dtype):
    labels = np.zeros(SHAPE, dtype=dtype)
    labels[5, 9, 11] = label
    message = rf"labels\.mrc: labels \[{label}\] belong to no species; known are 1 to 3\."
    with pytest.raises(InputError, match=message):
        points_of_labels(labels, SPECIES_SET, "labels.mrc")
