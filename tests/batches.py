"""Batches of small tomograms through the shipped config, in this process or in one of their own."""

import csv
import multiprocessing
import os
import signal
import socket
from pathlib import Path

import scripts.handlers.results as handlers
import torch
from monai.bundle import ConfigWorkflow
from scripts.networks.convnext_unet import ConvNeXtUNet
from scripts.species import read_species
from scripts.volumes.labels import draw_spheres
from synthetic import SHAPE, noise, write_mrc, write_weights

BUNDLE = Path(__file__).resolve().parents[1] / "bundle"
CONFIGS = BUNDLE / "configs"
HOLD_TIMES = {"run.json", "summary.csv"}
VOXEL_SIZE = 10.012

# one process that has imported what takes long, and from which the others are forked
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["monai.bundle", "monai.engines", "matplotlib.figure", "sklearn.cluster", "starfile"])


def write_tomograms(folder, count, shape=SHAPE):
    for number in range(count):
        volume = noise(number, shape) + 6 * draw_spheres(shape, [(6, 9, 11 + number % 20)], radius_vox=3)
        write_mrc(folder / f"TS_{number:02d}.mrc", volume, VOXEL_SIZE)
    return folder


def write_batch(folder, count, species_set):
    """Write tomograms and the weights of a small network that answers with its (smoothed) input."""
    torch.manual_seed(0)
    write_weights(folder / "weights.pt", ConvNeXtUNet(widths=(4, 8), depths=(1, 1), prior=0.6), species_set)
    return write_tomograms(folder / "tomograms", count)


def pick(tomograms, output_dir, weights, configs=("inference.json",), **settings):
    thresholds = dict.fromkeys(read_species(CONFIGS / "species.json").names, 0.5)
    made = ConfigWorkflow(
        config_file=[str(CONFIGS / name) for name in configs], workflow_type="infer", bundle_root=str(BUNDLE),
        logging_file=False, **{
            "dataset_dir": str(tomograms), "output_dir": str(output_dir), "checkpoint_path": str(weights),
            "inference_window_size": [16, 24, 24], "precision": "float32",
            "device": "$torch.device('cpu')", "probability_thresholds": thresholds, **settings,
        },
    )  # fmt: skip
    made.initialize()
    made.run()
    made.finalize()
    return made


def files_of(folder):
    """Return the bytes of all files but those that hold times."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name not in HOLD_TIMES]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def statuses(folder):
    return {row["run"]: row["status"] for row in csv.DictReader((folder / "summary.csv").read_text().splitlines())}


def work(data, output_dir, killed_at, environment):
    """Run a batch in a process of its own; ``killed_at``: SIGKILL in the middle of writing that run."""
    os.environ.update(environment, CUDA_VISIBLE_DEVICES="")
    handlers.picture_of = lambda sample, species_set: None
    handlers.save_figure = lambda figure, path: path.write_bytes(b"")
    write_record = handlers.write_record

    def write_or_die(folder, record):
        if record.run == killed_at:
            os.kill(os.getpid(), signal.SIGKILL)
        write_record(folder, record)

    handlers.write_record = write_or_die
    configs = ["inference.json", "multi_gpu_inference.json"] if environment else ["inference.json"]
    device = {"device": "$torch.device('cpu')"}
    pick(data, output_dir, data.parent / "weights.pt", configs, **device)


def start(data, output_dir, killed_at=None, environment=()):
    process = FORKS.Process(target=work, args=(data, output_dir, killed_at, dict(environment)))
    process.start()
    return process


def start_two(data, output_dir, killed_at=None):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    ranks = [{**where, "RANK": rank, "LOCAL_RANK": rank} for rank in "01"]
    return [start(data, output_dir, killed_at, rank) for rank in ranks]


def codes_of(*processes):
    for process in processes:
        process.join(timeout=250)
    return [process.exitcode for process in processes]
