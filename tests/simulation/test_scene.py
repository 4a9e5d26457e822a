"""Objects in the ice are at their stated positions and do not overlap."""

import numpy as np
import pytest
from scipy.ndimage import center_of_mass
from scipy.spatial.distance import pdist
from scripts.simulation.scene import ACTIN, GOLD_IN_PROTEINS, MICROTUBULE, PROTEIN_KDA_PER_ANGSTROM3, Scene
from scripts.simulation.specimens import read_specimen

VOXEL = 10.0


def empty(shape=(48, 96, 96), thickness=480.0, seed=0, **settings):
    return Scene(shape, VOXEL, np.random.default_rng(seed), thickness, **settings)


@pytest.fixture(scope="module")
def ferritin():
    return read_specimen("apo-ferritin", {"phantom": "apo-ferritin"}, VOXEL)


@pytest.fixture(scope="module")
def ribosome():
    return read_specimen("ribosome", {"phantom": "ribosome"}, VOXEL)


def test_a_specimen_brings_its_mass_to_its_place(ribosome):
    scene, place = empty(), np.array([20.3, 40.8, 61.4])
    assert scene.add_specimen(ribosome, place)
    assert scene.density_kda.sum() == pytest.approx(ribosome.mass_kda, rel=0.01)
    np.testing.assert_allclose(center_of_mass(scene.density_kda), place, atol=0.05)
    assert scene.placed[0].name == "ribosome"
    assert scene.placed[0].centre_zyx_vox == pytest.approx(tuple(place))


def test_two_specimens_do_not_share_a_place(ferritin, ribosome):
    scene = empty()
    assert scene.add_specimen(ribosome, np.array([24.0, 48.0, 48.0]))
    before = scene.density_kda.copy()
    assert not scene.add_specimen(ferritin, np.array([24.0, 48.0, 50.0]))
    assert not scene.add_specimen(ferritin, np.array([24.0, 48.0, 58.0]))
    np.testing.assert_array_equal(scene.density_kda, before)
    assert scene.add_specimen(ferritin, np.array([24.0, 48.0, 75.0]))


def test_nothing_grows_inside_a_shell(ferritin):
    shell = read_specimen("virus-like-particle", {"phantom": "virus-like-particle"}, VOXEL)
    scene = empty()
    assert scene.add_specimen(shell, np.array([24.0, 48.0, 48.0]))
    assert not scene.add_specimen(ferritin, np.array([24.0, 48.0, 48.0]))


def test_a_specimen_cut_by_the_border_is_cut_and_nothing_more(ferritin):
    scene = empty()
    assert scene.add_specimen(ferritin, np.array([0.0, 48.0, 48.0]))
    assert 0.4 * ferritin.mass_kda < scene.density_kda.sum() < 0.7 * ferritin.mass_kda


def test_companions_touch_and_others_do_not(ferritin):
    near, far = empty((96, 256, 256), 960.0), empty((96, 256, 256), 960.0)
    assert near.add_particles([ferritin], 20, 1.0, (100.0, 130.0)) == 20
    assert far.add_particles([ferritin], 20) == 20
    gaps = {
        name: pdist([one.centre_zyx_vox for one in scene.placed]).min() * VOXEL
        for name, scene in (("near", near), ("far", far))
    }
    assert 95 <= gaps["near"] <= 130
    assert min(gaps.values()) >= 95


def test_a_full_slab_takes_no_more(ribosome):
    scene = empty((32, 64, 64), 320.0)
    assert 1 <= scene.add_particles([ribosome], 60) < 30


def test_particles_stay_in_a_thin_tilted_slab(ferritin):
    scene = empty((96, 128, 128), 300.0, slab_tilt_degree=(10.0, -15.0))
    scene.add_particles([ferritin], 30)
    centres = np.array([one.centre_zyx_vox for one in scene.placed])
    height = centres[:, 0] - scene.slab_centre_vox(centres[:, 1], centres[:, 2])
    assert len(centres) == 30
    assert np.abs(height).max() <= 15
    assert np.ptp(centres[:, 0]) > 30  # the slope takes them through more of z than the slab is thick


def test_a_vesicle_has_two_leaflets_at_its_radius():
    scene = empty((96, 96, 96), 960.0)
    scene.add_vesicle(np.array([47.0, 47.0, 47.0]), 300.0, (1.0, 1.0, 1.0))
    profile = scene.density_kda[47, 47, 47:]
    outer = np.flatnonzero(profile > 0.2 * profile.max())
    assert outer.min() >= 27
    assert outer.max() <= 33
    assert scene.density_kda[47, 47, 47] == 0
    assert scene.taken[47, 47, 77]
    assert not scene.taken[47, 47, 47]


def test_a_vesicle_of_small_voxels_keeps_its_whole_wall():
    masses = []
    for size in (10.0, 3.0):
        scene = Scene((round(720 / size),) * 3, size, np.random.default_rng(0), 720.0)
        scene.add_vesicle(np.full(3, 360 / size), 200.0, (1.2, 0.9, 0.9))
        masses.append(scene.density_kda.sum())
    assert masses[1] == pytest.approx(masses[0], rel=0.05)


@pytest.mark.parametrize(
    ("kind", "kda_per_angstrom", "widest_angstrom"), [(MICROTUBULE, 13 * 50 / 40, 150), (ACTIN, 42 / 27.5, 50)]
)
def test_a_filament_crosses_the_slab_with_its_mass_per_length(kind, kda_per_angstrom, widest_angstrom):
    scene = empty((96, 160, 160), 960.0, seed=4)
    scene.add_filament(np.array([47.0, 80.0, 80.0]), kind)
    points = np.argwhere(scene.taken)
    along = np.linalg.svd(points - points.mean(axis=0), full_matrices=False)[2][0]
    length = np.ptp(points @ along) * VOXEL
    assert length > 1400  # from one border to the other
    assert scene.density_kda.sum() / length == pytest.approx(kda_per_angstrom, rel=0.2)
    away = points - points.mean(axis=0)
    away -= np.outer(away @ along, along)
    assert np.percentile(np.linalg.norm(away, axis=1), 99) * VOXEL < widest_angstrom + 40  # a little bent
    assert scene.placed == []  # no particle


def test_a_microtubule_is_hollow():
    scene = empty((96, 160, 160), 960.0, seed=4)
    scene.add_filament(np.array([47.0, 80.0, 80.0]), MICROTUBULE)
    middle = scene.density_kda[45:50, 78:83, 78:83].mean()
    assert middle < 0.05 * scene.density_kda.max()


def test_filaments_do_not_pass_through_particles(ribosome):
    scene = empty((96, 160, 160), 960.0, seed=4)
    assert scene.add_specimen(ribosome, np.array([47.0, 80.0, 80.0]))
    before = scene.density_kda.copy()
    free = ~scene.taken
    scene.add_filament(np.array([47.0, 80.0, 80.0]), MICROTUBULE)
    np.testing.assert_array_equal(scene.density_kda[~free], before[~free])
    assert (scene.density_kda[free] > before[free]).any()


def test_specks_have_their_masses_and_leave_particles_alone(ribosome):
    scene = empty((96, 160, 160), 960.0)
    assert scene.add_specimen(ribosome, np.array([47.0, 80.0, 80.0]))
    before, solid = scene.density_kda.copy(), scene.taken.copy()
    scene.add_specks(30, 100.0, 100.0)
    np.testing.assert_array_equal(scene.density_kda[solid], before[solid])
    added = (scene.density_kda - before).sum()
    assert added == pytest.approx(30 * 100, rel=0.15)  # those at a border or beside the ribosome are cut
    assert (scene.density_kda - before).max() < 2.5 * PROTEIN_KDA_PER_ANGSTROM3 * VOXEL**3
    assert len(scene.placed) == 1


def test_a_gold_bead_weighs_what_its_volume_says():
    scene = empty()
    scene.add_gold(np.array([24.2, 48.6, 47.9]), 50.0)
    wanted = GOLD_IN_PROTEINS * PROTEIN_KDA_PER_ANGSTROM3 * 4 / 3 * np.pi * 50.0**3
    assert scene.density_kda.sum() == pytest.approx(wanted, rel=0.06)


def test_a_carbon_film_covers_its_share_on_one_face():
    scene = empty((64, 128, 128), 500.0)
    scene.add_carbon_edge(0.25, 150.0)
    shadow = scene.taken.any(axis=0)
    assert shadow.mean() == pytest.approx(0.25, abs=0.01)
    layers = np.flatnonzero(scene.taken.any(axis=(1, 2)))
    assert 14 <= len(layers) <= 17
    assert layers.max() < 32 or layers.min() > 31


def test_ice_is_uneven_in_the_slab_alone():
    scene = empty((64, 64, 64), 200.0)
    scene.add_ice_grain(0.05)
    spread = scene.density_kda.std(axis=(1, 2))
    np.testing.assert_allclose(spread[25:39], 0.05, rtol=0.1)
    assert spread[:20].max() == spread[44:].max() == 0
