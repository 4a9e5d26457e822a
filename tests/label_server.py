"""MONAI Label's real server with the bundle, seen as a client sees it. Needs monailabel."""

import json
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import nibabel
import numpy as np
import requests
from requests_toolbelt.multipart import decoder
from scripts.coordinates import affine_of
from scripts.picks import from_records
from scripts.volumes.reading import read_tomogram
from synthetic import write_mrc

ROOT = Path(__file__).resolve().parents[1]
SERVE = ROOT / "apps" / "monai_label" / "serve.py"
sys.path.insert(0, str(SERVE.parent))
import serve  # noqa: E402

MODEL = serve.BUNDLE_NAME
CROP = np.s_[16:80, 40:136, 60:188]  # three lengths, so that a swapped axis shows
FLOAT32 = {"precision": "float32"}
# an empty run_id is what 3D Slicer sends; the learning rate of the very first step is 0, so there are two epochs
TINY_REQUEST = {"max_epochs": 2, "val_split": 0.2, "run_id": "", "device": "cpu"}
PATIENCE = 1200  # seconds: a training imports MONAI first, and a machine may be busy


class Server:
    """The server as a client sees it, and its folders."""

    def __init__(self, folder, port):
        self.folder, self.url = folder, f"http://127.0.0.1:{port}"
        self.bundle, self.studies = folder / "app" / "model" / MODEL, folder / "studies"
        self.weights = self.bundle / "models" / "model.pt"
        self.labels = self.studies / "labels" / "final"

    def info(self):
        return requests.get(f"{self.url}/info/", timeout=PATIENCE).json()

    def ask(self, study, **options):
        form = {"params": json.dumps({"device": "cpu", "result_extension": ".nii.gz", **options})}
        return requests.post(f"{self.url}/infer/{MODEL}", params={"image": study}, data=form, timeout=PATIENCE)

    def infer(self, study, **options):
        """Return picks and label map; the map is saved to ``folder/answer.nii.gz``."""
        answer = self.ask(study, **options)
        assert answer.status_code == 200, answer.text
        params, image = decoder.MultipartDecoder.from_response(answer).parts
        (self.folder / "answer.nii.gz").write_bytes(image.content)
        result = json.loads(params.content)
        print(f"\n/infer {study} {options}: {len(result['picks'])} picks, {result['latencies']['total']} s")
        return from_records(result["picks"]), nibabel.load(self.folder / "answer.nii.gz")

    def save_label(self, study, path):
        with open(path, "rb") as file:
            answer = requests.put(
                f"{self.url}/datastore/label", params={"image": study}, files={"label": file}, timeout=PATIENCE
            )
        assert answer.status_code == 200, answer.text

    def add_study(self, name, path):
        with open(path, "rb") as file:
            answer = requests.put(
                f"{self.url}/datastore/image", params={"image": name}, files={"file": file}, timeout=PATIENCE
            )
        assert answer.status_code == 200, answer.text

    def score(self):
        """Return the uncertainty of the studies that were not scored yet."""
        url = f"{self.url}/scoring/most_uncertain_picks"
        scores = requests.post(url, params={"run_sync": True}, timeout=PATIENCE).json()
        print(f"\n/scoring: {scores}")
        return scores

    def remove_label(self, study):
        requests.delete(f"{self.url}/datastore/label", params={"id": study, "tag": "final"}, timeout=PATIENCE)

    def labels_of(self, study):
        """Return the tags of a study's saved labels, as the server lists them."""
        store = requests.get(f"{self.url}/datastore/", params={"output": "all"}, timeout=PATIENCE).json()
        return list(store["objects"][study]["labels"])

    def start_training(self, **options):
        answer = requests.post(f"{self.url}/train/{MODEL}", json={**TINY_REQUEST, **options}, timeout=PATIENCE)
        assert answer.status_code == 200, answer.text

    def train(self, **options):
        """Train in a process of its own, as clients do, and return the task with the last lines of its log."""
        self.start_training(**options)
        task = self.wait_for_training(lambda task: task["status"] not in ("SUBMITTED", "RUNNING"))
        print(f"\n/train {options}: {task['status']}, {task['details'][-1]}")
        return task

    def train_here(self, **options):
        """Train in the server's own process, which is quicker."""
        answer = requests.post(
            f"{self.url}/train/{MODEL}", params={"run_sync": True}, json={**TINY_REQUEST, **options}, timeout=PATIENCE
        )
        print(f"\n/train run_sync {options}: {answer.status_code} {answer.text}")
        return answer

    def wait_for_training(self, reached, seconds=PATIENCE):
        end = time.time() + seconds
        while time.time() < end:
            task = requests.get(f"{self.url}/train/", timeout=PATIENCE).json()
            if reached(task):
                return task
            time.sleep(0.3)
        raise TimeoutError(task)


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def make_studies(folder):
    """The sample as it comes, and a corner of it as NIfTI and as MRC."""
    studies = serve.make_studies(folder, ROOT / "sample" / "sample.mrc")
    (studies / "sample_as_mrc.mrc").unlink()
    sample = read_tomogram(ROOT / "sample" / "sample.mrc")
    corner, size = sample.data[CROP].astype(np.float32), sample.voxel_size_angstrom
    write_mrc(studies / "corner_as_mrc.mrc", corner, size)
    affine = affine_of(size)[:, [2, 1, 0, 3]]
    affine[:3, 3] = 700.0, -40.0, 5.0
    nibabel.save(nibabel.Nifti1Image(corner.T, affine), studies / "corner.nii.gz")


@contextmanager
def serving(folder, *options):
    """Start the server on a folder, and yield its process and what a client sees of it; it is ended at the end."""
    port = free_port()
    command = [sys.executable, str(SERVE), "--folder", str(folder), "--port", str(port), *options]
    with open(folder / "server.log", "w") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=subprocess.STDOUT)
    server = Server(folder, port)
    try:
        wait_for_start(process, server)
        yield process, server
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        print("\n" + "\n".join((folder / "server.log").read_text().splitlines()[-3:]))


def wait_for_start(process, server, seconds=PATIENCE):
    end = time.time() + seconds
    while time.time() < end and process.poll() is None:
        try:
            server.info()
            return
        except requests.ConnectionError:
            time.sleep(0.3)
    raise TimeoutError((server.folder / "server.log").read_text()[-3000:])
