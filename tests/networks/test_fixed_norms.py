"""Batch norms with fixed statistics are computed as a part of the convolutions."""

import pytest
import torch
from scripts.networks.convnext_unet import answers_in_slabs
from synthetic import tiny_network
from torch import nn

FORMS = [{}, {"output_stride": 2, "align_corners": False, "activation": "relu"}]


def windows(count, side=24):
    return torch.rand((count, 1, side, side, side), generator=torch.Generator().manual_seed(count))


def trained(**settings):
    """Return a network whose norms have factors, shifts and statistics of their own."""
    network = tiny_network(norm="batch", widths=(4, 8, 16), depths=(1, 2, 1), **settings)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for part in network.modules():
            if isinstance(part, nn.BatchNorm3d):
                for parameter in part.parameters():
                    parameter.add_(torch.rand(parameter.shape, generator=generator))
        for _ in range(5):
            network.train()(windows(2))
    return network.eval()


@pytest.mark.parametrize("form", FORMS)
def test_a_trained_network_answers_as_if_its_norms_were_computed_one_by_one(form):
    network = trained(**form)
    scripted = torch.jit.script(network)  # TorchScript computes one layer after the other
    norms = [part for part in network.modules() if isinstance(part, nn.BatchNorm3d)]
    calls = []
    for norm in norms:
        norm.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        ours = network(windows(3))
        assert len(calls) == 1  # only the last norm of the encoder, which no convolution follows
        plain = scripted(windows(3))
    torch.testing.assert_close(ours, plain, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last_3d])
@pytest.mark.parametrize("norm", ["batch", "none"])
@pytest.mark.parametrize("kernel_size", [1, 3, 5])
def test_without_gradients_blocks_are_computed_slab_by_slab_with_the_same_result(
    norm, kernel_size, memory_format, monkeypatch
):
    monkeypatch.setattr("scripts.networks.convnext_unet.SLAB_VALUES", 3000)
    settings = {"widths": (4, 8, 16), "depths": (1, 2, 1), "kernel_size": kernel_size, **FORMS[1]}
    network = tiny_network(norm=norm, **settings).eval().to(memory_format=memory_format)
    window = windows(2, side=28)
    in_one = network(window)  # with gradients
    assert not answers_in_slabs(window, network.last_norm, training=False)
    with torch.no_grad():
        assert answers_in_slabs(window, nn.Identity(), training=False)
        torch.testing.assert_close(network(window), in_one, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_in_training_the_statistics_are_those_of_the_windows(form):
    network = trained(**form).train()
    before = network.stem[1].running_mean.clone()
    network(windows(2) + 1)
    assert not torch.equal(network.stem[1].running_mean, before)
