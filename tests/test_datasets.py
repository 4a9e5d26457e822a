import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset
from monai.transforms import Lambdad, RandomizableTransform
from scripts.datasets import (
    TomogramSampler,
    WindowDataset,
    WindowSampler,
    as_names,
    list_labelled_runs,
    list_runs,
    require_runs,
    run_name,
    split_runs,
)
from scripts.errors import InputError, InputWarning


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    return path


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
    ("path", "name"), [("a/TS_1/tomogram.mrc", "TS_1"), ("a/Tomogram.MRC", "a"), ("a/x.y.rec", "x.y")]
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
def windows():
    """Two "tomograms", 10 and 20, whose windows add a random number below 1."""

    class AddRandom(RandomizableTransform):
        def __call__(self, data):
            return {"image": data["image"] + self.R.uniform()}

    times_ten = Lambdad("image", lambda value: value * 10)
    return WindowDataset([{"image": 1}, {"image": 2}], [times_ten], [AddRandom()], seed=3)


def test_a_window_depends_on_its_number_alone(windows):
    first = [windows[number]["image"] for number in range(6)]
    assert [windows[number]["image"] for number in (5, 0, 3)] == [first[5], first[0], first[3]]
    assert len(set(first)) == 6


def test_every_tomogram_has_its_turn(windows):
    for start in range(0, 20, 2):
        assert sorted(int(windows[number]["image"]) for number in (start, start + 1)) == [10, 20]


def test_another_seed_gives_other_windows(windows):
    before = windows[0]["image"]
    windows.seed = 4
    assert windows[0]["image"] != before


def test_numbers_go_on_from_epoch_to_epoch_and_are_shared_out(windows):
    samplers = [WindowSampler(windows, 5, num_replicas=2, rank=rank) for rank in (0, 1)]
    assert [list(sampler) for sampler in samplers] == [[0, 2], [1, 3]]  # all processes take as many steps
    for sampler in samplers:
        sampler.set_epoch(3)
    assert [list(sampler) for sampler in samplers] == [[12, 14], [13, 15]]
    assert [len(sampler) for sampler in samplers] == [2, 2]
    with pytest.raises(ValueError, match="windows_per_epoch must be 3 or more, one per process; got 2"):
        WindowSampler(windows, 2, num_replicas=3)


def test_tomograms_are_shared_out_or_all_taken_by_everyone():
    three, one = Dataset([1, 2, 3]), Dataset([1])
    assert [list(TomogramSampler(three, 2, rank)) for rank in (0, 1)] == [[0, 2], [1]]
    assert [list(TomogramSampler(one, 2, rank)) for rank in (0, 1)] == [[0], [0]]
    assert len(TomogramSampler(three, 2, 1)) == 1


def test_workers_make_no_difference(windows):
    loaders = [
        DataLoader(windows, sampler=WindowSampler(windows, 6), batch_size=2, num_workers=workers) for workers in (0, 2)
    ]
    plain, shared = (torch.cat([batch["image"] for batch in loader]) for loader in loaders)
    assert np.array_equal(plain, shared)
