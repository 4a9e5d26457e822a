"""What we write opens in copick, and what copick writes opens here. Needs copick: `make test-copick`."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr
from scripts.copick_tree import picks_folders, picks_path, project_roots, tomogram_path, write_project
from scripts.errors import InputError
from scripts.picks import (
    FORMATS,
    Facts,
    Pick,
    convert,
    read_copick_folder,
    read_copick_json,
    read_csv,
    write_copick_json,
    write_csv,
)
from scripts.volumes.ome_zarr import load_ome_zarr
from scripts.volumes.ome_zarr_writer import write_ome_zarr

copick = pytest.importorskip("copick")

VOXEL_SIZE = 10.012
VOLUMES = {run: np.random.default_rng(seed).normal(size=(5, 7, 9)).astype(np.float32) for seed, run in enumerate("AB")}
PICKS = [Pick("A", "ribosome", 10.0, 25.5, 40.125, 0.75), Pick("A", "ribosome", 31.0, 2.0, 3.0)]
USER = {"user_id": "simulation", "session_id": "0"}


@pytest.fixture
def project(tmp_path, shipped_species):
    """Runs A with picks and B without, both with one tomogram."""
    root = tmp_path / "project"
    write_project(root, shipped_species, "two runs", "a small project")
    for run, volume in VOLUMES.items():
        write_ome_zarr(tomogram_path(root, run, VOXEL_SIZE, "denoised"), volume, VOXEL_SIZE)
    path = picks_path(root, "A", "ribosome", **USER)
    write_copick_json(path, PICKS, run="A", species="ribosome", voxel_size_angstrom=VOXEL_SIZE, **USER)
    return root


@pytest.fixture
def opened(project):
    return copick.from_file(str(project / "copick.json"))


def test_these_tests_run_with_the_old_zarr_library():
    assert zarr.__version__.startswith("2.")


def test_copick_finds_the_runs_and_the_species(opened, shipped_species):
    assert sorted(run.name for run in opened.runs) == ["A", "B"]
    assert sorted(one.name for one in opened.pickable_objects) == sorted(one.name for one in shipped_species.known)
    for species in shipped_species.picked:
        found = opened.get_object(species.name)
        assert (found.label, found.radius, found.is_particle) == (species.label, species.radius_angstrom, True)


def test_copick_reads_every_level_of_a_tomogram(opened, project):
    for run, volume in VOLUMES.items():
        (spacing,) = opened.get_run(run).voxel_spacings
        assert spacing.voxel_size == VOXEL_SIZE
        (tomogram,) = spacing.tomograms
        assert tomogram.tomo_type == "denoised"
        assert np.array_equal(tomogram.numpy("0"), volume)
        path = tomogram_path(project, run, VOXEL_SIZE, "denoised")
        for level in (1, 2):
            ours, size_zyx_angstrom = load_ome_zarr(path, VOXEL_SIZE * 2**level)
            assert size_zyx_angstrom == (VOXEL_SIZE * 2**level,) * 3
            assert np.array_equal(tomogram.numpy(str(level)), ours)


def test_copick_knows_the_voxel_size_of_a_tomogram(project):
    from copick.util.ome import get_voxel_size_from_zarr

    group = zarr.open(str(tomogram_path(project, "A", VOXEL_SIZE, "denoised")), mode="r")
    assert get_voxel_size_from_zarr(group) == VOXEL_SIZE


def test_our_reader_takes_tomograms_that_copick_wrote(opened, project):
    spacing = opened.get_run("A").get_voxel_spacing(VOXEL_SIZE)
    spacing.new_tomogram("wbp").from_numpy(VOLUMES["B"])
    path = project / "overlay/ExperimentRuns/A/VoxelSpacing10.012/wbp.zarr"
    volume, size_zyx_angstrom = load_ome_zarr(path)
    assert np.array_equal(volume, VOLUMES["B"])
    assert size_zyx_angstrom == (VOXEL_SIZE,) * 3


def test_copick_reads_our_picks(opened):
    (picks,) = opened.get_run("A").get_picks(object_name="ribosome", **USER)
    places, _ = picks.numpy()
    assert places.tolist() == [list(pick.xyz_angstrom) for pick in PICKS]
    assert [point.score for point in picks.points] == [0.75, 1.0]
    assert opened.get_run("B").picks == []


def test_we_read_the_picks_that_copick_wrote(opened, project):
    places = np.array([[1.5, 2.5, 3.5], [40.0, 50.0, 30.0]])
    opened.get_run("B").new_picks("thyroglobulin", user_id="me", session_id="1").from_numpy(places)
    path = picks_path(project, "B", "thyroglobulin", "me", "1")
    assert [pick.xyz_angstrom for pick in read_copick_json(path, "B")] == [*map(tuple, places)]
    (folder,) = [folder for folder in picks_folders(path.parents[1]) if folder.is_dir()]
    assert [(pick.run, pick.species) for pick in read_copick_folder(folder, "B")] == [("B", "thyroglobulin")] * 2


def test_picks_of_a_second_user_are_not_added_to_the_first(opened, project):
    opened.get_run("A").new_picks("ribosome", user_id="me", session_id="1").from_numpy(np.ones((1, 3)))
    with pytest.raises(InputError, match="both hold 'ribosome'; keep one of them"):
        read_copick_folder(project / "overlay/ExperimentRuns/A/Picks", "A")


def test_every_species_can_be_picked(opened, shipped_species):
    for species in shipped_species.known:
        opened.get_run("B").new_picks(species.name, user_id="me", session_id="2")
    assert len(opened.get_run("B").picks) == len(shipped_species.known)


# What these three hold is copick's doing; the names and roots that we write follow from it.


def test_a_file_named_by_its_species_alone_breaks_copick(opened, project):
    path = picks_path(project, "A", "ribosome", **USER)
    path.rename(path.with_name("ribosome.json"))
    with pytest.raises(IndexError):
        opened.get_run("A").get_picks()


def test_copick_takes_relative_roots_from_the_working_directory(project, tmp_path, monkeypatch):
    config = project / "copick.json"
    config.write_text(config.read_text().replace(f"local://{project}/", "local://"))
    assert "local://static" in config.read_text()
    monkeypatch.chdir(tmp_path)
    assert copick.from_file(str(config)).runs == []
    monkeypatch.chdir(project)
    assert len(copick.from_file(str(config)).runs) == 2
    assert project_roots(config) == [project / "static", project / "overlay"]


def test_a_moved_project_opens_when_its_config_is_written_again(project, tmp_path, shipped_species):
    moved = Path(shutil.move(project, tmp_path / "moved"))
    assert copick.from_file(str(moved / "copick.json")).runs == []
    write_project(moved, shipped_species, "two runs", "a small project")
    assert len(copick.from_file(str(moved / "copick.json")).runs) == 2


# Conversion


def test_copick_reads_converted_picks_as_a_new_session(opened, project, tmp_path):
    write_csv(tmp_path / "a.csv", [replace(pick, run="B", score=0.5) for pick in PICKS])
    convert(tmp_path / "a.csv", project, facts=Facts(voxel_size_angstrom=VOXEL_SIZE, user_id="me", session_id="2"))
    (picks,) = opened.get_run("B").get_picks(object_name="ribosome", user_id="me", session_id="2")
    assert picks.numpy()[0].tolist() == [list(pick.xyz_angstrom) for pick in PICKS]
    assert [point.score for point in picks.points] == [0.5, 0.5]


def test_picks_of_copick_are_converted(opened, project, tmp_path):
    opened.get_run("B").new_picks("ribosome", user_id="me", session_id="1").from_numpy(np.array([[1.5, 2.5, 3.5]]))
    convert(project, tmp_path / "a.csv", facts=Facts(user_id="me"))
    assert [(pick.run, *pick.xyz_angstrom) for pick in read_csv(tmp_path / "a.csv")] == [("B", 1.5, 2.5, 3.5)]


def test_another_library_reads_our_dynamo_table(tmp_path):
    FORMATS["dynamo"].write(tmp_path / "a.tbl", PICKS, Facts(run="A", voxel_size_angstrom=10.0))
    table = pytest.importorskip("dynamotable").read(tmp_path / "a.tbl")
    assert table[["tag", "tomo"]].to_numpy().tolist() == [[1, 1], [2, 1]]
    assert table["cc"].tolist() == [0.75, 1.0]
    assert table[["x", "y", "z"]].to_numpy().tolist() == [[1.5, 3.05, 4.5125], [3.6, 0.7, 0.8]]
