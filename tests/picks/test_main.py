import numpy as np
import pytest
from pick_files import SHAPE
from scripts.picks.__main__ import main
from volume_files import write_pyramid


def test_the_command_takes_shape_and_voxel_size_from_a_tomogram(tmp_path, table, capsys):
    mrcfile, readers = pytest.importorskip("mrcfile"), pytest.importorskip("scripts.volumes.reading")
    with mrcfile.new(tmp_path / "A.mrc") as file:
        file.set_data(np.zeros(SHAPE, dtype=np.int8))
        file.voxel_size = 10.0
    assert readers.read_extent(tmp_path / "A.mrc") == (SHAPE, 10.0)
    command = ["convert", str(table), str(tmp_path / "a.star"), "--to", "relion5", "--species", "ribosome"]
    assert main([*command, "--tomogram", str(tmp_path / "A.mrc")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'a.star'}: 2 picks\n"
    assert "-70.000000" in (tmp_path / "a.star").read_text()


def test_of_a_pyramid_the_level_of_the_picks_is_asked_for(tmp_path, table, capsys):
    pytest.importorskip("scripts.volumes.reading")
    pyramid = write_pyramid(tmp_path)
    command = ["convert", str(table), str(tmp_path / "a.coords"), "--species", "ribosome", "--tomogram", str(pyramid)]
    assert main(command) == 1
    said = "has levels of 10, 5, 20 Å: say with --voxel_size_angstrom which of them the picks are of"
    assert said in capsys.readouterr().err
    assert main([*command, "--voxel_size_angstrom", "10", "--allow_outside"]) == 0


def test_the_command_takes_shape_and_voxel_size_from_keys(tmp_path, table):
    command = ["convert", str(table), str(tmp_path / "a.star"), "--to", "relion5", "--species", "ribosome"]
    assert main([*command, "--volume_shape", "20", "28", "36", "--voxel_size_angstrom", "10"]) == 0
    assert "-70.000000" in (tmp_path / "a.star").read_text()


def test_the_help_says_what_a_folder_gets_by_format(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "1000")
    with pytest.raises(SystemExit, match="0"):
        main(["convert", "--help"])
    assert (
        "a folder, which gets one file (csv), a file per species with all runs (relion5, relion4, warp, dynamo), or a "
        "folder per run with a file per species (imod, ndjson, coords)"
    ) in capsys.readouterr().out


def test_an_error_of_the_command_is_one_line(tmp_path, table, capsys):
    assert main(["convert", str(table), str(tmp_path / "a.star"), "--to", "relion5", "--species", "ribosome"]) == 1
    captured = capsys.readouterr()
    remedy = "give --volume_shape Z Y X, or --tomogram FILE"
    assert captured.err == f"error: {tmp_path / 'a.star'}: the tomogram's shape is not known; {remedy}.\n"
    assert captured.out == ""
    assert not (tmp_path / "a.star").exists()


def test_a_warning_of_the_command_is_one_line(tmp_path, table, capsys):
    assert main(["convert", str(table), str(tmp_path / "out"), "--to", "coords", "--voxel_size_angstrom", "10"]) == 0
    assert (
        capsys.readouterr().err == f"warning: {tmp_path / 'out'}: coords has no room for scores; they are left out.\n"
    )


@pytest.mark.parametrize("given", ["0", "-4", "2.5A", "nan", "inf"])
def test_a_size_that_is_no_positive_number_is_refused_as_that(given, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["convert", "in.csv", "out.csv", f"--binning={given}"])
    assert f"argument --binning: must be a positive number; got {given}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--voxel_offset", "nan"], "argument --voxel_offset: must be a number; got nan"),
        (["--min_score", "nan"], "argument --min_score: must be a number; got nan"),
        (["--volume_shape", "10", "0", "20"], "argument --volume_shape: must be a positive whole number; got 0"),
    ],
)
def test_a_number_that_means_nothing_is_refused_as_that(words, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["convert", "in.csv", "out.csv", *words])
    assert message in capsys.readouterr().err


def test_endings_in_capitals_tell_the_format(tmp_path, table):
    assert main(["convert", str(table), str(tmp_path / "B.CSV")]) == 0
    assert main(["convert", str(tmp_path / "B.CSV"), str(tmp_path / "c.csv")]) == 0
    assert (tmp_path / "c.csv").read_text() == (tmp_path / "B.CSV").read_text()
