"""Match picks with true particles."""

from __future__ import annotations

from itertools import chain

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching
from scipy.spatial import KDTree

from scripts.coordinates import as_points
from scripts.settings import check_setting

MODES = ("kaggle", "one_to_one")


def check_mode(mode: str) -> str:
    """Return ``mode`` if it is one of `MODES`.

    Raises:
        InputError: it is not.
    """
    check_setting("mode", mode)
    return mode


def count_hits(truth_xyz: ArrayLike, picks_xyz: ArrayLike, distance: float, mode: str = "kaggle") -> int:
    """Count the true particles that have a pick within ``distance``; exactly ``distance`` is within.

    Args:
        truth_xyz: ``(N, 3)`` positions of the true particles.
        picks_xyz: ``(M, 3)`` positions of the picks, in the same unit.
        distance: largest distance of a pair, in that unit.
        mode: "kaggle" or "one_to_one"; the latter forms as many pairs as possible.

    Raises:
        ValueError: the mode is unknown, or the distance is not positive.
    """
    check_mode(mode)
    if mode == "one_to_one":
        return int(np.count_nonzero(match_pairs(truth_xyz, picks_xyz, distance) >= 0))
    return sum(1 for indices in picks_within(truth_xyz, picks_xyz, distance) if indices)


def match_pairs(truth_xyz: ArrayLike, picks_xyz: ArrayLike, distance: float) -> NDArray[np.int64]:
    """Pair true particles with picks within ``distance``, one to one, as many pairs as possible.

    Args:
        truth_xyz: ``(N, 3)`` positions of the true particles.
        picks_xyz: ``(M, 3)`` positions of the picks, in the same unit.
        distance: largest distance of a pair, in that unit.

    Returns:
        For every true particle the index of its pick, -1 for none: ``(N,)``.

    Raises:
        ValueError: the distance is not positive.
    """
    near = picks_within(truth_xyz, picks_xyz, distance)
    ends = np.cumsum([0, *map(len, near)])
    if ends[-1] == 0:
        return np.full(len(near), -1, dtype=np.int64)
    columns = np.fromiter(chain.from_iterable(near), dtype=np.int32, count=ends[-1])
    shape = len(near), len(as_points(picks_xyz, "picks_xyz"))
    pairs = csr_array((np.ones(len(columns), dtype=np.int8), columns, ends.astype(np.int32)), shape)
    return np.asarray(maximum_bipartite_matching(pairs, perm_type="column"), dtype=np.int64)


def picks_within(truth_xyz: ArrayLike, picks_xyz: ArrayLike, distance: float) -> list[list[int]]:
    """Return for every true particle the indices of the picks within ``distance``; exactly ``distance`` is within.

    Raises:
        ValueError: the distance is not positive.
    """
    if not distance > 0:
        raise ValueError(f"distance must be positive; got {distance}.")
    truth, picks = as_points(truth_xyz, "truth_xyz"), as_points(picks_xyz, "picks_xyz")
    if len(truth) == 0 or len(picks) == 0:
        return [[] for _ in truth]
    answer: list[list[int]] = KDTree(truth).query_ball_tree(KDTree(picks), distance)
    return answer
