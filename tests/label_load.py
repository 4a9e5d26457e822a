"""Several clients that ask MONAI Label's server at once, some of them for what it has to refuse: `make soak-label`."""

import argparse
import gzip
import json
import random
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nibabel
import numpy as np
import psutil
from label_server import ROOT, serving
from requests_toolbelt.multipart import decoder
from scripts.volumes.reading import read_tomogram
from synthetic import write_mrc
from tqdm import tqdm

SIDE_VOXELS = 64
CORNERS = [(0, 0, 0), (0, 60, 60), (20, 0, 100), (20, 100, 0)]  # z, y, x in the sample
GOOD_OPTIONS = ({}, {"operating_point_ribosome": "precision 0.9"}, {"rotations": 2})
BAD_OPTIONS = ({"rotations": 7}, {"operating_point_ribosome": "probability 2"})
BAD_STUDIES = ("cut", "unlike", "absent")


def write_studies(folder):
    """Write four tomograms with other particles in each, one that is cut short and one that is no tomogram."""
    sample = read_tomogram(ROOT / "sample" / "sample.mrc")
    folder.mkdir(parents=True)
    for number, (z, y, x) in enumerate(CORNERS):
        window = sample.data[z : z + SIDE_VOXELS, y : y + SIDE_VOXELS, x : x + SIDE_VOXELS]
        write_mrc(folder / f"part_{number}.mrc", window.astype(np.float32), sample.voxel_size_angstrom)
    whole = (folder / "part_0.mrc").read_bytes()
    (folder / "cut.mrc").write_bytes(whole[:-1000])
    (folder / "unlike.mrc").write_bytes(b"this is a letter\n" * 200)


def load_server(process, server, count, clients, seed=0, tell=lambda done: None):
    """Ask for picks from several clients at once; every answer is the one that the same question got alone.

    Args:
        process: of the server.
        server: as clients see it, with the studies of `write_studies`.
        count: number of requests.
        clients: how many ask at the same time.
        tell: is called with the number of answers so far.

    Returns:
        How often what came, and the server's memory in MiB after a quarter of the requests and at the end.
    """
    parts = [f"part_{number}" for number in range(len(CORNERS))]
    questions = [(part, options) for part in parts for options in GOOD_OPTIONS]
    questions += [("part_0", options) for options in BAD_OPTIONS] + [(study, {}) for study in BAD_STUDIES]
    wanted = [answer_of(server, *question) for question in questions]
    refused = [answer for answer in wanted if isinstance(answer, str)]
    assert len(refused) == len(BAD_OPTIONS) + len(BAD_STUDIES)
    assert all("\n" not in line for line in refused)
    assert len({str(answer) for answer in wanted}) > len(parts) + len(refused)  # what could be mixed up, shows

    asked = random.Random(seed).choices(range(len(questions)), k=count)
    came, memory = Counter(), [mebibytes_of(process)]

    def ask(number):
        study, options = questions[number]
        return answer_of(server, study, options) == wanted[number]

    with ThreadPoolExecutor(clients) as pool:
        for done, is_same in enumerate(pool.map(ask, asked), start=1):
            assert is_same, questions[asked[done - 1]]
            memory.append(mebibytes_of(process))
            tell(done)
    came["answers with picks"] = sum(not isinstance(wanted[number], str) for number in asked)
    came["refusals"] = count - came["answers with picks"]
    came["MiB after a quarter"] = max(memory[: count // 4 + 1])
    came["MiB at the end"] = memory[-1]
    return came


def answer_of(server, study, options):
    """Return picks, with the study of each, and a digest of the label map; or the line of a refusal."""
    answer = server.ask(study, precision="float32", **options)
    if answer.status_code != 200:
        return answer.json()["detail"]
    params, image = decoder.MultipartDecoder.from_response(answer).parts
    picks = json.loads(params.content)["picks"]
    labels = np.asarray(nibabel.Nifti1Image.from_bytes(gzip.decompress(image.content)).dataobj)
    return picks, labels.shape, hash(labels.tobytes())


def mebibytes_of(process):
    return round(psutil.Process(process.pid).memory_info().rss / 2**20)


def main():
    """Print what came of many requests."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--clients", type=int, default=4)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="label_") as folder:
        write_studies(Path(folder) / "studies")
        with serving(Path(folder)) as (process, server), tqdm(total=options.requests, desc="requests") as bar:
            came = load_server(process, server, options.requests, options.clients, tell=lambda done: bar.update())
    for what, number in came.items():
        print(f"{what:25} {number}")


if __name__ == "__main__":
    main()
