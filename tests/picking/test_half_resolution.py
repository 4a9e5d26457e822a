"""Logits at half of the tomogram's resolution place picks as exactly as those at full resolution."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scripts.picking.blobs import Blobs
from scripts.picking.image_picks import find_in_image, logits_stride_of
from scripts.picking.pick_transform import PickParticlesd
from scripts.scoring.threshold_sweep import SweepThresholdsd
from scripts.training.spheres import Spheres
from scripts.training.windows import PaintTargetsd, mean_of_cubes
from synthetic import POINTS, image_of, logits_of, noise


def errors_of(species_set, species, threshold, stride, seed):
    """Return how far picks in painted targets are from particles at random places, in voxels of the tomogram."""
    corners = np.stack(np.meshgrid([12, 36], [12, 36, 60], [12, 36, 60], indexing="ij"), axis=-1).reshape(-1, 3)
    points = corners + np.random.default_rng(seed).uniform(-1, 1, corners.shape)
    rows = torch.from_numpy(np.column_stack([np.full(len(points), species.label), points]).astype(np.float32))
    paint = PaintTargetsd("label", species_set, Spheres(), output_stride=stride)
    target = paint({"image": torch.zeros(1, 48, 72, 72), "label": rows})["label"][species.label - 1].numpy()
    wanted = replace(species, probability_threshold=threshold)
    found = find_in_image(Blobs(), target, wanted, species_set.voxel_size_angstrom, stride)
    distances = np.linalg.norm(found.centres_zyx_vox[:, None] - points, axis=2)
    assert sorted(distances.argmin(1).tolist()) == list(range(len(points)))
    return distances.min(1)


@pytest.mark.parametrize("threshold", [0.1, 0.5, 0.9])
def test_particles_painted_at_half_resolution_come_back_within_a_fraction_of_a_voxel(threshold, shipped_species):
    for species in shipped_species.picked:
        errors = np.concatenate([errors_of(shipped_species, species, threshold, 2, seed) for seed in range(4)])
        assert errors.mean() <= 0.1  # at full resolution 0.06
        assert errors.max() <= 0.3


def test_the_mean_of_cubes_keeps_the_sum_and_fills_the_far_ends():
    volume = torch.rand(2, 7, 8, 5)
    for side in (1, 2, 3):
        means = mean_of_cubes(volume, side)
        assert means.shape == (2, *(-(-size // side) for size in (7, 8, 5)))
        torch.testing.assert_close(means.sum() * side**3, volume.sum())
    assert mean_of_cubes(volume, 2)[0, 1, 2, 0] == pytest.approx(volume[0, 2:4, 4:6, :2].mean().item())


def test_the_stride_follows_from_the_shapes():
    assert logits_stride_of((92, 315, 315), (184, 630, 630)) == 2
    assert logits_stride_of((4, 7, 3), (7, 13, 6)) == 2
    assert logits_stride_of((7, 13, 6), (7, 13, 6)) == 1
    with pytest.raises(ValueError, match=r"logits of shape \(4, 7, 6\) do not cover an image of shape \(7, 13, 6\)"):
        logits_stride_of((4, 7, 6), (7, 13, 6))


def test_picks_label_map_and_sweep_from_logits_at_half_resolution(species_set):
    whole = logits_of(species_set)
    half = mean_of_cubes(whole.sigmoid(), 2).clamp(1e-6, 1 - 1e-6).logit()
    picked = [
        PickParticlesd("pred", species_set, Blobs())({"pred": logits, "image": image_of(noise()), "run": "r"})
        for logits in (whole, half)
    ]
    places = [
        np.array([[pick[f"{axis}_voxel"] for axis in "zyx"] for pick in one["result"]["picks"]]) for one in picked
    ]
    assert np.abs(places[0] - np.asarray(POINTS)).max() < 1e-6
    assert np.abs(places[1] - places[0]).max() < 0.2
    assert picked[1]["pred"].shape == picked[0]["pred"].shape
    sweep = SweepThresholdsd("pred", species_set, Blobs(), [0.1, 0.5])
    rows = torch.tensor([[1.0, *POINTS[0]], [2.0, *POINTS[1]]])
    counts = sweep({"pred": half, "image": image_of(noise()), "label": rows})["sweep"]
    assert (counts == 1).all()
