"""MONAI's own commands accept the bundle."""

import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from monai.bundle import ckpt_export, onnx_export, verify_metadata, verify_net_in_out
from synthetic import tiny_network, write_weights

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "bundle" / "configs"
SCHEMA = ROOT.parent / "shared" / "data" / "schema" / "meta_schema_20240725.json"
FILES = {"meta_file": str(CONFIGS / "metadata.json"), "config_file": str(CONFIGS / "inference.json")}
HERE = {"bundle_root": str(ROOT / "bundle")}


@pytest.fixture
def weights(tmp_path):
    return write_weights(tmp_path / "weights.pt", tiny_network(out_channels=5))


@pytest.mark.skipif(not SCHEMA.exists(), reason="the schema is not at hand, and nothing is downloaded")
def test_the_metadata_follows_the_schema(tmp_path):
    shutil.copy(SCHEMA, tmp_path / "schema.json")
    verify_metadata(meta_file=FILES["meta_file"], filepath=str(tmp_path / "schema.json"))


def test_the_network_has_the_inputs_and_outputs_of_the_metadata():
    verify_net_in_out(net_id="network_def", device="cpu", **FILES, **HERE)


def test_the_torchscript_export_gives_the_same_logits(weights, tmp_path):
    path = tmp_path / "model.ts"
    ckpt_export(
        net_id="network_def", filepath=str(path), ckpt_file=str(weights), checkpoint_path=str(weights), **FILES, **HERE
    )
    windows = torch.rand(1, 1, 17, 20, 31)
    with torch.no_grad():
        expected = tiny_network(out_channels=5).eval()(windows)
        assert torch.allclose(torch.jit.load(path).eval()(windows), expected, atol=1e-5)


def test_the_onnx_export_gives_the_same_logits_for_the_window_of_the_metadata(weights, tmp_path):
    path = tmp_path / "model.onnx"
    onnx_export(
        net_id="network_def", filepath=str(path), ckpt_file=str(weights), checkpoint_path=str(weights), **FILES, **HERE
    )
    session = onnxruntime.InferenceSession(path)
    (given,) = session.get_inputs()
    windows = np.random.default_rng(0).random(given.shape, dtype=np.float32)
    with torch.no_grad():
        expected = tiny_network(out_channels=5).eval()(torch.from_numpy(windows)).numpy()
    assert np.allclose(session.run(None, {given.name: windows})[0], expected, atol=1e-3)
