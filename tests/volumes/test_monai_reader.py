import mmap
import sys
from pathlib import Path

import mrcfile
import numpy as np
import pytest
from monai.transforms import Compose, LoadImage, LoadImaged
from scripts.errors import InputError, InputWarning, find_input_error
from scripts.volumes.monai_reader import TomogramReader
from volume_files import (
    SHAPE,
    TWIN_PARAMETERS,
    VALUES,
    VOXEL_SIZE,
    write_mrc,
    write_nifti,
    write_ome_zarr,
    write_pyramid,
)


@pytest.mark.parametrize("write", TWIN_PARAMETERS)
def test_every_kind_of_file_loads_in_monai_as_the_same_float32_tensor(write, tmp_path):
    load = LoadImaged(keys="image", reader=TomogramReader(), ensure_channel_first=True)
    image = load({"image": write(tmp_path)})["image"]
    image += 0  # the array is writable
    assert image.shape == (1, *SHAPE)
    assert image.numpy().dtype == np.float32
    assert np.array_equal(image[0].numpy(), VALUES)
    assert np.allclose(image.affine.numpy() @ (1, 2, 4, 1), (4 * VOXEL_SIZE, 2 * VOXEL_SIZE, VOXEL_SIZE, 1))
    assert image.meta["voxel_size_angstrom"] == pytest.approx(VOXEL_SIZE)


@pytest.mark.parametrize("write", TWIN_PARAMETERS)
def test_the_reader_loads_every_format_by_its_dotted_name(write, tmp_path):
    image = LoadImage(reader="scripts.volumes.monai_reader.TomogramReader", voxel_size_angstrom=VOXEL_SIZE)(
        write(tmp_path)
    )
    assert np.array_equal(image.numpy(), VALUES)


def test_the_one_line_message_survives_monai(tmp_path):
    load = Compose([LoadImaged(keys="image", reader=TomogramReader())])
    with pytest.raises(RuntimeError) as caught:
        load({"image": str(tmp_path / "absent.mrc")})
    assert str(find_input_error(caught.value)) == f"cannot read {tmp_path / 'absent.mrc'}: no such file."


@pytest.mark.parametrize("write", [write_mrc, write_nifti, write_ome_zarr])
def test_a_reader_gives_memory_of_its_own_and_what_monai_needs_to_know(write, tmp_path):
    array, meta = TomogramReader().get_data(write(tmp_path))
    assert array.flags.writeable
    assert not isinstance(array, np.memmap)
    assert np.array_equal(meta["original_affine"], meta["affine"])
    assert meta["original_affine"] is not meta["affine"]
    assert meta["spatial_shape"].tolist() == list(SHAPE)
    assert meta["space"] == "RAS"
    assert np.isnan(meta["original_channel_dim"])


def owner_of(array):
    """Return the object whose memory an array uses."""
    while isinstance(array, np.ndarray) and array.base is not None:
        array = array.base
    return array.obj if isinstance(array, memoryview) else array


@pytest.mark.parametrize("write", TWIN_PARAMETERS)
def test_what_takes_too_much_memory_is_float32_in_a_file(write, tmp_path, request):
    path, reader = write(tmp_path), TomogramReader(memory_gib=1e-8)
    array, meta = reader.get_data(path)
    was_unpacked = request.node.callspec.id in ("big-endian 2", "nifti gzip")  # which takes memory before
    assert isinstance(owner_of(array), mmap.mmap) or not array.flags.writeable or was_unpacked
    assert array.dtype == np.float32
    assert array.flags.c_contiguous
    assert np.array_equal(array, VALUES)
    assert meta["spatial_shape"].tolist() == list(SHAPE)
    load = LoadImaged(keys="image", reader=reader, ensure_channel_first=True)
    assert np.array_equal(load({"image": path})["image"][0].numpy(), VALUES)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "float16", "float64"])
@pytest.mark.parametrize("memory_gib", [1e-8, 1.0])
def test_every_type_of_number_becomes_float32(dtype, memory_gib, tmp_path):
    values = np.arange(24).reshape(2, 3, 4).astype(dtype)
    path = write_ome_zarr(tmp_path, values, chunks=(1, 2, 3))
    array, _ = TomogramReader(memory_gib=memory_gib).get_data(path)
    assert array.dtype == np.float32
    assert np.array_equal(array, values)
    assert isinstance(owner_of(array), mmap.mmap) == (memory_gib < 1)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells what is in memory")
@pytest.mark.parametrize("dtype", ["float32", "int16"])
def test_a_file_that_is_read_does_not_stay_in_memory(dtype, tmp_path):
    def resident_mib():
        (line,) = (one for one in Path("/proc/self/status").read_text().splitlines() if one.startswith("VmRSS"))
        return int(line.split()[1]) / 1024

    values = np.random.default_rng(0).normal(0, 100, (32, 1024, 1024)).astype(dtype)
    path = tmp_path / "volume.mrc"
    with mrcfile.new(path, values) as file:
        file.voxel_size = 10.0
    before = resident_mib()
    array, _ = TomogramReader(memory_gib=0.01).get_data(path)
    assert resident_mib() < before + 20  # MiB; the volume has 128 as float32
    assert np.array_equal(array[-1], values[-1])


def test_a_damaged_chunk_is_named_where_the_array_goes_into_a_file(tmp_path):
    path = write_ome_zarr(tmp_path, chunks=(3, 4, 4))
    (path / "0" / "0" / "0" / "1").write_bytes(b"damaged")
    with pytest.raises(InputError, match=r"the array '0' has a damaged chunk at voxel \(0, 0, 4\)"):
        TomogramReader(memory_gib=1e-8).get_data(path)


def test_reader_settings_reach_the_file(tmp_path):
    reader = TomogramReader(wanted_voxel_size_angstrom=19.0)
    assert reader.get_data(write_pyramid(tmp_path))[0].max() == 20
    with pytest.warns(InputWarning, match=r"voxel_size_angstrom 5\.2 is used, not the file's 5 Å"):
        _, meta = TomogramReader(voxel_size_angstrom=5.2).get_data(tmp_path / "pyramid.zarr")
    assert meta["voxel_size_angstrom"] == 5.2
    (tmp_path / "pyramid.zarr" / "1" / "0.0.0").unlink()
    assert TomogramReader(allow_missing_chunks=True).get_data(tmp_path / "pyramid.zarr")[0].min() == 0


@pytest.mark.parametrize("name", ["voxel_size_angstrom", "wanted_voxel_size_angstrom"])
@pytest.mark.parametrize("size", [0, -10.0, float("nan"), float("inf"), "10"])
def test_a_reader_with_an_impossible_voxel_size_is_not_built(name, size):
    with pytest.raises(InputError, match=f"{name} is a positive number of ångströms; got {size!r}"):
        TomogramReader(**{name: size})


def test_a_reader_reads_one_file_at_a_time(tmp_path):
    with pytest.raises(InputError, match="one tomogram at a time; got 1 more"):
        TomogramReader().get_data([tmp_path / "a.mrc", tmp_path / "b.mrc"])


def test_a_reader_takes_no_settings_in_read(tmp_path):
    with pytest.raises(TypeError, match=r"TomogramReader takes its settings when built; got \['mode'\]"):
        TomogramReader().read(tmp_path / "a.mrc", mode="r")


def test_monai_asks_a_reader_by_the_names_of_the_files():
    assert TomogramReader().verify_suffix(["a.mrc", "b.rec"])
    assert not TomogramReader().verify_suffix(["a.mrc", "b.png"])


def test_the_line_of_a_reader_survives_the_chain_of_transforms(tmp_path):
    (tmp_path / "page.mrc").write_text("<!DOCTYPE html>" + " " * 2000)
    load = Compose([LoadImaged("image", reader=TomogramReader(), ensure_channel_first=True)])
    with pytest.raises(RuntimeError) as caught:
        load({"image": str(tmp_path / "page.mrc")})
    assert "page.mrc" in str(find_input_error(caught.value))
