import nibabel
import numpy as np
import pytest
from scripts.coordinates import to_xyz_angstrom
from scripts.errors import InputError, InputWarning
from scripts.picking.image_picks import true_picks
from scripts.picks import Pick, write_copick_json, write_csv
from scripts.preparation.image_facts import facts_of_image
from scripts.preparation.padding import CropPaddingd
from scripts.preparation.truth import LoadTruthd
from scripts.preparation.voxel_size import CheckVoxelSized
from scripts.training.spheres import Spheres
from scripts.training.windows import PaintTargetsd
from scripts.volumes.labels import draw_spheres
from synthetic import POINTS, SHAPE, image_of, make_species, noise, write_mrc
from volume_files import multiscales, write_array, write_group, write_ome_zarr

VOXEL_SIZE = 10.0


def save_truth(path, run="run"):
    rows = [("a", POINTS[0]), ("b", POINTS[1])]
    write_csv(path, [Pick(run, name, *map(float, to_xyz_angstrom([point], VOXEL_SIZE)[0])) for name, point in rows])


def test_truth_in_a_table_becomes_labelled_voxels(species_set, tmp_path):
    save_truth(tmp_path / "truth.csv")
    sample = {"image": image_of(noise()), "label": str(tmp_path / "truth.csv"), "run": "run"}
    rows = LoadTruthd("label", species_set)(sample)["label"]
    assert rows.tolist() == [[1, 6, 9, 11], [2, 13, 20, 30]]


def test_truth_of_a_resampled_tomogram_lies_on_the_new_grid(species_set, tmp_path):
    xyz = to_xyz_angstrom([[24, 36, 44]], 5.0, voxel_offset=0.5)[0]
    write_csv(tmp_path / "truth.csv", [Pick("run", "a", *map(float, xyz))])
    fine = image_of(noise(shape=(40, 56, 72)), 5.0)
    image = CheckVoxelSized("image", VOXEL_SIZE, resample=True)({"image": fine})["image"]
    sample = {"image": image, "label": str(tmp_path / "truth.csv"), "run": "run"}
    rows = LoadTruthd("label", species_set, voxel_offset=0.5)(sample)["label"]
    assert np.allclose(rows, [[1, 12, 18, 22]], atol=1e-3)
    (pick,) = true_picks(rows, species_set, facts_of_image(image, "run"), voxel_offset=0.5)
    assert np.allclose(pick.xyz_angstrom, xyz, atol=0.01)


def test_the_truth_of_a_padded_tomogram_lies_on_its_image(species_set, tmp_path):
    start = np.array([3, 0, 1])
    image = CropPaddingd("image")({"image": image_of(np.pad(noise(), [(3, 0), (0, 5), (1, 2)]))})["image"]
    places = [*(POINTS + start), [1, 2, 37]]  # the last in the padding
    xyz = to_xyz_angstrom(places, VOXEL_SIZE).tolist()
    write_csv(tmp_path / "truth.csv", [Pick("run", name, *place) for name, place in zip("aba", xyz, strict=True)])
    labels = draw_spheres((23, 33, 39), POINTS[:1] + start, 3)
    write_mrc(tmp_path / "labels.mrc", labels)
    in_table, in_volume = (
        LoadTruthd("label", species_set)({"image": image, "label": str(tmp_path / name), "run": "run"})
        for name in ("truth.csv", "labels.mrc")
    )
    assert in_table["label"].tolist() == [[1, 6, 9, 11], [2, 13, 20, 30], [1, -2, 2, 36]]
    assert in_volume["label"].tolist() == [[1, 6, 9, 11]]
    assert np.array_equal(in_volume["label_volume"][0], draw_spheres(SHAPE, POINTS[:1], 3))
    found = true_picks(in_table["label"], species_set, facts_of_image(image, "run"))
    assert [pick.zyx_voxel for pick in found] == [(9, 9, 12), (1, 2, 37), (16, 20, 31)]


def test_truth_in_copick_files_becomes_labelled_voxels(species_set, tmp_path):
    for name, point in zip("ab", POINTS, strict=True):
        pick = Pick("run", name, *map(float, to_xyz_angstrom([point], VOXEL_SIZE)[0]))
        write_copick_json(
            tmp_path / f"x_0_{name}.json", [pick], run="run", species=name, voxel_size_angstrom=VOXEL_SIZE,
            user_id="x", session_id="0",
        )  # fmt: skip
    sample = {"image": image_of(noise()), "label": str(tmp_path), "run": "run"}
    assert LoadTruthd("label", species_set)(sample)["label"].tolist() == [[1, 6, 9, 11], [2, 13, 20, 30]]


def test_truth_in_a_star_file_becomes_labelled_voxels_where_there_is_one_species(species_set, tmp_path):
    path, one = tmp_path / "truth.star", make_species(1)
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
        LoadTruthd("label", species_set)(sample)


def test_truth_of_one_session_is_read_by_the_names_of_its_files(species_set, tmp_path):
    for session, point in zip("01", POINTS, strict=True):
        pick = Pick("run", "a", *map(float, to_xyz_angstrom([point], VOXEL_SIZE)[0]))
        write_copick_json(
            tmp_path / f"x_{session}_a.json", [pick], run="run", species="a", voxel_size_angstrom=VOXEL_SIZE,
            user_id="x", session_id=session,
        )  # fmt: skip
    sample = {"image": image_of(noise()), "label": str(tmp_path / "x_1_*.json"), "run": "run"}
    assert LoadTruthd("label", species_set)(sample)["label"].tolist() == [[1, 13, 20, 30]]
    with pytest.raises(InputError, match="both hold 'a'; keep one of them in the folder, or name the truth by truth_"):
        LoadTruthd("label", species_set)({**sample, "label": str(tmp_path)})


def test_truth_in_a_label_volume_becomes_points_and_stays_a_volume(species_set, tmp_path):
    labels = draw_spheres(SHAPE, POINTS[:1], 3) + draw_spheres(SHAPE, POINTS[1:], 3, value=2)
    path = write_mrc(tmp_path / "labels.mrc", labels)
    sample = LoadTruthd("label", species_set)({"image": image_of(noise()), "label": str(path)})
    assert sample["label"].tolist() == [[1, 6, 9, 11], [2, 13, 20, 30]]
    assert np.array_equal(sample["label_volume"][0], labels)
    sample["image"] = sample["image"].as_tensor()
    target = PaintTargetsd("label", species_set, Spheres())(sample)["label"]
    assert np.array_equal(target[0], labels == 1)
    assert np.array_equal(target[1], labels == 2)


def test_a_missing_chunk_of_a_label_volume_is_refused_unless_allowed(species_set, tmp_path):
    labels = draw_spheres(SHAPE, POINTS[:1], 3)
    path = write_ome_zarr(tmp_path, labels, name="labels.zarr", chunks=(*SHAPE[:1], 28, 18), scales=(10.0,))
    (path / "0" / "0" / "0" / "1").unlink()
    sample = {"image": image_of(noise()), "label": str(path)}
    with pytest.raises(InputError, match=r"labels\.zarr/0: the chunk file 0/0/1 is missing\. .*allow_missing_chunks"):
        LoadTruthd("label", species_set)(sample)
    allowing = LoadTruthd("label", species_set, allow_missing_chunks=True)
    assert allowing(sample)["label"].tolist() == [[1, 6, 9, 11]]
    assert allowing.record() != LoadTruthd("label", species_set).record()


@pytest.mark.parametrize("resample", [False, True])
def test_of_a_pyramid_of_labels_the_level_of_the_tomograms_voxel_size_is_read(resample, species_set, tmp_path):
    labels = draw_spheres(SHAPE, POINTS[:1], 3)
    path = write_group(tmp_path / "labels.zarr", multiscales((5.0, 10.0)))
    write_array(path / "0", labels.repeat(2, 0).repeat(2, 1).repeat(2, 2))
    write_array(path / "1", labels)
    image = image_of(noise())
    if resample:
        fine = image_of(noise(shape=[2 * side for side in SHAPE]), 5.0)
        image = CheckVoxelSized("image", VOXEL_SIZE, resample=True)({"image": fine})["image"]
    sample = LoadTruthd("label", species_set)({"image": image, "label": str(path)})
    assert np.array_equal(sample["label_volume"][0], labels)
    assert sample["label"].tolist() == [[1, 6, 9, 11]]


def test_labels_on_the_grid_of_a_resampled_tomogram_lie_on_its_image(species_set, tmp_path):
    coarse = draw_spheres(SHAPE, POINTS[:1], 3)
    labels = coarse.repeat(2, 0).repeat(2, 1).repeat(2, 2)
    path = write_mrc(tmp_path / "labels.mrc", labels, 5.0)
    fine = image_of(noise(shape=labels.shape), 5.0)
    image = CheckVoxelSized("image", VOXEL_SIZE, resample=True)({"image": fine})["image"]
    sample = LoadTruthd("label", species_set)({"image": image, "label": str(path)})
    assert sample["label"].tolist() == [[1, 6, 9, 11]]
    assert np.array_equal(sample["label_volume"][0], coarse)


def test_a_label_volume_of_another_shape_is_refused(species_set, tmp_path):
    path = write_mrc(tmp_path / "labels.mrc", np.zeros((20, 28, 35)))
    fine = image_of(noise(shape=[2 * side for side in SHAPE]), 5.0)
    image = CheckVoxelSized("image", VOXEL_SIZE, resample=True)({"image": fine})["image"]
    with pytest.raises(
        InputError, match=r"shape \(20, 28, 35\), its tomogram \(40, 56, 72\), resampled \(20, 28, 36\)"
    ):
        LoadTruthd("label", species_set)({"image": image, "label": str(path)})
    with pytest.raises(InputError, match=r"labels.mrc: the label volume has shape \(20, 28, 35\), its tomogram \(2"):
        LoadTruthd("label", species_set)({"image": image_of(noise()), "label": str(path)})


def test_a_label_volume_that_runs_the_other_way_in_its_affine_is_refused(species_set, tmp_path):
    labels = draw_spheres(SHAPE, POINTS[:1], 3)
    nibabel.save(nibabel.Nifti1Image(labels.T, np.diag([-10.0, -10, 10, 1])), tmp_path / "labels.nii")
    sample = {"image": image_of(noise()), "label": str(tmp_path / "labels.nii")}
    with (
        pytest.warns(InputWarning, match="runs x and y backwards, as ITK"),
        pytest.raises(InputError, match=r"labels.nii: in its affine x and y run the other way than in the tomogram"),
    ):
        LoadTruthd("label", species_set)(sample)
    sample["image"].meta["original_affine"] = np.diag([-1, -1, 1, 1]) @ sample["image"].meta["original_affine"]
    with pytest.warns(InputWarning, match="runs x and y backwards, as ITK"):
        assert LoadTruthd("label", species_set)(sample)["label"].tolist() == [[1, 6, 9, 11]]


def test_a_label_volume_of_fractions_is_refused(species_set, tmp_path):
    path = write_mrc(tmp_path / "labels.mrc", np.full(SHAPE, 0.5))
    with pytest.raises(InputError, match="is no label volume"):
        LoadTruthd("label", species_set)({"image": image_of(noise()), "label": str(path)})


def test_a_run_without_particles_has_an_empty_truth(species_set, tmp_path):
    save_truth(tmp_path / "truth.csv", run="another")
    sample = {"image": image_of(noise()), "label": str(tmp_path / "truth.csv"), "run": "run"}
    assert LoadTruthd("label", species_set)(sample)["label"].shape == (0, 4)


def test_truth_in_voxels_is_refused_by_the_points_of_all_runs(species_set, tmp_path):
    rows = [Pick("run", "a", 30.0, 20.0, 9.0), Pick("s", "b", 11.0, 9.0, 6.0), Pick("t", "a", 5.0, 24.0, 17.0)]
    write_csv(tmp_path / "truth.csv", rows)
    sample = {"image": image_of(noise()), "label": str(tmp_path / "truth.csv"), "run": "run"}
    with pytest.raises(InputError, match=r"truth.csv: 3 of 3 points lie close .*; are they voxels or nm, not Å\?"):
        LoadTruthd("label", species_set)(sample)


def test_truth_in_one_corner_alone_is_taken_where_that_is_allowed(species_set, tmp_path):
    write_csv(tmp_path / "truth.csv", [Pick("run", "a", 30.0, 20.0, 9.0), Pick("run", "a", 11.0, 9.0, 6.0)])
    sample = {"image": image_of(noise()), "label": str(tmp_path / "truth.csv"), "run": "run"}
    with pytest.raises(InputError, match=r"If they are Å, give --allow_truth_near_origin True\.$"):
        LoadTruthd("label", species_set)(sample)
    with pytest.warns(InputWarning, match="2 of 2 points lie close"):
        truth = LoadTruthd("label", species_set, allow_truth_near_origin=True)(sample)
    assert truth["label"].numpy() == pytest.approx(np.array([[1, 0.9, 2, 3], [1, 0.6, 0.9, 1.1]]))


def test_truth_with_exchanged_axes_is_refused(species_set, tmp_path):
    rows = [(60, 100, 330), (90, 240, 250), (120, 150, 80)]  # z, y, x in ångströms, in the columns x, y, z
    write_csv(tmp_path / "truth.csv", [Pick("run", "a", *map(float, row)) for row in rows])
    sample = {"image": image_of(noise()), "label": str(tmp_path / "truth.csv"), "run": "run"}
    with pytest.raises(InputError, match=r"run 'run': 67% of the points lie outside .* if x and z are exchanged"):
        LoadTruthd("label", species_set)(sample)


def test_a_particle_in_copick_is_where_its_angstroms_say_whatever_voxels_it_was_annotated_in(species_set, tmp_path):
    pick = Pick("run", "a", *map(float, to_xyz_angstrom([POINTS[0]], VOXEL_SIZE)[0]))
    write_copick_json(
        tmp_path / "x_0_a.json", [pick], run="run", species="a", voxel_size_angstrom=4.99, user_id="x", session_id="0",
    )  # fmt: skip
    sample = {"image": image_of(noise()), "label": str(tmp_path), "run": "run"}
    assert LoadTruthd("label", species_set)(sample)["label"].tolist() == [[1, 6, 9, 11]]


def test_an_unknown_species_in_the_truth_is_named(species_set, tmp_path):
    write_csv(tmp_path / "truth.csv", [Pick("run", "proteasome", 10, 20, 30)])
    sample = {"image": image_of(noise()), "label": str(tmp_path / "truth.csv"), "run": "run"}
    with pytest.raises(InputError, match=r"truth.csv.*proteasome"):
        LoadTruthd("label", species_set)(sample)


def test_truth_of_another_tomogram_is_refused(species_set, tmp_path):
    inside, *outside = (Pick("run", "a", x, 100, 50) for x in (100.0, 4000.0, 4100.0))
    write_csv(tmp_path / "truth.csv", [inside, *outside])
    sample = {"image": image_of(noise()), "label": str(tmp_path / "truth.csv"), "run": "run"}
    with pytest.raises(InputError, match=r"run 'run': 67% of the points lie outside the tomogram; do they bel"):
        LoadTruthd("label", species_set)(sample)
