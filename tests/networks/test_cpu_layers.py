import pytest
import torch
from scripts.networks import cpu_layers
from scripts.networks.cpu_layers import DepthwiseConv3d, activate, double, mix
from synthetic import tiny_network
from torch import nn


def noise(*shape, seed=1):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def many_blocks(monkeypatch):
    """Let training on a CPU mix channels block by block, few voxels at a time."""
    monkeypatch.setattr(cpu_layers, "HIDDEN_LARGE", 0)
    monkeypatch.setattr(cpu_layers, "HIDDEN_BLOCK", 1000)


@pytest.mark.parametrize("training", [True, False])
def test_a_depthwise_convolution_follows_autocast(training):
    layer, features = DepthwiseConv3d(4, 3, bias=True).train(training), noise(1, 4, 5, 6, 7)
    with torch.autocast("cpu", torch.bfloat16):
        answer = layer(features)
    assert answer.dtype == torch.bfloat16
    torch.testing.assert_close(answer.float(), layer(features), atol=0.01, rtol=0.02)


def test_under_autocast_the_gradient_of_a_depthwise_kernel_stays_in_float32():
    layer, features = DepthwiseConv3d(16, 3, bias=True).train(), noise(1, 16, 12, 20, 20) - 0.5
    exact = gradients_of(layer(features), [layer.weight, layer.bias])
    with torch.autocast("cpu", torch.bfloat16):
        rounded = gradients_of(layer(features), [layer.weight, layer.bias])
    assert {gradient.dtype for gradient in rounded} == {torch.float32}
    assert_equal_up_to_rounding(rounded, exact, 0.01)


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [(2, 3, 4), (1, 5, 1)])
def test_the_gradient_of_doubling_is_that_of_torch(size, dtype):
    x = noise(2, 4, *size).to(dtype).requires_grad_()
    ours, plain = double(x), nn.functional.interpolate(x, scale_factor=2, mode="trilinear", align_corners=False)
    assert torch.equal(ours, plain)
    assert "DoubleOnCpu" in str(ours.grad_fn)
    share = 1e-5 if dtype == torch.float32 else 0.01
    assert_equal_up_to_rounding(gradients_of(ours, [x]), gradients_of(plain, [x]), share)


@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_without_gradients_mixing_in_blocks_gives_the_answer_of_plain_layers(activation, many_blocks):
    inputs = [tensor.detach() for tensor in mixing(bias=True)]
    plain = nn.functional.conv3d(activate(nn.functional.conv3d(inputs[0], inputs[1]), activation), *inputs[2:])
    with torch.no_grad():
        torch.testing.assert_close(mix(*inputs, activation=activation), plain)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
def test_mixing_in_blocks_keeps_the_layout(layout, many_blocks):
    x, *others = (tensor.detach() for tensor in mixing(bias=True))
    with torch.no_grad():
        assert mix(x.contiguous(memory_format=layout), *others).is_contiguous(memory_format=layout)


@pytest.mark.parametrize("activation", ["gelu", "relu"])
@pytest.mark.parametrize("bias", [False, True])
def test_mixing_in_blocks_gives_the_answer_and_gradients_of_plain_layers(bias, activation, many_blocks):
    inputs = mixing(bias)
    inputs = inputs if bias else [*inputs, None]
    ours, plain = (mix(*inputs, training=training, activation=activation) for training in (True, False))
    inputs = inputs[: 3 + bias]
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


def test_a_depthwise_convolution_keeps_the_shape():
    assert DepthwiseConv3d(4, 5)(noise(2, 4, 5, 6, 7)).shape == (2, 4, 5, 6, 7)


def test_a_depthwise_convolution_keeps_the_channels_apart():
    layer, features = DepthwiseConv3d(3, 3), noise(1, 3, 5, 6, 7)
    other = features.clone()
    other[:, 1] = 0
    differs = (layer(features) != layer(other)).flatten(2).any(2)[0]
    assert differs.tolist() == [False, True, False]
