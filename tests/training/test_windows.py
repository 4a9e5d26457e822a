import dataclasses

import numpy as np
import pytest
import torch
from monai.transforms import Compose, RandFlipd, RandRotate90d
from scripts.training.spheres import Spheres
from scripts.training.windows import PaintTargetsd, RandWindowd
from scripts.volumes.labels import draw_spheres
from synthetic import image_of, make_species, noise


def window_sample(points=((1, 6, 9, 11), (2, 13, 20, 30))):
    return {"image": image_of(noise()).as_tensor(), "label": torch.tensor(points, dtype=torch.float32).reshape(-1, 4)}


def test_a_window_holds_the_same_voxels_and_points_as_the_tomogram(species_set):
    cut = RandWindowd(species_set, (8, 12, 12)).set_random_state(seed=3)
    for _ in range(20):
        sample = window_sample()
        window = cut(sample)
        start = (sample["label"] - window["label"])[0, 1:].int().tolist()
        box = tuple(slice(first, first + size) for first, size in zip(start, (8, 12, 12), strict=True))
        assert torch.equal(window["image"], sample["image"][(slice(None), *box)])


def test_a_window_around_a_particle_holds_one(species_set):
    cut = RandWindowd(species_set, (8, 12, 12), particle_share=1.0).set_random_state(seed=0)
    for _ in range(50):
        rows = cut(window_sample())["label"][:, 1:]
        assert ((rows >= 0) & (rows < torch.tensor([8, 12, 12]))).all(dim=1).any()


def test_windows_anywhere_reach_every_corner(species_set):
    cut = RandWindowd(species_set, (10, 18, 18), particle_share=0.0).set_random_state(seed=0)
    sample = window_sample()
    starts = {tuple((sample["label"] - cut(sample)["label"])[0, 1:].int().tolist()) for _ in range(3000)}
    assert {axis[0] for axis in starts} == set(range(11))
    assert {axis[1] for axis in starts} == set(range(11))
    assert {axis[2] for axis in starts} == set(range(19))


def test_a_species_with_twice_the_weight_is_drawn_twice_as_often():
    two = make_species(2)
    known = (two.known[0], dataclasses.replace(two.known[1], weight=2.0))
    cut = RandWindowd(dataclasses.replace(two, known=known), (2, 2, 2), particle_share=1.0).set_random_state(seed=0)
    drawn = [cut(window_sample(((1, 3, 3, 3), (2, 15, 20, 30))))["label"] for _ in range(900)]
    second = sum(bool((rows[1, 1:].abs() < 4).all()) for rows in drawn)
    assert 540 < second < 660


def test_windows_of_one_seed_are_the_same(species_set):
    one, two = (RandWindowd(species_set, (8, 8, 8)).set_random_state(seed=5)(window_sample()) for _ in range(2))
    assert torch.equal(one["image"], two["image"])


def test_a_tomogram_without_particles_gives_windows(species_set):
    window = RandWindowd(species_set, (8, 8, 8), particle_share=1.0).set_random_state(seed=0)(window_sample(()))
    assert window["image"].shape == (1, 8, 8, 8)
    assert PaintTargetsd("label", species_set, Spheres())(window)["label"].sum() == 0


def test_a_window_that_cannot_be_turned_is_refused(species_set):
    with pytest.raises(ValueError, match="window_size needs y equal to x"):
        RandWindowd(species_set, (8, 8, 12))


def test_a_small_tomogram_is_padded_at_the_far_end(species_set):
    sample = window_sample()
    window = RandWindowd(species_set, (24, 40, 40)).set_random_state(seed=0)(sample)
    assert torch.equal(window["image"][:, :20, :28, :36], sample["image"])
    assert window["image"][:, 20:].abs().sum() == 0
    assert torch.equal(window["label"], sample["label"])


def test_targets_are_painted_per_window_as_in_the_whole_volume(species_set):
    cut = RandWindowd(species_set, (12, 16, 16)).set_random_state(seed=1)
    whole = PaintTargetsd("label", species_set, Spheres())(window_sample())["label"]
    for _ in range(10):
        window = cut(window_sample())
        start = (window_sample()["label"] - window["label"])[0, 1:].int().tolist()
        box = tuple(slice(first, first + size) for first, size in zip(start, (12, 16, 16), strict=True))
        assert torch.equal(PaintTargetsd("label", species_set, Spheres())(window)["label"], whole[(slice(None), *box)])


def test_flips_and_turns_move_image_and_target_together(species_set):
    sample = {"image": torch.as_tensor(draw_spheres((12, 16, 16), [[3, 4, 6]], 3).astype(np.float32))[None]}
    sample["label"] = torch.tensor([[1.0, 3, 4, 6]])
    painted = PaintTargetsd("label", species_set, Spheres())(sample)
    keys = ["image", "label"]
    move = Compose([
        *(RandFlipd(keys, prob=0.5, spatial_axis=axis) for axis in range(3)),
        RandRotate90d(keys, prob=0.75, max_k=3, spatial_axes=(1, 2)),
    ])  # fmt: skip
    move.set_random_state(seed=0)
    seen = set()
    for _ in range(200):
        moved = move(dict(painted))
        assert torch.equal(moved["image"][0], moved["label"][0])
        seen.add(tuple(torch.nonzero(moved["image"][0])[0].tolist()))
    assert len(seen) == 16  # 8 views in xy, each upright and upside down


@pytest.mark.parametrize("size", [(8, 8), (0, 8, 8)])
def test_a_bad_window_size_is_refused(size, species_set):
    with pytest.raises(ValueError, match="window_size needs three positive numbers"):
        RandWindowd(species_set, size)
