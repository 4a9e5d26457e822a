"""The bundle in MONAI Label's real server, driven over REST as a client does. Needs monailabel: `make test-clients`.

The tests stand in the order in which a user works, and share one server: infer, save a label, train, infer again.
"""

import json
import os
import shutil
import signal
import threading
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow
from scripts.networks.convnext_unet import ConvNeXtUNet
from scripts.networks.model_card import checked_card, sha256_of
from scripts.networks.weights import read_tensors
from scripts.picks import read_csv
from scripts.training.heat_maps import HeatMaps
from synthetic import make_species, write_weights

pytest.importorskip("monailabel")
import requests
from label_server import FLOAT32, MODEL, PATIENCE, ROOT, make_studies, serve, serving

TINY_TRAINING = {"windows_per_epoch": 2, "window_size": [16, 32, 32], "val_interval": 1, **FLOAT32}

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(PATIENCE)]  # warnings: MONAI's and Ignite's


@pytest.fixture(scope="module")
def process_and_server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("label")
    make_studies(folder)
    configs = serve.make_app(folder, ROOT / "bundle") / "model" / MODEL / "configs"
    for name, settings in (("train.json", TINY_TRAINING), ("inference.json", FLOAT32)):
        (configs / name).write_text(json.dumps({**json.loads((configs / name).read_text()), **settings}))
    with serving(folder) as served:
        yield served


@pytest.fixture(scope="module")
def server(process_and_server):
    return process_and_server[1]


def pick_plainly(study, output_dir, *overlays, **settings):
    """Pick by the bundle's own command."""
    configs = [ROOT / "bundle" / "configs" / "inference.json", *overlays]
    made = ConfigWorkflow(
        config_file=[str(path) for path in configs], workflow_type="infer", logging_file=False,
        bundle_root=str(ROOT / "bundle"), dataset_dir=str(study), output_dir=str(output_dir),
        device="$torch.device('cpu')", **FLOAT32, **settings,
    )  # fmt: skip
    made.initialize()
    made.run()
    return read_csv(output_dir / "picks.csv")


def assert_same_picks(found, expected, tolerance_vox=0.1):
    """As many of every species, in the order of their scores, each within the tolerance and of the same score."""
    assert sorted(pick.species for pick in found) == sorted(pick.species for pick in expected)
    for pick in expected:
        gaps = [gap(pick, other) for other in found if other.species == pick.species]
        nearest = [other for other in found if other.species == pick.species][int(np.argmin(gaps))]
        assert min(gaps) < tolerance_vox, pick
        assert abs(nearest.score - pick.score) < 0.02, pick


def gap(one, other):
    return max(abs(getattr(one, axis) - getattr(other, axis)) for axis in ("x_voxel", "y_voxel", "z_voxel"))


def doubtful(picks):
    """The lowest score of any species with two picks, and its species."""
    names = [pick.species for pick in picks]
    return min((pick.score, pick.species) for pick in picks if names.count(pick.species) > 1)


def test_the_server_shows_species_and_options(server, shipped_species):
    info = server.info()
    model = info["models"][MODEL]
    print(f"\n/info: {info['datastore']}, labels {info['labels']}")
    assert model["type"] == "segmentation"
    assert model["labels"] == {species.name: species.label for species in shipped_species.picked}
    options = model["config"]
    for species in shipped_species.picked:
        assert options[f"threshold_{species.name}"] == species.probability_threshold
        assert options[f"min_voxels_{species.name}"] == species.min_voxels
        assert options[f"operating_point_{species.name}"] == "F1"
    assert (options["merge_distance_in_radii"], options["rotations"], options["flips"]) == (1.0, 1, "")
    assert options["model_filename"] == ["model.pt"]  # a second look is none
    assert MODEL in info["trainers"]


def test_the_sample_gets_the_picks_that_the_command_line_gave(server):
    picks, _ = server.infer("sample")
    assert_same_picks(picks, read_csv(ROOT / "tests" / "golden" / "picks.csv"))


@pytest.mark.parametrize("study", ["corner", "corner_as_mrc"])
def test_a_corner_gets_the_picks_of_the_command_line(study, server, tmp_path):
    (path,) = server.studies.glob(f"{study}.*")
    picks, _ = server.infer(study)
    assert len(picks) > 3
    assert all(pick.run == study and pick.radius_angstrom > 0 for pick in picks)
    assert_same_picks(picks, pick_plainly(path, tmp_path))


@pytest.mark.parametrize("study", ["corner", "corner_as_mrc"])
def test_the_label_map_lies_on_the_grid_of_the_study(study, server, shipped_species):
    picks, labels = server.infer(study)
    volume = np.asarray(labels.dataobj)
    assert volume.shape == (128, 96, 64)  # x, y, z
    if study == "corner":
        assert np.allclose(labels.affine, nibabel.load(server.studies / "corner.nii.gz").affine, atol=1e-3)
    at = [volume[round(pick.x_voxel), round(pick.y_voxel), round(pick.z_voxel)] for pick in picks]
    wanted = [shipped_species.named(pick.species, "picks").label for pick in picks]
    assert np.mean(np.equal(at, wanted)) > 0.9  # where two species overlap one of them is drawn over the other
    assert set(np.unique(volume)) == {0, *wanted}


def test_options_of_a_request_change_its_picks_and_no_others(server):
    before, _ = server.infer("corner")
    score, name = doubtful(before)
    count = sum(pick.species == name for pick in before)
    surer, _ = server.infer("corner", **{f"operating_point_{name}": f"probability {min(score + 1e-6, 0.999999)}"})
    assert 0 < sum(pick.species == name for pick in surer) <= count
    assert all(pick.score > score for pick in surer if pick.species == name)
    turned, _ = server.infer("corner", rotations=2, flips="z")
    assert [pick.score for pick in turned] != [pick.score for pick in before]
    assert_same_picks(server.infer("corner")[0], before, tolerance_vox=1e-3)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"threshold_ribosome": 1.4}, "the threshold of 'ribosome' is a probability, 0 <= t < 1; got 1.4."),
        ({"min_voxels_ribosome": 0}, "min_voxels_ribosome must be a whole number from 1; got 0."),
        (
            {"threshold_ribosome": 0.9},
            "threshold_ribosome is for weights without a second look: set operating_point_ribosome, for example to "
            "'precision 0.9' or 'probability 0.5'.",
        ),
        ({"min_voxels_ribosom": 5}, "min_voxels_ribosome, min_voxels_thyroglobulin, min_voxels_virus-like-particle."),
        ({"rotations": 7}, "rotations is a whole number from 1 to 4; got 7."),
        ({"flips": "xx"}, "flips is a list of axes out of z, y and x, each once; got 'xx'."),
    ],
)
def test_a_wrong_option_is_answered_in_one_line(options, line, server):
    answer = server.ask("corner", **options)
    assert answer.status_code == 400
    assert answer.json()["detail"].endswith(line)


def test_the_study_with_the_most_uncertain_picks_comes_next(server, tmp_path):
    corner = server.studies / "corner.nii.gz"
    study = nibabel.load(corner)
    nibabel.save(nibabel.Nifti1Image(np.zeros(study.shape, np.float32), study.affine), tmp_path / "blank.nii.gz")
    server.add_study("blank", tmp_path / "blank.nii.gz")
    nibabel.save(nibabel.Nifti1Image(np.zeros(study.shape, np.float32), 2 * study.affine), tmp_path / "big.nii.gz")
    server.add_study("another_voxel_size", tmp_path / "big.nii.gz")
    server.save_label("sample", corner)  # a study with a label is not proposed; this one is never read
    scores = server.score()
    assert "another_voxel_size is not scored: " in (server.folder / "server.log").read_text()
    assert scores["corner"] == pytest.approx(scores["corner_as_mrc"], abs=0.01)
    assert scores["corner"] > scores["blank"] == 0
    assert server.score() == {}  # nothing has changed
    chosen = requests.post(f"{server.url}/activelearning/most_uncertain_picks", json={}, timeout=PATIENCE).json()
    print(f"\n/activelearning: {chosen['id']}, {chosen['uncertain_picks']} uncertain picks")
    assert chosen["uncertain_picks"] == max(scores.values())
    assert chosen["id"].startswith("corner")
    server.remove_label("sample")
    for name in ("another_voxel_size", "blank"):
        requests.delete(f"{server.url}/datastore/image", params={"id": name}, timeout=PATIENCE)


def test_a_removed_label_is_forgotten_at_once(server):
    for _ in range(5):
        server.save_label("corner", server.studies / "corner.nii.gz")
        assert server.labels_of("corner") == ["final"]
        server.remove_label("corner")
        assert server.labels_of("corner") == []


def test_the_list_of_labels_is_never_read_while_it_changes(tmp_path, monkeypatch):
    from monailabel.datastore.local import LocalDatastore
    from study_folder import StudyFolder

    (tmp_path / "one.nii.gz").touch()
    folder = StudyFolder(str(tmp_path), extensions=["*.nii.gz"])
    folder.save_label("one", str(tmp_path / "one.nii.gz"), "final", {})
    half_way, go_on = threading.Event(), threading.Event()
    remove = LocalDatastore._remove_non_existing

    def remove_slowly(store):
        labels = dict(store._datastore.objects["one"].labels)
        store._datastore.objects["one"].labels.clear()
        half_way.set()
        go_on.wait(PATIENCE)
        store._datastore.objects["one"].labels.update(labels)
        return remove(store)

    monkeypatch.setattr(LocalDatastore, "_remove_non_existing", remove_slowly)
    with ThreadPoolExecutor(2) as threads:
        refreshing = threads.submit(folder.refresh)
        half_way.wait(PATIENCE)
        reading = threads.submit(folder.datalist)
        is_read = wait([reading], timeout=0.3).done
        go_on.set()
        assert not is_read
        assert len(reading.result(PATIENCE)) == 1
        refreshing.result(PATIENCE)


def test_a_training_on_one_label_is_used_by_the_next_inference(server, tmp_path):
    shipped = sha256_of(server.weights)
    before, labels = server.infer("corner")
    nibabel.save(labels, tmp_path / "mine.nii.gz")
    server.save_label("corner", tmp_path / "mine.nii.gz")
    assert server.train()["status"] == "DONE"
    assert sha256_of(server.weights) != shipped == sha256_of(server.weights.with_name("model_shipped.pt"))
    rows = (server.bundle / "output" / "metrics.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["epoch", "1", "2"]  # an empty run_id trains once
    after, _ = server.infer("corner")
    assert [pick.score for pick in after] != [pick.score for pick in before]
    assert_same_picks(
        after, pick_plainly(server.studies / "corner.nii.gz", tmp_path, checkpoint_path=str(server.weights))
    )
    again, _ = server.infer("corner", model_filename="model_shipped.pt")
    assert_same_picks(again, before, tolerance_vox=1e-6)


def test_the_new_weights_are_recorded_and_a_second_training_begins_with_them(server):
    first = sha256_of(server.weights)
    assert checked_card(server.weights)["weights_sha256"] == {"model.pt": first}
    assert server.train_here().status_code == 200
    assert sha256_of(server.weights) != first
    second, shipped = read_tensors(server.weights), read_tensors(ROOT / "bundle" / "models" / "model.pt")
    learned = [name for name in second if "running" not in name and "num_batches" not in name]  # by the optimizer
    assert all(torch.allclose(second[name], shipped[name], atol=0.05) for name in learned)  # not from random weights


def test_a_cancelled_training_changes_no_weights(server):
    before = sha256_of(server.weights)
    checkpoint = server.bundle / "output" / "training.pt"
    checkpoint.unlink()
    server.start_training(max_epochs=1000)
    server.wait_for_training(lambda _: checkpoint.exists())
    requests.delete(f"{server.url}/train/", timeout=PATIENCE)
    task = server.wait_for_training(lambda task: task["status"] != "RUNNING")
    print(f"\nDELETE /train/: {task['status']}")
    assert task["status"] == "STOPPED"
    assert sha256_of(server.weights) == before
    assert server.infer("corner")[0]


def test_an_unknown_label_ends_the_training_with_a_line_that_names_it(server, tmp_path):
    before = sha256_of(server.weights)
    study = nibabel.load(server.studies / "corner.nii.gz")
    values = np.zeros(study.shape, np.uint8)
    values[5:9, 5:9, 5:9] = 9
    nibabel.save(nibabel.Nifti1Image(values, study.affine), tmp_path / "wrong.nii.gz")
    server.save_label("corner", tmp_path / "wrong.nii.gz")
    task = server.train()
    assert task["status"] == "ERROR"
    assert task["details"][-1].endswith("labels [9] belong to no species; known are 1 to 5.")
    assert "corner.nii.gz" in task["details"][-1]
    assert sha256_of(server.weights) == before


def test_a_label_of_another_shape_is_refused_in_one_line(server, tmp_path):
    before = sha256_of(server.weights)
    nibabel.save(nibabel.Nifti1Image(np.ones((8, 9, 10), np.uint8), np.eye(4)), tmp_path / "small.nii.gz")
    server.save_label("corner", tmp_path / "small.nii.gz")
    answer = server.train_here()
    assert answer.status_code == 400
    assert "corner.nii.gz: the label volume has shape (10, 9, 8), its tomogram (64, 96, 128)" in answer.json()["detail"]
    assert sha256_of(server.weights) == before


def test_points_beside_the_studies_are_trained_on(server):
    server.remove_label("corner")
    answer = server.train_here()
    assert answer.json()["detail"].endswith("no study with a saved label or with points: save a label first.")
    before = sha256_of(server.weights)
    table = server.studies / "truth.csv"
    table.write_text("experiment,particle_type,x,y,z\ncorner_as_mrc,ribosome,500,400,300\n")
    assert server.train_here().status_code == 200
    assert sha256_of(server.weights) != before


def test_weights_with_a_flipped_byte_are_refused_by_name(server):
    content = server.weights.read_bytes()
    server.weights.write_bytes(content[:5000] + bytes([content[5000] ^ 1]) + content[5001:])
    answer = server.ask("corner")
    server.weights.write_bytes(content)
    print(f"\n/infer with a flipped byte: {answer.status_code} {answer.text}")
    assert answer.status_code == 400
    assert "model.pt is not the file that" in answer.json()["detail"]


def test_a_pickle_in_the_place_of_weights_is_refused_by_name(server):
    torch.save({"a": Path}, server.weights.with_name("bomb.pt"))
    answer = server.ask("corner", model_filename="bomb.pt")
    assert answer.status_code == 400
    assert "bomb.pt holds more than tensors; it is refused" in answer.json()["detail"]


def test_the_server_ends_by_its_own_process(process_and_server):
    process, server = process_and_server
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=PATIENCE) is not None
    with pytest.raises(requests.ConnectionError):
        server.info()


def test_serving_again_keeps_labels_and_weights(server):
    before = sha256_of(server.weights)
    assert serve.make_app(server.folder, ROOT / "bundle") == server.folder / "app"
    assert sha256_of(server.weights) == before
    assert not (server.folder / "app.unfinished").exists()
    shutil.rmtree(server.folder / "app")
    serve.make_app(server.folder, ROOT / "bundle")
    assert sha256_of(server.weights) == sha256_of(ROOT / "bundle" / "models" / "model.pt")
    assert sorted(os.listdir(server.weights.parent)) == sorted(os.listdir(ROOT / "bundle" / "models"))


def test_weights_of_another_network_and_other_species_are_served_and_trained(tmp_path):
    """Three species, other widths, instance norm: nothing but the weights is named."""
    torch.manual_seed(0)
    network = ConvNeXtUNet(1, 3, (4, 8), (1, 1), norm="instance", prior=0.1)
    mine = write_weights(tmp_path / "mine.pt", network, make_species(3, voxel_size_angstrom=10.012))
    make_studies(tmp_path)
    with serving(tmp_path, "--checkpoint_path", str(mine)) as (_, server):
        assert set(server.info()["models"][MODEL]["labels"]) == {"a", "b", "c"}
        picks, labels = server.infer("corner", precision="float32")
        assert {pick.species for pick in picks} <= {"a", "b", "c"}
        assert picks
        nibabel.save(labels, tmp_path / "mine.nii.gz")
        server.save_label("corner", tmp_path / "mine.nii.gz")
        assert server.train_here(**TINY_TRAINING).status_code == 200
        assert checked_card(server.weights)["network_def"]["norm"] == "instance"


def test_weights_of_heat_maps_are_served_and_trained_with_their_overlay(tmp_path):
    torch.manual_seed(0)
    network, species = ConvNeXtUNet(1, 3, (4, 8), (1, 1), prior=0.1), make_species(3, voxel_size_angstrom=10.012)
    mine = write_weights(tmp_path / "mine.pt", network, species, painter=HeatMaps(sigma_angstrom=60.0))
    make_studies(tmp_path)
    overlay = ROOT / "bundle" / "configs" / "heat_maps.json"
    with serving(tmp_path, "--checkpoint_path", str(mine), "--overlay", str(overlay)) as (_, server):
        study = server.studies / "corner.nii.gz"
        picks, labels = server.infer("corner", precision="float32")
        assert picks
        assert_same_picks(picks, pick_plainly(study, tmp_path, overlay, checkpoint_path=str(mine)))
        nibabel.save(labels, tmp_path / "mine.nii.gz")
        server.save_label("corner", tmp_path / "mine.nii.gz")
        assert server.train_here(**TINY_TRAINING).status_code == 200
        assert checked_card(server.weights)["painter"] == checked_card(mine)["painter"]
