"""One table of picks out of those of several models."""

import math
from dataclasses import replace

import pytest
from scripts.errors import InputError, InputWarning
from scripts.picks import Pick, read_csv, write_csv
from scripts.picks.__main__ import main
from scripts.picks.fusion import fuse_picks


def at(x, score, species="a", run="one", y=0.0):
    return Pick(run, species, x, y, 5.0, score, 40.0, x / 10, y / 10, 0.5)


def found(picks):
    return [(round(pick.x_angstrom, 3), round(pick.score, 3)) for pick in picks]


def test_picks_of_one_particle_are_one_at_their_weighted_mean():
    (one,) = fuse_picks([[at(100, 0.8, y=10)], [at(130, 0.4, y=22)]])
    assert (one.x_angstrom, one.y_angstrom, one.z_angstrom) == pytest.approx((110, 14, 5))
    assert (one.x_voxel, one.y_voxel, one.z_voxel) == pytest.approx((11, 1.4, 0.5))
    assert (one.score, one.radius_angstrom) == pytest.approx((0.6, 40))
    assert math.isnan(one.network_score)


def test_a_warning_of_the_command_is_one_line(tmp_path, capsys):
    for name, weight in (("one", 1.0), ("two", 0.0)):
        write_csv(tmp_path / f"{name}.csv", [replace(at(0, 0.9), weight=weight)])
    tables = [str(tmp_path / f"{name}.csv") for name in ("one", "two")]
    assert main(["fuse", str(tmp_path / "both.csv"), *tables]) == 0
    left_out = "1 picks that were rejected (weight 0) or are uncertain (no weight) are left out"
    assert capsys.readouterr().err == f"warning: {left_out}.\n"


def test_what_one_model_alone_finds_has_a_lower_score():
    assert found(fuse_picks([[at(0, 0.9), at(500, 0.6)], [at(0, 0.9)], [at(0, 0.9)]])) == [(0, 0.9), (500, 0.2)]


def test_weights_count_for_positions_and_scores():
    tables = [[at(100, 0.5)], [at(130, 0.5)]]
    assert found(fuse_picks(tables, [2, 1])) == [(110, 0.5)]
    assert found(fuse_picks([[at(0, 0.9)], []], [2, 1])) == [(0, 0.6)]


def test_two_picks_of_one_table_stay_two():
    assert found(fuse_picks([[at(0, 0.9), at(30, 0.8)], [at(14, 0.7)]])) == [(6.125, 0.8), (30, 0.4)]


def test_a_pick_joins_the_nearest_particle():
    assert found(fuse_picks([[at(0, 0.9), at(30, 0.8)], [at(29, 0.8)]])) == [(29.5, 0.8), (0, 0.45)]


def test_the_distance_is_the_radius_or_the_given_one():
    tables = [[at(0, 0.8)], [at(40, 0.8)]]
    assert len(fuse_picks(tables)) == 1
    assert len(fuse_picks(tables, distance_angstrom=39.9)) == 2
    assert len(fuse_picks([[at(0, 0.8)], [at(41, 0.8)]])) == 2


def test_species_and_runs_stay_apart():
    tables = [[at(0, 0.8)], [at(0, 0.8, species="b")], [at(0, 0.8, run="two")]]
    assert {(pick.run, pick.species) for pick in fuse_picks(tables)} == {("one", "a"), ("one", "b"), ("two", "a")}


def test_a_model_with_itself_changes_nothing():
    table = [at(0, 0.9), at(90, 0.0), at(30, 0.25)]
    assert found(fuse_picks([table, table, table])) == [(0, 0.9), (30, 0.25), (90, 0)]


@pytest.mark.parametrize(
    ("table", "settings", "message"),
    [
        ([at(0, 0.5)], {"weights": [1]}, "weights needs 2 positive numbers"),
        ([at(0, 0.5)], {"weights": [1, 0]}, "weights needs 2 positive numbers"),
        ([at(0, 0.5)], {"distance_angstrom": -1}, "distance_angstrom must be positive"),
        ([at(0, 7.5)], {}, "scores must be probabilities"),
        ([Pick("one", "a", 0.0, 0.0, 0.0)], {}, "the radius of a is unknown: set distance_angstrom"),
    ],
)
def test_what_cannot_be_fused_is_refused(table, settings, message):
    with pytest.raises(InputError, match=message):
        fuse_picks([table, table], **settings)


def test_the_command_writes_one_table(tmp_path, capsys):
    paths = [tmp_path / f"{number}.csv" for number in range(3)]
    for path, table in zip(paths[1:], ([at(0, 0.9), at(500, 0.2)], [at(10, 0.9)]), strict=True):
        write_csv(path, table)
    words = ["fuse", *map(str, paths), "--weights", "2", "1", "--min_score", "0.5"]
    assert main(words) == 0
    assert capsys.readouterr().out == f"{paths[0]}: 1 picks out of 2 + 1\n"
    assert found(read_csv(paths[0])) == [(3.333, 0.9)]
    assert main(words) == 1
    assert "is there already" in capsys.readouterr().err
    assert main([*words, "--overwrite"]) == 0


def test_voxels_of_different_sizes_are_not_fused():
    fine = replace(at(100, 0.8, y=12), x_voxel=100 / 7.84, y_voxel=12 / 7.84, z_voxel=5 / 7.84)
    with pytest.warns(InputWarning, match="one: the tables count a in voxels of different sizes"):
        (one,) = fuse_picks([[at(100, 0.8, y=12)], [fine]])
    assert (one.x_angstrom, one.y_angstrom) == pytest.approx((100, 12))
    assert math.isnan(one.x_voxel)
    unknown = replace(fine, x_voxel=math.nan, y_voxel=math.nan, z_voxel=math.nan)
    (one,) = fuse_picks([[unknown], [unknown]])
    assert math.isnan(one.z_voxel)


def test_rejected_and_uncertain_picks_of_corrected_tables_stay_out():
    corrected = [at(0, 0.9), replace(at(500, 1.0), weight=0.0), replace(at(900, 1.0), weight=math.nan)]
    with pytest.warns(InputWarning, match=r"2 picks that were rejected \(weight 0\) or are uncertain .* are left out"):
        assert found(fuse_picks([corrected, [at(0, 0.7)]])) == [(0, 0.8)]


def test_an_annotation_is_as_sure_as_its_weight():
    assert found(fuse_picks([[replace(at(0, 1.0), weight=0.25)], [at(0, 0.75)]])) == [(0, 0.5)]


@pytest.mark.parametrize("distance", [0, -1, math.inf, math.nan])
def test_a_distance_that_is_none_is_refused(distance):
    with pytest.raises(InputError, match="distance_angstrom must be positive"):
        fuse_picks([[at(0, 0.9)]], distance_angstrom=distance)
