import os
from pathlib import Path

import pytest
from dataset_files import names_of, touch, touch_tomogram, write_truth
from scripts.datasets.runs import as_names, list_runs, require_runs, run_name
from scripts.datasets.splits import split_runs
from scripts.datasets.truth import list_labelled_runs
from scripts.errors import InputError


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


def test_one_name_needs_no_brackets(folder):
    write_truth(folder, "D1", "deep", "zarr")
    assert [item["run"] for item in list_labelled_runs(folder, only="deep")] == ["deep"]
    assert split_runs(folder, "zarr", without="D1") == ["zarr"]
    assert as_names([12, "a"]) == ["12", "a"]
    assert (as_names(0), as_names(1.5), as_names(None)) == (["0"], ["1.5"], [])


@pytest.mark.parametrize(("name", "number"), [("2024_01", 202401), ("1e5", 1e5)])
def test_a_name_that_the_command_line_took_for_a_number_is_refused_with_how_to_quote_it(name, number, tmp_path):
    for run in (name, "other"):
        touch(tmp_path / f"{run}.mrc")
    write_truth(tmp_path, name, "other")
    for chosen in ({"only": number}, {"without": [number]}):
        with pytest.raises(InputError, match=rf"holds no run {number}; .* Quote names that .*: \"\['{name}'\]\"\.$"):
            list_labelled_runs(tmp_path, **chosen)
    with pytest.raises(InputError, match=rf"holds no run 7; it holds {name}, other\.$"):
        list_labelled_runs(tmp_path, only=7)


def test_linked_tomograms_keep_their_own_names(tmp_path):
    for name in ("A", "B"):
        touch(tmp_path / "store" / f"{name}.bin")
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / "tomogram.mrc").symlink_to(tmp_path / "store" / f"{name}.bin")
    (tmp_path / "data" / "loop").symlink_to(tmp_path / "data")
    touch(tmp_path / "elsewhere" / "C.mrc")
    (tmp_path / "data" / "linked").symlink_to(tmp_path / "elsewhere")
    assert [item["run"] for item in list_runs(tmp_path / "data")] == ["A", "B", "C"]


@pytest.mark.parametrize("name", ["C.mrc", "C.zarr", "more"])
def test_a_link_to_what_is_not_there_is_refused_by_its_name(name, tmp_path):
    touch(tmp_path / "data" / "A.mrc")
    (tmp_path / "data" / ".hidden").symlink_to(tmp_path / "none")
    (tmp_path / "data" / "notes.txt").symlink_to(tmp_path / "none")
    assert names_of(list_runs(tmp_path / "data")) == ["A"]
    (tmp_path / "data" / name).symlink_to(tmp_path / "none")
    with pytest.raises(InputError, match=rf"data/{name} is a link to .*none, which is not there: mount its disk"):
        list_runs(tmp_path / "data")


@pytest.mark.parametrize("call", ["scandir", "stat"])  # without the right to read a folder, or to enter it
def test_a_folder_that_cannot_be_listed_is_refused_by_its_name(call, folder, monkeypatch):
    given = getattr(os, call)

    def denied(path=".", *more, **options):
        if "more" in Path(path).parts[-2 if call == "stat" else -1 :]:
            raise PermissionError(13, "Permission denied", str(path))
        return given(path, *more, **options)

    monkeypatch.setattr(os, call, denied)
    with pytest.raises(InputError, match=r"cannot list .*/more\S*: Permission denied\. Give the right to read it"):
        list_runs(folder)


def test_the_folder_of_the_disk_that_only_root_may_list_is_left_out(folder):
    touch(folder / "lost+found" / "a.mrc")
    assert names_of(list_runs(folder)) == ["D1", "deep", "zarr"]


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


def test_a_kind_is_nothing_for_tomograms_outside_of_projects(folder, project):
    with pytest.raises(InputError, match="holds no tomogram_kind denoised; it is no copick project"):
        list_runs(folder / "more", tomogram_kind="denoised")
    assert names_of(list_runs([folder / "more", project / "static"], tomogram_kind="denoised")) == ["deep", "A", "B"]
    assert list_runs(folder / "none", tomogram_kind="denoised") == []


def test_each_of_several_folders_must_be_there(two_folders):
    folders = [*two_folders, two_folders[0] + "/none"]
    with pytest.raises(InputError, match=r"cannot read .*one/none: no such file or folder\. Set dataset_dir"):
        require_runs(list_labelled_runs(folders, repeat_runs=True), folders)
    require_runs(list_runs(two_folders[0]), two_folders[0])
