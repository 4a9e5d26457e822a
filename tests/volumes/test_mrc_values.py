"""Files whose mode, byte order or statistics are not those of their voxels."""

import struct
import warnings

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from scripts.errors import InputError, InputWarning
from scripts.volumes.reading import read_mrc
from volume_files import DTYPES, OFFSETS, mrc_bytes, write_bytes

SHAPE = (16, 32, 32)
WAVES = gaussian_filter(np.random.default_rng(3).normal(size=SHAPE), 1.0)
WAVES /= np.abs(WAVES).max()  # -1 to 1, neighbours alike
IMOD = {"imod_stamp": 1146047817, "imod_flags": 0}


def content_of(values, dtype, mode, order="<", **fields):
    """Return an MRC file of values in one type whose header states another mode, and the statistics of the values."""
    values = values.astype(dtype)
    header = bytearray(mrc_bytes(values, mode=mode, order=order, **fields)[:1024])
    found = values.astype(np.float64)
    struct.pack_into(f"{order}3f", header, OFFSETS["minimum"], found.min(), found.max(), found.mean())
    return bytes(header) + values.tobytes()


def without_statistics(content, stated=(0.0, 0.0, 0.0)):
    return content[:76] + struct.pack("<3f", *stated) + content[88:]


WRONG = {
    "float16 as mode 1": (8 * WAVES, "<f2", 1, "little-endian float16"),
    "int16 as mode 6": (12700 * WAVES, "<i2", 6, "little-endian int16"),
    "int16 as mode 12": (12700 * WAVES, "<i2", 12, "little-endian int16"),
    "uint16 as mode 1": (30000 + 30000 * WAVES, "<u2", 1, "little-endian uint16"),
    "unsigned bytes": (127 + 127 * WAVES, "u1", 0, "uint8"),
    "int16 in the other order": (12700 * WAVES, ">i2", 1, "big-endian int16"),
    "all of int16 in the other order": (32767 * np.clip(2 * WAVES, -1, 1), ">i2", 1, "big-endian int16"),
    "uint16 in the other order": (30000 + 300 * WAVES, ">u2", 6, "big-endian uint16"),
    "float16 in the other order": (8 * WAVES, ">f2", 12, "big-endian float16"),
    "float32 in the other order": (8 * WAVES, ">f4", 2, "big-endian float32"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_mode_of_the_same_size_is_recognised_by_the_statistics(case, tmp_path):
    values, dtype, mode, words = WRONG[case]
    path = write_bytes(tmp_path, content_of(values, dtype, mode))
    with pytest.warns(
        InputWarning, match=rf"header states values from .*; the voxels fit as {words}, not as "
    ) as caught:
        volume = read_mrc(path)
    assert len(caught) == 1
    assert np.array_equal(volume.data, values.astype(dtype))
    assert volume.data.dtype.isnative


@pytest.mark.parametrize("mode", DTYPES)
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("stated", ["right", (0.0, 0.0, 0.0), (0.0, -1.0, -2.0), (5.0, 7.0, 0.0), (np.nan,) * 3])
def test_a_right_file_is_read_in_silence_with_or_without_statistics(mode, order, stated, tmp_path):
    scale = {0: 100, 1: 12700, 2: 1e-3, 6: 3000, 12: 8}[mode]
    values = WAVES + 1 if mode == 6 else WAVES
    content = content_of(scale * values, order + DTYPES[mode], mode, order)
    if stated != "right":
        content = content[:76] + struct.pack(f"{order}3f", *stated) + content[88:]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = read_mrc(write_bytes(tmp_path, content)).data
    assert np.array_equal(data, (scale * values).astype(DTYPES[mode]))


@pytest.mark.parametrize("dtype", [">i2", ">u2", ">f2"])
@pytest.mark.parametrize("hot", [0, 3])
def test_without_statistics_a_wrong_byte_order_is_refused(dtype, hot, tmp_path):
    values = 3000 + 2900 * WAVES
    values.reshape(-1)[:hot] = 60000 if dtype == ">u2" else 30000
    mode = {"i2": 1, "u2": 6, "f2": 12}[dtype[1:]]
    path = write_bytes(tmp_path, without_statistics(content_of(values, dtype, mode)))
    with pytest.raises(InputError, match="make sense only in the byte order that its header does not have"):
        read_mrc(path)


@pytest.mark.parametrize(("dtype", "mode"), [("u1", 0), ("<u2", 1), (">u2", 1)])
@pytest.mark.parametrize("sigma", [0.0, 0.5, 3.0], ids=["noise", "a raw image", "a denoised image"])
@pytest.mark.parametrize("mean", [0.4, 0.5, 0.6])
def test_without_statistics_whole_numbers_without_sign_are_read_with_a_warning(mean, sigma, dtype, mode, tmp_path):
    image = gaussian_filter(np.random.default_rng(0).normal(size=(16, 64, 64)), sigma)
    most = np.iinfo(dtype).max
    values = np.clip(most * (mean + 0.1 * image / image.std()), 0, most)
    path = write_bytes(tmp_path, without_statistics(content_of(values, dtype, mode, dtype[0].replace("u", "<"))))
    with pytest.warns(InputWarning, match=rf"close to each other as uint{8 * (mode + 1)}, not as int") as caught:
        volume = read_mrc(path)
    assert len(caught) == 1
    assert np.array_equal(volume.data, values.astype(dtype))


@pytest.mark.parametrize("mode", [0, 1])
@pytest.mark.parametrize("sigma", [0.0, 0.5, 3.0])
@pytest.mark.parametrize(("mean", "deviation"), [(0.0, 0.1), (0.0, 0.4), (-0.1, 0.1), (0.2, 0.2)])
def test_without_statistics_signed_numbers_keep_their_sign(mean, deviation, sigma, mode, tmp_path):
    """Also where much of an image was cut off at both ends of the type."""
    image = gaussian_filter(np.random.default_rng(0).normal(size=(16, 64, 64)), sigma)
    limits = np.iinfo(DTYPES[mode])
    values = np.clip(2 * limits.max * (mean + deviation * image / image.std()), limits.min, limits.max)
    assert_read_as_stated(tmp_path, values, mode)


def test_without_statistics_signed_hot_voxels_labels_padding_and_masks_keep_their_sign(tmp_path):
    hot = np.rint(-100 + 5 * WAVES)
    hot.reshape(-1)[::499] = 127
    labels = np.where(WAVES > 0.3, 100, 0) - (WAVES < -0.3)
    padded = 85 + 10 * WAVES
    padded[..., :9], padded[..., -9:] = -128, -128
    for values in (hot, labels, padded, np.where(WAVES > 0, 127, 0), np.where(WAVES > 0, -1, 0)):
        assert_read_as_stated(tmp_path, np.rint(values), 0)


def assert_read_as_stated(folder, values, mode):
    content = without_statistics(content_of(values, DTYPES[mode], mode))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(read_mrc(write_bytes(folder, content)).data, values.astype(DTYPES[mode]))


def test_hot_voxels_in_the_statistics_do_not_let_noise_fit_better_than_the_tomogram(tmp_path):
    """Swapped, the voxels fill the whole range that two hot voxels gave to the header."""
    content = without_statistics(content_of(3000 * WAVES, "<i2", 1), (-32768.0, 32767.0, 0.0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(read_mrc(write_bytes(tmp_path, content)).data, (3000 * WAVES).astype("i2"))


def test_a_range_of_a_type_in_place_of_statistics_does_not_turn_the_bytes(tmp_path):
    """Swapped, small numbers fill the whole range, and are almost as alike as they are."""
    values = np.rint(30 * gaussian_filter(np.random.default_rng(0).normal(size=(64, 64, 64)), 0.5) / 0.4)
    content = without_statistics(content_of(values, "<i2", 1), (-32768.0, 32767.0, 0.0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(read_mrc(write_bytes(tmp_path, content)).data, values)


@pytest.mark.parametrize("mean", [128, 3000])
@pytest.mark.parametrize("stated", ["right", (0.0, 0.0, 0.0)])
def test_padding_of_noise_is_not_taken_for_a_wrong_byte_order(mean, stated, tmp_path):
    """Swapped, padding with the mean lies far from the mean of the image, so that its neighbours are very alike."""
    values = np.rint(np.random.default_rng(0).normal(mean, mean / 6, (16, 64, 64)))
    values[:, :, :16] = mean
    content = content_of(values, "<i2", 1)
    content = content if stated == "right" else without_statistics(content)
    assert np.array_equal(read_mrc(write_bytes(tmp_path, content)).data, values)


def test_isolated_hot_voxels_are_not_taken_for_a_wrong_byte_order(tmp_path):
    values = 100 + 50 * WAVES
    values.reshape(-1)[::499] = 65535
    path = write_bytes(tmp_path, without_statistics(content_of(values, "<u2", 6)))
    assert np.array_equal(read_mrc(path).data, values.astype("u2"))


@pytest.mark.parametrize("mode", [1, 2])
def test_statistics_that_are_out_of_date_give_a_warning(mode, tmp_path):
    content = content_of(900 * WAVES, f"<{DTYPES[mode]}", mode)
    path = write_bytes(tmp_path, without_statistics(content, (-9.0, 9.0, 0.0)))
    with pytest.warns(InputWarning, match=r"states values from -9 to 9, the voxels exceed them: these are out of date"):
        assert np.array_equal(read_mrc(path).data, (900 * WAVES).astype(DTYPES[mode]))


def test_bytes_with_the_stamp_of_imod_are_as_signed_as_it_says(tmp_path):
    content = content_of(127 + 127 * WAVES, "u1", 0, **{**IMOD, "imod_flags": 1})
    assert read_mrc(write_bytes(tmp_path, content)).data.dtype == np.int8
