"""The kernels for GPUs compute what torch's own layers compute."""

import os
import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch
from devices import GPU, NEEDS_GPU
from scripts.networks.cpu_layers import DepthwiseConv3d
from scripts.networks.gpu_layers import HAS_KERNELS, fastest_memory_format
from synthetic import tiny_network
from torch.nn import functional as F

IN_INTERPRETER = """
import torch
torch.cuda.is_available = lambda: True
from scripts.networks.gpu_layers import DepthwiseOnGpu
from torch.nn import functional as F

for channels, side in ((5, 3), (33, 3), (2, 5)):
    x = torch.randn(2, channels, 3, 4, 5, requires_grad=True)
    weight, bias = torch.randn(channels, 1, side, side, side, requires_grad=True), torch.randn(channels)
    slope = torch.randn_like(x)
    answers = [DepthwiseOnGpu.apply(x, weight, bias), F.conv3d(x, weight, bias, padding=side // 2, groups=channels)]
    found, wanted = ([one, *torch.autograd.grad(one, (x, weight), slope)] for one in answers)
    assert all(torch.allclose(*pair, rtol=1e-4, atol=1e-4) for pair in zip(found, wanted))
"""


def relative_error(one, exact):
    return ((one.double() - exact).norm() / exact.norm()).item()


@pytest.mark.parametrize("device", [pytest.param(GPU, marks=NEEDS_GPU)])
@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-2)])
@pytest.mark.parametrize(
    ("channels", "side", "bias", "shape"),
    [
        (32, 3, False, (2, 9, 17, 21)),
        (100, 3, True, (1, 4, 6, 5)),
        (3, 5, True, (3, 6, 5, 4)),
        (256, 1, True, (1, 2, 3, 4)),
    ],
)
def test_a_depthwise_convolution_and_its_gradients_are_those_in_float64(
    device, dtype, most, channels, side, bias, shape
):
    assert HAS_KERNELS
    layer = DepthwiseConv3d(channels, side, bias=bias).to(device)
    x, slope = (torch.randn(shape[0], channels, *shape[1:], device=device) for _ in range(2))
    x = x.to(dtype=dtype, memory_format=torch.channels_last_3d).requires_grad_()
    with torch.autocast("cuda", dtype, enabled=dtype != torch.float32):
        answer = layer(x)
    answer.backward(slope.to(answer.dtype))
    exact_x = x.detach().double().requires_grad_()
    weight = layer.weight.detach().double().requires_grad_()
    exact = F.conv3d(
        exact_x, weight, None if layer.bias is None else layer.bias.double(), padding=side // 2, groups=channels
    )
    exact.backward(slope.to(answer.dtype).double())
    assert answer.dtype == dtype
    for one, other in ((answer, exact), (x.grad, exact_x.grad), (layer.weight.grad, weight.grad)):
        assert relative_error(one, other) < most


@pytest.mark.parametrize("device", [pytest.param(GPU, marks=NEEDS_GPU)])
@pytest.mark.parametrize("norm", ["batch", "none", "group"])
def test_a_network_answers_on_a_gpu_what_it_answers_on_the_cpu(device, norm):
    network = tiny_network(norm=norm).eval()
    x = torch.rand(1, 1, 16, 24, 20)
    with torch.no_grad():
        on_cpu = network(x)
        network.to(device=device, memory_format=fastest_memory_format(device))
        on_gpu = network(x.to(device)).cpu()
    assert torch.allclose(on_gpu, on_cpu, atol=1e-4)


@pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")
def test_the_kernels_compute_the_same_in_tritons_interpreter(bundle_dir):
    done = subprocess.run(
        [sys.executable, "-c", IN_INTERPRETER],
        cwd=bundle_dir,
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_without_kernels_a_gpu_gets_its_channels_apart(monkeypatch):
    monkeypatch.setattr("scripts.networks.gpu_layers.HAS_KERNELS", False)
    assert fastest_memory_format("cuda:0") == torch.contiguous_format
    assert fastest_memory_format("cpu") == torch.channels_last_3d
