import dataclasses

import numpy as np
import pytest
import torch
from monai.transforms import Compose, RandFlipd, RandRotate90d
from scripts.coordinates import to_xyz_angstrom
from scripts.errors import InputError, InputWarning
from scripts.picking.image_picks import true_picks
from scripts.picks import Pick, write_copick_json, write_csv
from scripts.preparation.truth import LoadTruthd
from scripts.preparation.voxel_size import CheckVoxelSized
from scripts.training.windows import PaintTargetsd, RandWindowd
from scripts.volumes.labels import draw_spheres
from synthetic import SHAPE, image_of, make_particles, noise, write_mrc

VOXEL_SIZE = 10.0
POINTS = np.array([[6, 9, 11], [13, 20, 30]])


@pytest.fixture
def particles():
    return make_particles(2)


def save_truth(path, run="run"):
    rows = [("a", POINTS[0]), ("b", POINTS[1])]
    write_csv(path, [Pick(run, name, *map(float, to_xyz_angstrom([point], VOXEL_SIZE)[0])) for name, point in rows])


def test_truth_in_a_table_becomes_labelled_voxels(particles, tmp_path):
    save_truth(tmp_path / "truth.csv")
    sample = {"image": image_of(noise()), "label": str(tmp_path / "truth.csv"), "run": "run"}
    rows = LoadTruthd("label", particles)(sample)["label"]
    assert rows.tolist() == [[1, 6, 9, 11], [2, 13, 20, 30]]


def test_truth_of_a_resampled_tomogram_lies_on_the_new_grid(particles, tmp_path):
    xyz = to_xyz_angstrom([[24, 36, 44]], 5.0, voxel_offset=0.5)[0]
    write_csv(tmp_path / "truth.csv", [Pick("run", "a", *map(float, xyz))])
    fine = image_of(noise(shape=(40, 56, 72)), 5.0)
    image = CheckVoxelSized("image", VOXEL_SIZE, resample=True)({"image": fine})["image"]
    sample = {"image": image, "label": str(tmp_path / "truth.csv"), "run": "run"}
    rows = LoadTruthd("label", particles, voxel_offset=0.5)(sample)["label"]
    assert np.allclose(rows, [[1, 12, 18, 22]], atol=1e-3)
    (pick,) = true_picks(rows, particles, "run", image, voxel_offset=0.5)
    assert np.allclose(pick.xyz_angstrom, xyz, atol=0.01)


def test_truth_in_copick_files_becomes_labelled_voxels(particles, tmp_path):
    for name, point in zip("ab", POINTS, strict=True):
        pick = Pick("run", name, *map(float, to_xyz_angstrom([point], VOXEL_SIZE)[0]))
        write_copick_json(
            tmp_path / f"x_0_{name}.json", [pick], run="run", particle=name, voxel_size_angstrom=VOXEL_SIZE,
            user_id="x", session_id="0",
        )  # fmt: skip
    sample = {"image": image_of(noise()), "label": str(tmp_path), "run": "run"}
    assert LoadTruthd("label", particles)(sample)["label"].tolist() == [[1, 6, 9, 11], [2, 13, 20, 30]]


def test_truth_in_a_star_file_becomes_labelled_voxels_where_there_is_one_species(particles, tmp_path):
    path, one = tmp_path / "truth.star", make_particles(1)
    picks = [Pick(run, "a", *map(float, to_xyz_angstrom([point], VOXEL_SIZE)[0])) for run in "rs" for point in POINTS]
    with open(path, "w") as file:
        file.write("data_particles\n\nloop_\n_rlnCenteredCoordinateXAngst #1\n_rlnCenteredCoordinateYAngst #2\n")
        file.write("_rlnCenteredCoordinateZAngst #3\n_rlnTomoName #4\n")
        for pick in picks:
            z, y, x = np.array(SHAPE) * VOXEL_SIZE / 2
            file.write(f"{pick.x_angstrom - x} {pick.y_angstrom - y} {pick.z_angstrom - z} {pick.run}\n")
    sample = {"image": image_of(noise()), "label": str(path), "run": "s"}
    assert LoadTruthd("label", one)(sample)["label"].tolist() == [[1, 6, 9, 11], [1, 13, 20, 30]]
    with pytest.raises(InputError, match=r"truth.star has no particle of 'other'; its tomograms are called r, s"):
        LoadTruthd("label", one)({**sample, "run": "other"})
    with pytest.raises(InputError, match=r"truth.star does not tell species apart, and there are 2: a, b"):
        LoadTruthd("label", particles)(sample)


def test_truth_of_one_session_is_read_by_the_names_of_its_files(particles, tmp_path):
    for session, point in zip("01", POINTS, strict=True):
        pick = Pick("run", "a", *map(float, to_xyz_angstrom([point], VOXEL_SIZE)[0]))
        write_copick_json(
            tmp_path / f"x_{session}_a.json", [pick], run="run", particle="a", voxel_size_angstrom=VOXEL_SIZE,
            user_id="x", session_id=session,
        )  # fmt: skip
    sample = {"image": image_of(noise()), "label": str(tmp_path / "x_1_*.json"), "run": "run"}
    assert LoadTruthd("label", particles)(sample)["label"].tolist() == [[1, 13, 20, 30]]
    with pytest.raises(InputError, match="both hold 'a'; keep one of them in the folder, or name the truth by truth_"):
        LoadTruthd("label", particles)({**sample, "label": str(tmp_path)})


def test_truth_in_a_label_volume_becomes_points_and_stays_a_volume(particles, tmp_path):
    labels = draw_spheres(SHAPE, POINTS[:1], 3) + draw_spheres(SHAPE, POINTS[1:], 3, value=2)
    path = write_mrc(tmp_path / "labels.mrc", labels)
    sample = LoadTruthd("label", particles)({"image": image_of(noise()), "label": str(path)})
    assert sample["label"].tolist() == [[1, 6, 9, 11], [2, 13, 20, 30]]
    assert np.array_equal(sample["label_volume"][0], labels)
    sample["image"] = sample["image"].as_tensor()
    target = PaintTargetsd("label", particles)(sample)["label"]
    assert np.array_equal(target[0], labels == 1)
    assert np.array_equal(target[1], labels == 2)


def test_a_label_volume_of_another_shape_is_refused(particles, tmp_path):
    path = write_mrc(tmp_path / "labels.mrc", np.zeros((20, 28, 35)))
    with pytest.raises(InputError, match=r"labels.mrc: the label volume has shape \(20, 28, 35\), its tomogram \(2"):
        LoadTruthd("label", particles)({"image": image_of(noise()), "label": str(path)})


def test_a_label_volume_of_fractions_is_refused(particles, tmp_path):
    path = write_mrc(tmp_path / "labels.mrc", np.full(SHAPE, 0.5))
    with pytest.raises(InputError, match="is no label volume"):
        LoadTruthd("label", particles)({"image": image_of(noise()), "label": str(path)})


def test_a_run_without_particles_has_an_empty_truth(particles, tmp_path):
    save_truth(tmp_path / "truth.csv", run="another")
    sample = {"image": image_of(noise()), "label": str(tmp_path / "truth.csv"), "run": "run"}
    assert LoadTruthd("label", particles)(sample)["label"].shape == (0, 4)


def test_points_that_crowd_in_the_first_corner_are_suspicious(particles, tmp_path):
    write_csv(tmp_path / "truth.csv", [Pick("run", "a", 5.0 + n, 12.0 + n, 6.0 + n) for n in range(5)])
    sample = {"image": image_of(noise()), "label": str(tmp_path / "truth.csv"), "run": "run"}
    with pytest.warns(InputWarning, match=r"all points lie in the first 20% of every axis; are they voxels, not Å"):
        LoadTruthd("label", particles)(sample)


def test_an_unknown_species_in_the_truth_is_named(particles, tmp_path):
    write_csv(tmp_path / "truth.csv", [Pick("run", "proteasome", 10, 20, 30)])
    sample = {"image": image_of(noise()), "label": str(tmp_path / "truth.csv"), "run": "run"}
    with pytest.raises(InputError, match=r"truth.csv.*proteasome"):
        LoadTruthd("label", particles)(sample)


def test_truth_in_voxels_is_recognised(particles, tmp_path):
    inside, *outside = (Pick("run", "a", x, 100, 50) for x in (100.0, 4000.0, 4100.0))
    write_csv(tmp_path / "truth.csv", [inside, *outside])
    sample = {"image": image_of(noise()), "label": str(tmp_path / "truth.csv"), "run": "run"}
    with pytest.raises(InputError, match=r"run 'run': 67% of the points lie outside the tomogram; are they voxels"):
        LoadTruthd("label", particles)(sample)


def window_sample(points=((1, 6, 9, 11), (2, 13, 20, 30))):
    return {"image": image_of(noise()).as_tensor(), "label": torch.tensor(points, dtype=torch.float32).reshape(-1, 4)}


def test_a_window_holds_the_same_voxels_and_points_as_the_tomogram(particles):
    cut = RandWindowd(particles, (8, 12, 12)).set_random_state(seed=3)
    for _ in range(20):
        sample = window_sample()
        window = cut(sample)
        start = (sample["label"] - window["label"])[0, 1:].int().tolist()
        box = tuple(slice(first, first + size) for first, size in zip(start, (8, 12, 12), strict=True))
        assert torch.equal(window["image"], sample["image"][(slice(None), *box)])


def test_a_window_around_a_particle_holds_one(particles):
    cut = RandWindowd(particles, (8, 12, 12), particle_share=1.0).set_random_state(seed=0)
    for _ in range(50):
        rows = cut(window_sample())["label"][:, 1:]
        assert ((rows >= 0) & (rows < torch.tensor([8, 12, 12]))).all(dim=1).any()


def test_windows_anywhere_reach_every_corner(particles):
    cut = RandWindowd(particles, (10, 18, 18), particle_share=0.0).set_random_state(seed=0)
    sample = window_sample()
    starts = {tuple((sample["label"] - cut(sample)["label"])[0, 1:].int().tolist()) for _ in range(3000)}
    assert {axis[0] for axis in starts} == set(range(11))
    assert {axis[1] for axis in starts} == set(range(11))
    assert {axis[2] for axis in starts} == set(range(19))


def test_a_species_with_twice_the_weight_is_drawn_twice_as_often():
    two = make_particles(2)
    known = (two.known[0], dataclasses.replace(two.known[1], weight=2.0))
    cut = RandWindowd(dataclasses.replace(two, known=known), (2, 2, 2), particle_share=1.0).set_random_state(seed=0)
    drawn = [cut(window_sample(((1, 3, 3, 3), (2, 15, 20, 30))))["label"] for _ in range(900)]
    second = sum(bool((rows[1, 1:].abs() < 4).all()) for rows in drawn)
    assert 540 < second < 660


def test_windows_of_one_seed_are_the_same(particles):
    one, two = (RandWindowd(particles, (8, 8, 8)).set_random_state(seed=5)(window_sample()) for _ in range(2))
    assert torch.equal(one["image"], two["image"])


def test_a_tomogram_without_particles_gives_windows(particles):
    window = RandWindowd(particles, (8, 8, 8), particle_share=1.0).set_random_state(seed=0)(window_sample(()))
    assert window["image"].shape == (1, 8, 8, 8)
    assert PaintTargetsd("label", particles)(window)["label"].sum() == 0


def test_a_window_that_cannot_be_turned_is_refused(particles):
    with pytest.raises(ValueError, match="window_size needs y equal to x"):
        RandWindowd(particles, (8, 8, 12))


def test_a_small_tomogram_is_padded_at_the_far_end(particles):
    sample = window_sample()
    window = RandWindowd(particles, (24, 40, 40)).set_random_state(seed=0)(sample)
    assert torch.equal(window["image"][:, :20, :28, :36], sample["image"])
    assert window["image"][:, 20:].abs().sum() == 0
    assert torch.equal(window["label"], sample["label"])


def test_targets_are_painted_per_window_as_in_the_whole_volume(particles):
    cut = RandWindowd(particles, (12, 16, 16)).set_random_state(seed=1)
    whole = PaintTargetsd("label", particles)(window_sample())["label"]
    for _ in range(10):
        window = cut(window_sample())
        start = (window_sample()["label"] - window["label"])[0, 1:].int().tolist()
        box = tuple(slice(first, first + size) for first, size in zip(start, (12, 16, 16), strict=True))
        assert torch.equal(PaintTargetsd("label", particles)(window)["label"], whole[(slice(None), *box)])


def test_flips_and_turns_move_image_and_target_together(particles):
    sample = {"image": torch.as_tensor(draw_spheres((12, 16, 16), [[3, 4, 6]], 3).astype(np.float32))[None]}
    sample["label"] = torch.tensor([[1.0, 3, 4, 6]])
    painted = PaintTargetsd("label", particles)(sample)
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
def test_a_bad_window_size_is_refused(size, particles):
    with pytest.raises(ValueError, match="window_size needs three positive numbers"):
        RandWindowd(particles, size)
