import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ignite.engine import Events
from monai.bundle import ConfigWorkflow
from scripts.picks import read_csv
from scripts.volumes.labels import draw_spheres
from scripts.volumes.reading import read_tomogram
from synthetic import noise, write_mrc

ROOT = Path(__file__).resolve().parents[2]
BUNDLE = ROOT / "bundle"
CONFIGS = BUNDLE / "configs"
SHAPE, VOXEL_SIZE = (24, 36, 48), 10.012
CENTRES = {"apo-ferritin": [(7, 9, 11), (15, 25, 38)], "ribosome": [(12, 24, 12)], "thyroglobulin": [(10, 8, 33)]}
SMALL = {
    "precision": "float32", "network_def#widths": [4, 8], "network_def#depths": [1, 1], "window_size": [16, 16, 16],
    "windows_per_epoch": 6, "epochs": 3, "val_interval": 3, "warmup_steps": 1, "validation_runs": ["two"],
    "inference_window_size": [32, 32, 32],
}  # fmt: skip
PART = (slice(0, 32), slice(184, 232), slice(176, 232))  # of the sample: a dozen apo-ferritins


@pytest.fixture(autouse=True)
def full_float32(monkeypatch):
    """GPUs round float32 to TF32 in convolutions by default; here they compute as exactly as the CPU."""
    monkeypatch.setattr("torch.backends.cudnn.allow_tf32", False)


@pytest.fixture(scope="session")
def dataset_dir(tmp_path_factory):
    """Two tomograms of noise with bright spheres in known places."""
    folder, rows = tmp_path_factory.mktemp("gpu"), ["experiment,particle_type,x,y,z"]
    for seed, run in enumerate(("one", "two")):
        volume = noise(seed, SHAPE)
        for name, points in CENTRES.items():
            volume += 6 * draw_spheres(SHAPE, points, 3)
            rows += [f"{run},{name},{x * VOXEL_SIZE},{y * VOXEL_SIZE},{z * VOXEL_SIZE}" for z, y, x in points]
        write_mrc(folder / f"{run}.mrc", volume, VOXEL_SIZE)
    (folder / "truth.csv").write_text("\n".join(rows))
    return folder


@pytest.fixture(scope="session")
def part_of_sample(tmp_path_factory):
    """A small part of the sample, for the CPU."""
    volume = np.asarray(read_tomogram(ROOT / "sample" / "sample.mrc").data, dtype=np.float32)[PART]
    return write_mrc(tmp_path_factory.mktemp("part") / "part.mrc", volume, VOXEL_SIZE)


def made_config(names, kind, device, **settings):
    """Return configs as a workflow on a device, ready to run."""
    made = ConfigWorkflow(
        config_file=[str(CONFIGS / name) for name in names], workflow_type=kind, bundle_root=str(BUNDLE),
        logging_file=False, device=f"$torch.device('{device}')", **settings,
    )  # fmt: skip
    made.initialize()
    return made


@pytest.fixture(scope="session")
def train(dataset_dir):
    """Return a function that trains a small network by the config for a few steps, and returns the workflow."""

    def run(device, output_dir, stop_after_epoch=None, **settings):
        where = {"dataset_dir": str(dataset_dir), "output_dir": str(output_dir)}
        made = made_config(["train.json"], "train", device, **where, **{**SMALL, **settings})
        if stop_after_epoch is not None:
            trainer = made.parser.get_parsed_content("train#trainer")
            trainer.add_event_handler(Events.EPOCH_COMPLETED(once=stop_after_epoch), trainer.terminate)
        made.run()
        return made

    return run


@pytest.fixture(scope="session")
def pick(tmp_path_factory):
    """Return a function that picks by the config, with the shipped weights if not told otherwise."""

    def run(device, dataset_dir, names=("inference.json",), **settings):
        output = tmp_path_factory.mktemp("picks")
        quick = {"page_megabytes": 0, "pick_formats": ["csv"], "precision": "float32"}
        where = {"dataset_dir": str(dataset_dir), "output_dir": str(output)}
        made_config(names, "infer", device, **{**quick, **where, **settings}).run()
        return read_csv(output / "picks.csv")

    return run


@pytest.fixture(scope="session")
def evaluate(dataset_dir):
    """Return a function that evaluates weights by the config, and returns the lines of ``scores.csv``."""

    def run(device, output_dir, weights):
        where = {"dataset_dir": str(dataset_dir), "output_dir": str(output_dir), "checkpoint_path": str(weights)}
        where |= {"validation_runs": ["two"]}
        quick = {"precision": "float32", "sweep_thresholds": [0.001, 0.5], "page_megabytes": 0}
        windows = {"inference_window_size": SMALL["inference_window_size"]}
        made_config(["train.json", "evaluate.json"], "train", device, **where, **quick, **windows).run()
        return (output_dir / "scores.csv").read_text().splitlines()

    return run


@pytest.fixture(scope="session")
def small_settings():
    """The settings of the small training, for a command."""
    return SMALL


@pytest.fixture(scope="session")
def torchrun():
    """Return a function that runs configs in two processes, each with a GPU of its own if there are GPUs."""

    def run(names, run_id=None, on_gpus=True, **settings):
        files = str([f"configs/{name}" for name in names])
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nnodes=1", "--nproc_per_node=2"]
        command += ["-m", "monai.bundle", "run", *([run_id] if run_id else []), "--config_file", files]
        command += [f"--{key}={value}" for key, value in settings.items()]
        hidden = {} if on_gpus else {"CUDA_VISIBLE_DEVICES": ""}
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **hidden}
        done = subprocess.run(command, cwd=BUNDLE, env=environment, capture_output=True, text=True, timeout=280)
        assert done.returncode == 0, done.stderr[-3000:]

    return run


@pytest.fixture(scope="session")
def losses():
    """Return a function that reads the mean loss of every epoch of a training."""

    def read(folder):
        with open(folder / "metrics.csv", newline="") as file:
            return [float(row["loss"]) for row in csv.DictReader(file)]

    return read
