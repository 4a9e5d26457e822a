"""The painter of solid spheres: targets that are 1 inside a sphere around every particle."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scripts.species import SpeciesSet
from scripts.volumes.labels import as_labelled_points, draw_spheres, split_labels


class Spheres:
    """Paint a solid sphere of the species' target radius around every particle."""

    def __call__(
        self, shape: tuple[int, int, int], labelled_points: ArrayLike, species_set: SpeciesSet
    ) -> NDArray[np.float32]:
        """Return the target of a window: one channel per picked species, 1 inside a particle's sphere and 0 elsewhere.

        Args:
            shape: ``(Z, Y, X)`` of the window.
            labelled_points: ``(N, 4)``, label and voxel index ``(label, z, y, x)`` of every particle.
            species_set: label and target radius of each channel, and the voxel size of the window.

        Returns:
            ``(C, Z, Y, X)``.

        Raises:
            ValueError: the points do not have the shape ``(N, 4)``.
        """
        rows = as_labelled_points(labelled_points)
        spheres = [
            draw_spheres(
                shape, rows[rows[:, 0] == one.label, 1:], one.target_radius_angstrom / species_set.voxel_size_angstrom
            )
            for one in species_set.picked
        ]
        return np.stack(spheres).astype(np.float32)

    def of_labels(self, label_volume: NDArray[np.integer], species_set: SpeciesSet) -> NDArray[np.float32]:
        """Return the target ``(C, Z, Y, X)`` of a label volume ``(Z, Y, X)``, one channel per label."""
        return split_labels(label_volume, species_set.picked).astype(np.float32)
