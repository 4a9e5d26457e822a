import csv
import os

import pytest
from scripts.errors import InputError
from scripts.pages.batch_folder import DONE, FAILED, MISSING
from scripts.picks import FORMATS, Pick, read_csv, write_csv
from scripts.records import as_json, record_of
from scripts.results import run_folder
from scripts.results.run_folder import (
    BatchTables,
    SummaryRow,
    difference,
    earlier_runs,
    faults_of_runs,
    forget_failure,
    format_summary,
    make_record,
    read_record,
    runs_of_output,
    state_of,
    write_failure,
    write_record,
)
from synthetic import make_species, replace_silently


def settings_with(**changes):
    """Return settings in the form of the record of a run."""
    return as_json(record_of({"resample": False, "widths": (4, 8), "species_set": make_species(2), **changes}))


SETTINGS = settings_with()


@pytest.fixture
def tomogram(tmp_path):
    path = tmp_path / "one.mrc"
    path.write_bytes(b"voxels")
    return path


def record_of_run(run, tomogram, picks=(), settings=SETTINGS, seconds=(("network", 2.0), ("write", 0.25))):
    return make_record(run, state_of(tomogram), settings, picks, make_species(2), dict(seconds), peak_memory_gib=1.5)


def finish(output_dir, run, tomogram, picks, **more):
    (output_dir / run).mkdir(parents=True)
    write_csv(output_dir / run / "picks.csv", picks)
    write_record(output_dir / run, record_of_run(run, tomogram, picks, **more))


def test_a_record_comes_back_as_it_was_written(tomogram, tmp_path):
    record = record_of_run("one", tomogram, [Pick("one", "b", 1, 2, 3)])
    assert record.picks == {"a": 0, "b": 1}
    write_record(tmp_path, record)
    assert read_record(tmp_path) == record


@pytest.mark.parametrize("content", ["", "[]", '{"run": "one"}', '{"run":'])
def test_a_damaged_record_is_none(content, tmp_path):
    assert read_record(tmp_path) is None
    (tmp_path / "run.json").write_text(content)
    assert read_record(tmp_path) is None


def test_the_same_tomogram_and_settings_have_no_difference(tomogram, tmp_path):
    record = record_of_run("one", tomogram)
    moved = tomogram.rename(tmp_path / "moved.mrc")
    assert difference(record, state_of(moved), SETTINGS) is None


def test_a_difference_names_the_first_setting(tomogram):
    record, other = record_of_run("one", tomogram), make_species(2, probability_threshold=0.9)
    assert difference(record, state_of(tomogram), settings_with(species_set=other)) == (
        "was picked with other settings: Species 'a' probability_threshold was 0.5, now it is 0.9"
    )
    added = settings_with(mask="mask.mrc")
    assert 'mask was null, now it is "mask.mrc"' in difference(record, state_of(tomogram), added)


@pytest.mark.parametrize(("seconds", "content"), [(5, b"voxels"), (0, b"voxels and more")])
def test_a_changed_file_is_a_difference(seconds, content, tomogram):
    before, record = tomogram.stat().st_mtime_ns, record_of_run("one", tomogram)
    tomogram.write_bytes(content)
    os.utime(tomogram, ns=(before, before + seconds * 10**9))
    assert difference(record, state_of(tomogram), SETTINGS) == f"was picked before {tomogram} changed"


def test_a_file_of_the_same_size_and_time_is_a_difference(tomogram):
    record = record_of_run("one", tomogram)
    other = tomogram.with_name("other.mrc")
    other.write_bytes(b"VOXELS")
    replace_silently(tomogram, other)
    assert difference(record, state_of(tomogram), SETTINGS) == f"was picked before {tomogram} changed"


def test_a_record_without_a_digest_is_compared_by_size_and_time(tomogram):
    record = record_of_run("one", tomogram)
    del record.tomogram["parts_sha256"]
    assert difference(record, state_of(tomogram), SETTINGS) is None


def test_a_mask_of_the_same_size_and_time_is_a_difference(tomogram, tmp_path):
    mask, other = tmp_path / "mask.mrc", tmp_path / "other.mrc"
    mask.write_bytes(b"00110011")
    other.write_bytes(b"11001100")
    record = make_record("one", state_of(tomogram, mask), SETTINGS, [], make_species(2), {}, 1.5)
    assert difference(record, state_of(tomogram, mask), SETTINGS) is None
    replace_silently(mask, other)
    assert difference(record, state_of(tomogram, mask), SETTINGS) == f"was picked before {mask} changed"


def test_a_zarr_folder_changes_with_any_of_its_files(tmp_path):
    chunk = tmp_path / "one.zarr" / "0" / "0.0.0"
    chunk.parent.mkdir(parents=True)
    chunk.write_bytes(b"12345")
    (tmp_path / "one.zarr" / ".zattrs").write_bytes(b"{}")
    before = state_of(tmp_path / "one.zarr")
    assert before["bytes"] == 7
    os.utime(chunk, ns=(0, chunk.stat().st_mtime_ns + 10**9))
    assert state_of(tmp_path / "one.zarr")["modified_ns"] > before["modified_ns"]


def test_what_is_not_there_has_no_size(tmp_path):
    assert state_of(tmp_path / "none.mrc")["bytes"] is None


def test_tables_are_made_of_the_finished_folders_in_a_fixed_order(tomogram, tmp_path):
    output, picks = tmp_path / "out", [Pick("two", "a", 1, 2, 3, 0.5), Pick("two", "b", 4, 5, 6, 0.25)]
    finish(output, "two", tomogram, picks)
    finish(output, "one", tomogram, [Pick("one", "a", 7, 8, 9)])
    finish(output, "old", tomogram, picks, settings={"resample": True})
    write_failure(output, "bad", "bad.mrc is cut short.", "Traceback ...")
    runs = dict.fromkeys(["bad", "one", "two", "old", "none"], state_of(tomogram))
    rows = BatchTables(output, runs, SETTINGS, make_species(2)).write()
    assert [(row.run, row.status) for row in rows] == [
        ("bad", FAILED), ("one", DONE), ("two", DONE), ("old", MISSING), ("none", MISSING),
    ]  # fmt: skip
    assert [pick.run for pick in read_csv(output / "picks.csv")] == ["one", "two", "two"]
    assert [line.split(",")[0] for line in (output / "picks.csv").read_text().splitlines()] == ["id", "0", "1", "2"]
    table = list(csv.reader((output / "summary.csv").read_text().splitlines()))
    assert table[0] == [
        "run", "status", "picks", "a", "b", "expected_right", "seconds", "peak_memory_gib", "not_calibrated", "failure",
    ]  # fmt: skip
    assert table[1] == ["bad", "failed", *[""] * 7, "bad.mrc is cut short."]
    assert table[3] == ["two", "done", "2", "1", "1", "", "2.2", "1.50", "", ""]


def test_runs_that_were_picked_earlier_with_the_same_settings_follow_in_the_tables(tomogram, tmp_path):
    for run in ("late", "early", "failed", "damaged"):
        finish(tmp_path, run, tomogram, [Pick(run, "a", 1, 2, 3)])
    finish(tmp_path, "old", tomogram, [], settings=settings_with(resample=True))
    write_failure(tmp_path, "failed", "no memory")
    (tmp_path / "damaged" / "run.json").write_text("{")
    earlier = earlier_runs(tmp_path, ["late"], SETTINGS)
    assert earlier == {"early": None, "old": "resample was true, now it is false"}
    tables = BatchTables(tmp_path, {"late": state_of(tomogram)}, SETTINGS, make_species(2), earlier=earlier)
    assert [(row.run, row.status) for row in tables.write()] == [("late", DONE), ("early", DONE)]
    assert [pick.run for pick in read_csv(tmp_path / "picks.csv")] == ["late", "early"]


def test_tables_stay_until_a_run_is_replaced_whatever_was_picked_earlier(tomogram, tmp_path):
    for run in ("one", "early"):
        finish(tmp_path, run, tomogram, [])
    write_failure(tmp_path, "one", "no memory")
    tables = BatchTables(tmp_path, {"one": state_of(tomogram)}, SETTINGS, make_species(2), earlier={"early": None})
    assert tables.are_older(tables.write())
    assert not (tmp_path / "summary.csv").exists()


def test_a_replaced_folder_is_read_again(tomogram, tmp_path):
    tables = BatchTables(tmp_path, {"one": state_of(tomogram)}, SETTINGS, make_species(2))
    finish(tmp_path, "one", tomogram, [])
    tables.write()
    assert read_csv(tmp_path / "picks.csv") == []
    write_csv(tmp_path / "one" / "picks.csv", [Pick("one", "a", 7, 8, 9)])
    write_record(tmp_path / "one", record_of_run("one", tomogram, seconds={"network": 3.0}.items()))
    tables.write()
    assert len(read_csv(tmp_path / "picks.csv")) == 1


def test_a_folder_that_stays_as_it_is_is_read_once(tomogram, tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr(run_folder, "read_record", lambda folder: read.append(folder.name) or read_record(folder))
    runs = {name: state_of(tomogram) for name in ("one", "two")}
    tables = BatchTables(tmp_path, runs, SETTINGS, make_species(2))
    finish(tmp_path, "one", tomogram, [Pick("one", "a", 1, 2, 3)])
    for _ in range(2):
        assert [row.status for row in tables.write()] == ["done", "missing"]
    finish(tmp_path, "two", tomogram, [])
    assert [row.status for row in tables.write()] == ["done", "done"]
    assert read.count("one") == 1


def test_a_run_that_failed_when_done_anew_is_no_longer_done(tomogram, tmp_path):
    finish(tmp_path, "one", tomogram, [])
    write_failure(tmp_path, "one", "no memory")
    tables = BatchTables(tmp_path, {"one": state_of(tomogram)}, SETTINGS, make_species(2))
    assert tables.write() == [SummaryRow("one", FAILED, failure="no memory")]


def test_a_failure_is_forgotten_when_it_is_tried_again(tomogram, tmp_path):
    tables = BatchTables(tmp_path, {"one": state_of(tomogram)}, {}, make_species(1))
    write_failure(tmp_path, "one", "no memory", "more")
    assert tables.write() == [SummaryRow("one", FAILED, failure="no memory")]
    forget_failure(tmp_path, "one")
    forget_failure(tmp_path, "one")
    assert tables.write() == [SummaryRow("one", MISSING)]


def test_the_summary_on_the_screen_lines_up(tomogram):
    rows = [
        SummaryRow("long name", DONE, record_of_run("long name", tomogram, [Pick("", "a", 1, 2, 3)] * 12)),
        SummaryRow("bad", FAILED, failure="bad.mrc is cut short."),
        SummaryRow("none", MISSING),
    ]
    assert format_summary(rows, make_species(2)).splitlines() == [
        "run        status  picks   a  b  seconds   GiB",
        "long name  done       12  12  0      2.2  1.50",
        "bad        failed  bad.mrc is cut short.",
        "none       missing",
    ]


EXPECTED = {
    "a": {"operating_point": "F1", "lowest_probability": 0.5, "picks": 9, "precision": 0.75, "missed": 1.5},
    "b": {"operating_point": "F1", "lowest_probability": float("inf"), "picks": 0, "precision": float("nan")},
}


def test_what_is_expected_of_the_picks_and_a_warning_are_in_the_record_and_the_summary(tomogram, tmp_path):
    picks = [Pick("one", "a", 1, 2, 3)] * 9
    state, species_set = state_of(tomogram), make_species(2)
    record = make_record("one", state, SETTINGS, picks, species_set, {"network": 2.0}, 1.5, EXPECTED, "skewness")
    write_record(tmp_path, record)
    found = read_record(tmp_path)
    assert found.expected["a"]["precision"] == 0.75
    assert found.expected["b"]["lowest_probability"] is None
    assert found.expected["b"]["precision"] is None
    lines = format_summary([SummaryRow("one", DONE, found)], make_species(2)).splitlines()
    assert lines[0].split() == ["run", "status", "picks", "a", "b", "right", "seconds", "GiB"]
    assert lines[1].split() == ["one", "done", "9", "9", "0", "7", "2.0", "1.50"]
    assert lines[2] == "one: scores may be wrong for this tomogram: skewness"


@pytest.mark.parametrize("run", ["picks.csv", "summary.csv", "SUMMARY.CSV", "failures", "report.html", ".lock", ".."])
def test_a_run_called_after_a_file_of_the_batch_has_a_fault(run):
    assert list(faults_of_runs([run, "TS_1"], ignores_case=False)) == [run]


def test_names_that_differ_only_in_capitals_are_one_folder_on_a_disk_that_ignores_them():
    assert faults_of_runs(["TS_1", "ts_1", "TS_2"], ignores_case=False) == {}
    other = "differs only in capitals from 'TS_1', which on this disk is the same folder"
    assert faults_of_runs(["TS_1", "ts_1", "TS_2"], ignores_case=True) == {
        "ts_1": f"the run 'ts_1' {other}: rename its tomogram."
    }


def test_a_run_that_a_chosen_format_cannot_name_has_a_fault():
    assert faults_of_runs(["it's", "TS_1"], ignores_case=False, formats=[FORMATS["csv"], FORMATS["imod"]]) == {}
    (fault,) = faults_of_runs(["it's", "TS_1"], ignores_case=False, formats=[FORMATS["csv"], FORMATS["warp"]]).values()
    assert fault.startswith("the run's name cannot be written to a STAR file: \"it's\" holds a quote")
    assert fault.endswith("Rename its tomogram, or choose other pick_formats.")


def test_a_note_that_cannot_be_written_is_an_input_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        write_failure(tmp_path / "file", "one", "no memory")


def test_a_summary_without_its_columns_is_named(tmp_path):
    (tmp_path / "summary.csv").write_text("name;status\none;done\n")
    with pytest.raises(InputError, match=r"summary\.csv has no column run: restore it"):
        runs_of_output(tmp_path)
    (tmp_path / "summary.csv").write_text("run\none\n")
    with pytest.raises(InputError, match=r"summary\.csv has no column status: restore it"):
        runs_of_output(tmp_path)
    (tmp_path / "summary.csv").write_text("\ufeffrun,status\none,done\n", encoding="utf-8")
    assert runs_of_output(tmp_path) == ["one"]
