"""The finder of peaks: one per particle, at its exact place; the same as plain NumPy finds."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from devices import DEVICES
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage
from scripts.picking.image_picks import find_in_image, probability_of
from scripts.picking.peaks import Peaks, find_peaks, voxels_above
from scripts.picking.pick_transform import PickParticlesd
from scripts.scoring.threshold_sweep import SweepThresholdsd
from scripts.training.heat_maps import HeatMaps
from scripts.training.spheres import Spheres
from scripts.training.windows import PaintTargetsd
from synthetic import BOX, POINTS, SHAPE, box_mask, image_of, logits_of, make_species, noise

ONE = make_species(1, probability_threshold=0.5).picked[0]  # a radius of 4 voxels of 10 Å


def painted(points, painter, stride=1, shape=(48, 72, 72), species_set=None):
    """Return the target of a species' particles at voxels of the tomogram, at the resolution of the logits."""
    species_set = species_set or make_species(1)
    rows = torch.tensor([[1.0, *point] for point in np.asarray(points).tolist()])
    paint = PaintTargetsd("label", species_set, painter, output_stride=stride)
    return paint({"image": torch.zeros(1, *shape), "label": rows})["label"][0]


def spots(*places, shape=SHAPE):
    """Return a volume that is 0 but for voxels ``(z, y, x, value)``."""
    volume = np.zeros(shape, dtype=np.float32)
    for *place, value in places:
        volume[tuple(place)] = value
    return volume


# Places


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("sigma_angstrom", [20.0, 30.0, 60.0])
def test_every_painted_particle_is_found_within_a_tenth_of_a_voxel(sigma_angstrom, stride, device):
    corners = np.stack(np.meshgrid([12, 36], [12, 36, 60], [12, 36, 60], indexing="ij"), axis=-1).reshape(-1, 3)
    points = corners + np.random.default_rng(0).uniform(-1, 1, corners.shape)
    target = painted(points, HeatMaps(sigma_angstrom=sigma_angstrom), stride).to(device)
    found = find_in_image(Peaks(), target, ONE, 10.0, stride)
    distances = np.linalg.norm(found.centres_zyx_vox[:, None] - points, axis=2)
    assert sorted(distances.argmin(1).tolist()) == list(range(len(points)))
    assert distances.min(1).max() < 0.1  # a parabola through the values themselves: 0.15; a centre of mass: over 1


def test_touching_particles_are_two_peaks_each_at_its_place():
    points = np.array([(20.3, 30.0, 30.4), (20.3, 30.0, 40.1)])  # ferritins touch at 97 Å
    ferritin = replace(ONE, radius_angstrom=60.0)
    found = find_in_image(Peaks(), painted(points, HeatMaps(sigma_angstrom=60.0), 2), ferritin, 10.0, 2)
    assert len(found) == 2
    assert np.abs(found.centres_zyx_vox[np.argsort(found.centres_zyx_vox[:, 2])] - points).max() < 0.1


@pytest.mark.parametrize("place", [(0, 14, 18), (19, 14, 18), (10, 0, 35), (0, 0, 0)])
def test_a_peak_at_the_border_stays_in_its_voxel_along_the_axis_that_ends(place):
    (found,) = Peaks()(spots((*place, 0.9)), ONE, 10.0).centres_zyx_vox
    assert found.tolist() == list(place)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 9, 1), (2, 1, 9)])
def test_flat_volumes_have_peaks_too(shape):
    peaks = Peaks()(np.full(shape, 0.9, np.float32), ONE, 10.0)
    assert peaks.centres_zyx_vox.tolist() == [[(size - 1) / 2 for size in shape]]


def test_a_plateau_is_one_peak_in_its_middle():
    sphere = painted([POINTS[0]], Spheres(), shape=SHAPE)
    found = find_peaks(sphere, voxels_above(sphere, 0.5))
    np.testing.assert_allclose(found.centres_zyx_vox, [POINTS[0]], atol=1e-9)
    assert found.scores.tolist() == [1]
    assert found.sizes.tolist() == [int(sphere.sum())]


def test_a_saturated_heat_map_gives_one_peak_per_particle():
    points = np.array([(12.0, 20.0, 20.0), (30.0, 50.0, 50.0)])
    clipped = painted(points, HeatMaps(sigma_angstrom=60.0), 2).clamp(max=0.8)
    found = find_in_image(Peaks(), clipped, ONE, 10.0, 2)
    assert np.abs(np.sort(found.centres_zyx_vox, axis=0) - points).max() < 0.1
    assert found.scores == pytest.approx([0.8, 0.8])


# Which peaks


def test_only_peaks_above_the_threshold_count():
    volume = spots((6, 9, 11, 0.5), (13, 20, 30, 0.6))
    assert Peaks()(volume, ONE, 10.0).scores == pytest.approx([0.6])
    assert Peaks()(volume, replace(ONE, probability_threshold=0.4), 10.0).scores == pytest.approx([0.6, 0.5])


@pytest.mark.parametrize(
    ("radii", "voxel_size", "count"), [(1.0, 10.0, 1), (0.9, 10.0, 2), (1.0, 10.1, 2), (0.0, 10.0, 2)]
)
def test_of_peaks_within_the_distance_the_highest_is_kept(radii, voxel_size, count):
    volume = spots((10, 14, 10, 0.8), (10, 14, 14, 0.9))
    found = Peaks(radii)(volume, ONE, voxel_size)
    assert found.scores == pytest.approx([0.9, 0.8][:count])
    assert found.centres_zyx_vox[0].tolist() == [10, 14, 14]


def test_nothing_above_the_threshold_gives_no_peaks():
    found = Peaks()(np.zeros(SHAPE, np.float32), ONE, 10.0)
    assert (len(found), found.centres_zyx_vox.shape) == (0, (0, 3))


def test_a_negative_distance_is_refused():
    with pytest.raises(ValueError, match="merge_distance_in_radii is a number, 0 or more; got -1"):
        Peaks(-1)


# The same as plain NumPy


def peaks_by_numpy(volume, threshold, distance_vox):
    """Return rows (z, y, x, score, size) of the peaks, the highest first."""
    is_top = (volume > threshold) & (volume == ndimage.maximum_filter(volume, 3, mode="nearest"))
    labels, count = ndimage.label(is_top, np.ones((3, 3, 3)))
    rows = []
    for label in range(1, count + 1):
        places = np.argwhere(labels == label)
        centre = np.mean([place + offset_by_numpy(volume, place) for place in places], axis=0)
        rows.append([*centre, volume[tuple(places[0])], len(places)])
    kept = []
    for row in sorted(rows, key=lambda row: -row[3]):
        if all(np.linalg.norm(np.subtract(row[:3], other[:3])) > distance_vox for other in kept) or not distance_vox:
            kept.append(row)
    return np.array(kept).reshape(-1, 5)


def offset_by_numpy(volume, place):
    offset = np.zeros(3)
    logs = np.log(np.maximum(volume.astype(np.float64), np.finfo(np.float32).tiny))
    for axis, size in enumerate(volume.shape):
        if 0 < place[axis] < size - 1:
            before, middle, after = np.moveaxis(logs, axis, 0)[
                (slice(place[axis] - 1, place[axis] + 2), *np.delete(place, axis))
            ]
            bend = before - 2 * middle + after
            offset[axis] = (before - after) / (2 * bend) if bend < 0 else 0
    return offset


@pytest.mark.parametrize("device", DEVICES)
@settings(deadline=None, max_examples=150)
@given(
    volume=arrays(np.float32, st.tuples(*[st.integers(1, 7)] * 3), elements=st.sampled_from([0.0, 0.2, 0.4, 0.6, 1.0])),
    threshold=st.sampled_from([0.0, 0.3, 0.5]),
    distance=st.sampled_from([0.0, 0.5]),
)
def test_the_peaks_of_any_volume_are_those_that_plain_numpy_finds(device, volume, threshold, distance):
    species = replace(ONE, probability_threshold=threshold)
    found = Peaks(distance)(torch.from_numpy(volume).to(device), species, 10.0)
    rows = np.column_stack([found.centres_zyx_vox, found.scores, found.sizes])
    np.testing.assert_allclose(rows, peaks_by_numpy(volume, threshold, 4 * distance), atol=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_the_peaks_of_smooth_noise_are_those_that_plain_numpy_finds(seed):
    volume = ndimage.gaussian_filter(noise(seed, (30, 34, 38)), 1.5)
    volume = (volume - volume.min()) / np.ptp(volume)
    found = Peaks()(volume, replace(ONE, probability_threshold=0.7), 10.0)
    wanted = peaks_by_numpy(volume, 0.7, 4.0)
    assert len(found) > 10
    np.testing.assert_allclose(np.column_stack([found.centres_zyx_vox, found.scores]), wanted[:, :4], atol=1e-5)


# Where finders are used


def test_the_finder_gets_its_probabilities_where_the_logits_are():
    logits = torch.randn(SHAPE)
    assert probability_of(logits, Peaks()).device == logits.device
    np.testing.assert_array_equal(probability_of(logits, Peaks()), probability_of(logits, lambda *_: None))


def test_picks_and_sweep_by_peaks(species_set):
    sample = {"pred": logits_of(species_set), "image": image_of(noise()), "run": "r"}
    picks = PickParticlesd("pred", species_set, Peaks())(sample)["result"]["picks"]
    assert [[pick[f"{axis}_voxel"] for axis in "zyx"] for pick in picks] == POINTS.tolist()
    rows = torch.tensor([[1.0, *POINTS[0]], [2.0, *POINTS[1]]])
    counts = SweepThresholdsd("pred", species_set, Peaks(), [0.1, 0.5])({**sample, "label": rows})["sweep"]
    assert (counts == 1).all()


def test_peaks_outside_the_region_are_left_out(species_set):
    sample = {"pred": logits_of(species_set), "image": image_of(noise()), "run": "r"}
    inside = [all(part.start <= at < part.stop for part, at in zip(BOX, point, strict=True)) for point in POINTS]
    region = torch.from_numpy(box_mask())[None]
    picks = PickParticlesd("pred", species_set, Peaks())({**sample, "region": region})["result"]["picks"]
    assert len(picks) == sum(inside) < len(POINTS)
