"""A copick project is picked and trained on through its config alone; the picks come back as a session."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from batches import pick
from monai.bundle import ConfigWorkflow
from scripts.copick_tree import overlay_folder_of, picks_path, tomogram_path, write_project
from scripts.errors import InputError, InputWarning, find_input_error
from scripts.networks.convnext_unet import ConvNeXtUNet
from scripts.picks import Pick, read_copick_folder, read_csv, write_copick_json, write_csv
from scripts.results.project_session import ProjectSession, SessionRecord, project_of
from scripts.results.run_folder import make_record, write_record
from scripts.simulation.dataset import simulate_dataset
from scripts.species import SpeciesSet
from scripts.volumes.ome_zarr_writer import write_ome_zarr
from synthetic import write_weights

BUNDLE = Path(__file__).resolve().parents[2] / "bundle"
SMALL = {"device": "$torch.device('cpu')", "precision": "float32"}
NET = {"user_id": "net", "session_id": "7"}


@pytest.fixture
def project(tmp_path, shipped_species):
    """Runs A and B with a tomogram each, and picks of the network in A."""
    root = tmp_path / "project"
    write_project(root, shipped_species, "two runs", "a small project")
    for seed, run in enumerate("AB"):
        volume = np.random.default_rng(seed).normal(size=(20, 28, 36)).astype(np.float32)
        write_ome_zarr(tomogram_path(root, run, 10.012, "wbp"), volume, 10.012)
    path = picks_path(root, "A", "ribosome", **NET)
    picks = [Pick("A", "ribosome", 1, 2, 3)]
    write_copick_json(path, picks, run="A", species="ribosome", voxel_size_angstrom=None, **NET)
    return root


def tomograms_of(root):
    return [str(tomogram_path(root, run, 10.012, "wbp")) for run in "AB"]


def test_a_session_that_is_there_is_refused_before_the_work_starts(project, shipped_species):
    def check(session_id, root=project, **settings):
        session = ProjectSession(root, shipped_species, "net", session_id, project.parent)
        session.require_new(tomograms_of(project), **settings)

    check(8)
    with pytest.raises(
        InputError,
        match=r"net_7_ribosome.json is there already: session '7' .*Set another session_id, or give --overwrite True",
    ):
        check(7, project / "copick.json")
    check(7, overwrite=True)


def test_files_of_other_species_that_stay_in_a_session_are_named(project, shipped_species, tmp_path):
    other = picks_path(project, "A", "nucleosome", **NET)
    other.write_text("{}")
    session, batch = ProjectSession(project, shipped_species, "net", 7, tmp_path / "batch"), tmp_path / "batch"
    said = rf"session '7' of user 'net': {other} stay as they were, because no pick of {batch} goes there: remove what"
    with pytest.warns(InputWarning, match=said):
        session.require_new(tomograms_of(project), overwrite=True)
    session.write(tomograms_of(project)[0], [], 10.012)
    assert other.read_text() == "{}"


def test_of_a_session_in_static_what_the_overlay_does_not_replace_is_named(project, shipped_species, tmp_path):
    static = project / "static" / "ExperimentRuns" / "A" / "Picks" / "net_7_ribosome.json"
    static.parent.mkdir()
    static.write_text("{}")
    with pytest.warns(InputWarning, match=f"{static} stay as they were"):
        ProjectSession(project, shipped_species, "net", 7, tmp_path).require_new(tomograms_of(project), overwrite=True)


def test_a_stopped_batch_goes_on_in_its_own_session_and_in_no_other(project, shipped_species, tmp_path):
    """It was stopped while it wrote run A, then later, when A was written."""
    written = picks_path(project, "A", "ribosome", **NET)
    record = SessionRecord(tmp_path / "batch", "net", "7", "A")

    def check(folder="batch", root=project):
        ProjectSession(root, shipped_species, "net", 7, tmp_path / folder).require_new(tomograms_of(root))

    def is_refused(folder="batch", root=project, run="A"):
        with pytest.raises(InputError, match=rf"{run}/Picks/net_7_ribosome.json is there already"):
            check(folder, root)

    is_refused()
    for files in (None, [written]):
        record.write(written.parent, files)
        check()
        is_refused("another")
        elsewhere = tmp_path / ("begun" if files is None else "written")
        shutil.copytree(project, elsewhere)
        is_refused(root=elsewhere)
    content = written.read_text()
    written.write_text(content.replace("ribosome", "ribosomes"))  # another batch, or a person
    is_refused()
    written.write_text(content)
    check()
    write_copick_json(
        picks_path(project, "B", "ribosome", **NET), [], run="B", species="ribosome", voxel_size_angstrom=None, **NET
    )
    is_refused(run="B")
    record.path.write_text("{")
    is_refused()


@pytest.fixture
def folder(tmp_path, shipped_species):
    """The complete folder of run A in a batch: two picks in voxels of 10.012 Å."""
    picks = [Pick("A", "ribosome", 1.5, 2, 3, score=0.5), Pick("A", "apo-ferritin", 4, 5, 6)]
    write_csv(tmp_path / "batch" / "A" / "picks.csv", picks)
    record = make_record("A", {}, {}, picks, shipped_species, {}, 1.0, voxel_size_angstrom=10.012)
    write_record(tmp_path / "batch" / "A", record)
    return tmp_path / "batch" / "A"


def files_of_session(root, session_id="8"):
    return {path.name: path.read_bytes() for path in (root / "overlay").rglob(f"net_{session_id}_*.json")}


def test_what_was_picked_earlier_is_written_to_a_copy_of_the_project_too(project, shipped_species, folder):
    ProjectSession(project, shipped_species, "net", 8, folder.parent).write(
        tomograms_of(project)[0], read_csv(folder / "picks.csv"), 10.012
    )
    copy = shutil.copytree(project, project.parent / "copy")
    shutil.rmtree(copy / "overlay")
    ProjectSession(copy, shipped_species, "net", 8, folder.parent).write_missing(tomograms_of(copy)[0], folder)
    assert len(files_of_session(copy)) == len(shipped_species.names)
    assert files_of_session(copy) == files_of_session(project)


def test_files_of_a_session_that_were_removed_are_written_again(project, shipped_species, folder):
    session, tomogram = ProjectSession(project, shipped_species, "net", 8, folder.parent), tomograms_of(project)[0]
    session.write_missing(tomogram, folder)
    before = files_of_session(project)
    picks_path(project, "A", "ribosome", "net", "8").unlink()
    session.require_new([tomogram])
    session.write_missing(tomogram, folder)
    assert files_of_session(project) == before


def test_a_session_that_is_whole_is_not_written_again(project, shipped_species, folder):
    session, tomogram = ProjectSession(project, shipped_species, "net", 8, folder.parent), tomograms_of(project)[0]
    session.write_missing(tomogram, folder)
    file = picks_path(project, "A", "ribosome", "net", "8")
    before = file.stat().st_mtime_ns
    session.write_missing(tomogram, folder)
    assert file.stat().st_mtime_ns == before


def test_a_session_that_was_only_begun_is_written_to_its_end(project, shipped_species, folder):
    """It was stopped when it had replaced some files of another batch's session, and not all."""
    session, tomogram = ProjectSession(project, shipped_species, "net", 7, folder.parent), tomograms_of(project)[0]
    session.write_missing(tomogram, folder)
    before = files_of_session(project, "7")
    file = picks_path(project, "A", "ribosome", **NET)
    file.write_text("{}")
    SessionRecord(folder.parent, "net", "7", "A").write(file.parent, files=None)
    session.write_missing(tomogram, folder)
    assert files_of_session(project, "7") == before


@pytest.mark.filterwarnings("ignore:.*the contrast or the weights are wrong")  # weights that have not learned
def test_a_complete_batch_is_skipped_only_where_its_session_is_in_the_project(project, shipped_species, tmp_path):
    torch.manual_seed(0)
    weights = write_weights(tmp_path / "small.pt", ConvNeXtUNet(widths=(4, 8), depths=(1, 1)), shipped_species)
    copy, output = shutil.copytree(project, tmp_path / "copy"), tmp_path / "picks"
    settings = {"write_to_project": True, "user_id": "net", "session_id": "8", "page_megabytes": 0}
    pick(project, output, weights, **settings)
    records = [(output / run / "run.json").stat().st_mtime_ns for run in "AB"]
    pick(copy, output, weights, **settings)
    assert [(output / run / "run.json").stat().st_mtime_ns for run in "AB"] == records
    for run in "AB":
        folders = [root / "overlay" / "ExperimentRuns" / run / "Picks" for root in (project, copy)]
        first, second = ({file.name: file.read_bytes() for file in one.glob("net_8_*")} for one in folders)
        assert len(first) == len(shipped_species.names)
        assert first == second


def test_names_that_copick_refuses_and_tomograms_without_a_project_are_refused(project, shipped_species, tmp_path):
    with pytest.raises(InputError, match="user_id may hold letters, digits"):
        ProjectSession(project, shipped_species, "me+you", 8, tmp_path)
    with pytest.raises(InputError, match=r"session_id is text or a whole number; got 1\.1"):
        ProjectSession(project, shipped_species, "net", 1.1, tmp_path)
    odd = SpeciesSet(10.012, (replace(shipped_species.picked[0], name="my_particle"),))
    with pytest.raises(InputError, match=r"copick allows no space, no '_'.*; got 'my_particle'"):
        ProjectSession(project, odd, "net", 8, tmp_path).require_new(tomograms_of(project))
    with pytest.raises(InputError, match=r"alone.mrc is in no copick project: give --write_to_project False"):
        ProjectSession(tmp_path, shipped_species, "net", 8, tmp_path).require_new([tmp_path / "alone.mrc"])


def test_picks_go_to_the_overlay_wherever_the_config_says_that_it_is(project, tmp_path):
    tomogram = tomograms_of(project)[0]
    assert project_of(tomogram, project / "copick.json") == project / "copick.json"
    assert project_of(tomogram, tmp_path) == project
    assert overlay_folder_of(project) == overlay_folder_of(project / "copick.json") == project / "overlay"
    config = json.loads((project / "copick.json").read_text()) | {"overlay_root": f"local://{tmp_path}/mine"}
    (tmp_path / "user.json").write_text(json.dumps(config))
    assert overlay_folder_of(tmp_path / "user.json") == tmp_path / "mine"
    (tmp_path / "bare" / "ExperimentRuns").mkdir(parents=True)
    assert overlay_folder_of(tmp_path / "bare") == tmp_path / "bare"


def run_config(files, kind, **given):
    files = [str(BUNDLE / "configs" / name) for name in files]
    made = ConfigWorkflow(
        config_file=files, workflow_type=kind, bundle_root=str(BUNDLE), logging_file=False, **SMALL, **given
    )
    made.initialize()
    made.run()
    return made


def refusal_of(*given, **more):
    """Return the line that the user sees where a run is refused; MONAI wraps what a config raises."""
    with pytest.raises(RuntimeError) as caught:
        run_config(*given, **more)
    return str(find_input_error(caught.value))


@pytest.mark.filterwarnings("ignore:.*the contrast or the weights are wrong")  # weights that have not learned
def test_a_simulated_project_is_picked_and_trained_on_through_its_config_alone(
    simulation_settings, shipped_species, tmp_path
):
    root = tmp_path / "project"
    simulate_dataset(root, shipped_species, simulation_settings, runs=2, workers=1)
    config = str(root / "copick.json")
    torch.manual_seed(0)
    network = ConvNeXtUNet(widths=(4, 8), depths=(1, 1), prior=0.12)
    weights = write_weights(tmp_path / "small.pt", network, shipped_species)
    picking = {
        "dataset_dir": config, "tomogram_kind": "wbp", "output_dir": str(tmp_path / "picks"), "session_id": 3,
        "checkpoint_path": str(weights), "inference_window_size": [40, 72, 88], "write_to_project": True,
        "probability_thresholds": dict.fromkeys(shipped_species.names, 0.5),
    }  # fmt: skip
    run_config(["inference.json"], "infer", **picking)
    for run in ("S000", "S001"):
        folder = root / "overlay" / "ExperimentRuns" / run / "Picks"
        added = read_copick_folder(folder, run, "cryoet-particle-segmentation_3_*.json")
        table = read_csv(tmp_path / "picks" / run / "picks.csv")
        assert table
        assert sorted(pick.xyz_angstrom for pick in added) == sorted(pick.xyz_angstrom for pick in table)
        assert len(list(folder.glob("cryoet-particle-segmentation_3_*.json"))) == len(shipped_species.picked)
    assert "is there already: session '3'" in refusal_of(
        ["inference.json"], "infer", **{**picking, "output_dir": str(tmp_path / "again")}
    )
    shutil.rmtree(tmp_path / "picks" / "S000")
    shutil.rmtree(tmp_path / "picks" / "S001")  # as if it was stopped after the files of the project were written
    run_config(["inference.json"], "infer", **picking)
    assert read_csv(tmp_path / "picks" / "S001" / "picks.csv") == table
    training = {
        "dataset_dir": config, "tomogram_kind": "wbp", "output_dir": str(tmp_path / "training"),
        "truth_user_id": "simulation", "validation_runs": ["S001"], "window_size": [16, 16, 16],
        "inference_window_size": [40, 72, 88], "windows_per_epoch": 2, "epochs": 1, "val_interval": 1,
        "network_def#widths": [4, 8], "network_def#depths": [1, 1],
    }  # fmt: skip
    run_config(["train.json"], "train", **training)
    assert (tmp_path / "training" / "model.pt").exists()
    refusal = refusal_of(["train.json"], "train", **{**training, "truth_user_id": None})
    assert "by truth_user_id and truth_session_id" in refusal
