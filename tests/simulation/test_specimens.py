"""Densities from every source have the right mass, size and centre, and keep them when they are rotated."""

import numpy as np
import pytest
from scipy import ndimage
from scripts.errors import InputError
from scripts.simulation import specimens
from scripts.simulation.phantoms import PHANTOMS
from scripts.simulation.specimens import (
    distances,
    map_specimen,
    model_specimen,
    random_rotation,
    read_specimen,
    rotated,
    scaled,
)
from synthetic import gyration_radius_angstrom, write_mrc


def bumps(shape=(26, 30, 34), voxel_size_angstrom=10.0):
    """Return an uneven, off-centre blob in a volume, with values between -1 and 50."""
    z, y, x = np.indices(shape)
    balls = [(11.3, 14.2, 15.1, 30), (13.0, 17.5, 18.4, 20), (9.0, 12.0, 20.0, 12)]
    return sum(value * np.exp(-((z - a) ** 2 + (y - b) ** 2 + (x - c) ** 2) / 4.0) for a, b, c, value in balls) - 1e-9


def centre_of(density):
    return np.array(ndimage.center_of_mass(density.astype(np.float64)))


def offset_from_middle(density):
    return np.abs(centre_of(density) - (np.array(density.shape) - 1) / 2).max()


@pytest.fixture(scope="module")
def lopsided(all_phantoms):
    return all_phantoms["ribosome"]


@pytest.fixture
def map_path(tmp_path):
    return write_mrc(tmp_path / "blob.mrc", bumps())


# Every specimen


@pytest.mark.parametrize("name", PHANTOMS)
def test_a_density_stands_in_the_middle_of_an_odd_cube(all_phantoms, name):
    density = all_phantoms[name].density_kda
    assert len(set(density.shape)) == 1
    assert density.shape[0] % 2 == 1
    assert offset_from_middle(density) < 0.02


@pytest.mark.parametrize("name", PHANTOMS)
def test_a_density_keeps_two_empty_voxels_of_margin_however_it_turns(all_phantoms, name):
    density = all_phantoms[name].density_kda
    assert distances(density.shape[0])[density > 0].max() <= (density.shape[0] - 1) / 2 - 2


def test_the_radius_holds_95_percent_of_the_mass(lopsided):
    distance = distances(lopsided.density_kda.shape[0]) * lopsided.voxel_size_angstrom
    inside = lopsided.density_kda[distance <= lopsided.radius_angstrom].sum() / lopsided.mass_kda
    assert inside == pytest.approx(0.95, abs=0.01)


def test_a_density_is_safe_from_changes(lopsided):
    with pytest.raises(ValueError, match="read-only"):
        lopsided.density_kda[0, 0, 0] = 1


def test_scaling_changes_the_mass_alone(lopsided):
    light = scaled(lopsided, 43.0)
    assert light.mass_kda == pytest.approx(43.0, rel=1e-5)
    np.testing.assert_allclose(light.density_kda * 100, lopsided.density_kda, rtol=1e-5)


def test_distances_count_from_the_given_centre():
    assert distances((4, 5, 6), (1, 2, 3))[1, 2, 5] == 2
    assert distances(5)[2, 2, 4] == 2


# From a map


def test_a_map_gets_the_wanted_mass(map_path):
    specimen = read_specimen("blob", {"map": str(map_path), "mass_kda": 465}, 10.0)
    assert specimen.name == "blob"
    assert specimen.mass_kda == pytest.approx(465, rel=1e-5)


def test_a_map_without_a_mass_is_divided_by_its_units(map_path):
    units = bumps().clip(0).sum()
    assert map_specimen("blob", map_path, 10.0).mass_kda == pytest.approx(units / 28.5, rel=0.01)
    assert map_specimen("blob", map_path, 10.0, units_per_kda=57).mass_kda == pytest.approx(units / 57, rel=0.01)


@pytest.mark.parametrize("voxel_size_angstrom", [5.0, 7.3, 10.0, 13.1])
def test_a_map_is_centred_at_any_voxel_size(map_path, voxel_size_angstrom):
    specimen = map_specimen("blob", map_path, voxel_size_angstrom)
    assert specimen.voxel_size_angstrom == voxel_size_angstrom
    assert offset_from_middle(specimen.density_kda) < 0.02
    assert specimen.mass_kda == pytest.approx(bumps().clip(0).sum() / 28.5, rel=0.01)


@pytest.mark.parametrize("voxel_size_angstrom", [7.0, 10.0, 13.0])
def test_a_map_with_sharp_edges_is_centred_too(tmp_path, voxel_size_angstrom):
    values = np.zeros((30, 30, 30))
    values[10:13, 10:16, 9:17], values[13:18, 10:12, 9:12], values[10, 10, 17] = 1, 1, 5
    path = write_mrc(tmp_path / "blocks.mrc", values)
    assert offset_from_middle(map_specimen("blocks", path, voxel_size_angstrom).density_kda) < 0.005


@pytest.mark.parametrize("voxel_size_angstrom", [5.0, 7.3, 10.0, 13.1])
def test_a_resampled_map_keeps_its_size_in_angstroms(map_path, voxel_size_angstrom):
    original = gyration_radius_angstrom(map_specimen("blob", map_path, 10.0))
    blur = 0.25 * 3 * max(voxel_size_angstrom**2 - 100, 0)  # what the low-pass adds
    found = gyration_radius_angstrom(map_specimen("blob", map_path, voxel_size_angstrom))
    assert found**2 == pytest.approx(original**2 + blur, rel=0.02)


def test_a_map_keeps_the_order_of_its_axes(tmp_path):
    values = np.zeros((20, 24, 28))
    values[8, 8:13, 8:20] = 1
    specimen = map_specimen("bar", write_mrc(tmp_path / "bar.mrc", ndimage.gaussian_filter(values, 1)), 10.0)
    index = np.indices(specimen.density_kda.shape).reshape(3, -1)
    spread = [np.cov(axis, aweights=specimen.density_kda.ravel()) for axis in index]
    assert spread[0] < spread[1] < spread[2]


def test_fine_detail_does_not_alias_into_a_coarse_map(tmp_path):
    values = np.zeros((40, 40, 40))
    values[8:32:2, 8:32, 8:32] = 1  # sheets two voxels apart, too fine for the resampled voxels
    path = write_mrc(tmp_path / "sheets.mrc", values, voxel_size_angstrom=2.0)
    middle = map_specimen("sheets", path, 5.0).density_kda
    half = middle.shape[0] // 2
    core = middle[half - 2 : half + 3, half, half]
    assert core.std() < 0.02 * core.mean()


def test_density_inside_a_shell_is_cleared_on_request(tmp_path):
    radius = distances((41, 41, 41))
    values = np.exp(-((radius - 12) ** 2) / 4.0)
    values[20, 20, 20:24] = 9
    path = write_mrc(tmp_path / "shell.mrc", values)
    full, hollow = (map_specimen("shell", path, 10.0, clear_inside_angstrom=inside) for inside in (0, 60))
    is_inside = distances(hollow.density_kda.shape[0]) < 5
    assert full.density_kda[distances(full.density_kda.shape[0]) < 5].max() > 0.1
    assert hollow.density_kda[is_inside].max() == pytest.approx(0, abs=1e-3)


def test_values_below_a_minimum_are_removed_on_request(map_path):
    assert (
        map_specimen("blob", map_path, 10.0, min_value=10).mass_kda < 0.8 * map_specimen("b", map_path, 10.0).mass_kda
    )


def test_a_map_without_density_is_refused(tmp_path):
    path = write_mrc(tmp_path / "dark.mrc", -bumps() - 1)
    with pytest.raises(InputError, match=r"dark\.mrc holds no density: check its contrast"):
        map_specimen("dark", path, 10.0)


def test_a_map_with_values_that_are_not_numbers_is_refused(tmp_path):
    path = write_mrc(tmp_path / "bad.mrc", bumps())
    path.write_bytes(path.read_bytes()[:-4] + np.float32(np.nan).tobytes())  # the last voxel
    with pytest.raises(InputError, match=r"bad\.mrc holds values that are not numbers"):
        map_specimen("bad", path, 10.0)


def test_a_map_without_a_voxel_size_is_refused(tmp_path):
    path = write_mrc(tmp_path / "bare.mrc", bumps(), voxel_size_angstrom=0.0)
    with pytest.raises(InputError, match=r"bare\.mrc states no voxel size: write it into the header"):
        map_specimen("bare", path, 10.0)


# From an atomic model


def test_two_atoms_lie_as_far_apart_in_the_density_as_in_the_file(write_model):
    path = write_model([("ZN", "ZN", (3, 4, 0)), ("ZN", "ZN", (13.7, 27.3, 88.9))])
    specimen = model_specimen("pair", path, 10.0, None)
    half = (specimen.density_kda.shape[0] - 1) // 2
    upper = specimen.density_kda[half + 1 :]
    found = (centre_of(upper) + np.array([1, -half, -half])) * 10  # offset of the second atom from the middle
    assert found == pytest.approx(np.array([88.9, 23.3, 10.7]) / 2, abs=0.1)


def test_a_model_weighs_what_its_atoms_weigh(write_model):
    path = write_model([("ZN", "ZN", (0, 0, 0)), ("ZN", "ZN", (0, 0, 20))])
    assert read_specimen("zinc", {"model": str(path)}, 8.0).mass_kda == pytest.approx(0.13076, rel=1e-3)
    heavy = read_specimen("zinc", {"model": path, "mass_kda": 12.0}, 8.0)
    assert heavy.mass_kda == pytest.approx(12.0, rel=1e-5)


def test_an_assembly_that_the_file_does_not_name_is_refused(write_model):
    path = write_model([("ZN", "ZN", (0, 0, 0))])
    with pytest.raises(InputError, match=r"model\.cif names no biological assembly: set assembly to false"):
        read_specimen("zinc", {"model": path, "assembly": True}, 10.0)


# Settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "specimen 's' needs one of map, model, phantom; got only"),
        ({"map": "a.mrc", "phantom": "ribosome"}, "needs one of map, model, phantom; got map and phantom"),
        (
            {"phantom": "ribosome", "min_value": 1},
            r"\['min_value'\] do not go with 'phantom'; known are \['mass_kda'\]",
        ),
        ({"map": "a.mrc", "mass": 1}, r"\['mass'\] do not go with 'map'; known are"),
        ({"map": "a.mrc", "mass_kda": 1, "units_per_kda": 2}, "mass_kda and units_per_kda both set the mass; keep one"),
        ({"map": 3}, "map must be a text; got 3"),
        ({"phantom": "ribosome", "mass_kda": 0}, "mass_kda must be a positive number; got 0"),
        ({"phantom": "ribosome", "mass_kda": True}, "mass_kda must be a positive number; got True"),
        ({"map": "a.mrc", "clear_inside_angstrom": -1}, "clear_inside_angstrom must be a number from 0; got -1"),
        ({"model": "a.pdb", "assembly": 1}, "assembly must be true or false; got 1"),
        ({"phantom": "ribosom"}, "there is no phantom 'ribosom'; known are apo-ferritin"),
        ({"map": "absent.mrc"}, r"cannot read absent\.mrc: no such file"),
    ],
)
def test_wrong_settings_are_refused_by_name(settings, message):
    with pytest.raises(InputError, match=message):
        read_specimen("s", settings, 10.0)


@pytest.mark.parametrize("voxel_size_angstrom", [0, -1.0, float("nan")])
def test_a_voxel_size_must_be_positive(voxel_size_angstrom):
    with pytest.raises(InputError, match="voxel_size_angstrom is a positive number"):
        read_specimen("s", {"phantom": "albumin"}, voxel_size_angstrom)


def test_a_phantom_can_go_by_another_name_and_mass():
    specimen = read_specimen("crowder", {"phantom": "albumin", "mass_kda": 50}, 10.0)
    assert (specimen.name, round(specimen.mass_kda, 3)) == ("crowder", 50.0)


# In any orientation


def test_no_turn_and_no_shift_give_the_density_back(lopsided):
    np.testing.assert_allclose(rotated(lopsided, np.eye(3)), lopsided.density_kda, atol=1e-5)


@pytest.mark.parametrize("axes", [(0, 1), (1, 2), (0, 2)])
def test_a_quarter_turn_moves_voxels_onto_voxels(lopsided, axes):
    turn = np.eye(3)
    turn[[axes[0], axes[0], axes[1], axes[1]], [axes[0], axes[1], axes[0], axes[1]]] = 0, -1, 1, 0  # first to second
    np.testing.assert_allclose(rotated(lopsided, turn), np.rot90(lopsided.density_kda, axes=axes), atol=1e-4)


@pytest.mark.parametrize("seed", range(2))
def test_a_turn_and_a_shift_keep_mass_and_move_the_centre(all_phantoms, seed):
    random = np.random.default_rng(seed)
    for specimen in all_phantoms.values():
        shift = random.uniform(-0.5, 0.5, 3)
        moved = rotated(specimen, random_rotation(random), shift)
        assert moved.sum() == pytest.approx(specimen.mass_kda, rel=0.01)
        assert centre_of(moved) - (moved.shape[0] - 1) / 2 == pytest.approx(shift, abs=0.02)


def test_turning_back_gives_the_density_back(lopsided):
    turn = random_rotation(np.random.default_rng(3))
    there = specimens.Specimen("there", rotated(lopsided, turn), 10.0, lopsided.radius_angstrom)
    back = rotated(there, turn.T)
    assert np.abs(back - lopsided.density_kda).max() < 0.05 * lopsided.density_kda.max()
    assert np.corrcoef(back.ravel(), lopsided.density_kda.ravel())[0, 1] > 0.999


def test_rotating_equals_the_plain_interpolation_of_the_whole_box(lopsided):
    turn, shift = random_rotation(np.random.default_rng(4)), np.array([0.3, -0.2, 0.45])
    middle = (lopsided.density_kda.shape[0] - 1) / 2
    plain = ndimage.affine_transform(lopsided.density_kda, turn.T, middle - turn.T @ (middle + shift), order=3)
    assert np.abs(rotated(lopsided, turn, shift) - plain).max() < 5e-3 * plain.max()


@pytest.mark.parametrize("rotation", [np.eye(2), 2 * np.eye(3), np.diag([1, 1, -1])])
def test_what_is_no_rotation_is_refused(lopsided, rotation):
    with pytest.raises(ValueError, match="rotation must be a 3 x 3 rotation matrix"):
        rotated(lopsided, rotation)


@pytest.mark.parametrize("shift", [[0.6, 0, 0], [0, 0], [np.nan, 0, 0]])
def test_a_shift_beyond_half_a_voxel_is_refused(lopsided, shift):
    with pytest.raises(ValueError, match=r"shift_zyx_vox must be three numbers from -0\.5 to 0\.5"):
        rotated(lopsided, np.eye(3), shift)


def test_random_rotations_are_rotations_and_come_from_the_generator():
    first, again, other = (random_rotation(np.random.default_rng(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)
    np.testing.assert_allclose(first @ first.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(first) == pytest.approx(1)


def test_random_rotations_favour_no_orientation():
    random = np.random.default_rng(0)
    turns = np.stack([random_rotation(random) for _ in range(4000)])
    assert np.abs(turns.mean(axis=0)).max() < 0.04  # each axis goes everywhere
    assert np.abs((turns**2).mean(axis=0) - 1 / 3).max() < 0.03  # and evenly over the sphere
    angles = np.arccos((np.trace(turns, axis1=1, axis2=2).clip(-1, 3) - 1) / 2)
    assert angles.mean() == pytest.approx(np.pi / 2 + 2 / np.pi, abs=0.04)  # of the density (1 - cos a) / pi
