import numpy as np
import torch
from scripts.inference.blending import BACKGROUND
from scripts.inference.inferers import TomogramInferer
from synthetic import SHAPE, box_mask


def seen_windows(shape, region=None, answer=None, **settings):
    """Return the answer, and the number of windows that the network saw."""
    seen = []
    settings = {"window_size": (8, 12, 16), "overlap_voxels": 2, "precision": "float32", **settings}
    volume = torch.rand((1, 1, *shape), generator=torch.Generator().manual_seed(3))
    region = None if region is None else torch.from_numpy(region)[None, None]
    result = TomogramInferer(**settings)(volume, lambda windows: seen.extend(windows) or windows, region=region)
    return volume, result, len(seen)


def test_windows_that_hold_nothing_of_the_region_are_skipped():
    shape = (16, 24, 64)
    everything = seen_windows(shape, overlap_voxels=0)[2]
    mask = box_mask((slice(0, 8), slice(0, 12), slice(0, 64)), shape)
    mask[8:, 12:, 48:] = 1
    assert everything == 2 * 2 * 4
    assert seen_windows(shape, mask, overlap_voxels=0)[2] == 4 + 1


def test_windows_fall_in_proportion_to_a_slab():
    shape = (64, 24, 32)
    everything, quarter = (seen_windows(shape, mask)[2] for mask in (None, box_mask((slice(20, 34),), shape)))
    assert everything == 11 * 3 * 3
    assert quarter == 3 * 3 * 3


def test_the_answer_is_that_of_the_network_in_the_region_and_background_far_from_it():
    volume, answer, _ = seen_windows(SHAPE, box_mask((slice(2, 5), slice(2, 5), slice(2, 5))))
    assert torch.allclose(answer[..., 2:5, 2:5, 2:5], volume[..., 2:5, 2:5, 2:5], atol=1e-5)
    assert (answer[..., 12:, :, :] == BACKGROUND).all()
    assert answer.shape == volume.shape


def test_a_region_that_is_everything_changes_nothing():
    volume = torch.rand((1, 1, *SHAPE))
    inferer = TomogramInferer((8, 12, 16), 2, rotations=2, flips=("z",), precision="float32")
    region = torch.ones_like(volume, dtype=torch.uint8)
    assert torch.equal(inferer(volume, torch.sin, region=region), inferer(volume, torch.sin))


def test_views_turn_the_region_with_the_volume():
    mask = box_mask((slice(0, 6), slice(0, 9), slice(20, 36)))
    volume, answer, _ = seen_windows(SHAPE, mask, rotations=4, flips=("x", "z"))
    inside = mask.astype(bool)
    assert np.allclose(answer[0, 0].numpy()[inside], volume[0, 0].numpy()[inside], atol=1e-4)


def test_a_rim_is_seen_with_what_is_around_it():
    volume = torch.ones(1, 1, *SHAPE)
    region = torch.zeros_like(volume)
    region[..., 6:14, 8:20, 10:26] = 1
    inferer = TomogramInferer((8, 12, 16), overlap_voxels=4, precision="float32")
    extents = []
    inferer(volume, lambda windows: extents.append(windows.shape) or windows, region=region)
    box = inferer.box_around(region[0, 0] != 0, inferer.plan(SHAPE, torch.sin))
    assert [(part.start, part.stop) for part in box] == [(4, 16), (6, 22), (8, 28)]


def test_an_empty_region_asks_the_network_once():
    _, answer, windows = seen_windows(SHAPE, box_mask((slice(0, 0),)))
    assert windows == 1
    assert (answer[..., 8:, :, :] == BACKGROUND).all()
