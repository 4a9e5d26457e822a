"""Phantoms have the mass, size, symmetry and density of the particles that they represent."""

from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from scripts.simulation.phantoms import PHANTOMS, Lobe, Phantom
from scripts.simulation.specimens import distances, phantom, radius_holding, read_specimen, rotated
from synthetic import gyration_radius_angstrom

MAPS = Path(__file__).resolve().parents[3] / "shared" / "data" / "maps"  # outside the repository; may be absent
SHELLS = ["apo-ferritin", "virus-like-particle"]


@pytest.mark.parametrize("name", PHANTOMS)
def test_a_phantom_has_its_mass(all_phantoms, name):
    assert all_phantoms[name].mass_kda == pytest.approx(PHANTOMS[name].mass_kda, rel=1e-4)


@pytest.mark.parametrize("voxel_size_angstrom", [4.0, 14.0])
def test_a_phantom_keeps_mass_and_size_at_another_voxel_size(all_phantoms, voxel_size_angstrom):
    other, usual = phantom("beta-galactosidase", voxel_size_angstrom), all_phantoms["beta-galactosidase"]
    assert other.mass_kda == pytest.approx(usual.mass_kda, rel=1e-4)
    blur = 3 * (0.25 + 1 / 12) * (voxel_size_angstrom**2 - 100)  # of the low-pass and of the voxel
    expected = gyration_radius_angstrom(usual) ** 2 + blur
    assert gyration_radius_angstrom(other) ** 2 == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("name", ["beta-galactosidase", "small-protein"])
def test_a_phantom_is_the_same_every_time(all_phantoms, name):
    np.testing.assert_array_equal(phantom(name, 10.0).density_kda, all_phantoms[name].density_kda)


@pytest.mark.parametrize("name", PHANTOMS)
def test_a_phantom_is_about_as_dense_as_protein_or_rna(all_phantoms, name):
    peak_da_per_cubic_angstrom = np.quantile(all_phantoms[name].density_kda[all_phantoms[name].density_kda > 0.05], 0.9)
    assert 0.35 < peak_da_per_cubic_angstrom < 1.2


@pytest.mark.parametrize(
    ("name", "radius_angstrom"),
    [
        ("apo-ferritin", 60),
        ("beta-amylase", 65),
        ("beta-galactosidase", 90),
        ("ribosome", 150),
        ("thyroglobulin", 130),
        ("virus-like-particle", 145),
    ],
)
def test_a_phantom_of_a_species_has_about_the_species_radius(all_phantoms, name, radius_angstrom):
    assert all_phantoms[name].radius_angstrom == pytest.approx(radius_angstrom, rel=0.2)


@pytest.mark.parametrize(("name", "inner_angstrom"), [("apo-ferritin", 15), ("virus-like-particle", 90)])
def test_a_shell_is_empty_inside(all_phantoms, name, inner_angstrom):
    density = all_phantoms[name].density_kda
    assert density[distances(density.shape[0]) * 10 <= inner_angstrom].max() < 0.02 * density.max()


def test_a_virus_like_particle_has_bumps(all_phantoms):
    density = all_phantoms["virus-like-particle"].density_kda
    outer = density[abs(distances(density.shape[0]) - 13) < 0.5]
    assert outer.std() > 0.1 * outer.mean()


@pytest.mark.parametrize("name", PHANTOMS)
def test_a_phantom_has_the_symmetry_it_claims(all_phantoms, name):
    density = all_phantoms[name].density_kda
    for turn in Rotation.create_group(PHANTOMS[name].symmetry).as_matrix()[:8, ::-1, ::-1]:
        assert np.corrcoef(rotated(all_phantoms[name], turn).ravel(), density.ravel())[0, 1] > 0.98


@pytest.mark.parametrize(("grain", "least", "most"), [(0.0, 0.0, 0.03), (0.3, 0.08, 0.3)])
def test_grain_makes_the_inside_of_a_phantom_uneven(monkeypatch, grain, least, most):
    monkeypatch.setitem(PHANTOMS, "ball", Phantom(900, "D2", (Lobe((0, 0, 0), (65, 65, 65)),), grain=grain))
    density = phantom("ball", 10.0).density_kda
    core = density[distances(density.shape[0]) < 4]
    assert least <= core.std() / core.mean() < most


def test_the_copies_of_an_oblong_lobe_turn_with_the_symmetry(monkeypatch):
    rods = Phantom(100, "C3", (Lobe((70, 0, 0), (14, 44, 14)),), grain=0)
    monkeypatch.setitem(PHANTOMS, "rods", rods)
    specimen = phantom("rods", 10.0)
    turned = rotated(specimen, Rotation.from_euler("z", 120, degrees=True).as_matrix()[::-1, ::-1])
    assert np.corrcoef(turned.ravel(), specimen.density_kda.ravel())[0, 1] > 0.99
    offsets = np.indices(specimen.density_kda.shape) - (len(specimen.density_kda) - 1) / 2
    squared = [np.average(axis**2, weights=specimen.density_kda) for axis in offsets]
    assert squared[0] < 0.1 * squared[1]  # z, y: the rods lie flat around z


@pytest.mark.parametrize("name", sorted(set(PHANTOMS) - set(SHELLS)))
def test_a_phantom_that_is_no_shell_shows_its_orientation(all_phantoms, name):
    turned = rotated(all_phantoms[name], Rotation.from_euler("xyz", [50, 35, 20], degrees=True).as_matrix())
    assert np.corrcoef(turned.ravel(), all_phantoms[name].density_kda.ravel())[0, 1] < 0.95


@pytest.mark.skipif(not MAPS.is_dir(), reason="the maps are not part of the repository")
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("apo-ferritin", {"map": "8cpv.mrc"}),
        ("beta-galactosidase", {"map": "6drv.mrc"}),
        ("ribosome", {"map": "6qzp.mrc"}),
        ("thyroglobulin", {"map": "7n4y.mrc"}),
        ("virus-like-particle", {"map": "8tux.mrc", "clear_inside_angstrom": 90}),
        ("albumin", {"map": "8vaf.mrc"}),
    ],
)
def test_a_phantom_is_as_large_as_the_real_map(all_phantoms, name, settings):
    real = read_specimen(name, {**settings, "map": MAPS / settings["map"]}, 10.0)
    drawn = all_phantoms[name]
    assert gyration_radius_angstrom(drawn) == pytest.approx(gyration_radius_angstrom(real), rel=0.1)
    ninety = [radius_holding(one.density_kda, 0.9) for one in (drawn, real)]
    assert ninety[0] == pytest.approx(ninety[1], rel=0.15)
    assert drawn.mass_kda == pytest.approx(real.mass_kda, rel=0.35)
