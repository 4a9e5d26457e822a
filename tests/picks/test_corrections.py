import math
from dataclasses import replace

import pytest
from scripts.errors import InputError
from scripts.picks import Pick, read_csv, write_csv
from scripts.picks.__main__ import main
from scripts.picks.corrections import merge_annotations

ONE = [
    Pick("TS_1", "ribosome", 1.0, 2.0, 3.0, origin="corrected in report.html"),
    Pick("TS_1", "ribosome", 4.0, 5.0, 6.0, weight=0.0),
    Pick("TS_1", "ribosome", 7.0, 8.0, 9.0, weight=math.nan),
]
OTHER = [replace(ONE[0], run="TS_2"), replace(ONE[0], run="TS_2", species="apo-ferritin", weight=0.75)]


@pytest.fixture
def tables(tmp_path):
    write_csv(tmp_path / "TS_1_corrected.csv", ONE)
    write_csv(tmp_path / "TS_2_corrected.csv", OTHER)
    return [str(tmp_path / f"TS_{number}_corrected.csv") for number in (1, 2)]


def test_the_corrections_of_several_runs_become_one_truth(tmp_path, tables, capsys):
    target = tmp_path / "truth.csv"
    assert main(["merge", str(target), *tables]) == 0
    assert capsys.readouterr().out == f"{target}: 2 particles, 1 rejected, 2 uncertain, in 2 runs\n"
    assert [(one.run, one.species, one.xyz_angstrom, one.origin) for one in read_csv(target)] == [
        (one.run, one.species, one.xyz_angstrom, one.origin) for one in [*ONE, *OTHER]
    ]
    weights = [one.weight for one in [*ONE, *OTHER]]
    assert [one.weight for one in read_csv(target)] == pytest.approx(weights, nan_ok=True)


def test_an_existing_truth_is_replaced_only_when_asked_for(tmp_path, tables, capsys):
    (tmp_path / "truth.csv").write_text("mine")
    assert main(["merge", str(tmp_path / "truth.csv"), *tables]) == 1
    assert "truth.csv is there already; choose another name, or give --overwrite." in capsys.readouterr().err
    assert (tmp_path / "truth.csv").read_text() == "mine"
    assert main(["merge", str(tmp_path / "truth.csv"), *tables, "--overwrite"]) == 0


def test_a_run_that_was_saved_twice_is_refused():
    with pytest.raises(InputError, match=r"run 'TS_1' is in a\.csv and in a \(1\)\.csv: leave the older one out"):
        merge_annotations({"a.csv": ONE, "b.csv": OTHER, "a (1).csv": ONE[:1]})
