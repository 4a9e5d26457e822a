"""Connected components of listed voxels: where few voxels of a volume are wanted, its size does not matter."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from scripts.errors import InputError

# which later rows of voxels touch a row: so many planes and rows farther, and so many voxels of shift along x allowed
NEIGHBOUR_ROWS = {
    6: ((0, 1, 0), (1, 0, 0)),
    18: ((0, 1, 1), (1, -1, 0), (1, 0, 1), (1, 1, 0)),
    26: ((0, 1, 1), (1, -1, 1), (1, 0, 1), (1, 1, 1)),
}


def components_of_voxels(
    inside: NDArray[np.int64], shape: tuple[int, ...], connectivity: int = 26
) -> NDArray[np.int64]:
    """Return the number of the connected component of every voxel, counted from 0 in the order of their first voxels.

    Voxels that follow each other along x are a run. Two runs in neighbouring rows are connected where they overlap.

    Args:
        inside: ``(N,)``, N at least 1: increasing indices of the voxels in the flat volume.
        shape: ``(Z, Y, X)`` of the volume.
        connectivity: 6 (faces), 18 (and edges) or 26 (and corners).

    Raises:
        InputError: there is no such connectivity.
    """
    check_connectivity(connectivity)
    _, height, width = shape
    row = inside // width
    place = inside + row + row // height * (width + 1)  # with a gap after every row and plane, across which none touch
    is_start = np.diff(place, prepend=-2) > 1
    starts, ends = place[is_start], place[np.append(is_start[1:], True)]
    pairs = []
    for planes, rows, reach in NEIGHBOUR_ROWS[connectivity]:
        away = (planes * (height + 1) + rows) * (width + 1)
        first = np.searchsorted(ends, starts + away - reach)  # the runs that overlap with a run follow each other
        counts = np.searchsorted(starts, ends + away + reach, side="right") - first
        runs = np.repeat(np.arange(len(starts)), counts)
        others = np.arange(len(runs)) + np.repeat(first - np.cumsum(counts) + counts, counts)
        pairs.append(np.stack([runs, others]))
    component_of_run = _components(np.concatenate(pairs, axis=1), len(starts))
    answer: NDArray[np.int64] = component_of_run[np.cumsum(is_start) - 1]
    return answer


def check_connectivity(connectivity: int) -> None:
    """Check which neighbours of a voxel are connected to it.

    Raises:
        InputError: it is not 6, 18 or 26.
    """
    if connectivity not in NEIGHBOUR_ROWS:
        raise InputError(f"connectivity must be 6, 18 or 26; got {connectivity}.")


def _components(pairs: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Return the components of ``count`` nodes that are connected in pairs ``(2, P)``."""
    graph = coo_array((np.ones(pairs.shape[1], dtype=np.int8), (pairs[0], pairs[1])), shape=(count, count))
    labels: NDArray[np.int64] = connected_components(graph, directed=False)[1].astype(np.int64)
    return labels
