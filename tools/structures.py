"""Structures of new species, out of density maps and atomic models: checked, cleaned, described for a simulation."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scripts.errors import InputError, InputWarning
from scripts.simulation.specimens import CONTENT, Specimen, map_specimen, read_specimen
from scripts.species import SPECIES_FILE, Species, read_species
from scripts.volumes.mrc_writer import write_mrc
from scripts.volumes.reading import read_mrc

MODEL_ENDINGS = (".pdb", ".ent", ".cif", ".mmcif")  # perhaps with .gz
PLACEHOLDER_ANGSTROM = 1.0  # the voxel size that programs write where they know none
SOLVENT_DEVIATIONS = 5.0  # standard deviations of a map's faces, which show solvent: lower densities are noise
SIZES_ANGSTROM = (50.0, 500.0)  # across: five voxels, and half of the thinnest simulated ice
# A protein has 0.81 Da per Å³. At 10 Å per voxel, the volume where a map is above a fifth of its maximum is 1.4 times
# the particle's. Of the ten maps of simulate_maps.json and beta-amylase's, the estimates are 0.6 to 1.5 times the mass.
KDA_PER_CUBIC_ANGSTROM, PART_OF_MAXIMUM, TOO_MUCH = 0.81e-3, 0.2, 1.4
# Given radii are 0.88 to 1.18 times those that hold 95 % of the mass, in phantoms and maps of species.json.
MOST_RADII = 1.5  # beyond, a radius is probably a diameter; smaller ones than the particle's may be meant, of a rod
MASS_ERROR = "a factor of two"


@dataclass(frozen=True)
class Wanted:
    """A new species as the user describes it.

    Attributes:
        name: of the species.
        structure: a density map (MRC) or an atomic model (PDB or mmCIF, perhaps with .gz).
        mass_kda: of the particle; None for that of the atoms, or an estimate by the map's volume.
        map_voxel_size_angstrom: of a map; None for that of its header.
        min_value: lower values of a map are solvent; None for a bound that its faces give.
        radius_angstrom: of the particle; None for that of the ball that holds 95 % of its mass.
        target_radius_angstrom: see `species.Species`; None for one that fits the radius.
    """

    name: str
    structure: Path
    mass_kda: float | None = None
    map_voxel_size_angstrom: float | None = None
    min_value: float | None = None
    radius_angstrom: float | None = None
    target_radius_angstrom: float | None = None


def read_structure(wanted: Wanted, voxel_size_angstrom: float, folder: Path) -> tuple[dict[str, Any], Specimen]:
    """Read and check a structure.

    Args:
        wanted: the species.
        voxel_size_angstrom: of the tomograms.
        folder: where a cleaned copy of a map is stored.

    Returns:
        The structure as the setting ``sources`` of a simulation names it, see `simulation.specimens.read_specimen`, and
        its density.

    Raises:
        InputError: the file cannot be used, or the particle is too small or too large.
    """
    if not wanted.structure.is_file():
        raise InputError(f"cannot read {wanted.structure}: no such file.")
    if wanted.structure.name.lower().removesuffix(".gz").endswith(MODEL_ENDINGS):
        source: dict[str, Any] = {"model": str(wanted.structure)}
        source |= {} if wanted.mass_kda is None else {"mass_kda": wanted.mass_kda}
    else:
        source = _clean_map(wanted, voxel_size_angstrom, folder)
    specimen = read_specimen(wanted.name, source, voxel_size_angstrom)
    _check_size(wanted.structure, specimen.radius_angstrom)
    return source, specimen


def _check_size(path: Path, radius_angstrom: float) -> None:
    across, (least, most) = 2 * radius_angstrom, SIZES_ANGSTROM
    if not least <= across <= most:
        raise InputError(
            f"{path} holds a particle {across:.0f} Å across; {least:.0f} to {most:.0f} Å can be simulated and picked. "
            "Check its voxel size."
        )


def _clean_map(wanted: Wanted, voxel_size_angstrom: float, folder: Path) -> dict[str, Any]:
    """Store a map's density without solvent; return the source that names it, with the particle's mass."""
    path = wanted.structure
    volume = read_mrc(path, wanted.map_voxel_size_angstrom)
    size = volume.voxel_size_angstrom
    if size is None or (size == PLACEHOLDER_ANGSTROM and wanted.map_voxel_size_angstrom is None):
        stated = "no voxel size" if size is None else f"a voxel size of {size:g} Å, which may be a placeholder"
        raise InputError(f"{path} states {stated}: give the right one with --map_voxel_size_angstrom.")
    values = np.array(volume.data, dtype=np.float64)
    if not np.isfinite(values).all():
        raise InputError(f"{path} holds values that are not numbers; remove them.")
    faces = np.concatenate([np.take(values, [0, -1], axis).ravel() for axis in range(3)])
    values -= np.median(faces)
    if -values.min() > values.max():
        raise InputError(f"{path} has a dark particle: multiply its values by -1.")
    bound = SOLVENT_DEVIATIONS * faces.std() if wanted.min_value is None else wanted.min_value - np.median(faces)
    values[values <= bound] = 0
    if not values.any():
        remedy = "every value is that of its faces" if wanted.min_value is None else "give a lower --min_value"
        raise InputError(f"{path} holds no density: {remedy}.")
    _check_size(path, _radius_vox(values) * size)  # before it is resampled: a wrong scale could fill the memory
    copy = folder / f"{wanted.name}.mrc"
    write_mrc(copy, values.astype(np.float32), size)
    mass = wanted.mass_kda
    if mass is None:
        mass = estimated_mass_kda(map_specimen(wanted.name, copy, voxel_size_angstrom))
        warnings.warn(
            f"{path}: its values have no unit, so the mass is estimated by its volume as {mass:.0f} kDa, right within "
            f"{MASS_ERROR}. Contrast is proportional to it: give the particle's with --mass_kda.",
            InputWarning,
            stacklevel=3,
        )
    return {"map": str(copy), "mass_kda": mass}


def _radius_vox(values: NDArray[np.float64]) -> float:
    """Return the radius of the ball around the centre of mass that holds `CONTENT` of a map's density, in voxels."""
    index, weight = np.argwhere(values > 0), values[values > 0]
    distance = np.linalg.norm(index - np.average(index, axis=0, weights=weight), axis=1)
    order = np.argsort(distance)
    inside = np.cumsum(weight[order])
    return float(distance[order][np.searchsorted(inside, CONTENT * inside[-1])])


def estimated_mass_kda(specimen: Specimen) -> float:
    """Return a particle's mass by its volume, right within a factor of two."""
    density: NDArray[np.float32] = specimen.density_kda
    volume = float((density > PART_OF_MAXIMUM * density.max()).sum()) * specimen.voxel_size_angstrom**3
    return volume * KDA_PER_CUBIC_ANGSTROM / TOO_MUCH


def new_species(wanted: Wanted, specimen: Specimen, label: int, weight: float) -> Species:
    """Return the settings of a new species; loss weight and smallest blob are those of the shipped one most like it.

    Targets of the shipped species are half of the radius, and from 90 Å on 45 Å or a third of it. A given radius that
    looks like a diameter is used, with a warning.
    """
    found = specimen.radius_angstrom
    radius = wanted.radius_angstrom or round(found)
    if radius > MOST_RADII * found:
        warnings.warn(
            f"--radius_angstrom {radius:g} of {wanted.name} is {radius / found:.1f} times the radius of the ball that "
            f"holds {CONTENT:.0%} of its structure's mass, {found:.0f} Å: is it the diameter?",
            InputWarning,
            stacklevel=2,
        )
    target = wanted.target_radius_angstrom or min(radius / 2, max(45.0, radius / 3))
    like = min(read_species(SPECIES_FILE).picked, key=lambda one: abs(one.target_radius_angstrom - target))
    return replace(
        like, name=wanted.name, label=label, radius_angstrom=float(radius), target_radius_angstrom=round(target, 1),
        weight=weight, probability_threshold=0.5,
    )  # fmt: skip
