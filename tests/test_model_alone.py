"""Whoever has the weights and their card needs nothing else: network and species are named once, in the training."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow
from scripts.errors import find_input_error
from scripts.networks.model_card import read_card, species_of
from scripts.networks.weights import read_tensors
from scripts.picks import read_csv
from scripts.volumes.labels import draw_spheres
from synthetic import noise, write_mrc

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "bundle" / "configs"
SHAPE, VOXEL_SIZE = (24, 40, 48), 8.0


def run_configs(names, kind, run_id=None, **settings):
    made = ConfigWorkflow(
        config_file=[str(CONFIGS / name) for name in names], workflow_type=kind, bundle_root=str(ROOT / "bundle"),
        logging_file=False, device=torch.device("cpu"), **settings,
    )  # fmt: skip
    made.initialize()
    if run_id is not None:
        made.run_id = run_id
    made.run()
    return made


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Weights of three species at 8 Å with other widths and depths and another norm, and their tomograms."""
    folder, rows = tmp_path_factory.mktemp("trained"), ["experiment,particle_type,x,y,z"]
    one = json.loads((CONFIGS / "species.json").read_text())["species"]["ribosome"]
    species = {
        name: {**one, "label": label, "probability_threshold": 0.001} for label, name in enumerate("abc", start=1)
    }
    (folder / "species.json").write_text(json.dumps({"voxel_size_angstrom": VOXEL_SIZE, "species": species}))
    for seed, run in enumerate(("one", "two")):
        volume = noise(seed, SHAPE) + 6 * draw_spheres(SHAPE, [(12, 10, 12), (14, 30, 20)], 5)
        write_mrc(folder / "data" / f"{run}.mrc", volume, VOXEL_SIZE)
        rows += [
            f"{run},{name},{x * VOXEL_SIZE},{10 * VOXEL_SIZE},{96.0}"
            for name, x in zip("abc", (12, 20, 30), strict=True)
        ]
    (folder / "data" / "truth.csv").write_text("\n".join(rows))
    run_configs(
        ["train.json"], "train", dataset_dir=str(folder / "data"), output_dir=str(folder / "out"), epochs=1,
        windows_per_epoch=2, window_size=[16, 24, 24], validation_runs=["two"], val_interval=1, precision="float32",
        inference_window_size=list(SHAPE), species_path=str(folder / "species.json"),
        **{"network_def#widths": [4, 6, 8], "network_def#depths": [1, 2, 1], "network_def#norm": "instance"},
    )  # fmt: skip
    return folder


def picking(trained, output, **settings):
    return {
        "dataset_dir": str(trained / "data"), "output_dir": str(output), "precision": "float32",
        "inference_window_size": list(SHAPE), "checkpoint_path": str(trained / "out" / "model.pt"), **settings,
    }  # fmt: skip


def test_training_writes_what_the_weights_are(trained):
    card = read_card(trained / "out" / "model.pt")
    assert card["network_def"]["widths"] == [4, 6, 8]
    assert card["network_def"]["norm"] == "instance"
    assert (list(card["species"]), card["voxel_size_angstrom"], card["steps"]) == (["a", "b", "c"], VOXEL_SIZE, 1)
    assert (card["trained_on"], card["selected_on"]) == (["one"], ["two"])


def test_inference_needs_the_weights_alone(trained, tmp_path):
    made = run_configs(["inference.json"], "infer", **picking(trained, tmp_path))
    assert made.check_properties() == []
    assert {pick.species for pick in read_csv(tmp_path / "picks.csv")} <= {"a", "b", "c"}
    stars = {path.stem for path in (tmp_path / "one").glob("*.star")}
    assert stars == {"a", "b", "c"}


@pytest.mark.filterwarnings("ignore:.*keeps the threshold")
def test_evaluation_needs_the_weights_alone_and_leaves_its_thresholds_in_the_card(trained, tmp_path):
    weights = trained / "out" / "model_last.pt"
    settings = picking(trained, tmp_path, checkpoint_path=str(weights), sweep_thresholds=[0.001, 0.002])
    settings |= {"record_thresholds": True, "least_truths": 1}
    run_configs(["train.json", "evaluate.json"], "train", validation_runs=["two"], **settings)
    fitted = json.loads((tmp_path / "thresholds.json").read_text())
    assert {one.name: one.probability_threshold for one in species_of(weights).known} == fitted
    assert read_card(weights)["thresholds_fitted_on"] == ["two"]


@pytest.mark.parametrize(("run_id", "ending", "overlay"), [("torchscript", "ts", "ts"), ("onnx", "onnx", "onnx")])
def test_exports_need_the_weights_alone_and_pick_like_the_network(run_id, ending, overlay, trained, tmp_path):
    path = tmp_path / f"mine.{ending}"
    settings = picking(trained, tmp_path / "none", export_path=str(path))
    run_configs(["inference.json", "export.json"], "infer", run_id, **settings)
    assert read_card(path)["network_def"] == read_card(trained / "out" / "model.pt")["network_def"]
    run_configs(["inference.json"], "infer", **picking(trained, tmp_path / "network"))
    given = picking(trained, tmp_path / "export", checkpoint_path=str(path))
    run_configs(["inference.json", f"inference_{overlay}.json"], "infer", **given)
    network, export = (read_csv(tmp_path / name / "picks.csv") for name in ("network", "export"))
    assert len(network) > 0
    assert [pick.species for pick in export] == [pick.species for pick in network]
    places = [[(pick.score, *pick.xyz_angstrom) for pick in picks] for picks in (network, export)]
    assert np.allclose(*places, atol=0.05)


def test_a_training_begins_with_them_if_it_is_of_the_same_network_and_species(trained, tmp_path):
    same = {"network_def#widths": [4, 6, 8], "network_def#depths": [1, 2, 1], "network_def#norm": "instance"}
    settings = picking(trained, tmp_path, species_path=str(trained / "species.json"), epochs=1, windows_per_epoch=2)
    settings |= {"window_size": [16, 24, 24], "validation_runs": ["two"], "learning_rate": 1e-9}
    run_configs(["train.json"], "train", **settings, **same)
    before, after = (read_tensors(folder / "model_last.pt") for folder in (trained / "out", tmp_path))
    assert all(torch.allclose(before[name], after[name], atol=1e-4) for name in before)
    with pytest.raises(RuntimeError) as caught:
        run_configs(["train.json"], "train", **settings, **{**same, "network_def#norm": "group"})
    line = str(find_input_error(caught.value))
    assert 'model.pt is of another network than the settings say: norm was "instance", now it is "group"' in line


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"network_def": {"norm": "instance"}},
            'model.pt is of another network .* norm was "batch", now it is "instance"',
        ),
        ({"network_def": {"widths": "full"}}, "model.pt is of another network .* widths was"),
        ({"network_def": {"depths": [3, 3, 3, 2]}}, "model.pt is of another network .* depths was"),
        ({"painter": {"_target_": "scripts.picking.blobs.Blobs"}}, "model.pt was trained on other targets"),
    ],
)
def test_the_shipped_weights_refuse_what_they_are_not(settings, words, tmp_path):
    target = {"_target_": "scripts.networks.convnext_unet.ConvNeXtUNet", "widths": "compact"}
    settings = {key: {**(target if key == "network_def" else {}), **value} for key, value in settings.items()}
    with pytest.raises(RuntimeError) as caught:
        run_configs(["inference.json"], "infer", dataset_dir=str(tmp_path), output_dir=str(tmp_path), **settings)
    assert re.search(words, str(find_input_error(caught.value)))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda species: (species.pop("ribosome") and species["thyroglobulin"].update(label=3)) or
         species["virus-like-particle"].update(label=4), "was trained on 5 species, .*; the species file has 4"),
        (lambda species: (species["ribosome"].update(label=4), species["thyroglobulin"].update(label=3)),
         "the species file has 5: apo-ferritin, beta-galactosidase, thyroglobulin, ribosome"),
        (lambda species: species["ribosome"].update(target_radius_angstrom=60.0), "target_radius_angstrom 50 of"),
        (lambda species: species["ribosome"].update(radius_angstrom=140.0), "with radius_angstrom 150 of 'ribosome'"),
    ],
    ids=["count", "order", "target radius", "radius"],
)  # fmt: skip
def test_the_shipped_weights_refuse_other_species(change, words, tmp_path):
    content = json.loads((CONFIGS / "species.json").read_text())
    change(content["species"])
    refused(content, words, tmp_path)


def test_the_shipped_weights_refuse_another_voxel_size(tmp_path):
    content = json.loads((CONFIGS / "species.json").read_text())
    refused(
        {**content, "voxel_size_angstrom": 8.0}, "was trained on voxels of 10.012 Å, the species file has 8 Å", tmp_path
    )


def refused(content, words, tmp_path):
    path = tmp_path / "species.json"
    path.write_text(json.dumps(content))
    with pytest.raises(RuntimeError) as caught:
        run_configs(
            ["inference.json"], "infer", dataset_dir=str(tmp_path), output_dir=str(tmp_path), species_path=str(path)
        )
    assert re.search(words, str(find_input_error(caught.value)))
