import json
import math

import numpy as np
import pytest
from pick_files import PICK, SPECIES_SET
from scripts.errors import InputError
from scripts.picks import Pick, as_records, check_truth, xyz_angstrom_of

# One pick, and the table in memory


@pytest.mark.parametrize(
    "values", [(math.nan, 2, 3, 1), (1, math.inf, 3, 1), (1, 2, -math.inf, 1), (1, 2, 3, math.nan)]
)
def test_a_pick_without_finite_numbers_is_refused(values):
    with pytest.raises(ValueError, match="a pick needs finite coordinates and a finite score; got Pick"):
        Pick("TS_1", "ribosome", *values)


def test_records_hold_plain_numbers_and_none_for_what_is_unknown():
    records = as_records([Pick("TS_1", "ribosome", np.float32(1.5), 2.0, np.float64(3.0), score=np.float32(0.25))])
    expected = {"run": "TS_1", "species": "ribosome", "x_angstrom": 1.5, "y_angstrom": 2.0, "z_angstrom": 3.0}
    unknown = dict.fromkeys(("radius_angstrom", "x_voxel", "y_voxel", "z_voxel", "network_score"))
    assert json.loads(json.dumps(records)) == [expected | {"score": 0.25, "weight": 1.0, "origin": ""} | unknown]


def test_places_of_a_table_are_rows_of_x_y_z():
    assert xyz_angstrom_of([PICK, PICK]).tolist() == [[205.0, 135.0, 145.0]] * 2


def test_places_of_an_empty_table_have_three_columns():
    assert xyz_angstrom_of([]).shape == (0, 3)


# Truth


def test_a_truth_with_all_known_species_is_accepted():
    truth = [Pick("TS_1", species.name, 10.0 * n, 2.0, 3.0) for n, species in enumerate(SPECIES_SET.known)]
    assert check_truth(truth, SPECIES_SET, "truth.csv") is None


def test_an_unknown_species_in_the_truth_is_named():
    truth = [PICK, Pick("TS_1", "ribosom", 1, 2, 3)]
    with pytest.raises(InputError, match=r"truth\.csv, particle 2: unknown species 'ribosom'; known are .*ribosome"):
        check_truth(truth, SPECIES_SET, "truth.csv")


def test_a_place_that_stands_twice_in_the_truth_is_named():
    truth = [Pick("TS_1", "ribosome", 9, 9, 9), PICK, Pick("TS_1", "thyroglobulin", *PICK.xyz_angstrom)]
    message = r"truth\.csv: particles 2 and 3 stand at the same place of run 'TS_1', x, y, z = 205, 135, 145 Å"
    with pytest.raises(InputError, match=message):
        check_truth(truth, SPECIES_SET, "truth.csv")


@pytest.mark.parametrize("weight", [0.0, 0.25, math.nan])
def test_where_a_particle_stands_another_species_may_be_rejected_or_uncertain(weight):
    truth = [PICK, Pick("TS_1", "thyroglobulin", *PICK.xyz_angstrom, weight=weight)]
    assert check_truth(truth, SPECIES_SET, "truth.csv") is check_truth(truth[::-1], SPECIES_SET, "truth.csv") is None


def test_the_same_place_in_two_runs_is_no_duplicate():
    truth = [PICK, Pick("TS_2", "ribosome", *PICK.xyz_angstrom), Pick("TS_1", "ribosome", 205.0, 145.0, 135.0)]
    assert check_truth(truth, SPECIES_SET, "truth.csv") is None
