"""The configs as they ship, on small tomograms with small networks."""

from __future__ import annotations

import csv
import dataclasses
import fcntl
import json
import os
import subprocess
import sys
from itertools import permutations
from pathlib import Path

import mrcfile
import nibabel
import numpy as np
import pytest
import torch
import zarr
from ignite.engine import Events
from monai.bundle import ConfigParser, ConfigWorkflow
from page_data import data_of
from scripts.errors import find_input_error
from scripts.networks.convnext_unet import ConvNeXtUNet
from scripts.networks.model_card import read_card, sha256_of
from scripts.networks.weights import read_tensors
from scripts.picking.peaks import Peaks
from scripts.picks import FORMATS, Facts, read_copick_folder, read_csv, read_relion5_star
from scripts.species import read_species
from scripts.training.losses import NonNegativeRisk
from scripts.volumes.labels import draw_spheres
from synthetic import write_weights

BUNDLE = Path(__file__).resolve().parents[1] / "bundle"
CONFIGS = BUNDLE / "configs"
SHAPE = (20, 28, 36)
VOXEL_SIZE = 10.012
CENTRES = {"apo-ferritin": [(6, 9, 11), (13, 20, 30)], "ribosome": [(10, 20, 9)], "thyroglobulin": [(9, 8, 27)]}
ON_CPU = {"device": "$torch.device('cpu')", "precision": "float32"}
SMALL_PICKING = {**ON_CPU, "inference_window_size": [16, 24, 24]}
SMALL_TRAINING = {
    **SMALL_PICKING,
    "network_def#widths": [4, 8],
    "network_def#depths": [1, 1],
    "window_size": [16, 16, 16],
    "windows_per_epoch": 4,
    "epochs": 2,
    "val_interval": 1,
    "warmup_steps": 1,
}


def write_tomogram(path, centres=CENTRES, seed=0):
    volume = np.random.default_rng(seed).normal(size=SHAPE).astype(np.float32)
    for points in centres.values():
        volume += 6 * draw_spheres(SHAPE, points, radius_vox=3)
    return write_volume(path, volume)


def write_volume(path, values, axes=(1, 2, 3)):
    """Write an array as it is; ``axes`` says which of x, y, z (1, 2, 3) its last, middle and first axes are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with mrcfile.new(path, overwrite=True) as file:
        file.set_data(values)
        header = file.header
        header.mapc, header.mapr, header.maps = axes
        sizes = dict(zip(axes, values.shape[::-1], strict=True))
        header.mx, header.my, header.mz = (sizes[axis] for axis in (1, 2, 3))
        header.cella.x, header.cella.y, header.cella.z = (sizes[axis] * VOXEL_SIZE for axis in (1, 2, 3))
    return path


def read_volume(path):
    with mrcfile.open(path) as file:
        return file.data.copy()


def truth_rows(run, centres):
    return [
        f"0,{run},{name},{x * VOXEL_SIZE},{y * VOXEL_SIZE},{z * VOXEL_SIZE}"
        for name, points in centres.items()
        for z, y, x in points
    ]


@pytest.fixture
def dataset_dir(tmp_path):
    """Two tomograms with truth: run 'one' with three species, run 'two' with one of them."""
    folder = tmp_path / "data"
    rows = ["id,experiment,particle_type,x,y,z"]
    for seed, (run, centres) in enumerate({"one": CENTRES, "two": {"ribosome": [(8, 12, 20)]}}.items()):
        write_tomogram(folder / run / "tomogram.mrc", centres, seed)
        rows += truth_rows(run, centres)
    (folder / "truth.csv").write_text("\n".join(rows))
    return folder


def workflow(config, kind, **settings):
    files = [str(CONFIGS / name) for name in ([config] if isinstance(config, str) else config)]
    made = ConfigWorkflow(
        config_file=files, workflow_type=kind, bundle_root=str(BUNDLE), logging_file=False, **settings
    )
    made.initialize()
    return made


def run_training(dataset_dir, output_dir, stop_after_epoch=None, overlays=(), **settings):
    made = workflow(
        ["train.json", *overlays], "train", dataset_dir=str(dataset_dir), output_dir=str(output_dir),
        **{**SMALL_TRAINING, "validation_runs": ["two"], **settings},
    )  # fmt: skip
    if stop_after_epoch is not None:
        trainer = made.parser.get_parsed_content("train#trainer")
        trainer.add_event_handler(Events.EPOCH_COMPLETED(once=stop_after_epoch), trainer.terminate)
    made.run()
    return made


@pytest.fixture
def small_weights(tmp_path, shipped_species):
    """Weights of a small network that answers with its (smoothed) input: bright blobs become picks of every species."""
    torch.manual_seed(0)
    return write_weights(tmp_path / "small.pt", ConvNeXtUNet(widths=(4, 8), depths=(1, 1), prior=0.6), shipped_species)


def run_inference(dataset_dir, output_dir, weights, overlays=(), **settings):
    thresholds = dict.fromkeys(read_names(), 0.5)
    settings = {
        "probability_thresholds": thresholds,
        **SMALL_PICKING,
        **settings,
    }
    made = workflow(
        ["inference.json", *overlays], "infer", dataset_dir=str(dataset_dir), output_dir=str(output_dir),
        checkpoint_path=str(weights), **settings,
    )  # fmt: skip
    made.run()
    return made


def test_inference_writes_every_format_for_every_run(dataset_dir, small_weights, tmp_path):
    made = run_inference(dataset_dir, tmp_path / "out", small_weights)
    assert made.check_properties() == []
    table = read_csv(tmp_path / "out" / "picks.csv")
    assert {pick.run for pick in table} == {"one", "two"}
    for run in ("one", "two"):
        folder = tmp_path / "out" / run
        own = read_csv(folder / "picks.csv")
        assert own == [pick for pick in table if pick.run == run]
        copick = read_copick_folder(folder / "Picks", run)
        assert sorted(pick.xyz_angstrom for pick in copick) == sorted(pick.xyz_angstrom for pick in own)
        star = [
            pick
            for name in {pick.species for pick in own}
            for pick in read_relion5_star(
                folder / f"{name}.star", species=name, volume_shape_zyx=SHAPE, voxel_size_angstrom=VOXEL_SIZE
            )
        ]
        assert np.allclose(
            sorted(pick.xyz_angstrom for pick in star), sorted(pick.xyz_angstrom for pick in own), atol=2e-3
        )
        assert (folder / "overlay.png").read_bytes().startswith(b"\x89PNG")
        assert data_of(folder / "report.html")["model"] == sha256_of(small_weights)[:8]
    assert (tmp_path / "out" / "report.html").read_text().startswith("<!DOCTYPE html>")


def test_inference_writes_the_formats_that_are_asked_for(dataset_dir, small_weights, tmp_path):
    settings = {"pick_formats": ["csv", "relion4", "ndjson"], "pick_binning": 4.0}
    run_inference(dataset_dir / "one" / "tomogram.mrc", tmp_path / "out", small_weights, **settings)
    (folder,) = (path for path in (tmp_path / "out").iterdir() if path.is_dir())
    names = read_names()
    written = {path.name for path in folder.iterdir()} - {"picks.csv", "overlay.png"}
    assert written >= {f"{name}{ending}" for name in names for ending in (".relion4.star", ".ndjson")}
    assert not [name for name in written if name == "Picks" or name in {f"{species}.star" for species in names}]
    (name, *_) = {pick.species for pick in read_csv(folder / "picks.csv")}
    own = [pick for pick in read_csv(folder / "picks.csv") if pick.species == name]
    facts = Facts(species=name, voxel_size_angstrom=VOXEL_SIZE, binning=4.0)
    found = FORMATS["relion4"].read(folder / f"{name}.relion4.star", facts)
    assert np.allclose([pick.xyz_angstrom for pick in found], [pick.xyz_angstrom for pick in own], atol=2e-3)


def test_inference_without_picks_writes_empty_files_with_headers(dataset_dir, small_weights, tmp_path):
    # some voxels of this network exceed 0.9999
    run_inference(dataset_dir, tmp_path, small_weights, probability_thresholds=dict.fromkeys(read_names(), 1 - 1e-6))
    for path in (tmp_path / "picks.csv", tmp_path / "one" / "picks.csv"):
        assert path.read_text().startswith("id,experiment,particle_type,x,y,z,score")
        assert read_csv(path) == []
    settings = {"species": "ribosome", "volume_shape_zyx": SHAPE, "voxel_size_angstrom": VOXEL_SIZE}
    assert read_relion5_star(tmp_path / "one" / "ribosome.star", **settings) == []
    assert read_copick_folder(tmp_path / "one" / "Picks", "one") == []


def read_names():
    return read_species(CONFIGS / "species.json").names


@pytest.mark.parametrize("config", ["inference.json", "train.json"])
@pytest.mark.parametrize(("is_there", "name"), [(False, "cpu"), (True, "cuda:0")])
def test_a_gpu_is_taken_only_where_there_is_one(config, is_there, name, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: is_there)
    made = ConfigWorkflow(config_file=str(CONFIGS / config), workflow_type="infer", logging_file=False)
    assert made.parser.get_parsed_content("device") == torch.device(name)


def test_the_same_volume_gives_the_same_picks_from_every_kind_of_file(small_weights, tmp_path):
    volume = np.rint(10 * read_volume(write_tomogram(tmp_path / "float32.mrc"))).astype(np.float32)
    write_volume(tmp_path / "float32.mrc", volume)
    write_volume(tmp_path / "int8.mrc", volume.astype(np.int8))
    write_volume(tmp_path / "float16.mrc", volume.astype(np.float16))
    write_volume(tmp_path / "big.mrc", volume.astype(">f4"))
    write_volume(tmp_path / "swapped.mrc", np.ascontiguousarray(volume.transpose(2, 1, 0)), axes=(3, 2, 1))
    nibabel.save(nibabel.Nifti1Image(volume.T, np.diag([VOXEL_SIZE] * 3 + [1])), tmp_path / "nifti.nii.gz")
    array = zarr.open_group(str(tmp_path / "ome.zarr"), mode="w").create_array("0", data=volume, chunks=(16, 16, 16))
    scale = {"type": "scale", "scale": [VOXEL_SIZE] * 3}
    level = {"axes": [{"name": name, "type": "space", "unit": "angstrom"} for name in "zyx"],
             "datasets": [{"path": array.basename, "coordinateTransformations": [scale]}]}  # fmt: skip
    zarr.open_group(str(tmp_path / "ome.zarr")).attrs["ome"] = {"version": "0.5", "multiscales": [level]}
    run_inference(tmp_path, tmp_path / "out", small_weights)
    picks = {folder.name: read_csv(folder / "picks.csv") for folder in (tmp_path / "out").iterdir() if folder.is_dir()}
    assert len(picks["float32"]) > 3
    for name in ("int8", "float16", "big", "swapped", "nifti", "ome"):
        assert [dataclasses.replace(pick, run="float32") for pick in picks[name]] == picks["float32"], name


@pytest.mark.filterwarnings("ignore:.*region to pick in is empty")
def test_picks_lie_in_the_mask_of_their_run_and_in_the_slab(dataset_dir, small_weights, tmp_path):
    everywhere = run_inference(dataset_dir, tmp_path / "all", small_weights)
    for run in ("one", "two"):
        mask = np.zeros(SHAPE, dtype=np.float32)
        mask[:, : 16 if run == "one" else 0] = 1
        write_volume(tmp_path / "masks" / f"{run}.mrc", mask)
    limits = {"mask_path": str(tmp_path / "masks" / "{run}.mrc"), "slab_z_angstrom": [0, 8.4 * VOXEL_SIZE]}
    limited = run_inference(dataset_dir, tmp_path / "some", small_weights, **limits)
    picks, all_picks = (read_csv(tmp_path / name / "picks.csv") for name in ("some", "all"))
    assert {pick.run for pick in picks} == {"one"}
    assert all(pick.y_voxel < 15.5 and pick.z_voxel < 8.5 for pick in picks)
    assert any(pick.y_voxel > 15.5 or pick.z_voxel > 8.5 for pick in all_picks)
    assert limited.check_properties() == everywhere.check_properties() == []


def test_one_file_is_a_dataset_too(dataset_dir, small_weights, tmp_path):
    run_inference(dataset_dir / "two" / "tomogram.mrc", tmp_path / "out", small_weights, page_megabytes=0)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [".lock", "picks.csv", "summary.csv", "two"]


@pytest.mark.parametrize("settings", [{"rotations": 4}, {"flips": ["z"]}, {"inference_overlap_voxels": 2}])
def test_views_and_overlap_change_the_scores(settings, dataset_dir, small_weights, tmp_path):
    run_inference(dataset_dir, tmp_path / "plain", small_weights)
    run_inference(dataset_dir, tmp_path / "other", small_weights, **settings)
    assert (tmp_path / "plain" / "picks.csv").read_text() != (tmp_path / "other" / "picks.csv").read_text()


def test_training_learns_saves_and_reports(dataset_dir, tmp_path):
    made = run_training(dataset_dir, tmp_path, excluded_runs=[])
    assert made.check_properties() == []
    weights = read_tensors(tmp_path / "model.pt")
    assert all(isinstance(value, torch.Tensor) for value in weights.values())
    rows = (tmp_path / "metrics.csv").read_text().splitlines()
    assert rows[0].startswith("epoch,iteration,loss,learning_rate,score,f4_apo-ferritin")
    assert [row.split(",")[:2] for row in rows[1:]] == [["1", "2"], ["2", "4"]]
    assert list((tmp_path / "tensorboard").glob("events*"))


@pytest.mark.parametrize("run_id", ["run", "training", ""])
def test_every_way_of_starting_trains_once(run_id, dataset_dir, tmp_path):
    settings = {**SMALL_TRAINING, "epochs": 1, "validation_runs": ["two"]}
    made = workflow("train.json", "train", dataset_dir=str(dataset_dir), output_dir=str(tmp_path), **settings)
    made.run_id = run_id
    made.run()
    assert len((tmp_path / "metrics.csv").read_text().splitlines()) == 2


def test_an_interrupted_training_ends_with_the_same_weights(dataset_dir, tmp_path):
    run_training(dataset_dir, tmp_path / "whole")
    run_training(dataset_dir, tmp_path / "parts", stop_after_epoch=1)
    run_training(dataset_dir, tmp_path / "parts")
    whole, parts = (read_tensors(tmp_path / name / "model_last.pt") for name in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert (tmp_path / "whole" / "metrics.csv").read_text() == (tmp_path / "parts" / "metrics.csv").read_text()


def test_saved_weights_are_the_averaged_ones(dataset_dir, tmp_path):
    made = run_training(dataset_dir, tmp_path)
    saved = read_tensors(tmp_path / "model_last.pt")
    trained = made.parser.get_parsed_content("network").state_dict()
    assert any(not torch.equal(saved[name], trained[name]) for name in saved)
    averaged = made.parser.get_parsed_content("averaged").state_dict()
    assert all(torch.equal(saved[name], averaged[name]) for name in saved)


@pytest.mark.parametrize(
    "form",
    [
        {"norm": "group", "activation": "gelu", "output_stride": 1, "align_corners": True},  # as published
        {"norm": "batch", "activation": "relu", "output_stride": 2, "align_corners": False},  # of the config
    ],
    ids=lambda form: form["norm"],
)
def test_training_goes_on_from_given_weights(form, dataset_dir, shipped_species, tmp_path):
    network = ConvNeXtUNet(widths=(4, 8), depths=(1, 1), **form)
    given = write_weights(tmp_path / "given.pt", network, shipped_species)
    settings = {"learning_rate": 0.0, "weight_decay": 0.0, "epochs": 1}
    settings |= {f"network_def#{key}": value for key, value in form.items()} if form["norm"] == "group" else {}
    run_training(dataset_dir, tmp_path, checkpoint_path=str(given), **settings)
    saved = read_tensors(tmp_path / "model_last.pt")
    assert set(saved) == set(network.state_dict())
    # the rest are statistics of batch norms, which every batch changes
    assert all(torch.allclose(value, saved[name], atol=1e-6) for name, value in network.named_parameters())


def test_one_excluded_run_needs_no_brackets(dataset_dir, tmp_path):
    made = workflow("train.json", "train", dataset_dir=str(dataset_dir), output_dir=str(tmp_path), excluded_runs="two")
    assert [item["run"] for item in made.parser.get_parsed_content("train#dataset#data")] == ["one"]


def test_the_learning_rate_follows_the_trainers_own_number_of_epochs(dataset_dir, tmp_path):
    run_training(dataset_dir, tmp_path, epochs=50, **{"train#trainer#max_epochs": 3})
    with open(tmp_path / "metrics.csv") as file:
        rates = [float(row["learning_rate"]) for row in csv.DictReader(file)]
    assert len(rates) == 3
    assert rates[0] > rates[1] > rates[2] == 0


def test_a_second_training_in_the_same_folder_is_refused(dataset_dir, tmp_path):
    with open(tmp_path / ".training.lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(RuntimeError) as caught:
            run_training(dataset_dir, tmp_path, epochs=1)
    line = f"another training is at work in {tmp_path}: wait for it, or set another output_dir."
    assert str(find_input_error(caught.value)) == line
    assert not (tmp_path / "training.pt").exists()
    run_training(dataset_dir, tmp_path, epochs=1)
    run_training(dataset_dir, tmp_path, epochs=2)  # goes on, and is not held up by the one that ended


def test_tomograms_given_as_a_list_need_no_folder(dataset_dir, tmp_path):
    """As MONAI Label trains: paths of volumes and label volumes, everything evaluated."""
    labels = write_volume(tmp_path / "labels" / "one.mrc", draw_spheres(SHAPE, CENTRES["ribosome"], 3, value=3))
    data = [{"image": str(dataset_dir / "one" / "tomogram.mrc"), "label": str(labels)}]
    settings = {"train#dataset#data": data, "validate#dataset#data": data, "train#trainer#max_epochs": 1}
    made = workflow("train.json", "train", output_dir=str(tmp_path / "out"), **{**SMALL_TRAINING, **settings})
    made.run_id = ""
    made.run()
    assert len((tmp_path / "out" / "metrics.csv").read_text().splitlines()) == 2


def test_a_single_run_is_trained_on_and_saved(dataset_dir, tmp_path):
    write_tomogram(tmp_path / "single" / "only.mrc")
    (tmp_path / "single" / "truth.csv").write_text(
        "\n".join(["id,experiment,particle_type,x,y,z", *truth_rows("only", CENTRES)])
    )
    run_training(tmp_path / "single", tmp_path / "out", validation_runs=[], epochs=1)
    assert (tmp_path / "out" / "model.pt").exists()


@pytest.mark.parametrize("count", [1, 7])
def test_other_species_need_no_other_file_than_species_json(count, dataset_dir, tmp_path):
    shipped = json.loads((CONFIGS / "species.json").read_text())
    names = ["ribosome", *(f"species-{number}" for number in range(2, count + 1))]
    one = {**shipped["species"]["ribosome"], "probability_threshold": 0.001}
    species = {name: {**one, "label": label} for label, name in enumerate(names, start=1)}
    path = tmp_path / "species.json"
    path.write_text(json.dumps({**shipped, "species": species}))
    rows = ["id,experiment,particle_type,x,y,z", *truth_rows("one", {"ribosome": CENTRES["ribosome"]}),
            *truth_rows("two", {name: [(5, 5, 5 + 3 * place)] for place, name in enumerate(names)})]  # fmt: skip
    (dataset_dir / "truth.csv").write_text("\n".join(rows))
    made = run_training(dataset_dir, tmp_path / "trained", species_path=str(path), epochs=1)
    assert made.parser.get_parsed_content("network_def").head.out_channels == count
    weights = tmp_path / "trained" / "model_last.pt"
    run_inference(dataset_dir, tmp_path / "out", weights, probability_thresholds=None)
    stars = {star.stem for star in (tmp_path / "out" / "one").glob("*.star")}
    assert stars == set(names)


@pytest.mark.filterwarnings("ignore:.*keeps the threshold")
def test_evaluation_writes_scores_and_thresholds_that_inference_takes(dataset_dir, small_weights, tmp_path):
    made = workflow(
        ["train.json", "evaluate.json"], "train", dataset_dir=str(dataset_dir), output_dir=str(tmp_path / "eval"),
        checkpoint_path=str(small_weights), **{**SMALL_PICKING, "sweep_thresholds": [0.3, 0.5, 0.7]},
    )  # fmt: skip
    made.run()
    lines = (tmp_path / "eval" / "scores.csv").read_text().splitlines()
    assert lines[0] == "mode,species,truths,picks,tp,fp,fn,precision,recall,f1,f4"
    assert [line.split(",")[:3] for line in lines if ",ribosome," in line] == [
        ["kaggle", "ribosome", "2"], ["one_to_one", "ribosome", "2"],
    ]  # fmt: skip
    thresholds = tmp_path / "eval" / "thresholds.json"
    assert set(json.loads(thresholds.read_text())) == set(read_names())
    assert (tmp_path / "eval" / "thresholds.png").exists()
    for page in ("report.html", "one/report.html", "two/report.html"):
        assert "Against the truth" in (tmp_path / "eval" / page).read_text()
    notes = data_of(tmp_path / "eval" / "report.html")["notes"]
    assert "ribosome keeps its threshold: 2 true particles, at least 10 needed." in notes
    run_inference(dataset_dir, tmp_path / "out", small_weights, probability_thresholds=str(thresholds))
    assert (tmp_path / "out" / "picks.csv").exists()


@pytest.mark.parametrize(("config", "kind"), [("inference", "infer"), ("train", "train")])
def test_an_overlay_for_several_processes_says_what_starts_them(config, kind, monkeypatch):
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(RuntimeError) as caught:
        workflow([f"{config}.json", f"multi_gpu_{config}.json"], kind)
    assert "LOCAL_RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT are not set: start it" in str(
        find_input_error(caught.value)
    )


@pytest.mark.filterwarnings(
    "ignore:.*has no particle of empty", "ignore:.*keeps the threshold", "ignore:.*hold no true particle"
)
def test_evaluation_counts_the_wrong_picks_in_a_tomogram_without_particles(dataset_dir, small_weights, tmp_path):
    write_tomogram(dataset_dir / "empty" / "tomogram.mrc", {"ribosome": [(8, 12, 20)]})
    made = workflow(
        ["train.json", "evaluate.json"], "train", dataset_dir=str(dataset_dir), output_dir=str(tmp_path / "eval"),
        checkpoint_path=str(small_weights), probability_thresholds=dict.fromkeys(read_names(), 0.5),
        **{**SMALL_PICKING, "sweep_thresholds": [0.3, 0.5], "validation_runs": ["empty"]},
    )  # fmt: skip
    made.run()
    with open(tmp_path / "eval" / "scores.csv") as file:
        rows = [row for row in csv.DictReader(file) if row["species"] != "total"]
    assert {row["truths"] for row in rows} == {row["tp"] for row in rows} == {"0"}
    assert sum(int(row["fp"]) for row in rows) > 0
    assert "Against the truth" in (tmp_path / "eval" / "empty" / "report.html").read_text()


def test_a_run_called_0_is_scored_held_out_and_left_out(tmp_path):
    """MONAI's command line makes a number of it."""
    for run in "012":
        write_tomogram(tmp_path / f"{run}.mrc")
    rows = [row for run in "012" for row in truth_rows(run, CENTRES)]
    (tmp_path / "truth.csv").write_text("\n".join(["id,experiment,particle_type,x,y,z", *rows]))
    for files, chosen, part, wanted in (
        (["train.json", "evaluate.json"], "validation_runs", "validate", ["0"]),
        (["train.json"], "validation_runs", "validate", ["0"]),
        (["train.json"], "validation_runs", "train", ["1", "2"]),
        (["train.json", "evaluate.json"], "excluded_runs", "validate", ["1", "2"]),
        (["train.json"], "excluded_runs", "train", ["1"]),
    ):
        made = workflow(files, "train", dataset_dir=str(tmp_path), **{chosen: 0})
        assert [row["run"] for row in made.parser.get_parsed_content(f"{part}#dataset#data")] == wanted


@pytest.mark.parametrize("overlay", ["evaluate.json", "second_look.json"])
def test_what_takes_one_process_refuses_several_before_anything_else(overlay, dataset_dir, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    made = workflow(["train.json", overlay], "train", dataset_dir=str(dataset_dir))
    with pytest.raises(RuntimeError) as caught:
        made.run()
    assert str(find_input_error(caught.value)).endswith("one process: start it without torchrun.")


@pytest.mark.filterwarnings("ignore:.*keeps the threshold")
def test_evaluation_scores_an_ensemble_and_records_no_thresholds_for_it(
    dataset_dir, small_weights, shipped_species, tmp_path
):
    other = write_weights(tmp_path / "other.pt", ConvNeXtUNet(widths=(4, 8), depths=(1, 1)), shipped_species)
    settings = {
        "dataset_dir": str(dataset_dir), "output_dir": str(tmp_path / "eval"), "sweep_thresholds": [0.3, 0.5],
        "checkpoint_path": [str(small_weights), str(other)], "ensemble": "rank", **SMALL_PICKING,
    }  # fmt: skip
    made = workflow(["train.json", "evaluate.json"], "train", **settings)
    made.run()
    assert set(json.loads((tmp_path / "eval" / "thresholds.json").read_text())) == set(read_names())
    refused = workflow(["train.json", "evaluate.json"], "train", record_thresholds=True, **settings)
    refused.parser.get_parsed_content("validate#dataset").data = None  # it is refused before a tomogram is read
    with pytest.raises(RuntimeError) as caught:
        refused.run()
    assert "checkpoint_path must be one file here" in str(find_input_error(caught.value))


@pytest.mark.filterwarnings("ignore:.*keeps the threshold")
def test_evaluation_scores_the_region_alone(dataset_dir, small_weights, tmp_path):
    made = workflow(
        ["train.json", "evaluate.json"], "train", dataset_dir=str(dataset_dir), output_dir=str(tmp_path / "out"),
        checkpoint_path=str(small_weights), sweep_thresholds=[0.5], slab_z_angstrom=[80, 140],
        **{**SMALL_PICKING, "validation_runs": []},
    )  # fmt: skip
    made.run()
    with open(tmp_path / "out" / "scores.csv") as file:
        truths = {row["species"]: row["truths"] for row in csv.DictReader(file) if row["mode"] == "kaggle"}
    assert (truths["apo-ferritin"], truths["ribosome"], truths["thyroglobulin"]) == ("1", "2", "1")


@pytest.mark.filterwarnings("ignore:.*keeps the threshold")
def test_heat_maps_are_learned_resumed_scored_and_picked_by_one_overlay(dataset_dir, tmp_path):
    overlays = ["heat_maps.json"]
    made = run_training(dataset_dir, tmp_path / "whole", overlays=overlays)
    target = made.parser.get_parsed_content("train#dataset")[0]["label"]
    assert ((target > 0) & (target < 1)).float().mean() > 0.05
    run_training(dataset_dir, tmp_path / "parts", stop_after_epoch=1, overlays=overlays)
    run_training(dataset_dir, tmp_path / "parts", overlays=overlays)
    whole, parts = (read_tensors(tmp_path / name / "model_last.pt") for name in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    weights = tmp_path / "whole" / "model_last.pt"
    everything = dict.fromkeys(read_names(), 0.0)
    evaluation = workflow(
        ["train.json", "evaluate.json", *overlays], "train", dataset_dir=str(dataset_dir),
        output_dir=str(tmp_path / "scores"), checkpoint_path=str(weights), sweep_thresholds=[0.001, 0.5],
        validation_runs=["two"], record_thresholds=True, **SMALL_PICKING,
    )  # fmt: skip
    evaluation.run()
    assert read_card(weights)["thresholds_fitted_for"] == {
        "class": "scripts.picking.peaks.Peaks", "merge_distance_in_radii": 1.0
    }  # fmt: skip
    assert (tmp_path / "scores" / "scores.csv").exists()
    picking = {"probability_thresholds": everything, "merge_distance_in_radii": 0.5}
    made = run_inference(dataset_dir, tmp_path / "picks", weights, overlays, **picking)
    assert made.parser.get_parsed_content("finder") == Peaks(0.5)
    assert {pick.run for pick in read_csv(tmp_path / "picks" / "picks.csv")} == {"one", "two"}


@pytest.mark.parametrize("overlays", [[], ["heat_maps.json"], ["multi_gpu_train.json"]])
def test_a_training_window_that_the_networks_answers_do_not_fill_is_refused(overlays, tmp_path):
    parser = ConfigParser()
    parser.read_config([str(CONFIGS / name) for name in ("train.json", *overlays)])
    parser.update({"bundle_root": str(BUNDLE), "dataset_dir": str(tmp_path), "window_size": [16, 17, 17]})
    with pytest.raises(RuntimeError) as caught:
        parser.get_parsed_content("train#window")
    assert "answers once per 2 voxels" in str(find_input_error(caught.value))


def test_auxiliary_losses_resume_exactly_and_leave_no_heads_in_the_weights(dataset_dir, tmp_path):
    overlays = ["heat_maps.json", "auxiliary_losses.json"]
    levels = {"overlays": overlays, "auxiliary_levels": ["last_norm"]}
    run_training(dataset_dir, tmp_path / "whole", **levels)
    run_training(dataset_dir, tmp_path / "parts", stop_after_epoch=1, **levels)
    run_training(dataset_dir, tmp_path / "parts", **levels)
    run_training(dataset_dir, tmp_path / "plain", overlays=overlays[:1])
    whole, parts, plain = (read_tensors(tmp_path / name / "model_last.pt") for name in ("whole", "parts", "plain"))
    assert whole.keys() == plain.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert not all(torch.equal(whole[name], plain[name]) for name in whole)
    with pytest.raises(RuntimeError) as caught:
        run_training(dataset_dir, tmp_path / "parts", overlays=overlays, epochs=9, auxiliary_levels=["stem"])
    assert "was begun with other settings: auxiliary_levels" in str(find_input_error(caught.value))


def test_a_tversky_loss_is_added_and_a_part_of_what_a_resumed_training_compares(dataset_dir, tmp_path):
    made = run_training(dataset_dir, tmp_path / "out", overlays=["tversky.json"], epochs=1)
    parser = made.parser
    logits = torch.linspace(-3, 3, 5 * 64).reshape(1, 5, 4, 4, 4)
    target = (torch.arange(5 * 64) % 7 == 0).float().reshape(logits.shape)
    target[0, 0, 0] = float("nan")
    known, known_target = logits.clone(), target.clone()
    known[0, 0, 0], known_target[0, 0, 0] = -1e4, 0
    chance, axes = known.sigmoid(), (0, 2, 3, 4)
    right, wrong = (chance * known_target).sum(axes), (chance * (1 - known_target)).sum(axes)
    missed = ((1 - chance) * known_target).sum(axes)
    tversky = (1 - right / (right + wrong / 3 + missed * 2 / 3)).mean()
    loss = parser.get_parsed_content("train#trainer#loss_function")
    assert float(loss(logits, target)) == pytest.approx(
        float(parser.get_parsed_content("cross_entropy")(known, known_target) + tversky), rel=1e-4
    )
    with pytest.raises(RuntimeError) as caught:
        run_training(dataset_dir, tmp_path / "out", epochs=2)
    assert "was begun with other settings: loss" in str(find_input_error(caught.value))


@pytest.mark.parametrize("overlays", list(permutations(["points_alone.json", "auxiliary_losses.json"])))
def test_auxiliary_losses_leave_unlabelled_voxels_to_the_loss_of_points_alone(dataset_dir, tmp_path, overlays):
    run_training(dataset_dir, tmp_path / "start", epochs=1)
    made = run_training(
        dataset_dir, tmp_path / "out", overlays=list(overlays), epochs=1, auxiliary_levels=["last_norm"],
        expected_particles=dict.fromkeys(read_names(), 2.0), rate_of_old_layers=0.5,
        checkpoint_path=str(tmp_path / "start" / "model_last.pt"),
    )  # fmt: skip
    assert isinstance(made.parser.get_parsed_content("train#trainer#loss_function").loss, NonNegativeRisk)


@pytest.mark.filterwarnings("ignore:.*points alone")
def test_a_loss_that_is_no_number_ends_the_training_and_leaves_no_weights(dataset_dir, tmp_path):
    """As that of complete truth is, where some is unknown."""
    settings = {"annotated": {"*": {"complete": False}}, "expected_particles": dict.fromkeys(read_names(), 2.0)}
    with pytest.raises(RuntimeError) as caught:
        run_training(dataset_dir, tmp_path / "out", overlays=["points_alone.json", "tversky.json"], **settings)
    assert "the loss is nan at step 1: nothing can be learned any more." in str(find_input_error(caught.value))
    assert not list((tmp_path / "out").glob("model*"))


def test_weights_of_spheres_and_of_heat_maps_are_not_taken_for_each_other(dataset_dir, small_weights, tmp_path):
    run_training(dataset_dir, tmp_path / "heat_maps", overlays=["heat_maps.json"], epochs=1)
    for weights, overlays in ((small_weights, ["heat_maps.json"]), (tmp_path / "heat_maps" / "model_last.pt", [])):
        with pytest.raises(RuntimeError) as caught:
            run_inference(dataset_dir, tmp_path / "picks", weights, overlays)
        assert "was trained on other targets than the settings say" in str(find_input_error(caught.value))


@pytest.mark.parametrize(
    ("files", "kind"),
    [(["train.json"], "train"), (["train.json", "evaluate.json"], "train"), (["inference.json"], "infer")],
)
def test_a_config_evaluates_without_data(files, kind, tmp_path):
    made = workflow(files, kind, dataset_dir=str(tmp_path / "none"), load_pretrain=False,
                    output_dir=str(tmp_path / "out")) if kind == "infer" else workflow(
        files, kind, dataset_dir=str(tmp_path / "none"), output_dir=str(tmp_path / "out"),
        **{"pretrained#_disabled_": True})  # fmt: skip
    for key in made.parser.config:
        if key not in ("run", "training", "evaluating", "_meta_"):
            made.parser.get_parsed_content(key)
    assert made.check_properties() == []


def test_training_and_inference_agree_on_what_they_share():
    train, inference = (json.loads((CONFIGS / name).read_text()) for name in ("train.json", "inference.json"))
    shared = set(train) & set(inference) - {
        "imports", "output_dir", "checkpoint_path", "pretrained", "initialize", "run",
        "species_path", "species", "network_def", "finder",  # of a model that is there already
        "network",  # in training it may have heads that are not saved
    }  # fmt: skip
    assert {"painter", "inference_overlap_voxels", "voxel_size_tolerance", "merge_distance_in_radii"} <= shared
    assert {key for key in shared if train[key] != inference[key]} == set()


def test_metadata_names_the_species_of_the_species_file():
    metadata = json.loads((CONFIGS / "metadata.json").read_text())
    pred = metadata["network_data_format"]["outputs"]["pred"]
    species_set = read_species(CONFIGS / "species.json")
    assert list(pred["channel_def"].values()) == ["background", *species_set.names]
    assert pred["num_channels"] == len(species_set.picked)
    assert metadata["version"] in metadata["changelog"]


@pytest.mark.parametrize(
    ("shared", "overlays", "more"),
    [
        (True, "'configs/multi_gpu_train.json'", {}),
        (
            False,
            "'configs/multi_gpu_train.json','configs/auxiliary_losses.json'",
            {"auxiliary_levels": "['last_norm']"},
        ),
    ],
    ids=["two runs to validate", "one run to validate, auxiliary losses"],
)
def test_two_processes_train_together(shared, overlays, more, dataset_dir, tmp_path):
    settings = {**SMALL_TRAINING, "windows_per_epoch": 5, "dataset_dir": dataset_dir, **more}
    if shared:
        write_tomogram(dataset_dir / "three" / "tomogram.mrc", CENTRES, seed=2)
        with open(dataset_dir / "truth.csv", "a") as file:
            file.write("\n" + "\n".join(truth_rows("three", CENTRES)))
        settings["validation_runs"] = ["two", "three"]
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nnodes=1", "--nproc_per_node=2", "-m",
        "monai.bundle", "run", "--config_file", f"['configs/train.json',{overlays}]",
        "--output_dir", str(tmp_path), *(f"--{key}={value}" for key, value in settings.items()),
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=BUNDLE, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = (tmp_path / "metrics.csv").read_text().splitlines()
    assert [row.split(",")[:2] for row in rows[1:]] == [["1", "1"], ["2", "2"]]  # 4 windows, 2 processes, batches of 2
    assert read_tensors(tmp_path / "model_last.pt")["head.bias"].shape == (5,)
    state = read_tensors(tmp_path / "training.pt")
    assert ("auxiliary_heads" in state) == bool(more)
    assert len(state["optimizer"]["state"]) == len(state["optimizer"]["param_groups"][0]["params"])  # all have learned
