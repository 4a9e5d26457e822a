"""Picks in another unit or frame than the truth: they match nothing, which looks like a very bad result."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scripts.coordinates import NANOMETRE_ANGSTROM
from scripts.picks import Pick, xyz_angstrom_of
from scripts.scoring.matching import picks_within
from scripts.scoring.metrics import by_species_and_run
from scripts.species import HIT_FRACTION, SpeciesSet

UNMATCHED, MATCHED = 0.1, 0.5  # shares of the picks that match: below the one as they are, from the other on in a frame
FEWEST_MATCHED, FEWEST_SHIFTED = 3, 6  # some shift matches any two tables of few points
BINNINGS = (1.0, 2.0, 4.0, 0.5)  # voxel sizes at which voxels are recognised, in those of the network
MOST_COMPARED = 100  # picks and true particles of a species and run whose differences are looked at
Places = NDArray[np.float64]


@dataclass(frozen=True)
class Pair:
    """Positions ``(N, 3)`` of one species in one run, ``(x, y, z)`` in ångströms, and how near a hit is."""

    truth: Places
    picks: Places
    distance: float

    def hits(self) -> int:
        """Return the number of picks that match a true particle."""
        return sum(1 for near in picks_within(self.picks, self.truth, self.distance) if near)


def pairs_of(truth: Sequence[Pick], picks: Sequence[Pick], species_set: SpeciesSet) -> list[Pair]:
    """Return the positions of every species and run that has both picks and true particles."""
    true, found = by_species_and_run(truth), by_species_and_run(picks)
    distances = {species.name: HIT_FRACTION * species.radius_angstrom for species in species_set.known}
    return [
        Pair(xyz_angstrom_of(true[key]), xyz_angstrom_of(found[key]), distances[key[0]]) for key in true if key in found
    ]


def other_frame_of(pairs: Sequence[Pair], voxel_size_angstrom: float) -> str | None:
    """Return in which unit or order of axes most of the picks match the truth, in words, if as they are hardly any do.

    Args:
        pairs: see `pairs_of`.
        voxel_size_angstrom: of the network; a table in voxels is recognised at this voxel size, twice and four times as
            large, and half as large.
    """
    if not _is_unmatched(pairs):
        return None
    return next(
        (words for words, read in _readings(pairs, voxel_size_angstrom) if _most_match(read, FEWEST_MATCHED)), None
    )


def common_shift_of(pairs: Sequence[Pair]) -> Places | None:
    """Return the shift ``(x, y, z)`` in ångströms after which most picks match, if as they are hardly any do.

    The true particle that a pick belongs to is not known. So all differences of the two are taken: those of true pairs
    lie together, the others anywhere.
    """
    if not _is_unmatched(pairs):
        return None
    differences = np.concatenate(
        [(pair.truth[:MOST_COMPARED, None] - pair.picks[None, :MOST_COMPARED]).reshape(-1, 3) for pair in pairs]
    )
    reach = min(pair.distance for pair in pairs)
    fullest = pd.DataFrame(np.rint(differences / reach)).value_counts().index[0]
    is_near = np.linalg.norm(differences - np.array(fullest) * reach, axis=1) <= reach
    shift: Places = np.median(differences[is_near], axis=0)
    shifted = [replace(pair, picks=pair.picks + shift) for pair in pairs]
    return shift if _most_match(shifted, FEWEST_SHIFTED) else None


def _readings(pairs: Sequence[Pair], voxel_size_angstrom: float) -> Iterator[tuple[str, list[Pair]]]:
    """Yield what may be wrong with the picks or the truth, in words, and the pairs with that undone."""
    voxel_sizes = [("voxels", binning * voxel_size_angstrom) for binning in BINNINGS]
    for unit, factor in (*voxel_sizes, ("nm", NANOMETRE_ANGSTROM)):
        remedy = f"{unit}, not Å: multiply x, y and z by {factor:g}"
        yield f"the picks are in {remedy}", [replace(pair, picks=pair.picks * factor) for pair in pairs]
        yield f"the truth is in {remedy}", [replace(pair, truth=pair.truth * factor) for pair in pairs]
    exchanged = [replace(pair, picks=pair.picks[:, ::-1]) for pair in pairs]
    yield "x and z are exchanged in one of them: the columns are x, y, z", exchanged


def _is_unmatched(pairs: Sequence[Pair]) -> bool:
    hits, total = _counts(pairs)
    return total > 0 and hits < UNMATCHED * total


def _most_match(pairs: Sequence[Pair], fewest: int) -> bool:
    hits, total = _counts(pairs)
    return hits >= max(fewest, MATCHED * total)


def _counts(pairs: Sequence[Pair]) -> tuple[int, int]:
    """Return how many picks match, and how many could: no more than there are true particles."""
    return sum(pair.hits() for pair in pairs), sum(min(len(pair.picks), len(pair.truth)) for pair in pairs)
