"""The densities that are placed in simulated tomograms, from a map, an atomic model or a built-in phantom.

Arrays are ``[z, y, x]``, points ``(z, y, x)``. Every density is a cube of odd side with its centre of mass in the
middle voxel and a margin of empty voxels, so that rotating the array rotates the particle about its own centre.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from scripts.errors import InputError, is_finite_number
from scripts.simulation.atoms import read_atoms, spread_points
from scripts.simulation.phantoms import BEAD_BLUR_ANGSTROM, PHANTOMS, phantom_beads
from scripts.volumes.reading import check_voxel_size, read_mrc

SETTINGS = {  # settings that are allowed for each source of a density
    "map": {"mass_kda", "units_per_kda", "clear_inside_angstrom", "min_value"},
    "model": {"mass_kda", "assembly"},
    "phantom": {"mass_kda"},
}
UNITS_PER_KDA = 28.5  # sum of the values of a PolNet map over the mass of its particle
MARGIN_VOX = 2  # empty voxels around a density: room for a shift by half a voxel and for the spline
FAINT = 1e-3  # share of the highest density; voxels with less are set to 0
CONTENT = 0.95  # share of the mass within a specimen's radius
BLUR_VOX = 0.5  # standard deviation of the Gaussian of an atom: 29 % of the signal is left at the Nyquist frequency


@dataclass(frozen=True, eq=False)
class Specimen:
    """A density that can be placed.

    Attributes:
        name: of the species.
        density_kda: ``[z, y, x]``, float32, read-only: a cube of odd side ``n``. Mass per voxel in kDa in excess of the
            ice; the sum is the mass. Its centre of mass is ``(n - 1) / 2`` on every axis.
        voxel_size_angstrom: of the density.
        radius_angstrom: radius of the ball around the centre that holds 95 % of the mass.
    """

    name: str
    density_kda: NDArray[np.float32]
    voxel_size_angstrom: float
    radius_angstrom: float

    @property
    def mass_kda(self) -> float:
        """Sum of the density."""
        return float(self.density_kda.sum(dtype=np.float64))

    @cached_property
    def spline_kda(self) -> NDArray[np.float32]:
        """Coefficients of the cubic spline through the density, ``[z, y, x]``."""
        answer: NDArray[np.float32] = ndimage.spline_filter(self.density_kda, order=3, output=np.float32)
        return answer

    @cached_property
    def is_near(self) -> NDArray[np.bool_]:
        """Whether a voxel holds density or touches one that does; ``[z, y, x]`` with one voxel more on every side."""
        filled = np.pad(self.density_kda > 0, 1)
        answer: NDArray[np.bool_] = ndimage.binary_dilation(filled, np.ones((3, 3, 3), bool))
        return answer

    @cached_property
    def reached_voxels(self) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
        """Voxels that the density can reach when it is rotated and shifted by half a voxel.

        Their flat indices ``(N,)`` and their offsets from the centre, ``(3, N)`` in voxels.
        """
        distance = distances(self.density_kda.shape[0])
        filled = distance[self.density_kda > 0]
        slack = math.sqrt(3) / 2 + 1  # half a voxel along each axis, and one for the spline
        index = np.flatnonzero((distance >= filled.min() - slack) & (distance <= filled.max() + slack))
        offsets = np.stack(np.unravel_index(index, self.density_kda.shape)) - (self.density_kda.shape[0] - 1) / 2
        return index, offsets.astype(np.float32)


def read_specimen(name: str, settings: Mapping[str, Any], voxel_size_angstrom: float) -> Specimen:
    """Make the density of one species.

    Args:
        name: of the species; messages begin with it.
        settings: exactly one of ``map`` (MRC file), ``model`` (PDB or mmCIF file, perhaps .gz) and ``phantom`` (a name
            from `PHANTOMS`). Optional with any of them: ``mass_kda``, to which the density is scaled. Optional with a
            map: ``units_per_kda`` (sum of the file's values per kDa, default 28.5; excludes ``mass_kda``),
            ``min_value`` (lower values are removed, default 0) and ``clear_inside_angstrom`` (density within this
            distance of the centre is removed, default 0; for stray density in a hollow shell). Optional with a model:
            ``assembly`` (whether to build the file's first biological assembly; by default if the file names one).
        voxel_size_angstrom: of the density to make.

    Raises:
        InputError: a setting is unknown, missing or not valid, or the file cannot be used.
    """
    check_voxel_size("voxel_size_angstrom", voxel_size_angstrom)
    source = _check_settings(name, settings)
    if source == "map":
        options = {key: settings[key] for key in SETTINGS["map"] & set(settings)}
        return map_specimen(name, settings["map"], voxel_size_angstrom, **options)
    if source == "model":
        specimen = model_specimen(name, settings["model"], voxel_size_angstrom, settings.get("assembly"))
    else:
        specimen = replace(phantom(settings["phantom"], voxel_size_angstrom), name=name)
    return scaled(specimen, settings["mass_kda"]) if "mass_kda" in settings else specimen


def _check_settings(name: str, settings: Mapping[str, Any]) -> str:
    """Return which of `SETTINGS` the density comes from."""
    sources = [key for key in SETTINGS if key in settings]
    if len(sources) != 1:
        found = f"got {' and '.join(sources)}" if sources else f"got only {sorted(settings)}"
        raise InputError(f"specimen '{name}' needs one of {', '.join(SETTINGS)}; {found}.")
    known = SETTINGS[sources[0]]
    unknown = sorted(set(settings) - known - set(sources))
    if unknown:
        raise InputError(f"specimen '{name}': {unknown} do not go with '{sources[0]}'; known are {sorted(known)}.")
    if {"mass_kda", "units_per_kda"} <= set(settings):
        raise InputError(f"specimen '{name}': mass_kda and units_per_kda both set the mass; keep one.")
    if not isinstance(settings[sources[0]], str | Path):
        raise InputError(f"specimen '{name}': {sources[0]} must be a text; got {settings[sources[0]]!r}.")
    for key in set(settings) - {*sources, "assembly"}:
        value = settings[key]
        may_be_zero = key in ("clear_inside_angstrom", "min_value")
        if not is_finite_number(value) or value < 0 or (value == 0 and not may_be_zero):
            wanted = "a number from 0" if may_be_zero else "a positive number"
            raise InputError(f"specimen '{name}': {key} must be {wanted}; got {value!r}.")
    if not isinstance(settings.get("assembly", True), bool):
        raise InputError(f"specimen '{name}': assembly must be true or false; got {settings['assembly']!r}.")
    return sources[0]


def map_specimen(
    name: str,
    path: str | Path,
    voxel_size_angstrom: float,
    mass_kda: float | None = None,
    units_per_kda: float = UNITS_PER_KDA,
    clear_inside_angstrom: float = 0.0,
    min_value: float = 0.0,
) -> Specimen:
    """Make a density from a map in an MRC file; settings as in `read_specimen`.

    Raises:
        InputError: the file cannot be read, states no voxel size or holds nothing but ice.
    """
    volume = read_mrc(path)
    if volume.voxel_size_angstrom is None:
        raise InputError(f"{path} states no voxel size: write it into the header (e.g. with mrcfile).")
    values = np.array(volume.data, dtype=np.float64)
    if not np.isfinite(values).all():
        raise InputError(f"{path} holds values that are not numbers; remove them.")
    values[values < max(min_value, 0.0)] = 0
    values[values < FAINT * values.max()] = 0
    if clear_inside_angstrom > 0 and values.any():
        distance = distances(values.shape, ndimage.center_of_mass(values)) * volume.voxel_size_angstrom
        values[distance < clear_inside_angstrom] = 0
    if not values.any():
        remedy = "check its contrast (particles must be bright), min_value and clear_inside_angstrom"
        raise InputError(f"{path} holds no density: {remedy}.")
    mass = values.sum() / units_per_kda if mass_kda is None else mass_kda
    density = _resampled(values, voxel_size_angstrom / volume.voxel_size_angstrom)
    return _finished(name, density, voxel_size_angstrom, mass)


def _resampled(values: NDArray[np.float64], step: float) -> NDArray[np.float64]:
    """Resample a density to voxels ``step`` times as large; its centre of mass becomes the middle of an odd cube."""
    blur_vox = BLUR_VOX * math.sqrt(max(step**2 - 1, 0.0))
    padded = np.pad(values, 3 + math.ceil(4 * blur_vox))
    if blur_vox > 0:
        padded = ndimage.gaussian_filter(padded, blur_vox)
    spline = ndimage.spline_filter(padded, order=3)
    centre = np.array(ndimage.center_of_mass(padded))
    reach = distances(padded.shape, centre)[padded > FAINT * padded.max()].max()
    half = math.ceil(reach / step) + 1
    for _ in range(4):  # removing the spline's undershoot moves the centre a little
        start = centre - half * step
        density = ndimage.affine_transform(
            spline, np.eye(3) * step, start, (2 * half + 1,) * 3, order=3, mode="constant", prefilter=False
        )
        density[density < FAINT * density.max()] = 0
        centre += (np.array(ndimage.center_of_mass(density)) - half) * step
    answer: NDArray[np.float64] = density
    return answer


def model_specimen(name: str, path: str | Path, voxel_size_angstrom: float, assembly: bool | None = None) -> Specimen:
    """Make a density from the atoms of the first model in a PDB or mmCIF file.

    Each of the atoms that `read_atoms` finds becomes a Gaussian of half a voxel, averaged over each voxel; its
    temperature factor is not used.

    Args:
        name: of the species.
        path: the file, possibly compressed with gzip.
        voxel_size_angstrom: of the density to make.
        assembly: whether to build the first biological assembly; None builds it if the file names one.

    Raises:
        InputError: the file cannot be read, has no atoms or lacks the wanted assembly, or gemmi is not installed.
    """
    points, masses = read_atoms(path, assembly)
    points = points - np.average(points, axis=0, weights=masses)
    density = spread_points(points, masses, BLUR_VOX * voxel_size_angstrom, voxel_size_angstrom)
    return _finished(name, density, voxel_size_angstrom, float(masses.sum()))


def phantom(name: str, voxel_size_angstrom: float) -> Specimen:
    """Make the density of one of the `PHANTOMS`.

    Raises:
        InputError: there is no phantom of that name.
    """
    check_voxel_size("voxel_size_angstrom", voxel_size_angstrom)
    if name not in PHANTOMS:
        raise InputError(f"there is no phantom '{name}'; known are {', '.join(PHANTOMS)}.")
    points, masses = phantom_beads(PHANTOMS[name])
    blur_angstrom = math.hypot(BEAD_BLUR_ANGSTROM, BLUR_VOX * voxel_size_angstrom)
    density = spread_points(points, masses, blur_angstrom, voxel_size_angstrom)
    return _finished(name, density, voxel_size_angstrom, PHANTOMS[name].mass_kda)


def scaled(specimen: Specimen, mass_kda: float) -> Specimen:
    """Return a specimen of the same shape with another mass."""
    density = (specimen.density_kda * (mass_kda / specimen.mass_kda)).astype(np.float32)
    density.flags.writeable = False
    return replace(specimen, density_kda=density)


def radius_holding(density: NDArray[Any], fraction: float) -> float:
    """Return the radius, in voxels, of the ball around the middle of a cube that holds a fraction of the mass."""
    distance = distances(density.shape[0]).ravel()
    order = np.argsort(distance)
    inside = np.cumsum(density.ravel()[order], dtype=np.float64)
    return float(distance[order][np.searchsorted(inside, fraction * inside[-1])])


def distances(shape: int | tuple[int, ...], centre_zyx_vox: ArrayLike | None = None) -> NDArray[np.float64]:
    """Return each voxel's distance from a centre in voxels, ``[z, y, x]``.

    Args:
        shape: of the volume; one number for a cube.
        centre_zyx_vox: None for the middle.
    """
    lengths = (shape,) * 3 if isinstance(shape, int) else shape
    centre = (np.array(lengths) - 1) / 2 if centre_zyx_vox is None else np.asarray(centre_zyx_vox)
    axes = np.ogrid[tuple(slice(length) for length in lengths)]
    squared: NDArray[np.float64] = sum((axis - at) ** 2 for axis, at in zip(axes, centre, strict=True))
    return np.sqrt(squared)


def _finished(name: str, density: NDArray[np.float64], voxel_size_angstrom: float, mass_kda: float) -> Specimen:
    """Crop a centred cube to its density and a margin, and scale it to its mass."""
    filled = np.where(density < FAINT * density.max(), 0, density)
    half = math.ceil(distances(filled.shape[0])[filled > 0].max()) + MARGIN_VOX  # room for any rotation
    wider = half - (filled.shape[0] - 1) // 2
    filled = np.pad(filled, wider) if wider >= 0 else filled[(slice(-wider, wider),) * 3]
    filled = (filled * (mass_kda / filled.sum())).astype(np.float32)
    filled.flags.writeable = False
    return Specimen(name, filled, voxel_size_angstrom, radius_holding(filled, CONTENT) * voxel_size_angstrom)


def rotated(specimen: Specimen, rotation: ArrayLike, shift_zyx_vox: ArrayLike = (0.0, 0.0, 0.0)) -> NDArray[np.float32]:
    """Return a specimen's density rotated about its centre, then shifted by part of a voxel.

    Args:
        specimen: what to rotate.
        rotation: ``3 x 3``, acts on offsets ``(z, y, x)`` from the centre.
        shift_zyx_vox: -0.5 to 0.5 along each axis.

    Returns:
        ``[z, y, x]`` of the specimen's shape, mass per voxel in kDa. The cubic spline may dip a little below 0 beside
        sharp edges.

    Raises:
        ValueError: ``rotation`` is not a rotation, or the shift leaves the box's margin.
    """
    turn, shift = np.asarray(rotation, dtype=np.float64), np.asarray(shift_zyx_vox, dtype=np.float64)
    if turn.shape != (3, 3) or abs(turn @ turn.T - np.eye(3)).max() > 1e-6 or np.linalg.det(turn) < 0:
        raise ValueError(f"rotation must be a 3 x 3 rotation matrix; got {turn.tolist()}.")
    if shift.shape != (3,) or not (abs(shift) <= 0.5).all():
        raise ValueError(f"shift_zyx_vox must be three numbers from -0.5 to 0.5; got {shift.tolist()}.")
    density = np.zeros(specimen.density_kda.shape, np.float32)
    index, offsets = specimen.reached_voxels
    start = (len(density) - 1) / 2 - turn.T @ shift
    source = turn.T.astype(np.float32) @ offsets + start.astype(np.float32)[:, None]
    z, y, x = (source + 1.5).astype(np.intp)  # nearest voxel of is_near, which begins one voxel earlier
    worth = specimen.is_near[z, y, x]  # most of the ball around an elongated particle is empty
    density.ravel()[index[worth]] = ndimage.map_coordinates(
        specimen.spline_kda, source[:, worth], output=np.float32, order=3, prefilter=False
    )
    return density


def random_rotation(random: np.random.Generator) -> NDArray[np.float64]:
    """Draw a rotation, ``3 x 3``, uniformly among all rotations.

    Source:
        A uniform random direction in four dimensions is a uniform random quaternion (Shoemake 1992, Graphics Gems III).
    """
    answer: NDArray[np.float64] = Rotation.from_quat(random.normal(size=4)).as_matrix()
    return answer
