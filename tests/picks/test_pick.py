import csv
import errno
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import starfile
from hypothesis import given, settings
from hypothesis import strategies as st
from scripts.atomic_files import write_atomically
from scripts.errors import InputError
from scripts.picks import (
    Pick,
    as_records,
    check_truth,
    read_copick_folder,
    read_copick_json,
    read_csv,
    read_relion5_star,
    write_copick_json,
    write_csv,
    write_relion5_star,
    xyz_angstrom_of,
)
from scripts.species import read_particles

REPOSITORY = Path(__file__).resolve().parents[2]
PARTICLES = read_particles(REPOSITORY / "bundle" / "configs" / "particles.json")
REAL_RUNS = REPOSITORY.parent / "shared" / "data" / "picks" / "ExperimentRuns"
KAGGLE_HEADER = "id,experiment,particle_type,x,y,z"
PICK = Pick("TS_1", "ribosome", 205.0, 135.0, 145.0, 0.75, 150.0, 20.0, 13.0, 14.0)
SHAPE = (20, 28, 36)  # z, y, x: the volume's centre is voxel z = 10, y = 14, x = 18

coordinates = st.floats(-20000, 20000)
names = st.text("abTS_ 01-é,\"'#", min_size=1, max_size=8).filter(lambda name: name == name.strip())
picks_with_voxels = st.builds(
    Pick, names, names, coordinates, coordinates, coordinates, st.floats(0, 1), st.floats(1, 999), *[coordinates] * 3
)
places = st.tuples(coordinates, coordinates, coordinates)


def write_text(folder, text, name="picks.csv"):
    path = folder / name
    path.write_bytes(text.encode())
    return path


def copick_text(**changes):
    point = {"location": {"x": 11.5, "y": 22.5, "z": 33.5}}
    content = {"pickable_object_name": "ribosome", "run_name": "TS_1", "unit": "angstrom", "points": [point]}
    return json.dumps(content | changes)


def save_star(path, picks, **changes):
    options = {"run": "TS_1", "volume_shape_zyx": SHAPE, "voxel_size_angstrom": 10.0} | changes
    write_relion5_star(path, picks, **options)


def load_star(path, **changes):
    options = {"particle": "ribosome", "volume_shape_zyx": SHAPE, "voxel_size_angstrom": 10.0} | changes
    return read_relion5_star(path, **options)


# One pick, and the table in memory


@pytest.mark.parametrize(
    "values", [(math.nan, 2, 3, 1), (1, math.inf, 3, 1), (1, 2, -math.inf, 1), (1, 2, 3, math.nan)]
)
def test_a_pick_without_finite_numbers_is_refused(values):
    with pytest.raises(ValueError, match="a pick needs finite coordinates and a finite score; got Pick"):
        Pick("TS_1", "ribosome", *values)


def test_records_hold_plain_numbers_and_none_for_what_is_unknown():
    records = as_records([Pick("TS_1", "ribosome", np.float32(1.5), 2.0, np.float64(3.0), score=np.float32(0.25))])
    expected = {"run": "TS_1", "particle": "ribosome", "x_angstrom": 1.5, "y_angstrom": 2.0, "z_angstrom": 3.0}
    unknown = dict.fromkeys(("radius_angstrom", "x_voxel", "y_voxel", "z_voxel"))
    assert json.loads(json.dumps(records)) == [expected | {"score": 0.25} | unknown]


def test_places_of_a_table_are_rows_of_x_y_z():
    assert xyz_angstrom_of([PICK, PICK]).tolist() == [[205.0, 135.0, 145.0]] * 2


def test_places_of_an_empty_table_have_three_columns():
    assert xyz_angstrom_of([]).shape == (0, 3)


# Files that appear only when they are complete


def test_a_file_appears_under_its_name_only_when_complete(tmp_path):
    path = tmp_path / "new" / "folder" / "picks.csv"
    with write_atomically(path) as file:
        file.write("Å\n")
        assert not path.exists()
    assert path.read_bytes() == "Å\n".encode()


def test_bytes_can_be_written_too(tmp_path):
    with write_atomically(tmp_path / "label.bin", "wb") as file:
        file.write(b"\x00\xff")
    assert (tmp_path / "label.bin").read_bytes() == b"\x00\xff"


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_stopped_write_leaves_the_old_file_and_nothing_else(tmp_path, error):
    def stop_half_way():
        with write_atomically(path) as file:
            file.write("half of the new")
            raise error

    path = write_text(tmp_path, "old")
    with pytest.raises(error):
        stop_half_way()
    assert [(entry.name, entry.read_text()) for entry in tmp_path.iterdir()] == [("picks.csv", "old")]


def test_a_full_disk_is_named_and_leaves_the_old_file(tmp_path, monkeypatch):
    def fail(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = write_text(tmp_path, "old")
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(InputError, match=r"cannot write .*picks\.csv: No space left on device\."):
        write_csv(path, [PICK])
    assert [(entry.name, entry.read_text()) for entry in tmp_path.iterdir()] == [("picks.csv", "old")]


def test_a_folder_under_the_files_name_is_an_error_and_no_temporary_file_stays(tmp_path):
    (tmp_path / "picks.csv").mkdir()
    with pytest.raises(InputError, match=r"cannot write .*picks\.csv: Is a directory\."):
        write_csv(tmp_path / "picks.csv", [])
    assert [entry.name for entry in tmp_path.iterdir()] == ["picks.csv"]


def test_a_file_in_the_place_of_the_folder_is_an_error(tmp_path):
    write_text(tmp_path, "", "output")
    with pytest.raises(InputError, match=r"cannot write .*picks\.csv: File exists\."):
        write_csv(tmp_path / "output" / "picks.csv", [])


def test_others_may_read_the_file_as_any_other(tmp_path):
    plain = write_text(tmp_path, "", "plain")
    write_csv(tmp_path / "picks.csv", [])
    assert (tmp_path / "picks.csv").stat().st_mode == plain.stat().st_mode


# CSV


def test_csv_has_kaggles_columns_first_and_enough_digits(tmp_path):
    write_csv(tmp_path / "picks.csv", [PICK, Pick("TS_2", "thyroglobulin", 1.23456, -0.0001, 3.0, score=1 / 3)])
    assert (tmp_path / "picks.csv").read_text().splitlines() == [
        "id,experiment,particle_type,x,y,z,score,radius_angstrom,x_voxel,y_voxel,z_voxel",
        "0,TS_1,ribosome,205.000,135.000,145.000,0.750000,150.000,20.0000,13.0000,14.0000",
        "1,TS_2,thyroglobulin,1.235,0.000,3.000,0.333333,,,,",
    ]


def test_no_picks_give_a_csv_with_a_header_that_reads_as_no_picks(tmp_path):
    write_csv(tmp_path / "picks.csv", [])
    assert (tmp_path / "picks.csv").read_bytes().endswith(b"y_voxel,z_voxel\n")
    assert read_csv(tmp_path / "picks.csv") == []


@settings(max_examples=40, deadline=None)
@given(table=st.lists(picks_with_voxels, max_size=5))
def test_csv_round_trip_keeps_names_and_numbers(tmp_path_factory, table):
    path = tmp_path_factory.mktemp("csv") / "picks.csv"
    write_csv(path, table)
    read = read_csv(path)
    assert [(pick.run, pick.particle) for pick in read] == [(pick.run, pick.particle) for pick in table]
    for found, wanted in zip(read, table, strict=True):
        numbers, expected = (list(as_records([pick])[0].values())[2:] for pick in (found, wanted))
        assert numbers == pytest.approx(expected, rel=0, abs=0.00051)


def test_kaggles_own_csv_is_read_with_the_rest_unknown(tmp_path):
    (pick,) = read_csv(write_text(tmp_path, f"{KAGGLE_HEADER}\n0,TS_1,ribosome,1.5,2.5,3.5\n"))
    assert (pick.run, pick.particle, pick.xyz_angstrom, pick.score) == ("TS_1", "ribosome", (1.5, 2.5, 3.5), 1.0)
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
    assert (pick.run, pick.particle, pick.x_angstrom) == ("TS_1", "ribosome", 1.5)


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


# copick


def save_copick(path, picks, **changes):
    ids = {"user_id": "picker", "session_id": "1"}
    write_copick_json(
        path, picks, **({"run": "TS_1", "particle": "ribosome", "voxel_size_angstrom": 10.0} | ids | changes)
    )


def test_copick_file_has_copicks_form(tmp_path):
    save_copick(tmp_path / "ribosome.json", [PICK])
    identity = [[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]]
    location = {"x": 205.0, "y": 135.0, "z": 145.0}
    assert json.loads((tmp_path / "ribosome.json").read_text()) == {
        "pickable_object_name": "ribosome",
        "user_id": "picker",
        "session_id": "1",
        "run_name": "TS_1",
        "voxel_spacing": 10.0,
        "unit": "angstrom",
        "trust_orientation": False,
        "points": [{"location": location, "transformation_": identity, "instance_id": 0, "score": 0.75}],
    }


@settings(max_examples=40, deadline=None)
@given(table=st.lists(st.tuples(coordinates, coordinates, coordinates, st.floats(0, 1)), max_size=5))
def test_copick_round_trip_keeps_places_and_scores(tmp_path_factory, table):
    path = tmp_path_factory.mktemp("copick") / "ribosome.json"
    save_copick(path, [Pick("TS_1", "ribosome", *row) for row in table])
    read = read_copick_json(path)
    assert {(pick.run, pick.particle) for pick in read} <= {("TS_1", "ribosome")}
    numbers = np.array([(*pick.xyz_angstrom, pick.score) for pick in read]).reshape(-1, 4)
    np.testing.assert_allclose(numbers, np.reshape(table, (-1, 4)), rtol=0, atol=0.00051)


def test_copick_file_holds_only_the_run_and_species_asked_for(tmp_path):
    others = [Pick("TS_2", "ribosome", 1, 2, 3), Pick("TS_1", "thyroglobulin", 1, 2, 3)]
    save_copick(tmp_path / "ribosome.json", [*others, PICK])
    assert [pick.xyz_angstrom for pick in read_copick_json(tmp_path / "ribosome.json")] == [PICK.xyz_angstrom]


def test_no_picks_give_a_copick_file_without_points(tmp_path):
    save_copick(tmp_path / "ribosome.json", [])
    assert read_copick_json(tmp_path / "ribosome.json") == []


@pytest.mark.parametrize("key", ["user_id", "session_id"])
@pytest.mark.parametrize("value", ["", "my_name", "a/b", "two words", "-a"])
def test_an_id_that_copick_would_refuse_is_refused(tmp_path, key, value):
    with pytest.raises(
        InputError, match=f"{key} may hold letters, digits, '-' and '.', as copick wants it; got '{value}'"
    ):
        save_copick(tmp_path / "ribosome.json", [], **{key: value})


def test_a_given_run_wins_over_the_one_in_the_copick_file(tmp_path):
    assert read_copick_json(write_text(tmp_path, copick_text()), run="TS_9")[0].run == "TS_9"


def test_a_point_without_matrix_and_score_is_read(tmp_path):
    (pick,) = read_copick_json(write_text(tmp_path, copick_text()))
    assert (pick.run, pick.particle, pick.xyz_angstrom, pick.score) == ("TS_1", "ribosome", (11.5, 22.5, 33.5), 1.0)


def test_the_shift_in_a_copick_matrix_moves_the_point(tmp_path):
    turned_and_shifted = [[0, -1, 0, 1.0], [1, 0, 0, 2.0], [0, 0, 1, 3.0], [0, 0, 0, 1]]
    point = {"location": {"x": 10.0, "y": 20.0, "z": 30.0}, "transformation_": turned_and_shifted}
    (pick,) = read_copick_json(write_text(tmp_path, copick_text(points=[point])))
    assert pick.xyz_angstrom == (11.0, 22.0, 33.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"picks\.csv is empty"),
        ("{", r"picks\.csv is not valid JSON"),
        ("[]", "is not a copick file of picks: the key 'pickable_object_name' is missing"),
        ('{"points": []}', "is not a copick file of picks: the key 'pickable_object_name' is missing"),
        ('{"pickable_object_name": "ribosome"}', "is not a copick file of picks: the list 'points' is missing"),
        (copick_text(unit="pixel"), "coordinates must be in angstrom; its unit is 'pixel'"),
        (copick_text(run_name=None), r"does not say which run it belongs to; give the run's name"),
        (copick_text(points=[{"location": {"x": 1, "y": 2, "z": 3}}, {}]), "point 2 has no location"),
        (copick_text(points=[{"location": {"x": 1, "y": 2}}]), "point 1: z must be a number; got 'None'"),
        (copick_text(points=[{"location": {"x": 1, "y": math.nan, "z": 3}}]), "point 1: y must be a finite number"),
        (
            copick_text(points=[{"location": {"x": 1, "y": 2, "z": 3}, "score": "high"}]),
            "point 1: score must be a number; got 'high'",
        ),
        (
            copick_text(points=[{"location": {"x": 1, "y": 2, "z": 3}, "transformation_": [[1, 0], [0, 1]]}]),
            "point 1: transformation_ must have 4 rows of 4 numbers",
        ),
    ],
)
def test_a_bad_copick_file_is_refused(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        read_copick_json(write_text(tmp_path, text))


def test_a_copick_folder_is_read_whole_in_the_order_of_names(tmp_path):
    for particle, x in [("thyroglobulin", 2.0), ("apo-ferritin", 1.0)]:
        save_copick(tmp_path / f"{particle}.json", [Pick("TS_1", particle, x, 5.0, 9.0)], particle=particle)
    write_text(tmp_path, "not a file of ours", "._apo-ferritin.json")
    read = [(pick.run, pick.particle, pick.x_angstrom) for pick in read_copick_folder(tmp_path, "TS_5")]
    assert read == [("TS_5", "apo-ferritin", 1.0), ("TS_5", "thyroglobulin", 2.0)]


def test_an_empty_copick_folder_has_no_picks(tmp_path):
    assert read_copick_folder(tmp_path, "TS_1") == []


def test_a_missing_copick_folder_is_named(tmp_path):
    with pytest.raises(InputError, match=r"cannot read the picks of run 'TS_1': there is no folder .*Picks"):
        read_copick_folder(tmp_path / "Picks", "TS_1")


def test_one_species_in_two_copick_files_is_refused(tmp_path):
    for name in ("curation_0_ribosome.json", "picker_1_ribosome.json"):
        save_copick(tmp_path / name, [PICK])
    with pytest.raises(InputError, match=r"picker_1_ribosome\.json and curation_0_ribosome\.json both hold 'ribosome'"):
        read_copick_folder(tmp_path, "TS_1")


@pytest.mark.skipif(not REAL_RUNS.is_dir(), reason="the real annotations are not in this checkout")
def test_the_real_annotations_are_read_whole_and_written_again_unchanged(tmp_path):
    folders = sorted(REAL_RUNS.glob("*/Picks"))
    truth = [pick for folder in folders for pick in read_copick_folder(folder, folder.parent.name)]
    check_truth(truth, PARTICLES, "the real annotations")
    write_csv(tmp_path / "truth.csv", truth)
    assert len({pick.run for pick in truth}) == 7
    assert {pick.particle for pick in truth} == {species.name for species in PARTICLES.known}
    assert as_records(read_csv(tmp_path / "truth.csv")) == as_records(truth)


# STAR


def test_star_counts_angstroms_from_the_volumes_centre(tmp_path):
    save_star(tmp_path / "ribosome.star", [PICK])
    table = starfile.read(tmp_path / "ribosome.star", always_dict=True)["particles"]
    assert table.to_dict("records") == [
        {
            "rlnCenteredCoordinateXAngst": 20.0,  # x: (20 - 18) voxels of 10 Å
            "rlnCenteredCoordinateYAngst": -10.0,  # y: 13 - 14
            "rlnCenteredCoordinateZAngst": 40.0,  # z: 14 - 10
            "rlnTomoName": "TS_1",
            "rlnAutopickFigureOfMerit": 0.75,
        }
    ]


def test_star_has_the_centre_of_an_odd_length_between_two_voxels(tmp_path):
    save_star(tmp_path / "ribosome.star", [PICK], volume_shape_zyx=(21, 28, 37))
    table = starfile.read(tmp_path / "ribosome.star", always_dict=True)["particles"]
    assert table[[f"rlnCenteredCoordinate{axis}Angst" for axis in "XYZ"]].to_numpy().tolist() == [[15.0, -10.0, 35.0]]
    (pick,) = load_star(tmp_path / "ribosome.star", volume_shape_zyx=(21, 28, 37))
    assert (pick.x_voxel, pick.y_voxel, pick.z_voxel) == (20.0, 13.0, 14.0)


def test_star_takes_the_offset_out_of_angstroms_when_voxels_are_unknown(tmp_path):
    save_star(tmp_path / "ribosome.star", [Pick("TS_1", "ribosome", *PICK.xyz_angstrom)], voxel_offset=0.5)
    (pick,) = load_star(tmp_path / "ribosome.star")
    assert (pick.x_voxel, pick.y_voxel, pick.z_voxel) == (20.0, 13.0, 14.0)
    assert pick.xyz_angstrom == (200.0, 130.0, 140.0)


def test_star_is_read_back_with_the_offset_asked_for(tmp_path):
    save_star(tmp_path / "ribosome.star", [PICK])
    (pick,) = load_star(tmp_path / "ribosome.star", voxel_offset=0.5)
    assert pick.xyz_angstrom == PICK.xyz_angstrom


@settings(max_examples=40, deadline=None)
@given(table=st.lists(st.tuples(places, st.floats(0, 1)), max_size=5), offset=st.sampled_from([0.0, 0.5]))
def test_star_round_trip_keeps_places_and_scores(tmp_path_factory, table, offset):
    path = tmp_path_factory.mktemp("star") / "ribosome.star"
    save_star(path, [Pick("TS_1", "ribosome", *place, score=score) for place, score in table], voxel_offset=offset)
    read = load_star(path, voxel_offset=offset)
    wanted = [(*place, score) for place, score in table]
    numbers = np.array([(*pick.xyz_angstrom, pick.score) for pick in read]).reshape(-1, 4)
    np.testing.assert_allclose(numbers, np.reshape(wanted, (-1, 4)), rtol=0, atol=1e-5)


@pytest.mark.parametrize("run", ["TS 1", "007", "data_1", "_1", "TS#1", "é"])
def test_star_keeps_unusual_names_of_runs(tmp_path, run):
    save_star(tmp_path / "ribosome.star", [Pick(run, "ribosome", 1.0, 2.0, 3.0)], run=run)
    assert [pick.run for pick in load_star(tmp_path / "ribosome.star")] == [run]


@pytest.mark.parametrize("run", ["it's", 'a"b', "two\nlines", "a\tb"])
def test_a_run_name_that_breaks_a_star_file_is_refused(tmp_path, run):
    with pytest.raises(InputError, match=r"the run's name cannot stand in a STAR file: .* holds a quote or a control"):
        save_star(tmp_path / "ribosome.star", [], run=run)


def test_no_picks_give_a_star_with_headers_that_reads_as_an_empty_table(tmp_path):
    save_star(tmp_path / "ribosome.star", [Pick("TS_2", "ribosome", 1, 2, 3)])
    table = starfile.read(tmp_path / "ribosome.star", always_dict=True)["particles"]
    assert len(table) == 0
    assert list(table)[:3] == [f"rlnCenteredCoordinate{axis}Angst" for axis in "XYZ"]
    assert load_star(tmp_path / "ribosome.star") == []


def test_the_same_picks_give_the_same_bytes(tmp_path):
    save_star(tmp_path / "ribosome.star", [PICK])
    text = (tmp_path / "ribosome.star").read_text()
    assert text.split() == [
        *("data_particles", "loop_"),
        *("_rlnCenteredCoordinateXAngst", "#1", "_rlnCenteredCoordinateYAngst", "#2"),
        *("_rlnCenteredCoordinateZAngst", "#3", "_rlnTomoName", "#4", "_rlnAutopickFigureOfMerit", "#5"),
        *("20.000000", "-10.000000", "40.000000", "TS_1", "0.750000"),
    ]


def test_a_star_without_scores_reads_as_score_one(tmp_path):
    header = "data_\nloop_\n_rlnTomoName\n" + "".join(f"_rlnCenteredCoordinate{axis}Angst\n" for axis in "XYZ")
    (pick,) = load_star(write_text(tmp_path, f"{header}TS_1 20 -10 40\n", "a.star"))
    assert (pick.particle, pick.xyz_angstrom, pick.score) == ("ribosome", (200.0, 130.0, 140.0), 1.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not a RELION 5 file of particles: rlnTomoName, rlnCenteredCoordinateXAngst, .* missing"),
        ("data_particles\n", r"a\.star is not a STAR file"),
        ("data_particles\n\n_rlnTomoName TS_1\n", "is not a RELION 5 file of particles"),
        ("data_particles\nloop_\n_rlnTomoName\n_rlnCoordinateX\nTS_1 4\n", "rlnCenteredCoordinateXAngst, .* missing"),
    ],
)
def test_a_star_of_another_form_is_refused(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        load_star(write_text(tmp_path, text, "a.star"))


@pytest.mark.parametrize("value", ["far", "nan"])
def test_a_star_row_without_a_number_is_named(tmp_path, value):
    header = "data_\nloop_\n_rlnTomoName\n" + "".join(f"_rlnCenteredCoordinate{axis}Angst\n" for axis in "XYZ")
    path = write_text(tmp_path, f"{header}TS_1 1 2 3\nTS_1 1 {value} 3\n", "a.star")
    with pytest.raises(
        InputError, match=rf"a\.star, particle 2: rlnCenteredCoordinateYAngst must be a .*; got '{value}'"
    ):
        load_star(path)


def test_a_missing_star_is_named(tmp_path):
    with pytest.raises(InputError, match=r"cannot read .*a\.star: No such file or directory"):
        load_star(tmp_path / "a.star")


# Truth


def test_a_truth_with_all_known_species_is_accepted():
    truth = [Pick("TS_1", species.name, 10.0 * n, 2.0, 3.0) for n, species in enumerate(PARTICLES.known)]
    assert check_truth(truth, PARTICLES, "truth.csv") is None


def test_an_unknown_species_in_the_truth_is_named():
    truth = [PICK, Pick("TS_1", "ribosom", 1, 2, 3)]
    with pytest.raises(InputError, match=r"truth\.csv, particle 2: unknown species 'ribosom'; known are .*ribosome"):
        check_truth(truth, PARTICLES, "truth.csv")


def test_a_place_that_stands_twice_in_the_truth_is_named():
    truth = [Pick("TS_1", "ribosome", 9, 9, 9), PICK, Pick("TS_1", "thyroglobulin", *PICK.xyz_angstrom)]
    message = r"truth\.csv: particles 2 and 3 stand at the same place of run 'TS_1', x, y, z = 205, 135, 145 Å"
    with pytest.raises(InputError, match=message):
        check_truth(truth, PARTICLES, "truth.csv")


def test_the_same_place_in_two_runs_is_no_duplicate():
    truth = [PICK, Pick("TS_2", "ribosome", *PICK.xyz_angstrom), Pick("TS_1", "ribosome", 205.0, 145.0, 135.0)]
    assert check_truth(truth, PARTICLES, "truth.csv") is None


def test_written_csv_has_one_row_per_pick_also_for_a_spreadsheet(tmp_path):
    write_csv(tmp_path / "picks.csv", [Pick('a,"b', "ribosome", 1, 2, 3)])
    with open(tmp_path / "picks.csv", newline="") as file:
        assert [row["experiment"] for row in csv.DictReader(file)] == ['a,"b']
