import gc
import sys

import numpy as np
import pytest
import torch
from file_memory import mapped_mib
from scripts.errors import InputError
from scripts.file_pages import FilePages, new_volume, release_file_pages, slabs_of

on_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux gives pages back")


def test_a_small_volume_is_in_memory():
    volume = new_volume((4, 5, 6), memory_gib=1.0)
    assert (volume.shape, volume.dtype, volume.base) == ((4, 5, 6), np.float32, None)
    assert new_volume((4, 5, 6), memory_gib=None).base is None


@on_linux
def test_a_large_volume_is_in_a_file_and_its_pages_leave_memory():
    before = mapped_mib()
    volume = new_volume((64, 256, 256), memory_gib=0.01)  # 16 MiB
    volume[:] = np.arange(64)[:, None, None]
    tensor = torch.from_numpy(volume)
    assert mapped_mib() > before + 15
    release_file_pages(tensor)
    assert mapped_mib() < before + 4
    assert torch.equal(tensor[:, 3, 7], torch.arange(64.0))
    assert FilePages(tensor).stretches
    assert not FilePages(tensor.clone()).stretches
    del volume, tensor
    gc.collect()


@on_linux
def test_a_part_of_a_large_volume_leaves_no_pages_behind():
    before = mapped_mib()
    volume = new_volume((64, 256, 256), memory_gib=0.01)  # 16 MiB
    volume[:] = 1
    release_file_pages(volume[:, :128])
    assert mapped_mib() < before + 4
    release_file_pages(volume[:0])
    assert (volume == 1).all()
    del volume
    gc.collect()


def test_a_disk_that_is_too_full_for_a_large_volume_is_named(monkeypatch):
    def full(*what):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    line = r"a volume of 64 x 256 x 256 voxels needs 0.0 GiB in .*: No space left on device. Let .* TMPDIR name a f"
    with pytest.raises(InputError, match=line):
        new_volume((64, 256, 256), memory_gib=0.01)


def test_memory_that_is_too_small_for_a_volume_is_told_before_it_is_taken(monkeypatch):
    monkeypatch.setattr("scripts.memory.available_bytes", lambda: 2**30)
    with pytest.raises(InputError, match=r"a volume of 1024 x 1440 x 2048 voxels needs about 11.2 GiB of memory, 1.0"):
        new_volume((1024, 1440, 2048), memory_gib=None)


def test_volumes_in_memory_and_read_only_files_keep_their_values(tmp_path):
    volume = np.arange(24.0).reshape(2, 3, 4)
    np.save(tmp_path / "volume.npy", volume)
    for one in (
        volume,
        np.load(tmp_path / "volume.npy", mmap_mode="r"),
        np.load(tmp_path / "volume.npy", mmap_mode="c"),
    ):
        release_file_pages(one)
        assert np.array_equal(one, np.arange(24.0).reshape(2, 3, 4))


def test_a_change_of_a_private_copy_of_a_file_is_kept(tmp_path):
    np.save(tmp_path / "volume.npy", np.zeros((300, 100)))
    mine = np.load(tmp_path / "volume.npy", mmap_mode="c")
    mine[:] = 7
    release_file_pages(mine)
    assert (mine == 7).all()


@on_linux
def test_pages_leave_memory_after_each_piece_of_work():
    before, most = mapped_mib(), 0
    volume = new_volume((64, 256, 256), memory_gib=0.01)  # 16 MiB
    for layers in FilePages(volume).after_each(np.split(volume, 16)):
        layers[:] = 3
        most = max(most, mapped_mib() - before)
    assert mapped_mib() < before + 4
    assert 0.5 < most < 8
    assert (volume == 3).all()
    del volume, layers
    gc.collect()


def test_a_tensor_of_any_number_format_has_pages_or_none():
    for dtype in (torch.bfloat16, torch.float16, torch.int8):
        release_file_pages(torch.zeros(3, 4, 5, dtype=dtype, requires_grad=dtype.is_floating_point))


def test_what_is_no_array_on_a_cpu_has_no_pages():
    for volume in (None, "volume", torch.zeros(3, device="meta")):
        assert FilePages(volume).stretches == []


def test_slabs_make_up_the_volume(monkeypatch):
    monkeypatch.setattr("scripts.file_pages.SLAB_VOXELS", 50)
    volume = np.zeros((11, 4, 5))
    assert [(slab.start, slab.stop) for slab in slabs_of(volume)] == [(0, 2), (2, 4), (4, 6), (6, 8), (8, 10), (10, 11)]
