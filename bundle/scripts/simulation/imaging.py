"""From a specimen to a tomogram: tilt series, contrast transfer, radiation damage, noise, weighted back-projection.

A volume is ``[z, y, x]``; the tilt axis is y and the beam runs along z. Projections are ``[tilt, y, s]`` with ``s``
across the tilt axis; pixels are as large as voxels. Angles are in rising order; the order of acquisition only affects
the dose before each tilt.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import scipy.fft
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from scripts.errors import InputError, is_finite_number

# Integral of the potential of 1 kDa of protein, in excess of the ice that it displaces: 1230 Å^3 of 7.5 V, not of 5 V
# (mean inner potentials of protein and of vitreous ice; protein of 0.81 Da per Å^3).
VOLT_ANGSTROM3_PER_KDA = 3000.0
LEAST_TILT_STEP_DEGREE = 0.1  # finer ones are a slip, and would take a thousand projections and more
ELECTRON_REST_KV = 510.99895
PLANCK_TIMES_C_KV_ANGSTROM = 12.39841984
Array = NDArray[np.float32]


@dataclass(frozen=True)
class Imaging:
    """How a tilt series is taken and reconstructed.

    Attributes:
        tilt_range_degree: first and last tilt.
        tilt_step_degree: between neighbouring tilts.
        tilt_order: ``dose_symmetric`` (0, +, -, +, - ...) or ``rising``; determines the dose before each tilt.
        dose_per_square_angstrom: electrons of the whole series, shared evenly among the tilts.
        voltage_kv: of the microscope.
        spherical_aberration_mm: of the objective lens.
        amplitude_contrast: fraction of the contrast that is amplitude contrast.
        defocus_angstrom: positive is underfocus.
        phase_shift_degree: of a phase plate; 0 without one.
        mean_free_path_angstrom: of electrons in ice; inelastically scattered ones are filtered out.
        ice_thickness_angstrom: path of the beam through the ice at tilt 0.
        contrast: fraction of the ideal phase contrast that remains (drift, inelastic blur, ice that is not flat).
        envelope_angstrom: spacing at which a Gaussian envelope has reduced the signal to 1/e; 0 means no envelope.
        readout_electrons: standard deviation of the detector's own noise, electrons per pixel.
        damage: reduce the signal by the dose before each tilt (Grant and Grigorieff 2015).
        dose_weighting: weight tilts by the signal that damage has left.
        phase_flip: correct the sign of the contrast transfer function.
        resolution_angstrom: of the low-pass of the reconstruction, at half amplitude; 0 means no low-pass.
    """

    tilt_range_degree: tuple[float, float] = (-60.0, 60.0)
    tilt_step_degree: float = 3.0
    tilt_order: str = "dose_symmetric"
    dose_per_square_angstrom: float = 120.0
    voltage_kv: float = 300.0
    spherical_aberration_mm: float = 2.7
    amplitude_contrast: float = 0.08
    defocus_angstrom: float = 40000.0
    phase_shift_degree: float = 0.0
    mean_free_path_angstrom: float = 3100.0
    ice_thickness_angstrom: float = 1500.0
    contrast: float = 1.0
    envelope_angstrom: float = 0.0
    readout_electrons: float = 2.0
    damage: bool = True
    dose_weighting: bool = True
    phase_flip: bool = True
    resolution_angstrom: float = 0.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(field.default, bool) and not isinstance(value, bool):
                raise InputError(f"{field.name} is true or false; got {value!r}.")
            if isinstance(field.default, float) and not is_finite_number(value):
                raise InputError(f"{field.name} is a number; got {value!r}.")
        tilts = self.tilt_range_degree
        is_pair = isinstance(tilts, Sequence) and len(tilts) == 2 and all(map(is_finite_number, tilts))
        if not is_pair or not -80 <= tilts[0] <= tilts[1] <= 80 or self.tilt_step_degree < LEAST_TILT_STEP_DEGREE:
            raise InputError(
                f"tilts of {tilts} degrees in steps of {self.tilt_step_degree}: set tilt_range_degree to two rising "
                f"angles within -80 to 80 and tilt_step_degree to {LEAST_TILT_STEP_DEGREE} or more."
            )
        if not 0 <= self.amplitude_contrast <= 1:
            raise InputError(f"amplitude_contrast is from 0 to 1; got {self.amplitude_contrast}.")
        for name in (
            *("contrast", "envelope_angstrom", "readout_electrons", "resolution_angstrom", "ice_thickness_angstrom"),
        ):
            if getattr(self, name) < 0:
                raise InputError(f"{name} must not be less than 0; got {getattr(self, name)}.")
        if self.tilt_order not in ("dose_symmetric", "rising"):
            raise InputError(f"tilt_order is dose_symmetric or rising; got '{self.tilt_order}'.")
        for name in ("dose_per_square_angstrom", "voltage_kv", "mean_free_path_angstrom"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name} must be more than 0; got {getattr(self, name)}.")

    @staticmethod
    def of(settings: Mapping[str, Any]) -> Imaging:
        """Return the imaging that the settings of a config describe.

        Raises:
            InputError: a name is unknown or a value is not valid.
        """
        known = {field.name for field in fields(Imaging)}
        unknown = sorted(set(settings) - known)
        if unknown:
            raise InputError(f"imaging has no setting {', '.join(unknown)}; it has {', '.join(sorted(known))}.")
        return Imaging(**settings)

    @property
    def angles_degree(self) -> NDArray[np.float64]:
        """The tilt angles in rising order."""
        low, high = self.tilt_range_degree
        count = int((high - low) / self.tilt_step_degree + 1e-6) + 1
        return np.asarray(low + self.tilt_step_degree * np.arange(count), dtype=np.float64)


def wavelength_angstrom(voltage_kv: float) -> float:
    """Return the relativistic wavelength of electrons: 0.0197 Å at 300 kV."""
    return PLANCK_TIMES_C_KV_ANGSTROM / math.sqrt(voltage_kv * (voltage_kv + 2 * ELECTRON_REST_KV))


def radian_per_volt_angstrom(voltage_kv: float) -> float:
    """Return the interaction constant, the phase shift by a projected potential of 1 V Å: 6.5e-4 at 300 kV.

    Source: Kirkland, "Advanced Computing in Electron Microscopy", equation 5.6.
    """
    rest, energy = ELECTRON_REST_KV, voltage_kv
    return 2 * math.pi / (wavelength_angstrom(voltage_kv) * energy * 1e3) * (rest + energy) / (2 * rest + energy)


def contrast_transfer(frequency_per_angstrom: NDArray[Any], imaging: Imaging) -> NDArray[np.float64]:
    """Return the contrast transfer function; negative where matter appears dark, as at small defocus.

    Source: Rohou and Grigorieff 2015 (CTFFIND4), equations 2 and 3, without astigmatism.
    """
    squared = np.asarray(frequency_per_angstrom, dtype=np.float64) ** 2
    wavelength = wavelength_angstrom(imaging.voltage_kv)
    aberration = imaging.spherical_aberration_mm * 1e7
    phase = math.pi * wavelength * squared * (imaging.defocus_angstrom - 0.5 * wavelength**2 * squared * aberration)
    amplitude = math.asin(imaging.amplitude_contrast) + math.radians(imaging.phase_shift_degree)
    return -np.sin(phase + amplitude)


def critical_dose(frequency_per_angstrom: NDArray[Any]) -> NDArray[np.float64]:
    """Return the dose in electrons per Å^2 that reduces the intensity of a frequency to 1/e, at 300 kV.

    Source: Grant and Grigorieff 2015, equation 3.
    """
    frequency = np.maximum(frequency_per_angstrom, 1e-4)
    answer: NDArray[np.float64] = 0.24499 * frequency**-1.6649 + 2.8141
    return answer


def dose_before(imaging: Imaging) -> NDArray[np.float64]:
    """Return the dose in electrons per Å^2 that the specimen has received by the middle of each tilt's exposure."""
    angles = imaging.angles_degree
    order = np.arange(len(angles))
    if imaging.tilt_order == "dose_symmetric":
        order = np.lexsort((-angles, np.abs(angles).round(6)))
    taken = np.empty(len(angles))
    taken[order] = np.arange(len(angles)) + 0.5
    return taken * imaging.dose_per_square_angstrom / len(angles)


def beams(depth: int, width: int, angles_degree: Sequence[float] | NDArray[Any]) -> csr_matrix:
    """Return the geometry of a tilt series as a matrix: the weight of every voxel in every detector pixel.

    The projection of a voxel's square section is a trapezoid, and the weight is the part of it that falls on the pixel,
    so uniform matter has a uniform projection at every angle. The matrix back-projects; its transpose projects. All
    slices across the tilt axis have the same geometry, so one matrix serves all y.

    Returns:
        Shape ``(depth * width, tilts * width)``.
    """
    angles = np.radians(np.asarray(angles_degree, dtype=np.float64))
    z, x = np.meshgrid(np.arange(depth) - (depth - 1) / 2, np.arange(width) - (width - 1) / 2, indexing="ij")
    place = x.reshape(-1, 1) * np.cos(angles) + z.reshape(-1, 1) * np.sin(angles) + (width - 1) / 2
    pixels = np.rint(place).astype(np.int32)[..., None] + np.array([-1, 0, 1], dtype=np.int32)
    edges = pixels[..., :1] - place[..., None] + np.array([-0.5, 0.5, 1.5, 2.5])
    weights = np.diff(_shadow_until(edges, angles[:, None])).astype(np.float32)
    weights[(pixels < 0) | (pixels > width - 1)] = 0
    columns = np.clip(pixels, 0, width - 1) + width * np.arange(len(angles), dtype=np.int32)[:, None]
    ends = np.arange(depth * width + 1, dtype=np.int32) * (3 * len(angles))
    return csr_matrix((weights.ravel(), columns.ravel(), ends), shape=(depth * width, len(angles) * width))


def _shadow_until(place: NDArray[np.float64], angle: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the share of a unit square's projection that falls left of a position, counted from its centre."""
    wide, narrow = np.abs(np.cos(angle)), np.maximum(np.abs(np.sin(angle)), 1e-6)
    outer, inner = (wide + narrow) / 2, (wide - narrow) / 2
    ramps = [np.maximum(place + corner, 0) ** 2 for corner in (outer, inner, -inner, -outer)]
    answer: NDArray[np.float64] = (ramps[0] - ramps[1] - ramps[2] + ramps[3]) / (2 * wide * narrow)
    return answer


def project(volume: Array, geometry: csr_matrix) -> Array:
    """Return the sums along the beam ``[tilt, y, s]`` of a volume ``[z, y, x]``."""
    depth, height, width = volume.shape
    rows = np.ascontiguousarray(volume.transpose(0, 2, 1)).reshape(depth * width, height)
    sums = geometry.T @ rows
    return np.ascontiguousarray(sums.reshape(-1, width, height).transpose(0, 2, 1))


def back_project(projections: Array, geometry: csr_matrix) -> Array:
    """Back-project ``[tilt, y, s]`` along the beams, the transpose of `project`; returns ``[z, y, x]``."""
    tilts, height, width = projections.shape
    rows = np.ascontiguousarray(projections.transpose(0, 2, 1)).reshape(tilts * width, height)
    volume = geometry @ rows
    return np.ascontiguousarray(volume.reshape(-1, width, height).transpose(0, 2, 1))


def expected_counts(density_kda: Array, voxel_size_angstrom: float, imaging: Imaging, geometry: csr_matrix) -> Array:
    """Return the expected electrons per pixel ``[tilt, y, s]`` of a tilt series, without noise.

    Every z slice is assumed to continue beyond the volume with its mean, so that the field of view has no visible edge.

    Args:
        density_kda: ``[z, y, x]``, in excess of ice, kDa per voxel.
        voxel_size_angstrom: side of a voxel and of a pixel.
        imaging: settings of the microscope.
        geometry: `beams` of the volume's depth and width and the imaging's angles.
    """
    level = density_kda.mean(axis=(1, 2), dtype=np.float64).astype(np.float32)
    sums = project(density_kda - level[:, None, None], geometry)
    volts = VOLT_ANGSTROM3_PER_KDA / voxel_size_angstrom**2  # converts kDa per pixel to V Å
    phase = sums * np.float32(volts * radian_per_volt_angstrom(imaging.voltage_kv) * imaging.contrast)
    frequency = frequencies(phase.shape[1:], voxel_size_angstrom)
    transfer = 2 * contrast_transfer(frequency, imaging) * np.exp(-((frequency * imaging.envelope_angstrom) ** 2))
    fading = 0.5 * dose_before(imaging) if imaging.damage else np.zeros(len(phase))
    through = _electrons_per_pixel(imaging, voxel_size_angstrom)
    for tilt, image in enumerate(phase):
        kept = transfer * np.exp(-fading[tilt] / critical_dose(frequency))
        image[...] = through[tilt] * (1 + filtered(image, kept))
    answer: Array = np.maximum(phase, 0)
    return answer


def count_electrons(expected: Array, imaging: Imaging, random: np.random.Generator) -> Array:
    """Return the counts of a detector ``[tilt, y, s]``, with shot noise and readout noise."""
    counts = random.poisson(expected).astype(np.float32)
    return counts + np.float32(imaging.readout_electrons) * random.standard_normal(counts.shape, dtype=np.float32)


def reconstruct(images: Array, voxel_size_angstrom: float, imaging: Imaging, geometry: csr_matrix) -> Array:
    """Return the weighted back-projection ``[z, y, x]`` of a tilt series; matter is bright.

    The images are divided by the electrons that pass bare ice, phase-flipped, and weighted by dose and by the ramp
    filter across the tilt axis, which compensates the oversampling of low frequencies. All steps are linear in the
    images.
    """
    frequency = frequencies(images.shape[1:], voxel_size_angstrom)
    weight = low_pass(frequency, imaging.resolution_angstrom)
    weight = weight * np.abs(np.fft.rfftfreq(images.shape[2]))[None, :] * math.radians(imaging.tilt_step_degree)
    if imaging.phase_flip:
        weight = weight * -np.sign(contrast_transfer(frequency, imaging))
    fading = 0.5 * dose_before(imaging) if imaging.dose_weighting else np.zeros(len(images))
    through = _electrons_per_pixel(imaging, voxel_size_angstrom)
    ready = np.empty_like(images)
    for tilt, image in enumerate(images):
        kept = weight * np.exp(-fading[tilt] / critical_dose(frequency))
        ready[tilt] = -filtered(image, kept)
    return back_project(ready / through[:, None, None], geometry)


def low_pass(frequency_per_angstrom: NDArray[Any], resolution_angstrom: float) -> NDArray[np.float64]:
    """Return a Gaussian low-pass that is 1/2 at 1 / resolution, and 1 everywhere for a resolution of 0."""
    return 0.5 ** ((np.asarray(frequency_per_angstrom) * resolution_angstrom) ** 2)


def frequencies(shape: Sequence[int], voxel_size_angstrom: float) -> NDArray[np.float64]:
    """Return the frequency in 1/Å (its length) at every entry of a real Fourier transform."""
    axes = [np.fft.fftfreq(length, voxel_size_angstrom) for length in shape[:-1]]
    axes.append(np.fft.rfftfreq(shape[-1], voxel_size_angstrom))
    answer: NDArray[np.float64] = np.sqrt(sum(axis**2 for axis in np.meshgrid(*axes, indexing="ij", sparse=True)))
    return answer


def filtered(image: Array, weight: NDArray[Any]) -> Array:
    """Return an image or a volume with its Fourier transform multiplied by ``weight``."""
    spectrum = scipy.fft.rfftn(image) * weight.astype(np.float32)
    answer: Array = scipy.fft.irfftn(spectrum, s=image.shape, overwrite_x=True)
    return answer


def _electrons_per_pixel(imaging: Imaging, voxel_size_angstrom: float) -> Array:
    """Return the electrons per pixel that reach the detector through bare ice, per tilt."""
    path = imaging.ice_thickness_angstrom / np.cos(np.radians(imaging.angles_degree))
    dose = (
        imaging.dose_per_square_angstrom / len(imaging.angles_degree) * np.exp(-path / imaging.mean_free_path_angstrom)
    )
    return (dose * voxel_size_angstrom**2).astype(np.float32)
