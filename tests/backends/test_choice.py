"""Which program runs the network."""

import re
import sys
import warnings

import pytest
import torch
from scripts.backends import choice
from scripts.backends.choice import CheckedNetwork, largest_difference, program_of, with_backend
from scripts.errors import InputError, InputWarning
from synthetic import tiny_network
from torch import nn

WINDOWS = torch.zeros(1, 2, 3, 4, 5)


class Stand(nn.Module):
    """Answers a window with a number added, and counts the windows."""

    has_own_threads = True

    def __init__(self, added=0.0, error=None, step=1):
        super().__init__()
        self.added, self.error, self.step, self.count = added, error, step, 0

    def forward(self, windows):
        self.count += 1
        if self.error is not None:
            raise self.error
        return windows[..., :: self.step] + self.added


@pytest.fixture
def fake(monkeypatch):
    """Replace OpenVINO by a stand-in that is there on every machine."""
    made = []

    def make(network, dtype):
        made.append((network, dtype))
        return Stand()

    monkeypatch.setattr(choice, "OpenVinoNetwork", make)
    monkeypatch.setattr(choice, "is_installed", lambda: True)
    return made


def test_a_stand_in_that_agrees_answers_all_windows():
    network, fast = Stand(), Stand(added=0.01)
    found = CheckedNetwork(network, fast, tolerance=0.005)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        answers = [found(WINDOWS) for _ in range(3)]
    assert [float(answer.max()) for answer in answers] == pytest.approx([0.01] * 3)  # whichever comes first
    assert (network.count, fast.count) == (1, 3)
    assert found.has_own_threads


def test_a_stand_in_that_differs_is_not_used_and_the_difference_is_told():
    network, fast = Stand(), Stand(added=0.1)  # 0.025 in probability
    found = CheckedNetwork(network, fast, tolerance=0.02)
    with pytest.warns(InputWarning, match=r"Stand differs from torch by up to 0\.025 in probability .* 0\.02 is allow"):
        found(WINDOWS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert float(found(WINDOWS).max()) == 0
    assert (network.count, fast.count) == (2, 1)
    assert not found.has_own_threads


@pytest.mark.parametrize(
    ("fast", "message"),
    [
        (Stand(added=float("nan")), "differs from torch by up to nan"),
        (Stand(step=2), r"answers with shape \(1, 2, 3, 4, 3\), torch with \(1, 2, 3, 4, 5\)"),
        (Stand(error=InputError("OpenVINO does not take Net: no reason.")), "OpenVINO does not take Net"),
        (
            Stand(error=RuntimeError("Exception from\nsrc/inference.cpp:1")),
            "Stand failed: Exception from src/inference",
        ),
    ],
)
def test_a_stand_in_that_fails_is_not_used(fast, message):
    found = CheckedNetwork(Stand(), fast, tolerance=0.5)
    with pytest.warns(InputWarning, match=f"{message}.* The network is run by torch instead"):
        assert torch.equal(found(WINDOWS), WINDOWS)
    assert torch.equal(found(WINDOWS), WINDOWS)
    assert fast.count == 1
    assert re.match(f"torch: .*{message}", found.fallback)


def test_the_largest_difference_of_all_channels_counts():
    others = WINDOWS.clone()
    others[0, 1, 2, 3, 4] = 40
    assert largest_difference(WINDOWS, others) == pytest.approx(0.5)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 0.005), (torch.bfloat16, 0.1)])
def test_auto_checks_openvino_with_the_tolerance_of_the_number_format(fake, dtype, tolerance):
    network = tiny_network(norm="none", output_stride=2, align_corners=False)
    found = with_backend(network, "auto", dtype)
    assert isinstance(found, CheckedNetwork)
    assert found.tolerance == tolerance
    assert fake == [(network, dtype)]
    assert (found.output_stride, found.recipe) == (2, network.recipe)


def test_auto_is_torch_on_gpus_in_float16_and_for_exported_networks(fake):
    network, exported = tiny_network(), torch.jit.script(tiny_network())
    assert with_backend(network, "auto", torch.bfloat16, "cuda:0") is network
    assert with_backend(network, "auto", torch.float16) is network
    assert with_backend(exported, "auto") is exported
    assert not fake


def test_auto_is_torch_without_a_word_where_openvino_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    network = tiny_network()
    assert with_backend(network) is network
    with pytest.raises(InputError, match="pip install"):
        with_backend(network, "openvino")


def test_torch_and_compile_do_what_they_say(fake):
    network = tiny_network(output_stride=2)
    assert with_backend(network, "torch") is network
    compiled = with_backend(network, "compile")
    assert isinstance(compiled, torch._dynamo.OptimizedModule)
    assert compiled.output_stride == 2
    assert compiled.values_per_voxel > network.values_per_voxel == tiny_network(output_stride=2).values_per_voxel
    on_gpu = with_backend(network, "compile", device="cuda:0")
    assert on_gpu.values_per_voxel == network.values_per_voxel
    assert not fake


def test_openvino_that_is_asked_for_is_not_checked(fake):
    assert isinstance(with_backend(tiny_network(), "openvino", torch.bfloat16), Stand)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"backend": "tensorrt"}, "backend is auto, torch, openvino or compile; got 'tensorrt'"),
        ({"backend": "openvino", "device": "cuda:0"}, "the device is cuda:0: set backend to 'auto'"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        with_backend(tiny_network(), **settings)


def test_openvino_does_not_take_exported_networks(fake):
    with pytest.raises(InputError, match="takes weights, not exported files"):
        with_backend(torch.jit.script(tiny_network()), "openvino")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_auto_answers_like_torch(dtype):
    pytest.importorskip("openvino")
    network = tiny_network(norm="none").eval()
    found, windows = with_backend(network, "auto", dtype), torch.rand(1, 1, 16, 24, 32)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        answers = [found(windows) for _ in range(2)]
        wanted = network(windows)
    assert found.fast is not None
    assert torch.equal(answers[0], answers[1])
    assert largest_difference(answers[0], wanted) < choice.TOLERANCES[dtype]


@pytest.mark.usefixtures("fake")
def test_a_record_names_the_program_that_runs_the_network():
    network = tiny_network()
    assert program_of(with_backend(network, "torch")) == "torch"
    assert program_of(with_backend(network, "auto")) == "openvino"
    assert program_of(with_backend(network, "compile")) == "compile"


@pytest.mark.parametrize(("by_torch", "is_torch"), [(70, True), (80, False), (120, False)])
def test_torch_answers_a_volume_of_which_it_computes_far_fewer_voxels(by_torch, is_torch):
    network, fast = Stand(), Stand()
    found = CheckedNetwork(network, fast, tolerance=0.005)
    chosen = found.program_for(lambda one: by_torch if one is network else 100)
    assert chosen is (network if is_torch else found)
    told = "torch: the windows of Stand, which needs more memory, have 1.4 times its voxels."
    assert found.fallback == (told if is_torch else "")
    assert found.program_for(lambda one: 100) is found
    assert found.fallback == ""


def test_a_stand_in_that_failed_stays_told_whatever_the_volume():
    found = CheckedNetwork(Stand(), Stand(error=RuntimeError("broken")), tolerance=0.005)
    with pytest.warns(InputWarning, match="Stand failed: broken"):
        found(WINDOWS)
    assert found.program_for(lambda one: pytest.fail("asked")) is found
    assert found.fallback == "torch: Stand failed: broken."
