import gzip
import itertools
import struct

import nibabel
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scripts.coordinates import affine_of
from scripts.errors import InputError, InputWarning
from scripts.volumes.reading import read_extent, read_nifti, read_tomogram
from volume_files import SHAPE, VALUES, VOXEL_SIZE, outcome_of, write_bytes, write_nifti


def test_scaled_nifti_values_come_out_as_their_true_numbers(tmp_path):
    image = nibabel.Nifti1Image(VALUES.T.astype(np.int16), np.eye(4))
    image.header.set_slope_inter(0.5, 3.0)
    content = bytearray(image.to_bytes())
    struct.pack_into("<2f", content, 112, 0.5, 3.0)  # scl_slope, scl_inter
    assert np.allclose(read_nifti(write_bytes(tmp_path, content)).data, VALUES * 0.5 + 3)


def test_a_nifti_2_file_is_read(tmp_path):
    content = nibabel.Nifti2Image(VALUES.T, np.diag([8.0, 8, 8, 1])).to_bytes()
    volume = read_tomogram(write_bytes(tmp_path, content))
    assert np.array_equal(volume.data, VALUES)
    assert volume.voxel_size_angstrom == 8


def test_a_big_endian_nifti_file_is_read(tmp_path):
    header = nibabel.Nifti1Header(endianness=">")
    header.set_data_dtype(np.int16)
    content = nibabel.Nifti1Image(VALUES.T.astype(">i2"), np.diag([8.0, 8, 8, 1]), header).to_bytes()
    volume = read_tomogram(write_bytes(tmp_path, content))
    assert content[:4] == b"\0\0\x01\x5c"
    assert volume.data.dtype.isnative
    assert np.array_equal(volume.data, VALUES)


def turned(order="xyz", signs=(1, 1, 1)):
    """Return the twin of VALUES whose array axes run along ``order`` in its affine, backwards where a sign is -1."""
    values = VALUES.transpose(["zyx".index(name) for name in order]).T  # as `write_nifti` takes it
    affine = np.zeros((4, 4))
    for axis, (name, sign) in enumerate(zip(order, signs, strict=True)):
        affine["xyz".index(name), axis] = sign * VOXEL_SIZE
    affine[3, 3] = 1
    return values, affine


@pytest.mark.parametrize("order", ["".join(order) for order in itertools.permutations("xyz")])
def test_the_axes_of_a_nifti_array_are_those_that_its_affine_says(order, tmp_path):
    values, affine = turned(order)
    affine[:3, 3] = 50, 60, 70
    path = write_nifti(tmp_path, values, affine=affine)
    volume = read_tomogram(path)
    assert np.array_equal(volume.data, VALUES)
    assert read_extent(path) == (SHAPE, VOXEL_SIZE)
    assert np.allclose(volume.affine @ (1, 2, 4, 1), np.array([4, 2, 1, 0]) * VOXEL_SIZE + (50, 60, 70, 1))


def test_a_nifti_origin_that_is_left_out_is_logged(tmp_path, caplog):
    caplog.set_level("INFO")
    affine = np.diag([VOXEL_SIZE] * 3 + [1])
    affine[:3, 3] = 50, -60, 0
    read_nifti(write_nifti(tmp_path, affine=affine))
    (line,) = caplog.messages
    assert line.endswith(
        "volume.nii: coordinates count from the first voxel; the affine's origin (50, -60, 0) is not added"
    )


def test_an_array_as_itk_writes_it_is_read_along_the_array_with_a_warning(tmp_path):
    values, affine = turned(signs=(-1, -1, 1))
    path = write_nifti(tmp_path, values, affine=affine)
    with pytest.warns(InputWarning, match="runs x and y backwards, as ITK and 3D Slicer write it; voxels are counted"):
        volume = read_tomogram(path)
    assert np.array_equal(volume.data, VALUES)
    assert np.allclose(volume.affine @ (1, 2, 4, 1), np.array([-4, -2, 1, 1 / VOXEL_SIZE]) * VOXEL_SIZE)


@pytest.mark.parametrize("read", [read_tomogram, read_extent])
@pytest.mark.parametrize(
    ("signs", "named"), [((-1, 1, 1), "x"), ((1, -1, -1), "y and z"), ((-1, -1, -1), "x and y and z")]
)
def test_a_nifti_affine_that_mirrors_or_turns_is_refused(signs, named, read, tmp_path):
    values, affine = turned(signs=signs)
    with pytest.raises(InputError, match=rf"volume\.nii: its affine runs {named} backwards\. .*as_closest_canonical"):
        read(write_nifti(tmp_path, values, affine=affine))


@pytest.mark.parametrize("angle", [0.02, 0.5, np.pi / 4])
def test_an_oblique_nifti_affine_is_refused(angle, tmp_path):
    affine = np.eye(4)
    affine[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    with pytest.raises(InputError, match=r"volume\.nii: its affine is oblique to x, y and z"):
        read_tomogram(write_nifti(tmp_path, affine=affine))


def test_an_affine_that_belongs_to_no_space_states_no_directions(tmp_path):
    affine = np.diag([-VOXEL_SIZE, VOXEL_SIZE, VOXEL_SIZE, 1])
    volume = read_tomogram(write_nifti(tmp_path, affine=affine, codes=(0, 0)))
    assert np.array_equal(volume.data, VALUES)
    assert np.allclose(volume.affine, affine_of(VOXEL_SIZE))


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_bytes_after_a_nifti_volume_give_a_warning_with_their_count(pack, tmp_path):
    content = pack(write_nifti(tmp_path).read_bytes() + bytes(5))
    with pytest.warns(InputWarning, match=r"volume\.mrc: 5 bytes after the data are ignored"):
        assert np.array_equal(read_nifti(write_bytes(tmp_path, content)).data, VALUES)


def test_a_nifti_affine_that_contradicts_the_spacing_takes_its_scale(tmp_path):
    content = bytearray(write_nifti(tmp_path).read_bytes())
    struct.pack_into("<3f", content, 80, 5.0, 5.0, 5.0)  # pixdim
    path = write_bytes(tmp_path, content)
    with pytest.warns(InputWarning, match=r"affine has voxels of 10\.012 Å, the spacing 5 Å; the spacing counts"):
        volume = read_nifti(path)
    assert volume.voxel_size_angstrom == 5
    assert np.allclose(volume.affine @ (1, 2, 4, 1), (20, 10, 5, 1))


@pytest.mark.parametrize(
    "rows", [[float("nan")] * 12, [0.0] * 12, [10, 0, 0, float("nan"), 0, 10, 0, 0, 0, 0, 10, 0]], ids=str
)
def test_a_nifti_affine_that_is_none_is_replaced(rows, tmp_path):
    content = bytearray(write_nifti(tmp_path).read_bytes())
    struct.pack_into("<h", content, 254, 2)  # sform code
    struct.pack_into("<12f", content, 280, *rows)
    volume = read_nifti(write_bytes(tmp_path, content))
    assert np.allclose(volume.affine @ (1, 2, 4, 1), (4 * VOXEL_SIZE, 2 * VOXEL_SIZE, VOXEL_SIZE, 1))


@pytest.mark.parametrize(("codes", "expected"), [((0, 0), None), ((1, 0), 1.0), ((0, 1), 1.0)])
def test_an_untouched_nifti_spacing_of_one_states_no_voxel_size(codes, expected, tmp_path):
    path = write_nifti(tmp_path, affine=np.eye(4), codes=codes)
    assert read_nifti(path).voxel_size_angstrom == expected


def test_a_nifti_series_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"volume\.nii holds 9 x 7 x 5 x 2 values of type float32; a tomogram is one"):
        read_nifti(write_nifti(tmp_path, np.stack([VALUES, VALUES])))


def test_complex_nifti_values_are_refused(tmp_path):
    with pytest.raises(InputError, match="holds 9 x 7 x 5 values of type complex64"):
        read_nifti(write_nifti(tmp_path, VALUES.astype(np.complex64)))


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_truncated_nifti_file_is_refused_with_both_sizes(pack, tmp_path):
    content = pack(write_nifti(tmp_path).read_bytes()[:-100])
    with pytest.raises(InputError, match="is cut short: the header promises 1260 bytes of data, the file has 1160"):
        read_nifti(write_bytes(tmp_path, content))


def test_impossible_nifti_lengths_are_refused(tmp_path):
    content = bytearray(write_nifti(tmp_path).read_bytes())
    struct.pack_into("<h", content, 42, 0)
    with pytest.raises(InputError, match="the header states 0 x 7 x 5 voxels; each length must be at least 1"):
        read_nifti(write_bytes(tmp_path, content))


def test_an_unknown_nifti_type_is_refused(tmp_path):
    content = bytearray(write_nifti(tmp_path).read_bytes())
    struct.pack_into("<h", content, 70, 999)
    with pytest.raises(InputError, match=r"volume\.mrc is a damaged NIfTI file: .*999"):
        read_nifti(write_bytes(tmp_path, content))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(flips=st.lists(st.tuples(st.integers(0, 343), st.integers(0, 255)), min_size=1, max_size=6))
def test_any_nifti_header_gives_a_volume_or_a_one_line_refusal(flips, tmp_path):
    content = bytearray(write_nifti(tmp_path).read_bytes())
    for place, value in flips:
        content[place] = value
    outcome = outcome_of(write_bytes(tmp_path, content))
    assert outcome.nbytes <= 8 * len(content) if isinstance(outcome, np.ndarray) else "\n" not in outcome
