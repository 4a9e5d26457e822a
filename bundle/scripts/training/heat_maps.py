"""The painter of heat maps: targets that are a Gaussian around every particle."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scripts.errors import InputError, is_finite_number
from scripts.species import Species, SpeciesSet
from scripts.volumes.labels import as_labelled_points, box_around

REACH_IN_SIGMAS = 5.0  # farther out a Gaussian is below 4e-6, and 0 is painted


@dataclass(frozen=True)
class HeatMaps:
    """Paint a Gaussian around every particle, 1 at its centre wherever in a voxel that is; the highest where they meet.

    A label volume is painted by the centres of its blobs.

    Attributes:
        sigma_angstrom: standard deviation of every species in ångströms; 60 are 6 voxels of 10 Å.
        sigma_in_radii: in its place, the standard deviation as a multiple of the species' radius.

    Raises:
        InputError: none or both are given, or the one is not positive.
    """

    sigma_angstrom: float | None = None
    sigma_in_radii: float | None = None

    def __post_init__(self) -> None:
        given = [sigma for sigma in (self.sigma_angstrom, self.sigma_in_radii) if sigma is not None]
        if len(given) != 1 or not (is_finite_number(given[0]) and given[0] > 0):
            raise InputError(
                "a heat map needs either sigma_angstrom or sigma_in_radii, above 0, and the other one None; got "
                f"{self.sigma_angstrom} and {self.sigma_in_radii}."
            )

    def __call__(
        self, shape: tuple[int, int, int], labelled_points: ArrayLike, species_set: SpeciesSet
    ) -> NDArray[np.float32]:
        """Return the target of a window: one channel per picked species, 0 to 1.

        Args:
            shape: ``(Z, Y, X)`` of the window.
            labelled_points: ``(N, 4)``, label and voxel index ``(label, z, y, x)`` of every particle, whole or not,
                inside the window or not.
            species_set: label and radius of each channel, and the voxel size of the window.

        Returns:
            ``(C, Z, Y, X)``.

        Raises:
            ValueError: the points do not have the shape ``(N, 4)``.
        """
        rows = as_labelled_points(labelled_points)
        target = np.zeros((len(species_set.picked), *shape), dtype=np.float32)
        for channel, species in zip(target, species_set.picked, strict=True):
            sigma_vox = self.sigma_of(species) / species_set.voxel_size_angstrom
            for centre in rows[rows[:, 0] == species.label, 1:]:
                _paint_gaussian(channel, centre, sigma_vox)
        return target

    def sigma_of(self, species: Species) -> float:
        """Return the standard deviation of a species' Gaussian in ångströms."""
        if self.sigma_in_radii is not None:
            return self.sigma_in_radii * species.radius_angstrom
        assert self.sigma_angstrom is not None
        return self.sigma_angstrom


def _paint_gaussian(volume: NDArray[np.float32], centre_zyx_vox: NDArray[np.float64], sigma_vox: float) -> None:
    box = box_around(centre_zyx_vox, REACH_IN_SIGMAS * sigma_vox, volume.shape)
    if box is None:
        return
    z, y, x = (
        np.exp(-((np.arange(part.start, part.stop) - middle) ** 2) / (2 * sigma_vox**2))
        for part, middle in zip(box, centre_zyx_vox, strict=True)
    )
    np.maximum(volume[box], z[:, None, None] * y[:, None] * x, out=volume[box])
