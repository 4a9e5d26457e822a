"""Built-in particles: rough models based on the known mass, size and symmetry of each.

Descriptions are written ``(x, y, z)`` with the main axis along z, arrays are ``[z, y, x]``, points ``(z, y, x)``.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

BEAD_SPACING_ANGSTROM = 5.0  # about one amino acid per bead
BEAD_BLUR_ANGSTROM = 3.0
PHANTOM_GRAIN_ANGSTROM = 6.0  # size of the lumps in a phantom, similar to a domain's core and the gaps between helices


class Lobe(NamedTuple):
    """A solid ellipsoid along the axes x, y and z; with density 0 it is removed from the lobes before it."""

    centre_xyz_angstrom: tuple[float, float, float]
    radii_xyz_angstrom: tuple[float, float, float]
    density: float = 1.0


@dataclass(frozen=True)
class Phantom:
    """Description of a particle by its mass, size and symmetry.

    Attributes:
        mass_kda: of the whole particle.
        symmetry: name of the point group in scipy, main axis z; every lobe is copied by all rotations of the group.
        lobes: of one asymmetric unit, painted in order, later ones over earlier ones. Their densities are relative.
        grain: relative standard deviation of the density inside, in symmetric lumps of `PHANTOM_GRAIN_ANGSTROM`.
    """

    mass_kda: float
    symmetry: str
    lobes: tuple[Lobe, ...]
    grain: float = 0.3


PHANTOMS = {
    # 24 chains of 18.5 kDa make a shell of 120 to 130 Å outside, 80 Å inside, open along its axes (PDB 8CPV)
    "apo-ferritin": Phantom(
        450,
        "O",
        (
            Lobe((0, 0, 0), (62, 62, 62)),
            Lobe((0, 0, 0), (41, 41, 41), 0),
            Lobe((52, 0, 0), (16, 4, 4), 0),  # along the four-fold axes
            Lobe((30, 30, 30), (7, 7, 7), 0),  # along the three-fold axes
        ),
    ),
    # 4 chains of 56 kDa, D2 (PDB 1FA2, tetramer by the crystal's symmetry)
    "beta-amylase": Phantom(
        224,
        "D2",
        (
            Lobe((26, 20, 13), (27, 24, 22)),
            Lobe((41, 6, 20), (15, 18, 14)),
            Lobe((12, 24, 4), (16, 14, 14)),
        ),
    ),
    # 4 chains of 116 kDa, D2, 175 x 135 x 90 Å (PDB 6DRV)
    "beta-galactosidase": Phantom(
        465,
        "D2",
        (
            Lobe((29, 22, 15), (29, 26, 25)),
            Lobe((58, 12, 12), (26, 23, 22)),
            Lobe((18, 48, 12), (19, 20, 20)),
            Lobe((10, 10, 4), (14, 14, 22)),
        ),
    ),
    # human 80S: 60S of 2.8 MDa with its stalks, 40S of 1.4 MDa with head and beak, 250 to 300 Å across (PDB 6QZP)
    "ribosome": Phantom(
        4300,
        "C1",
        (
            Lobe((0, 0, -46), (114, 106, 82), 1.15),
            Lobe((-18, 96, -36), (28, 30, 36)),  # central protuberance
            Lobe((-116, 56, -24), (38, 18, 22)),  # L1 stalk
            Lobe((116, 62, -14), (40, 17, 19)),  # P stalk
            Lobe((-10, -30, 62), (60, 84, 40), 1.15),
            Lobe((-58, -12, 52), (34, 30, 28)),  # platform
            Lobe((0, 80, 72), (52, 46, 42), 1.1),  # head
            Lobe((64, 84, 82), (30, 15, 16)),  # beak
            Lobe((-24, -124, 60), (22, 32, 22)),  # foot
            Lobe((12, 30, 32), (56, 40, 9), 0),  # where the tRNAs pass
            Lobe((42, 48, 74), (18, 8, 46), 0),  # neck: where the mRNA enters
        ),
        grain=0.5,
    ),
    # 2 chains of 330 kDa, C2, 250 x 160 x 110 Å (PDB 7N4Y)
    "thyroglobulin": Phantom(
        660,
        "C2",
        (
            Lobe((20, 18, 4), (38, 26, 40)),
            Lobe((60, -10, 8), (36, 28, 34)),
            Lobe((98, 12, 20), (27, 25, 26)),
            Lobe((42, 48, -12), (22, 26, 26)),
            Lobe((38, -40, -12), (24, 20, 24)),
            Lobe((14, 0, -40), (18, 16, 18)),
        ),
    ),
    # 180 chains of 14 kDa, T = 3: 90 dimers, 60 of them on the quasi two-fold axes, 280 to 300 Å outside (PDB 8TUX)
    "virus-like-particle": Phantom(
        2500,
        "I",
        (
            Lobe((0, 0, 0), (141, 141, 141)),
            Lobe((136, 0, 0), (14, 19, 25), 1.3),  # dimers on the two-fold axes
            Lobe((113, 47, 60), (17, 17, 17), 1.3),  # dimers on the quasi two-fold axes
            Lobe((0, 0, 0), (119, 119, 119), 0),
            Lobe((110.6, 0, 68.4), (13, 13, 13), 0),  # pores on the five-fold axes
            Lobe((75, 75, 75), (11, 11, 11), 0),  # and on the three-fold axes
        ),
        grain=0,
    ),
    # 3 domains in the shape of a heart, 80 x 80 x 30 Å (PDB 8VAF)
    "albumin": Phantom(
        66,
        "C1",
        (
            Lobe((-18, 12, 4), (19, 24, 19)),
            Lobe((0, -16, -6), (24, 18, 18)),
            Lobe((20, 12, 8), (19, 24, 19)),
            Lobe((0, 0, 0), (14, 12, 12)),
        ),
    ),
    # Rubisco, L8S8 of 55 and 15 kDa, D4, a block of 110 x 110 x 105 Å with a channel (PDB 1BXN)
    "rubisco": Phantom(
        550,
        "D4",
        (
            Lobe((35, 9, 17), (23, 27, 20)),
            Lobe((22, 22, 40), (17, 17, 15)),
            Lobe((0, 0, 0), (8, 8, 60), 0),
        ),
    ),
    # p97, 6 chains of 89 kDa, C6, two stacked rings 155 Å wide and 85 Å high (PDB 3CF3)
    "p97": Phantom(
        540,
        "C6",
        (
            Lobe((43, 6, -20), (27, 24, 22)),
            Lobe((43, -4, 17), (25, 23, 21)),
            Lobe((66, 16, 24), (16, 18, 17)),  # the N domain
            Lobe((0, 0, 0), (11, 11, 60), 0),
        ),
    ),
    # 26S proteasome, barrel of 4 rings with a cap at each end, C2, 450 Å long (PDB 4CR2)
    "proteasome": Phantom(
        2500,
        "D1",
        (
            Lobe((0, 0, 20), (59, 59, 25)),
            Lobe((0, 0, 54), (58, 58, 25)),
            Lobe((0, 0, 0), (26, 26, 20), 0),
            Lobe((0, 0, 42), (18, 18, 12), 0),
            Lobe((6, 0, 98), (54, 56, 27)),  # ATPases
            Lobe((0, 0, 94), (8, 8, 30), 0),
            Lobe((-58, -14, 112), (34, 30, 38)),  # Rpn1
            Lobe((38, 40, 138), (38, 58, 38)),  # the lid
            Lobe((20, -24, 158), (34, 42, 34)),
            Lobe((-22, 10, 184), (38, 30, 30)),  # Rpn2
        ),
    ),
    # a globule of the usual density of proteins, 0.81 Da per cubic ångström
    "small-protein": Phantom(
        40,
        "C1",
        (
            Lobe((0, 0, 0), (24, 22, 20)),
            Lobe((18, 12, 8), (15, 14, 13)),
        ),
    ),
}


def phantom_beads(facts: Phantom) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the beads of a phantom, point masses `BEAD_SPACING_ANGSTROM` apart that are blurred later.

    Returns:
        Positions ``(N, 3)``, ``(z, y, x)`` in ångströms from the centre of mass, and relative masses ``(N,)``.
    """
    turns = Rotation.create_group(facts.symmetry).as_matrix()[:, ::-1, ::-1]  # acting on (z, y, x)
    density = _painted(facts.lobes, turns)
    if facts.grain:
        density *= _grain(density.shape, turns, facts.grain)
    index = np.nonzero(density)
    points = (np.stack(index, axis=1) - (density.shape[0] - 1) / 2) * BEAD_SPACING_ANGSTROM
    return points - np.average(points, axis=0, weights=density[index]), density[index]


def _painted(lobes: Sequence[Lobe], turns: NDArray[np.float64]) -> NDArray[np.float64]:
    """Paint all copies of the lobes on a lattice of one bead per `BEAD_SPACING_ANGSTROM`, ``[z, y, x]``."""
    outermost = max(np.linalg.norm(lobe.centre_xyz_angstrom) + max(lobe.radii_xyz_angstrom) for lobe in lobes)
    half = math.ceil(outermost / BEAD_SPACING_ANGSTROM) + 1
    painted = np.zeros((2 * half + 1,) * 3)
    for lobe in lobes:
        centre, radii = np.array(lobe.centre_xyz_angstrom[::-1]), np.array(lobe.radii_xyz_angstrom[::-1])
        is_ball_in_the_middle = not centre.any() and len(set(radii)) == 1
        for turn in turns[:1] if is_ball_in_the_middle else turns:
            middle = turn @ centre / BEAD_SPACING_ANGSTROM + half
            reach = radii.max() / BEAD_SPACING_ANGSTROM
            box = tuple(slice(math.ceil(at - reach), math.floor(at + reach) + 1) for at in middle)
            grid = np.stack([*np.mgrid[box]], axis=-1)
            offsets = (grid - middle) * BEAD_SPACING_ANGSTROM @ turn  # in the frame of the lobe before its rotation
            painted[box][((offsets / radii) ** 2).sum(axis=-1) <= 1] = lobe.density
    return painted


def _grain(shape: tuple[int, ...], turns: NDArray[np.float64], deviation: float) -> NDArray[np.float64]:
    """Return a symmetric random texture with mean 1, ``[z, y, x]``; it is the same at every call."""
    noise = np.random.default_rng(0).normal(size=shape)
    lumps = ndimage.gaussian_filter(noise, PHANTOM_GRAIN_ANGSTROM / BEAD_SPACING_ANGSTROM)
    middle = (np.array(shape) - 1) / 2
    turned = [ndimage.affine_transform(lumps, turn, middle - turn @ middle, order=1) for turn in turns]
    mean = np.mean(turned, axis=0)
    answer: NDArray[np.float64] = np.clip(1 + deviation * mean / mean.std(), 0.1, None)
    return answer
