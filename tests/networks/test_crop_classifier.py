import pytest
import torch
from scripts.networks.crop_classifier import CropClassifier, channels_of_cubes
from scripts.networks.recipe import build_network
from synthetic import tiny_classifier


def crops(size=8, count=3):
    return torch.rand(count, 1, size, size, size, generator=torch.Generator().manual_seed(0))


def test_a_crop_gives_one_logit_per_class():
    assert CropClassifier(6)(crops(32, 2)).shape == (2, 6)


def test_the_voxels_of_a_cube_become_channels():
    volume = torch.arange(64.0).reshape(1, 1, 4, 4, 4)
    channels = channels_of_cubes(volume)
    assert channels.shape == (1, 8, 2, 2, 2)
    assert channels[0, :, 1, 0, 1].tolist() == volume[0, 0, 2:, :2, 2:].flatten().tolist()


def test_the_folded_network_answers_like_the_network():
    network = tiny_classifier()
    for _ in range(3):  # statistics that are not those of the start
        network(5 * crops() - 1)
    network.eval()
    folded = network.folded()
    assert torch.allclose(folded(crops()), network(crops()), atol=1e-5)
    assert not any(isinstance(part, torch.nn.BatchNorm3d) for part in folded.modules())
    assert any(isinstance(part, torch.nn.BatchNorm3d) for part in network.modules())
    low = network.folded(torch.bfloat16)(crops().bfloat16())
    assert torch.allclose(low.float(), network(crops()), atol=0.1)


def test_it_is_built_again_from_its_recipe():
    network = tiny_classifier()
    again = build_network(network.recipe, "a card")
    again.load_state_dict(network.state_dict())
    assert torch.equal(again.eval()(crops()), network.eval()(crops()))


def test_a_crop_size_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="crop_size must be divisible by 8; got 20"):
        CropClassifier(3, crop_size=20)
