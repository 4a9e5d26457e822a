"""The true particles of a tomogram, as rows of label and voxel index."""

from __future__ import annotations

import math
import warnings
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from numpy.typing import NDArray

from scripts.coordinates import to_zyx_vox
from scripts.datasets.annotated import Annotated
from scripts.datasets.truth import read_annotations
from scripts.errors import InputError, InputWarning
from scripts.picks import (
    FORMATS,
    Pick,
    check_inside,
    check_truth,
    check_unit,
    read_relion5_star,
    xyz_angstrom_of,
)
from scripts.preparation.annotation import BOX, COMPLETE, DOUBTFUL, REGION, annotated_region, box_of
from scripts.preparation.image_facts import ImageFacts, facts_of_image, refuse_other_directions
from scripts.preparation.region import is_inside
from scripts.species import SpeciesSet
from scripts.volumes.labels import as_labels, points_of_labels
from scripts.volumes.reading import is_tomogram, read_tomogram

ALLOW_NEAR = "--allow_truth_near_origin True"


def read_truth(path: str | Path, run: str, species_set: SpeciesSet) -> list[Pick]:
    """Read the true particles of one run from a Kaggle CSV, or from copick files.

    Args:
        path: the CSV, a folder of copick files, or a folder and a glob pattern of copick files.
        run: name of the run.
        species_set: the species.

    Raises:
        InputError: a file cannot be read or names an unknown species.
    """
    return truth_of_run(read_annotations(path, run), run, species_set, path)


def truth_of_run(picks: Iterable[Pick], run: str, species_set: SpeciesSet, path: str | Path) -> list[Pick]:
    """Return the true particles of one run.

    Raises:
        InputError: a species is unknown, or two particles have the same place.
    """
    truth = [pick for pick in picks if pick.run == run]
    check_truth(truth, species_set, str(path))
    return truth


class LoadTruthd(MapTransform):
    """Load the true particles of a tomogram: points from a table, or the blobs of a label volume.

    The rows of ``keys`` are certain: of weight 1, of an annotated species and inside the annotated region. What is
    known besides is added under the keys of `annotation.Annotation`, where there is something.

    Args:
        keys: path of a Kaggle CSV, of a folder of copick JSON, or of a label volume; becomes ``(N, 4)`` rows of label
            and voxel index ``(label, z, y, x)``. Species with label 0 are left out.
        species_set: the species.
        image_key: the tomogram ``(1, Z, Y, X)``, for its shape, voxel sizes and run.
        volume_key: key under which a label volume ``(1, Z, Y, X)`` is stored as well.
        voxel_offset: see `coordinates`.
        allow_truth_near_origin: only warn if points lie so near to their origin as if they were voxels or nm.
        allow_missing_chunks: treat chunks that are missing in a Zarr label volume or mask as full of the fill value.

    Raises:
        InputError: the truth cannot be read, names an unknown species or label, or has another shape or other
            directions than the volume.
    """

    def __init__(
        self,
        keys: KeysCollection,
        species_set: SpeciesSet,
        image_key: str = "image",
        volume_key: str = "label_volume",
        voxel_offset: float = 0.0,
        allow_truth_near_origin: bool = False,
        allow_missing_chunks: bool = False,
    ) -> None:
        super().__init__(keys)
        self.species_set, self.voxel_offset = species_set, voxel_offset
        self.image_key, self.volume_key = image_key, volume_key
        self.allow_near, self.allow_missing_chunks = allow_truth_near_origin, allow_missing_chunks

    def record(self) -> dict[str, Any]:
        """Return the settings that the rows depend on: names and labels of the species, but not their thresholds."""
        labels = {species.name: species.label for species in self.species_set.known}
        allowed = {"allow_missing_chunks": True} if self.allow_missing_chunks else {}
        return {"labels": labels, "voxel_offset": self.voxel_offset, **allowed}

    def annotation_of(
        self, rows: NDArray[np.float64], sample: Mapping[Hashable, Any], shape_zyx: Sequence[int], facts: ImageFacts
    ) -> tuple[NDArray[np.float64], dict[str, NDArray[Any]]]:
        """Return the certain ones of rows ``(N, 5)``, as ``(N, 4)``, and the arrays of `annotation.Annotation`."""
        entry = Annotated.of_row(sample)
        more: dict[str, NDArray[Any]] = {}
        for name in entry.species or ():
            self.species_set.named(name, f"what was annotated in run '{facts.run}'")
        labels = [species.label for species in self.species_set.picked if entry.holds(species.name)]
        rows = rows[np.isin(rows[:, 0], labels)]
        region = annotated_region(entry, shape_zyx, facts, self.voxel_offset, self.allow_missing_chunks)
        if region is not None:
            rows[~is_inside(region, rows[:, 1:4]), 4] = np.nan
            more |= {REGION: region[None].astype(np.uint8), BOX: box_of(region)}
        if not entry.complete or len(labels) < len(self.species_set.picked):
            more[COMPLETE] = np.array(
                [entry.complete and species.label in labels for species in self.species_set.picked]
            )
        is_certain = rows[:, 4] == 1
        if not is_certain.all():
            more[DOUBTFUL] = rows[~is_certain].astype(np.float32)
        return rows[is_certain, :4], more

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the sample with its truth loaded."""
        sample = dict(data)
        for key in self.key_iterator(sample):
            path, image = sample[key], sample[self.image_key]
            facts = facts_of_image(image, sample.get("run"))
            if is_tomogram(path):
                labels = self.read_labels(path, image.shape[1:], facts)
                sample[self.volume_key] = torch.from_numpy(labels[None])
                centres = points_of_labels(labels, self.species_set, str(path))
                rows = np.column_stack([centres, np.ones(len(centres))])
            else:
                rows = self.read_points(path, facts)
            points, more = self.annotation_of(rows, sample, image.shape[1:], facts)
            sample |= {name: torch.from_numpy(value) for name, value in more.items()}
            sample[key] = torch.as_tensor(np.asarray(points, dtype=np.float32).reshape(-1, 4))
        return sample

    def read_labels(self, path: str, shape_zyx: Sequence[int], facts: ImageFacts) -> NDArray[np.uint8]:
        """Return the labels of an image of shape ``(Z, Y, X)``, in the same shape.

        They are on the grid of the whole tomogram, or, if that was resampled, on that of the image. Of a pyramid the
        level nearest to the voxel size of the image is read.
        """
        own, here = facts.own_voxel_size_angstrom, facts.voxel_size_angstrom
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*is used, not the file's", InputWarning)  # the shape tells the grid
            volume = read_tomogram(path, here, here, self.allow_missing_chunks)
        refuse_other_directions(volume.affine, path, facts)
        values, is_resampled = np.asarray(volume.data), not math.isclose(here, own, rel_tol=1e-5)
        if is_resampled and values.shape == tuple(shape_zyx):
            return as_labels(values, path)
        if values.shape != facts.own_shape_zyx:
            resampled = f", resampled {tuple(shape_zyx)}" if is_resampled else ""
            raise InputError(
                f"{path}: the label volume has shape {values.shape}, its tomogram {facts.own_shape_zyx}{resampled}."
            )
        corners = facts.to_own_voxels(np.stack([np.zeros(3), np.array(shape_zyx) - 1.0]))
        places = [
            np.rint(np.linspace(first, last, count)).astype(np.int64).clip(0, size - 1)
            for first, last, count, size in zip(*corners, shape_zyx, values.shape, strict=True)
        ]
        labels: NDArray[np.uint8] = as_labels(values, path)[np.ix_(*places)]
        return labels

    def read_points(self, path: str, facts: ImageFacts) -> NDArray[np.float64]:
        """Return the annotations ``(N, 5)`` of a run: label, voxel index in its image, and weight."""
        is_star, own = Path(path).suffix == ".star", facts.own_voxel_size_angstrom
        picks = self.read_star(path, facts) if is_star else read_annotations(path, facts.run)
        origin = FORMATS["relion5" if is_star else "csv"].origin_zyx_vox(facts.own_shape_zyx, self.voxel_offset)
        everywhere = to_zyx_vox(xyz_angstrom_of(picks), own, self.voxel_offset)
        check_unit(everywhere, facts.own_shape_zyx, own, str(path), ALLOW_NEAR, origin, self.allow_near)
        truth = truth_of_run(picks, facts.run, self.species_set, path)
        labels = [self.species_set.named(pick.species, path).label for pick in truth]
        points = to_zyx_vox(xyz_angstrom_of(truth), own, self.voxel_offset)
        check_inside(points, facts.own_shape_zyx, f"{path}, run '{facts.run}'")
        in_image = facts.from_own_voxels(points)
        weights = [pick.weight for pick in truth]
        rows = np.column_stack([np.asarray(labels, dtype=np.float64).reshape(-1, 1), in_image, weights])
        return rows[rows[:, 0] > 0]

    def read_star(self, path: str, facts: ImageFacts) -> list[Pick]:
        """Return the true particles of all runs from a RELION 5 file, which does not distinguish species."""
        known = [species.name for species in self.species_set.picked]
        if len(known) != 1:
            names = ", ".join(known)
            raise InputError(f"{path} does not tell species apart, and there are {len(known)}: {names}. Use truth.csv.")
        picks = read_relion5_star(
            path,
            species=known[0],
            volume_shape_zyx=facts.own_shape_zyx,
            voxel_size_angstrom=facts.own_voxel_size_angstrom,
            voxel_offset=self.voxel_offset,
        )
        there = sorted({pick.run for pick in picks})
        if there and facts.run not in there:
            raise InputError(f"{path} has no particle of '{facts.run}'; its tomograms are called {', '.join(there)}.")
        return picks
