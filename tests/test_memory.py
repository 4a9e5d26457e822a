import math

import pytest
import torch
from scripts import memory
from scripts.errors import InputError
from scripts.memory import available_bytes, is_out_of_memory, require_memory


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine with 1000 kB free, whose control groups the test writes."""
    (tmp_path / "meminfo").write_text("MemTotal:     9000 kB\nMemAvailable: 1000 kB\n")
    (tmp_path / "self").write_text("5:cpu:/a\n0::/\n")
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "GROUPS_OF_SELF", tmp_path / "self")
    monkeypatch.setattr(memory, "GROUPS", tmp_path / "groups")
    return tmp_path


def write_group(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / f"memory.{name}").write_text(f"{content}\n")


def test_what_the_machine_has_left_is_free(machine):
    assert available_bytes() == 1_024_000
    (machine / "meminfo").unlink()
    assert available_bytes() == math.inf


def test_a_container_of_version_2_and_the_groups_above_it_limit_it(machine):
    stat = "anon 300\nactive_file 60\ninactive_file 40\n"
    write_group(machine / "groups" / "job" / "step", max="max", current=400, stat=stat)
    (machine / "self").write_text("0::/job/step\n")
    assert available_bytes() == 1_024_000
    write_group(machine / "groups" / "job", max=1000, current=400, stat=stat)
    assert available_bytes() == 1000 - 400 + 100


def test_a_container_of_version_1_limits_it_whatever_its_path_outside(machine):
    stat = "active_file 7\ntotal_active_file 60\ntotal_inactive_file 40\n"
    write_group(machine / "groups" / "memory", limit_in_bytes=1000, usage_in_bytes=400, stat=stat)
    (machine / "self").write_text("4:memory:/docker/0a1b\n0::/\n")
    assert available_bytes() == 700


def test_more_than_is_free_is_refused_with_figures(machine):
    require_memory(1_024_000, "a.mrc", "take less")
    with pytest.raises(InputError, match=r"^a.mrc needs about 2.5 GiB of memory, 0.0 GiB are free: take less.$"):
        require_memory(2.5 * 2**30, "a.mrc", "take less")


@pytest.mark.parametrize(
    ("error", "answer"),
    [
        (MemoryError(), True),
        (RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB."), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."), True),
        (torch.OutOfMemoryError("Allocation on device 0 would exceed allowed memory. (out of memory)"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"), True),
        (RuntimeError("cuFFT error: CUFFT_ALLOC_FAILED"), True),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."), True),
        (RuntimeError("unable to mmap 8 bytes from file <a.pt>: Cannot allocate memory (12)"), True),
        (RuntimeError("Unable to allocate 8 bytes"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED. This error may appear if you passed in a "), False),
        (RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"), False),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (RuntimeError("pinned memory cannot be used"), False),
        (RuntimeError("shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_errors_of_memory_are_told_from_others(error, answer):
    assert is_out_of_memory(error) == answer
