import sys

import numpy as np
import pytest
from scipy import ndimage
from scripts.errors import InputError
from scripts.simulation import atoms
from scripts.simulation.atoms import read_atoms, spread_points


@pytest.mark.parametrize("name", ["model.cif", "model.pdb"])
def test_atoms_stand_where_the_file_says_with_their_masses(write_model, name, assert_points_close):
    path = write_model([("GLY", "N", (1, 2, 30)), ("GLY", "C", (-4, 5.5, 6)), ("ZN", "ZN", (7, 8, 9))], name)
    points, masses = read_atoms(path)
    assert_points_close(points, [[30, 2, 1], [6, 5.5, -4], [9, 8, 7]], atol=1e-3)
    hydrogens = [1.076, 1.076, 1]
    assert masses * 1000 == pytest.approx(np.array([14.007, 12.011, 65.38]) * hydrogens, rel=1e-3)


def test_nucleotides_get_less_hydrogen_than_amino_acids(write_model):
    _, masses = read_atoms(write_model([("GLY", "C", (0, 0, 0)), ("A", "C", (5, 0, 0))]))
    assert masses * 1000 == pytest.approx([12.011 * 1.076, 12.011 * 1.035], rel=1e-4)


def test_no_hydrogen_is_added_to_a_model_that_holds_some(write_model):
    _, masses = read_atoms(write_model([("GLY", "C", (0, 0, 0)), ("GLY", "H", (1, 0, 0))]))
    assert masses * 1000 == pytest.approx([12.011, 1.008], rel=1e-3)


def test_waters_and_absent_atoms_do_not_count(write_model):
    model = [("ZN", "ZN", (0, 0, 0)), ("HOH", "O", (9, 9, 9)), ("ZN", "ZN", (5, 0, 0))]
    _, masses = read_atoms(write_model(model, occupancies=[1.0, 1.0, 0.5]))
    assert masses * 1000 == pytest.approx([65.38, 65.38 / 2], rel=1e-3)


def test_the_first_assembly_is_built_unless_told_otherwise(write_model, assert_points_close):
    turns = ([[1, 0, 0], [0, 1, 0], [0, 0, 1]], [[-1, 0, 0], [0, -1, 0], [0, 0, 1]])
    path = write_model([("ZN", "ZN", (10, 20, 30))], assembly_turns=turns)
    assert_points_close(read_atoms(path)[0], [[30, 20, 10], [30, -20, -10]], atol=1e-3)
    assert_points_close(read_atoms(path, assembly=True)[0], [[30, 20, 10], [30, -20, -10]], atol=1e-3)
    assert_points_close(read_atoms(path, assembly=False)[0], [[30, 20, 10]], atol=1e-3)


def test_a_model_without_atoms_is_refused(write_model):
    path = write_model([("HOH", "O", (0, 0, 0))])
    with pytest.raises(InputError, match=r"model\.cif holds no atoms; waters"):
        read_atoms(path)


def test_a_model_file_that_is_none_is_refused(tmp_path):
    pytest.importorskip("gemmi")
    (tmp_path / "text.cif").write_text("hello there")
    with pytest.raises(InputError, match=r"text\.cif cannot be read as a PDB or mmCIF file: "):
        read_atoms(tmp_path / "text.cif")
    with pytest.raises(InputError, match=r"cannot read .*absent\.pdb: no such file"):
        read_atoms(tmp_path / "absent.pdb")


def test_without_gemmi_the_remedy_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "gemmi", None)
    with pytest.raises(InputError, match=r"m\.pdb needs gemmi: pip install gemmi"):
        read_atoms(tmp_path / "m.pdb")


@pytest.mark.parametrize("blur_angstrom", [5.0, 9.0])
def test_a_point_becomes_a_gaussian_at_its_exact_place(blur_angstrom):
    cube = spread_points(np.array([[3.1, -24.6, 47.2]]), np.array([2.0]), blur_angstrom, 10.0)
    half = (cube.shape[0] - 1) / 2
    assert cube.sum() == pytest.approx(2.0, rel=1e-3)
    assert (np.array(ndimage.center_of_mass(cube)) - half) * 10 == pytest.approx([3.1, -24.6, 47.2], abs=0.05)
    spread = (np.arange(cube.shape[0]) - half - 4.72) ** 2 @ cube.sum(axis=(0, 1)) / cube.sum()
    assert spread == pytest.approx((blur_angstrom / 10) ** 2 + 1 / 12, rel=0.05)  # the voxel's own width adds 1/12


def test_points_put_down_in_chunks_add_up(monkeypatch):
    points, masses = np.random.default_rng(0).normal(scale=30, size=(50, 3)), np.arange(1.0, 51)
    at_once = spread_points(points, masses, 5.0, 10.0)
    monkeypatch.setattr(atoms, "WINDOW_VALUES", 3000)
    np.testing.assert_allclose(spread_points(points, masses, 5.0, 10.0), at_once, atol=1e-9)
