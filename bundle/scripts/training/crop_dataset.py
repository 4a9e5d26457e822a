"""Training crops by number, from tomograms and the places that the first network proposes in them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import numpy as np
import torch
from monai.data import Dataset
from numpy.typing import NDArray

from scripts.errors import InputError
from scripts.preparation.annotation import Annotation
from scripts.preparation.crops import CropShape, as_input
from scripts.species import SpeciesSet
from scripts.training.crops import NOTHING, CropMix, CropVariation, ProposedRun
from scripts.training.window_dataset import record_of_runs


class CropDataset(Dataset):
    """Random training crops; crop ``number`` is always the same, like the windows of `window_dataset.WindowDataset`.

    Its class is drawn first, then one of the tomograms that show it.

    Args:
        tomograms: prepared tomograms, see `preparation.cache.prepared_dataset`.
        places_of: returns the proposed places ``(N, 3)`` of a tomogram, by its number; called when they are needed.
        species_set: the species.
        crop_shape: of the crops.
        variation: how crops are varied.
        mix: which crops.
        seed: seed of the random numbers.
    """

    def __init__(
        self,
        tomograms: Dataset,
        places_of: Callable[[int], NDArray[np.float64]],
        species_set: SpeciesSet,
        crop_shape: CropShape,
        variation: CropVariation,
        mix: CropMix,
        seed: int = 0,
    ) -> None:
        super().__init__(tomograms.data)
        self.tomograms, self.places_of, self.variation = tomograms, places_of, variation
        self.species_set, self.crop_shape, self.mix, self.seed = species_set, crop_shape, mix, seed
        self.mask = crop_shape.mask()

    def record(self) -> dict[str, Any]:
        """Return the settings that the crops depend on."""
        return {
            "runs": record_of_runs(self.data),
            "preparation": self.tomograms.transform,
            "variation": self.variation,
            "crop": self.crop_shape,
            "mix": self.mix,
            "seed": self.seed,
        }

    @cached_property
    def runs(self) -> list[ProposedRun]:
        """The tomograms with their proposals."""
        voxel_size = self.species_set.voxel_size_angstrom
        radii_vox = [species.radius_angstrom / voxel_size for species in self.species_set.picked]
        runs = []
        for number in range(len(self.tomograms)):
            sample = self.tomograms[number]
            runs.append(
                ProposedRun(sample["image"], sample["label"], self.places_of(number), radii_vox, Annotation.of(sample))
            )
        return runs

    @cached_property
    def runs_by_class(self) -> list[list[ProposedRun]]:
        """The tomograms that show every class, from nothing on."""
        classes = range(NOTHING, 1 + len(self.species_set.picked))
        return [[run for run in self.runs if run.shows(wanted)] for wanted in classes]

    def runs_for(self, wanted: int) -> list[ProposedRun]:
        """Return the tomograms to cut crops of a class from: those that show it, or else nothing.

        Raises:
            InputError: there are none.
        """
        found = self.runs_by_class[wanted] or self.runs_by_class[NOTHING]
        if not found:
            raise InputError(
                "a second look is trained on places that show no particle, too, and in none of its runs are all "
                "particles of all species annotated. Annotate one completely."
            )
        return found

    def __getitem__(self, number: int) -> Mapping[str, Any]:  # type: ignore[override]
        """Return crop ``number``: ``image`` ``(1, S, S, S)`` and ``label``, its class."""
        random = np.random.RandomState((self.seed, int(number)))
        wanted = NOTHING if random.rand() < self.mix.nothing else 1 + random.randint(len(self.species_set.picked))
        runs = self.runs_for(wanted)
        crop, label = self.draw(runs[random.randint(len(runs))], wanted, random)
        varied = torch.from_numpy(self.variation.vary(crop, random))
        return {"image": as_input(varied[None], self.mask)[0], "label": label}

    def draw(self, run: ProposedRun, wanted: int, random: np.random.RandomState) -> tuple[Any, int]:
        """Return a crop of a class and its class, out of another run where this one has no place of nothing.

        Raises:
            InputError: no run has one.
        """
        for one in (run, *self.runs_by_class[NOTHING]):
            drawn = one.draw(wanted, self.mix, self.crop_shape.cut_size, random)
            if drawn is not None:
                return drawn
        raise InputError(
            "a second look is trained on places that show no particle, too, and none was found in its runs: annotate a "
            "larger region, or add a run with empty places."
        )
