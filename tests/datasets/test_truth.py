import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from dataset_files import names_of, touch, touch_picks, touch_tomogram, write_truth
from scripts.datasets.runs import list_runs
from scripts.datasets.splits import plan_folds, split_runs
from scripts.datasets.truth import count_truths, list_labelled_runs, read_annotations, window_weights
from scripts.errors import InputError, InputWarning
from scripts.picks import Pick, write_copick_json, write_csv, write_relion5_star
from synthetic import make_species


def write_shared_picks(folder, counts, beside="ABC"):
    """Write empty tomograms of several runs and, in the folder ``Picks`` beside them, the picks of some."""
    for run in beside:
        touch(folder / f"{run}.mrc")
    for number, (run, count) in enumerate(counts.items()):
        picks = [Pick(run, "a", 1.0, 2.0, float(z)) for z in range(count)]
        ids = {"user_id": "me", "session_id": str(number)}
        path = folder / "Picks" / f"me_{number}_a.json"
        write_copick_json(path, picks, run=run, species="a", voxel_size_angstrom=None, **ids)


def test_truth_is_the_table_of_the_folder_or_the_picks_beside_the_tomogram(folder):
    (item,) = list_labelled_runs(folder, only=["D1"])
    assert item["label"] == str(folder / "D1" / "Picks")
    write_truth(folder, "D1", "deep", "zarr")
    assert {item["label"] for item in list_labelled_runs(folder)} == {str(folder / "truth.csv")}


def test_a_table_with_other_names_than_the_tomograms_is_refused(folder):
    write_truth(folder, "TS_1", "TS_2")
    with pytest.raises(
        InputError, match=r"truth.csv has no particle of D1, deep, zarr; its runs are called TS_1, TS_2"
    ):
        list_labelled_runs(folder)


def test_a_run_without_a_row_in_the_table_is_named_in_a_warning(folder):
    write_truth(folder, "D1", "zarr")
    with pytest.warns(InputWarning, match=r"truth.csv has no particle of deep: taken as empty"):
        assert len(list_labelled_runs(folder)) == 3


def test_a_table_that_lacks_the_chosen_runs_is_checked_against_the_others_of_its_folder(folder):
    write_truth(folder, "D1", "zarr")
    with pytest.warns(InputWarning, match=r"truth.csv has no particle of deep: taken as empty"):
        assert names_of(list_labelled_runs(folder, only=["deep"])) == ["deep"]
    with pytest.warns(InputWarning, match=r"truth.csv has no particle of deep: taken as empty"):
        assert names_of(list_labelled_runs(folder, without=["D1", "zarr"])) == ["deep"]
    write_truth(folder, "TS_1")
    with pytest.raises(InputError, match=r"truth.csv has no particle of D1, deep, zarr; its runs are called TS_1"):
        list_labelled_runs(folder, only=["deep"])


def test_a_table_serves_the_runs_of_its_own_folder_alone(two_folders):
    write_truth(Path(two_folders[0]), "C")
    with pytest.raises(InputError, match=r"one/truth.csv has no particle of A, B; its runs are called C"):
        list_labelled_runs(two_folders, only=["A", "C"])


def test_a_run_whose_accents_the_table_writes_in_another_way_is_refused(folder):
    touch(folder / "Zu\u0308rich.mrc")
    write_truth(folder, "D1", "deep", "zarr", "Z\u00fcrich")
    line = r"truth.csv writes the accents of run 'Zu\u0308rich' in another way than its file .*: copy the name"
    with pytest.raises(InputError, match=line):
        list_labelled_runs(folder)
    write_truth(folder, "D1", "deep", "zarr", "Zu\u0308rich")
    assert len(list_labelled_runs(folder)) == 4


def test_a_run_without_truth_is_named(folder):
    with pytest.raises(InputError, match=r"run 'deep' has no truth: neither .*truth.csv nor .*Picks exists"):
        list_labelled_runs(folder)


def test_runs_are_chosen_by_name(folder):
    write_truth(folder, "D1", "deep", "zarr")
    assert [item["run"] for item in list_labelled_runs(folder, without=["deep"])] == ["D1", "zarr"]
    assert list_labelled_runs(folder, only=[]) == []
    with pytest.raises(InputError, match="holds no run D9; it holds D1, deep, zarr"):
        list_labelled_runs(folder, only=["D9"])


def test_the_truth_is_chosen_by_user_and_session(tmp_path):
    touch_tomogram(tmp_path, "A")
    folder = touch_picks(tmp_path, "A", "ann_1_ribosome.json", part="static")
    touch_picks(tmp_path, "A", "ann_2_ribosome.json")
    added = touch_picks(tmp_path, "A", "net_0_ribosome.json")
    for chosen, label in (
        ({"truth_user_id": "ann", "truth_session_id": 1}, folder / "ann_1_*.json"),
        ({"truth_user_id": "net"}, added / "net_*_*.json"),
        ({"truth_session_id": 0}, added / "*_0_*.json"),
    ):
        assert [item["label"] for item in list_labelled_runs(tmp_path, **chosen)] == [str(label)]
    with pytest.raises(InputError, match=r"has picks in .*Keep only its truth there, or name it by truth_user_id"):
        list_labelled_runs(tmp_path)
    with pytest.raises(InputError, match=r"run 'A' has picks in .*or name it by truth_user_id and truth_session_id"):
        list_labelled_runs(tmp_path, truth_user_id="ann")
    with pytest.raises(InputError, match=r"run 'A' has no truth bob_\*_\*.json in .*Picks"):
        list_labelled_runs(tmp_path, truth_user_id="bob")
    with pytest.raises(InputError, match="copick allows no space, no '_'"):
        list_labelled_runs(tmp_path, truth_user_id="my_self")
    with pytest.raises(InputError, match=r"truth_session_id is text or a whole number; got 1\.1"):
        list_labelled_runs(tmp_path, truth_session_id=1.1)


def test_of_picks_beside_several_tomograms_each_run_has_those_that_name_it(tmp_path):
    write_shared_picks(tmp_path, {"A": 3, "B": 2})
    with pytest.warns(InputWarning, match=r"other runs have: C \(a\)\. Taken as empty"):
        rows = list_labelled_runs(tmp_path)
    assert count_truths(rows, ["a"]) == {"A": {"a": 3}, "B": {"a": 2}, "C": {"a": 0}}
    assert [len(read_annotations(row["label"], row["run"])) for row in rows] == [3, 2, 0]
    (row,) = list_labelled_runs(tmp_path, only=["B"], truth_user_id="me")
    assert len(read_annotations(row["label"], "B")) == 2
    with pytest.raises(InputError, match=r"run 'C' has no truth me_\*_\*\.json in .*Picks"):
        list_labelled_runs(tmp_path, truth_user_id="me")
    assert plan_folds(tmp_path, 2, make_species(1), without=["C"]).counts == {"A": {"a": 3}, "B": {"a": 2}}


@pytest.mark.parametrize(("name", "said"), [(None, "names no run"), ("other", "names the run 'other'")])
def test_picks_beside_several_tomograms_that_name_none_of_their_runs_are_refused(name, said, tmp_path):
    write_shared_picks(tmp_path, {"A": 1})
    path = tmp_path / "Picks" / "me_0_a.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"run_name": name}))
    line = rf"me_0_a\.json lies beside several tomograms \(A, B, C\) and {said}: state its run_name, or give each"
    with pytest.raises(InputError, match=line):
        list_labelled_runs(tmp_path)
    for run in "BC":
        (tmp_path / f"{run}.mrc").unlink()
    assert count_truths(list_labelled_runs(tmp_path), ["a"]) == {"A": {"a": 1}}  # beside one tomogram they are its own


def test_a_star_file_is_a_truth_where_there_is_no_table(folder):
    touch(folder / "truth.star")
    assert {item["label"] for item in list_labelled_runs(folder)} == {str(folder / "truth.star")}
    write_truth(folder, "D1", "deep", "zarr")
    assert {item["label"] for item in list_labelled_runs(folder)} == {str(folder / "truth.csv")}


@pytest.mark.parametrize("part", [".", "static", "static/ExperimentRuns", ".."])
def test_a_project_is_read_from_any_of_its_folders(part, project):
    runs = list_labelled_runs(project / part)
    assert names_of(runs) == ["A", "B"]
    labels = {run: (project / "overlay/ExperimentRuns" / run / "Picks").resolve() for run in "AB"}
    assert {item["run"]: Path(item["label"]).resolve() for item in runs} == labels


def test_a_project_may_have_its_runs_elsewhere(project, tmp_path_factory):
    config = tmp_path_factory.mktemp("config") / "copick.json"
    roots = {f"{part}_root": f"local://{project}/{part}" for part in ("static", "overlay")}
    config.write_text(json.dumps(roots))
    for dataset_dir in (config, config.parent):
        runs = list_labelled_runs(dataset_dir)
        assert names_of(runs) == ["A", "B"]
        assert runs[0]["label"] == str(project / "overlay/ExperimentRuns/A/Picks")
    write_truth(config.parent, "A", "B")
    assert {item["label"] for item in list_labelled_runs(config)} == {str(config.parent / "truth.csv")}


def test_a_project_that_is_given_through_a_link_is_found_once(project, tmp_path):
    (project / "static").rename(project / "raw")
    (project / "overlay").rename(project / "mine")
    roots = {"static_root": f"local://{project}/raw", "overlay_root": f"local://{project}/mine"}
    (project / "copick.json").write_text(json.dumps(roots))
    (tmp_path / "link").symlink_to(project)
    for dataset_dir in (tmp_path / "link", tmp_path / "link" / "copick.json"):
        runs = list_labelled_runs(dataset_dir)
        assert names_of(runs) == ["A", "B"]
        labels = [Path(item["label"]).resolve() for item in runs]
        assert labels == [project / "mine/ExperimentRuns" / run / "Picks" for run in "AB"]


def test_truth_beside_the_tomograms_of_a_linked_project_is_no_second_truth(project, tmp_path):
    touch_picks(project, "A", part="static")
    touch_picks(project, "B", part="static")
    (project / "static").rename(project / "raw")
    (project / "copick.json").write_text(json.dumps({"static_root": f"local://{project}/raw"}))
    shutil.rmtree(project / "overlay")
    (tmp_path / "link").symlink_to(project)
    assert names_of(list_labelled_runs(tmp_path / "link")) == ["A", "B"]


def test_training_takes_a_run_once_for_each_kind(project):
    touch_tomogram(project, "A", "wbp")
    kinds = ["denoised", "wbp"]
    runs = list_labelled_runs(project, tomogram_kind=kinds, repeat_runs=True)
    assert names_of(runs) == ["A", "A", "B"]
    assert [Path(item["image"]).name for item in runs] == ["denoised.zarr", "wbp.zarr", "denoised.zarr"]
    assert runs[0]["label"] == runs[1]["label"]
    assert split_runs(project, [], tomogram_kind=kinds) == ["B"]


def test_a_kind_at_two_voxel_sizes_is_named_with_its_folder(project):
    touch_tomogram(project, "A", spacing="4.990")
    remedy = "Set tomogram_kind to VoxelSpacing10.012/denoised or VoxelSpacing4.990/denoised"
    for repeat_runs in (False, True):
        with pytest.raises(InputError, match=rf"two tomograms are called 'A': .*\. {remedy}"):
            list_labelled_runs(project, repeat_runs=repeat_runs)
    assert names_of(list_runs(project, tomogram_kind="VoxelSpacing10.012/denoised")) == ["A", "B"]


def test_truth_in_two_folders_of_a_project_is_refused(project):
    touch_picks(project, "A", part="static")
    with pytest.raises(InputError, match=r"run 'A' has picks in .*static.* and in .*overlay.*Keep only its truth"):
        list_labelled_runs(project)


def test_an_empty_folder_of_picks_is_a_truth_unless_there_are_picks(project):
    (project / "static/ExperimentRuns/A/Picks").mkdir()
    runs = list_labelled_runs(project)
    assert runs[0]["label"] == str(project / "overlay/ExperimentRuns/A/Picks")
    (project / "overlay/ExperimentRuns/A/Picks/ribosome.json").unlink()
    with pytest.warns(InputWarning, match="no copick file of species"):
        assert Path(list_labelled_runs(project)[0]["label"]).name == "Picks"


def test_a_run_without_a_file_of_a_species_that_other_runs_have_is_named_once(project):
    (project / "overlay/ExperimentRuns/A/Picks/me_1_virus.json").touch()
    with pytest.warns(InputWarning, match=r"other runs have: B \(virus\)\. Taken as empty .*annotated\.json") as said:
        list_labelled_runs(project)
    assert len(said) == 1
    list_labelled_runs(project, annotated={"B": ["ribosome"]})  # said: no warning


def test_a_run_of_a_project_without_truth_is_named(project):
    touch_tomogram(project, "C")
    with pytest.raises(
        InputError, match=r"run 'C' has no truth: neither .*truth.csv nor .*static.*/Picks nor .*overlay"
    ):
        list_labelled_runs(project)


def test_training_takes_several_folders_each_with_its_truth(two_folders):
    runs = list_labelled_runs(two_folders, repeat_runs=True)
    assert names_of(runs) == ["A", "B", "B", "C"]
    assert [Path(item["label"]).parent for item in runs] == [Path(item["image"]).parent for item in runs]
    assert names_of(list_labelled_runs(two_folders, without=["B"], repeat_runs=True)) == ["A", "C"]


def test_one_name_in_two_folders_is_refused_where_names_tell_runs_apart(two_folders):
    assert names_of(list_labelled_runs(two_folders, only=["A", "C"])) == ["A", "C"]
    for call in (list_runs, list_labelled_runs):
        with pytest.raises(InputError, match=r"two tomograms are called 'B': .*one/B.mrc and .*two/B.mrc. Rename one"):
            call(two_folders)
    with pytest.raises(InputError, match=r"one, .*two holds no run D; it holds A, B, C"):
        list_labelled_runs(two_folders, only=["D"])


def test_particles_are_counted_by_run_and_species_once_for_all_kinds_of_a_run(tmp_path):
    places = [("D1", "a", 1.0), ("D1", "a", 2.0), ("D1", "b", 3.0), ("D2", "a", 1.0), ("D2", "other", 1.0)]
    write_csv(tmp_path / "truth.csv", [Pick(run, name, 1.0, 2.0, z) for run, name, z in places])
    rows = [
        {"image": f"{run}.mrc", "run": run, "label": str(tmp_path / "truth.csv")} for run in ("D1", "D1", "D2", "D3")
    ]
    assert count_truths(rows, ["a", "b"]) == {"D1": {"a": 2, "b": 1}, "D2": {"a": 1, "b": 0}, "D3": {"a": 0, "b": 0}}


def test_what_is_no_certain_particle_of_an_annotated_species_is_not_counted(folder):
    weights = (1.0, 0.0, 0.5, np.nan)
    picks = [Pick("D1", name, 1.0, 2.0, float(z), weight=weight) for name in "ab" for z, weight in enumerate(weights)]
    write_csv(folder / "truth.csv", picks)
    rows = list_labelled_runs(folder, only=["D1"], annotated={"D1": ["a"]})
    assert count_truths(rows, ["a", "b"]) == {"D1": {"a": 1, "b": 0}}


def test_particles_outside_of_the_box_that_was_annotated_are_not_counted(folder):
    write_csv(folder / "truth.csv", [Pick("D1", "a", x, 20.0, z) for x in (10.0, 50.0) for z in (0.0, 90.0, 95.0)])
    for region, count in (
        ({"z_angstrom": [0, 90]}, 4),
        ({"z_angstrom": [0, 90], "x_angstrom": [20, 60]}, 2),
        ({"z_angstrom": [0, 90], "x_voxel": [2, 6]}, 4),  # of voxels a table does not know
    ):
        rows = list_labelled_runs(folder, only=["D1"], annotated={"D1": {"region": region}})
        assert count_truths(rows, ["a"]) == {"D1": {"a": count}}


def test_particles_in_a_relion_5_file_are_counted(tmp_path):
    picks = [Pick("D1", "a", 10.0, 20.0, z) for z in (10.0, 20.0)]
    write_relion5_star(tmp_path / "truth.star", picks, run="D1", volume_shape_zyx=(9, 9, 9), voxel_size_angstrom=10.0)
    rows = [{"image": f"{run}.mrc", "run": run, "label": str(tmp_path / "truth.star")} for run in ("D1", "D2")]
    assert count_truths(rows, ["a"]) == {"D1": {"a": 2}, "D2": {"a": 0}}


def test_windows_are_drawn_by_weight_or_more_often_around_rare_species(tmp_path):
    rows = [{"image": "D1.mrc", "run": "D1", "label": str(tmp_path / "truth.csv")}]
    write_csv(tmp_path / "truth.csv", [Pick("D1", "a", 1.0, 2.0, float(z)) for z in range(16)])
    two = make_species(2, weight=3.0)
    assert window_weights(rows, two, "weight") == {"a": 3.0, "b": 3.0}
    assert window_weights(rows, two, "rarity") == {"a": 0.75, "b": 3.0}
    with pytest.raises(InputError, match="window_species is weight or rarity; got 'counts'"):
        window_weights(rows, two, "counts")
