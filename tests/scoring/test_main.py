import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from pick_files import BASE, table
from scripts.picks import Pick, write_csv
from scripts.scoring.__main__ import main

BUNDLE = Path(__file__).resolve().parents[2] / "bundle"


@pytest.fixture
def files(tmp_path, monkeypatch):
    write_csv(tmp_path / "truth.csv", table(BASE))
    write_csv(tmp_path / "picks.csv", table(["A 0", "A 1", *BASE[1:]]))
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("files")
def test_the_command_ends_with_the_score_in_all_its_digits(capsys):
    assert main(["truth.csv", "picks.csv"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("species ")
    assert lines[-2].startswith("total (kaggle) ")
    assert lines[-1] == "score 0.9920634920634921"


@pytest.mark.usefixtures("files")
def test_the_command_matches_in_the_mode_asked_for(capsys):
    write_csv("truth.csv", table([*BASE, "A 40"]))
    write_csv("picks.csv", table(["A 20", *BASE[1:]]))
    assert main(["truth.csv", "picks.csv", "--mode", "one_to_one"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2].startswith("total (one_to_one) ")
    assert float(lines[-1].removeprefix("score ")) == pytest.approx((17 / 33 + 6) / 7)


@pytest.mark.usefixtures("files")
def test_the_command_takes_another_species_file(capsys):
    content = json.loads((BUNDLE / "configs" / "species.json").read_text())
    content["species"]["ribosome"]["weight"] = 3.0
    Path("mine.json").write_text(json.dumps(content))
    write_csv("picks.csv", table(["R 1000"]))
    assert main(["truth.csv", "picks.csv", "--species", "mine.json"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"score {3 / 9!r}"


@pytest.mark.usefixtures("files")
def test_the_command_says_which_picks_it_left_out(capsys):
    write_csv("picks.csv", table([*BASE, "A 0 E9", "A 5 E9"]))
    assert main(["truth.csv", "picks.csv"]) == 0
    assert capsys.readouterr().out.splitlines()[-2:] == [
        "left out: 2 picks of runs without truth (E9)",
        "score 1.0",
    ]


@pytest.mark.usefixtures("files")
def test_rejected_and_uncertain_rows_are_no_picks(capsys):
    picks = table([*BASE, "A 500", "A 700"])
    write_csv("picks.csv", [*picks[:-2], replace(picks[-2], weight=0.0), replace(picks[-1], weight=math.nan)])
    assert main(["truth.csv", "picks.csv"]) == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines()[-1] == "score 1.0"
    assert printed.err == "left out: 2 picks that are rejected or uncertain (weight 0 or none)\n"


@pytest.mark.usefixtures("files")
def test_picks_of_other_runs_alone_get_no_score(capsys):
    write_csv("picks.csv", table([f"A 0 E{run}" for run in (5, 6, 7, 8)]))
    assert main(["truth.csv", "picks.csv"]) == 1
    said = r"error: picks.csv has none of the runs of truth.csv: it has E5, E6, E7 and 1 more, not "
    assert capsys.readouterr().err.startswith(said)


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.csv", "picks.csv"], "error: cannot read none.csv: No such file or directory.\n"),
        (["truth.csv", "picks.csv", "--species", "none.json"], "error: cannot read none.json: no such file.\n"),
        (["empty.csv", "picks.csv"], "error: empty.csv holds no particles; there is nothing to compare with.\n"),
    ],
)
def test_the_command_says_in_one_line_what_is_wrong(capsys, arguments, message):
    write_csv("empty.csv", [])
    assert main(arguments) == 1
    assert capsys.readouterr() == ("", message)


@pytest.mark.usefixtures("files")
def test_the_command_says_that_it_does_not_apply_what_was_annotated(capsys):
    Path("annotated.json").write_text('{"E1": ["ribosome"]}')
    assert main(["truth.csv", "picks.csv"]) == 0
    assert capsys.readouterr().err == (
        "warning: annotated.json is not applied here: what was not annotated counts as empty; run evaluating applies "
        "it.\n"
    )


@pytest.mark.usefixtures("files")
def test_the_command_names_file_and_row_of_an_unknown_species(capsys):
    write_csv("picks.csv", [*table(BASE), Pick("E1", "albumin", 1.0, 2.0, 3.0)])
    assert main(["truth.csv", "picks.csv"]) == 1
    assert capsys.readouterr().err.startswith("error: picks.csv, pick 6: unknown species 'albumin'; known are ")


@pytest.mark.usefixtures("files")
def test_picks_of_tomograms_without_particles_count_where_these_are_named(capsys):
    write_csv("picks.csv", table([*BASE, "A 0 E9", "A 5 E9", "A 5 E8"]))
    assert main(["truth.csv", "picks.csv", "--runs", "E9, E1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split()[:6] == ["apo-ferritin", "1", "3", "1", "2", "0"]
    assert lines[-2] == "left out: 1 picks of runs without truth (E8)"


@pytest.mark.usefixtures("files")
def test_the_command_runs_as_a_module(tmp_path):
    command = [sys.executable, "-m", "scripts.scoring", str(tmp_path / "truth.csv"), str(tmp_path / "none.csv")]
    failed = subprocess.run(command, cwd=BUNDLE, capture_output=True, text=True, check=False)
    assert (failed.returncode, failed.stdout, failed.stderr.count("\n")) == (1, "", 1)
    command[-1] = str(tmp_path / "picks.csv")
    done = subprocess.run(command, cwd=BUNDLE, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.splitlines()[-1], done.stderr) == (0, "score 0.9920634920634921", "")
