"""Every setting of a config is part of what a resumed run must share, or the documents say that it may change."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow
from scripts.copick_tree import tomogram_path, write_project
from scripts.handlers.checkpoint import TrainingCheckpoint
from scripts.picking.calibrated_scores import write_calibration
from scripts.picking.calibration import Calibration
from scripts.picks import Pick, write_copick_json
from scripts.preparation.cache import StoredDataset
from scripts.records import canonical, first_difference
from scripts.species import read_species
from scripts.volumes.ome_zarr_writer import write_ome_zarr
from synthetic import noise, tiny_classifier, tiny_network, write_second_look, write_weights

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "bundle" / "configs"
PAGE = (ROOT / "docs" / "reference" / "configuration.md").read_text()
VOXEL_SIZE = 10.012


OTHER = {  # another value of each setting than that of the config, or of the base below
    "tomogram_kind": "denoised", "voxel_size_angstrom": 5.0, "voxel_offset": 0.5, "allow_missing_chunks": True,
    "allow_truth_near_origin": True, "annotated": {"one": ["ribosome"]},
    "invert": True, "truth_user_id": "me", "truth_session_id": "1", "validation_runs": ["one"],
    "excluded_runs": ["three"], "epochs": 3, "windows_per_epoch": 6, "batch_size": 1, "window_size": [16, 24, 24],
    "particle_share": 0.25, "interest_share": 0.5, "interest_table": str(ROOT / "sample" / "truth.csv"),
    "learning_rate": 0.5, "weight_decay": 0.5, "warmup_steps": 7, "gradient_norm": 2.0,
    "averaging_momentum": 0.25, "precision": "bfloat16", "compile": True, "seed": 1, "num_workers": 1,
    "cache_dir": None, "resume": False, "install_path": None, "val_interval": 2, "inference_window_size": [16, 16, 16],
    "inference_overlap_voxels": 4, "memory_gib": 1.5, "rotations": 2, "flips": ["z"], "voxel_size_tolerance": 0.1,
    "resample": True, "probability_thresholds": {"ribosome": 0.25}, "merge_distance_in_radii": 0.5,
    "mode": "one_to_one", "mask_path": "{run}.mrc", "slab_z_angstrom": [10.0, 90.0], "user_id": "other",
    "session_id": "7", "page_megabytes": 0, "pick_formats": ["csv"], "pick_binning": 2.0, "write_to_project": True,
    "overwrite": True, "load_pretrain": False, "backend": "compile", "second_look": False, "second_look_copies": 3,
    "second_look_path": "another.pt", "calibration_path": "calibration.json",
    "operating_point": "f4", "ensemble": "rank", "validation_share": 0.3, "window_species": "rarity",
    "start_from_other_species": True, "rate_of_old_layers": 0.5,
}  # fmt: skip
PLACES = {"imports", "bundle_root", "dataset_dir", "output_dir", "species_path", "checkpoint_path", "device"}
SECTIONS = {
    "train.json": [
        *("network_def", "painter", "finder", "loss", "optimizer", "lr_scheduler"),
        *("train#preprocessing", "train#maps", "train#window", "train#inferer"),
        *("validate#inferer", "validate#postprocessing", "validate#key_metric"),
    ],
    "inference.json": ["finder", "preprocessing", "inferer", "postprocessing"],
}


def may_change(kind):
    """Return the settings that the page lists as those that may change when a run of a kind is resumed."""
    (words,) = re.findall(rf"A resumed {kind} may have another (.*?)\.\n", PAGE, flags=re.DOTALL)
    return set(re.findall(r"`(\w+)`", words))


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """Return a copick project of three runs in two kinds with picks, and weights of a small network."""
    root = tmp_path_factory.mktemp("project")
    species_set = read_species(CONFIGS / "species.json")
    for seed, run in enumerate(("one", "three", "two")):
        for kind in ("wbp", "denoised"):
            write_ome_zarr(tomogram_path(root, run, VOXEL_SIZE, kind), noise(seed), VOXEL_SIZE, levels=1)
        folder = root / "overlay" / "ExperimentRuns" / run / "Picks"
        write_copick_json(
            folder / "me_1_ribosome.json", [Pick(run, "ribosome", 90.0, 90.0, 90.0)], run=run, species="ribosome",
            voxel_size_angstrom=VOXEL_SIZE, user_id="me", session_id="1",
        )  # fmt: skip
    write_project(root, species_set, "test", "three runs")
    weights = write_weights(root / "weights.pt", tiny_network(out_channels=5), species_set)
    write_second_look(root / "second_look.pt", weights, species_set)
    write_second_look(root / "another.pt", weights, species_set, tiny_classifier(1, len(species_set.names) + 1))
    write_weights(root / "more.pt", tiny_network(seed=1, out_channels=5), species_set)
    calibration = Calibration(np.tile([1.0, *[0] * 7], (5, 1)))
    write_calibration(root / "calibration.json", calibration, species_set.names, [weights], {})
    return root


def record(project, name, **settings):
    """Return what a resumed run of a config must share."""
    kind = {"train.json": "train", "inference.json": "infer"}[name]
    base = {"dataset_dir": str(project), "tomogram_kind": "wbp", "output_dir": str(project / "out")}
    if kind == "infer":
        base["checkpoint_path"] = str(project / "weights.pt")
    else:
        base |= {"validation_runs": ["two"], "network_def#widths": [4, 4, 4, 4], "network_def#depths": [1, 1, 1, 1]}
    made = ConfigWorkflow(
        config_file=str(CONFIGS / name), workflow_type=kind, bundle_root=str(ROOT / "bundle"), logging_file=False,
        device=torch.device("cpu"), **{**base, **settings},
    )  # fmt: skip
    made.initialize()
    if kind == "infer":
        return made.parser.get_parsed_content("writer").settings
    handlers = made.parser.get_parsed_content("train#handlers")
    return next(one for one in handlers if isinstance(one, TrainingCheckpoint)).built


@pytest.fixture(autouse=True)
def nothing_is_prepared(monkeypatch):
    monkeypatch.setattr(StoredDataset, "prepare", lambda self, place, wait: None)


def knobs(name):
    """Return the settings at the top of a config, up to its network."""
    config = json.loads((CONFIGS / name).read_text())
    keys = list(config)
    first = keys.index("network_def")
    plain = {key for key in keys[:first] if key not in ("species", "displayable_configs")}
    return sorted(plain | ({"load_pretrain"} & set(keys)) - PLACES)


def numbers_in(value, path):
    """Yield the path of every number and truth value that stands in a section itself, with another value."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield from numbers_in(part, f"{path}#{key}")
    elif isinstance(value, list):
        for place, part in enumerate(value):
            yield from numbers_in(part, f"{path}#{place}")
    elif isinstance(value, bool):
        yield path, not value
    elif isinstance(value, int | float):
        yield path, value + 2 if isinstance(value, int) else value / 2 + 0.125


def inner_numbers(name):
    config = json.loads((CONFIGS / name).read_text())
    for section in SECTIONS[name]:
        value = config
        for part in section.split("#"):
            value = value[part]
        yield from numbers_in(value, section)


@pytest.mark.parametrize(
    ("name", "key"),
    [(name, key) for name in SECTIONS for key in knobs(name) if key not in PLACES],
)
def test_a_setting_is_in_the_record_or_may_change(name, key, project):
    files = [str(project / file) for file in ("weights.pt", "more.pt")]
    others = {"checkpoint_path": files[0], "network_def": tiny_network(out_channels=5).recipe}
    needed = {  # to have an effect
        "ensemble": {"checkpoint_path": files},  # one network is no ensemble
        "validation_share": {"validation_runs": [], "seed": 1},  # which are not chosen otherwise
        "interest_table": {"interest_share": 0.5},
        "pick_binning": {"pick_formats": ["csv", "warp"], "pick_binning": 1.0},
        "start_from_other_species": others,
        "rate_of_old_layers": others,
    }
    both = needed.get(key, {})
    other = str(project / OTHER[key]) if key in ("calibration_path", "second_look_path") else OTHER[key]
    before, now = record(project, name, **both), record(project, name, **{**both, key: other})
    listed = may_change("training" if name == "train.json" else "batch")
    assert (canonical(before) == canonical(now)) == (key in listed), first_difference(before, now)


@pytest.mark.parametrize(
    ("name", "key", "value"), [(name, *change) for name in SECTIONS for change in inner_numbers(name)]
)
def test_a_number_in_the_middle_of_a_config_is_in_the_record(name, key, value, project):
    assert first_difference(record(project, name), record(project, name, **{key: value}))


def test_a_training_that_was_shorter_than_its_warm_up_may_become_longer(project):
    short, long = (record(project, "train.json", warmup_steps=50, epochs=epochs) for epochs in (1, 100))
    assert first_difference(short, long) is None
    other = record(project, "train.json", warmup_steps=60, epochs=1)
    assert first_difference(short, other) == "warmup_steps was 50, now it is 60"


def test_where_things_are_may_change(project, tmp_path):
    """A dataset may be moved; its files' names, the weights' content and the species count."""
    moved = tmp_path / "moved"
    project.rename(moved)
    try:
        there = {name: record(moved, name) for name in SECTIONS}
    finally:
        moved.rename(project)
    for name in SECTIONS:
        assert canonical(record(project, name)) == canonical(there[name])
    assert PLACES - {"imports", "device"} <= may_change("training") & may_change("batch")


def test_other_weights_species_and_networks_are_in_the_record(project, tmp_path):
    species_set = read_species(CONFIGS / "species.json")
    other = write_weights(tmp_path / "other.pt", tiny_network(seed=2, out_channels=5), species_set)
    assert first_difference(
        record(project, "inference.json"), record(project, "inference.json", checkpoint_path=str(other))
    )
    content = json.loads((CONFIGS / "species.json").read_text())
    content["species"]["ribosome"]["min_voxels"] = 3
    (tmp_path / "species.json").write_text(json.dumps(content))
    for name in SECTIONS:
        mine = record(project, name, species_path=str(tmp_path / "species.json"))
        assert "'ribosome' min_voxels was 16, now it is 3" in first_difference(record(project, name), mine)
