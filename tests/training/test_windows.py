import dataclasses
import re

import numpy as np
import pytest
import torch
from monai.transforms import Compose, RandFlipd, RandRotate90d
from scripts.errors import InputError
from scripts.training.heat_maps import HeatMaps
from scripts.training.spheres import Spheres
from scripts.training.windows import UNLABELLED, PaintTargetsd, RandWindowd, mean_of_cubes
from scripts.volumes.labels import draw_spheres
from synthetic import box_mask, image_of, make_species, noise


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


def test_other_weights_take_the_place_of_the_species_own():
    cut = RandWindowd(make_species(2), (2, 2, 2), particle_share=1.0, species_weights={"a": 0.0, "b": 0.5})
    cut.set_random_state(seed=0)
    drawn = [cut(window_sample(((1, 3, 3, 3), (2, 15, 20, 30))))["label"] for _ in range(50)]
    assert all((rows[1, 1:].abs() < 4).all() for rows in drawn)


def sample_with_map(map_of_cells):
    return {**window_sample(), "interest": torch.as_tensor(map_of_cells, dtype=torch.float32)}


def starts_of(cut, sample, count):
    rows = sample["label"]
    return np.array([(rows - cut(dict(sample))["label"])[0, 1:].int().tolist() for _ in range(count)])


def test_windows_follow_the_map_of_interest(species_set):
    cut = RandWindowd(species_set, (1, 1, 1), interest_share=1.0).set_random_state(seed=0)
    wanted = np.random.default_rng(1).dirichlet(np.ones(3 * 4 * 5)).reshape(3, 4, 5)
    drawn = np.zeros_like(wanted)
    np.add.at(drawn, tuple(starts_of(cut, sample_with_map(wanted), 4000).T // 8), 1)
    expected = 4000 * wanted
    assert (np.abs(drawn - expected) <= 5 * np.sqrt(expected) + 1).all()


def test_every_voxel_of_a_cell_can_be_drawn_also_of_one_that_is_cut_off(species_set):
    cut = RandWindowd(species_set, (1, 1, 1), interest_share=1.0).set_random_state(seed=0)
    last = np.zeros((3, 4, 5))
    last[2, 3, 4] = 1.0  # 4 x 4 x 4 voxels at the far corner of 20 x 28 x 36
    drawn = {tuple(start) for start in starts_of(cut, sample_with_map(last), 800).tolist()}
    assert drawn == {(z, y, x) for z in range(16, 20) for y in range(24, 28) for x in range(32, 36)}


def test_a_window_holds_the_voxel_that_the_map_gave(species_set):
    cut = RandWindowd(species_set, (8, 12, 12), interest_share=1.0).set_random_state(seed=0)
    one = np.zeros((3, 4, 5))
    one[1, 1, 2] = 1.0
    starts = starts_of(cut, sample_with_map(one), 200)
    assert (starts > np.array([8, 8, 16]) - [8, 12, 12]).all()
    assert (starts < np.array([16, 16, 24])).all()


def test_the_share_of_interest_leaves_the_other_windows_as_they_were(species_set):
    one = np.zeros((3, 4, 5))
    one[0, 0, 0] = 1.0
    cut = RandWindowd(species_set, (1, 1, 1), 0.0, interest_share=0.25).set_random_state(seed=0)
    starts = starts_of(cut, sample_with_map(one), 1000)
    assert 200 < (starts < 8).all(axis=1).sum() < 330  # of those anywhere another one in 40


def test_windows_without_a_map_are_those_of_before(species_set):
    # drawn before there were maps
    cut = RandWindowd(species_set, (8, 12, 12), interest_share=0.5).set_random_state(seed=3)
    assert starts_of(cut, window_sample(), 4).tolist() == [[9, 3, 24], [10, 16, 24], [1, 8, 6], [3, 0, 2]]


def test_a_window_of_interest_is_the_same_for_the_same_seed(species_set):
    sample = sample_with_map(np.full((3, 4, 5), 1 / 60))
    cuts = [RandWindowd(species_set, (8, 8, 8), interest_share=0.5).set_random_state(seed=5) for _ in range(2)]
    assert starts_of(cuts[0], sample, 20).tolist() == starts_of(cuts[1], sample, 20).tolist()


def test_a_share_of_interest_beyond_one_is_refused(species_set):
    with pytest.raises(ValueError, match="interest_share is a number from 0 to 1; got 2"):
        RandWindowd(species_set, (8, 8, 8), interest_share=2)


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
    with pytest.raises(ValueError, match="window_size is three whole numbers"):
        RandWindowd(species_set, size)


@pytest.mark.parametrize(("size", "near"), [((16, 49, 49), "[16, 50, 50]"), ((15, 48, 48), "[16, 48, 48]")])
def test_a_window_that_the_networks_answers_do_not_fill_is_refused(size, near, species_set):
    with pytest.raises(InputError, match=rf"window_size .* answers once per 2 voxels.* example {re.escape(near)}\."):
        RandWindowd(species_set, size, output_stride=2)
    RandWindowd(species_set, (15, 49, 49))


def doubtful_sample(rows, points=(), **more):
    rows = torch.tensor(rows, dtype=torch.float32).reshape(-1, 5)
    return window_sample(points) | {"doubtful": rows} | {key: torch.as_tensor(value) for key, value in more.items()}


def sphere(point):
    return torch.from_numpy(draw_spheres((20, 28, 36), [point], 3)).bool()


@pytest.mark.parametrize("painter", [Spheres(), HeatMaps(sigma_angstrom=20.0)], ids=["spheres", "heat maps"])
def test_a_doubtful_particle_is_painted_as_high_as_it_is_believed(species_set, painter):
    certain = PaintTargetsd("label", species_set, painter)(window_sample(((1, 6, 9, 11), (2, 13, 20, 30))))["label"]
    sample = doubtful_sample([[1, 6, 9, 11, 0.25], [2, 13, 20, 30, 0.5], [2, 5, 5, 5, 0.0]])
    painted = PaintTargetsd("label", species_set, painter)(sample)
    assert torch.allclose(painted["label"], certain * torch.tensor([0.25, 0.5]).reshape(-1, 1, 1, 1))
    assert "doubtful" not in painted


def test_pseudo_labels_of_many_weights_are_painted_in_one_pass(species_set):
    drawn = []

    class Counted(Spheres):
        def __call__(self, shape, labelled_points, species_set):
            drawn.append(len(labelled_points))
            return super().__call__(shape, labelled_points, species_set)

    places = [(z, y, x) for z in (4, 15) for y in (5, 20) for x in (5, 15, 25)]
    rows = [[1 + number % 2, *place, 0.1 + 0.07 * number] for number, place in enumerate(places)]
    meeting = [1, 4, 5, 9, 0.9]  # four voxels beside the first one, of radius 3
    target = PaintTargetsd("label", species_set, Counted())(doubtful_sample([*rows, meeting]))["label"]
    assert drawn == [0, 13]
    assert [target[row[0] - 1][tuple(row[1:4])].item() for row in rows] == pytest.approx([row[4] for row in rows])
    line = [0.1, 0.1, 0.9, 0.9]
    assert target[0, 4, 5, [5, 6, 8, 9]].tolist() == pytest.approx(line)


def test_the_target_of_an_uncertain_particle_is_unknown_in_the_channel_of_its_species(species_set):
    sample = doubtful_sample([[1, 6, 9, 11, np.nan]], ((2, 13, 20, 30),))
    target = PaintTargetsd("label", species_set, Spheres())(sample)["label"]
    assert torch.equal(target[0].isnan(), sphere((6, 9, 11)))
    assert torch.equal(target[1], sphere((13, 20, 30)).float())


def test_of_an_incomplete_species_only_particles_and_what_was_rejected_are_known(species_set):
    sample = doubtful_sample([[1, 13, 20, 30, 0.0]], ((1, 6, 9, 11),), is_complete=[False, True])
    target = PaintTargetsd("label", species_set, Spheres())(sample)["label"]
    assert torch.equal(target[0] != UNLABELLED, sphere((6, 9, 11)) | sphere((13, 20, 30)))
    assert torch.equal(target[0].nan_to_num(neginf=0.0), sphere((6, 9, 11)).float())
    assert not target[1].any()
    (coarse,) = mean_of_cubes(target[:1], 2)
    assert coarse[0, 0, 0] == UNLABELLED
    assert coarse[3, 4, 5] == 1


def test_an_uncertain_particle_of_an_incomplete_species_is_unknown_not_unlabelled(species_set):
    sample = doubtful_sample([[1, 13, 20, 30, np.nan]], ((1, 6, 9, 11),), is_complete=[False, True])
    target = PaintTargetsd("label", species_set, Spheres())(sample)["label"]
    assert torch.equal(target[0].isnan(), sphere((13, 20, 30)))
    assert torch.equal(target[0].isfinite(), sphere((6, 9, 11)))


def test_outside_of_the_annotated_region_every_target_is_unknown(species_set):
    region = box_mask()[None]
    sample = window_sample() | {"annotated_region": torch.from_numpy(region), "annotated_box": torch.zeros(2, 3)}
    painted = PaintTargetsd("label", species_set, Spheres())(sample)
    assert torch.equal(painted["label"].isnan(), torch.from_numpy(region == 0).expand(2, -1, -1, -1))
    assert set(painted) == {"image", "label"}


def test_one_unknown_voxel_makes_its_cube_unknown_and_turns_carry_it_along(species_set):
    target = torch.zeros(1, 4, 4, 4)
    target[0, 0, 1, 3] = float("nan")
    assert mean_of_cubes(target, 2).isnan().nonzero().tolist() == [[0, 0, 0, 1]]
    turned = Compose([RandFlipd("label", prob=1.0, spatial_axis=0), RandRotate90d("label", prob=1.0, max_k=1)])
    assert turned({"label": target})["label"].isnan().sum() == 1


def test_windows_are_drawn_around_what_was_rejected_and_move_its_place(species_set):
    cut = RandWindowd(species_set, (4, 4, 4), particle_share=1.0).set_random_state(seed=0)
    for _ in range(20):
        window = cut(doubtful_sample([[1, 6, 9, 11, 0.0], [2, 15, 24, 33, np.nan]]))
        place = window["doubtful"][0, 1:4]
        assert ((place >= 0) & (place < 4)).all()
        assert torch.allclose(window["doubtful"][1, 1:4] - place, torch.tensor([9.0, 15, 22]))


def test_windows_anywhere_have_their_middle_where_something_was_annotated(species_set):
    cut = RandWindowd(species_set, (4, 4, 4), particle_share=0.0).set_random_state(seed=0)
    box = torch.tensor([[4, 10, 6], [10, 19, 29]])
    region = torch.from_numpy(box_mask())[None]
    for _ in range(50):
        window = cut(window_sample(()) | {"annotated_box": box, "annotated_region": region})
        assert window["annotated_region"][0, 2, 2, 2] == 1


def test_windows_do_not_depend_on_annotations_that_say_nothing(species_set):
    plain, empty = (
        RandWindowd(species_set, (8, 12, 12)).set_random_state(seed=3)(sample)
        for sample in (window_sample(), doubtful_sample([], ((1, 6, 9, 11), (2, 13, 20, 30))))
    )
    assert torch.equal(plain["image"], empty["image"])
    one, two = (PaintTargetsd("label", species_set, Spheres())(window)["label"] for window in (plain, empty))
    assert torch.equal(one, two)
