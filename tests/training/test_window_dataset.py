import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset
from monai.transforms import Lambdad, RandomizableTransform
from scripts.datasets.annotated import Annotated
from scripts.records import canonical
from scripts.training.window_dataset import TomogramSampler, WindowDataset, WindowSampler, record_of_runs


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


def test_what_was_annotated_and_its_mask_are_a_part_of_the_record(tmp_path):
    (tmp_path / "truth.csv").write_text("1,2,3")
    (tmp_path / "mask.mrc").write_text("mask")
    row = {"run": "one", "label": str(tmp_path / "truth.csv")}
    records = [record_of_runs([row])]
    for entry in (Annotated(species=("a",)), Annotated(complete=False), Annotated(mask=str(tmp_path / "mask.mrc"))):
        records.append(record_of_runs([row | entry.as_row()]))
    (tmp_path / "mask.mrc").write_text("another")
    records.append(record_of_runs([row | entry.as_row()]))
    assert len({canonical(one) for one in records}) == 5


@pytest.mark.parametrize("name", ["truth.csv", "one.mrc"])
def test_a_corrected_truth_or_another_tomogram_is_noticed_and_moved_files_are_not(name, tmp_path):
    def record(folder):
        row = {"run": "one", "image": str(folder / "one.mrc"), "label": str(folder / "truth.csv")}
        return record_of_runs([row])

    (tmp_path / "here").mkdir()
    for file in ("truth.csv", "one.mrc"):
        (tmp_path / "here" / file).write_text("1,2,3")
    before = record(tmp_path / "here")
    (tmp_path / "here").rename(tmp_path / "there")
    assert record(tmp_path / "there") == before
    (tmp_path / "there" / name).write_text("1,2,4")
    assert record(tmp_path / "there") != before
