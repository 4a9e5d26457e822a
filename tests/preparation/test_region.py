import nibabel
import numpy as np
import pytest
import torch
from scripts.errors import InputError, InputWarning
from scripts.preparation.annotation import Annotation
from scripts.preparation.batch import prepare_batch
from scripts.preparation.contrast import block_means
from scripts.preparation.padding import CropPaddingd
from scripts.preparation.region import LimitRegiond, fit_slab, is_inside, sample_mask
from scripts.preparation.voxel_size import CheckVoxelSized
from scripts.volumes import ome_zarr_writer
from synthetic import BOX, box_mask, image_of, noise, write_mrc
from volume_files import write_ome_zarr


def region_of(image, run="run", **settings):
    return LimitRegiond("image", **settings)({"image": image, "run": run})["region"][0].numpy()


# Masks


def test_without_a_mask_and_a_slab_the_sample_stays_as_it_is():
    sample = {"image": image_of(noise()), "run": "run"}
    assert LimitRegiond("image")(sample) == sample


def test_a_mask_of_the_same_grid_is_the_region(tmp_path):
    write_mrc(tmp_path / "TS_1.mrc", 7 * box_mask())
    found = region_of(image_of(noise()), run="TS_1", mask_path=str(tmp_path / "{run}.mrc"))
    assert np.array_equal(found, box_mask())


def test_a_mask_of_the_same_shape_needs_no_voxel_size_and_no_right_one(tmp_path):
    write_mrc(tmp_path / "none.mrc", box_mask(), voxel_size_angstrom=0)
    write_mrc(tmp_path / "one.mrc", box_mask(), voxel_size_angstrom=1)
    for name in ("none", "one"):
        assert np.array_equal(region_of(image_of(noise()), mask_path=str(tmp_path / f"{name}.mrc")), box_mask())


def test_a_segmentation_of_a_project_is_a_mask_too(tmp_path):
    path = tmp_path / "10.000_user_1_membrane.zarr"
    ome_zarr_writer.write_ome_zarr(path, 3 * box_mask(), 10.0, levels=2)
    assert np.array_equal(region_of(image_of(noise()), mask_path=str(path)), box_mask())


def test_a_binned_mask_covers_what_it_was_binned_from(tmp_path):
    box = (slice(4, 12), slice(10, 20), slice(6, 30))
    write_mrc(tmp_path / "bin2.mrc", block_means(box_mask(box), 2), voxel_size_angstrom=20)
    assert np.array_equal(region_of(image_of(noise()), mask_path=str(tmp_path / "bin2.mrc")), box_mask(box))


def test_a_voxel_takes_the_mask_at_its_middle():
    mask = np.array([0, 0, 1, 0, 0, 1]).reshape(6, 1, 1)
    # middles of three voxels of 15 Å: 7.5, 22.5 and 37.5 Å, in the mask's voxels 0, 2 and 3 of 10 Å
    assert sample_mask(mask, 10.0, (3, 1, 1), 15.0)[:, 0, 0].tolist() == [False, True, False]


def test_a_mask_follows_a_resampled_tomogram(tmp_path):
    write_mrc(tmp_path / "mask.mrc", box_mask())
    image = CheckVoxelSized("image", 5.0, resample=True)({"image": image_of(noise(), 10.0)})["image"]
    found = region_of(image, mask_path=str(tmp_path / "mask.mrc"))
    assert found.shape == tuple(image.shape[1:])
    assert np.array_equal(found, sample_mask(box_mask(), 10.0, image.shape[1:], 5.0, [2.5] * 3))
    assert np.array_equal(np.argwhere(found).min(axis=0), [7, 19, 11])  # 3.5, 9.5, 5.5 of the mask: its faces there
    assert np.array_equal(np.argwhere(found).max(axis=0), [20, 38, 58])


def test_a_mask_of_the_tomograms_own_grid_keeps_its_place_on_a_coarser_one(tmp_path):
    fine = np.zeros((32, 48, 64), dtype=np.uint8)
    fine[::4, ::4, ::4] = 1  # the voxels whose centres the coarse ones keep
    write_mrc(tmp_path / "mask.mrc", fine, voxel_size_angstrom=2.5)
    image = CheckVoxelSized("image", 10.0, resample=True)({"image": image_of(noise(shape=fine.shape), 2.5)})["image"]
    assert region_of(image, mask_path=str(tmp_path / "mask.mrc")).all()


def test_a_mask_of_another_shape_needs_its_voxel_size(tmp_path):
    write_mrc(tmp_path / "none.mrc", box_mask()[::2, ::2, ::2], voxel_size_angstrom=0)
    with pytest.raises(
        InputError, match=r"none\.mrc: the mask has .* no usable voxel size\. Save it with its voxel size"
    ):
        region_of(image_of(noise()), mask_path=str(tmp_path / "none.mrc"))


def test_a_mask_and_a_slab_lie_on_the_image_of_a_padded_tomogram(tmp_path):
    whole = np.pad(noise(), [(3, 0), (0, 5), (1, 2)])
    image = CropPaddingd("image")({"image": image_of(whole)})["image"]
    write_mrc(tmp_path / "mask.mrc", np.pad(box_mask(), [(3, 0), (0, 5), (1, 2)]))
    binned = np.pad(block_means(np.ones((20, 28, 36)), 2), [(2, 0), (0, 3), (0, 2)])  # from voxel 4 of the tomogram
    write_mrc(tmp_path / "bin2.mrc", binned, voxel_size_angstrom=20)
    assert np.array_equal(region_of(image, mask_path=str(tmp_path / "mask.mrc")), box_mask())
    found = region_of(image, mask_path=str(tmp_path / "bin2.mrc"), slab_z_angstrom=[0, 100])
    assert np.flatnonzero(found[:, 0, 0]).tolist() == [1, 2, 3, 4, 5, 6, 7]


def test_a_mask_of_another_box_is_refused(tmp_path):
    write_mrc(tmp_path / "mask.mrc", box_mask(shape=(20, 28, 30)))
    with pytest.raises(InputError, match=r"mask.mrc: the mask covers 200 x 280 x 300 Å \(z, y, x\), its tomogram 200"):
        region_of(image_of(noise()), mask_path=str(tmp_path / "mask.mrc"))


def nifti_mask(path, values, rows):
    """Write a mask whose array axes have these directions (x, y, z) in its affine, and return the path."""
    affine = np.eye(4)
    affine[:3, :3] = 10.0 * np.transpose(rows)
    nibabel.save(nibabel.Nifti1Image(values, affine), path)
    return str(path)


def test_a_nifti_mask_lies_where_its_affine_puts_it(tmp_path):
    swapped = nifti_mask(tmp_path / "yxz.nii", box_mask().transpose(1, 2, 0), [(0, 1, 0), (1, 0, 0), (0, 0, 1)])
    assert np.array_equal(region_of(image_of(noise()), mask_path=swapped), box_mask())
    cube = noise(shape=(24, 24, 24))
    half = box_mask((slice(0, 24), slice(0, 24), slice(0, 12)), cube.shape)
    swapped = nifti_mask(tmp_path / "cube.nii", half.transpose(1, 2, 0), [(0, 1, 0), (1, 0, 0), (0, 0, 1)])
    assert np.array_equal(region_of(image_of(cube), mask_path=swapped), half)


def test_a_folder_of_masks_is_refused_with_what_to_name(tmp_path):
    with pytest.raises(
        InputError, match=r"the mask is a folder\. Give the path of a file; \{run\} in it is the run's name\."
    ):
        region_of(image_of(noise()), mask_path=str(tmp_path))


def test_a_nifti_mask_that_runs_backwards_is_refused(tmp_path):
    mirrored = nifti_mask(tmp_path / "left.nii", box_mask().T[::-1], [(-1, 0, 0), (0, 1, 0), (0, 0, 1)])
    with pytest.raises(InputError, match=r"left\.nii: its affine runs x backwards"):
        region_of(image_of(noise()), mask_path=mirrored)


def test_a_nifti_mask_with_the_directions_of_its_tomogram_lies_on_it_and_with_others_is_refused(tmp_path):
    image, itk = image_of(noise()), [(-1, 0, 0), (0, -1, 0), (0, 0, 1)]
    path = nifti_mask(tmp_path / "itk.nii", box_mask().T, itk)
    with pytest.raises(InputError, match=r"itk\.nii: in its affine x and y run the other way .*tomogram\.mrc\. Save"):
        region_of(image, mask_path=path)
    image.meta["original_affine"] = np.diag([-1, -1, 1, 1]) @ image.meta["original_affine"]
    assert np.array_equal(region_of(image, mask_path=path), box_mask())


def test_a_missing_chunk_of_a_mask_is_refused_unless_allowed(tmp_path):
    path = write_ome_zarr(tmp_path, 7 * box_mask(), name="mask.zarr", chunks=(10, 14, 18), scales=(10.0,))
    (path / "0" / "0" / "0" / "0").unlink()
    with pytest.raises(InputError, match=r"mask\.zarr/0: the chunk file 0/0/0 is missing\. .*allow_missing_chunks"):
        region_of(image_of(noise()), mask_path=str(path))
    found = region_of(image_of(noise()), mask_path=str(path), allow_missing_chunks=True)
    assert not found[:10, :14, :18].any()
    assert np.array_equal(found[10:], box_mask()[10:])


def test_a_missing_mask_is_named(tmp_path):
    with pytest.raises(InputError, match=r"cannot read .*TS_2.mrc: no such file"):
        region_of(image_of(noise()), run="TS_2", mask_path=str(tmp_path / "{run}.mrc"))


def test_an_empty_mask_is_named_in_a_warning(tmp_path):
    write_mrc(tmp_path / "mask.mrc", 0 * box_mask())
    with pytest.warns(InputWarning, match=r"tomogram.mrc: the region to pick in is empty: nothing is picked"):
        assert not region_of(image_of(noise()), mask_path=str(tmp_path / "mask.mrc")).any()


def test_true_particles_outside_the_region_are_left_out(tmp_path):
    write_mrc(tmp_path / "mask.mrc", box_mask())
    rows = torch.tensor([[1.0, 5, 12, 8], [2, 5, 12, 3], [1, 10.4, 19.4, 29.4], [1, 10.6, 19, 29]])
    sample = LimitRegiond("image", str(tmp_path / "mask.mrc"))({"image": image_of(noise()), "label": rows})
    assert sample["label"].tolist() == rows[[0, 2]].tolist()


def test_a_pick_of_a_particle_just_outside_the_region_is_neither_right_nor_wrong(tmp_path):
    write_mrc(tmp_path / "mask.mrc", box_mask())
    perhaps = torch.tensor([[2.0, 5, 12, 8, torch.nan]])
    sample = {"image": image_of(noise()), "label": torch.tensor([[1.0, 5, 12, 3]]), "doubtful": perhaps}
    known = Annotation.of(LimitRegiond("image", str(tmp_path / "mask.mrc"))(sample))
    nothing = np.zeros((0, 3))
    beside, away = np.array([[5.0, 12, 6]]), np.array([[5.0, 12, 20]])
    assert known.is_told(1, beside, nothing, 3.0).tolist() == [False]
    assert known.is_told(1, away, nothing, 3.0).tolist() == [True]
    assert known.is_told(2, np.array([[5.0, 12, 8]]), nothing, 3.0).tolist() == [False]  # as before


def test_a_point_is_inside_with_the_voxel_that_holds_it():
    points = [[4, 10, 6], [3.4, 10, 6], [3.6, 10, 6], [-1, 10, 6], [4, 10, 40]]
    assert is_inside(box_mask(), points).tolist() == [True, False, True, False, False]
    assert is_inside(box_mask(), []).tolist() == []


# Slabs


def test_a_slab_is_given_in_the_tomograms_coordinates():
    found = region_of(image_of(noise(), 10.0), slab_z_angstrom=[30, 120])
    assert np.flatnonzero(found[:, 5, 5]).tolist() == list(range(3, 13))
    shifted = region_of(image_of(noise(), 10.0), slab_z_angstrom=[35, 125], voxel_offset=0.5)
    assert np.array_equal(found, shifted)


def test_a_slab_and_a_mask_are_both_heeded(tmp_path):
    write_mrc(tmp_path / "mask.mrc", box_mask())
    found = region_of(image_of(noise()), mask_path=str(tmp_path / "mask.mrc"), slab_z_angstrom=[0, 60])
    assert np.array_equal(found, box_mask((slice(4, 7), *BOX[1:])))


@pytest.mark.parametrize("slab", ["all", [1], [3, 2], [2, 2], ["a", "b"], 5, [0, float("nan")]])
def test_a_bad_slab_is_refused_in_one_line(slab):
    with pytest.raises(InputError, match=r"slab_z_angstrom is auto or two rising heights in Å, \[low, high\]; got"):
        LimitRegiond("image", slab_z_angstrom=slab)


def test_the_ice_is_where_the_grey_values_differ():
    volume = noise(shape=(96, 60, 60))
    volume[30:60] += 2 * np.repeat(np.repeat(np.repeat(noise(1, (10, 20, 20)), 3, 0), 3, 1), 3, 2)
    low, high = fit_slab(volume, 10.0)
    assert 16 <= low <= 20  # 100 Å and at most a block before the first layer of ice
    assert 69 <= high <= 74


def test_ice_that_fills_the_volume_is_left_whole():
    assert fit_slab(noise(shape=(48, 160, 160)), 10.0) is None
    assert region_of(image_of(noise(shape=(40, 60, 60))), slab_z_angstrom="auto").all()


# Batches


def test_a_batch_hands_its_region_to_the_inferer():
    batch = {"image": torch.rand(1, 1, 2, 3, 4)}
    assert len(prepare_batch(batch)) == 2
    images, labels, more, named = prepare_batch({**batch, "region": torch.ones(1, 1, 2, 3, 4)})
    assert (labels, more, list(named)) == (None, (), ["region"])
    assert torch.equal(images, batch["image"])


def test_nan_in_a_mask_is_outside():
    mask = np.array([np.nan, 1.0, 0.0], np.float32)[:, None, None]
    assert sample_mask(mask, 10.0, (3, 1, 1), 10.0)[:, 0, 0].tolist() == [False, True, False]
