from dataclasses import replace

import numpy as np
import pytest
import starfile
from pick_files import FACTS, PICK, RELION3, write_text
from scripts.errors import InputError, InputWarning
from scripts.picks import FORMATS, Facts, Pick


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


READ = Facts(species="ribosome", voxel_size_angstrom=10.0, binning=1.0)


def read_star(folder, text, facts=READ):
    return FORMATS["warp"].read(write_text(folder, text, "a.star"), facts)


@pytest.mark.parametrize("name", ["TS_1", "TS_1.tomostar", "rec/TS_1.mrc", "tomograms/TS_1.st:mrc"])
def test_the_run_is_the_name_of_the_micrograph_without_folder_and_ending(tmp_path, name):
    (pick,) = read_star(tmp_path, f"{RELION3}{name} 1 2 3\n")
    assert (pick.run, pick.xyz_angstrom) == ("TS_1", (10.0, 20.0, 30.0))


def test_a_column_that_stands_twice_is_refused(tmp_path):
    text = "data_\n\nloop_\n_rlnTomoName\n_rlnTomoName\n_rlnCoordinateX\n_rlnCoordinateY\n_rlnCoordinateZ\nA A 1 2 3\n"
    with pytest.raises(InputError, match="a table has the column rlnTomoName twice; remove one"):
        read_star(tmp_path, text)


def test_two_micrographs_that_would_be_one_run_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"TS_1/rec\.mrc and TS_2/rec\.mrc would both be run 'rec': rename one"):
        read_star(tmp_path, f"{RELION3}TS_1/rec.mrc 1 2 3\nTS_2/rec.mrc 1 2 3\n")
    assert len(read_star(tmp_path, f"{RELION3}./TS_1.mrc 1 2 3\nTS_1.mrc 4 2 3\n")) == 2


def test_a_pixel_size_in_the_file_stands_in_for_binning(tmp_path):
    header = RELION3 + "_rlnMagnification #5\n_rlnDetectorPixelSize #6\n"
    (pick,) = read_star(tmp_path, f"{header}TS_1 4 8 12 20000 5.0\n", replace(READ, binning=None))
    assert (pick.xyz_angstrom, pick.x_voxel) == ((10.0, 20.0, 30.0), 1.0)
    (alone,) = read_star(tmp_path, f"{header}TS_1 4 8 12 20000 5.0\n", Facts(species="ribosome"))
    assert alone.xyz_angstrom == (10.0, 20.0, 30.0)
    assert np.isnan(alone.x_voxel)


@pytest.mark.parametrize("name", ["rlnMicrographName", "rlnTomoName"])
def test_without_binning_and_pixel_size_a_warning_says_that_pixels_are_taken_for_voxels(tmp_path, name):
    said = (
        r"a\.star: without --binning, this file counts the tomogram's voxels, .* divided by the pixel size of the unb"
    )
    text = RELION3.replace("rlnMicrographName", name) + "TS_1 4 8 12\n"
    with pytest.warns(InputWarning, match=said):
        (pick,) = read_star(tmp_path, text, replace(READ, binning=None))
    assert pick.xyz_angstrom == (40.0, 80.0, 120.0)
    assert read_star(tmp_path, text) == [pick]


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


def test_shifts_in_pixels_count_those_of_the_subtomograms_where_their_size_is_stated(tmp_path):
    header = RELION3 + "".join(f"_rlnOrigin{axis} #{5 + n}\n" for n, axis in enumerate("XYZ"))
    optics = "data_optics\n\nloop_\n_rlnImagePixelSize #1\n5.0\n\n"
    (pick,) = read_star(tmp_path, f"{optics}{header.replace('data_', 'data_particles', 1)}TS_1 4 8 12 4 0 -4\n")
    assert pick.xyz_angstrom == (20.0, 80.0, 140.0)


@pytest.mark.parametrize("ending", ["Angst", ""])
@pytest.mark.parametrize(("axes", "missing"), [("X", "YZ"), ("XY", "Z"), ("YZ", "X")])
def test_shifts_that_lack_an_axis_are_refused(tmp_path, ending, axes, missing):
    header = RELION3 + "".join(f"_rlnOrigin{axis}{ending} #{5 + n}\n" for n, axis in enumerate(axes))
    there, lacking = (", ".join(f"rlnOrigin{axis}{ending}" for axis in names) for names in (axes, missing))
    with pytest.raises(
        InputError, match=rf"a\.star has shifts in {there} but not in {lacking}: add what is missing, or"
    ):
        read_star(tmp_path, f"{header}TS_1 4 8 12 {'1 ' * len(axes)}\n")


def test_shifts_along_turned_axes_are_refused(tmp_path):
    header = RELION3 + "".join(f"_rlnOrigin{axis}Angst #{5 + n}\n" for n, axis in enumerate("XYZ"))
    header += "_rlnTomoSubtomogramRot #8\n"
    assert len(read_star(tmp_path, f"{header}TS_1 4 8 12 0 0 0 30\n")) == 1
    with pytest.raises(InputError, match="are along turned axes"):
        read_star(tmp_path, f"{header}TS_1 4 8 12 1 0 0 30\n")


@pytest.mark.parametrize("run", ["nan", "NaN", "<NA>"])
@pytest.mark.parametrize("name", ["relion4", "relion5"])
def test_a_name_that_is_read_as_a_missing_value_is_refused(tmp_path, run, name):
    with pytest.raises(InputError, match=f"cannot be written to a STAR file: '{run}' would be read as no name"):
        FORMATS[name].write(tmp_path / "a.star", [replace(PICK, run=run)], FACTS)
    with pytest.raises(InputError, match=r"a\.star: a run is called nan or NaN or <NA>, which is read as no name"):
        read_star(tmp_path, f"{RELION3}{run} 1 2 3\n")
