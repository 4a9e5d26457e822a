"""Exported networks in the place of the network."""

import shutil
import sys
import warnings

import pytest
import torch
from scripts.backends.choice import program_of, with_backend
from scripts.backends.onnx import OnnxNetwork, export_onnx, fits
from scripts.backends.torchscript import export_torchscript, load_torchscript
from scripts.errors import InputError, InputWarning
from scripts.inference.inferers import TomogramInferer
from scripts.networks.model_card import checked_card, read_card, record_sha256, record_thresholds, sha256_of, write_card
from scripts.networks.recipe import ON_WINDOWS
from scripts.training.spheres import Spheres
from synthetic import make_species, tiny_network, write_weights

WINDOWS = torch.rand(2, 1, 17, 20, 31, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    """Return the files of one tiny network: TorchScript, and ONNX for windows of any size."""
    folder, network = tmp_path_factory.mktemp("exports"), tiny_network()
    weights = write_weights(folder / "weights.pt", network)
    export_torchscript(network, weights, folder / "model.ts")
    export_onnx(network, weights, folder / "model.onnx", (16, 24, 32))
    return folder


def answer_of(network, windows=WINDOWS):
    with torch.no_grad():
        return network(windows)


def test_a_torchscript_file_answers_like_the_network(exports):
    found = load_torchscript(exports / "model.ts")
    assert not found.training
    assert torch.allclose(answer_of(found), answer_of(tiny_network().eval()), atol=1e-5)


@pytest.mark.filterwarnings("ignore:.*beside it")
def test_a_torchscript_file_with_2d_kernels_takes_the_memory_format_of_volumes(tmp_path):
    torch.jit.script(torch.nn.Conv2d(2, 3, 3)).save(tmp_path / "model.ts")
    found = load_torchscript(tmp_path / "model.ts").to(memory_format=torch.channels_last_3d)
    assert next(found.parameters()).is_contiguous(memory_format=torch.channels_last)


def test_an_onnx_file_answers_like_the_network_for_windows_of_any_size(exports):
    found = OnnxNetwork(exports / "model.onnx")
    for shape in ((2, 1, 17, 20, 31), (1, 1, 16, 24, 32)):
        windows = torch.rand(shape)
        assert torch.allclose(answer_of(found, windows), answer_of(tiny_network().eval(), windows), atol=1e-3)


def test_an_onnx_file_is_run_by_as_many_threads_as_torch_is_set_to(exports):
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            session = OnnxNetwork(exports / "model.onnx").session
            assert session.get_session_options().intra_op_num_threads == threads
    finally:
        torch.set_num_threads(before)


def test_windows_of_an_export_are_cut_like_those_of_the_network(exports):
    network = tiny_network()
    for found in (load_torchscript(exports / "model.ts"), OnnxNetwork(exports / "model.onnx")):
        for name in ON_WINDOWS:
            assert getattr(found, name) == getattr(network, name), f"{type(found).__name__}.{name}"


def test_a_record_names_what_runs_an_export(exports):
    found = [program_of(load_torchscript(exports / "model.ts")), program_of(OnnxNetwork(exports / "model.onnx"))]
    assert found == ["torch", "onnxruntime"]


@pytest.mark.parametrize(("widths", "least"), [((32, 64), (48, 63)), ((64, 128), (101, 112))])  # as measured
def test_an_export_is_known_to_need_its_programs_memory(widths, least, tmp_path):
    network = tiny_network(norm="batch", widths=widths, output_stride=2, align_corners=False)
    weights = write_weights(tmp_path / "model.pt", network)
    export_torchscript(network, weights, tmp_path / "model.ts")
    export_onnx(network, weights, tmp_path / "model.onnx", (16, 24, 32))
    found = load_torchscript(tmp_path / "model.ts"), OnnxNetwork(tmp_path / "model.onnx")
    assert all(limit < one.values_per_voxel < 1.5 * limit for one, limit in zip(found, least, strict=True))


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_a_trace_is_known_to_need_what_a_script_does(exports, tmp_path):
    shutil.copy(exports / "model.json", tmp_path)
    torch.jit.trace(tiny_network().eval(), torch.rand(1, 1, 16, 24, 32)).save(tmp_path / "model.ts")
    record_sha256(tmp_path / "model.ts")
    script, trace = (load_torchscript(folder / "model.ts") for folder in (exports, tmp_path))
    assert trace.values_per_voxel == script.values_per_voxel > tiny_network().values_per_voxel


def test_an_onnx_file_for_one_window_refuses_others(exports):
    found = OnnxNetwork(exports / "model.onnx")
    found.input_shape = [1, 1, 16, 24, 32]  # as the file states it when it is exported without dynamic axes
    assert answer_of(found, torch.rand(1, 1, 16, 24, 32)).shape == (1, 2, 16, 24, 32)
    with pytest.raises(InputError, match=r"takes windows of shape \[1, 1, 16, 24, 32\]; got \[2, 1, 17, 20, 31\]"):
        found(WINDOWS)
    thin = torch.rand(1, 1, 9, 24, 40)
    inferer = TomogramInferer((16, 24, 32), overlap_voxels=4, precision="float32")
    with torch.no_grad():
        assert torch.allclose(inferer(thin, found), inferer(thin, tiny_network().eval()), atol=1e-2)  # and is filled


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


@pytest.mark.parametrize(("load", "command"), [(load_torchscript, "torchscript"), (OnnxNetwork, "onnx")])
def test_a_missing_file_is_refused_with_the_command_that_makes_it(load, command, tmp_path):
    with pytest.raises(InputError, match=f"no such file. Make it with: python -m monai.bundle run {command}"):
        load(tmp_path / "none")


@pytest.mark.filterwarnings("ignore:.*beside it")
@pytest.mark.parametrize("load", [load_torchscript, OnnxNetwork])
def test_a_file_of_another_kind_is_refused(load, tmp_path):
    (tmp_path / "model").write_bytes(b"no network")
    with pytest.raises(InputError, match=r"is no .* file, or it is damaged or cut short"):
        load(tmp_path / "model")


@pytest.mark.filterwarnings("ignore:.*beside it")
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


@pytest.mark.parametrize(("load", "name"), [(load_torchscript, "model.ts"), (OnnxNetwork, "model.onnx")])
def test_an_export_is_of_the_species_and_the_painter_of_its_card(load, name, exports):
    load(exports / name, make_species(2), Spheres())
    with pytest.raises(InputError, match=rf"{name} was trained on 2 species, a, b; the species file has 3"):
        load(exports / name, make_species(3))
    with pytest.raises(InputError, match=rf"{name} was trained on other targets than the settings say"):
        load(exports / name, painter="rings")


def test_both_exports_stand_in_one_card(exports):
    card = read_card(exports / "model.ts")
    assert card["weights_sha256"] == {name: sha256_of(exports / name) for name in ("model.ts", "model.onnx")}
    assert {**card, "weights_sha256": None} == {**read_card(exports / "weights.pt"), "weights_sha256": None}


def test_an_export_that_the_card_does_not_list_is_used_with_a_warning(exports, tmp_path):
    for name in ("model.ts", "model.json"):
        shutil.copy(exports / name, tmp_path)
    write_card(tmp_path / "model.ts", {**read_card(tmp_path / "model.ts"), "weights_sha256": {}})
    with pytest.warns(InputWarning, match=r"is used unchecked: .* Record it with: python -m scripts.networks.model_"):
        load_torchscript(tmp_path / "model.ts")
    record_sha256(tmp_path / "model.ts")
    with warnings.catch_warnings():
        warnings.simplefilter("error", InputWarning)
        load_torchscript(tmp_path / "model.ts")


def test_an_export_that_was_replaced_is_refused(exports, tmp_path):
    shutil.copy(exports / "model.json", tmp_path)
    torch.jit.script(tiny_network(seed=2)).save(tmp_path / "model.ts")
    with pytest.raises(InputError, match="is not the file that"):
        load_torchscript(tmp_path / "model.ts")


def test_an_export_does_not_take_the_place_of_another_models_card(exports, tmp_path):
    write_weights(tmp_path / "model.pt", tiny_network(norm="instance"))
    with pytest.raises(InputError, match=r"model\.json describes another model: set another export_path"):
        export_torchscript(tiny_network(), exports / "weights.pt", tmp_path / "model.ts")
    assert not (tmp_path / "model.ts").exists()


def test_an_export_is_repeated_after_a_fit_of_the_thresholds(exports, tmp_path):
    weights = write_weights(tmp_path / "weights.pt", tiny_network())
    export_torchscript(tiny_network(), weights, tmp_path / "else" / "net.ts")
    (tmp_path / "else" / "net.onnx").write_bytes(b"of the same weights")
    record_sha256(tmp_path / "else" / "net.onnx")
    record_thresholds(weights, {"a": 0.25}, ["TS_1"])
    export_torchscript(tiny_network(), weights, tmp_path / "else" / "net.ts")
    card = checked_card(tmp_path / "else" / "net.ts")
    assert card["species"]["a"]["probability_threshold"] == 0.25
    assert sorted(card["weights_sha256"]) == ["net.onnx", "net.ts"]


def test_weights_without_a_card_are_not_exported_under_one(exports, tmp_path):
    write_weights(tmp_path / "model.pt", tiny_network())
    (tmp_path / "bare.pt").write_bytes((tmp_path / "model.pt").read_bytes())
    with pytest.raises(InputError, match=r"model\.json describes another model: set another export_path"):
        export_torchscript(tiny_network(), tmp_path / "bare.pt", tmp_path / "model.ts")


def test_an_export_of_other_weights_replaces_one_that_stands_alone(exports, tmp_path):
    for norm in ("group", "instance"):
        weights = write_weights(tmp_path / f"{norm}.pt", tiny_network(norm=norm))
        export_torchscript(tiny_network(norm=norm), weights, tmp_path / "net.ts")
        assert checked_card(tmp_path / "net.ts")["network_def"]["norm"] == norm


def test_an_exported_file_that_is_compiled_keeps_its_stated_memory(exports):
    found = load_torchscript(exports / "model.ts")
    assert with_backend(found, "compile").values_per_voxel == found.values_per_voxel
