import numpy as np
import pytest
import starfile
from hypothesis import given, settings
from hypothesis import strategies as st
from pick_files import PICK, SHAPE, places, write_text
from scripts.errors import InputError
from scripts.picks import Pick, read_relion5_star, write_relion5_star


def save_star(path, picks, **changes):
    options = {"run": "TS_1", "volume_shape_zyx": SHAPE, "voxel_size_angstrom": 10.0} | changes
    write_relion5_star(path, picks, **options)


def load_star(path, **changes):
    options = {"species": "ribosome", "volume_shape_zyx": SHAPE, "voxel_size_angstrom": 10.0} | changes
    return read_relion5_star(path, **options)


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
    with pytest.raises(
        InputError, match=r"the run's name cannot be written to a STAR file: .* holds a quote or a control"
    ):
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
    assert (pick.species, pick.xyz_angstrom, pick.score) == ("ribosome", (200.0, 130.0, 140.0), 1.0)


HEADER = "loop_\n_rlnTomoName\n" + "".join(f"_rlnCenteredCoordinate{axis}Angst\n" for axis in "XYZ")
SHIFTED = HEADER + "".join(f"_rlnOrigin{axis}\n" for axis in "XYZ")


@pytest.mark.parametrize(
    ("columns", "sizes", "pixel_angstrom"),
    [
        ("_rlnTomoTiltSeriesPixelSize\n", "2.5", 2.5),
        ("_rlnImagePixelSize\n", "5.0", 5.0),
        ("_rlnTomoTiltSeriesPixelSize\n_rlnImagePixelSize\n", "2.5 5.0", 5.0),
    ],
)
def test_star_shifts_in_pixels_have_the_size_that_the_file_states(tmp_path, columns, sizes, pixel_angstrom):
    text = f"data_optics\n\nloop_\n{columns}{sizes}\n\ndata_particles\n\n{SHIFTED}TS_1 20 -10 40 4 0 -2\n"
    (pick,) = load_star(write_text(tmp_path, text, "a.star"))
    assert pick.xyz_angstrom == (200.0 - 4 * pixel_angstrom, 130.0, 140.0 + 2 * pixel_angstrom)


def test_star_shifts_in_pixels_of_unknown_size_are_refused_unless_they_are_0(tmp_path):
    path = write_text(tmp_path, f"data_\n{SHIFTED}TS_1 20 -10 40 4 0 -2\n", "a.star")
    with pytest.raises(
        InputError, match=r"a\.star: its shifts .* size that it does not state: add rlnImagePixelSize to"
    ):
        load_star(path)
    (pick,) = load_star(write_text(tmp_path, f"data_\n{SHIFTED}TS_1 20 -10 40 0 0 0\n", "a.star"))
    assert pick.xyz_angstrom == (200.0, 130.0, 140.0)


def test_star_shifts_in_angstroms_need_no_pixel_size(tmp_path):
    optics = "data_optics\n\nloop_\n_rlnTomoTiltSeriesPixelSize\n_rlnImagePixelSize\n2.5 5.0\n2.6 5.2\n\n"
    shifted = HEADER + "".join(f"_rlnOrigin{axis}Angst\n" for axis in "XYZ")
    text = f"{optics}data_particles\n\n{shifted}TS_1 20 -10 40 4 0 -2\n"
    assert load_star(write_text(tmp_path, text, "a.star"))[0].xyz_angstrom == (196.0, 130.0, 142.0)


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
