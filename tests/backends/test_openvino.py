"""A network run by OpenVINO."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from scripts.backends import openvino
from scripts.backends.openvino import OpenVinoNetwork, converted, is_installed
from scripts.errors import InputError
from scripts.networks import recipe
from synthetic import tiny_network
from torch import nn

BUNDLE = Path(__file__).resolve().parents[2] / "bundle"
needs_openvino = pytest.mark.skipif(not is_installed(), reason="OpenVINO is not installed")
WINDOWS = torch.rand(2, 1, 17, 20, 31, generator=torch.Generator().manual_seed(0))
LARGE = torch.rand(1, 1, 65, 97, 128, generator=torch.Generator().manual_seed(0))


class Doubled(nn.Module):
    """Twice the window."""

    def forward(self, windows):
        return 2 * windows


class SizeInside(nn.Module):
    """Adds the length of the window as a plain number, which a trace keeps."""

    def forward(self, windows):
        return windows + int(windows.shape[-1])


def answer_of(network, windows=WINDOWS):
    with torch.no_grad():
        return network(windows)


@needs_openvino
@pytest.mark.parametrize(
    "settings",
    [
        {"norm": "group"},
        {"norm": "none", "output_stride": 2, "align_corners": False},
        {"norm": "layer", "activation": "relu"},
    ],
)
def test_openvino_answers_like_the_network(settings):
    network = tiny_network(**settings).eval()
    found = OpenVinoNetwork(network)
    for windows in (WINDOWS, LARGE, WINDOWS[:1]):
        assert torch.allclose(answer_of(found, windows), answer_of(network, windows), atol=2e-3)


@needs_openvino
def test_bfloat16_is_coarser_and_answers_in_float32():
    network = tiny_network(norm="none").eval()
    answer = OpenVinoNetwork(network, torch.bfloat16)(WINDOWS)
    assert answer.dtype == torch.float32
    assert (answer.sigmoid() - answer_of(network).sigmoid()).abs().max() < 0.05


@needs_openvino
def test_the_weights_are_those_at_the_first_window():
    network, other = tiny_network().eval(), tiny_network(seed=2).eval()
    found = OpenVinoNetwork(network)
    network.load_state_dict(other.state_dict())
    assert torch.allclose(found(WINDOWS), answer_of(other), atol=2e-3)


@needs_openvino
def test_autocast_and_the_order_in_memory_make_no_difference():
    network = tiny_network(norm="none").eval().to(memory_format=torch.channels_last_3d)
    found = OpenVinoNetwork(network)
    with torch.autocast("cpu", torch.bfloat16):
        answer = found(WINDOWS.to(memory_format=torch.channels_last_3d))
    assert torch.allclose(answer, answer_of(network), atol=2e-3)


@needs_openvino
def test_an_answer_stays_as_it_is_when_the_next_window_comes():
    found = OpenVinoNetwork(tiny_network().eval())
    first = found(WINDOWS[:1])
    kept = first.clone()
    second = found(WINDOWS[1:])
    assert torch.equal(first, kept)
    assert not torch.equal(first, second)


@needs_openvino
def test_a_network_for_windows_of_any_size_is_converted_once(monkeypatch):
    shapes = []
    plain = openvino.traced
    monkeypatch.setattr(openvino, "traced", lambda network, shape: shapes.append(tuple(shape)) or plain(network, shape))
    found = OpenVinoNetwork(tiny_network(norm="none").eval())
    for windows in (LARGE, LARGE, WINDOWS, LARGE):
        found(windows)
    assert shapes == [(1, 33, 33, 32)]


@needs_openvino
@pytest.mark.parametrize("first", [96, 100])
def test_windows_that_need_padding_come_after_windows_that_need_none(first):
    network = tiny_network(norm="none", output_stride=2, align_corners=False).eval()
    found = OpenVinoNetwork(network)
    for size in (first, 96, 100, 90):
        windows = torch.rand(1, 1, size, 128, 128, generator=torch.Generator().manual_seed(size))
        assert torch.allclose(answer_of(found, windows), answer_of(network, windows), atol=2e-3)


@needs_openvino
def test_a_wider_network_is_known_to_need_more_memory():
    narrow, wide = (OpenVinoNetwork(tiny_network(norm="none", widths=widths)) for widths in ((32, 64), (64, 128)))
    assert wide.values_per_voxel > 1.5 * narrow.values_per_voxel


@needs_openvino
def test_a_network_that_knows_the_size_of_its_windows_is_converted_for_each():
    model, shape = converted(SizeInside(), (1, 65, 97, 128))
    assert shape == (1, 65, 97, 128)
    assert len(model.outputs) == 1
    found = OpenVinoNetwork(SizeInside())
    for windows in (LARGE, WINDOWS):
        assert torch.allclose(found(windows), windows + windows.shape[-1])


@needs_openvino
def test_windows_from_several_threads_are_answered_one_at_a_time():
    network = tiny_network(norm="none").eval()
    found, windows = OpenVinoNetwork(network), [WINDOWS, LARGE, WINDOWS[:1], WINDOWS[1:]]
    assert found.has_own_threads
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(found, windows))
    for answer, one in zip(answers, windows, strict=True):
        assert torch.allclose(answer, answer_of(network, one), atol=2e-3)


@needs_openvino
def test_memory_can_be_given_back_between_windows():
    found = OpenVinoNetwork(tiny_network().eval())
    found.release_memory()
    first = found(WINDOWS)
    found.release_memory()
    assert torch.equal(found(WINDOWS), first)


@needs_openvino
def test_openvino_sends_and_writes_nothing_about_its_use(tmp_path):
    program = (
        "import os, torch; from scripts.backends.openvino import OpenVinoNetwork; "
        "OpenVinoNetwork(torch.nn.Conv3d(1, 2, 3))(torch.rand(1, 1, 8, 8, 8)); print(os.environ.get('CI'))"
    )
    own = {name: value for name, value in os.environ.items() if name not in ("CI", "TF_BUILD", "JENKINS_URL")}
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=BUNDLE,
        env={**own, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "None\n"
    assert not list(tmp_path.glob("[!.]*"))  # its folder "intel", with an identification of the user


@needs_openvino
def test_a_network_of_two_outputs_is_refused_in_one_line():
    class Two(nn.Module):
        def forward(self, windows):
            return windows, 2 * windows

    with pytest.raises(InputError, match=r"OpenVINO does not take Two: it has 2 outputs.*Set backend to 'torch'") as e:
        OpenVinoNetwork(Two())(WINDOWS)
    assert "\n" not in str(e.value)


@needs_openvino
def test_windows_elsewhere_than_on_the_cpu_are_refused():
    with pytest.raises(InputError, match=r"runs on the CPU, the windows are on meta: set backend to 'torch'"):
        OpenVinoNetwork(Doubled())(WINDOWS.to("meta"))


@needs_openvino
def test_what_others_ask_the_network_for_is_there():
    network = tiny_network(norm="none", output_stride=2, align_corners=False)
    found = OpenVinoNetwork(network)
    stated = {name: getattr(network, name) for name in recipe.ASKED_FOR if hasattr(network, name)}
    assert {"output_stride", "stride", "recipe"} <= set(stated)
    assert found.values_per_voxel > stated.pop("values_per_voxel")  # OpenVINO holds more
    assert {name: getattr(found, name) for name in stated} == stated
    for name in ("output_stride", "values_per_voxel"):  # a large number is assumed
        assert not hasattr(OpenVinoNetwork(Doubled()), name)


def test_float16_is_refused():
    with pytest.raises(InputError, match=r"not in torch\.float16: set precision"):
        OpenVinoNetwork(Doubled(), torch.float16)


def test_without_openvino_the_remedy_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert not is_installed()
    with pytest.raises(InputError, match=r"pip install 'openvino>="):
        OpenVinoNetwork(Doubled())
