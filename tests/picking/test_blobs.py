import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripts.picking.blobs import Blobs, find_candidates
from scripts.training.spheres import Spheres
from scripts.volumes.labels import draw_spheres
from synthetic import SHAPE, make_species

radii = st.floats(2, 6)
jitters = st.tuples(*[st.floats(-0.499, 0.499)] * 3)
directions = st.tuples(*[st.floats(-1, 1)] * 3).filter(lambda vector: np.linalg.norm(vector) > 0.1)


def painted(centres, radius_vox=3, shape=SHAPE):
    """Return spheres of probability 1 in a volume of 0."""
    return draw_spheres(shape, centres, radius_vox).astype(np.float32)


def found_in(probability, **settings):
    return find_candidates(probability, **{"threshold": 0.5, **settings})


@pytest.fixture(scope="module")
def noisy():
    """Return a smooth random volume with blobs of all shapes, many of them at the border."""
    rough = np.random.default_rng(5).random(SHAPE)
    smooth = sum(np.roll(rough, shift, axis) for axis in range(3) for shift in (-1, 0, 1)) / 9
    return smooth.astype(np.float32)


# Painting and decoding are inverses


def test_two_spheres_give_their_two_centres(assert_points_close):
    centres = [[6, 9, 11], [13, 20, 30]]
    assert_points_close(found_in(painted(centres)).centres_zyx_vox, centres, atol=1e-9)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), radius=radii, cells=st.tuples(*[st.integers(1, 3)] * 3))
def test_apart_and_inside_every_centre_comes_back_within_0_3_voxels(assert_points_close, data, radius, cells):
    side = int(np.ceil(2 * radius)) + 3  # the nearest voxels of two spheres are 2 apart
    corners = side * np.argwhere(np.ones(cells))
    chosen = data.draw(st.lists(st.sampled_from(corners.tolist()), unique_by=tuple, max_size=6))
    centres = [np.add(corner, (side - 1) / 2) + data.draw(jitters) for corner in chosen]
    found = found_in(painted(centres, radius, tuple(side * count for count in cells)))
    assert_points_close(found.centres_zyx_vox, centres, atol=0.3)


@settings(max_examples=60, deadline=None)
@given(radius_vox=st.floats(4, 12), direction=directions, jitter=jitters)
def test_touching_particles_of_one_species_stay_two(assert_points_close, radius_vox, direction, jitter):
    species_set = make_species(1, radius_angstrom=10 * radius_vox, target_radius_angstrom=5 * radius_vox)
    step = radius_vox * np.asarray(direction) / np.linalg.norm(direction)
    centres = np.array([28, 30, 32]) + jitter + [step, -step]
    target = Spheres()((56, 60, 64), [[1, *centre] for centre in centres], species_set)
    found = Blobs()(target[0], species_set.picked[0], 10.0)
    assert_points_close(found.centres_zyx_vox, centres, atol=0.3)


@settings(max_examples=80, deadline=None)
@given(radius=radii, place=st.tuples(*[st.floats(0, 1)] * 3))
def test_a_sphere_cut_by_the_border_is_found_near_its_centre(radius, place):
    centre = np.multiply(place, np.subtract(SHAPE, 1))
    (found,) = found_in(painted([centre], radius)).centres_zyx_vox
    assert np.abs(found - centre).max() <= 3 / 8 * radius + 0.5  # the centroid of half a ball lies 3/8 radius inside


@pytest.mark.parametrize("shift", [(1, 0, 0), (0, 2, 0), (0, 0, -3), (2, -4, 5)])
def test_a_shifted_volume_shifts_the_picks(shift, assert_points_close):
    volume = painted([[7, 10, 12], [12, 18, 24]], radius_vox=2.5)
    moved = found_in(np.roll(volume, shift, axis=(0, 1, 2))).centres_zyx_vox
    assert_points_close(moved, found_in(volume).centres_zyx_vox + shift, atol=1e-9)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_mirroring_the_volume_mirrors_the_picks(axis, noisy, assert_points_close):
    expected = found_in(noisy, threshold=0.65).centres_zyx_vox.copy()
    expected[:, axis] = SHAPE[axis] - 1 - expected[:, axis]
    assert_points_close(found_in(np.flip(noisy, axis), threshold=0.65).centres_zyx_vox, expected, atol=1e-6)


@pytest.mark.parametrize(("first", "second"), [(0, 1), (1, 2), (2, 0)])
def test_turning_the_volume_turns_the_picks(first, second, noisy, assert_points_close):
    expected = found_in(noisy, threshold=0.65).centres_zyx_vox.copy()
    expected[:, [first, second]] = expected[:, [second, first]]
    expected[:, first] = SHAPE[second] - 1 - expected[:, first]
    turned = found_in(np.rot90(noisy, axes=(first, second)), threshold=0.65)
    assert len(turned) > 10
    assert_points_close(turned.centres_zyx_vox, expected, atol=1e-6)


# Blobs


@pytest.mark.parametrize("value", [0.0, 0.5])
def test_a_volume_that_is_nowhere_above_the_threshold_gives_no_picks(value):
    found = found_in(np.full(SHAPE, value, dtype=np.float32))
    assert (len(found), found.centres_zyx_vox.shape, found.scores.shape, found.sizes.shape) == (0, (0, 3), (0,), (0,))


def test_a_volume_that_is_all_particle_gives_its_middle():
    found = found_in(np.full((3, 5, 7), 0.75, dtype=np.float32))
    assert found.centres_zyx_vox.tolist() == [[1, 2, 3]]
    assert (found.scores.tolist(), found.sizes.tolist()) == ([0.75], [105])


def test_one_voxel_is_enough():
    volume = np.zeros(SHAPE, dtype=np.float32)
    volume[5, 9, 11] = 0.75
    assert found_in(volume).centres_zyx_vox.tolist() == [[5, 9, 11]]


def test_surer_voxels_pull_the_centre():
    volume = np.zeros(SHAPE, dtype=np.float32)
    volume[5, 9, 11:13] = 0.75, 1.0
    assert found_in(volume).centres_zyx_vox == pytest.approx(np.array([[5, 9, 11 + 1 / 1.75]]))


def test_voxels_around_a_blob_pull_its_centre_and_no_others():
    volume = np.zeros(SHAPE, dtype=np.float32)
    volume[5, 9, 11:13] = 1.0, 0.4  # the second one lies below the threshold
    volume[5, 9, 14] = 0.4  # does not touch it
    found = found_in(volume)
    assert found.centres_zyx_vox == pytest.approx(np.array([[5, 9, 11 + 0.4 / 1.4]]))
    assert found.sizes.tolist() == [1]


def test_a_voxel_between_two_blobs_pulls_both_and_none_pulls_another():
    volume = np.zeros(SHAPE, dtype=np.float32)
    volume[0, 0, 0:5] = 1.0, 0.2, 0.2, 0.2, 1.0
    volume[0, 0, 6] = 1.0  # across the border of the volume there is nothing
    centres = found_in(volume).centres_zyx_vox
    assert centres == pytest.approx(np.array([[0, 0, 0.2 / 1.2], [0, 0, 4.6 / 1.2], [0, 0, 6.0]]))


def test_equally_sure_voxels_pull_the_centre_alike():
    volume = np.zeros(SHAPE, dtype=np.float32)
    volume[5, 9, 11:13] = 0.75
    assert found_in(volume).centres_zyx_vox.tolist() == [[5, 9, 11.5]]


def test_a_score_is_the_highest_probability_of_its_own_blob():
    volume = np.zeros(SHAPE, dtype=np.float32)
    volume[5, 9, 11:14], volume[15, 20, 30:32] = (0.625, 0.75, 0.5625), (1.0, 0.875)
    found = found_in(volume)
    assert sorted(zip(found.scores, found.sizes, strict=True)) == [(0.75, 3), (1.0, 2)]


def test_a_higher_threshold_splits_a_blob():
    volume = np.zeros(SHAPE, dtype=np.float32)
    volume[5, 9, 11:14] = 1.0, 0.6, 1.0
    assert (len(found_in(volume, threshold=0.5)), len(found_in(volume, threshold=0.7))) == (1, 2)


def test_blobs_smaller_than_min_voxels_are_dropped():
    volume = np.zeros(SHAPE, dtype=np.float32)
    volume[5, 9, 11:14], volume[15, 20, 30:32] = 0.75, 0.75
    kept = [found_in(volume, min_voxels=least).sizes.tolist() for least in (2, 3, 4)]
    assert kept == [[3, 2], [3], []]


@pytest.mark.parametrize(
    ("neighbour", "connectivity", "count"),
    [((5, 9, 12), 6, 1), ((5, 10, 12), 6, 2), ((5, 10, 12), 18, 1), ((6, 10, 12), 18, 2), ((6, 10, 12), 26, 1)],
)
def test_connectivity_says_whether_edges_and_corners_join(neighbour, connectivity, count):
    volume = np.zeros(SHAPE, dtype=np.float32)
    volume[5, 9, 11] = volume[neighbour] = 1
    assert len(found_in(volume, connectivity=connectivity)) == count


def test_a_probability_just_above_the_threshold_counts():
    volume = np.zeros(SHAPE, dtype=np.float32)
    volume[5, 9, 11] = np.nextafter(np.float32(0.7), np.float32(1))
    assert found_in(volume, threshold=0.7).centres_zyx_vox.tolist() == [[5, 9, 11]]


def test_only_a_single_volume_is_taken():
    with pytest.raises(ValueError, match=r"one volume of shape \(Z, Y, X\); got shape \(1, 20, 28, 36\)\."):
        found_in(np.zeros((1, *SHAPE), dtype=np.float32))


# Picks of a species


def test_a_species_is_picked_with_its_own_threshold_and_smallest_blob():
    volume = np.zeros(SHAPE, dtype=np.float32)
    volume[5, 9, 11:14], volume[15, 20, 30:32], volume[15, 5, 6:10] = 0.9, 0.9, 0.7
    (species,) = make_species(1, probability_threshold=0.8, min_voxels=3).picked
    assert Blobs()(volume, species, voxel_size_angstrom=10.0).centres_zyx_vox.tolist() == [[5, 9, 12]]


@pytest.mark.parametrize(
    ("voxel_size", "radii", "count"), [(10.0, 1.0, 1), (20.0, 1.0, 2), (10.0, 0.5, 2), (20.0, 2.0, 1), (10.0, 0, 2)]
)
def test_the_merge_distance_is_in_radii_of_the_particle(voxel_size, radii, count):
    (species,) = make_species(1, radius_angstrom=80.0).picked  # 8 voxels of 10 Å
    volume = painted([[10, 14, 10], [10, 14, 17]], radius_vox=2)
    assert len(Blobs(merge_distance_in_radii=radii)(volume, species, voxel_size)) == count


def test_blobs_nearer_than_a_radius_are_one_particle_unless_said():
    (species,) = make_species(1, radius_angstrom=80.0).picked
    volume = painted([[10, 14, 10], [10, 14, 17]], radius_vox=2)
    assert Blobs()(volume, species, 10.0).centres_zyx_vox.tolist() == [[10, 14, 13.5]]


def test_connectivity_reaches_the_search_for_blobs():
    (species,) = make_species(1).picked
    volume = np.zeros(SHAPE, dtype=np.float32)
    volume[5, 9, 11] = volume[6, 10, 12] = 1
    counts = [len(Blobs(0, connectivity)(volume, species, 10.0)) for connectivity in (6, 26)]
    assert counts == [2, 1]


def test_an_empty_volume_gives_a_species_no_picks():
    (species,) = make_species(1).picked
    assert len(Blobs()(np.zeros(SHAPE, dtype=np.float32), species, 10.0)) == 0
