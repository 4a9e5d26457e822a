"""Annotations from a label volume that was corrected by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scripts.errors import InputError
from scripts.picks.pick import Pick, picks_at, zyx_vox_of
from scripts.species import SpeciesSet
from scripts.volumes.labels import connected_blobs, points_of_labels


def annotations_of_labels(
    label_volume: NDArray[np.uint8],
    picks: Sequence[Pick],
    species_set: SpeciesSet,
    run: str,
    voxel_size_angstrom: float,
    voxel_offset: float,
    source: str,
) -> list[Pick]:
    """Compare a label volume with the picks that it was painted from; return both as annotations.

    A pick is a particle (weight 1) if the voxel of its centre has its species' label, else it was rejected (weight 0).
    Every connected blob without such a pick is one more particle, at its centroid.

    Args:
        label_volume: ``(Z, Y, X)``, 0 for background.
        picks: of the run; without any, every blob is a particle.
        species_set: the species, for their labels.
        run: name of the run.
        voxel_size_angstrom: of the volume.
        voxel_offset: of the picks' ångströms, see `coordinates`.
        source: the volume's file, for messages.

    Raises:
        InputError: the volume holds a label that belongs to no species, or no label where any of the picks is.
    """
    centres = points_of_labels(label_volume, species_set, source)
    voxels = np.rint(zyx_vox_of(picks, voxel_size_angstrom, voxel_offset)).astype(int)
    is_inside: NDArray[np.bool_] = np.all((voxels >= 0) & (voxels < label_volume.shape), axis=1)
    places = tuple(np.where(is_inside[:, None], voxels, 0).T)
    labels = [species_set.named(pick.species, f"the picks of run '{run}'").label for pick in picks]
    is_particle = is_inside & np.equal(label_volume[places], labels)
    if len(picks) and len(centres) and not label_volume[places][is_inside].any():
        raise InputError(f"{source} has no label where any pick of run '{run}' is: it is another run's, or mirrored.")
    annotations = [replace(pick, weight=float(kept)) for pick, kept in zip(picks, is_particle, strict=True)]
    known = connected_blobs(label_volume)[places][is_particle] - 1
    new = np.delete(centres, known, axis=0)
    for species in species_set.picked:
        points = new[new[:, 0] == species.label, 1:]
        ones = np.ones(len(points))
        annotations += picks_at(points, [run] * len(points), species.name, ones, voxel_size_angstrom, voxel_offset)
    return [replace(one, origin=f"corrected in {Path(source).name}") for one in annotations]
