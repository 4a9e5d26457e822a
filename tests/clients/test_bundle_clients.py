"""MONAI's own ways to a bundle, on the published one from another folder."""

import json
import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pytest
import torch
from documented import commands_of
from monai.bundle import ConfigParser, ckpt_export, create_workflow, init_bundle, load, run_workflow
from monai.data import MetaTensor, load_net_with_metadata

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def torchscript(published):
    """Export the published network as TorchScript; return the file."""
    configs, path = published / "configs", published / "models" / "model.ts"
    ckpt_export(
        net_id="network_def", filepath=str(path), ckpt_file=str(published / "models" / "model.pt"),
        meta_file=str(configs / "metadata.json"), config_file=str(configs / "inference.json"),
        bundle_root=str(published),
    )  # fmt: skip
    return path


@pytest.fixture(scope="module")
def network(published):
    """Return the network with the published weights, made by no client."""
    from scripts.networks.model_card import network_of
    from scripts.networks.weights import load_weights

    weights = published / "models" / "model.pt"
    return load_weights(network_of(weights), weights)


def logits_of(network):
    with torch.no_grad():
        return network.eval()(torch.rand(1, 1, 17, 20, 31, generator=torch.Generator().manual_seed(0)))


def test_load_makes_the_network_out_of_the_config(published, network):
    given = {"bundle_dir": str(published.parent), "workflow_type": "inference"}
    found = load(published.name, args_file={"bundle_root": str(published)}, **given)
    assert torch.allclose(logits_of(found), logits_of(network), atol=1e-3)  # another memory order rounds otherwise


def test_load_fills_a_network_that_is_given(published, network):
    from scripts.networks.model_card import network_of

    given = network_of(published / "models" / "model.pt")
    found = load(published.name, model=given, bundle_dir=str(published.parent))
    assert torch.allclose(logits_of(found), logits_of(network), atol=1e-3)  # another memory order rounds otherwise


def test_load_takes_the_torchscript_file(published, network, torchscript):
    given = {"bundle_dir": str(published.parent), "load_ts_module": True, "config_files": ("inference.json",)}
    found, metadata, more = load(published.name, **given)
    assert torch.allclose(logits_of(found), logits_of(network), atol=1e-3)
    assert metadata["version"] == json.loads((published / "configs" / "metadata.json").read_text())["version"]
    built_by = json.loads(more["inference.json"])["network_def"]["_target_"]
    assert built_by == "scripts.networks.ensemble.network_of_files"


def settings_of(published, dataset_dir, output_dir):
    return {
        "bundle_root": str(published), "dataset_dir": str(dataset_dir), "output_dir": str(output_dir),
        "inference_window_size": [16, 32, 32], "precision": "float32", "logging_file": False,
    }  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*scores may be wrong")  # of noise
def test_run_workflow_picks_from_another_folder(published, dataset_dir, tmp_path):
    config = str(published / "configs" / "inference.json")
    run_workflow(
        "ConfigWorkflow", config_file=config, workflow_type="infer", **settings_of(published, dataset_dir, tmp_path)
    )
    assert {"picks.csv", "one", "two"} <= {path.name for path in tmp_path.iterdir()}


def test_the_command_picks_from_another_folder(published, dataset_dir, tmp_path, run_command):
    (tmp_path / "empty").mkdir()
    config = published / "configs" / "inference.json"
    line = f"python -m monai.bundle run --config_file {config} --bundle_root {published} --dataset_dir {dataset_dir}"
    run_command(f"{line} --output_dir {tmp_path / 'picks'}", tmp_path / "empty")
    assert (tmp_path / "picks" / "picks.csv").exists()
    assert not list((tmp_path / "empty").iterdir())


def test_the_bundle_has_every_file_of_monais_template(published, tmp_path):
    init_bundle(tmp_path / "template", dataset_license=True)
    wanted = {path.relative_to(tmp_path / "template") for path in (tmp_path / "template").rglob("*") if path.is_file()}
    assert Path("configs/metadata.json") in wanted
    assert {path for path in wanted if not (published / path).is_file()} == set()


@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_a_compiled_network_gives_the_same_picks(published, dataset_dir, tmp_path):
    if shutil.which("c++") is None:
        pytest.skip("torch.compile needs a C++ compiler")
    target = "scripts.networks.convnext_unet.ConvNeXtUNet"
    small = {"network_def": {"_target_": target, "widths": [4, 8], "depths": [1, 1]}, "load_pretrain": False}
    thresholds = dict.fromkeys(json.loads((published / "configs" / "species.json").read_text())["species"], 0.001)
    thresholds.pop("beta-amylase")
    picks = {}
    for compiled in (False, True):
        torch.manual_seed(0)
        made = create_workflow(
            config_file=str(published / "configs" / "inference.json"), workflow_type="infer",
            backend="compile" if compiled else "torch", probability_thresholds=thresholds, **small,
            **settings_of(published, dataset_dir, tmp_path / str(compiled)),
        )  # fmt: skip
        made.run()
        table = np.genfromtxt(tmp_path / str(compiled) / "picks.csv", delimiter=",", skip_header=1)
        picks[compiled] = table[:, 3:7]
        compiled_network = made.parser.get_parsed_content("evaluator").network
        assert isinstance(compiled_network, torch._dynamo.OptimizedModule) is compiled
    assert len(picks[True]) > 0
    assert np.allclose(picks[True], picks[False], atol=0.01)


@pytest.mark.filterwarnings("ignore")  # MLflow's own
def test_mlflow_tracks_a_training(published, dataset_dir, tmp_path, monkeypatch):
    pytest.importorskip("mlflow", reason="make test-clients installs MLflow")
    monkeypatch.chdir(tmp_path)
    made = create_workflow(
        config_file=str(published / "configs" / "train.json"), workflow_type="train", tracking="mlflow",
        epochs=1, val_interval=1, windows_per_epoch=2, window_size=[16, 32, 32],
        **{"network_def#widths": [4, 8], "network_def#depths": [1, 1]},
        **settings_of(published, dataset_dir, tmp_path / "trained"),
    )  # fmt: skip
    made.run()
    with sqlite3.connect(tmp_path / "trained" / "mlruns.db") as database:
        keys = {key for (key,) in database.execute("select distinct key from metrics")}
        assert database.execute("select status from runs").fetchall() == [("FINISHED",)]
    assert {"train_loss", "score", "f4_ribosome"} <= keys


@pytest.mark.filterwarnings("ignore:.*scores may be wrong")  # of noise
def test_the_items_that_monai_deploy_reads_turn_a_volume_into_picks(published, torchscript, dataset_dir):
    """MONAI Deploy's bundle operator goes by names; its package needs a CUDA runtime, so its steps are done here."""
    names = ("inference.json",)
    network, metadata, more = load_net_with_metadata(str(torchscript), more_extra_files=names)
    assert set(metadata["network_data_format"]["inputs"]) == {"image"}
    assert set(metadata["network_data_format"]["outputs"]) == {"pred"}
    parser = ConfigParser(json.loads(more["inference.json"]))
    parser["bundle_root"] = str(published)
    preprocessing, postprocessing = (
        [step for step in parser.get_parsed_content(name).transforms if "LoadImage" not in type(step).__name__]
        for name in ("preprocessing", "postprocessing")
    )
    import mrcfile

    volume = mrcfile.read(dataset_dir / "one.mrc")
    affine = torch.diag(torch.tensor([10.012, 10.012, 10.012, 1.0], dtype=torch.float64))
    meta = {"affine": affine, "original_affine": affine.numpy(), "filename_or_obj": "one.mrc"}
    sample = {"image": MetaTensor(torch.from_numpy(volume)[None], meta=meta)}
    for step in preprocessing:
        sample = step(sample)
    with torch.no_grad():
        sample["pred"] = parser.get_parsed_content("inferer")(sample["image"][None], network)[0]
    for step in postprocessing:
        sample = step(sample)
    assert sample["pred"].shape == (1, *volume.shape)
    assert sample["result"]["run"] == "one"


def page_commands():
    page = (ROOT / "bundle" / "docs" / "README.md").read_text()
    return [pytest.param(line, id=line.split("--")[0] + line[-40:]) for line in commands_of(page)]


@pytest.fixture(scope="module")
def working_copy(published, tmp_path_factory):
    """Return a copy of the published folder that commands may write into."""
    folder = tmp_path_factory.mktemp("working") / published.name
    shutil.copytree(published, folder)
    return folder


@pytest.mark.parametrize("line", page_commands())
def test_the_commands_of_the_bundles_page_run(line, working_copy, dataset_dir, run_command):
    if "trt" in line:
        pytest.skip("TensorRT needs an NVIDIA GPU")
    line = line.replace("/workspace/data/tomograms", str(dataset_dir))
    line = line.replace("/workspace/data/simulated", str(working_copy / "simulated"))
    before = {path: path.stat().st_mtime_ns for path in working_copy.rglob("*") if path.is_file()}
    run_command(line, working_copy)
    after = {path: path.stat().st_mtime_ns for path in working_copy.rglob("*") if path.is_file()}
    assert after != before, "the command wrote nothing"


def read_picks(path):
    return [line.split(",")[1:] for line in path.read_text().splitlines()[1:]]


@pytest.mark.parametrize("kind", ["ts", "onnx"])
def test_an_export_picks_the_sample_like_the_network(kind, working_copy, tmp_path, run_command):
    """After the commands of the page, which make the exports."""
    configs = f"['configs/inference.json','configs/inference_{kind}.json']"
    line = f'python -m monai.bundle run --config_file "{configs}" --precision float32 --output_dir {tmp_path}'
    run_command(f"{line} --dataset_dir {ROOT / 'sample'}", working_copy, shorten=False)
    found, golden = read_picks(tmp_path / "picks.csv"), read_picks(ROOT / "tests" / "golden" / "picks.csv")
    assert abs(len(found) - len(golden)) <= 1  # a score at its threshold may fall on either side
    for _, name, *place in found:
        same = np.array([row[2:5] for row in golden if row[1] == name], dtype=float)
        gap = np.linalg.norm(same - np.array(place[:3], dtype=float), axis=1).min()
        assert gap < 1.0, f"{name} at {place[:3]} is {gap:.2f} Å from the network's"
