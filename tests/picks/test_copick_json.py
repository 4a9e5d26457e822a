import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pick_files import PICK, REAL_RUNS, SPECIES_SET, coordinates, write_text
from scripts.errors import InputError
from scripts.picks import (
    FORMATS,
    Facts,
    Pick,
    as_records,
    check_truth,
    read_copick_folder,
    read_copick_json,
    read_csv,
    write_copick_json,
    write_csv,
)


def copick_text(**changes):
    point = {"location": {"x": 11.5, "y": 22.5, "z": 33.5}}
    content = {"pickable_object_name": "ribosome", "run_name": "TS_1", "unit": "angstrom", "points": [point]}
    return json.dumps(content | changes)


def save_copick(path, picks, **changes):
    ids = {"user_id": "picker", "session_id": "1"}
    write_copick_json(
        path, picks, **({"run": "TS_1", "species": "ribosome", "voxel_size_angstrom": 10.0} | ids | changes)
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
    assert {(pick.run, pick.species) for pick in read} <= {("TS_1", "ribosome")}
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


def test_a_copick_file_without_a_run_gets_the_one_of_the_facts(tmp_path):
    path = write_text(tmp_path, copick_text(run_name=None))
    assert FORMATS["copick"].read(path, Facts(run="TS_9"))[0].run == "TS_9"


def test_a_point_without_matrix_and_score_is_read(tmp_path):
    (pick,) = read_copick_json(write_text(tmp_path, copick_text()))
    assert (pick.run, pick.species, pick.xyz_angstrom, pick.score) == ("TS_1", "ribosome", (11.5, 22.5, 33.5), 1.0)


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
    for species, x in [("thyroglobulin", 2.0), ("apo-ferritin", 1.0)]:
        save_copick(tmp_path / f"{species}.json", [Pick("TS_1", species, x, 5.0, 9.0)], species=species)
    write_text(tmp_path, "not a file of ours", "._apo-ferritin.json")
    read = [(pick.run, pick.species, pick.x_angstrom) for pick in read_copick_folder(tmp_path, "TS_5")]
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
    check_truth(truth, SPECIES_SET, "the real annotations")
    write_csv(tmp_path / "truth.csv", truth)
    assert len({pick.run for pick in truth}) == 7
    assert {pick.species for pick in truth} == {species.name for species in SPECIES_SET.known}
    assert as_records(read_csv(tmp_path / "truth.csv")) == as_records(truth)
