import math

import numpy as np
import pytest
import torch
from monai.networks.utils import convert_to_onnx
from scripts.networks.convnext_unet import PRESETS, ConvNeXtUNet, LayerNorm3d, decoder_widths, make_norm, upsample
from scripts.networks.cpu_layers import DepthwiseConv3d
from synthetic import SHAPE, tiny_network
from torch import nn

SETTINGS = {
    "widths": (8, 16),
    "depths": (2, 1),
    "kernel_size": 5,
    "stem_stride": 4,
    "norm": "batch",
    "out_channels": 3,
    "in_channels": 2,
}


def count(network):
    return sum(parameter.numel() for parameter in network.parameters())


def noise(*shape, seed=1):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def network():
    return tiny_network().eval()


@pytest.fixture
def windows():
    return noise(2, 1, 7, 10, 13)


# The network as published


def test_the_full_network_has_the_published_number_of_parameters():
    assert count(ConvNeXtUNet()) == 12_231_365


def test_the_published_share_of_encoder_and_decoder():
    network = ConvNeXtUNet()
    decoder = count(network.grow) + count(network.head)
    assert (round((count(network) - decoder) / 1e6, 1), round(decoder / 1e6, 1)) == (9.8, 2.4)


def test_the_decoder_narrows_as_published():
    assert decoder_widths((64, 128, 256, 512)) == [128, 64, 32, 32]
    blocks = ConvNeXtUNet().grow
    assert [block.look_around.in_channels for block in blocks] == [512 + 256, 128 + 128, 64 + 64, 32]


def test_two_stages_are_enough_and_the_decoder_keeps_one_channel_at_least():
    assert decoder_widths((1, 2)) == [1, 1]


def test_an_encoder_block_adds_its_update_to_what_goes_in(network, windows):
    block = tiny_network().stages[0][0]
    nn.init.zeros_(block.narrow.weight)
    features = noise(1, 4, *SHAPE)
    assert torch.equal(block(features), features)


def test_a_decoder_block_adds_nothing_to_its_update():
    block = tiny_network().grow[1]
    nn.init.zeros_(block.narrow.weight)
    assert block(noise(1, 2, 5, 6, 7), None).abs().max() == 0


# The faster form: half of the resolution, a norm that does not depend on the window

FAST = {"norm": "none", "output_stride": 2, "align_corners": False}


def test_at_output_stride_2_the_finest_decoder_level_is_left_out():
    whole, half = ConvNeXtUNet(widths="compact"), ConvNeXtUNet(widths="compact", output_stride=2)
    left_out = {name for name, _ in whole.named_parameters()} - {name for name, _ in half.named_parameters()}
    assert {name.split(".")[1] for name in left_out} == {"3"}
    assert all(name.startswith("grow.3") for name in left_out)
    assert half.head.weight.shape == whole.head.weight.shape


@pytest.mark.parametrize("size", [(8, 12, 16), (7, 10, 13), (1, 2, 3)])
def test_at_output_stride_2_a_logit_covers_two_voxels_along_each_axis(size):
    answer = tiny_network(**FAST).eval()(noise(1, 1, *size))
    assert answer.shape[2:] == tuple(-(-axis // 2) for axis in size)


@pytest.mark.parametrize("norm", ["none", "batch", "layer"])
@pytest.mark.parametrize("start", [(0, 8, 0), (8, 8, 8), (4, 12, 8)])
def test_a_voxel_has_the_same_logit_in_every_window_that_starts_at_a_multiple_of_the_stride(norm, start):
    network = tiny_network(**{**FAST, "norm": norm}).eval()
    volume = noise(1, 1, 72, 72, 72)
    assert network.stride == 4
    assert not network.depends_on_window
    window = volume[..., *(slice(first, first + 56) for first in start)]
    with torch.no_grad():
        whole, part = network(volume), network(window)
    inside = whole[..., *(slice(first // 2, first // 2 + 28) for first in start)]
    middle = (..., *(slice(12, 16),) * 3)  # 24 voxels from the rims of the window
    torch.testing.assert_close(part[middle], inside[middle], atol=1e-5, rtol=1e-5)
    assert (part - inside).abs().max() > 1e-4  # near its rim a window lacks what is around it


@pytest.mark.parametrize("norm", ["group", "instance"])
def test_some_norms_make_an_answer_depend_on_the_window(norm):
    assert tiny_network(norm=norm).depends_on_window


def test_upsampling_without_aligned_corners_keeps_the_distances():
    ramp = torch.arange(6.0).reshape(1, 1, 6, 1, 1).expand(1, 1, 6, 2, 2)
    line = upsample(ramp, 2, align_corners=False)[0, 0, 1:-1, 0, 0]
    torch.testing.assert_close(line, torch.arange(0.25, 5, 0.5))


@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_an_untrained_network_without_norms_keeps_the_size_of_its_signal(activation):
    torch.manual_seed(0)
    network = ConvNeXtUNet(widths="compact", activation=activation, **FAST).eval()
    logits = network(0.5 + 0.2 * (noise(1, 1, 32, 48, 48) - 0.5) * math.sqrt(12))
    assert 0.1 < logits.std() < 2


def test_upsampling_keeps_the_corner_voxels():
    small = noise(1, 1, 2, 3, 4)
    large = upsample(small, 2, align_corners=True)
    assert large.shape == (1, 1, 4, 6, 8)
    assert torch.equal(large[..., [0, -1], :, :][..., [0, -1], :][..., [0, -1]], small[..., ::1, ::2, ::3])


@pytest.mark.parametrize("axis", [2, 3, 4])
def test_upsampling_draws_a_straight_line_from_the_first_to_the_last_voxel(axis):
    ramp = torch.tensor([0.0, 3.0]).reshape([2 if one == axis else 1 for one in range(5)])
    large = upsample(ramp, 2, align_corners=True).movedim(axis, 0)[:, 0, 0, 0, 0]
    assert large.tolist() == pytest.approx([0, 1, 2, 3])


# Shapes


def test_a_norm_of_every_voxel_keeps_the_shape():
    assert LayerNorm3d(4)(noise(2, 4, 5, 6, 7)).shape == (2, 4, 5, 6, 7)


@pytest.mark.parametrize("size", [SHAPE, (17, 23, 30), (1, 5, 9), (1, 1, 1), (8, 8, 8)])
@pytest.mark.parametrize("stem_stride", [1, 2, 4])
def test_every_window_size_comes_back(size, stem_stride):
    network = tiny_network(stem_stride=stem_stride, out_channels=3).eval()
    assert network(noise(2, 1, *size)).shape == (2, 3, *size)


@pytest.mark.parametrize("stem_stride", [1, 2, 4])
def test_the_stride_is_that_of_the_stem_doubled_by_every_further_stage(stem_stride):
    assert tiny_network(widths=(2, 4, 8), depths=(1, 1, 1), stem_stride=stem_stride).stride == 4 * stem_stride


def test_a_padded_window_gives_the_same_answer_as_zeros_at_its_far_end(network):
    window = noise(1, 1, 7, 10, 13)
    padded = torch.zeros(1, 1, 8, 12, 16)
    padded[:, :, :7, :10, :13] = window
    assert torch.equal(network(window), network(padded)[:, :, :7, :10, :13])


def test_voxel_i_of_the_answer_belongs_to_voxel_i_of_the_window():
    dark, bright = torch.zeros(1, 1, *SHAPE), torch.zeros(1, 1, *SHAPE)
    bright[0, 0, 6, 20, 10] = 50
    networks = [tiny_network(seed, norm="batch", widths=(8, 16)).eval() for seed in range(8)]
    change = torch.stack([(network(bright) - network(dark)).abs().sum(1)[0] for network in networks]).sum(0)
    indices = torch.stack(torch.meshgrid(*map(torch.arange, SHAPE), indexing="ij"))
    centre = (indices * change).sum((1, 2, 3)) / change.sum()
    torch.testing.assert_close(centre, torch.tensor([6.0, 20.0, 10.0]), atol=1.0, rtol=0)


def test_windows_of_a_batch_do_not_touch_each_other(network, windows):
    torch.testing.assert_close(network(windows)[1:], network(windows[1:]))


# Settings


@pytest.mark.parametrize("setting", SETTINGS)
def test_every_setting_changes_the_layers(setting):
    changed = tiny_network(**{setting: SETTINGS[setting]})
    assert str(changed) != str(tiny_network())


def test_the_norm_changes_the_answer(windows):
    answers = [tiny_network(norm=norm)(windows) for norm in ("group", "instance", "batch", "layer")]
    assert not torch.allclose(answers[0], answers[1])
    assert not torch.allclose(answers[0], answers[2])
    assert not torch.allclose(answers[1], answers[2])


@pytest.mark.parametrize(
    ("norm", "axes"),
    [("group", (1, 2, 3, 4)), ("instance", (2, 3, 4)), ("batch", (0, 2, 3, 4)), ("layer", (1,))],
)
def test_every_norm_takes_its_own_axes_together(norm, axes):
    features = noise(2, 6, 4, 5, 3) * torch.arange(1, 7).reshape(6, 1, 1, 1)
    answer = make_norm(norm, 6)(features)
    assert answer.mean(axes).abs().max() < 1e-4
    assert (answer.std(axes, correction=0) - 1).abs().max() < 1e-3


def test_group_keeps_the_differences_between_channels():
    features = noise(1, 6, 4, 5, 3) + torch.arange(6).reshape(6, 1, 1, 1)
    means = make_norm("group", 6)(features).mean((0, 2, 3, 4))
    assert (means.diff() > 0.1).all()


def test_presets_are_names_for_widths():
    assert PRESETS == {"full": (64, 128, 256, 512), "compact": (32, 64, 128, 256)}
    compact = ConvNeXtUNet(widths="compact")
    assert [stage[0].look_around.in_channels for stage in compact.stages] == [32, 64, 128, 256]


def test_depths_count_the_blocks_of_each_stage():
    network = tiny_network(widths=(2, 4, 8), depths=(1, 3, 2))
    assert [len(stage) for stage in network.stages] == [1, 3, 2]


def test_kernel_size_is_that_of_every_depthwise_convolution():
    layers = [layer for layer in tiny_network(kernel_size=5).modules() if isinstance(layer, DepthwiseConv3d)]
    assert {layer.kernel_size for layer in layers} == {(5, 5, 5)}
    assert len(layers) == 4


@pytest.mark.parametrize("norm", ["group", "instance"])
def test_a_signal_keeps_its_size_through_the_untrained_network_and_a_constant_gets_lost(norm):
    torch.manual_seed(0)
    network = ConvNeXtUNet(widths=(16, 32, 64), depths=(2, 2, 2), norm=norm, prior=0.5).eval()
    noise = 0.1 * torch.randn(1, 1, 24, 32, 40)
    with torch.no_grad():
        logits = network(0.5 + noise)
        stem = network.stem[0](0.5 + noise)
    assert 0.2 < logits.std() < 3
    assert stem.mean((0, 2, 3, 4)).abs().max() < 0.05 * stem.std()


@pytest.mark.parametrize("prior", [1e-3, 0.25])
def test_the_head_begins_at_the_prior(prior, windows):
    network = tiny_network(prior=prior).eval()
    torch.testing.assert_close(torch.sigmoid(network.head.bias), torch.full((2,), prior))
    assert network(windows).sigmoid().mean().item() == pytest.approx(prior, rel=0.5)


def test_without_a_word_the_prior_is_one_in_a_thousand():
    assert tiny_network().head.bias.tolist() == pytest.approx([math.log(0.001 / 0.999)] * 2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"widths": "huge"}, r"widths must be numbers of channels or one of \['full', 'compact'\]; got 'huge'"),
        ({"widths": (4, 8, 16)}, r"one entry per stage, two stages or more; got \[4, 8, 16\] and \(1, 1\)"),
        ({"widths": (4,), "depths": (1,)}, r"one entry per stage, two stages or more; got \[4\] and \(1,\)"),
        ({"kernel_size": 4}, "kernel_size must be odd to keep the volume's shape; got 4"),
        ({"kernel_size": -1}, "kernel_size is a whole number, 1 or more; got -1"),
        ({"stem_stride": 0}, "stem_stride is a whole number, 1 or more; got 0"),
        ({"norm": "no"}, r"norm must be one of \('group', 'instance', 'batch', 'layer', 'none'\); got 'no'"),
        ({"activation": "tanh"}, "activation is gelu or relu; got 'tanh'"),
        ({"output_stride": 4}, "output_stride must be 1 or stem_stride, 2; got 4"),
        ({"prior": 0}, "prior is a number above 0 and less than 1; got 0"),
        ({"prior": 1.0}, r"prior is a number above 0 and less than 1; got 1\.0"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        tiny_network(**settings)


# Training


@pytest.mark.parametrize("norm", ["group", "instance", "batch", "layer"])
@pytest.mark.parametrize("stem_stride", [1, 2, 4])
def test_the_gradient_reaches_every_parameter(norm, stem_stride):
    network = tiny_network(norm=norm, stem_stride=stem_stride)
    network(noise(2, 1, 8, 12, 16)).square().mean().backward()
    still = [name for name, parameter in network.named_parameters() if not parameter.grad.abs().sum() > 0]
    assert still == []


def test_a_few_steps_learn_a_bright_spot():
    network = tiny_network(out_channels=1, prior=0.1)
    volume = noise(1, 1, 8, 12, 16)
    volume[..., 3:6, 5:8, 9:12] += 3
    target = (volume > 2).float()
    optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
    losses = []
    for _ in range(25):
        losses.append(nn.functional.binary_cross_entropy_with_logits(network(volume), target))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.3 * losses[0]


# Other forms of the network


def test_weights_save_and_load(windows):
    first, second = tiny_network(seed=0).eval(), tiny_network(seed=1).eval()
    assert not torch.equal(first(windows), second(windows))
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(windows), second(windows))


@pytest.mark.parametrize("norm", ["group", "instance", "batch", "layer"])
@pytest.mark.parametrize("training", [True, False])
def test_channels_last_gives_the_same_logits(norm, training, windows):
    plain, last = (tiny_network(norm=norm).train(training) for _ in range(2))
    last = last.to(memory_format=torch.channels_last_3d)
    answer = last(windows.to(memory_format=torch.channels_last_3d))
    torch.testing.assert_close(answer, plain(windows), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("norm", ["group", "instance", "batch", "layer"])
def test_torchscript_gives_the_same_logits_at_any_size(norm, windows):
    network = tiny_network(norm=norm).eval()
    scripted = torch.jit.script(network)
    for one in (windows, noise(1, 1, 9, 4, 6)):
        torch.testing.assert_close(scripted(one), network(one))


def test_onnx_gives_the_same_logits(network, windows):
    onnxruntime = pytest.importorskip("onnxruntime")
    model = convert_to_onnx(network, [windows], use_trace=False)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (answer,) = session.run(None, {session.get_inputs()[0].name: windows.numpy()})
    np.testing.assert_allclose(answer, network(windows).detach(), atol=1e-4)
