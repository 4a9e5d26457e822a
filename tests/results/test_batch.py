"""Many tomograms through the shipped config: failures, resume, overwrite, a kill in the middle, several processes."""

import fcntl
import json
import os
import shutil
import signal
from types import SimpleNamespace

import numpy as np
import pytest
import scripts.handlers.results as handlers
from batches import VOXEL_SIZE, codes_of, files_of, pick, start, start_two, statuses, write_batch, write_tomograms
from page_data import data_of
from scripts.backends import choice
from scripts.errors import InputError, InputWarning, find_input_error
from scripts.inference.inferers import TomogramInferer
from scripts.picks import read_csv
from synthetic import SHAPE, box_mask, noise, replace_silently, write_mrc
from torch import nn


@pytest.fixture(scope="module")
def data(tmp_path_factory, shipped_species):
    """Five tomograms and the weights of a small network that answers with its (smoothed) input."""
    return write_batch(tmp_path_factory.mktemp("data"), 5, shipped_species)


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    """They take most of the time."""
    monkeypatch.setattr(handlers, "picture_of", lambda sample, species_set: None)
    monkeypatch.setattr(handlers, "save_figure", lambda figure, path: path.write_bytes(b""))


def line_of(*arguments, **settings):
    with pytest.raises(RuntimeError) as caught:
        pick(*arguments, **settings)
    return str(find_input_error(caught.value))


@pytest.fixture(scope="module")
def reference(data, tmp_path_factory):
    """What one process writes that nobody disturbs."""
    output = tmp_path_factory.mktemp("reference")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(handlers, "picture_of", lambda sample, species_set: None)
        patch.setattr(handlers, "save_figure", lambda figure, path: path.write_bytes(b""))
        pick(data, output, data.parent / "weights.pt")
    return output


def test_every_record_names_what_computed_after_openvino_failed(data, tmp_path, monkeypatch):
    class Failing(nn.Module):
        def __init__(self, network, dtype):
            super().__init__()

        def forward(self, windows):
            raise RuntimeError("no such instruction")

    monkeypatch.setattr(choice, "is_installed", lambda: True)
    monkeypatch.setattr(choice, "OpenVinoNetwork", Failing)
    with pytest.warns(InputWarning, match="The network is run by torch instead"):
        pick(data, tmp_path, data.parent / "weights.pt", second_look=False)
    records = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("*/run.json"))]
    assert {(one["settings"]["backend"], one["fallback"]) for one in records} == {
        ("openvino", "torch: Failing failed: no such instruction.")
    }
    pick(data, tmp_path, data.parent / "weights.pt", second_look=False)  # the settings are the same


def test_twelve_tomograms_with_three_bad_ones_give_nine_results_and_a_failure(data, tmp_path, capsys):
    tomograms = write_tomograms(tmp_path / "tomograms", 12)
    cut = tomograms / "TS_03.mrc"
    cut.write_bytes(cut.read_bytes()[:-5000])
    write_mrc(tomograms / "TS_05.mrc", noise(), 0.0, overwrite=True)
    write_mrc(tomograms / "TS_08.mrc", np.full(SHAPE, 7.0), VOXEL_SIZE, overwrite=True)
    output = tmp_path / "out"
    line = line_of(tomograms, output, data.parent / "weights.pt")
    assert line == f"3 of 12 tomograms failed: TS_03, TS_05, TS_08. Summary: {output / 'summary.csv'}"
    good = {f"TS_{number:02d}" for number in range(12)} - {"TS_03", "TS_05", "TS_08"}
    assert {run for run, status in statuses(output).items() if status == "done"} == good
    assert {pick.run for pick in read_csv(output / "picks.csv")} == good
    reasons = {path.stem: path.read_text() for path in (output / "failures").iterdir()}
    assert reasons == {
        "TS_03": f"{cut} is cut short: the header promises 80640 bytes of data, the file has 75640.\n",
        "TS_05": f"{tomograms / 'TS_05.mrc'} states no voxel size: set voxel_size_angstrom "
                 "(e.g. --voxel_size_angstrom 10.012).\n",
        "TS_08": f"{tomograms / 'TS_08.mrc'} is constant: nothing can be picked in it.\n",
    }  # fmt: skip
    assert "TS_03  failed  " in capsys.readouterr().out
    assert not [path for path in output.iterdir() if path.name.endswith(".tmp")]


def test_tomograms_called_after_files_of_the_batch_are_left_out_and_the_others_are_done(data, tmp_path, caplog):
    tomograms, output = write_tomograms(tmp_path / "tomograms", 1), tmp_path / "out"
    bad = ["picks.csv", "Summary.csv", "failures", "report.html", "con", "a\nb", "a\udc80", "x" * 240]
    for name in ["run.json", *bad]:
        (tomograms / f"{name}.mrc").write_bytes((tomograms / "TS_00.mrc").read_bytes())
    line = line_of(tomograms, output, data.parent / "weights.pt")
    assert line.startswith("8 of 10 tomograms failed: ")
    found = statuses(output)
    assert {run for run, status in found.items() if status == "done"} == {"TS_00", "run.json"}
    assert {pick.run for pick in read_csv(output / "picks.csv")} == {"TS_00", "run.json"}
    left_out = [record.getMessage() for record in caplog.records if record.getMessage().startswith("left out: ")]
    assert len(left_out) == len(bad)
    assert "left out: the run 'picks.csv' is the name of a file of the batch itself: rename its tomogram." in left_out
    assert "left out: the run 'con' is the name of a device in Windows: rename its tomogram." in left_out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "tomograms"]
    assert sorted(path.name for path in output.iterdir() if path.is_dir()) == ["TS_00", "run.json"]


def test_a_batch_picks_what_the_evaluator_alone_picks(data, reference, tmp_path):
    made = pick(data, tmp_path, data.parent / "weights.pt", run=[])
    made.evaluator.run()
    assert made.check_properties() == []
    alone = files_of(tmp_path)
    assert len(alone) == 5 * 13
    assert alone == {name: content for name, content in files_of(reference).items() if "/" in name}
    assert (reference / "TS_04" / "picks.csv").read_text().count("\n") > 5


def test_what_is_done_is_skipped(data, reference):
    before = [(reference / f"TS_{number:02d}" / "run.json").stat().st_mtime_ns for number in range(5)]
    pick(data, reference, data.parent / "weights.pt")
    assert [(reference / f"TS_{number:02d}" / "run.json").stat().st_mtime_ns for number in range(5)] == before


def test_without_pages_those_of_runs_that_are_done_stay_and_so_does_that_over_all(data, reference, caplog):
    before = files_of(reference)
    pick(data, reference, data.parent / "weights.pt", page_megabytes=0)
    assert files_of(reference) == before
    assert "runs that are done already keep their pages: TS_00, TS_01, TS_02 and 2 more; --resume" in caplog.text
    pick(data, reference, data.parent / "weights.pt")
    assert caplog.text.count("done already keep") == 1


def test_without_pages_no_older_page_stays_over_runs_that_were_replaced(data, tmp_path):
    where = data / "TS_01.mrc", tmp_path, data.parent / "weights.pt"
    pick(*where)
    assert (tmp_path / "report.html").exists()
    pick(*where, page_megabytes=0, rotations=2, overwrite=True)
    assert not (tmp_path / "report.html").exists()


def test_runs_that_were_picked_without_pages_are_named_where_pages_are_written(data, tmp_path, caplog):
    where = data / "TS_01.mrc", tmp_path, data.parent / "weights.pt"
    pick(*where, page_megabytes=0)
    assert "runs that are done already" not in caplog.text
    pick(*where)
    assert "runs that are done already get no pages: TS_01; --resume False --overwrite True picks" in caplog.text
    assert data_of(tmp_path / "report.html")["runs"][0]["page"] is None
    pick(*where, resume=False, overwrite=True)
    assert data_of(tmp_path / "report.html")["runs"][0]["page"] == "TS_01/report.html"


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        (
            {"inference_overlap_voxels": 12},
            r"was picked with other settings: TomogramInferer overlap_voxels was 64, now it is 12. Set",
        ),
        ({"probability_thresholds": {"ribosome": 0.7}}, r"settings: Species 'apo-ferritin' probability_threshold was"),
        (
            {"resume": False},
            r"TS_00 is done already, and resume is off. Set another output_dir, or give --overwrite True",
        ),
    ],
)
def test_what_is_there_is_not_replaced_unasked(settings, line, data, reference):
    before = files_of(reference)
    with pytest.raises(InputError, match=line):
        raise InputError(line_of(data, reference, data.parent / "weights.pt", **settings))
    assert files_of(reference) == before


def test_a_failure_is_forgotten_where_the_older_result_is_right_after_all(data, tmp_path):
    tomogram, output, weights = tmp_path / "one.mrc", tmp_path / "out", data.parent / "weights.pt"
    whole = (data / "TS_01.mrc").read_bytes()
    tomogram.write_bytes(whole)
    time = tomogram.stat().st_mtime_ns
    pick(tomogram, output, weights)
    before = files_of(output)
    tomogram.write_bytes(whole[:-5000])  # half copied
    assert "cut short" in line_of(tomogram, output, weights, overwrite=True)
    tomogram.write_bytes(whole)
    os.utime(tomogram, ns=(time, time))
    pick(tomogram, output, weights, overwrite=True)
    assert statuses(output) == {"one": "done"}
    assert files_of(output) == before


def full_disk(*what, **more):
    raise OSError(28, "No space left on device")


def test_a_full_disk_leaves_the_older_results_and_their_tables(data, tmp_path, monkeypatch):
    one, output, weights = data / "TS_01.mrc", tmp_path / "out", data.parent / "weights.pt"
    pick(one, output, weights)
    before, summary = files_of(output), (output / "summary.csv").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(handlers, "save_figure", full_disk)
        line = line_of(one, output, weights, rotations=2, overwrite=True)
    assert line == (
        f"1 of 1 tomograms failed: cannot write {output / 'TS_01'}: No space left on device. Older results in {output} "
        "are as they were."
    )
    (output / "failures" / "TS_01.txt").unlink()
    assert files_of(output) == before
    assert (output / "summary.csv").read_bytes() == summary
    pick(one, output, weights, rotations=2, overwrite=True)
    assert files_of(output) != before


def test_a_disk_that_is_too_full_is_named_before_the_first_tomogram(data, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=255_000))
    line = line_of(data, tmp_path, data.parent / "weights.pt")
    assert line == (
        f"{tmp_path} has 0.3 MB free, at least 0.3 MB are needed: free some, set another output_dir, or give a smaller "
        "page_megabytes."
    )
    assert not list(tmp_path.glob("TS_*"))


def test_a_mask_of_a_run_that_changed_is_noticed_whatever_its_time(data, tmp_path):
    mask, other = tmp_path / "TS_01_mask.mrc", tmp_path / "other.mrc"
    write_mrc(mask, box_mask(), VOXEL_SIZE)
    write_mrc(other, 1 - box_mask(), VOXEL_SIZE)
    where = data / "TS_01.mrc", tmp_path / "out", data.parent / "weights.pt"
    settings = {"mask_path": str(tmp_path / "{run}_mask.mrc")}
    pick(*where, **settings)
    pick(*where, **settings)
    replace_silently(mask, other)
    assert line_of(*where, **settings).startswith(f"{tmp_path / 'out' / 'TS_01'} was picked before {mask} changed. Set")


def test_a_tomogram_that_is_replaced_while_it_is_picked_is_not_done(data, tmp_path, monkeypatch):
    one, other = tmp_path / "TS_01.mrc", tmp_path / "other.mrc"
    shutil.copy(data / "TS_01.mrc", one)
    write_mrc(other, noise(9), VOXEL_SIZE)
    call = TomogramInferer.__call__

    def replacing(self, inputs, network):
        if other.exists():
            os.replace(other, one)
        return call(self, inputs, network)

    monkeypatch.setattr(TomogramInferer, "__call__", replacing)
    where = one, tmp_path / "out", data.parent / "weights.pt"
    assert f"{one} changed while the tomogram was picked: start again to pick it anew." in line_of(*where)
    assert not (tmp_path / "out" / "TS_01").exists()
    pick(*where)
    assert statuses(tmp_path / "out") == {"TS_01": "done"}


def test_overwrite_replaces_results_of_other_settings(data, tmp_path):
    one, output, weights = data / "TS_01.mrc", tmp_path / "out", data.parent / "weights.pt"
    pick(one, output, weights)
    (output / "TS_01" / "notes.txt").write_text("old")
    pick(one, output, weights, rotations=2, overwrite=True)
    assert not (output / "TS_01" / "notes.txt").exists()
    assert json.loads((output / "TS_01" / "run.json").read_text())["settings"]["inferer"]["rotations"] == 2
    assert len(read_csv(output / "picks.csv")) == len(read_csv(output / "TS_01" / "picks.csv")) > 0


def test_a_second_dataset_joins_the_tables_of_the_first(data, tmp_path, caplog):
    caplog.set_level("INFO")
    weights = data.parent / "weights.pt"
    pick(data / "TS_01.mrc", tmp_path, weights)
    pick(data / "TS_00.mrc", tmp_path, weights)
    assert statuses(tmp_path) == {"TS_00": "done", "TS_01": "done"}
    assert {pick.run for pick in read_csv(tmp_path / "picks.csv")} == {"TS_00", "TS_01"}
    assert [run["name"] for run in data_of(tmp_path / "report.html")["runs"]] == ["TS_00", "TS_01"]
    assert "the tables keep TS_01, picked earlier with the same settings: remove their folders" in caplog.text


def test_a_second_dataset_with_other_settings_is_refused_before_it_replaces_the_tables(data, tmp_path, caplog):
    weights = data.parent / "weights.pt"
    pick(data / "TS_01.mrc", tmp_path, weights)
    before = files_of(tmp_path)
    line = line_of(data / "TS_00.mrc", tmp_path, weights, inference_overlap_voxels=12)
    assert line == (
        f"{tmp_path} holds other tomograms, picked with other settings: TS_01 (TomogramInferer overlap_voxels was 64, "
        "now it is 12). Set another output_dir, or give --overwrite True to leave them out of the tables."
    )
    assert files_of(tmp_path) == before
    pick(data / "TS_00.mrc", tmp_path, weights, inference_overlap_voxels=12, overwrite=True)
    assert statuses(tmp_path) == {"TS_00": "done"}
    assert (tmp_path / "TS_01" / "run.json").exists()
    assert "the tables leave out TS_01, picked earlier with other settings" in caplog.text


def test_a_folder_of_somebody_else_is_not_replaced(data, tmp_path):
    (tmp_path / "TS_02").mkdir()
    line = line_of(data, tmp_path, data.parent / "weights.pt")
    assert line.startswith(f"{tmp_path / 'TS_02'} is no complete result. Set another output_dir")
    assert not (tmp_path / "TS_00").exists()


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (KeyError("CUDA error:\nlaunch failure"), "KeyError: 'CUDA error:\\nlaunch failure'"),
        (
            MemoryError("no room"),
            "MemoryError: no room. Memory ran out: give a smaller --memory_gib, or pick on a machine with more.",
        ),
    ],
)
def test_whatever_fails_the_next_tomogram_is_picked(error, line, data, tmp_path, monkeypatch):
    fail_once(monkeypatch, error)
    weights = data.parent / "weights.pt"
    assert line_of(data, tmp_path, weights).startswith(f"1 of 5 tomograms failed: {line}")
    assert list(statuses(tmp_path).values()) == ["done", "failed", "done", "done", "done"]
    note = (tmp_path / "failures" / "TS_01.txt").read_text()
    assert note.startswith(line + "\n")
    assert "Traceback" in note
    pick(data, tmp_path, weights)  # goes on, and succeeds
    assert set(statuses(tmp_path).values()) == {"done"}
    assert list((tmp_path / "failures").iterdir()) == []


def fail_once(monkeypatch, error):
    """Let the second tomogram fail."""
    call, calls = TomogramInferer.__call__, []

    def failing(self, inputs, network):
        calls.append(inputs)
        if len(calls) == 2:
            raise error
        return call(self, inputs, network)

    monkeypatch.setattr(TomogramInferer, "__call__", failing)


def test_a_user_who_stops_a_batch_stops_all_of_it(data, tmp_path, monkeypatch):
    fail_once(monkeypatch, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        pick(data, tmp_path, data.parent / "weights.pt")
    assert statuses(tmp_path)["TS_01"] == "missing"
    assert not (tmp_path / "TS_02").exists()


def test_a_second_batch_in_the_same_folder_is_refused(data, reference):
    with open(reference / ".lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        line = line_of(data, reference, data.parent / "weights.pt")
    assert line == f"another batch is at work in {reference}: wait for it, or set another output_dir."


def test_a_lock_that_cannot_be_opened_is_refused_in_one_line(data, tmp_path):
    (tmp_path / ".lock").mkdir()  # another user's file gives "Permission denied", but not to root
    line = line_of(data, tmp_path, data.parent / "weights.pt")
    assert line == f"cannot write to {tmp_path / '.lock'}: Is a directory. Choose another folder."


def test_a_run_that_a_star_file_cannot_name_is_left_out_at_the_start(data, tmp_path, caplog):
    tomograms = write_tomograms(tmp_path / "tomograms", 2)
    (tomograms / "TS_01.mrc").rename(tomograms / "it's.mrc")
    line = line_of(tomograms, tmp_path / "out", data.parent / "weights.pt")
    assert line.startswith("1 of 2 tomograms failed: the run's name cannot be written to a STAR file")
    assert statuses(tmp_path / "out") == {"TS_00": "done", "it's": "failed"}
    assert "left out: the run's name cannot be written to a STAR file" in caplog.text


def test_two_tomograms_of_one_name_are_refused(data, tmp_path):
    own = [{"image": str(data / "TS_00.mrc"), "run": "x"}, {"image": str(data / "TS_01.mrc"), "run": "x"}]
    line = line_of(data, tmp_path, data.parent / "weights.pt", **{"dataset#data": own})
    assert line == f"two tomograms are called 'x': the second is {data / 'TS_01.mrc'}. Rename one."


def test_a_killed_batch_goes_on_and_ends_with_the_same_files(data, reference, tmp_path):
    assert codes_of(start(data, tmp_path, killed_at="TS_02")) == [-signal.SIGKILL]
    assert list(statuses(tmp_path).values()) == ["done", "done", "missing", "missing", "missing"]
    assert len(list(tmp_path.glob(".TS_02.*.tmp"))) == 1
    assert codes_of(start(data, tmp_path)) == [0]
    assert files_of(tmp_path) == files_of(reference)


def test_two_processes_share_a_batch(data, reference, tmp_path):
    tmp_path /= "out"
    assert codes_of(*start_two(data, tmp_path)) == [0, 0]
    assert files_of(tmp_path) == files_of(reference)
    assert set(statuses(tmp_path).values()) == {"done"}


def test_when_one_of_two_processes_dies_the_other_ends_its_share_and_the_rest_is_named(data, reference, tmp_path):
    assert codes_of(*start_two(data, tmp_path, killed_at="TS_01")) == [1, -signal.SIGKILL]
    assert list(statuses(tmp_path).values()) == ["done", "missing", "done", "missing", "done"]
    assert [run["name"] for run in data_of(tmp_path / "report.html")["runs"]] == ["TS_00", "TS_02", "TS_04"]
    assert codes_of(start(data, tmp_path)) == [0]
    assert files_of(tmp_path) == files_of(reference)
