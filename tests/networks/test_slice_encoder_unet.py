"""What can be told of the network without timm; the rest is in tests/with_timm."""

import builtins
import sys

import pytest
import torch
import torch.nn.functional as F
from scripts.errors import InputError
from scripts.networks.model_card import network_of
from scripts.networks.slice_encoder_unet import PooledPairs, SliceEncoderUNet, shuffled_up
from synthetic import tiny_network, write_weights


@pytest.fixture
def without_timm(monkeypatch):
    """Let ``import timm`` fail as if it were not installed."""
    monkeypatch.setitem(sys.modules, "timm", None)


@pytest.fixture
def with_a_torchvision_for_another_torch(monkeypatch):
    """Let ``import timm`` fail as it does with a torchvision that was built for another torch."""
    plain = builtins.__import__

    def fail(name, *args, **kwargs):
        if name == "timm":
            raise RuntimeError("operator torchvision::nms does not exist")
        return plain(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", fail)


def test_without_timm_the_message_says_what_to_install(without_timm):
    with pytest.raises(InputError, match=r"^network_def SliceEncoderUNet needs timm: pip install timm$"):
        SliceEncoderUNet()


def test_weights_with_a_backbone_of_timm_say_so_too(without_timm, tmp_path):
    network = tiny_network()
    network.recipe = {"_target_": "scripts.networks.slice_encoder_unet.SliceEncoderUNet", "out_channels": 2}
    with pytest.raises(InputError, match="needs timm: pip install timm"):
        network_of(write_weights(tmp_path / "weights.pt", network))


def test_a_torchvision_that_does_not_fit_is_named(with_a_torchvision_for_another_torch):
    with pytest.raises(InputError, match=r"\(operator torchvision::nms does not exist\): install the torchvision"):
        SliceEncoderUNet()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"decoder_widths": (8, 16)}, r"decoder_widths needs one entry per stage, 4; got \(8, 16\)"),
        ({"depth_pooling": "sum"}, "depth_pooling is mean or max; got 'sum'"),
        ({"finest_stage": 4}, "finest_stage is a whole number from 0 to 3; got 4"),
        ({"output_stride": 4}, "output_stride is 1 or 2; got 4"),
        ({"activation": "tanh"}, "activation is gelu or relu; got 'tanh'"),
        ({"prior": 1.0}, r"prior is a number above 0 and less than 1; got 1\.0"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        SliceEncoderUNet(**settings)


def test_channels_become_voxels_as_pixel_shuffle_does_it():
    x = torch.rand(2, 3 * 16, 5, 6, 7)
    wanted = F.pixel_shuffle(x.transpose(1, 2), 4).transpose(1, 2)
    assert torch.equal(shuffled_up(x, (1, 4, 4)), wanted)
    first_layers = shuffled_up(x.unflatten(1, (3, 4, 4))[:, :, 0].flatten(1, 2), (1, 2, 2))
    assert torch.equal(shuffled_up(x, (4, 2, 2))[:, :, ::4], first_layers)


@pytest.mark.parametrize(("depth_pooling", "wanted"), [("mean", [1.5, 6.0]), ("max", [2.0, 9.0])])
def test_pairs_of_slices_are_pooled(depth_pooling, wanted):
    slices = torch.tensor([1.0, 2.0, 3.0, 9.0]).reshape(4, 1, 1, 1).expand(4, 2, 3, 5)
    assert PooledPairs(depth_pooling)(slices)[:, 1, 2, 4].tolist() == wanted
