"""Another grid of windows changes no pick, in a network whose answer does not depend on the window."""

import itertools

import numpy as np
import pytest
import torch
from scripts.inference.blending import BACKGROUND, BlendedLogits
from scripts.inference.inferers import TomogramInferer
from scripts.inference.window_cover import largest_window, starts_along, voxels_in_memory, windows_along
from scripts.networks.model_card import network_of, species_of
from scripts.networks.weights import load_weights
from scripts.picking.blobs import Blobs
from scripts.picking.image_picks import find_in_image, probability_of
from scripts.preparation.scaling import scale_percentiles
from scripts.threads import in_threads
from scripts.volumes.reading import read_tomogram
from synthetic import make_species, tiny_network


@pytest.mark.parametrize(("size", "window", "overlap", "align", "stride"), [
    (184, 64, 16, 16, 2), (630, 224, 16, 16, 2), (97, 32, 8, 4, 2), (40, 48, 16, 16, 2), (33, 16, 0, 16, 1),
    (7, 3, 2, 1, 1), (1, 16, 8, 16, 2),
])  # fmt: skip
def test_the_weights_of_all_windows_add_up_to_one(size, window, overlap, align, stride):
    total = torch.zeros(-(-size // stride))
    for along in windows_along(size, window, overlap, align, stride):
        assert along.start % align == 0
        assert along.first == along.start // stride
        assert (along.weights >= 0).all()
        total[along.first : along.first + len(along.weights)] += along.weights
    torch.testing.assert_close(total, torch.ones_like(total))


@pytest.mark.parametrize(
    ("size", "window", "overlap", "align"), [(630, 224, 16, 16), (500, 64, 20, 16), (65, 32, 8, 4)]
)
def test_windows_cover_an_axis_and_share_what_was_asked_for(size, window, overlap, align):
    starts = starts_along(size, window, overlap, align)
    assert starts[0] == 0
    assert starts[-1] + window >= size
    assert all(first + window - overlap >= second > first for first, second in itertools.pairwise(starts))


def test_the_largest_window_respects_the_memory_and_computes_little_twice():
    shape = (184, 630, 630)
    for most in (1e6, 4e6, 1e7):
        window = largest_window(shape, 16, 16, most)
        assert np.prod(window) <= most
        computed = np.prod([len(starts_along(*pair, 16, 16)) * pair[1] for pair in zip(shape, window, strict=True)])
        assert computed < 1.8 * np.prod(shape)
    assert largest_window((20, 30, 40), 16, 16, 1e7) == (32, 32, 48)


def test_less_memory_gives_smaller_windows_and_never_none():
    sizes = [voxels_in_memory(gib, (184, 630, 630), 10**8, 100) for gib in (8, 2, 1.2, 0.1)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] == pytest.approx(0.35 * 2**30 / 100)
    assert voxels_in_memory(0.1, (184, 630, 630), 10**8, 10_000) == 64**3


def test_a_huge_volume_is_not_cut_into_windows_that_share_nearly_everything():
    shape = (368, 1260, 1260)
    most = voxels_in_memory(2.0, shape, 1_750_000_000, 84)
    window = largest_window(shape, 64, 16, most)
    computed = np.prod([len(starts_along(*pair, 64, 16)) * pair[1] for pair in zip(shape, window, strict=True)])
    assert computed < 5 * np.prod(shape)


def inferred(volume, network, **settings):
    with torch.no_grad():
        return TomogramInferer(precision="float32", **settings)(volume, network)


@pytest.mark.parametrize("settings", [
    {"window_size": (48, 64, 64)}, {"window_size": (64, 80, 96), "overlap_voxels": 40}, {"window_size": (40, 72, 48)},
    {"window_size": (48, 64, 64), "rotations": 1, "memory_gib": 0.001},
])  # fmt: skip
def test_another_grid_of_windows_gives_the_same_logits(settings):
    network = tiny_network(norm="none", output_stride=2, align_corners=False).eval()
    volume = torch.rand(1, 1, 70, 100, 130, generator=torch.Generator().manual_seed(5))
    whole = inferred(volume, network, window_size=(72, 104, 132), overlap_voxels=0)
    parts = inferred(volume, network, **{"overlap_voxels": 32, **settings})
    assert parts.shape == whole.shape == (1, 2, 35, 50, 65)
    difference, spread = parts.float() - whole, whole.std()
    assert difference.abs().max() < 0.25 * spread  # a random network looks farther than a trained one
    assert difference.square().mean().sqrt() < 0.02 * spread


def test_large_logits_are_kept_in_float16():
    network = tiny_network(norm="none", output_stride=2, align_corners=False).eval()
    volume = torch.rand(1, 1, 70, 100, 130, generator=torch.Generator().manual_seed(5))
    settings = {"window_size": (32, 64, 64), "overlap_voxels": 8}
    exact, rounded = (inferred(volume, network, **settings, memory_gib=gib) for gib in (2, 0.001))
    assert (exact.dtype, rounded.dtype) == (torch.float32, torch.float16)
    torch.testing.assert_close(rounded.float(), exact, atol=0.03, rtol=0)


def test_layers_come_one_after_the_other_and_a_window_may_be_missing():
    blended = BlendedLogits((20, 6, 6), 2, 2.0)
    (near, middle, far), (rows,) = windows_along(20, 8, 0, 2, 2), windows_along(6, 6, 0, 2, 2)
    for layer, answer in ((near, torch.ones(3, 4, 3, 3)), (middle, None), (far, torch.full((3, 4, 3, 3), 2.0))):
        blended.add(answer, (layer, rows, rows))
    logits = blended.finish()
    assert logits.shape == (3, 10, 3, 3)
    assert torch.equal(logits[:, 0], torch.ones(3, 3, 3))
    assert torch.equal(logits[:, -1], torch.full((3, 3, 3), 2.0))
    assert (logits[:, 5] == BACKGROUND).any() or (logits[:, 4] == BACKGROUND).any()


def test_answers_come_in_order_and_errors_are_passed_on():
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        with torch.no_grad():
            states = list(in_threads(lambda item: (item, torch.is_grad_enabled()), range(7), 2))
        assert states == [(item, False) for item in range(7)]
        assert torch.get_num_threads() == 4
        with pytest.raises(ZeroDivisionError):
            list(in_threads(lambda item: 1 // (item - 3), range(7), 2))
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("shape", [(31, 37, 41), (32, 38, 42), (9, 37, 41), (31, 10, 41), (9, 11, 13), (2, 37, 41)])
def test_a_blob_is_picked_in_its_place_in_a_volume_of_any_size(shape):
    """Windows have 16 x 20 x 24 voxels, and the network answers at half of the resolution."""

    def halves(windows):
        return torch.nn.functional.avg_pool3d(windows, 2, ceil_mode=True).logit(eps=1e-6)

    halves.output_stride, halves.depends_on_window = 2, False
    place = np.floor(0.6 * np.array(shape))
    distance = np.linalg.norm(np.moveaxis(np.indices(shape), 0, -1) - place, axis=-1)
    ball = torch.from_numpy(np.clip(4.5 - distance, 0, 1).astype(np.float32))[None, None]
    logits = inferred(ball, halves, window_size=(16, 20, 24), overlap_voxels=4)[0, 0]
    assert logits.shape == tuple(-(-size // 2) for size in shape)
    (found,) = find_in_image(
        Blobs(), probability_of(logits, Blobs()), make_species(1).picked[0], 10.0, 2
    ).centres_zyx_vox
    is_cut = np.minimum(place, np.array(shape) - 1 - place) < 5
    assert np.abs(found - place)[~is_cut].max(initial=0) < 0.1
    assert ((found >= -0.5) & (found <= np.array(shape) - 0.5)).all()


def test_another_grid_of_windows_moves_no_pick_of_the_shipped_weights(bundle_dir):
    """All within 0.1 voxels, and none that is 0.02 above its threshold appears or disappears."""
    weights = bundle_dir / "models" / "model.pt"
    network, species_set = load_weights(network_of(weights), weights), species_of(weights)
    assert not network.depends_on_window
    tomogram = read_tomogram(bundle_dir.parent / "sample" / "sample.mrc")
    volume = torch.from_numpy(scale_percentiles(tomogram.data))[None, None]
    picks = []
    for window in ((96, 288, 288), (96, 160, 192)):
        logits = inferred(volume, network, window_size=window, memory_format=torch.channels_last_3d)[0]
        picks.append(
            [
                find_in_image(Blobs(), probability_of(channel, Blobs()), species, tomogram.voxel_size_angstrom, 2)
                for channel, species in zip(logits, species_set.picked, strict=True)
            ]
        )
    for one, other, species in zip(*picks, species_set.picked, strict=True):
        for found, twins in ((one, other), (other, one)):
            sure = found.only(found.scores > species.probability_threshold + 0.02)
            assert len(sure) > 0
            distances = np.linalg.norm(sure.centres_zyx_vox[:, None] - twins.centres_zyx_vox, axis=2).min(1)
            assert distances.max() <= 0.1
