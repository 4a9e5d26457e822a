import json
from pathlib import Path

import pytest
from scripts.datasets.runs import as_names, list_runs, require_runs, run_name
from scripts.datasets.splits import split_runs
from scripts.datasets.truth import list_labelled_runs
from scripts.errors import InputError, InputWarning


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    return path


def touch_tomogram(root, run, kind="denoised", part="static", spacing="10.012"):
    path = root / part / "ExperimentRuns" / run / f"VoxelSpacing{spacing}" / f"{kind}.zarr"
    path.mkdir(parents=True)
    return path


def touch_picks(root, run, name="ribosome.json", part="overlay"):
    return touch(root / part / "ExperimentRuns" / run / "Picks" / name).parent


def names_of(runs):
    return [item["run"] for item in runs]


def write_truth(folder, *runs):
    rows = [f"{row},{run},ribosome,1,2,3" for row, run in enumerate(runs)]
    (folder / "truth.csv").write_text("\n".join(["id,experiment,particle_type,x,y,z", *rows]))


@pytest.fixture
def folder(tmp_path):
    """Runs D1 (tomogram.mrc with copick picks), deep (NIfTI) and zarr (a folder), and files that are no tomograms."""
    touch(tmp_path / "D1" / "tomogram.mrc")
    touch(tmp_path / "D1" / "Picks" / "ribosome.json")
    touch(tmp_path / "more" / "deep.nii.gz")
    touch(tmp_path / "zarr.zarr" / "0" / "inner.mrc")
    touch(tmp_path / "README.md")
    touch(tmp_path / ".hidden" / "trash.mrc")
    return tmp_path


def test_runs_are_found_below_a_folder_and_called_by_their_file_or_folder(folder):
    assert [item["run"] for item in list_runs(folder)] == ["D1", "deep", "zarr"]


def test_one_file_is_one_run(folder):
    assert list_runs(folder / "more" / "deep.nii.gz") == [
        {"image": str(folder / "more" / "deep.nii.gz"), "run": "deep"}
    ]


@pytest.mark.parametrize("address", ["s3://bucket/x", "https://host/x.zarr", Path("s3://bucket/x")])
@pytest.mark.parametrize("work", [list_runs, list_labelled_runs, lambda folder: require_runs([], folder)])
def test_what_is_elsewhere_is_refused_with_the_command_that_fetches_it(work, address):
    line = r"^(s3|https)://(bucket|host)/x\S* is not on this disk\. .*: python -m scripts\.fetch \1://"
    with pytest.raises(InputError, match=line):
        work(address)


def test_a_folder_whose_name_looks_like_an_address_is_read(tmp_path, monkeypatch):
    touch(tmp_path / "s3:" / "x" / "a.mrc")
    monkeypatch.chdir(tmp_path)
    assert names_of(list_runs("s3://x")) == ["a"]


def test_two_runs_of_one_name_are_refused(folder):
    touch(folder / "other" / "deep.mrc")
    with pytest.raises(InputError, match=r"two tomograms are called 'deep'.*Rename one"):
        list_runs(folder)


def test_nothing_there_is_an_empty_list_until_the_work_starts(tmp_path):
    assert list_runs(tmp_path / "none") == []
    with pytest.raises(InputError, match=r"cannot read .*none: no such file or folder. Set dataset_dir"):
        require_runs([], tmp_path / "none")
    with pytest.raises(InputError, match=r"holds no tomogram"):
        require_runs(list_runs(tmp_path), tmp_path)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("a/TS_1/tomogram.mrc", "TS_1"),
        ("a/Tomogram.MRC", "a"),
        ("a/x.y.rec", "x.y"),
        ("TS_1/VoxelSpacing10.0/wbp.zarr", "TS_1"),
    ],
)
def test_a_run_is_called_after_its_file_unless_that_says_nothing(path, name):
    assert run_name(path) == name


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


def test_a_run_without_truth_is_named(folder):
    with pytest.raises(InputError, match=r"run 'deep' has no truth: neither .*truth.csv nor .*Picks exists"):
        list_labelled_runs(folder)


def test_one_name_needs_no_brackets(folder):
    write_truth(folder, "D1", "deep", "zarr")
    assert [item["run"] for item in list_labelled_runs(folder, only="deep")] == ["deep"]
    assert split_runs(folder, "zarr", without="D1") == ["zarr"]
    assert as_names([12, "a"]) == ["12", "a"]


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


def test_a_star_file_is_a_truth_where_there_is_no_table(folder):
    touch(folder / "truth.star")
    assert {item["label"] for item in list_labelled_runs(folder)} == {str(folder / "truth.star")}
    write_truth(folder, "D1", "deep", "zarr")
    assert {item["label"] for item in list_labelled_runs(folder)} == {str(folder / "truth.csv")}


def test_every_fifth_run_is_for_validation_unless_named(tmp_path):
    for number in range(1, 8):
        touch(tmp_path / f"T{number}.mrc")
    assert split_runs(tmp_path, []) == ["T7", "T2"]
    assert split_runs(tmp_path, ["T1"]) == ["T1"]


def test_excluded_runs_are_not_validated_on(tmp_path):
    for number in range(1, 4):
        touch(tmp_path / f"T{number}.mrc")
    assert split_runs(tmp_path, [], without=["T3"]) == ["T2"]
    assert split_runs(tmp_path, ["T1", "T3"], without=["T3"]) == ["T1"]


def test_linked_tomograms_keep_their_own_names(tmp_path):
    for name in ("A", "B"):
        touch(tmp_path / "store" / f"{name}.bin")
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / "tomogram.mrc").symlink_to(tmp_path / "store" / f"{name}.bin")
    (tmp_path / "data" / "loop").symlink_to(tmp_path / "data")
    touch(tmp_path / "elsewhere" / "C.mrc")
    (tmp_path / "data" / "linked").symlink_to(tmp_path / "elsewhere")
    assert [item["run"] for item in list_runs(tmp_path / "data")] == ["A", "B", "C"]


def test_a_single_run_is_not_split(tmp_path, caplog):
    touch(tmp_path / "only.mrc")
    assert split_runs(tmp_path, []) == []
    assert "one run only" in caplog.text


@pytest.fixture
def project(tmp_path):
    """The challenge's tree with runs A and B, each with one tomogram, and truth in the overlay."""
    root = tmp_path / "project"
    for run in ("A", "B"):
        touch_tomogram(root, run)
        touch_picks(root, run)
    return root


@pytest.mark.parametrize("part", [".", "static", "static/ExperimentRuns", ".."])
def test_a_project_is_read_from_any_of_its_folders(part, project):
    runs = list_labelled_runs(project / part)
    assert names_of(runs) == ["A", "B"]
    labels = {run: (project / "overlay/ExperimentRuns" / run / "Picks").resolve() for run in "AB"}
    assert {item["run"]: Path(item["label"]).resolve() for item in runs} == labels


def test_one_tomogram_of_a_project_is_called_after_its_run(project):
    path = project / "static/ExperimentRuns/B/VoxelSpacing10.012/denoised.zarr"
    assert list_runs(path) == [{"image": str(path), "run": "B"}]
    assert list_runs(path.parents[1]) == list_runs(path, tomogram_kind="denoised") == list_runs(path)


def test_what_else_a_project_holds_is_no_tomogram(project):
    (project / "static" / "Objects" / "ribosome.zarr").mkdir(parents=True)
    (project / "overlay/ExperimentRuns/A/Segmentations/10.012_me_0_membrane.zarr").mkdir(parents=True)
    touch_tomogram(project, "A", "denoised_edges_features")
    assert names_of(list_runs(project)) == ["A", "B"]


def test_flat_tomograms_beside_a_projects_runs_are_still_found(project):
    touch(project / "C.mrc")
    assert names_of(list_runs(project)) == ["C", "A", "B"]


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


def test_several_kinds_of_tomograms_need_the_name_of_one(project):
    touch_tomogram(project, "A", "wbp")
    with pytest.raises(InputError, match=r"several kinds: denoised, wbp\. Set tomogram_kind to one"):
        list_runs(project)
    assert names_of(list_runs(project, tomogram_kind="denoised")) == ["A", "B"]
    with pytest.raises(InputError, match=r"run 'B' has no tomogram_kind wbp; it has denoised"):
        list_runs(project, tomogram_kind="wbp")
    with pytest.raises(
        InputError, match=r"holds no tomogram_kind isonet; it holds VoxelSpacing10\.012/denoised, .*, wbp"
    ):
        list_runs(project, tomogram_kind=["denoised", "isonet"])


def test_the_first_kind_that_a_run_has_is_taken(project):
    touch_tomogram(project, "A", "wbp")
    images = [item["image"] for item in list_runs(project, tomogram_kind=["wbp", "denoised"])]
    assert [Path(image).name for image in images] == ["wbp.zarr", "denoised.zarr"]
    runs = list_labelled_runs(project, only=["A"], tomogram_kind=["denoised", "wbp"])
    assert [Path(item["image"]).name for item in runs] == ["denoised.zarr"]


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


def test_a_kind_is_nothing_for_tomograms_outside_of_projects(folder, project):
    with pytest.raises(InputError, match="holds no tomogram_kind denoised; it is no copick project"):
        list_runs(folder / "more", tomogram_kind="denoised")
    assert names_of(list_runs([folder / "more", project / "static"], tomogram_kind="denoised")) == ["deep", "A", "B"]
    assert list_runs(folder / "none", tomogram_kind="denoised") == []


def test_truth_in_two_folders_of_a_project_is_refused(project):
    touch_picks(project, "A", part="static")
    with pytest.raises(InputError, match=r"run 'A' has picks in .*static.* and in .*overlay.*Keep only its truth"):
        list_labelled_runs(project)


def test_an_empty_folder_of_picks_is_a_truth_unless_there_are_picks(project):
    (project / "static/ExperimentRuns/A/Picks").mkdir()
    runs = list_labelled_runs(project)
    assert runs[0]["label"] == str(project / "overlay/ExperimentRuns/A/Picks")
    (project / "overlay/ExperimentRuns/A/Picks/ribosome.json").unlink()
    assert Path(list_labelled_runs(project)[0]["label"]).name == "Picks"


def test_a_run_of_a_project_without_truth_is_named(project):
    touch_tomogram(project, "C")
    with pytest.raises(
        InputError, match=r"run 'C' has no truth: neither .*truth.csv nor .*static.*/Picks nor .*overlay"
    ):
        list_labelled_runs(project)


@pytest.fixture
def two_folders(tmp_path):
    """Runs A and B in one folder, B and C in the other, each with its own table."""
    for name, runs in (("one", "AB"), ("two", "BC")):
        for run in runs:
            touch(tmp_path / name / f"{run}.mrc")
        write_truth(tmp_path / name, *runs)
    return [str(tmp_path / "one"), str(tmp_path / "two")]


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


def test_validation_leaves_names_of_two_folders_alone(two_folders, caplog):
    assert split_runs(two_folders, []) == ["C"]
    assert split_runs(two_folders, [], without=["C"]) == ["A"]
    assert split_runs(two_folders, [], without=["A", "C"]) == []
    assert split_runs([two_folders[0]] * 2, []) == ["B"]
    assert caplog.text == ""


def test_each_of_several_folders_must_be_there(two_folders):
    folders = [*two_folders, two_folders[0] + "/none"]
    with pytest.raises(InputError, match=r"cannot read .*one/none: no such file or folder\. Set dataset_dir"):
        require_runs(list_labelled_runs(folders, repeat_runs=True), folders)
    require_runs(list_runs(two_folders[0]), two_folders[0])
