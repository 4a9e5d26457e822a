"""Point masses: read from an atomic model, and spread over the voxels of a grid."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from scripts.errors import InputError

WINDOW_VALUES = 4_000_000  # Gaussian values in memory at a time while atoms are spread over the grid
# Mass of all atoms over the mass of those that are not hydrogen. The mean amino acid is C4.95 H7.8 N1.36 O1.48 S0.04,
# the mean nucleotide C9.5 H10.7 N3.75 O7 P1.
PROTEIN_WITH_HYDROGENS, NUCLEIC_WITH_HYDROGENS = 1.076, 1.035


def read_atoms(path: str | Path, assembly: bool | None = None) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Read the atoms of the first model in a PDB or mmCIF file.

    Atoms are weighted by their occupancy; waters are ignored. If the file holds no hydrogens, their mass is added to
    the atoms of the amino acids and nucleotides.

    Args:
        path: the file, possibly compressed with gzip.
        assembly: whether to build the first biological assembly; None builds it if the file names one.

    Returns:
        Positions ``(N, 3)``, ``(z, y, x)`` in ångströms, and masses ``(N,)`` in kDa.

    Raises:
        InputError: the file cannot be read, has no atoms or lacks the wanted assembly, or gemmi is not installed.
    """
    try:
        import gemmi
    except ImportError as error:
        raise InputError(f"reading {path} needs gemmi: pip install gemmi.") from error
    if not Path(path).is_file():
        raise InputError(f"cannot read {path}: no such file.")
    try:
        structure = gemmi.read_structure(str(path))
    except (RuntimeError, ValueError, OSError, EOFError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise InputError(f"{path} cannot be read as a PDB or mmCIF file: {reason}.") from error
    if assembly and not structure.assemblies:
        raise InputError(f"{path} names no biological assembly: set assembly to false.")
    structure.remove_waters()
    model = structure[0] if len(structure) else gemmi.Model(1)
    if structure.assemblies and assembly is not False:
        model = gemmi.make_assembly(structure.assemblies[0], model, gemmi.HowToNameCopiedChain.AddNumber)
    weighed = _weighed_atoms(gemmi, model, add_hydrogens=not model.has_hydrogen())
    rows = [(atom.pos.z, atom.pos.y, atom.pos.x, mass) for atom, mass in weighed]
    table = np.array(rows, dtype=np.float64).reshape(-1, 4)
    if not table[:, 3].sum() > 0:
        raise InputError(f"{path} holds no atoms; waters and atoms of occupancy 0 do not count.")
    return table[:, :3], table[:, 3] / 1000


def _weighed_atoms(gemmi: Any, model: Any, add_hydrogens: bool) -> Iterator[tuple[Any, float]]:
    """Yield every atom with its mass in Da."""
    for chain in model:
        for residue in chain:
            kind = gemmi.find_tabulated_residue(residue.name)
            factor = 1.0
            if add_hydrogens and kind.is_amino_acid():
                factor = PROTEIN_WITH_HYDROGENS
            elif add_hydrogens and kind.is_nucleic_acid():
                factor = NUCLEIC_WITH_HYDROGENS
            for atom in residue:
                yield atom, atom.element.weight * atom.occ * factor


def spread_points(
    points_zyx_angstrom: NDArray[np.float64],
    masses: NDArray[np.float64],
    blur_angstrom: float,
    voxel_size_angstrom: float,
) -> NDArray[np.float64]:
    """Spread every point as a Gaussian, averaged over each voxel, in a cube of odd side around the origin.

    Args:
        points_zyx_angstrom: ``(N, 3)``; the origin is the centre of the middle voxel.
        masses: ``(N,)``, the sum of each point's Gaussian over the cube.
        blur_angstrom: standard deviation of the Gaussian, which is cut off at four standard deviations.
        voxel_size_angstrom: side of a voxel.

    Returns:
        ``[z, y, x]``, mass per voxel.
    """
    blur_vox = blur_angstrom / voxel_size_angstrom
    reach = math.ceil(4 * blur_vox + 0.5)
    half = math.ceil(np.linalg.norm(points_zyx_angstrom, axis=1).max() / voxel_size_angstrom) + reach + 1
    side = 2 * half + 1
    edges = np.arange(-reach, reach + 2) - 0.5
    window = 2 * reach + 1
    steps = np.arange(-reach, reach + 1)
    flat_steps = ((steps[:, None, None] * side + steps[:, None]) * side + steps).ravel()
    cube = np.zeros(side**3)
    chunk = max(WINDOW_VALUES // window**3, 1)
    for first in range(0, len(masses), chunk):
        position = points_zyx_angstrom[first : first + chunk] / voxel_size_angstrom + half
        nearest = np.rint(position).astype(np.int64)
        below_edge = ndtr((edges + (nearest - position)[:, :, None]) / blur_vox)  # (chunk, axis, edge)
        share = np.diff(below_edge, axis=2)
        weight = (masses[first : first + chunk, None] * share[:, 0])[:, :, None, None]
        weight = weight * share[:, 1, None, :, None] * share[:, 2, None, None, :]
        index = ((nearest[:, 0] * side + nearest[:, 1]) * side + nearest[:, 2])[:, None] + flat_steps
        cube += np.bincount(index.ravel(), weight.ravel(), minlength=cube.size)
    return cube.reshape(side, side, side)
