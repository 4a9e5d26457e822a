import cc3d
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra import numpy as hnp
from scipy import ndimage
from scripts.picking.blobs import Blobs
from scripts.picking.components import check_connectivity, components_of_voxels

STEPS = {6: 1, 18: 2, 26: 3}  # how many coordinates of connected voxels may differ, as SciPy counts connectivity


def labelled(mask, connectivity):
    """Return the components as SciPy numbers them in the whole volume: a voxel's number, counted from 0."""
    structure = ndimage.generate_binary_structure(3, STEPS[connectivity])
    return ndimage.label(mask, structure)[0][mask] - 1


@pytest.mark.parametrize("connectivity", STEPS)
@settings(max_examples=150, deadline=None)
@given(mask=hnp.arrays(bool, hnp.array_shapes(min_dims=3, max_dims=3, max_side=7)).filter(np.any))
def test_the_components_of_voxels_are_those_of_the_whole_volume(mask, connectivity):
    found = components_of_voxels(np.flatnonzero(mask), mask.shape, connectivity)
    assert np.array_equal(found, labelled(mask, connectivity))


@pytest.mark.parametrize("connectivity", STEPS)
@pytest.mark.parametrize("share", [0.02, 0.1, 0.3, 0.6])
def test_winding_components_stay_whole(share, connectivity):
    mask = np.random.default_rng(7).random((20, 28, 36)) < share
    found = components_of_voxels(np.flatnonzero(mask), mask.shape, connectivity)
    assert np.array_equal(found, labelled(mask, connectivity))


def test_the_end_of_a_row_does_not_touch_the_start_of_the_next():
    mask = np.zeros((3, 4, 5), dtype=bool)
    mask[0, 1, 4] = mask[0, 2, 0] = True  # in memory, these two follow each other
    mask[1, 3, 2] = mask[2, 0, 2] = True  # the last row of a plane, the first row of the next
    assert components_of_voxels(np.flatnonzero(mask), mask.shape).tolist() == [0, 1, 2, 3]


def test_another_connectivity_is_refused():
    with pytest.raises(ValueError, match="connectivity must be 6, 18 or 26; got 8"):
        Blobs(connectivity=8)
    with pytest.raises(ValueError, match="connectivity must be 6, 18 or 26; got 8"):
        check_connectivity(8)
    with pytest.raises(ValueError, match="connectivity"):
        components_of_voxels(np.array([0]), (1, 1, 1), 8)


@pytest.mark.parametrize("connectivity", STEPS)
def test_the_components_are_those_of_cc3d(connectivity):
    mask = np.random.default_rng(3).random((40, 50, 60)) < 0.2
    found = components_of_voxels(np.flatnonzero(mask), mask.shape, connectivity)
    blobs = cc3d.connected_components(mask, connectivity=connectivity)[mask].astype(np.int64) - 1
    assert len(set(zip(found.tolist(), blobs.tolist(), strict=True))) == found.max() + 1 == blobs.max() + 1
