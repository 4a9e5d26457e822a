"""Every kind of file gives the same volume, and inconsistent files are refused."""

import gzip

import numpy as np
import pytest
from scripts.errors import InputError, InputWarning
from scripts.volumes.reading import (
    is_tomogram,
    read_extent,
    read_mrc,
    read_nifti,
    read_ome_zarr,
    read_tomogram,
    stem_of,
)
from volume_files import (
    SHAPE,
    TWIN_PARAMETERS,
    TWINS,
    VALUES,
    VOXEL_SIZE,
    mrc_bytes,
    write_bytes,
    write_mrc,
    write_nifti,
    write_ome_zarr,
    write_pyramid,
)


@pytest.mark.parametrize("write", TWIN_PARAMETERS)
def test_every_kind_of_file_gives_the_same_volume_and_voxel_size(write, tmp_path):
    volume = read_tomogram(write(tmp_path))
    assert volume.data.dtype.isnative
    assert np.array_equal(volume.data, VALUES)
    assert volume.voxel_size_angstrom == pytest.approx(VOXEL_SIZE, rel=1e-12)
    assert np.allclose(volume.affine @ (1, 2, 4, 1), (4 * VOXEL_SIZE, 2 * VOXEL_SIZE, VOXEL_SIZE, 1))


# names


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("foo.mrc", "foo"),
        ("foo.MRC", "foo"),
        ("foo.rec", "foo"),
        ("foo.st", "foo"),
        ("foo.map", "foo"),
        ("foo.mrc.gz", "foo"),
        ("foo.mrc.bz2", "foo"),
        ("foo.nii", "foo"),
        ("foo.nii.gz", "foo"),
        ("foo_10.012.rec.nii", "foo_10.012.rec"),
    ],
)
def test_files_named_like_tomograms_are_found_and_lose_their_ending(name, stem, tmp_path):
    assert is_tomogram(tmp_path / name)
    assert stem_of(tmp_path / name) == stem


@pytest.mark.parametrize(("name", "stem"), [("foo.zarr", "foo"), ("foo.ome.zarr", "foo"), ("a.b.ZARR", "a.b")])
def test_folders_named_like_tomograms_are_found_and_lose_their_ending(name, stem, tmp_path):
    assert not is_tomogram(tmp_path / name)
    (tmp_path / name).mkdir()
    assert is_tomogram(tmp_path / name)
    assert stem_of(f"{tmp_path / name}/") == stem


@pytest.mark.parametrize("name", ["picks.csv", "foo.mrc.txt", "foo.gz", "mrc", "._foo.mrc", "foo.mrcs"])
def test_other_names_are_no_tomograms(name, tmp_path):
    assert not is_tomogram(tmp_path / name)


def test_a_folder_named_like_a_file_is_no_tomogram(tmp_path):
    (tmp_path / "foo.mrc").mkdir()
    assert not is_tomogram(tmp_path / "foo.mrc")


def test_a_name_without_a_known_ending_keeps_all_of_it():
    assert stem_of("folder/TS_01.5") == "TS_01.5"


# voxel size


def test_a_file_without_voxel_size_says_which_key_to_set(tmp_path):
    path = write_mrc(tmp_path, cell_x=0.0, cell_y=0.0, cell_z=0.0)
    assert read_mrc(path).voxel_size_angstrom is None
    assert np.allclose(read_mrc(path).affine @ (1, 2, 4, 1), (4, 2, 1, 1))
    with pytest.raises(InputError, match=r"volume\.mrc states no voxel size: set voxel_size_angstrom \(e\.g\. --voxel"):
        read_tomogram(path)


@pytest.mark.parametrize("write", [write_mrc, write_nifti, write_ome_zarr])
def test_the_users_voxel_size_wins_with_a_warning(write, tmp_path):
    path = write(tmp_path)
    with pytest.warns(InputWarning, match=r"voxel_size_angstrom 7\.84 is used, not the file's 10\.012 Å") as caught:
        volume = read_tomogram(path, voxel_size_angstrom=7.84)
    assert len(caught) == 1
    assert volume.voxel_size_angstrom == 7.84
    assert np.allclose(volume.affine @ (1, 2, 4, 1), (4 * 7.84, 2 * 7.84, 7.84, 1))


def test_a_users_voxel_size_within_a_thousandth_of_the_files_is_used_in_silence(tmp_path):
    assert read_tomogram(write_mrc(tmp_path), voxel_size_angstrom=10.02).voxel_size_angstrom == 10.02


def test_the_users_voxel_size_fills_a_gap_in_silence(tmp_path):
    path = write_mrc(tmp_path, cell_x=0.0)
    assert read_tomogram(path, voxel_size_angstrom=10.02).voxel_size_angstrom == 10.02


def test_an_impossible_users_voxel_size_is_refused(tmp_path):
    with pytest.raises(InputError, match="voxel_size_angstrom is a positive number of ångströms; got 0"):
        read_tomogram(write_mrc(tmp_path), voxel_size_angstrom=0)


def test_voxel_sizes_that_differ_by_rounding_are_accepted(tmp_path):
    path = write_mrc(tmp_path, cell_x=9 * 10.04)  # the others are 10.012
    assert read_tomogram(path).voxel_size_angstrom == pytest.approx((10.04 + 2 * 10.012) / 3, rel=1e-5)


def test_voxels_that_are_no_cubes_are_refused_unless_the_user_states_their_size(tmp_path):
    path = write_mrc(tmp_path, cell_x=9 * 10.1)
    with pytest.raises(InputError, match=r"no cubes but 10\.012 x 10\.012 x 10\.1 Å \(z, y, x\)\. Resample it, or set"):
        read_tomogram(path)
    with pytest.warns(InputWarning, match=r"10\.012 is used, not the file's 10\.012 x 10\.012 x 10\.1 Å"):
        assert read_tomogram(path, voxel_size_angstrom=VOXEL_SIZE).voxel_size_angstrom == VOXEL_SIZE


# foreign and unreadable files


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "an empty file"),
        (bytes(500), r"a file of 500 bytes \(the header of an MRC file alone has 1024\)"),
        (mrc_bytes()[:1000], r"a file of 1000 bytes"),
        (b"\n<html><body>404 Not Found</body></html>", "an HTML page"),
        (b"<!doctype HTML>" + bytes(2000), "an HTML page"),
        (b"\x89PNG\r\n\x1a\n" + bytes(2000), "a PNG picture"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:", r"a Git LFS pointer \(fetch .*git lfs pull"),
        (b"x,y,z\n1,2,3\n", "a text"),
        (b"x" * 3000, "a text"),
        (b"\x89HDF\r\n\x1a\n" + bytes(2000), "an HDF5 file"),
        (bytes(3000), "something unknown"),
        (gzip.compress(b"<html></html>", mtime=0), "an HTML page"),
        (bytes(344) + b"ni1\0" + bytes(1000), r"half of a NIfTI pair \(\.hdr, \.img\): save it as one \.nii file"),
    ],
)
def test_a_foreign_file_is_refused_by_what_it_looks_like(content, words, tmp_path):
    path = write_bytes(tmp_path, content)
    with pytest.raises(InputError, match=rf"volume\.mrc is not a tomogram \(MRC, OME-Zarr or NIfTI\) but {words}"):
        read_tomogram(path)
    with pytest.raises(InputError, match=rf"volume\.mrc is not an MRC file but {words}"):
        read_mrc(path)


def test_each_function_refuses_the_other_formats_by_name(tmp_path):
    path = write_nifti(tmp_path)
    with pytest.raises(InputError, match=r"volume\.nii is not an MRC file but a NIfTI file"):
        read_mrc(path)
    with pytest.raises(InputError, match=r"volume\.nii is not a Zarr folder but a NIfTI file"):
        read_ome_zarr(path)
    with pytest.raises(InputError, match=r"volume\.zarr is not a NIfTI file but a Zarr folder"):
        read_nifti(write_ome_zarr(tmp_path))


def test_a_missing_file_is_refused_in_one_line(tmp_path):
    with pytest.raises(InputError, match=r"^cannot read .*absent\.mrc: no such file\.$"):
        read_tomogram(tmp_path / "absent.mrc")


def test_a_file_that_may_not_be_read_is_refused_in_one_line(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(InputError, match=r"^cannot read .*volume\.mrc: Permission denied\.$"):
        read_tomogram(tmp_path / "volume.mrc")


@pytest.mark.parametrize("work", [read_tomogram, read_extent, read_ome_zarr])
def test_an_address_is_refused_with_the_command_that_fetches_it(work):
    with pytest.raises(InputError, match=r"^s3://bucket/x\.zarr is not on this disk\. .* by: python -m scripts\.fetch"):
        work("s3://bucket/x.zarr")


def test_a_folder_without_zarr_metadata_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"but a folder without Zarr metadata \(zarr\.json, \.zarray, \.zgroup\)"):
        read_tomogram(tmp_path)


# Headers alone


@pytest.mark.parametrize("kind", TWINS)
def test_the_header_alone_tells_shape_and_voxel_size(kind, tmp_path):
    shape, voxel_size = read_extent(TWINS[kind](tmp_path))
    assert (shape, voxel_size) == (SHAPE, pytest.approx(VOXEL_SIZE, rel=1e-5))


def test_the_extent_needs_no_data(tmp_path):
    cut = write_bytes(tmp_path, mrc_bytes()[:1024])
    assert read_extent(cut)[0] == SHAPE


def test_the_extent_is_that_of_the_level_nearest_to_a_stated_voxel_size(tmp_path):
    assert read_extent(write_pyramid(tmp_path)) == (SHAPE, 5.0)
    assert read_extent(tmp_path / "pyramid.zarr", 20.0) == (SHAPE, 20.0)


def test_an_extent_without_voxel_size_or_of_no_tomogram_is_refused(tmp_path):
    bare = write_mrc(tmp_path, cell_x=0.0, cell_y=0.0, cell_z=0.0)
    assert read_extent(bare, 7.0) == (SHAPE, 7.0)
    with pytest.raises(InputError, match="states no voxel size: set voxel_size_angstrom"):
        read_extent(bare)
    with pytest.raises(InputError, match=r"is not a tomogram .* but a text"):
        read_extent(write_bytes(tmp_path, b"x y z"))
