"""The long form of the tests of faults: `make soak`. Prints what came, and fails where something was lost."""

import argparse
import os
import tempfile
import time
from pathlib import Path

import torch
from batches import write_batch, write_tomograms
from kills import damage_headers, kill_batches, kill_trainings, load_batch, write_labelled
from scripts.species import read_species
from tqdm import tqdm

BUNDLE = Path(__file__).resolve().parents[2] / "bundle"
BAD_EVERY = 25  # of the tomograms of the load, one is cut short


def make_parser():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=300, help="of inference")
    parser.add_argument("--training-kills", type=int, default=60, help="of training")
    parser.add_argument("--headers", type=int, default=100_000, help="that are damaged")
    parser.add_argument("--tomograms", type=int, default=500, help="of 48 x 48 x 48 voxels that two processes share")
    parser.add_argument("--folder", type=Path, help="for what is written; by default one that is removed")
    return parser


def main():
    options = make_parser().parse_args()
    with tempfile.TemporaryDirectory(prefix="soak_") as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        screen = own_screen(folder / "programs.log")
        torch.set_num_threads(1)
        for name, count, work in works(folder, options):
            if count:
                began = time.monotonic()
                with tqdm(total=count, desc=name, file=screen) as bar:
                    came = work(count, lambda done, bar=bar: bar.update(done - bar.n))
                came["minutes"] = round((time.monotonic() - began) / 60, 1)
                for what, number in came.items():
                    print(f"{name:20} {what:45} {number}", file=screen, flush=True)


def works(folder, options):
    """Yield the name of every part, how much of it was asked for, and a function that does it."""
    species_set = read_species(BUNDLE / "configs" / "species.json")

    def batches(count, tell):
        (folder / "data").mkdir()
        return kill_batches(write_batch(folder / "data", 6, species_set), folder / "batches", count, tell=tell)

    def trainings(count, tell):
        return kill_trainings(write_labelled(folder / "labelled"), folder / "trainings", count, tell=tell)

    def load(count, tell):
        (folder / "load").mkdir()
        write_batch(folder / "load", 0, species_set)
        tomograms = write_tomograms(folder / "load" / "tomograms", count, (48, 48, 48))
        bad = sorted(tomograms.glob("*.mrc"))[::BAD_EVERY]
        for path in bad:
            path.write_bytes(path.read_bytes()[:-1000])
        return load_batch(tomograms, folder / "load" / "picks", {path.stem for path in bad}, tell=tell)

    yield "damaged headers", options.headers, lambda count, tell: damage_headers(folder, count, tell=tell)
    yield "killed batches", options.kills, batches
    yield "killed trainings", options.training_kills, trainings
    yield "load", options.tomograms, load


def own_screen(log):
    """Return the screen as a file, and let this program's output and that of all it starts go to a log."""
    screen = os.fdopen(os.dup(1), "w")
    with open(log, "w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    return screen


if __name__ == "__main__":
    main()
