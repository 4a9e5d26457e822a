"""Where training looks: a coarse map of how much a window around each part of a tomogram has to teach."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from monai.config import KeysCollection
from monai.data import Dataset, MetaTensor
from monai.transforms import MapTransform
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter

from scripts.atomic_files import digest_of, write_atomically
from scripts.coordinates import to_zyx_vox
from scripts.datasets.runs import run_name
from scripts.errors import InputWarning
from scripts.file_names import require_file_name
from scripts.picks import Pick, read_csv, xyz_angstrom_of
from scripts.preparation.annotation import Annotation
from scripts.preparation.contrast import block_means
from scripts.preparation.image_facts import facts_of_image
from scripts.species import HIT_FRACTION, SpeciesSet

INTEREST = "interest"  # key of a sample, and folder of the pictures
CELL_VOXELS = 8  # side of a cell of the map; the last ones are cut off at the tomogram's end
BLOCK_VOXELS = CELL_VOXELS // 2  # side of the cubes whose means vary where there is something
REACH_BLOCKS = 5  # side of the neighbourhood in which they vary
DARK_SHARE = 0.1  # of the darkest voxels around a place, from which on its contrast counts less: gold, edges of carbon
EVEN_SHARE = 0.2  # of the windows, spread evenly


class MapInterestd(MapTransform):
    """Add a map of interest, see `interest_map`.

    Args:
        keys: the tomogram ``(1, Z, Y, X)``, scaled.
        species_set: the species.
        interest_table: picks of the last model in the training tomograms, with scores from 0 to 1, for its mistakes;
            None for the signal alone.
        label_key: the true particles ``(N, 4)``, rows of label and voxel index.
        voxel_offset: see `coordinates`.

    Raises:
        InputError: the table cannot be read.
    """

    def __init__(
        self,
        keys: KeysCollection,
        species_set: SpeciesSet,
        interest_table: str | Path | None = None,
        label_key: str = "label",
        voxel_offset: float = 0.0,
    ) -> None:
        super().__init__(keys)
        self.species_set, self.label_key, self.voxel_offset = species_set, label_key, voxel_offset
        self.picks = None if interest_table is None else read_csv(interest_table)
        self.table_sha256 = None if interest_table is None else digest_of(Path(interest_table))

    def record(self) -> dict[str, Any]:
        """Return the settings that the map depends on."""
        labels = {species.name: [species.label, species.radius_angstrom] for species in self.species_set.known}
        return {"species": labels, "table_sha256": self.table_sha256, "voxel_offset": self.voxel_offset}

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the sample with the map ``(z, y, x)`` of its cells."""
        sample = dict(data)
        for key in self.key_iterator(sample):
            image: MetaTensor = sample[key]
            volume = np.asarray(image[0].cpu())
            parts = [signal_map(volume)]
            if self.picks is not None:
                parts.append(mistake_map(volume.shape, *self.mistakes(image, sample)))
            region = Annotation.of(sample).region
            sample[INTEREST] = torch.from_numpy(interest_map(parts, None if region is None else known_cells(region)))
        return sample

    def mistakes(
        self, image: MetaTensor, sample: Mapping[Hashable, Any]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return places ``(N, 3)`` in voxels of the image, and how wrong the last model was there, ``(N,)``."""
        facts = facts_of_image(image, sample.get("run"))
        own = [pick for pick in self.picks or () if pick.run == facts.run]
        if not own:
            message = f"interest_table has no pick of '{facts.run}': all of its particles count as missed."
            warnings.warn(message, InputWarning, stacklevel=2)
        own_voxels = to_zyx_vox(xyz_angstrom_of(own), facts.own_voxel_size_angstrom, self.voxel_offset)
        points, truth = facts.from_own_voxels(own_voxels), np.asarray(sample[self.label_key])
        return mistakes_of(own, points, truth, self.species_set, facts.voxel_size_angstrom, Annotation.of(sample))


def interest_map(
    parts: Sequence[NDArray[np.floating[Any]]], is_known: NDArray[np.bool_] | None = None
) -> NDArray[np.float32]:
    """Return the share of the windows that each cell gets, ``(z, y, x)``; the sum is 1.

    Of the windows, `EVEN_SHARE` are spread evenly over all known cells; the maps of ``parts`` share the others equally.
    A map of zeros is left out.

    Args:
        parts: maps ``(z, y, x)``.
        is_known: ``(z, y, x)``, see `known_cells`; None means all.
    """
    known = np.ones(parts[0].shape) if is_known is None else is_known.astype(np.float64)
    even, parts = known / known.sum(), [part * known for part in parts]
    some = [part / part.sum() for part in parts if part.sum() > 0]
    answer: NDArray[np.float32] = (EVEN_SHARE * even + (1 - EVEN_SHARE) * np.mean(some or [even], axis=0)).astype(
        np.float32
    )
    return answer


def cells_of(shape: Sequence[int]) -> tuple[int, ...]:
    """Return the shape of the map of a volume."""
    return tuple(-(-size // CELL_VOXELS) for size in shape)


def known_cells(region: Any) -> NDArray[np.bool_]:
    """Return which cells ``(z, y, x)`` hold a voxel of what was annotated, ``(1, Z, Y, X)``."""
    cells: NDArray[np.bool_] = np.asarray(region)[0] != 0
    for axis, size in enumerate(cells.shape):
        cells = np.logical_or.reduceat(cells, range(0, size, CELL_VOXELS), axis=axis)
    return cells


def signal_map(volume: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return by cell how much the contrast exceeds the usual one, ``(z, y, x)``.

    The contrast is the standard deviation of the means of small cubes, over a neighbourhood about as large as a
    particle; usual is the median. It counts less where more than `DARK_SHARE` of the neighbourhood was clipped to 0:
    beside gold and carbon are the darkest voxels of a tomogram.

    Args:
        volume: ``(Z, Y, X)``, scaled to 0 ... 1, particles bright.
    """
    blocks = block_means(volume, BLOCK_VOXELS).astype(np.float64)
    darkest = block_means((volume <= 0).astype(np.float32), BLOCK_VOXELS)
    mean, squares, dark = (uniform_filter(values, REACH_BLOCKS) for values in (blocks, blocks**2, darkest))
    contrast = np.sqrt(np.maximum(squares - mean**2, 0))
    excess = np.maximum(contrast / (np.median(contrast) or 1.0) - 1, 0)
    signal = excess / (1 + (dark / DARK_SHARE) ** 4)
    cells = cells_of(volume.shape)
    missing = [(0, 2 * count - have) for count, have in zip(cells, signal.shape, strict=True)]
    depth, height, width = cells
    pairs = np.pad(signal, missing, mode="edge").reshape(depth, 2, height, 2, width, 2)
    answer: NDArray[np.float64] = pairs.mean(axis=(1, 3, 5))
    return answer


def mistake_map(
    shape: Sequence[int], points_zyx_vox: NDArray[np.float64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the summed weights of the points ``(N, 3)`` in each cell, ``(z, y, x)``; points outside are left out."""
    answer = np.zeros(cells_of(shape))
    is_inside = ((points_zyx_vox > -0.5) & (points_zyx_vox < np.asarray(shape) - 0.5)).all(axis=1)
    cells = np.maximum(np.rint(points_zyx_vox[is_inside]), 0).astype(int) // CELL_VOXELS
    np.add.at(answer, tuple(cells.T), weights[is_inside])
    return answer


def mistakes_of(
    picks: Sequence[Pick],
    points_zyx_vox: NDArray[np.float64],
    truth: NDArray[np.floating[Any]],
    species_set: SpeciesSet,
    voxel_size_angstrom: float,
    annotation: Annotation,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return where a model was how wrong: a pick beside every particle by its score, a particle by what its picks lack.

    Args:
        picks: of one tomogram, with scores from 0 to 1.
        points_zyx_vox: their places, ``(N, 3)``.
        truth: ``(M, 4)`` rows of label and voxel index.
        species_set: the species; picks of others are left out.
        voxel_size_angstrom: of the places.
        annotation: picks of which it does not tell whether they are right are no mistakes.

    Returns:
        Places ``(K, 3)`` and weights ``(K,)`` from 0 to 1.
    """
    places: list[NDArray[Any]] = [np.zeros((0, 3))]
    weights: list[NDArray[Any]] = [np.zeros(0)]
    for species in species_set.picked:
        of_species = [number for number, pick in enumerate(picks) if pick.species == species.name]
        scores = np.clip([picks[number].score for number in of_species], 0, 1)
        found, true = points_zyx_vox[of_species], truth[truth[:, 0] == species.label, 1:].astype(np.float64)
        reach = HIT_FRACTION * species.radius_angstrom / voxel_size_angstrom
        is_near = np.linalg.norm(found[:, None] - true[None], axis=2) <= reach
        is_wrong = ~is_near.any(axis=1) & annotation.is_told(species.label, found, true, reach)
        places += [found[is_wrong], true]
        weights += [scores[is_wrong], 1 - np.max(is_near * scores[:, None], axis=0, initial=0.0)]
    return np.concatenate(places), np.concatenate(weights)


def write_interest_pictures(windows: Any, output_dir: str | Path) -> None:
    """Write a picture of every tomogram's map, ``interest/RUN.png``; of a run's further tomograms ``RUN.1.png`` ...

    Args:
        windows: a `training.window_dataset.WindowDataset` whose tomograms have maps.
        output_dir: of the training.

    Raises:
        InputError: a picture cannot be written.
    """
    tomograms: Dataset = windows.tomograms
    places = {item["image"]: place for place, item in enumerate(tomograms.data)}  # training may repeat a tomogram
    drawn: Counter[str] = Counter()
    for image, place in places.items():
        run = require_file_name(str(tomograms.data[place].get("run") or run_name(image)), "run")
        name = f"{run}.{drawn[run]}.png" if drawn[run] else f"{run}.png"
        drawn[run] += 1
        with write_atomically(Path(output_dir) / INTEREST / name, "wb") as file:
            FigureCanvasAgg(interest_figure(np.asarray(tomograms[place][INTEREST]), run)).print_png(file)


def interest_figure(interest: NDArray[np.float32], title: str) -> Figure:
    """Draw a map ``(z, y, x)`` seen along z and along y, as multiples of an even spread, with a colour bar."""
    views = {"yx": interest.mean(axis=0), "zx": interest.mean(axis=1)}
    multiples = {axes: view * interest.size for axes, view in views.items()}
    highest = max(float(view.max()) for view in multiples.values())
    figure = Figure(figsize=(7, 8), layout="constrained")
    axes = figure.subplots(2, 1, height_ratios=[interest.shape[1], max(interest.shape[0], 0.1 * interest.shape[1])])
    for axis, (names, view) in zip(axes, multiples.items(), strict=True):
        extent = (0, view.shape[1] * CELL_VOXELS, 0, view.shape[0] * CELL_VOXELS)
        drawn = axis.imshow(view, origin="lower", cmap="viridis", vmin=0, vmax=highest, extent=extent)
        axis.set(xlabel=f"{names[1]} (voxel)", ylabel=f"{names[0]} (voxel)")
    figure.colorbar(drawn, ax=axes, label="windows, as multiples of an even spread")
    figure.suptitle(f"{title}: where training looks", parse_math=False)
    return figure
