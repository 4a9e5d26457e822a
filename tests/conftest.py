from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from scripts.species import read_species

BUNDLE = Path(__file__).resolve().parents[1] / "bundle"


@pytest.fixture(scope="session")
def bundle_dir():
    return BUNDLE


@pytest.fixture(scope="session")
def shipped_species():
    return read_species(BUNDLE / "configs" / "species.json")


@pytest.fixture
def species_set():
    """Two species, "a" and "b"."""
    from synthetic import make_species  # here, because the environment for copick has no torch

    return make_species(2)


@pytest.fixture
def simulation_settings():
    """The shipped settings of a simulated dataset, small and quick."""
    from monai.bundle import ConfigParser  # here, because the environment for copick has no MONAI

    parser = ConfigParser(ConfigParser.load_config_file(str(BUNDLE / "configs" / "simulate.json")))
    parser["bundle_root"] = str(BUNDLE)
    found = parser.get_parsed_content("settings")
    scene = {**found["scene"], "crowding": 4.0, "vesicle_radius_angstrom": [100, 150]}
    return {**found, "shape": [40, 72, 88], "scene": scene}


@pytest.fixture(scope="session")
def all_phantoms():
    from scripts.simulation.phantoms import PHANTOMS  # here, because the environment for copick lacks what they need
    from scripts.simulation.specimens import phantom

    return {name: phantom(name, 10.0) for name in PHANTOMS}


@pytest.fixture(scope="session")
def assert_points_close():
    """Compare two sets of points whatever their order: as many, and every pair at most ``atol`` apart."""

    def compare(found, expected, atol):
        found, expected = (np.asarray(points, dtype=float).reshape(-1, 3) for points in (found, expected))
        assert len(found) == len(expected), f"{len(found)} points, expected {len(expected)}:\n{found}\n{expected}"
        gaps = cdist(found, expected)
        gaps = gaps[linear_sum_assignment(gaps)]
        assert gaps.max(initial=0.0) <= atol, f"up to {gaps.max():.4g} apart:\n{found}\n{expected}"

    return compare


@pytest.fixture
def write_model(tmp_path):
    """Return a function that writes a PDB or mmCIF file with one residue per atom given as (residue, element, xyz)."""
    gemmi = pytest.importorskip("gemmi")

    def write(atoms, name="model.cif", occupancies=None, assembly_turns=()):
        structure, model, chain = gemmi.Structure(), gemmi.Model(1), gemmi.Chain("A")
        for number, (residue_name, element, xyz) in enumerate(atoms):
            residue, atom = gemmi.Residue(), gemmi.Atom()
            residue.name, residue.seqid, residue.subchain = residue_name, gemmi.SeqId(number + 1, " "), "A"
            atom.name, atom.element, atom.pos = element, gemmi.Element(element), gemmi.Position(*xyz)
            atom.occ = 1.0 if occupancies is None else occupancies[number]
            residue.add_atom(atom)
            chain.add_residue(residue)
        model.add_chain(chain)
        structure.add_model(model)
        if assembly_turns:
            generator = gemmi.Assembly.Gen()
            generator.subchains = ["A"]
            for matrix in assembly_turns:
                operator = gemmi.Assembly.Operator()
                operator.transform = gemmi.Transform(gemmi.Mat33(matrix), gemmi.Vec3(0, 0, 0))
                generator.operators.append(operator)
            assembly = gemmi.Assembly("1")
            assembly.generators.append(generator)
            structure.assemblies.append(assembly)
        path = tmp_path / name
        if name.endswith("cif"):
            structure.make_mmcif_document().write_file(str(path))
        else:
            structure.write_pdb(str(path))
        return path

    return write
