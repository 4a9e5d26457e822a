"""Every format of picks: the example of the page on coordinates, round trips, and wrong files."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pick_files import EXAMPLE, FACTS, REAL_RUNS, RELION3, write_text
from scripts.coordinates import to_xyz_angstrom
from scripts.errors import InputError
from scripts.picks import FORMATS, Facts, Pick, check_formats, read_copick_folder, xyz_angstrom_of
from scripts.picks.formats import guess_format

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "reference" / "coordinates.md").read_text()
HALF_DIGIT_ANGSTROM = {"csv": 0.0005, "copick": 0.0005, "relion5": 5e-7}
PIXEL_FORMATS = [name for name in FORMATS if name not in HALF_DIGIT_ANGSTROM]

voxels = st.floats(-50, 700)
tables = st.lists(st.tuples(voxels, voxels, voxels, st.floats(0, 1)), max_size=5)


def half_digit_angstrom(name, voxel_size):
    """Return how far a position may be off after its digits were rounded."""
    if name in ("relion4", "warp"):
        return 5e-7 * voxel_size
    return HALF_DIGIT_ANGSTROM.get(name, 0.00005 * voxel_size)


def there_and_back(path, name, picks, facts):
    FORMATS[name].write(path, picks, facts)
    return FORMATS[name].read(path, facts)


def assert_same(name, read, picks, voxel_size):
    assert [(pick.run, pick.species) for pick in read] == [(pick.run, pick.species) for pick in picks]
    atol = half_digit_angstrom(name, voxel_size) + 1e-9
    np.testing.assert_allclose(xyz_angstrom_of(read), xyz_angstrom_of(picks), rtol=0, atol=atol)
    scores = [pick.score if FORMATS[name].has_scores else 1.0 for pick in picks]
    np.testing.assert_allclose([pick.score for pick in read], scores, rtol=0, atol=5.001e-7)


def documented_lines():
    rows = PAGE.split("**Example.**")[1].split("## Converting")[0]
    return dict(re.findall(r"^\| `(\w+)` \| [^|]+ \| `(.+)` \|$", rows, flags=re.MULTILINE))


# The page on coordinates


def test_the_page_has_an_example_and_a_row_for_every_format():
    assert set(documented_lines()) == set(FORMATS)
    rows = dict(re.findall(r"^\| `(\w+)` \| `?(.+?)`[ ,|]", PAGE.split("**Example.**")[0], flags=re.MULTILINE))
    assert {name: one.file_name for name, one in FORMATS.items()} == {
        name: file.replace("<species>", "{species}").replace("<user>_<session>", "{user_id}_{session_id}")
        for name, file in rows.items()
    }


def test_the_page_says_whether_a_file_holds_all_runs():
    rows = PAGE.split("**Example.**")[0]
    found = dict(re.findall(r"^\| `(\w+)` \| [^|]*(all runs|per run)\b[^|]* \|", rows, flags=re.MULTILINE))
    assert found == {name: "per run" if one.one_file_per == "run" else "all runs" for name, one in FORMATS.items()}


@pytest.mark.parametrize(("name", "line"), documented_lines().items())
def test_a_file_holds_what_the_page_computes_by_hand(tmp_path, name, line):
    path = tmp_path / "file"
    FORMATS[name].write(path, [EXAMPLE], FACTS)
    assert line in [" ".join(row.split()) for row in path.read_text().splitlines()] or (
        name == "copick" and line in path.read_text()
    )


@pytest.mark.parametrize(("name", "line"), documented_lines().items())
def test_the_line_of_the_page_is_read_as_the_place_it_was_computed_from(tmp_path, name, line):
    FORMATS[name].write(tmp_path / "file", [EXAMPLE], FACTS)
    (read,) = FORMATS[name].read(tmp_path / "file", FACTS)
    assert read.xyz_angstrom == pytest.approx((112.5, 90.0, 60.0), abs=1e-9)
    if name != "copick":
        assert (read.z_voxel, read.y_voxel, read.x_voxel) == pytest.approx((6.0, 9.0, 11.25), abs=1e-9)


# Round trips


@settings(max_examples=10, deadline=None)
@given(table=tables, voxel_size=st.floats(1, 20), offset=st.sampled_from([0.0, 0.5]), binning=st.sampled_from([1, 2.5]))
@pytest.mark.parametrize("name", FORMATS)
def test_random_points_come_back_to_the_last_digit(tmp_path_factory, name, table, voxel_size, offset, binning):
    facts = replace(FACTS, voxel_size_angstrom=voxel_size, voxel_offset=offset, binning=binning)
    places = to_xyz_angstrom([row[2::-1] for row in table], voxel_size, offset)
    picks = [Pick("TS_1", "ribosome", *place, row[3]) for place, row in zip(places.tolist(), table, strict=True)]
    assert_same(name, there_and_back(tmp_path_factory.mktemp("f") / "file.tbl", name, picks, facts), picks, voxel_size)


@pytest.mark.skipif(not REAL_RUNS.is_dir(), reason="the real annotations are not in this checkout")
@pytest.mark.parametrize("name", FORMATS)
def test_the_real_annotations_come_back_to_the_last_digit(tmp_path, name):
    facts = Facts(voxel_size_angstrom=10.012, volume_shape=(184, 630, 630), binning=2)
    folders = sorted(REAL_RUNS.glob("*/Picks"))
    assert len(folders) == 7
    for folder in folders:
        run = folder.parent.name
        truth = read_copick_folder(folder, run)
        for species in sorted({pick.species for pick in truth}):
            picks = [pick for pick in truth if pick.species == species]
            own = replace(facts, run=run, species=species)
            assert_same(name, there_and_back(tmp_path / f"{run}_{species}.tbl", name, picks, own), picks, 10.012)


@pytest.mark.parametrize("name", FORMATS)
def test_no_picks_come_back_as_no_picks(tmp_path, name):
    assert there_and_back(tmp_path / "file.tbl", name, [], FACTS) == []


@pytest.mark.parametrize("name", FORMATS)
def test_the_offset_moves_angstroms_and_no_voxels(tmp_path, name):
    moved = replace(EXAMPLE, x_angstrom=117.5, y_angstrom=95.0, z_angstrom=65.0)
    FORMATS[name].write(tmp_path / "plain", [replace(EXAMPLE, radius_angstrom=150)], FACTS)
    FORMATS[name].write(tmp_path / "moved", [replace(moved, radius_angstrom=150)], replace(FACTS, voxel_offset=0.5))
    same = (tmp_path / "plain").read_text() == (tmp_path / "moved").read_text()
    assert same == (name not in ("csv", "copick"))


# Wrong files


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("imod", "1 2 3\n\n1 2\n", r"row 3 has 2 values; IMOD's points have 3 to 6"),
        ("imod", "1 2 3\n1 x 3\n", r"row 2: y must be a number; got 'x'"),
        ("imod", "0.5 2 3 4\n", r"row 1: contour must be a whole number; got '0\.5'\. Are these contour, x, y, z\?"),
        ("coords", "1 2 3\n1 2\n", r"row 2 has 2 values; a line of \.coords is x y z"),
        ("coords", "1 2 nan\n", r"row 1: z must be a finite number; got 'nan'"),
        ("coords", "1,5 2 3\n", r"row 1: x must be a number; got '1,5'\. Write decimals with a point"),
        ("dynamo", "1 2 3\n", r"row 1 has 3 columns; a row of a Dynamo table has 35"),
        ("dynamo", f"{'0 ' * 34}0\n{'0 ' * 23}a 0 0\n", r"row 2: column 24 must be a number; got 'a'"),
        ("ndjson", "{}\n", r"row 1 is no point with a location; its type must be one of point, "),
        ("ndjson", '\n{"type"\n', r"row 2 is not valid JSON"),
        ("ndjson", '{"type": "point", "location": {"x": 1, "y": 2}}\n', r"row 1: z must be a number; got 'None'"),
        ("relion4", f"{RELION3}TS_1 1 2 3\nTS_1 1 far 3\n", r"particle 2: rlnCoordinateY must be a number; got 'far'"),
        ("relion4", "data_\nloop_\n_rlnTomoName #1\nTS_1\n", r"is not a RELION 4 or Warp file .*: rlnCoordinateX, "),
        (
            "relion4",
            "data_\nloop_\n_rlnCoordinateX\n_rlnCoordinateY\n_rlnCoordinateZ\n1 2 3\n",
            "rlnMicrographName miss",
        ),
    ],
)
def test_what_is_wrong_in_a_file_is_named_with_its_row(tmp_path, name, text, message):
    with pytest.raises(InputError, match=f"file.*{message}"):
        FORMATS[name].read(write_text(tmp_path, text, "file"), FACTS)


LINES = {"imod": "1 2 3", "coords": "1 2 3", "dynamo": "1 " * 35, "ndjson": documented_lines()["ndjson"]}
LINES |= {"relion4": f"{RELION3}TS_1 1 2 3", "warp": f"{RELION3}TS_1 1 2 3"}
LINES |= {
    "relion5": "data_\nloop_\n_rlnTomoName\n" + "".join(f"_rlnCenteredCoordinate{a}Angst\n" for a in "XYZ") + "a 1 2 3"
}


@pytest.mark.parametrize("name", LINES)
@pytest.mark.parametrize(
    ("fact", "key"),
    [
        ("run", "--run NAME"),
        ("species", "--species NAME"),
        ("voxel_size_angstrom", "--voxel_size_angstrom SIZE, or --tomo"),
    ],
)
def test_a_missing_fact_is_asked_for_by_its_key(tmp_path, name, fact, key):
    path = write_text(tmp_path, LINES[name] + "\n", "file")
    if fact == "run" and name in ("relion4", "relion5", "warp"):
        assert FORMATS[name].read(path, replace(FACTS, run=None))
    else:
        with pytest.raises(InputError, match=f"file: .*; give {key}"):
            FORMATS[name].read(path, replace(FACTS, **{fact: None}))


def test_relion_5_asks_for_the_volumes_shape(tmp_path):
    with pytest.raises(
        InputError, match=r"the tomogram's shape is not known; give --volume_shape Z Y X, or --tomogram"
    ):
        FORMATS["relion5"].write(tmp_path / "a.star", [EXAMPLE], replace(FACTS, volume_shape=None))


@pytest.mark.parametrize("name", PIXEL_FORMATS)
def test_voxels_in_the_table_are_enough_for_a_format_that_counts_them(tmp_path, name):
    facts = replace(FACTS, voxel_size_angstrom=None)
    FORMATS[name].write(tmp_path / "file", [EXAMPLE], facts)
    with pytest.raises(InputError, match="the tomogram's voxel size is not known; give --voxel_size_angstrom"):
        FORMATS[name].write(tmp_path / "file", [replace(EXAMPLE, x_voxel=np.nan)], facts)


# Names


@pytest.mark.parametrize(
    ("name", "guess"),
    [
        ("a.csv", "csv"),
        ("a.json", "copick"),
        ("ribosome.relion4.star", "relion4"),
        ("ribosome.warp.star", "warp"),
        ("ribosome.star", None),
        ("ribosome.imod.txt", "imod"),
        ("a.txt", None),
        ("a.tbl", "dynamo"),
        ("a.ndjson", "ndjson"),
        ("a.coords", "coords"),
    ],
)
def test_a_name_tells_the_format_or_none(name, guess):
    assert guess_format(name) == guess


def test_inference_needs_the_table_among_its_formats():
    assert [one.name for one in check_formats(["csv", "relion4"])] == ["csv", "relion4"]
    with pytest.raises(InputError, match="pick_formats must hold 'csv'"):
        check_formats(["relion4"])
