"""The devices that a test runs on: always the CPU, and the GPU of a machine that has one."""

import pytest
import torch

NEEDS_GPU = (
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU, and a torch that is built for it"),
)
NEEDS_TWO_GPUS = (
    pytest.mark.gpu,
    pytest.mark.skipif(
        torch.cuda.device_count() < 2, reason="needs two NVIDIA GPUs, and a torch that is built for them"
    ),
)
GPU = "cuda:0"
ON_GPU = pytest.param(GPU, marks=NEEDS_GPU)
DEVICES = ["cpu", ON_GPU]
