"""Coarser levels of a network learn with it, and leave no trace in it."""

import pytest
import torch
from monai.losses import DeepSupervisionLoss
from scripts.errors import InputError
from scripts.inference.inferers import WindowInferer
from scripts.networks.convnext_unet import ConvNeXtUNet
from scripts.training.auxiliary_heads import AuxiliaryHeads
from scripts.training.losses import KnownVoxels
from torch import nn

WINDOW = (16, 48, 32)


@pytest.fixture
def network():
    torch.manual_seed(0)
    return ConvNeXtUNet(1, 3, (4, 8, 8, 8), (1, 1, 1, 1), output_stride=2, align_corners=False, norm="batch")


@pytest.fixture
def windows():
    return torch.rand(2, 1, *WINDOW, generator=torch.Generator().manual_seed(1))


def test_in_training_each_level_answers_at_its_own_resolution(network, windows):
    heads = AuxiliaryHeads(network, ["grow.1", "grow.0"], 3, WINDOW)
    answers = WindowInferer("float32")(windows, heads)
    assert [tuple(answer.shape) for answer in answers] == [(2, 3, 8, 24, 16), (2, 3, 4, 12, 8), (2, 3, 2, 6, 4)]
    assert answers[1].sigmoid().mean().item() == pytest.approx(1e-3, rel=1)


def test_a_block_of_the_encoder_may_be_a_level(network, windows):
    answers = WindowInferer("float32")(windows, AuxiliaryHeads(network, ["stages.1.0"], 3, WINDOW))
    assert [tuple(answer.shape) for answer in answers] == [(2, 3, 8, 24, 16), (2, 3, 4, 12, 8)]


def test_the_network_itself_does_not_change(network, windows):
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with torch.no_grad():
        expected = network.eval()(windows)
    heads = AuxiliaryHeads(network.train(), ["grow.1", "grow.0"], 3, WINDOW)
    assert network.training
    assert {name: torch.equal(value, before[name]) for name, value in network.state_dict().items()} == dict.fromkeys(
        before, True
    )
    with torch.no_grad():
        assert torch.equal(heads.eval()(windows), expected)
    heads.train()(windows)
    assert not any(module._forward_hooks for module in network.modules())


def test_the_loss_is_that_of_every_level_with_halved_weights(network, windows):
    heads = AuxiliaryHeads(network, ["grow.1", "grow.0"], 3, WINDOW)
    target = (torch.rand(2, 3, 8, 24, 16, generator=torch.Generator().manual_seed(2)) < 0.1).float()
    target[:, 0] = torch.nan  # not annotated
    plain = KnownVoxels(nn.BCEWithLogitsLoss())
    answers = heads(windows)
    value = DeepSupervisionLoss(plain)(answers, target)
    steps = (1, 2, 4)
    expected = sum(
        0.5**level * plain(answer, target[:, :, step // 2 :: step, step // 2 :: step, step // 2 :: step])
        for level, (answer, step) in enumerate(zip(answers, steps, strict=True))
    )
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)
    value.backward()
    assert all(head.weight.grad[0].eq(0).all() for head in heads.heads)  # of the species that is not annotated
    assert all(head.weight.grad[1:].ne(0).any() for head in heads.heads)
    assert network.grow[0].narrow.weight.grad.ne(0).any()


@pytest.mark.parametrize(
    ("levels", "window", "message"),
    [
        ([], WINDOW, r"auxiliary_levels \[\]: name modules of ConvNeXtUNet, such as .*grow\.0"),
        (["grow.7"], WINDOW, r"auxiliary_levels \['grow.7'\]: name modules"),
        (["stages.0"], WINDOW, "stages.0 does not answer with a volume"),  # its blocks are called one by one
        (["grow.0"], (16, 24, 32), r"\[16, 24, 32\]: .* must be multiples of \[16, 16, 16\]"),
    ],
)
def test_a_level_that_cannot_answer_is_refused(network, levels, window, message):
    with pytest.raises(InputError, match=message):
        AuxiliaryHeads(network, levels, 3, window)


def test_an_output_that_is_no_volume_is_refused():
    class Pooled(nn.Sequential):
        pass

    network = Pooled(nn.Conv3d(1, 3, 1), nn.AdaptiveAvgPool3d(1), nn.Flatten())
    with pytest.raises(InputError, match="2 does not answer with a volume"):
        AuxiliaryHeads(network, ["2"], 3, WINDOW)
