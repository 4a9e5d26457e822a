"""What is known about a tomogram's particles: which truths are doubtful, and where nothing was annotated."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from scripts.datasets.annotated import ENTRY, MASK, Annotated
from scripts.errors import InputError
from scripts.preparation.image_facts import ImageFacts
from scripts.preparation.region import is_inside, read_mask

DOUBTFUL, COMPLETE, REGION, BOX = "doubtful", "is_complete", "annotated_region", "annotated_box"  # keys of a sample


@dataclass(frozen=True)
class Annotation:
    """What is known of a tomogram besides its certain particles; a sample without these keys is known completely.

    Attributes:
        doubtful: ``(M, 5)`` rows of label, voxel index and weight: the probability that this is a particle; 0 was
            looked at and is none, NaN is uncertain.
        is_complete: ``(C,)``, whether all particles of each species are annotated; None means all.
        region: ``(1, Z, Y, X)``, 0 where nothing was annotated, or a `cache.StoredVolume` of it; None means everywhere.
        box: ``(2, 3)``, first and last voxel of the region.
    """

    doubtful: NDArray[np.float64]
    is_complete: NDArray[np.bool_] | None = None
    region: Any = None
    box: NDArray[np.int64] | None = None

    @staticmethod
    def of(sample: Mapping[Any, Any]) -> Annotation:
        """Return the annotation of a sample."""
        doubtful, complete, box = (sample.get(key) for key in (DOUBTFUL, COMPLETE, BOX))
        return Annotation(
            np.asarray([] if doubtful is None else doubtful, dtype=np.float64).reshape(-1, 5),
            None if complete is None else np.asarray(complete, dtype=bool),
            sample.get(REGION),
            None if box is None else np.asarray(box),
        )

    def has_all_of(self, label: int) -> bool:
        """Return whether all particles of a species are annotated."""
        return self.is_complete is None or bool(self.is_complete[label - 1])

    def is_told(
        self,
        label: int,
        points_zyx_vox: NDArray[np.float64],
        truths_zyx_vox: NDArray[np.float64],
        distance: float,
    ) -> NDArray[np.bool_]:
        """Return of which points ``(N, 3)`` the truth tells whether a particle of the species is there.

        It does on a true particle; elsewhere only where all particles of the species are annotated or this place was
        rejected, and away from particles that are uncertain.

        Args:
            label: of the species.
            points_zyx_vox: ``(N, 3)``.
            truths_zyx_vox: ``(M, 3)``, its true particles.
            distance: in voxels, that counts as "on".
        """
        told = np.full(len(points_zyx_vox), self.has_all_of(label))
        rows = self.doubtful[self.doubtful[:, 0] == label]
        rejected, perhaps = (rows[chosen, 1:4] for chosen in (rows[:, 4] == 0, rows[:, 4] != 0))
        told |= is_near(points_zyx_vox, rejected, distance)
        if self.region is not None and len(points_zyx_vox):
            low, high = np.rint([points_zyx_vox.min(axis=0), points_zyx_vox.max(axis=0)]).astype(np.int64)
            low, high = (np.clip(place, 0, np.array(self.region.shape[1:]) - 1) for place in (low, high))
            part = self.region[(slice(None), *map(slice, low.tolist(), (high + 1).tolist()))]  # it may be on the disk
            told &= is_inside(np.asarray(part)[0], points_zyx_vox - low)
        told &= ~is_near(points_zyx_vox, perhaps, distance)
        return told | is_near(points_zyx_vox, truths_zyx_vox, distance)


EVERYTHING = Annotation.of({})


def is_near(points: NDArray[np.float64], others: NDArray[np.float64], distance: float) -> NDArray[np.bool_]:
    """Return which points ``(N, 3)`` have one of the others ``(M, 3)`` within a distance."""
    if len(points) == 0 or len(others) == 0:
        return np.zeros(len(points), dtype=bool)
    answer: NDArray[np.bool_] = KDTree(others).query(points)[0] <= distance
    return answer


def pop_annotation(sample: MutableMapping[Any, Any]) -> Annotation:
    """Return the annotation of a sample, and remove it there: windows with and without one make one batch."""
    found = Annotation.of(sample)
    for key in (DOUBTFUL, COMPLETE, REGION, BOX, ENTRY, MASK):
        sample.pop(key, None)
    return found


def annotated_region(
    entry: Annotated,
    shape_zyx: Sequence[int],
    facts: ImageFacts,
    voxel_offset: float,
    allow_missing_chunks: bool = False,
) -> NDArray[np.bool_] | None:
    """Return where an image ``(Z, Y, X)`` was annotated; None for everywhere.

    Args:
        entry: what was annotated.
        shape_zyx: ``(Z, Y, X)`` of the image.
        facts: of the image.
        voxel_offset: see `coordinates`.
        allow_missing_chunks: treat chunks that are missing in a Zarr mask as full of the fill value.

    Raises:
        InputError: the mask cannot be read or lies on another grid, or the region is empty.
    """
    if not entry.box and entry.mask is None:
        return None
    region = np.ones(tuple(shape_zyx), dtype=bool)
    if entry.mask is not None:
        region &= read_mask(entry.mask, shape_zyx, facts, allow_missing_chunks)
    for key, ends in entry.box:
        axis, unit = "zyx".index(key[0]), key[2:]
        own = np.array(ends) / facts.own_voxel_size_angstrom - voxel_offset if unit == "angstrom" else np.array(ends)
        first, last = (
            (own - facts.start_zyx_voxel[axis]) * facts.own_voxel_size_angstrom / facts.voxel_size_angstrom
        ).tolist()
        places = np.arange(shape_zyx[axis])
        inside = (places > first - 0.5) & (places < last + 0.5)
        region &= inside.reshape([-1 if axis == one else 1 for one in range(3)])
    if not region.any():
        where = entry.mask or ", ".join(f"{key} {list(ends)}" for key, ends in entry.box)
        raise InputError(f"{facts.source}: the region that was annotated, {where}, is empty.")
    return region


def box_of(region: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the first and the last voxel ``(2, 3)`` of a region ``(Z, Y, X)`` that is not empty."""
    ends = []
    for axis in range(3):
        there = np.flatnonzero(region.any(axis=tuple(other for other in range(3) if other != axis)))
        ends.append((there[0], there[-1]))
    return np.array(ends).T
