"""Programs that are killed at random moments and started again, and headers that are damaged at random.

Each function returns how often what came, and fails where something was lost, came twice or stayed half-written.
"""

import multiprocessing.connection
import random
import resource
import shutil
import struct
import time
import traceback
import warnings
from collections import Counter

import torch
from batches import (
    BUNDLE,
    CONFIGS,
    FORKS,
    VOXEL_SIZE,
    codes_of,
    files_of,
    start,
    start_two,
    statuses,
    write_tomograms,
)
from monai.bundle import ConfigWorkflow
from scripts.errors import InputError
from scripts.picks import read_csv
from scripts.results.run_folder import read_record
from scripts.volumes.reading import read_tomogram
from volume_files import mrc_bytes

HEADER_BYTES = 1024
TRAINING = {
    "network_def#widths": [4, 8], "network_def#depths": [1, 1], "window_size": [16, 16, 16], "windows_per_epoch": 8,
    "epochs": 3, "val_interval": 1, "warmup_steps": 1, "inference_window_size": [16, 16, 16],
    "inference_overlap_voxels": 4, "device": "$torch.device('cpu')", "precision": "float32",
}  # fmt: skip


def ignore(done):
    """Tell nobody how much is done."""


def kill_batches(tomograms, folder, kills, seed=0, tell=ignore):
    """Kill batches, and compare what they leave, after every kill, with one that nobody disturbed."""

    def begin(output_dir):
        return start(tomograms, output_dir)

    came, wanted = kill_often(begin, folder, files_of, look_at_batch, kills, seed, tell)
    assert codes_of(begin(folder / "killed")) == [0]
    compare(folder / "killed", files_of, wanted, came)
    return came


def kill_often(begin, folder, results_of, look_at, kills, seed, tell):
    """Kill what ``begin`` starts, again and again; where it comes to its end, compare it with the undisturbed one.

    Returns:
        What came, and the results of the undisturbed one. ``folder / "killed"`` holds what the last kill left.
    """
    came, killed = Counter(), folder / "killed"
    moments = Moments(lambda: begin(folder / "whole"), seed)
    wanted = results_of(folder / "whole")
    while came["kills"] < kills:
        moments.kill(begin(killed), came)
        look_at(killed, wanted, came)
        if came["ended"] > came["compared"]:
            compare(killed, results_of, wanted, came)
        elif results_of(killed) == wanted:  # killed on its way out: a complete training would refuse to go on
            shutil.rmtree(killed)
            came["killed when complete"] += 1
        tell(came["kills"])
    return came, wanted


def compare(folder, results_of, wanted, came):
    """The files are those of a program that nobody disturbed, and no temporary is left."""
    assert results_of(folder) == wanted
    assert not list(folder.glob(".*.tmp"))
    came["compared"] += 1
    shutil.rmtree(folder)


class Moments:
    """When to kill: at any moment of the time that a program takes undisturbed, which is measured once."""

    def __init__(self, undisturbed, seed):
        self.random = random.Random(seed)
        warm_up = FORKS.Process(target=int)  # the first one imports what takes long
        warm_up.start()
        warm_up.join()
        began = time.monotonic()
        assert codes_of(undisturbed()) == [0]
        self.span = time.monotonic() - began

    def kill(self, process, came):
        process.join(self.random.uniform(0, self.span))
        if process.exitcode is None:
            process.kill()
            process.join()
            came["kills"] += 1
        else:
            assert process.exitcode == 0
            came["ended"] += 1


def look_at_batch(folder, wanted, came):
    """Every folder of a run is absent or complete, and the table names each pick of a complete run once at most."""
    if not folder.exists():
        return
    of_runs = {name: content for name, content in files_of(folder).items() if name[0] != "." and "/" in name}
    complete = {name.split("/")[0] for name in of_runs}
    assert of_runs == {name: content for name, content in wanted.items() if name.split("/")[0] in complete}
    assert all(read_record(folder / run) for run in complete)
    came["with complete tomograms"] += bool(complete)
    came["with temporaries"] += bool(list(folder.glob(".*.tmp")))
    if (folder / "picks.csv").exists():
        picks = read_csv(folder / "picks.csv")
        assert len(picks) == len(set(picks))
        assert {pick.run for pick in picks} <= complete


def write_labelled(folder):
    """Write two tomograms with their truth."""
    write_tomograms(folder, 2)
    rows = [f"0,TS_0{run},ribosome,{VOXEL_SIZE * (11 + run)},{VOXEL_SIZE * 9},{VOXEL_SIZE * 6}" for run in (0, 1)]
    (folder / "truth.csv").write_text("\n".join(["id,experiment,particle_type,x,y,z", *rows]))
    return folder


def train(dataset_dir, output_dir):
    """Train a small network in a process of its own."""
    torch.set_num_threads(1)
    made = ConfigWorkflow(
        config_file=str(CONFIGS / "train.json"), workflow_type="train", bundle_root=str(BUNDLE), logging_file=False,
        dataset_dir=str(dataset_dir), output_dir=str(output_dir), validation_runs=["TS_01"], **TRAINING,
    )  # fmt: skip
    made.initialize()
    made.run()


def start_training(dataset_dir, output_dir):
    process = FORKS.Process(target=train, args=(dataset_dir, output_dir))
    process.start()
    return process


def kill_trainings(dataset_dir, folder, kills, seed=0, tell=ignore):
    """Kill trainings, and compare what they end with, with one that nobody disturbed."""

    def begin(output_dir):
        return start_training(dataset_dir, output_dir)

    killed = folder / "killed"
    came, wanted = kill_often(begin, folder, results_of_training, look_at_training, kills, seed, tell)
    assert codes_of(begin(killed)) == [0]
    compare(killed, results_of_training, wanted, came)
    return came


def look_at_training(folder, wanted, came):
    """Count how often a kill left a finished epoch, and temporaries."""
    came["with a finished epoch"] += (folder / "training.pt").exists()
    came["with temporaries"] += bool(list(folder.glob(".*.tmp")))


def results_of_training(folder):
    """Return the bytes of the weights, of the state and of the table of metrics of a training."""
    names = ("model.pt", "model_last.pt", "training.pt", "metrics.csv")
    return {name: (folder / name).read_bytes() for name in names if (folder / name).exists()}


def damage_headers(folder, count, seed=0, tell=ignore):
    """Read MRC files with one to four random bytes of the header changed: a volume or one line comes, or a fault."""
    came, moments, path = Counter(), random.Random(seed), folder / "damaged.mrc"
    whole = mrc_bytes()
    for number in range(count):
        content = bytearray(whole)
        for place in moments.sample(range(HEADER_BYTES), moments.randint(1, 4)):
            struct.pack_into("B", content, place, moments.randrange(256))
        path.write_bytes(content)
        began = time.monotonic()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                read_tomogram(path, voxel_size_angstrom=10.0)
            came["read"] += 1
        except InputError as error:
            came["refused in several lines" if "\n" in str(error) else "refused in one line"] += 1
        except Exception:
            came["tracebacks"] += 1
            path.with_name(f"fault_{came['tracebacks']}.mrc").write_bytes(content)
            traceback.print_exc()
        came["seconds at most"] = max(came["seconds at most"], round(time.monotonic() - began, 2))
        tell(number + 1)
    came["MiB of the process at most"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    assert not came["tracebacks"] + came["refused in several lines"]
    return came


def load_batch(tomograms, folder, bad, every=60, seed=0, tell=ignore):
    """Let two processes share a batch, and kill one of them every so often, until all is done.

    Args:
        tomograms: folder with the tomograms.
        folder: for the results.
        bad: names of the runs that cannot be read.
        every: seconds between two kills. The other process goes on alone; when none is left, two are started again.
    """
    came, chances = Counter(), random.Random(seed)
    runs = {path.stem for path in tomograms.glob("*.mrc")}
    kills = None
    while kills != came["kills"]:  # until two of them come to their end undisturbed
        kills, alive = came["kills"], start_two(tomograms, folder)
        came["starts"] += 1
        while alive:
            if not multiprocessing.connection.wait([process.sentinel for process in alive], timeout=every):
                chances.choice(alive).kill()
                came["kills"] += 1
            alive = [process for process in alive if process.exitcode is None]
        tell(len(list(folder.glob("*/run.json"))))
    status = statuses(folder)
    came["done"] = sum(value == "done" for value in status.values())
    assert set(status) == runs
    picks = read_csv(folder / "picks.csv")
    assert len(picks) == len(set(picks))
    assert {run for run, value in status.items() if value == "failed"} == bad
    assert {path.stem for path in (folder / "failures").iterdir()} == bad
    assert not list(folder.glob(".*.tmp"))
    of_runs = [pick for run in sorted(runs - bad) for pick in read_csv(folder / run / "picks.csv")]
    assert sorted(map(str, picks)) == sorted(map(str, of_runs))
    memory = [read_record(folder / run).peak_memory_gib for run in sorted(runs - bad)]
    came["picks"], came["MiB of the process at most"] = len(picks), round(1024 * max(memory))
    came["MiB of the process at the first tomograms"] = round(1024 * max(memory[:10]))
    return came
