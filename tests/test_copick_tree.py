"""Copick projects on disk: where data is stored in them, and what is found."""

import json
import shutil

import pytest
from scripts.copick_tree import (
    holds_other_volumes,
    id_text,
    is_feature_map,
    is_project,
    overlay_folder_of,
    picks_folders,
    picks_path,
    project_roots,
    run_folder_of,
    tomogram_path,
    write_project,
)
from scripts.errors import InputError
from scripts.species import Species, SpeciesSet


def make_species(**labels):
    known = tuple(Species(name, label, 40.0 + label, 30.0, 1.0, 16.0, 0.5, 1) for name, label in labels.items())
    return SpeciesSet(10.0, known)


def write_tiny(root):
    return write_project(root, make_species(ribosome=1), "tiny", "one species")


def write_config(path, **roots):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"config_type": "filesystem", "pickable_objects": [], **roots}))
    return path


@pytest.mark.parametrize("value", [1.1, 1000.0, True, None, [1]])
def test_an_id_that_is_a_number_but_not_whole_is_refused(value):
    with pytest.raises(InputError) as caught:
        id_text("session_id", value)
    said = f"session_id is text or a whole number; got {value}: quote it as it is to stay, --session_id \"'{value}'\"."
    assert str(caught.value) == said


def test_an_id_is_text_or_a_whole_number():
    assert (id_text("session_id", "1.10"), id_text("session_id", 12)) == ("1.10", "12")


def test_a_tomogram_stands_below_its_run_and_its_voxel_size_with_three_decimals(tmp_path):
    path = tomogram_path(tmp_path, "TS_1", 10.0, "denoised")
    assert path == tmp_path / "static/ExperimentRuns/TS_1/VoxelSpacing10.000/denoised.zarr"
    assert run_folder_of(path) == tmp_path / "static/ExperimentRuns/TS_1"
    assert run_folder_of(tmp_path / "TS_1" / "denoised.zarr") is None


def test_picks_are_called_as_copick_looks_for_them(tmp_path):
    path = picks_path(tmp_path, "TS_1", "ribosome", "curation", "0")
    assert path == tmp_path / "overlay/ExperimentRuns/TS_1/Picks/curation_0_ribosome.json"


@pytest.mark.parametrize("name", ["my_ribosome", "my ribosome", "a/b", "ribosome-", ""])
def test_names_that_copick_would_cut_or_refuse_are_refused(name, tmp_path):
    for parts in ((name, "me", "0"), ("ribosome", name, "0"), ("ribosome", "me", name)):
        with pytest.raises(InputError, match="copick allows no space, no '_'"):
            picks_path(tmp_path, "TS_1", *parts)
    with pytest.raises(InputError, match="of a species; got"):
        write_project(tmp_path, make_species(**{name: 1}), "tiny", "")
    with pytest.raises(InputError, match="of a kind of tomogram; got"):
        tomogram_path(tmp_path, "TS_1", 10.0, name)


def test_a_kind_that_copick_would_leave_out_is_refused(tmp_path):
    with pytest.raises(InputError, match="cannot be called 'features': copick leaves out names with 'features'"):
        tomogram_path(tmp_path, "TS_1", 10.0, "features")


def test_the_config_states_every_species_with_a_label_and_absolute_roots(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write_project("here", make_species(amylase=0, ribosome=1, ferritin=2), "tiny", "three species")
    content = json.loads(path.read_text())
    objects = content.pop("pickable_objects")
    assert [(one["name"], one["label"], one["radius"]) for one in objects] == [
        ("ribosome", 1, 41.0), ("ferritin", 2, 42.0), ("amylase", 3, 40.0)
    ]  # fmt: skip
    assert len({tuple(one["color"]) for one in objects}) == 3
    assert content["overlay_root"] == f"local://{tmp_path.as_posix()}/here/overlay"
    assert content["static_root"] == f"local://{tmp_path.as_posix()}/here/static"
    assert (content["name"], content["description"]) == ("tiny", "three species")


def test_a_project_is_known_by_its_folder_its_config_or_the_runs_in_it(tmp_path):
    config = write_tiny(tmp_path / "whole")
    (tmp_path / "plain" / "ExperimentRuns").mkdir(parents=True)
    assert is_project(tmp_path / "whole")
    assert is_project(config)
    assert is_project(tmp_path / "plain")
    assert not is_project(tmp_path)
    assert not is_project(tmp_path / "none")
    assert not is_project(write_config(tmp_path / "far" / "copick.json", static_root="s3://bucket/static"))


def test_a_file_of_picks_in_a_projects_folder_is_not_the_project(tmp_path):
    write_tiny(tmp_path)
    picks = tmp_path / "mine.json"
    picks.write_text(json.dumps({"pickable_object_name": "a", "points": []}))
    assert is_project(tmp_path)
    assert not is_project(picks)


def test_writing_a_project_again_keeps_what_is_in_it(tmp_path):
    write_tiny(tmp_path)
    tomogram = tomogram_path(tmp_path, "TS_1", 10.0, "wbp")
    tomogram.mkdir(parents=True)
    write_tiny(tmp_path)
    assert tomogram.is_dir()


def test_a_project_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "static").write_text("")
    with pytest.raises(InputError, match=r"cannot write to .*: "):
        write_tiny(tmp_path)


def test_roots_elsewhere_are_those_that_the_config_names(tmp_path):
    static, overlay = tmp_path / "store" / "raw", tmp_path / "config" / "mine"
    for root in (static, overlay):
        (root / "ExperimentRuns").mkdir(parents=True)
    config = write_config(
        tmp_path / "config" / "other.json", static_root=f"local://{static}", overlay_root="local://mine"
    )
    assert project_roots(config) == [static, overlay]
    config.rename(tmp_path / "config" / "copick.json")
    assert project_roots(tmp_path / "config") == [static, overlay]


def test_a_copied_project_is_read_from_where_it_is_now(tmp_path):
    write_tiny(tmp_path / "old")
    shutil.copytree(tmp_path / "old", tmp_path / "new")
    assert project_roots(tmp_path / "new") == [tmp_path / "new" / "static", tmp_path / "new" / "overlay"]


@pytest.mark.parametrize("overlay", ["empty", "absent"])
def test_a_copied_project_without_picks_leaves_the_old_one_alone(overlay, tmp_path):
    write_tiny(tmp_path / "old")
    shutil.copytree(tmp_path / "old", tmp_path / "new")
    shutil.rmtree(tmp_path / "new" / "overlay")
    if overlay == "empty":
        (tmp_path / "new" / "overlay").mkdir()
    assert overlay_folder_of(tmp_path / "new" / "copick.json") == tmp_path / "new" / "overlay"
    assert picks_path(tmp_path / "new", "A", "ribosome", "me", "1").is_relative_to(tmp_path / "new")
    assert project_roots(tmp_path / "new") == [tmp_path / "new" / "static"]


def test_an_overlay_elsewhere_counts_where_the_static_root_is_the_projects_own(tmp_path):
    (tmp_path / "project/static/ExperimentRuns").mkdir(parents=True)
    (tmp_path / "mine/ExperimentRuns").mkdir(parents=True)
    roots = {"static_root": "static", "overlay_root": f"local://{tmp_path}/mine"}
    config = write_config(tmp_path / "project" / "copick.json", **roots)
    assert overlay_folder_of(config) == tmp_path / "mine"
    assert project_roots(config) == [tmp_path / "project" / "static", tmp_path / "mine"]


@pytest.mark.parametrize(("text", "message"), [("{", "cannot read .*copick.json: "), ("[]", "hold a JSON object")])
def test_a_broken_config_is_refused(text, message, tmp_path):
    (tmp_path / "copick.json").write_text(text)
    with pytest.raises(InputError, match=message):
        is_project(tmp_path)


def test_other_volumes_of_a_project_are_told_from_tomograms(tmp_path):
    write_tiny(tmp_path)
    run = tmp_path / "static/ExperimentRuns/TS_1"
    assert holds_other_volumes(run / "Segmentations")
    assert holds_other_volumes(tmp_path / "static" / "Objects")
    assert not holds_other_volumes(run / "VoxelSpacing10.000")
    assert not holds_other_volumes(tmp_path / "Segmentations")
    assert not holds_other_volumes(tmp_path / "Objects")
    assert is_feature_map(run / "VoxelSpacing10.000" / "wbp_edges_features.zarr")
    assert not is_feature_map(run / "VoxelSpacing10.000" / "wbp.zarr")
    assert not is_feature_map(tmp_path / "features.zarr")


def test_picks_are_looked_for_in_static_and_overlay(tmp_path):
    write_tiny(tmp_path)
    static, overlay = tmp_path / "static/ExperimentRuns/TS_1", tmp_path / "overlay/ExperimentRuns/TS_1"
    assert picks_folders(static) == [static / "Picks", overlay / "Picks"]
    assert picks_folders(overlay) == [overlay / "Picks", static / "Picks"]
    assert picks_folders(tmp_path / "TS_1") == [tmp_path / "TS_1" / "Picks"]


def test_picks_are_looked_for_where_the_projects_config_says_and_nowhere_else(tmp_path):
    write_tiny(tmp_path / "store")
    mine = tmp_path / "config" / "overlay"
    (mine / "ExperimentRuns").mkdir(parents=True)
    config = write_config(tmp_path / "config" / "copick.json", static_root=f"local://{tmp_path}/store/static")
    run = tmp_path / "store/static/ExperimentRuns/TS_1"
    assert picks_folders(run, config) == [run / "Picks", mine / "ExperimentRuns/TS_1/Picks"]
    assert picks_folders(run, tmp_path / "store") == picks_folders(run)
