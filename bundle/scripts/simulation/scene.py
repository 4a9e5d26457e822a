"""The content of a simulated tomogram: a slab of ice with particles, membranes, carbon and gold."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import binary_fill_holes

from scripts.simulation.specimens import Specimen, random_rotation, rotated

PROTEIN_KDA_PER_ANGSTROM3 = 0.81e-3
SOLID = 0.15  # a specimen occupies the voxels with more than this share of its highest density
MAX_OVERLAP = 0.02  # share of these voxels that may be occupied already
TRIES = 60  # positions tried for one particle before it is left out
BILAYER_HALF_ANGSTROM, LEAFLET_SIGMA_ANGSTROM = 18.0, 7.0
LEAFLET_SHARE_OF_PROTEIN = 0.9
GOLD_IN_PROTEINS, CARBON_IN_PROTEINS = 9.0, 1.6  # contrast against ice, relative to that of protein
SEGMENT_VOX = 32  # length of the pieces in which a filament is drawn
LUMP_KDA = 35.0  # a speck is made of lumps of about this mass, the size of a domain
LUMP_STEP_ANGSTROM = 36.0  # distance between a lump and the one that it hangs on


@dataclass(frozen=True)
class Placed:
    """A particle in the ice: its name and its centre, voxel index ``(z, y, x)``."""

    name: str
    centre_zyx_vox: tuple[float, float, float]


class Filament(NamedTuple):
    """A kind of filament.

    Attributes:
        radius_angstrom: beyond it there is nothing.
        bending_radius_angstrom: the least radius of its curvature.
        density: relative to that of protein, from the distance to the axis in ångströms, the angle about the axis in
            radians and the position along the axis in ångströms, arrays of one shape.
    """

    radius_angstrom: float
    bending_radius_angstrom: float
    density: Callable[[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]]


def microtubule_density(
    distance: NDArray[np.float64], angle: NDArray[np.float64], axial: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the density of 13 protofilaments of 50 kDa every 40 Å, a wall of 170 to 250 Å across (PDB 3JAR)."""
    wall = np.exp(-(((distance - 107) / 16) ** 2) / 2)
    protofilaments = 1 + 0.5 * np.cos(13 * angle)
    monomers = 1 + 0.4 * np.cos(2 * math.pi * axial / 40 + 3 * angle)  # three starts
    return 0.8 * wall * protofilaments * monomers


def actin_density(
    distance: NDArray[np.float64], angle: NDArray[np.float64], axial: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the density of two strands that cross every 370 Å, 42 kDa every 27.5 Å in all (PDB 6DJO)."""
    turned = angle - math.pi * axial / 370
    strands = sum(
        np.exp(-((distance * np.cos(turned) - side) ** 2 + (distance * np.sin(turned)) ** 2) / (2 * 13**2))
        for side in (-16, 16)
    )
    subunits = 1 + 0.3 * np.cos(2 * math.pi * axial / 55 + angle)
    return 0.9 * strands * subunits


MICROTUBULE = Filament(150, 20000, microtubule_density)
ACTIN = Filament(50, 8000, actin_density)


class Scene:
    """A slab of ice to which objects are added one after the other.

    Args:
        shape: voxels ``(z, y, x)``.
        voxel_size_angstrom: side of a voxel.
        random: source of all random numbers.
        ice_thickness_angstrom: of the slab; limited to the volume's depth.
        slab_tilt_degree: slope of the slab along y and along x.

    Attributes:
        density_kda: ``[z, y, x]`` float32, in excess of ice, kDa per voxel.
        taken: ``[z, y, x]``, whether a voxel is occupied.
        placed: the particles so far.
    """

    def __init__(
        self,
        shape: Sequence[int],
        voxel_size_angstrom: float,
        random: np.random.Generator,
        ice_thickness_angstrom: float,
        slab_tilt_degree: Sequence[float] = (0.0, 0.0),
    ) -> None:
        self.shape, self.voxel_size_angstrom, self.random = tuple(shape), voxel_size_angstrom, random
        self.half_thickness_vox = min(ice_thickness_angstrom / voxel_size_angstrom, self.shape[0]) / 2
        self.slope_yx = tuple(math.tan(math.radians(angle)) for angle in slab_tilt_degree)
        self.density_kda = np.zeros(self.shape, dtype=np.float32)
        self.taken = np.zeros(self.shape, dtype=bool)
        self.placed: list[Placed] = []

    @property
    def square_micrometers(self) -> float:
        """Area of the field of view."""
        return self.shape[1] * self.shape[2] * self.voxel_size_angstrom**2 * 1e-8

    def slab_centre_vox(self, y: Any, x: Any) -> Any:
        """Return the z index of the slab's middle at positions ``y, x``."""
        middle = [(length - 1) / 2 for length in self.shape]
        return middle[0] + (y - middle[1]) * self.slope_yx[0] + (x - middle[2]) * self.slope_yx[1]

    def draw_place(self, margin_vox: float = 0.0) -> NDArray[np.float64]:
        """Return a random position ``(z, y, x)`` in the slab, ``margin_vox`` from its faces if it is that thick."""
        y, x = self.random.uniform(0, np.array(self.shape[1:]) - 1)
        reach = max(self.half_thickness_vox - margin_vox, 0.0)
        return np.array([self.slab_centre_vox(y, x) + self.random.uniform(-reach, reach), y, x])

    def holds(self, place_zyx_vox: NDArray[np.float64]) -> bool:
        """Return whether a position lies in the slab and in the volume."""
        z, y, x = place_zyx_vox
        inside = bool(((place_zyx_vox >= 0) & (place_zyx_vox <= np.array(self.shape) - 1)).all())
        return inside and abs(z - self.slab_centre_vox(y, x)) <= self.half_thickness_vox

    def add_particles(
        self,
        specimens: Sequence[Specimen],
        count: int,
        companion_share: float = 0.0,
        companion_distance_angstrom: tuple[float, float] = (0.0, 0.0),
    ) -> int:
        """Place particles of one species in the slab, in random orientation and without overlap.

        Args:
            specimens: the species' variants; each particle is one of them.
            count: number of particles to place.
            companion_share: share of them that are placed beside an earlier one.
            companion_distance_angstrom: least and largest distance of companions, centre to centre.

        Returns:
            How many particles were placed.
        """
        centres: list[NDArray[np.float64]] = []
        for _ in range(count):
            specimen = specimens[int(self.random.integers(len(specimens)))]
            beside = bool(centres) and self.random.random() < companion_share
            for _ in range(TRIES):
                place = self.draw_place(specimen.radius_angstrom / self.voxel_size_angstrom)
                if beside:
                    distance = self.random.uniform(*companion_distance_angstrom) / self.voxel_size_angstrom
                    direction = self.random.standard_normal(3)
                    neighbour = centres[self.random.integers(len(centres))]
                    place = neighbour + direction / np.linalg.norm(direction) * distance
                if self.holds(place) and self.add_specimen(specimen, place):
                    centres.append(place)
                    break
        return len(centres)

    def add_specimen(
        self, specimen: Specimen, place_zyx_vox: NDArray[np.float64], rotation: NDArray[np.float64] | None = None
    ) -> bool:
        """Place one specimen, unless the position is occupied; return whether it was placed."""
        corner = np.rint(place_zyx_vox).astype(int)
        if self.taken[tuple(np.clip(corner, 0, np.array(self.shape) - 1))]:
            return False  # before the costly rotation
        rotation = random_rotation(self.random) if rotation is None else rotation
        density = rotated(specimen, rotation, place_zyx_vox - corner)
        solid = binary_fill_holes(density > SOLID * density.max())  # nothing is placed inside a shell
        here, there = _overlap(corner - (np.array(density.shape) - 1) // 2, density.shape, self.shape)
        if (self.taken[here] & solid[there]).sum() > MAX_OVERLAP * solid.sum():
            return False
        self.density_kda[here] += density[there]
        self.taken[here] |= solid[there]
        z, y, x = map(float, place_zyx_vox)
        self.placed.append(Placed(specimen.name, (z, y, x)))
        return True

    def add_vesicle(self, place_zyx_vox: NDArray[np.float64], radius_angstrom: float, stretch: ArrayLike) -> None:
        """Add a bilayer vesicle; ``stretch`` ``(z, y, x)`` scales the axes of the sphere to an ellipsoid."""
        radii = radius_angstrom * np.asarray(stretch, dtype=np.float64) / self.voxel_size_angstrom
        wall_angstrom = BILAYER_HALF_ANGSTROM + 3 * LEAFLET_SIGMA_ANGSTROM
        margin = np.maximum(wall_angstrom * radii / radii.mean() / self.voxel_size_angstrom + 1, 6)
        corner = np.floor(place_zyx_vox - radii - margin).astype(int)
        box = tuple(np.ceil(2 * (radii + margin) + 1).astype(int))
        here, _ = _overlap(corner, box, self.shape)
        grid = [np.arange(cut.start, cut.stop) for cut in here]
        z, y, x = np.meshgrid(
            *((g - c) / r for g, c, r in zip(grid, place_zyx_vox, radii, strict=True)), indexing="ij", sparse=True
        )
        depth = (np.sqrt(z**2 + y**2 + x**2) - 1) * radii.mean() * self.voxel_size_angstrom
        leaflets = sum(
            np.exp(-(((depth + side * BILAYER_HALF_ANGSTROM) / LEAFLET_SIGMA_ANGSTROM) ** 2) / 2) for side in (-1, 1)
        )
        wall = np.abs(depth) < BILAYER_HALF_ANGSTROM + 2 * LEAFLET_SIGMA_ANGSTROM
        free = ~self.taken[here]
        level = LEAFLET_SHARE_OF_PROTEIN * PROTEIN_KDA_PER_ANGSTROM3 * self.voxel_size_angstrom**3
        self.density_kda[here] += (level * leaflets * free).astype(np.float32)
        self.taken[here] |= wall

    def add_filament(self, place_zyx_vox: NDArray[np.float64], kind: Filament) -> None:
        """Add a filament through a place: slightly bent, within 8 degrees of the slab's plane, across the whole slab.

        What is occupied already cuts it.
        """
        along, bend = self._filament_axes()
        curvature_per_vox = self.random.uniform(0, self.voxel_size_angstrom / kind.bending_radius_angstrom)
        side = np.cross(along, bend)
        turn = self.random.uniform(0, 2 * math.pi)
        level = PROTEIN_KDA_PER_ANGSTROM3 * self.voxel_size_angstrom**3
        reach_vox = kind.radius_angstrom / self.voxel_size_angstrom
        half_length = int(math.hypot(*self.shape)) // SEGMENT_VOX + 1
        for number in range(-half_length, half_length + 1):
            start = number * SEGMENT_VOX
            middle = start + SEGMENT_VOX / 2
            centre = place_zyx_vox + middle * along + curvature_per_vox * middle**2 / 2 * bend
            half_box = int(SEGMENT_VOX * (0.5 + abs(curvature_per_vox * middle)) + reach_vox) + 3
            here, _ = _overlap(np.rint(centre).astype(int) - half_box, (2 * half_box + 1,) * 3, self.shape)
            if any(cut.stop <= cut.start for cut in here):
                continue
            grid = np.meshgrid(*(np.arange(cut.start, cut.stop) for cut in here), indexing="ij", sparse=True)
            offset = [axis - one for axis, one in zip(grid, place_zyx_vox, strict=True)]
            axial, towards, across = (
                sum(axis * one for axis, one in zip(offset, vector, strict=True)) for vector in (along, bend, side)
            )
            towards = towards - curvature_per_vox * axial**2 / 2
            distance = np.hypot(towards, across) * self.voxel_size_angstrom
            inside = (axial >= start) & (axial < start + SEGMENT_VOX) & (distance < kind.radius_angstrom)
            y, x = grid[1], grid[2]
            inside &= np.abs(grid[0] - self.slab_centre_vox(y, x)) <= self.half_thickness_vox
            angle = np.arctan2(across, towards) + turn
            density = kind.density(distance, angle, axial * self.voxel_size_angstrom)
            self.density_kda[here] += (level * density * inside * ~self.taken[here]).astype(np.float32)
            self.taken[here] |= inside

    def _filament_axes(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the direction of a filament and the direction in which it is bent, orthogonal unit vectors."""
        azimuth, slope = self.random.uniform(0, 2 * math.pi), math.radians(self.random.uniform(-8, 8))
        along = np.array([math.sin(slope), math.cos(slope) * math.sin(azimuth), math.cos(slope) * math.cos(azimuth)])
        bend = np.array([0.0, -math.cos(azimuth), math.sin(azimuth)])
        return along, bend

    def add_specks(self, count: int, least_kda: float, most_kda: float) -> None:
        """Add small complexes of random shape where the ice is free, their masses spread evenly over the logarithm.

        Each is a chain of lumps of the density of protein. They are no particles: nothing of them is written as truth.
        """
        for _ in range(count):
            place = self.draw_place()
            mass = math.exp(self.random.uniform(math.log(least_kda), math.log(most_kda)))
            lumps = max(round(mass / LUMP_KDA), 1)
            centres = np.zeros((lumps, 3))
            for number in range(1, lumps):
                step = self.random.standard_normal(3)
                parent = centres[self.random.integers(number)]
                centres[number] = parent + step / np.linalg.norm(step) * LUMP_STEP_ANGSTROM
            centres = place + (centres - centres.mean(axis=0)) / self.voxel_size_angstrom
            corner = np.rint(place).astype(int)
            if not self.holds(place) or self.taken[tuple(np.clip(corner, 0, np.array(self.shape) - 1))]:
                continue
            volume = mass / lumps / PROTEIN_KDA_PER_ANGSTROM3
            sigma = volume ** (1 / 3) / math.sqrt(2 * math.pi) / self.voxel_size_angstrom  # its peak: that of protein
            low = np.floor(centres.min(axis=0) - 3 * sigma).astype(int)
            box = np.ceil(centres.max(axis=0) + 3 * sigma).astype(int) + 1 - low
            here, _ = _overlap(low, box, self.shape)
            z, y, x = (
                np.exp(-(((np.arange(cut.start, cut.stop) - centres[:, axis, None]) / sigma) ** 2) / 2)
                for axis, cut in enumerate(here)
            )
            density = np.einsum("nz,ny,nx->zyx", z, y, x) * (mass / lumps / (math.sqrt(2 * math.pi) * sigma) ** 3)
            self.density_kda[here] += (density * ~self.taken[here]).astype(np.float32)
            if density.size:
                self.taken[here] |= density > SOLID * density.max()

    def add_gold(self, place_zyx_vox: NDArray[np.float64], radius_angstrom: float) -> None:
        """Add a gold bead."""
        radius = radius_angstrom / self.voxel_size_angstrom
        corner = np.floor(place_zyx_vox - radius - 1).astype(int)
        here, _ = _overlap(corner, (int(2 * radius + 4),) * 3, self.shape)
        grid = np.meshgrid(*(np.arange(cut.start, cut.stop) for cut in here), indexing="ij", sparse=True)
        distance = np.sqrt(sum((axis - place) ** 2 for axis, place in zip(grid, place_zyx_vox, strict=True)))
        filled = np.clip(radius + 0.5 - distance, 0, 1)
        level = GOLD_IN_PROTEINS * PROTEIN_KDA_PER_ANGSTROM3 * self.voxel_size_angstrom**3
        self.density_kda[here] += (level * filled).astype(np.float32)
        self.taken[here] |= filled > 0

    def add_carbon_edge(self, share: float, thickness_angstrom: float) -> None:
        """Cover a share of the field of view with a grainy carbon film with a curved edge, on one face of the slab."""
        height, width = self.shape[1:]
        y, x = np.mgrid[:height, :width]
        angle, bend = self.random.uniform(0, 2 * math.pi), self.random.uniform(-0.2, 0.2)
        along = (y - height / 2) * math.cos(angle) + (x - width / 2) * math.sin(angle)
        across = (x - width / 2) * math.cos(angle) - (y - height / 2) * math.sin(angle)
        distance = along + bend * across**2 / max(height, width)
        covered = distance > np.quantile(distance, 1 - share)
        face = self.half_thickness_vox * self.random.choice((-1.0, 1.0))
        thickness = thickness_angstrom / self.voxel_size_angstrom
        middle = self.slab_centre_vox(y, x) + face - np.sign(face) * thickness / 2
        reach = range(max(int(middle.min() - thickness), 0), min(int(middle.max() + thickness) + 2, self.shape[0]))
        level = CARBON_IN_PROTEINS * PROTEIN_KDA_PER_ANGSTROM3 * self.voxel_size_angstrom**3
        for z in reach:
            film = np.clip((thickness + 1) / 2 - np.abs(z - middle), 0, 1) * covered
            film = film * ~self.taken[z]
            grain = 1 + 0.35 * self.random.standard_normal((height, width))
            self.density_kda[z] += (level * film * grain).astype(np.float32)
            self.taken[z] |= film > 0

    def add_ice_grain(self, kda_per_voxel: float) -> None:
        """Add white noise of this standard deviation to the ice of the slab."""
        y, x = np.arange(self.shape[1])[:, None], np.arange(self.shape[2])[None, :]
        middle = self.slab_centre_vox(y, x)
        for z in range(self.shape[0]):
            ice = np.abs(z - middle) <= self.half_thickness_vox
            grain = self.random.standard_normal(self.shape[1:], dtype=np.float32)
            self.density_kda[z] += np.float32(kda_per_voxel) * grain * ice


def _overlap(
    corner: NDArray[np.int_], box: Sequence[int], shape: Sequence[int]
) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Return the part of a box that lies in the volume, as slices of the volume and as slices of the box."""
    low = np.clip(corner, 0, shape)
    high = np.clip(corner + np.asarray(box), low, shape)
    here = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    there = tuple(slice(int(a - c), int(b - c)) for a, b, c in zip(low, high, corner, strict=True))
    return here, there
