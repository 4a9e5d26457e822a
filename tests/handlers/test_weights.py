from types import SimpleNamespace

import pytest
import torch
from scripts.handlers.weights import AverageWeights, GradientClipHandler


def test_gradients_are_clipped():
    layer = torch.nn.Linear(1, 1)
    layer.weight.grad, layer.bias.grad = torch.tensor([[30.0]]), torch.tensor([40.0])
    GradientClipHandler(layer, max_norm=1.0)(None)
    assert torch.allclose(layer.weight.grad, torch.tensor([[0.6]]))
    with pytest.raises(ValueError, match="gradient_norm is a number above 0; got 0"):
        GradientClipHandler(layer, 0)


def test_averaged_weights_follow_the_network():
    network, averaged = torch.nn.Linear(1, 1, bias=False), torch.nn.Linear(1, 1, bias=False)
    handler = AverageWeights(network, averaged, momentum=0.5)
    with torch.no_grad():
        network.weight.fill_(1.0)
        handler.take_over(None)
        network.weight.fill_(3.0)
    handler(SimpleNamespace(state=SimpleNamespace(iteration=1000)))
    assert averaged.weight.item() == 2.0
    handler(SimpleNamespace(state=SimpleNamespace(iteration=2)))  # young: 10 / 12 of the way
    assert averaged.weight.item() == pytest.approx(2 + 10 / 12)
    assert network.weight.item() == 3.0


def test_running_statistics_are_averaged_too():
    network, averaged = torch.nn.BatchNorm1d(2), torch.nn.BatchNorm1d(2)
    network.running_mean.fill_(5.0)
    network.num_batches_tracked.fill_(7)
    AverageWeights(network, averaged, 0.1)(SimpleNamespace(state=SimpleNamespace(iteration=90)))
    assert averaged.running_mean.tolist() == [0.5, 0.5]
    assert averaged.num_batches_tracked.item() == 7
    assert not averaged.training
