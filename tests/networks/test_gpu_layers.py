"""What becomes of our kernels where they do not run; that they are right is tested on a GPU."""

import pytest
import torch
from scripts.errors import InputWarning
from scripts.networks import gpu_layers


@pytest.fixture
def with_kernels(monkeypatch):
    monkeypatch.setattr(gpu_layers, "HAS_KERNELS", True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)


def test_kernels_that_fail_are_given_up_with_the_reason(with_kernels, monkeypatch):
    def convolve(*_):
        raise RuntimeError("Failed to find C compiler.\nPlease specify via CC")

    monkeypatch.setattr(gpu_layers, "convolve", convolve, raising=False)
    monkeypatch.setattr(torch, "ones", lambda *shape, device: torch.zeros(shape))
    with pytest.warns(InputWarning, match=r"torch's own convolutions .*: Failed to find C compiler\. Please specify"):
        assert gpu_layers.fastest_memory_format("cuda:0") == torch.contiguous_format
    assert not gpu_layers.HAS_KERNELS


def test_kernels_that_run_are_kept(with_kernels, monkeypatch):
    seen = []
    monkeypatch.setattr(gpu_layers, "convolve", lambda volume, *_: seen.append(volume), raising=False)
    monkeypatch.setattr(torch, "ones", lambda *shape, device: torch.zeros(shape))
    assert gpu_layers.fastest_memory_format("cuda:0") == torch.channels_last_3d
    assert seen[0].is_contiguous(memory_format=torch.channels_last_3d)
    assert gpu_layers.HAS_KERNELS


def test_kernels_are_not_started_on_another_gpu_than_the_current_one(with_kernels):
    assert gpu_layers.fastest_memory_format("cuda:1") == torch.contiguous_format
    assert not gpu_layers.HAS_KERNELS
