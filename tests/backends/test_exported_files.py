"""Exported networks in the place of the network."""

import json
import sys
import warnings
from types import SimpleNamespace

import pytest
import torch
from scripts.backends.onnx import OnnxNetwork, fits
from scripts.backends.torchscript import load_torchscript
from scripts.errors import InputError, InputWarning
from scripts.networks.weights import record_sha256
from synthetic import tiny_network

pytestmark = pytest.mark.filterwarnings("ignore")  # torch's own, about TorchScript and ONNX

WINDOWS = torch.rand(2, 1, 17, 20, 31, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    """Return the files of one tiny network: TorchScript, and ONNX for windows of any size."""
    folder = tmp_path_factory.mktemp("exports")
    network = tiny_network().eval()
    torch.jit.script(network).save(folder / "model.ts")
    axes = {"image": {0: "batch", 2: "z", 3: "y", 4: "x"}}
    torch.onnx.export(
        network, (torch.rand(1, 1, 16, 24, 32),), folder / "model.onnx", input_names=["image"], dynamic_axes=axes
    )
    return folder


def answer_of(network, windows=WINDOWS):
    with torch.no_grad():
        return network(windows)


def test_a_torchscript_file_answers_like_the_network(exports):
    found = load_torchscript(exports / "model.ts")
    assert not found.training
    assert torch.allclose(answer_of(found), answer_of(tiny_network().eval()), atol=1e-5)


def test_an_onnx_file_answers_like_the_network_for_windows_of_any_size(exports):
    found = OnnxNetwork(exports / "model.onnx")
    for shape in ((2, 1, 17, 20, 31), (1, 1, 16, 24, 32)):
        windows = torch.rand(shape)
        assert torch.allclose(answer_of(found, windows), answer_of(tiny_network().eval(), windows), atol=1e-3)


def test_an_onnx_file_for_one_window_refuses_others(exports):
    found = OnnxNetwork(exports / "model.onnx")
    found.input_shape = [1, 1, 16, 24, 32]  # as the file states it when it is exported without dynamic axes
    assert answer_of(found, torch.rand(1, 1, 16, 24, 32)).shape == (1, 2, 16, 24, 32)
    with pytest.raises(InputError, match=r"takes windows of shape \[1, 1, 16, 24, 32\]; got \[2, 1, 17, 20, 31\]"):
        found(WINDOWS)


@pytest.mark.parametrize(
    ("shape", "wanted", "answer"),
    [
        ((1, 1, 8), [1, 1, 8], True),
        ((1, 1, 8), ["batch", 1, "z"], True),
        ((1, 2, 8), ["batch", 1, "z"], False),
        ((1, 1), ["batch", 1, "z"], False),
    ],
)
def test_a_shape_fits_where_every_numbered_axis_does(shape, wanted, answer):
    assert fits(torch.Size(shape), wanted) is answer


@pytest.mark.parametrize(("load", "command"), [(load_torchscript, "ckpt_export"), (OnnxNetwork, "onnx_export")])
def test_a_missing_file_is_refused_with_the_command_that_makes_it(load, command, tmp_path):
    with pytest.raises(InputError, match=f"no such file. Make it with: python -m monai.bundle {command}"):
        load(tmp_path / "none")


@pytest.mark.parametrize("load", [load_torchscript, OnnxNetwork])
def test_a_file_of_another_kind_is_refused(load, tmp_path):
    (tmp_path / "model").write_bytes(b"no network")
    with pytest.raises(InputError, match=r"is no .* file, or it is damaged or cut short"):
        load(tmp_path / "model")


def test_a_flipped_byte_in_a_torchscript_file_is_seen(exports, tmp_path):
    content = bytearray((exports / "model.ts").read_bytes())
    place = content.index(b"/data/0") + 200  # inside of the first tensor
    content[place] ^= 1
    (tmp_path / "model.ts").write_bytes(content)
    with pytest.raises(InputError, match="damaged"):
        load_torchscript(tmp_path / "model.ts")


def test_without_onnxruntime_the_remedy_is_named(exports, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(InputError, match="pip install onnxruntime"):
        OnnxNetwork(exports / "model.onnx")


@pytest.fixture
def bundle(tmp_path, exports):
    """Return a folder with ``models/model.ts`` and metadata that do not list it."""
    folder = SimpleNamespace(model=tmp_path / "models" / "model.ts", metadata=tmp_path / "configs" / "metadata.json")
    for path, content in ((folder.model, (exports / "model.ts").read_bytes()), (folder.metadata, b"{}")):
        path.parent.mkdir()
        path.write_bytes(content)
    return folder


def test_an_export_that_the_metadata_do_not_list_is_used_with_a_warning(bundle):
    with pytest.warns(InputWarning, match=r"is used unchecked: .* Record it with: python -m scripts.networks.weights"):
        load_torchscript(bundle.model, bundle.metadata)


def test_a_recorded_export_is_checked(bundle):
    record_sha256(bundle.model, bundle.metadata)
    with warnings.catch_warnings():
        warnings.simplefilter("error", InputWarning)
        load_torchscript(bundle.model, bundle.metadata)
    bundle.metadata.write_text(json.dumps({"weights_sha256": {"model.ts": "0" * 64}}))
    with pytest.raises(InputError, match="is not the file that"):
        load_torchscript(bundle.model, bundle.metadata)
