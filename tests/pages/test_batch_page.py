import json

import pytest
from page_data import data_of
from scripts.errors import InputError, InputWarning
from scripts.pages.batch_page import write_batch_page
from scripts.picks import Pick, write_csv
from synthetic import make_species


def test_every_run_has_its_scores_and_a_relative_link(output_dir):
    path = write_batch_page(output_dir, make_species(2))
    assert path == output_dir / "report.html"
    data = data_of(path)
    assert data["runs"] == [
        {"name": "TS 1", "page": "TS%201/report.html", "picks": [[], [0.7, 0.9]]},
        {"name": "TS_2", "page": None, "picks": [[], [0.8]]},
        {"name": "empty", "page": None, "picks": [[], []]},
    ]
    assert data["truth"] is None


def test_only_the_runs_that_are_named_are_shown_and_never_unfinished_ones(output_dir):
    write_csv(output_dir / ".TS_3.0123abcd.tmp" / "picks.csv", [Pick("TS_3", "b", 1.0, 2.0, 3.0, 0.9)])
    everything = data_of(write_batch_page(output_dir, make_species(2)))
    assert [run["name"] for run in everything["runs"]] == ["TS 1", "TS_2", "empty"]
    named = data_of(write_batch_page(output_dir, make_species(2), runs=["TS_2"]))
    assert [run["name"] for run in named["runs"]] == ["TS_2"]


def test_a_page_that_is_written_again_leaves_out_what_failed_since(output_dir):
    (output_dir / "failures").mkdir()
    (output_dir / "failures" / "TS_2.txt").write_text("it is cut short\nTraceback")
    data = data_of(write_batch_page(output_dir, make_species(2)))
    assert [run["name"] for run in data["runs"]] == ["TS 1", "empty"]
    assert data["failures"] == [{"name": "TS_2", "reason": "it is cut short"}]
    for run in ("TS 1", "empty"):
        (output_dir / "failures" / f"{run}.txt").write_text("no memory")
    data = data_of(write_batch_page(output_dir, make_species(2)))
    assert (data["runs"], len(data["failures"])) == ([], 3)


def test_picks_of_lower_thresholds_than_the_species_files_are_shown_and_counted(output_dir):
    write_csv(
        output_dir / "TS_2" / "picks.csv", [Pick("TS_2", "b", 1.0, 2.0, 3.0, score) for score in (0.3000009, 0.9)]
    )
    first, second = data_of(write_batch_page(output_dir, make_species(2)))["species"]
    assert (first["threshold"], first["networkThreshold"]) == (0.5, 0.5)
    assert (second["threshold"], second["lowest"], second["networkThreshold"]) == (0.3, 0.3, 0.5)


def test_after_a_second_look_the_page_has_the_operating_points_of_the_records(output_dir):
    assert data_of(write_batch_page(output_dir, make_species(2)))["judged"] is False
    expected = {"a": {"operating_point": "F1"}, "b": {"operating_point": "precision 0.9", "spread": 0.5}}
    write_facts(output_dir, "empty", expected=expected)
    (output_dir / "TS 1" / "run.json").write_text("{")
    data = data_of(write_batch_page(output_dir, make_species(2), runs=["TS 1", "empty"]))
    assert data["judged"] is True
    assert [one["operatingPoint"] for one in data["species"]] == ["F1", "precision 0.9"]
    assert [one["spread"] for one in data["species"]] == [0.0, 0.5]


def write_facts(output_dir, run, settings=None, expected=None):
    (output_dir / run / "run.json").write_text(json.dumps({"settings": settings or {"size": 1}, "expected": expected}))


def runs_of_page(output_dir, said):
    with pytest.warns(InputWarning, match=said):
        return [run["name"] for run in data_of(write_batch_page(output_dir, make_species(2)))["runs"]]


def test_a_page_that_is_written_again_leaves_out_runs_of_other_settings(output_dir):
    other = {"a": {"operating_point": "precision 0.9"}, "b": {"operating_point": "precision 0.9"}}
    usual = {"a": {"operating_point": "F1"}, "b": {"operating_point": "F1"}}
    write_facts(output_dir, "TS 1", {"size": 2}, other)
    for run in ("TS_2", "empty"):
        write_facts(output_dir, run, expected=usual)
    said = r"leaves out TS 1 \(picked with other settings than TS_2: size was 1, now it is 2\): pick them again"
    assert runs_of_page(output_dir, said) == ["TS_2", "empty"]
    assert data_of(output_dir / "report.html")["species"][0]["operatingPoint"] == "F1"


def test_a_page_that_is_written_again_leaves_out_runs_that_the_summary_calls_missing(output_dir):
    for run in ("TS 1", "TS_2", "empty"):
        write_facts(output_dir, run, {"size": 1 if run == "TS_2" else 2})
    (output_dir / "summary.csv").write_text("run,status\nTS 1,missing\nTS_2,done\nempty,missing\n")
    assert runs_of_page(output_dir, r"leaves out TS 1, empty \(missing in summary.csv\): pick") == ["TS_2"]


def test_a_page_that_is_written_again_leaves_out_runs_without_a_record_where_others_have_one(output_dir):
    write_facts(output_dir, "TS_2")
    assert runs_of_page(output_dir, r"leaves out TS 1, empty \(without a run.json that can be read\)") == ["TS_2"]


def test_failed_runs_are_named_with_their_reasons(output_dir):
    path = write_batch_page(output_dir, make_species(2), failures={"TS<3>": "the file ends early"})
    assert data_of(path)["failures"] == [{"name": "TS<3>", "reason": "the file ends early"}]


def test_valleys_over_all_runs_are_logged(output_dir, caplog):
    caplog.set_level("INFO")
    for run, score in {"low": 0.6, "high": 0.999}.items():
        write_csv(output_dir / run / "picks.csv", [Pick(run, "a", float(n), 2.0, 3.0, score) for n in range(20)])
    write_batch_page(output_dir, make_species(2))
    assert "score valleys: a 0." in caplog.text
    assert ", b no clear valley" in caplog.text


def test_hundreds_of_runs_make_a_small_page(tmp_path):
    for number in range(100):
        run = f"TS_{number:03d}"
        write_csv(tmp_path / run / "picks.csv", [Pick(run, "a", 1.0, 2.0, z, 0.5 + z / 400) for z in range(120)])
    path = write_batch_page(tmp_path, make_species(2))
    assert len(data_of(path)["runs"]) == 100
    assert path.stat().st_size < 300_000


def test_a_species_that_is_not_known_is_refused_with_its_table(output_dir):
    with pytest.raises(InputError, match=r"TS 1.picks.csv: unknown species 'b'; known are a"):
        write_batch_page(output_dir, make_species(1))
