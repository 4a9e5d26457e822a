import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import DataLoader, MetaTensor
from monai.transforms import Compose, LoadImaged
from scripts.errors import InputError
from scripts.preparation.cache import StoredVolume, entry_name, prepared_dataset
from scripts.preparation.scaling import ScalePercentilesd
from scripts.preparation.truth import LoadTruthd
from scripts.preparation.voxel_size import CheckVoxelSized
from scripts.training.spheres import Spheres
from scripts.training.window_dataset import WindowDataset
from scripts.training.windows import PaintTargetsd, RandWindowd
from scripts.volumes.monai_reader import TomogramReader
from synthetic import make_species, noise, replace_silently, write_mrc

SPECIES_SET = make_species(2)
RUNS = ("one", "two", "three")


@pytest.fixture
def data(tmp_path):
    rows = ["id,experiment,particle_type,x,y,z"]
    for seed, run in enumerate(RUNS):
        write_mrc(tmp_path / f"{run}.mrc", noise(seed))
        rows += [f"0,{run},a,{110 + seed},90,60", f"0,{run},b,300,200,130"]
    (tmp_path / "truth.csv").write_text("\n".join(rows))
    return [{"image": str(tmp_path / f"{run}.mrc"), "run": run, "label": str(tmp_path / "truth.csv")} for run in RUNS]


def preparation(upper=99.0):
    return [
        LoadImaged("image", reader=TomogramReader(), ensure_channel_first=True),
        CheckVoxelSized("image", 10.0),
        LoadTruthd("label", SPECIES_SET),
        ScalePercentilesd("image", upper=upper),
    ]


def windows_of(data, cache_dir, **settings):
    drawn = [RandWindowd(SPECIES_SET, (8, 10, 10)), PaintTargetsd("label", SPECIES_SET, Spheres())]
    return WindowDataset(data, settings.pop("preparation", preparation()), drawn, seed=3, cache_dir=cache_dir)


def entries(folder):
    return sorted(path for path in folder.iterdir() if path.is_dir())


def test_windows_are_bit_identical_from_memory_and_from_the_folder(data, tmp_path):
    kept, stored = windows_of(data, None), windows_of(data, tmp_path / "cache")
    for number in range(12):
        one, two = kept[number], stored[number]
        assert torch.equal(one["image"], two["image"])
        assert torch.equal(one["label"], two["label"])
        assert one["image"].any()


def test_a_label_volume_is_cut_the_same_from_the_folder(data, tmp_path):
    labels = np.zeros((20, 28, 36))
    labels[5:8, 9:12, 11:14] = 2
    write_mrc(tmp_path / "labels" / "one.mrc", labels)
    volumes = [{**data[0], "label": str(tmp_path / "labels" / "one.mrc")}]
    kept, stored = windows_of(volumes, None), windows_of(volumes, tmp_path / "cache")
    assert all(torch.equal(kept[number]["label"], stored[number]["label"]) for number in range(8))


def test_a_whole_tomogram_keeps_what_it_knows(data, tmp_path):
    kept = prepared_dataset(data, preparation())[1]
    stored = prepared_dataset(data, preparation(), tmp_path / "cache")[1]
    assert torch.equal(kept["image"].as_tensor(), stored["image"].as_tensor())
    assert torch.equal(kept["image"].affine, stored["image"].affine)
    assert np.array_equal(kept["image"].meta["original_affine"], stored["image"].meta["original_affine"])
    assert (stored["run"], stored["image"].meta["filename_or_obj"]) == ("two", data[1]["image"])
    (batch,) = DataLoader(prepared_dataset(data[:1], preparation(), tmp_path / "cache"), batch_size=1)
    assert isinstance(batch["image"], MetaTensor)


def test_a_box_of_a_stored_volume_is_that_of_the_array(tmp_path):
    values = np.random.default_rng(0).normal(size=(2, 5, 6, 7)).astype(np.float32)
    np.save(tmp_path / "image.npy", values)
    stored = StoredVolume(tmp_path / "image.npy")
    assert tuple(stored.shape) == values.shape
    for box in (np.s_[:, 1:4, 2:6, 3:5], np.s_[:, 0:9, 0:6, 0:7], np.s_[1:, 4:5, 0:1, 6:7]):
        assert np.array_equal(stored[box].numpy(), values[box])


def test_a_window_reads_the_rows_that_it_touches(data, tmp_path, monkeypatch):
    dataset, read = windows_of(data, tmp_path / "cache"), []
    pread = os.pread
    monkeypatch.setattr("os.pread", lambda *what: read.append(what[1]) or pread(*what))
    dataset[0]
    assert sum(read) == 8 * 10 * 36 * 4  # layers and rows of the window, whole rows of the tomogram, float32


def test_an_entry_is_made_once(data, tmp_path, monkeypatch):
    windows_of(data, tmp_path / "cache")
    before = {path: path.stat().st_mtime_ns for path in entries(tmp_path / "cache")}
    assert len(before) == 3
    monkeypatch.setattr("scripts.preparation.cache.write_entry", lambda *what: pytest.fail("made again"))
    windows_of(data, tmp_path / "cache")
    assert {path: path.stat().st_mtime_ns for path in entries(tmp_path / "cache")} == before


def test_a_changed_file_and_a_changed_setting_make_new_entries(data, tmp_path):
    windows_of(data, tmp_path / "cache")
    os.utime(data[0]["image"], ns=(1, 1))
    windows_of(data, tmp_path / "cache")
    assert len(entries(tmp_path / "cache")) == 4
    windows_of(data, tmp_path / "cache", preparation=preparation(upper=98.0))
    assert len(entries(tmp_path / "cache")) == 7


def test_a_tomogram_that_another_one_replaced_makes_a_new_entry_whatever_its_time(data, tmp_path):
    windows_of(data, tmp_path / "cache")
    replace_silently(data[0]["image"], data[1]["image"])
    windows_of(data, tmp_path / "cache")
    assert len(entries(tmp_path / "cache")) == 4


def test_a_file_that_may_not_be_read_is_named(data, monkeypatch):
    def denied(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("scripts.preparation.cache.digest_of_parts", denied)
    with pytest.raises(InputError, match=r"cannot read .*one.mrc: Permission denied."):
        entry_name(data[0], Compose([]))


def test_truth_that_is_named_by_a_pattern_makes_new_entries_when_it_changes(tmp_path):
    truth = tmp_path / "Picks" / "me_1_a.json"
    truth.parent.mkdir()
    item = {"image": str(tmp_path / "one.mrc"), "run": "one", "label": str(truth.with_name("me_1_*.json"))}
    names = set()
    for text in ("before", "afterwards"):
        truth.write_text(text)
        names.add(entry_name(item, Compose([])))
    assert len(names) == 2


def test_a_file_that_is_called_like_the_run_is_no_part_of_its_data(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = set()
    for text in ("before", "afterwards"):
        (tmp_path / "one").write_text(text)
        names.add(entry_name(data[0], Compose([])))
    assert len(names) == 1


def test_a_path_that_is_not_utf_8_names_an_entry(tmp_path):
    names = set()
    for letter in (b"\xe9", b"\xe8"):
        path = os.fsdecode(os.fsencode(tmp_path) + b"/caf" + letter)
        try:
            Path(path).mkdir()
        except OSError:
            pytest.skip("this disk takes names in UTF-8 alone")
        write_mrc(Path(path) / "one.mrc", noise())
        names.add(entry_name({"image": f"{path}/one.mrc", "run": "one"}, Compose([])))
    assert len(names) == 2


def test_an_entry_that_was_not_finished_is_made_anew(data, tmp_path):
    windows_of(data, tmp_path / "cache")
    (entry,) = (path for path in entries(tmp_path / "cache") if path.name.startswith("one-"))
    entry.rename(entry.with_name(f".{entry.name}.0a1b2c3d.tmp"))
    of_another = entry.with_name(".two-0123456789abcdef.0a1b2c3d.tmp")
    of_another.mkdir()
    assert windows_of(data, tmp_path / "cache")[0]["image"].shape == (1, 8, 10, 10)
    names = [path.name for path in entries(tmp_path / "cache")]
    assert [name.split("-")[0] for name in names] == [".two", "one", "three", "two"]


def test_a_failure_leaves_no_half_entry(data, tmp_path, monkeypatch):
    def full(*what):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("numpy.save", full)
    with pytest.raises(InputError, match=r"cannot write .*one-.*: No space left on device. Set cache_dir to another"):
        windows_of(data, tmp_path / "cache")
    assert entries(tmp_path / "cache") == []


def test_a_folder_that_cannot_be_written_to_is_named(data, tmp_path):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(InputError, match=r"cannot write to .*cache"):
        windows_of(data, tmp_path / "cache")


def test_two_processes_make_each_entry_once_and_both_get_all(data, tmp_path):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=windows_of, args=(data, tmp_path / "cache")) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert len(entries(tmp_path / "cache")) == 3


def test_a_folder_without_locks_is_refused(data, tmp_path, monkeypatch):
    def no_locks(*what):
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.flock", no_locks)
    with pytest.raises(
        InputError, match=r"cannot lock .*one-.*: No locks available. Set cache_dir to a folder on this"
    ):
        windows_of(data, tmp_path / "cache")


def test_without_data_there_is_no_folder(tmp_path):
    assert len(prepared_dataset([], preparation(), tmp_path / "cache")) == 0
    assert not (tmp_path / "cache").exists()
