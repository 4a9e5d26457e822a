"""Training crops for a second look: particles, false positives of the first network, and background.

The classes are the species' labels; 0 is nothing. A crop of nothing is a place that the first network proposes wrongly,
a place beside a particle, any other place, or a particle so faint that it cannot be told from noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scripts.preparation.annotation import EVERYTHING, Annotation
from scripts.preparation.crops import Brightness, cut_crop
from scripts.rules import a_number
from scripts.species import HIT_FRACTION

NOTHING, UNCLEAR = 0, -1
MISS_FRACTION = 0.75  # a place farther from a particle than this times its radius does not show it
JITTER_VOXELS = 0.4  # standard deviation along each axis of the shift of a proposed place
TRUE_JITTER_IN_RADII, MOST_JITTER_VOXELS = 0.12, 1.0  # the same for true places
BESIDE_RADII = (0.9, 1.6)  # distances from a particle of places beside it
FAINTEST = 0.25  # largest share of a faded particle in its crop; the rest is another place
MOST_TRIES = 50  # to find a place that shows no particle


def classes_of_places(
    places_zyx_vox: NDArray[np.float64], particles: NDArray[np.float64], radii_vox: Sequence[float]
) -> NDArray[np.int64]:
    """Return which particle each place shows: ``(N,)`` labels, `NOTHING`, or `UNCLEAR` between hit and miss.

    Args:
        places_zyx_vox: ``(N, 3)``.
        particles: ``(M, 4)`` rows of label and voxel index.
        radii_vox: radius of every label, from label 1 on.
    """
    if len(places_zyx_vox) == 0 or len(particles) == 0:
        return np.full(len(places_zyx_vox), NOTHING, dtype=np.int64)
    labels = particles[:, 0].astype(np.int64)
    distance = np.linalg.norm(places_zyx_vox[:, None] - particles[None, :, 1:], axis=2)
    in_radii = distance / np.asarray(radii_vox)[labels - 1]
    nearest = in_radii.argmin(axis=1)
    least = in_radii[np.arange(len(nearest)), nearest]
    return np.where(least <= HIT_FRACTION, labels[nearest], np.where(least < MISS_FRACTION, UNCLEAR, NOTHING))


@dataclass(frozen=True)
class CropMix:
    """Which crops a training sees.

    Attributes:
        nothing: share of crops of nothing; the species share the rest evenly.
        proposed: share of a species' crops that are cut where the first network proposes it; the others are cut around
            true centres.
        hard: share of the crops of nothing that are wrong proposals.
        faded: share of the crops of nothing that are faded particles.
        beside: share of the remaining crops of nothing that lie beside a particle.

    Raises:
        InputError: one of them is no share.
    """

    nothing: float = 0.45
    proposed: float = 0.6
    hard: float = 0.75
    faded: float = 0.1
    beside: float = 0.4

    def __post_init__(self) -> None:
        for name, share in vars(self).items():
            a_number(0, 1).require(name, share)


@dataclass(frozen=True)
class CropVariation:
    """How a training crop is varied, besides turns about z and mirrors.

    Attributes:
        contrast: its values are multiplied by 1 minus to 1 plus this.
        brightness: largest shift, in standard deviations of the tomogram.
        noise: largest standard deviation of added noise, in the same unit.
        noisy: share of the crops with added noise.

    Raises:
        InputError: one of them is negative, or ``noisy`` no share.
    """

    contrast: float = 0.25
    brightness: float = 0.2
    noise: float = 0.5
    noisy: float = 0.5

    def __post_init__(self) -> None:
        for name in ("contrast", "brightness", "noise"):
            a_number(0).require(name, getattr(self, name))
        a_number(0, 1).require("noisy", self.noisy)

    def vary(self, crop: NDArray[np.float32], random: np.random.RandomState) -> NDArray[np.float32]:
        """Return a crop ``(N, N, N)`` turned, mirrored, and with other contrast, brightness and noise."""
        crop = np.rot90(crop, random.randint(4), (1, 2))
        crop = np.flip(crop, tuple(axis for axis in range(3) if random.rand() < 0.5))
        factor = 1 + random.uniform(-self.contrast, self.contrast)
        shift = random.uniform(-self.brightness, self.brightness)
        varied = crop * np.float32(factor) + np.float32(shift)
        if random.rand() < self.noisy:
            generator = np.random.Generator(np.random.SFC64(random.randint(2**31)))
            deviation = np.float32(random.uniform(0, self.noise))
            varied += deviation * generator.standard_normal(crop.shape, dtype=np.float32)
        return varied


class ProposedRun:
    """A tomogram with its particles, and the places that the first network proposes in it or a person rejected.

    Args:
        volume: ``(1, Z, Y, X)``, scaled; an array, or a `preparation.cache.StoredVolume`.
        particles: ``(M, 4)`` rows of label and voxel index.
        places_zyx_vox: ``(N, 3)`` proposed places.
        radii_vox: radius of every label, from label 1 on.
        known: what else is known of the tomogram.
    """

    def __init__(
        self,
        volume: Any,
        particles: Any,
        places_zyx_vox: NDArray[np.float64],
        radii_vox: Sequence[float],
        known: Annotation = EVERYTHING,
    ) -> None:
        self.volume = Plain(volume)
        self.particles = np.asarray(particles, dtype=np.float64).reshape(-1, 4)
        self.radii_vox, self.known = radii_vox, known
        rejected = known.doubtful[known.doubtful[:, 4] == 0, 1:4]
        self.places = np.concatenate([places_zyx_vox, rejected])
        self.classes = self.classes_of(self.places)

    def classes_of(self, places_zyx_vox: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return the classes of places ``(N, 3)``, `UNCLEAR` where a species may stand that is not annotated."""
        classes = classes_of_places(places_zyx_vox, self.particles, self.radii_vox)
        for label, radius in enumerate(self.radii_vox, start=1):
            own = self.particles[self.particles[:, 0] == label, 1:]
            told = self.known.is_told(label, places_zyx_vox, own, MISS_FRACTION * radius)
            classes[(classes == NOTHING) & ~told] = UNCLEAR
        return classes

    def shows(self, wanted: int) -> bool:
        """Return whether crops of a class can be cut; of nothing, where all particles of all species are annotated."""
        if wanted == NOTHING:
            return self.known.is_complete is None
        return bool((self.particles[:, 0] == wanted).any())

    @cached_property
    def brightness(self) -> Brightness:
        """Brightness of the volume."""
        return Brightness.of(self.volume)

    def draw(
        self, species: int, mix: CropMix, size_voxels: int, random: np.random.RandomState
    ) -> tuple[Any, int] | None:
        """Return a crop ``(N, N, N)`` of a class, and its class: nothing where the run has no such particle.

        None where no place was found that shows nothing.
        """
        own = self.particles[self.particles[:, 0] == species, 1:]
        if species == NOTHING or len(own) == 0:
            nothing = self.draw_nothing(mix, size_voxels, random)
            return None if nothing is None else (nothing, NOTHING)
        proposed = self.places[self.classes == species]
        if len(proposed) and random.rand() < mix.proposed:
            place = proposed[random.randint(len(proposed))] + random.normal(0, JITTER_VOXELS, 3)
        else:
            jitter = min(TRUE_JITTER_IN_RADII * self.radii_vox[species - 1], MOST_JITTER_VOXELS)
            place = own[random.randint(len(own))] + random.normal(0, jitter, 3)
        return self.cut(place, size_voxels), species

    def draw_nothing(self, mix: CropMix, size_voxels: int, random: np.random.RandomState) -> NDArray[np.float32] | None:
        """Return a crop ``(N, N, N)`` that shows no particle in its middle; None where no such place was found."""
        wrong, kind = self.places[self.classes == NOTHING], random.rand()
        is_wrong, is_faded = len(wrong) > 0 and kind < mix.hard, len(self.particles) > 0 and kind > 1 - mix.faded
        crop = None if is_wrong else self.draw_empty(mix, is_faded, size_voxels, random)
        if crop is None and len(wrong):
            crop = self.cut(wrong[random.randint(len(wrong))] + random.normal(0, JITTER_VOXELS, 3), size_voxels)
        return crop

    def draw_empty(
        self, mix: CropMix, is_faded: bool, size_voxels: int, random: np.random.RandomState
    ) -> NDArray[np.float32] | None:
        """Return a crop ``(N, N, N)`` of an empty place, with a faded particle or without; None if none was found."""
        if is_faded:
            share, particle = random.uniform(0, FAINTEST), self.particles[random.randint(len(self.particles)), 1:]
            place = self.empty_place(random)
            if place is None:
                return None
            rest = np.sqrt(1 - share**2) * self.cut(place, size_voxels)
            return np.asarray(share * self.cut(particle, size_voxels) + rest, dtype=np.float32)
        beside = len(self.particles) > 0 and random.rand() < mix.beside
        place = self.empty_place(random, beside)
        return None if place is None else self.cut(place, size_voxels)

    def empty_place(self, random: np.random.RandomState, beside: bool = False) -> NDArray[np.float64] | None:
        """Return a place that shows no particle: anywhere, or beside one if that can be; None if none was found."""
        for number in range(MOST_TRIES):
            low, high = ((0, 0, 0), self.volume.shape) if self.known.box is None else self.known.box
            place = random.uniform(low, high)
            if beside and number < MOST_TRIES // 2:
                label, *centre = self.particles[random.randint(len(self.particles))]
                way = random.normal(size=3)
                distance = self.radii_vox[int(label) - 1] * random.uniform(*BESIDE_RADII)
                place = centre + way / np.linalg.norm(way) * distance
            if self.classes_of(place[None])[0] == NOTHING:
                return np.asarray(place)
        return None

    def cut(self, place: NDArray[np.float64], size_voxels: int) -> NDArray[np.float32]:
        """Return the crop around a place."""
        return cut_crop(self.volume, place, size_voxels, self.brightness)


class Plain:
    """A volume ``(1, Z, Y, X)`` as one of ``(Z, Y, X)``, of which an index reads a part."""

    def __init__(self, volume: Any) -> None:
        self.volume, self.shape = volume, tuple(volume.shape[1:])

    def __getitem__(self, box: tuple[slice, ...]) -> Any:
        return self.volume[(slice(0, 1), *box)][0]
