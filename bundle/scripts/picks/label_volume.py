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
from scripts.volumes.labels import connected_blobs, label_map_of, points_of_labels


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

    A pick is a particle (weight 1) if the voxel of its centre has the label that was painted there, its own or that of
    a neighbour whose sphere lies over it; else it was rejected (weight 0). Every connected blob without a particle's
    centre is one more particle, at its centroid, unless nothing but what was painted is in it.

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
    exact = zyx_vox_of(picks, voxel_size_angstrom, voxel_offset)
    places_of = {name: exact[[pick.species == name for pick in picks]] for name in species_set.names}
    painted = label_map_of(label_volume.shape, places_of, species_set, voxel_size_angstrom)
    voxels = np.rint(exact).astype(int)
    is_inside: NDArray[np.bool_] = np.all((voxels >= 0) & (voxels < label_volume.shape), axis=1)
    places = tuple(np.where(is_inside[:, None], voxels, 0).T)
    for pick in picks:
        species_set.named(pick.species, f"the picks of run '{run}'")
    is_particle = is_inside & (label_volume[places] > 0) & (label_volume[places] == painted[places])
    if len(picks) and len(centres) and not label_volume[places][is_inside].any():
        raise InputError(f"{source} has no label where any pick of run '{run}' is: it is another run's, or mirrored.")
    annotations = [replace(pick, weight=float(kept)) for pick, kept in zip(picks, is_particle, strict=True)]
    blobs = connected_blobs(label_volume)
    is_new = np.zeros(len(centres) + 1, dtype=bool)
    is_new[np.unique(blobs[label_volume != painted])] = True
    is_new[blobs[places][is_particle]] = False
    new = centres[is_new[1:]]
    for species in species_set.picked:
        points = new[new[:, 0] == species.label, 1:]
        ones = np.ones(len(points))
        annotations += picks_at(points, [run] * len(points), species.name, ones, voxel_size_angstrom, voxel_offset)
    return [replace(one, origin=f"corrected in {Path(source).name}") for one in annotations]
