import math

import numpy as np
import pytest
import torch
from monai.networks.utils import convert_to_onnx
from scripts import network as network_module
from scripts.network import (
    PRESETS,
    ConvNeXtUNet,
    DepthwiseConv3d,
    LayerNorm3d,
    decoder_widths,
    make_norm,
    mix,
    upsample,
)
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
def many_blocks(monkeypatch):
    """Let training on a CPU mix channels block by block, few voxels at a time."""
    monkeypatch.setattr(network_module, "HIDDEN_LARGE", 0)
    monkeypatch.setattr(network_module, "HIDDEN_BLOCK", 1000)


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
    assert block(noise(1, 2, 5, 6, 7)).abs().max() == 0


def test_upsampling_keeps_the_corner_voxels():
    small = noise(1, 1, 2, 3, 4)
    large = upsample(small, 2)
    assert large.shape == (1, 1, 4, 6, 8)
    assert torch.equal(large[..., [0, -1], :, :][..., [0, -1], :][..., [0, -1]], small[..., ::1, ::2, ::3])


@pytest.mark.parametrize("axis", [2, 3, 4])
def test_upsampling_draws_a_straight_line_from_the_first_to_the_last_voxel(axis):
    ramp = torch.tensor([0.0, 3.0]).reshape([2 if one == axis else 1 for one in range(5)])
    large = upsample(ramp, 2).movedim(axis, 0)[:, 0, 0, 0, 0]
    assert large.tolist() == pytest.approx([0, 1, 2, 3])


# Shapes


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
        ({"widths": (4, 8, 16)}, r"one entry per stage, two stages or more; got \(4, 8, 16\) and \(1, 1\)"),
        ({"widths": (4,), "depths": (1,)}, r"one entry per stage, two stages or more; got \(4,\) and \(1,\)"),
        ({"kernel_size": 4}, "kernel_size must be positive and odd to keep the volume's shape; got 4"),
        ({"kernel_size": -1}, "kernel_size must be positive and odd to keep the volume's shape; got -1"),
        ({"stem_stride": 0}, "stem_stride must be 1 voxel or more; got 0"),
        ({"norm": "none"}, r"norm must be one of \('group', 'instance', 'batch', 'layer'\); got 'none'"),
        ({"prior": 0}, "prior is a probability, 0 < prior < 1; got 0"),
        ({"prior": 1.0}, r"prior is a probability, 0 < prior < 1; got 1\.0"),
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


def test_in_training_a_depthwise_convolution_stays_in_float32_under_autocast():
    layer, features = DepthwiseConv3d(4, 3).train(), noise(1, 4, 5, 6, 7)
    with torch.autocast("cpu", torch.bfloat16):
        answer = layer(features.bfloat16())
    assert torch.equal(answer, layer(features.bfloat16().float()))
    assert answer.dtype == torch.float32


def test_out_of_training_a_depthwise_convolution_follows_autocast():
    layer = DepthwiseConv3d(4, 3).eval()
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(noise(1, 4, 5, 6, 7)).dtype == torch.bfloat16


def plain_forward(network, x):
    """Return the logits by one plain layer after the other, for windows that need no padding."""

    def block(layers, x):
        seen = layers.norm(nn.Conv3d.forward(layers.look_around, x))
        return layers.narrow(nn.functional.gelu(layers.widen(seen)))

    def enlarge(x, factor):
        return nn.functional.interpolate(x, scale_factor=factor, mode="trilinear", align_corners=True)

    x, skips = network.stem(x), []
    for stage, shrink in zip(network.stages, [*network.shrink, network.last_norm], strict=True):
        for layers in stage:
            x = x + block(layers, x)
        skips.append(x)
        x = shrink(x)
    for layers, skip in zip(network.grow, skips[-2::-1], strict=False):
        x = block(layers, torch.cat([enlarge(x, 2), skip], dim=1))
    return network.head(block(network.grow[-1], enlarge(x, network.stem_stride)))


def gradients_of(answer, inputs):
    weights = noise(*answer.shape, seed=9).to(answer.device) - 0.5
    return torch.autograd.grad((answer.float() * weights).sum(), inputs)


def assert_equal_up_to_rounding(ours, plain, share=1e-5):
    for our, expected in zip(ours, plain, strict=True):
        assert (our - expected).norm() <= share * expected.norm()


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last_3d])
@pytest.mark.parametrize("blocked", [False, True])
def test_training_gives_the_logits_and_gradients_of_plain_layers(memory_format, blocked, request):
    if blocked:
        request.getfixturevalue("many_blocks")
    network = tiny_network(widths=(4, 8, 16), depths=(1, 2, 1)).to(memory_format=memory_format)
    x, parameters = noise(2, 1, 16, 24, 32), list(network.parameters())
    ours, plain = network(x), plain_forward(network, x)
    torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-5)
    assert_equal_up_to_rounding(gradients_of(ours, parameters), gradients_of(plain, parameters), 2e-5)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last_3d])
@pytest.mark.parametrize("kernel_size", [1, 3, 5])
@pytest.mark.parametrize("size", [(7, 6, 9), (2, 3, 4), (1, 1, 1)])
def test_the_gradients_of_a_depthwise_convolution_are_those_of_a_plain_one(memory_format, kernel_size, size):
    layer = DepthwiseConv3d(16, kernel_size).train()
    x = noise(2, 16, *size).to(memory_format=memory_format).requires_grad_()
    ours, plain = (gradients_of(answer, [x, layer.weight]) for answer in (layer(x), nn.Conv3d.forward(layer, x)))
    assert_equal_up_to_rounding(ours, plain)


def test_the_gradient_of_a_depthwise_kernel_stays_exact_over_many_voxels():
    layer = DepthwiseConv3d(16, 3).train()
    x, gradient = noise(1, 16, 64, 96, 96) + 1, noise(1, 16, 64, 96, 96, seed=2) - 0.5
    x, gradient = (one.contiguous(memory_format=torch.channels_last_3d) for one in (x, gradient))
    layer(x).backward(gradient)
    exact = (x.double() * gradient.double()).sum((0, 2, 3, 4))
    assert_equal_up_to_rounding([layer.weight.grad[:, 0, 1, 1, 1]], [exact])


def mixing(bias):
    x = (noise(2, 3, 5, 6, 7) - 0.5).requires_grad_()
    widen, narrow = (noise(*shape, 1, 1, 1, seed=2).sub(0.5).requires_grad_() for shape in ((24, 3), (4, 24)))
    return [x, widen, narrow, *([noise(4).requires_grad_()] if bias else [])]


@pytest.mark.parametrize("bias", [False, True])
def test_mixing_in_blocks_gives_the_answer_and_gradients_of_plain_layers(bias, many_blocks):
    inputs = mixing(bias)
    ours, plain = mix(*inputs, training=True), mix(*inputs, training=False)
    assert "MixOnCpu" in str(ours.grad_fn.next_functions) + str(ours.grad_fn)
    assert "MixOnCpu" not in str(plain.grad_fn)
    torch.testing.assert_close(ours, plain)
    assert_equal_up_to_rounding(gradients_of(ours, inputs), gradients_of(plain, inputs))


def test_mixing_in_blocks_follows_autocast_and_keeps_gradients_in_float32(many_blocks):
    inputs = mixing(bias=True)
    with torch.autocast("cpu", torch.bfloat16):
        ours = mix(*inputs, training=True)
    assert ours.dtype == torch.bfloat16
    gradients = gradients_of(ours, inputs)
    assert {gradient.dtype for gradient in gradients} == {torch.float32}
    assert_equal_up_to_rounding(gradients, gradients_of(mix(*inputs), inputs), 0.02)


@pytest.mark.parametrize("layer", [DepthwiseConv3d(4, 5), LayerNorm3d(4)])
def test_a_layer_keeps_the_shape(layer):
    assert layer(noise(2, 4, 5, 6, 7)).shape == (2, 4, 5, 6, 7)


def test_a_depthwise_convolution_keeps_the_channels_apart():
    layer, features = DepthwiseConv3d(3, 3), noise(1, 3, 5, 6, 7)
    other = features.clone()
    other[:, 1] = 0
    differs = (layer(features) != layer(other)).flatten(2).any(2)[0]
    assert differs.tolist() == [False, True, False]


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
