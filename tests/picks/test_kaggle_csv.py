import csv
import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pick_files import PICK, coordinates, write_text
from scripts.errors import InputError
from scripts.picks import Pick, as_records, read_csv, write_csv

KAGGLE_HEADER = "id,experiment,particle_type,x,y,z"
names = st.text("abTS_ 01-é,\"'#", min_size=1, max_size=8).filter(lambda name: name == name.strip())
picks_with_voxels = st.builds(
    Pick, names, names, coordinates, coordinates, coordinates, st.floats(0, 1), st.floats(1, 999), *[coordinates] * 3
)


def test_csv_has_kaggles_columns_first_and_enough_digits(tmp_path):
    write_csv(tmp_path / "picks.csv", [PICK, Pick("TS_2", "thyroglobulin", 1.23456, -0.0001, 3.0, score=1 / 3)])
    assert (tmp_path / "picks.csv").read_text().splitlines() == [
        "id,experiment,particle_type,x,y,z,score,radius_angstrom,x_voxel,y_voxel,z_voxel,network_score",
        "0,TS_1,ribosome,205.000,135.000,145.000,0.750000,150.000,20.0000,13.0000,14.0000,",
        "1,TS_2,thyroglobulin,1.235,0.000,3.000,0.333333,,,,,",
    ]


def test_no_picks_give_a_csv_with_a_header_that_reads_as_no_picks(tmp_path):
    write_csv(tmp_path / "picks.csv", [])
    assert (tmp_path / "picks.csv").read_bytes().endswith(b"z_voxel,network_score\n")
    assert read_csv(tmp_path / "picks.csv") == []


@settings(max_examples=40, deadline=None)
@given(table=st.lists(picks_with_voxels, max_size=5))
def test_csv_round_trip_keeps_names_and_numbers(tmp_path_factory, table):
    path = tmp_path_factory.mktemp("csv") / "picks.csv"
    write_csv(path, table)
    read = read_csv(path)
    assert [(pick.run, pick.species) for pick in read] == [(pick.run, pick.species) for pick in table]
    for found, wanted in zip(read, table, strict=True):
        numbers, expected = (list(as_records([pick])[0].values())[2:9] for pick in (found, wanted))
        assert numbers == pytest.approx(expected, rel=0, abs=0.00051)
        assert math.isnan(found.network_score)  # which only a second look leaves


def test_the_networks_score_stays_beside_that_of_a_second_look(tmp_path):
    write_csv(tmp_path / "picks.csv", [replace(PICK, score=0.25, network_score=0.875)])
    assert [(pick.score, pick.network_score) for pick in read_csv(tmp_path / "picks.csv")] == [(0.25, 0.875)]


def test_weights_and_origins_of_annotations_stay(tmp_path):
    table = [replace(PICK, weight=weight, origin="by hand, TS") for weight in (1.0, 0.25, 0.0, math.nan)]
    write_csv(tmp_path / "truth.csv", [PICK, *table])
    read = read_csv(tmp_path / "truth.csv")
    assert [pick.weight for pick in read] == pytest.approx([1.0, 1.0, 0.25, 0.0, math.nan], nan_ok=True)
    assert [pick.origin for pick in read] == ["", *["by hand, TS"] * 4]


def test_without_a_column_every_weight_is_one_and_an_empty_one_is_uncertain(tmp_path):
    (plain,) = read_csv(write_text(tmp_path, f"{KAGGLE_HEADER}\n0,TS_1,ribosome,1,2,3\n"))
    (uncertain,) = read_csv(write_text(tmp_path, f"{KAGGLE_HEADER},weight\n0,TS_1,ribosome,1,2,3,\n"))
    assert plain.weight == 1.0
    assert math.isnan(uncertain.weight)


@pytest.mark.parametrize("weight", ["1.5", "-0.1", "nan", "yes"])
def test_a_weight_that_is_no_probability_is_refused(tmp_path, weight):
    path = write_text(tmp_path, f"{KAGGLE_HEADER},weight\n0,TS_1,ribosome,1,2,3,{weight}\n")
    with pytest.raises(InputError, match=rf"row 2: weight .*got '{weight}'"):
        read_csv(path)


def test_kaggles_own_csv_is_read_with_the_rest_unknown(tmp_path):
    (pick,) = read_csv(write_text(tmp_path, f"{KAGGLE_HEADER}\n0,TS_1,ribosome,1.5,2.5,3.5\n"))
    assert (pick.run, pick.species, pick.xyz_angstrom, pick.score) == ("TS_1", "ribosome", (1.5, 2.5, 3.5), 1.0)
    assert all(map(math.isnan, (pick.radius_angstrom, pick.x_voxel, pick.y_voxel, pick.z_voxel)))


def test_columns_may_stand_in_any_order_with_others_between(tmp_path):
    text = "z,remark,y,x,score,particle_type,experiment\n3,good,2,1,0.5,ribosome,TS_1\n"
    assert as_records(read_csv(write_text(tmp_path, text))) == as_records(
        [Pick("TS_1", "ribosome", 1, 2, 3, score=0.5)]
    )


def test_empty_cells_of_the_further_columns_are_unknown(tmp_path):
    text = f"{KAGGLE_HEADER},score,radius_angstrom,z_voxel\n0,TS_1,ribosome,1,2,3,,,\n"
    assert as_records(read_csv(write_text(tmp_path, text))) == as_records([Pick("TS_1", "ribosome", 1, 2, 3)])


def test_byte_order_mark_and_windows_line_ends_and_blanks_do_not_matter(tmp_path):
    text = "\ufeffexperiment, particle_type,x,y,z\r\nTS_1, ribosome , 1.5,2.5,3.5\r\n,,,,\r\n\r\n"
    (pick,) = read_csv(write_text(tmp_path, text))
    assert (pick.run, pick.species, pick.x_angstrom) == ("TS_1", "ribosome", 1.5)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("1,TS_1,ribosome,abc,2,3", r"row 4: x must be a number; got 'abc'\.$"),
        ("1,TS_1,ribosome,1,2,", r"row 4: z must be a number; got ''\.$"),
        ("1,TS_1,ribosome,1,nan,3", r"row 4: y must be a finite number; got 'nan'"),
        ("1,TS_1,ribosome,1,2,-Inf", r"row 4: z must be a finite number; got '-Inf'"),
        ('1,TS_1,ribosome,"1,5",2,3', r"row 4: x must be a number; got '1,5'\. Write decimals with a point"),
        ("1,TS_1,ribosome,1,5,2,3", r"row 4 has 7 values for 6 columns\. Write decimals with a point"),
        ("1,TS_1,ribosome,1,2", r"row 4 has 5 values for 6 columns\.$"),
        ("1,,ribosome,1,2,3", "row 4: experiment is empty"),
        ("1,TS_1,,1,2,3", "row 4: particle_type is empty"),
    ],
)
def test_a_bad_csv_row_is_named_as_a_spreadsheet_counts(tmp_path, row, message):
    path = write_text(tmp_path, f"{KAGGLE_HEADER}\n\n0,TS_1,ribosome,1,2,3\n{row}\n")
    with pytest.raises(InputError, match=rf"picks\.csv, {message}"):
        read_csv(path)


def test_a_bad_score_is_named_too(tmp_path):
    with pytest.raises(InputError, match="row 2: score must be a number; got 'high'"):
        read_csv(write_text(tmp_path, f"{KAGGLE_HEADER},score\n0,TS_1,ribosome,1,2,3,high\n"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"picks\.csv is empty; it needs at least a header: id,experiment,particle_type,x,y,z"),
        ("id,experiment,particle_type,x,y\n", "the columns z are missing; found id, experiment, particle_type, x, y"),
        ("id;experiment;particle_type;x;y;z\n", r"picks\.csv is separated by semicolons; save it with commas"),
        ("id\texperiment\tparticle_type\tx\ty\tz\n", r"picks\.csv is separated by tabs; save it with commas"),
        ("experiment,particle_type,x,x,y,z\n", "the columns x stand there twice"),
        (f"{KAGGLE_HEADER}\n{'1' * 200_000}", "is not a table of comma-separated values: field larger than"),
    ],
)
def test_a_csv_of_another_form_is_refused(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        read_csv(write_text(tmp_path, text))


def test_a_csv_in_another_encoding_is_refused(tmp_path):
    (tmp_path / "picks.csv").write_bytes(KAGGLE_HEADER.encode("utf-16"))
    with pytest.raises(InputError, match=r"picks\.csv is not UTF-8 text: invalid start byte at byte 0"):
        read_csv(tmp_path / "picks.csv")


def test_a_missing_csv_is_named(tmp_path):
    with pytest.raises(InputError, match=r"cannot read .*picks\.csv: No such file or directory"):
        read_csv(tmp_path / "picks.csv")


def test_written_csv_has_one_row_per_pick_also_for_a_spreadsheet(tmp_path):
    write_csv(tmp_path / "picks.csv", [Pick('a,"b', "ribosome", 1, 2, 3)])
    with open(tmp_path / "picks.csv", newline="") as file:
        assert [row["experiment"] for row in csv.DictReader(file)] == ['a,"b']
