"""How much of the tomograms the particles of each species fill, from how many are expected."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from scripts.errors import InputError, is_finite_number
from scripts.species import SpeciesSet
from scripts.training.windows import MARGIN_ANGSTROM, Painter
from scripts.volumes.reading import read_extent


def positive_shares(
    expected_particles: Mapping[str, float] | None,
    runs: Sequence[Mapping[Any, Any]],
    species_set: SpeciesSet,
    painter: Painter,
    voxel_size_angstrom: float | None = None,
) -> list[float]:
    """Return the share of all voxels that is the target of each species.

    Args:
        expected_particles: of each species in a tomogram, annotated or not.
        runs: the tomograms, under the key ``image``; only their headers are read.
        species_set: the species.
        painter: paints the target.
        voxel_size_angstrom: overrides those in the files.

    Raises:
        InputError: a species has no number above 0, or its particles would fill half of the tomograms.
    """
    expected = dict(expected_particles or {})
    for name in expected:
        species_set.named(name, "expected_particles")
    missing = [name for name in species_set.names if not (is_finite_number(expected.get(name)) and expected[name] > 0)]
    if missing:
        raise InputError(
            f"expected_particles needs a number above 0 for {', '.join(missing)}: about how many there are in a "
            "tomogram, annotated or not."
        )
    if not runs:
        return [math.nan] * len(species_set.picked)  # the run is refused before it starts
    extents = [read_extent(row["image"], voxel_size_angstrom) for row in runs]
    cubic_angstroms = np.mean([math.prod(shape) * size**3 for shape, size in extents])
    middle = math.ceil(MARGIN_ANGSTROM / species_set.voxel_size_angstrom)
    side = 2 * middle + 1
    shares = []
    for species in species_set.picked:
        one = painter((side, side, side), [[species.label, middle, middle, middle]], species_set)
        target = float(one[species.label - 1].sum()) * species_set.voxel_size_angstrom**3
        shares.append(expected[species.name] * target / float(cubic_angstroms))
        if shares[-1] >= 0.5:
            raise InputError(
                f"expected_particles: {expected[species.name]:g} particles of {species.name} would fill "
                f"{shares[-1]:.0%} of a tomogram; give the number in one tomogram."
            )
    return shares
