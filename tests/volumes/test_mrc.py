import bz2
import gzip
import re
import struct
import tracemalloc

import mrcfile
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scripts.errors import InputError, InputWarning
from scripts.volumes.reading import read_mrc, read_tomogram
from volume_files import OFFSETS, SHAPE, VALUES, VOXEL_SIZE, mrc_bytes, outcome_of, write_bytes, write_mrc

# The voxel size


@pytest.mark.parametrize("cell_x", [0.0, -90.0, float("nan"), float("inf")])
def test_a_cell_that_is_no_length_counts_as_no_voxel_size(cell_x, tmp_path):
    assert read_mrc(write_mrc(tmp_path, cell_x=cell_x)).voxel_size_angstrom is None


def test_a_grid_of_zero_counts_as_no_voxel_size(tmp_path):
    assert read_mrc(write_mrc(tmp_path, mz=0)).voxel_size_angstrom is None


def test_a_swapped_file_states_its_cell_along_x_y_and_z(tmp_path):
    path = write_mrc(tmp_path, axes=(2, 3, 1), cell_x=9 * 20.0)
    with pytest.raises(InputError, match=r"10\.012 x 10\.012 x 20 Å \(z, y, x\)"):
        read_tomogram(path)


# The file


def test_a_file_written_by_mrcfile_is_read(tmp_path):
    with mrcfile.new(tmp_path / "a.mrc") as file:
        file.set_data(VALUES)
        file.voxel_size = VOXEL_SIZE
    volume = read_mrc(tmp_path / "a.mrc")
    assert np.array_equal(volume.data, VALUES)
    assert volume.voxel_size_angstrom == VOXEL_SIZE


def test_an_uncompressed_file_is_mapped_and_not_loaded(tmp_path):
    assert isinstance(read_mrc(write_mrc(tmp_path, axes=(3, 2, 1))).data, np.memmap)


def test_signed_bytes_keep_their_sign(tmp_path):
    assert np.array_equal(read_mrc(write_mrc(tmp_path, values=VALUES - 100, mode=0)).data, VALUES - 100)


@pytest.mark.parametrize(("mode", "value"), [(1, -30000), (6, 60000), (12, -0.125), (2, -1e9)])
def test_every_mode_keeps_its_range(mode, value, tmp_path):
    assert read_mrc(write_mrc(tmp_path, values=np.full(SHAPE, value, np.float64), mode=mode)).data[1, 2, 4] == value


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("flags", "expected"), [(0, 200), (1, -56), (2, 200), (5, -56)])
def test_bytes_of_old_imod_files_are_unsigned_unless_flagged(flags, expected, order, tmp_path):
    values = np.full(SHAPE, 200, np.uint8)
    path = write_mrc(tmp_path, values=values, mode=0, order=order, imod_stamp=1146047817, imod_flags=flags)
    assert read_mrc(path).data[1, 2, 4] == expected


@pytest.mark.parametrize(
    ("mode", "kind"),
    [(3, "complex int16"), (4, "complex float32"), (16, "RGB colours"), (101, "packed 4-bit numbers")],
)
def test_a_mode_that_is_no_tomogram_is_refused_by_name(mode, kind, tmp_path):
    message = rf"volume\.mrc holds {kind} \(mode {mode}\), not a tomogram\. Convert it to mode 0 \(int8\)"
    with pytest.raises(InputError, match=message):
        read_mrc(write_mrc(tmp_path, mode=mode))


def test_bytes_that_imod_packed_are_refused(tmp_path):
    path = write_mrc(tmp_path, mode=0, imod_stamp=1146047817, imod_flags=17)
    with pytest.raises(InputError, match="holds packed 4-bit numbers"):
        read_mrc(path)


def test_an_unknown_mode_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"volume\.mrc has the unknown mode 7\. Convert it"):
        read_mrc(write_mrc(tmp_path, mode=7))


@pytest.mark.parametrize("stamp", [b"\0\0\0\0", b"\x44\x20\x20\x20"])
@pytest.mark.parametrize(("order", "name"), [("<", "little-endian"), (">", "big-endian")])
def test_a_non_standard_stamp_gives_one_warning_and_the_right_volume(stamp, order, name, tmp_path):
    path = write_mrc(tmp_path, mode=1, order=order, stamp=stamp)
    with pytest.warns(
        InputWarning, match=rf"non-standard machine stamp \({stamp[:2].hex(' ')}\): read as {name}"
    ) as got:
        volume = read_mrc(path)
    assert len(got) == 1
    assert np.array_equal(volume.data, VALUES)


def test_a_stamp_that_contradicts_the_header_gives_one_warning_and_the_right_volume(tmp_path):
    path = write_mrc(tmp_path, stamp=b"\x11\x11\0\0")
    with pytest.warns(InputWarning, match="has the machine stamp of a big-endian file: read as little-endian"):
        assert np.array_equal(read_mrc(path).data, VALUES)


def test_the_other_little_endian_stamp_is_standard(tmp_path):
    assert np.array_equal(read_mrc(write_mrc(tmp_path, stamp=b"\x44\x41\0\0")).data, VALUES)


def test_a_file_without_map_mark_is_read_with_a_warning(tmp_path):
    path = write_mrc(tmp_path, map=b"\0\0\0\0", stamp=b"\0\0\0\0")
    message = r"has no 'MAP' mark and has a non-standard machine stamp \(00 00\): read as little-endian"
    with pytest.warns(InputWarning, match=message):
        assert np.array_equal(read_tomogram(path).data, VALUES)


def test_values_in_the_other_byte_order_than_the_header_are_refused(tmp_path):
    values = VALUES.copy()
    values[0] = 0  # as in a padded volume
    little, big = mrc_bytes(values), mrc_bytes(values, order=">")
    with pytest.raises(InputError, match="make sense only in the byte order that its header does not have"):
        read_mrc(write_bytes(tmp_path, little[:1024] + big[1024:]))


def test_hot_voxels_and_nan_are_not_taken_for_a_wrong_byte_order(tmp_path):
    values = VALUES.copy()
    values[1], values[2, 3, 4] = np.nan, 1e38
    assert np.array_equal(read_mrc(write_mrc(tmp_path, values=values)).data, values, equal_nan=True)


def test_values_that_make_sense_in_both_byte_orders_are_read(tmp_path):
    values = np.full(SHAPE, np.frombuffer(b"\x41\0\0\x41", "<f4"))
    assert np.array_equal(read_mrc(write_mrc(tmp_path, values=values)).data, values)


def test_an_absent_axis_order_is_read_as_x_y_z_with_a_warning(tmp_path):
    path = write_mrc(tmp_path, mapc=0, mapr=0, maps=0)
    with pytest.warns(InputWarning, match="states no axis order"):
        assert np.array_equal(read_mrc(path).data, VALUES)


def test_an_axis_order_that_is_none_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"must be 1, 2, 3 in some order; the header states 1, 2, 2\."):
        read_mrc(write_mrc(tmp_path, maps=2))


@pytest.mark.parametrize(("name", "length"), [("nx", 0), ("ny", -7), ("nz", 2**31 - 1), ("nx", 65536)])
def test_impossible_lengths_are_refused(name, length, tmp_path):
    path = write_mrc(tmp_path, **{name: length})
    with pytest.raises(InputError, match=rf"the header states .*{length}.* voxels; each length must be 1 to 65535"):
        read_mrc(path)


def test_a_huge_volume_is_refused_without_reserving_its_memory(tmp_path):
    path = write_mrc(tmp_path, nx=65535, ny=65535, nz=65535)
    tracemalloc.start()
    with pytest.raises(InputError, match="is cut short: the header promises 1125848368021500 bytes"):
        read_mrc(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10_000_000


@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress])
def test_truncated_data_are_refused_with_both_sizes(pack, tmp_path):
    path = write_bytes(tmp_path, pack(mrc_bytes()[:-100]))
    with pytest.raises(
        InputError, match=r"volume\.mrc is cut short: the header promises 1260 bytes of data, .* has 1160"
    ):
        read_mrc(path)


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress])
def test_a_truncated_compressed_file_is_refused(pack, tmp_path):
    path = write_bytes(tmp_path, pack(mrc_bytes(np.random.default_rng(1).normal(size=(20, 30, 40))))[:-5000])
    with pytest.raises(InputError, match="is cut short: its compressed data end too early"):
        read_mrc(path)


def test_a_damaged_compressed_file_is_refused(tmp_path):
    packed = bytearray(gzip.compress(mrc_bytes(np.random.default_rng(1).normal(size=(20, 30, 40)))))
    packed[-3000:-2000] = bytes(1000)
    with pytest.raises(InputError, match=r"cannot read .*volume\.mrc: "):
        read_mrc(write_bytes(tmp_path, packed))


def test_trailing_bytes_give_a_warning_with_their_count(tmp_path):
    path = write_bytes(tmp_path, mrc_bytes() + b"12345")
    with pytest.warns(InputWarning, match=r"volume\.mrc: 5 bytes after the data are ignored"):
        assert np.array_equal(read_mrc(path).data, VALUES)


@pytest.mark.parametrize("claimed", [-1, 2**30])
def test_an_extended_header_that_cannot_be_there_is_refused(claimed, tmp_path):
    with pytest.raises(InputError, match=rf"promises {claimed} more header bytes, the file has 1260"):
        read_mrc(write_mrc(tmp_path, nsymbt=claimed))


@pytest.mark.parametrize(
    ("written", "stated", "message"),
    [
        (2, 1, r"mode 1 \(int16\) means 630 bytes of data, the file has 1260, which is float32 exactly"),
        (1, 2, r"mode 2 \(float32\) means 1260 bytes of data, the file has 630, which is int16 exactly"),
        (0, 12, r"mode 12 \(float16\) means 630 bytes of data, the file has 315, which is int8 exactly"),
    ],
)
def test_a_mode_that_contradicts_the_file_size_is_refused(written, stated, message, tmp_path):
    content = bytearray(mrc_bytes(mode=written))
    content[12] = stated
    with pytest.raises(InputError, match=message):
        read_mrc(write_bytes(tmp_path, content))


def test_a_stack_of_volumes_is_refused(tmp_path):
    path = write_mrc(tmp_path, values=np.concatenate([VALUES, VALUES]), ispg=401, mz=5)
    with pytest.raises(InputError, match=r"is a stack of 2 volumes \(space group 401\), not one tomogram: split it"):
        read_mrc(path)


def test_a_stack_of_images_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"is a stack of 5 images \(space group 0, mz 1\), not a tomogram"):
        read_mrc(write_mrc(tmp_path, ispg=0, mz=1))


def test_a_volume_by_its_space_group_is_read_whatever_its_grid(tmp_path):
    assert np.array_equal(read_mrc(write_mrc(tmp_path, ispg=1, mz=1, cell_z=VOXEL_SIZE)).data, VALUES)


def write_tilt_series(folder, angles, contents=0b1001, parts=4, order="<", **settings):
    """Write a stack with SerialEM's extended header: the angle times 100, and the magnification."""
    sections = [round(100 * angle) for angle in angles]
    extended = b"".join(struct.pack(f"{order}2h", angle, 330) for angle in sections)
    values = np.resize(VALUES, (len(sections), *SHAPE[1:]))
    fields = {"section_bytes": struct.pack(f"{order}2h", parts, contents), "ispg": 0}
    return write_mrc(folder, values=values, order=order, extended=extended, **{**fields, **settings})


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("space_group", [0, 1])
def test_a_file_with_a_tilt_angle_for_every_section_is_refused(order, space_group, tmp_path):
    path = write_tilt_series(tmp_path, np.arange(-60, 61, 3), order=order, ispg=space_group)
    held = r"it holds a tilt angle for each of its 41 sections, -60 to 60 degrees\. Reconstruct it first\."
    with pytest.raises(InputError, match=rf"volume\.mrc is a tilt series, not a tomogram: {held}"):
        read_mrc(path)


@pytest.mark.parametrize(
    "change",
    [{"contents": 0b1000}, {"parts": 6}, {"angles": [0.0] * 41}, {"angles": np.linspace(0, 300, 41)}],
    ids=["no angles", "another layout", "all zero", "no angles at all"],
)
def test_other_extended_headers_are_no_tilt_angles(change, tmp_path):
    assert read_mrc(write_tilt_series(tmp_path, **{"angles": np.arange(-60, 61, 3), **change})).data.shape[0] == 41


@pytest.mark.parametrize("name", ["TS_1.st", "TS_1.ali", "TS_1.preali", "TS_1.ST"])
def test_images_named_like_a_tilt_series_are_read_with_a_warning(name, tmp_path):
    path = write_mrc(tmp_path, name=name, ispg=0)
    with pytest.warns(InputWarning, match=r"holds 5 sections of 7 x 9 and calls them images .* a tilt series"):
        assert np.array_equal(read_mrc(path).data, VALUES)
    assert np.array_equal(read_mrc(write_mrc(tmp_path, name=name)).data, VALUES)  # its space group says volume


def test_few_large_images_are_read_with_a_warning(tmp_path):
    values = np.resize(VALUES, (4, 20, 24))
    with pytest.warns(InputWarning, match=r"volume\.mrc holds 4 sections of 20 x 24 and calls them images"):
        assert np.array_equal(read_mrc(write_mrc(tmp_path, values=values, ispg=0)).data, values)
    assert np.array_equal(read_mrc(write_mrc(tmp_path, values=values)).data, values)


@pytest.mark.parametrize(
    ("fields", "words"),
    [({"origin_x": 1234.0}, r"\(1234, 0, 0\) and start \(0, 0, 0\)"), ({"start_x": -7}, r"\(-7, 0, 0\)")],
)
def test_an_origin_that_is_left_out_is_logged(fields, words, tmp_path, caplog):
    caplog.set_level("INFO")
    read_mrc(write_mrc(tmp_path))
    assert not caplog.messages
    read_mrc(write_mrc(tmp_path, **fields))
    (line,) = caplog.messages
    assert re.search(
        rf"volume\.mrc: coordinates count from the first voxel; the header's origin .*{words} are not", line
    )


def test_an_image_is_refused(tmp_path):
    with pytest.raises(InputError, match="is a 2D image of 7 x 9 pixels, not a tomogram"):
        read_mrc(write_mrc(tmp_path, values=VALUES[:1]))


MRC_BYTES = mrc_bytes()

FIELD_BYTES = [offset + byte for offset in OFFSETS.values() for byte in range(4)]


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    flips=st.lists(
        st.tuples(
            st.one_of(st.sampled_from(FIELD_BYTES), st.integers(0, 1023)),
            st.one_of(st.sampled_from([0, 1, 2, 255]), st.integers(0, 255)),
        ),
        min_size=1,
        max_size=8,
    )
)
def test_any_header_gives_a_volume_or_a_one_line_refusal(flips, tmp_path):
    content = bytearray(MRC_BYTES)
    for place, value in flips:
        content[place] = value
    outcome = outcome_of(write_bytes(tmp_path, content))
    assert outcome.nbytes <= 2 * len(content) if isinstance(outcome, np.ndarray) else "\n" not in outcome
