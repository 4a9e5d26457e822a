"""Every format of picks: the example of the page on coordinates, there and back, and what is wrong in a file."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import starfile
from hypothesis import given, settings
from hypothesis import strategies as st
from scripts.coordinates import to_xyz_angstrom
from scripts.errors import InputError, InputWarning
from scripts.picks import FORMATS, Facts, Pick, read_copick_folder, xyz_angstrom_of

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "coordinates.md").read_text()
REAL_RUNS = ROOT.parent / "shared" / "data" / "picks" / "ExperimentRuns"
SHAPE = (20, 28, 36)
FACTS = Facts("TS_1", "ribosome", 10.0, SHAPE, binning=4)
EXAMPLE = Pick("TS_1", "ribosome", 112.5, 90.0, 60.0, 0.75, x_voxel=11.25, y_voxel=9.0, z_voxel=6.0)
HALF_DIGIT_ANGSTROM = {"csv": 0.0005, "copick": 0.0005, "relion5": 5e-7}
PIXEL_FORMATS = [name for name in FORMATS if name not in HALF_DIGIT_ANGSTROM]

voxels = st.floats(-50, 700)
tables = st.lists(st.tuples(voxels, voxels, voxels, st.floats(0, 1)), max_size=5)


def half_digit_angstrom(name, voxel_size):
    """How far off a place may be after its digits were cut."""
    if name in ("relion4", "warp"):
        return 5e-7 * voxel_size
    return HALF_DIGIT_ANGSTROM.get(name, 0.00005 * voxel_size)


def there_and_back(path, name, picks, facts):
    FORMATS[name].write(path, picks, facts)
    return FORMATS[name].read(path, facts)


def assert_same(name, read, picks, voxel_size):
    assert [(pick.run, pick.particle) for pick in read] == [(pick.run, pick.particle) for pick in picks]
    atol = half_digit_angstrom(name, voxel_size) + 1e-9
    np.testing.assert_allclose(xyz_angstrom_of(read), xyz_angstrom_of(picks), rtol=0, atol=atol)
    scores = [pick.score if FORMATS[name].has_scores else 1.0 for pick in picks]
    np.testing.assert_allclose([pick.score for pick in read], scores, rtol=0, atol=5.001e-7)


def documented_lines():
    rows = PAGE.split("**Example.**")[1].split("## Converting")[0]
    return dict(re.findall(r"^\| `(\w+)` \| [^|]+ \| `(.+)` \|$", rows, flags=re.MULTILINE))


def write(folder, name, text):
    path = folder / name
    path.write_text(text)
    return path


# The page on coordinates


def test_the_page_has_an_example_and_a_row_for_every_format():
    assert set(documented_lines()) == set(FORMATS)
    rows = dict(re.findall(r"^\| `(\w+)` \| `?(.+?)`[ ,|]", PAGE.split("**Example.**")[0], flags=re.MULTILINE))
    assert {name: one.file_name for name, one in FORMATS.items()} == {
        name: file.replace("<species>", "{species}").replace("<user>_<session>", "{user_id}_{session_id}")
        for name, file in rows.items()
    }


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


# There and back


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
        for species in sorted({pick.particle for pick in truth}):
            picks = [pick for pick in truth if pick.particle == species]
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


# STAR


def test_relion_4_and_5_differ_by_the_pixels_size_and_half_the_volume(tmp_path):
    rng = np.random.default_rng(0)
    places = rng.uniform(0, 200, (20, 3))
    picks = [Pick("TS_1", "ribosome", *place) for place in places.tolist()]
    for name in ("relion4", "relion5", "warp"):
        FORMATS[name].write(tmp_path / f"{name}.star", picks, FACTS)
    read = {name: starfile.read(tmp_path / f"{name}.star") for name in ("relion4", "relion5", "warp")}
    pixels = read["relion4"][[f"rlnCoordinate{axis}" for axis in "XYZ"]].to_numpy()
    centered = read["relion5"][[f"rlnCenteredCoordinate{axis}Angst" for axis in "XYZ"]].to_numpy()
    np.testing.assert_allclose(pixels * (10.0 / 4) - 10.0 * np.array([18, 14, 10]), centered, atol=1e-5)
    assert set(read["relion4"]) - set(read["relion5"]) == {f"rlnCoordinate{axis}" for axis in "XYZ"}
    same = ["rlnTomoName", "rlnAutopickFigureOfMerit"]
    assert read["relion4"][same].equals(read["relion5"][same])
    assert set(read["warp"]["rlnMicrographName"]) == {"TS_1.tomostar"}


RELION3 = "data_\nloop_\n_rlnMicrographName #1\n_rlnCoordinateX #2\n_rlnCoordinateY #3\n_rlnCoordinateZ #4\n"
READ = Facts(species="ribosome", voxel_size_angstrom=10.0)


def read_star(folder, text, facts=READ):
    return FORMATS["warp"].read(write(folder, "a.star", text), facts)


@pytest.mark.parametrize("name", ["TS_1", "TS_1.tomostar", "rec/TS_1.mrc", "tomograms/TS_1.st:mrc"])
def test_the_run_is_the_name_of_the_micrograph_without_folder_and_ending(tmp_path, name):
    (pick,) = read_star(tmp_path, f"{RELION3}{name} 1 2 3\n")
    assert (pick.run, pick.xyz_angstrom) == ("TS_1", (10.0, 20.0, 30.0))


def test_a_pixel_size_in_the_file_stands_in_for_binning(tmp_path):
    header = RELION3 + "_rlnMagnification #5\n_rlnDetectorPixelSize #6\n"
    (pick,) = read_star(tmp_path, f"{header}TS_1 4 8 12 20000 5.0\n")
    assert (pick.xyz_angstrom, pick.x_voxel) == ((10.0, 20.0, 30.0), 1.0)
    (alone,) = read_star(tmp_path, f"{header}TS_1 4 8 12 20000 5.0\n", Facts(species="ribosome"))
    assert alone.xyz_angstrom == (10.0, 20.0, 30.0)
    assert np.isnan(alone.x_voxel)


def test_a_pixel_size_that_contradicts_the_keys_is_a_warning(tmp_path):
    text = f"{RELION3}_rlnDetectorPixelSize #5\nTS_1 4 8 12 5.0\n"
    with pytest.warns(InputWarning, match=r"a\.star: its pixels are taken for 10 Å .* although it states 5 Å"):
        (pick,) = read_star(tmp_path, text, replace(READ, binning=1))
    assert pick.xyz_angstrom == (40.0, 80.0, 120.0)


def test_two_pixel_sizes_in_one_file_are_refused(tmp_path):
    with pytest.raises(InputError, match="has pixels of 5 and of 6 Å; split it by pixel size"):
        read_star(tmp_path, f"{RELION3}_rlnDetectorPixelSize #5\nTS_1 4 8 12 5\nTS_1 4 8 12 6\n")


@pytest.mark.parametrize(("ending", "shift"), [("Angst", 20.0), ("", 2.0)])
def test_the_shifts_of_a_refinement_are_subtracted(tmp_path, ending, shift):
    header = RELION3 + "".join(f"_rlnOrigin{axis}{ending} #{5 + n}\n" for n, axis in enumerate("XYZ"))
    (pick,) = read_star(tmp_path, f"{header}TS_1 4 8 12 {shift} 0 {-shift}\n")
    assert pick.xyz_angstrom == (20.0, 80.0, 140.0)


def test_shifts_along_turned_axes_are_refused(tmp_path):
    header = RELION3 + "".join(f"_rlnOrigin{axis}Angst #{5 + n}\n" for n, axis in enumerate("XYZ"))
    header += "_rlnTomoSubtomogramRot #8\n"
    assert len(read_star(tmp_path, f"{header}TS_1 4 8 12 0 0 0 30\n")) == 1
    with pytest.raises(InputError, match="are along turned axes"):
        read_star(tmp_path, f"{header}TS_1 4 8 12 1 0 0 30\n")


# What other programs write


def test_points_of_imod_are_read_with_and_without_object_and_contour(tmp_path):
    for text in (
        "11.75 9.5 6",
        "2 11.75 9.5 6",
        "1 2 11.75 9.5 6",
        "     1     2       11.75        9.50        6.00 1.0",
    ):
        (pick,) = FORMATS["imod"].read(write(tmp_path, "a.txt", f"{text}\n"), FACTS)
        assert (pick.xyz_angstrom, pick.score) == ((112.5, 90.0, 60.0), 1.0)


def test_shifts_of_a_dynamo_table_are_added(tmp_path):
    row = ["0"] * 41
    row[3:6], row[9], row[19], row[23:26] = ["1", "2", "-3"], "0.5", "7", ["10.5", "20.5", "30.5"]
    (pick,) = FORMATS["dynamo"].read(write(tmp_path, "a.tbl", " ".join(row)), FACTS)
    assert (pick.run, pick.xyz_angstrom, pick.score) == ("TS_1", (110.0, 220.0, 270.0), 0.5)


def test_tomograms_of_a_dynamo_table_have_their_names_in_the_doc(tmp_path):
    picks = [EXAMPLE, replace(EXAMPLE, run="TS 0"), EXAMPLE]
    FORMATS["dynamo"].write(tmp_path / "a.tbl", picks, replace(FACTS, run=None))
    assert (tmp_path / "a.doc").read_text() == "1 TS 0\n2 TS_1\n"
    write(tmp_path, "a.doc", "1 /data/TS 0.mrc\n2 /data/TS_1.rec\n")
    read = FORMATS["dynamo"].read(tmp_path / "a.tbl", replace(FACTS, run=None))
    assert [pick.run for pick in read] == ["TS_1", "TS 0", "TS_1"]


def test_the_doc_holds_the_path_of_a_known_tomogram(tmp_path):
    FORMATS["dynamo"].write(tmp_path / "a.tbl", [EXAMPLE], replace(FACTS, tomogram="/data/TS_1.mrc"))
    assert (tmp_path / "a.doc").read_text() == "1 /data/TS_1.mrc\n"


def test_points_of_the_portal_may_have_directions_and_no_score(tmp_path):
    line = '{"type": "orientedPoint", "location": {"x": 1, "y": 2, "z": 3}, "xyz_rotation_matrix": [[1, 0, 0]]}'
    (pick,) = FORMATS["ndjson"].read(write(tmp_path, "a.ndjson", f"{line}\n\n"), FACTS)
    assert (pick.xyz_angstrom, pick.score) == ((10.0, 20.0, 30.0), 1.0)


def test_further_columns_of_coords_are_not_read(tmp_path):
    (pick,) = FORMATS["coords"].read(write(tmp_path, "a.coords", "# x y z\n1 2 3 4 five\n"), FACTS)
    assert (pick.xyz_angstrom, pick.score) == ((10.0, 20.0, 30.0), 1.0)


# What is wrong


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
        FORMATS[name].read(write(tmp_path, "file", text), FACTS)


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
    path = write(tmp_path, "file", LINES[name] + "\n")
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


def test_tomograms_without_names_are_refused_in_a_dynamo_table(tmp_path):
    rows = [["1"] * 35, ["2"] * 35]
    path = write(tmp_path, "a.tbl", "\n".join(map(" ".join, rows)))
    with pytest.raises(InputError, match=r"holds tomograms \[1, 2\]; put their names into a\.doc beside it"):
        FORMATS["dynamo"].read(path, FACTS)
    write(tmp_path, "a.doc", "1 TS_1\n")
    with pytest.raises(InputError, match=r"a\.doc does not name tomogram 2, which .*a\.tbl holds"):
        FORMATS["dynamo"].read(path, FACTS)
