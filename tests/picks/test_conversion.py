"""Conversion from any format to any other: files, folders and projects, and the check of positions."""

import json
from dataclasses import replace

import numpy as np
import pytest
from pick_files import SHAPE, TABLE
from scripts.copick_tree import write_project
from scripts.errors import InputError, InputWarning
from scripts.picks import FORMATS, Facts, Pick, convert, read_csv, write_csv, write_run_folder

FACTS = Facts(voxel_size_angstrom=10.0, volume_shape=SHAPE)


@pytest.fixture
def project(tmp_path, shipped_species):
    return write_project(tmp_path / "project", shipped_species, "p", "a project").parent


@pytest.mark.parametrize("first", FORMATS)
@pytest.mark.parametrize("second", FORMATS)
@pytest.mark.filterwarnings("ignore:.*no room for scores", "ignore:.*counts the tomogram's voxels")
def test_any_format_becomes_any_other(tmp_path, first, second):
    facts = replace(FACTS, run="A", species="ribosome")
    kept = FORMATS[first].has_scores and FORMATS[second].has_scores
    FORMATS[first].write(tmp_path / "first", TABLE[:2], facts)
    one, two = tmp_path / f"one.{second}.txt", tmp_path / "two.csv"
    convert(tmp_path / "first", one, facts=facts, from_format=first, to_format=second)
    convert(one, two, facts=facts, from_format=second)
    wanted = [(pick.run, pick.species, *pick.xyz_angstrom, pick.score if kept else 1.0) for pick in TABLE[:2]]
    found = [(pick.run, pick.species, *pick.xyz_angstrom, pick.score) for pick in read_csv(two)]
    assert found == wanted


def test_a_folder_gets_a_file_per_run_and_species(tmp_path, table):
    written = convert(table, tmp_path / "out", facts=FACTS, to_format="imod")
    assert {str(path.relative_to(tmp_path / "out")): count for path, count in written.items()} == {
        "A/ribosome.imod.txt": 2,
        "B/thyroglobulin.imod.txt": 1,
    }
    assert len((tmp_path / "out/A/ribosome.imod.txt").read_text().splitlines()) == 2


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("csv", {"picks.csv": 4}),
        ("relion5", {"ribosome.star": 3, "thyroglobulin.star": 1}),
        ("relion4", {"ribosome.relion4.star": 3, "thyroglobulin.relion4.star": 1}),
        ("warp", {"ribosome.warp.star": 3, "thyroglobulin.warp.star": 1}),
        ("dynamo", {"ribosome.tbl": 3, "thyroglobulin.tbl": 1}),
        ("imod", {"A/ribosome.imod.txt": 2, "B/ribosome.imod.txt": 1, "B/thyroglobulin.imod.txt": 1}),
        ("ndjson", {"A/ribosome.ndjson": 2, "B/ribosome.ndjson": 1, "B/thyroglobulin.ndjson": 1}),
        ("coords", {"A/ribosome.coords": 2, "B/ribosome.coords": 1, "B/thyroglobulin.coords": 1}),
    ],
)
@pytest.mark.filterwarnings("ignore:.*no room for scores", "ignore:.*all 2 runs are taken to have")
def test_a_folder_gets_a_file_of_all_runs_where_the_format_has_runs(tmp_path, name, files):
    write_csv(tmp_path / "in.csv", [*TABLE, replace(TABLE[0], run="B")])
    binning = 4.0 if FORMATS[name].has_binning else None
    written = convert(tmp_path / "in.csv", tmp_path / "out", facts=replace(FACTS, binning=binning), to_format=name)
    assert {str(path.relative_to(tmp_path / "out")): count for path, count in written.items()} == files


@pytest.mark.parametrize("name", ["relion5", "relion4", "warp"])
def test_a_run_that_a_star_file_cannot_hold_is_refused_before_any_file_is_written(tmp_path, name):
    write_csv(tmp_path / "in.csv", [TABLE[0], replace(TABLE[2], run="it's")])
    assert TABLE[0].species != TABLE[2].species
    with pytest.raises(InputError, match=r"cannot be written to a STAR file: \"it's\" holds a quote"):
        convert(tmp_path / "in.csv", tmp_path / "out", facts=FACTS, to_format=name)
    assert not (tmp_path / "out").exists()


def test_one_file_cannot_take_several_species(tmp_path, table):
    with pytest.raises(
        InputError, match=r"a\.star: relion5 needs a file for each of ribosome, thyroglobulin .*; give a f"
    ):
        convert(table, tmp_path / "a.star", facts=FACTS, to_format="relion5")
    written = convert(table, tmp_path / "a.star", facts=replace(FACTS, species="ribosome"), to_format="relion5")
    assert written == {tmp_path / "a.star": 2}


def test_one_shape_for_several_runs_is_said_where_coordinates_count_from_the_centre(tmp_path):
    picks = [Pick(run, "ribosome", 50.0, 60.0, 70.0) for run in ("A", "B")]
    write_csv(tmp_path / "in.csv", picks)
    facts = replace(FACTS, species="ribosome")
    said = r"a\.star: all 2 runs are taken to have \d+ x \d+ x \d+ voxels \(z, y, x\).*convert one at a time with --run"
    with pytest.warns(InputWarning, match=said):
        convert(tmp_path / "in.csv", tmp_path / "a.star", facts=facts, to_format="relion5")
    with pytest.warns(InputWarning, match=said):
        convert(tmp_path / "a.star", tmp_path / "back.csv", facts=facts, from_format="relion5")
    convert(tmp_path / "in.csv", tmp_path / "one.star", facts=replace(facts, run="A"), to_format="relion5")


def test_run_species_and_score_choose(tmp_path, table):
    convert(table, tmp_path / "a.csv", facts=replace(FACTS, run="A"), min_score=0.5)
    assert [pick.score for pick in read_csv(tmp_path / "a.csv")] == [0.75]
    for fact, message in (("run", "holds no run 'C'; it has A, B"), ("species", "holds no species 'C'; it has rib")):
        with pytest.raises(InputError, match=message):
            convert(table, tmp_path / "b.csv", facts=replace(FACTS, **{fact: "C"}))


@pytest.mark.parametrize("name", ["copick", "dynamo"])
def test_a_run_that_the_file_does_not_hold_is_refused_and_not_renamed(tmp_path, name):
    source, target = tmp_path / f"a{FORMATS[name].ending}", tmp_path / "out.csv"
    facts = replace(FACTS, species="ribosome")
    FORMATS[name].write(source, TABLE[:2], replace(facts, run="A"))
    with pytest.raises(InputError, match=r"holds no run 'TS_2'; it has A\."):
        convert(source, target, facts=replace(facts, run="TS_2"), from_format=name)
    assert not target.exists()
    convert(source, target, facts=replace(facts, run="A"), from_format=name)
    assert {pick.run for pick in read_csv(target)} == {"A"}


def test_a_folder_of_copick_files_has_the_runs_that_they_name(tmp_path):
    folder, target = tmp_path / "Picks", tmp_path / "out.csv"
    for run, species in (("A", "ribosome"), ("B", "thyroglobulin")):
        facts = replace(FACTS, run=run, species=species)
        FORMATS["copick"].write(folder / f"{run}.json", [pick for pick in TABLE if pick.run == run], facts)
    convert(folder, target, facts=FACTS)
    assert [pick.run for pick in read_csv(target)] == ["A", "A", "B"]
    convert(folder, target, facts=replace(FACTS, run="B"), overwrite=True)
    assert [(pick.run, pick.species) for pick in read_csv(target)] == [("B", "thyroglobulin")]
    with pytest.raises(InputError, match="holds no run 'C'; it has A, B"):
        convert(folder, target, facts=replace(FACTS, run="C"), overwrite=True)
    (folder / "again.json").write_bytes((folder / "A.json").read_bytes())
    convert(folder, target, facts=replace(FACTS, run="B"), overwrite=True)
    with pytest.raises(InputError, match=r"again\.json and A\.json both hold 'ribosome' of run 'A'; keep one of them"):
        convert(folder, target, facts=FACTS, overwrite=True)


@pytest.fixture
def two_users(tmp_path):
    for user, species in (("me", "ribosome"), ("net", "thyroglobulin")):
        facts = replace(FACTS, run="A", species=species, user_id=user, session_id="1")
        path = tmp_path / "Picks" / f"{user}.json"
        FORMATS["copick"].write(path, [replace(pick, run="A", species=species) for pick in TABLE[:1]], facts)
    return tmp_path / "Picks"


@pytest.mark.parametrize("name", ["", "me.json"])
def test_user_and_session_select_from_copick_files(tmp_path, two_users, name):
    target = tmp_path / "out.csv"
    convert(two_users / name, target, facts=Facts(user_id="me", session_id="1"))
    assert [pick.species for pick in read_csv(target)] == ["ribosome"]
    with pytest.raises(InputError, match=r"has no picks of user_id 'me', session_id '2'; it has those of .*\(me, 1\)"):
        convert(two_users / name, target, facts=Facts(user_id="me", session_id="2"), overwrite=True)


def test_what_other_users_picked_too_is_chosen_by_the_user(tmp_path, two_users):
    content = json.loads((two_users / "net.json").read_text()) | {"pickable_object_name": "ribosome", "session_id": 2}
    (two_users / "net.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"of run 'A'; keep one of them, or choose with --user_id and --session_id"):
        convert(two_users, tmp_path / "out.csv", facts=Facts())
    convert(two_users, tmp_path / "out.csv", facts=Facts(session_id="2"))
    assert len(read_csv(tmp_path / "out.csv")) == 1


@pytest.mark.parametrize("name", ["user_id", "session_id"])
def test_ids_without_meaning_are_refused(tmp_path, table, name):
    with pytest.raises(InputError, match=f"{name} has no meaning from csv to imod; leave it out"):
        convert(table, tmp_path / "out", facts=replace(FACTS, **{name: "me"}), to_format="imod")


def test_a_copick_file_without_a_run_takes_the_given_one(tmp_path):
    (tmp_path / "Picks").mkdir()
    content = {"pickable_object_name": "ribosome", "points": [{"location": {"x": 51.0, "y": 62.0, "z": 73.0}}]}
    (tmp_path / "Picks" / "a.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"a\.json does not say which run it belongs to; give the run's name \(--run"):
        convert(tmp_path / "Picks", tmp_path / "out.csv", facts=FACTS)
    convert(tmp_path / "Picks", tmp_path / "out.csv", facts=replace(FACTS, run="C"))
    assert [pick.run for pick in read_csv(tmp_path / "out.csv")] == ["C"]


def test_a_file_that_is_there_stays_unless_it_may_be_replaced(tmp_path, table):
    (tmp_path / "a.csv").write_text("mine")
    with pytest.raises(InputError, match=r"a\.csv is there already; choose another name, or give --overwrite"):
        convert(table, tmp_path / "a.csv", facts=FACTS)
    assert (tmp_path / "a.csv").read_text() == "mine"
    convert(table, tmp_path / "a.csv", facts=FACTS, overwrite=True)
    assert len(read_csv(tmp_path / "a.csv")) == 3


@pytest.mark.parametrize(
    ("name", "stays"),
    [
        ("relion4", "thyroglobulin.relion4.star"),
        ("relion5", "thyroglobulin.star"),
        ("dynamo", "thyroglobulin.tbl"),
        ("imod", "B/thyroglobulin.imod.txt"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*all 2 runs are taken to have", "ignore:.*counts the tomogram's voxels")
def test_files_in_a_folder_that_get_no_picks_any_more_are_named(tmp_path, table, name, stays):
    target = tmp_path / "out"
    (target / "A").mkdir(parents=True)
    for other in ("notes.relion6.txt", "A/notes.txt", ".hidden.star", "old.warp.star"):
        (target / other).write_text("")
    convert(table, target, facts=FACTS, to_format=name)
    with pytest.warns(
        InputWarning, match=rf"out: \S*{stays} stay as they were, because no pick of .*in\.csv goes there"
    ):
        convert(table, target, facts=FACTS, to_format=name, min_score=0.6, overwrite=True)
    convert(table, target, facts=replace(FACTS, species="ribosome"), to_format=name, overwrite=True)


def test_files_of_a_session_that_get_no_picks_any_more_are_named_and_those_of_other_sessions_are_not(
    tmp_path, table, project
):
    mine, other = (replace(FACTS, user_id="me", session_id=session) for session in "12")
    for ids in (mine, other):
        convert(table, project, facts=ids)
    with pytest.warns(InputWarning, match=r"project: \S*B/Picks/me_1_thyroglobulin\.json stay as they were"):
        convert(table, project, facts=mine, min_score=0.6, overwrite=True)
    convert(table, project, facts=mine, overwrite=True)
    convert(table, project, facts=replace(mine, run="A"), overwrite=True)


def test_the_doc_beside_a_dynamo_table_stays_too(tmp_path, table):
    (tmp_path / "a.doc").write_text("mine")
    with pytest.raises(InputError, match=r"a\.doc is there already"):
        convert(table, tmp_path / "a.tbl", facts=replace(FACTS, species="ribosome"))
    assert not (tmp_path / "a.tbl").exists()


def test_a_project_takes_picks_as_a_session_and_gives_them_back(tmp_path, table, project):
    ids = replace(FACTS, user_id="me", session_id="7")
    written = convert(table, project, facts=ids)
    names = sorted(str(path.relative_to(project)) for path in written)
    assert names == [
        "overlay/ExperimentRuns/A/Picks/me_7_ribosome.json",
        "overlay/ExperimentRuns/B/Picks/me_7_thyroglobulin.json",
    ]
    assert json.loads((project / names[0]).read_text())["user_id"] == "me"
    convert(project, tmp_path / "out.csv", facts=FACTS)
    assert [pick.xyz_angstrom for pick in read_csv(tmp_path / "out.csv")] == [pick.xyz_angstrom for pick in TABLE]


def test_two_sessions_of_one_species_have_to_be_chosen_from(tmp_path, table, project):
    for session in "12":
        convert(table, project, facts=replace(FACTS, user_id="me", session_id=session))
    with pytest.raises(
        InputError, match=r"run 'A' has picks of 'ribosome' in me_1_.* and in me_2_.*; choose with --user_id"
    ):
        convert(project, tmp_path / "out.csv", facts=FACTS)
    convert(project, tmp_path / "out.csv", facts=replace(FACTS, session_id="2"))
    assert len(read_csv(tmp_path / "out.csv")) == 3


def test_a_project_takes_picks_where_its_config_says(tmp_path, table, project):
    (project / "overlay/ExperimentRuns").rmdir()
    (project / "overlay").rmdir()
    config = json.loads((project / "copick.json").read_text()) | {"overlay_root": f"local://{tmp_path / 'elsewhere'}"}
    (project / "copick.json").write_text(json.dumps(config))
    written = convert(table, project, facts=FACTS)
    assert all((tmp_path / "elsewhere/ExperimentRuns") in path.parents for path in written)


def test_scores_that_have_no_room_are_a_warning(tmp_path, table):
    with pytest.warns(InputWarning, match="coords has no room for scores; they are left out"):
        convert(table, tmp_path / "out", facts=FACTS, to_format="coords")


def test_binning_without_meaning_is_refused(tmp_path, table):
    with pytest.raises(InputError, match="binning has no meaning from csv to imod; leave it out"):
        convert(table, tmp_path / "out", facts=replace(FACTS, binning=2.0), to_format="imod")


def test_voxels_of_another_grid_are_refused(tmp_path, table):
    with pytest.raises(
        InputError, match=r"ångströms of particle 1 disagree: voxel_size_angstrom 5 or voxel_offset 0 is not"
    ):
        convert(table, tmp_path / "out.csv", facts=replace(FACTS, voxel_size_angstrom=5.0))


# Positions of the points


def test_conversion_checks_the_places(tmp_path):
    (tmp_path / "a.coords").write_text("110 90 60\n300 200 130\n")
    facts = replace(FACTS, run="A", species="ribosome")
    with pytest.raises(
        InputError, match=r"a\.coords: 100% of the points lie outside the tomogram; are they Å, not vox"
    ):
        convert(tmp_path / "a.coords", tmp_path / "a.csv", facts=facts)
    assert not (tmp_path / "a.csv").exists()
    with pytest.warns(InputWarning, match="100% of the points"):
        convert(tmp_path / "a.coords", tmp_path / "a.csv", facts=facts, allow_outside=True)
    assert len(read_csv(tmp_path / "a.csv")) == 2


@pytest.mark.parametrize(
    ("name", "target", "shift"),
    [("csv", "a.csv", (0, 0, 0)), ("copick", "a.json", (0, 0, 0)), ("relion5", "a.star", (162, 126, 90))],
)
def test_conversion_refuses_voxels_in_a_format_of_angstroms(name, target, shift, tmp_path):
    """RELION 5 counts from the centre: 180, 140, 100 Å, or 18, 14, 10 voxels."""
    facts = replace(FACTS, run="A", species="ribosome")
    places = np.array([[30.0, 2.0, 9.0], [4.0, 25.0, 15.0]]) + shift
    FORMATS[name].write(tmp_path / target, [Pick("A", "ribosome", *place) for place in places.tolist()], facts)
    with pytest.raises(InputError, match=r"2 of 2 points lie close to where the coordinates begin; are they voxels"):
        convert(tmp_path / target, tmp_path / "out.csv", facts=facts)
    with pytest.warns(InputWarning, match="2 of 2 points lie close"):
        convert(tmp_path / target, tmp_path / "out.csv", facts=facts, allow_outside=True)


# Names


def test_a_name_that_tells_no_format_is_asked_about(tmp_path, table):
    with pytest.raises(InputError, match=r"a\.txt: its name does not tell its format; give --from, one of csv, copick"):
        convert(tmp_path / "a.txt", tmp_path / "a.csv", facts=FACTS)
    with pytest.raises(InputError, match=r"a\.star: its name does not tell its format; give --to, one of csv, copick"):
        convert(table, tmp_path / "a.star", facts=FACTS)
    with pytest.raises(InputError, match="'relion' is no format of picks; there are csv, copick, relion5"):
        convert(table, tmp_path / "a.star", facts=FACTS, to_format="relion")


@pytest.mark.parametrize("name", ["relion4", "relion5", "warp"])
@pytest.mark.filterwarnings("ignore:.*counts the tomogram's voxels")
def test_the_dialect_of_a_star_file_is_known_by_its_columns(tmp_path, name):
    facts = replace(FACTS, run="A", species="ribosome")
    FORMATS[name].write(tmp_path / "a.star", TABLE[:1], facts)
    convert(tmp_path / "a.star", tmp_path / "a.csv", facts=facts)
    assert [pick.xyz_angstrom for pick in read_csv(tmp_path / "a.csv")] == [TABLE[0].xyz_angstrom]


def test_a_runs_folder_has_a_file_per_species_in_every_format(tmp_path):
    names = ["ribosome", "thyroglobulin"]
    write_run_folder(tmp_path, TABLE[:2], names, FORMATS.values(), replace(FACTS, run="A"))
    found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.*")}
    ids = {"user_id": "cryoet-particle-segmentation", "session_id": "0"}
    wanted = {one.file_name.format(species=name, **ids) for one in FORMATS.values() for name in names}
    assert found == wanted | {f"{name}.doc" for name in names}


def test_an_empty_table_is_written_where_a_full_one_would_be(tmp_path):
    (tmp_path / "none.csv").write_text("experiment,particle_type,x,y,z\n")
    facts = replace(FACTS, run="A", species="ribosome")
    for name, file in (("relion5", "ribosome.star"), ("imod", "A/ribosome.imod.txt"), ("csv", "picks.csv")):
        written = convert(tmp_path / "none.csv", tmp_path / name, facts=facts, to_format=name)
        assert written == {tmp_path / name / file: 0}


def test_what_was_rejected_is_no_particle_in_formats_without_weights(tmp_path):
    truth = [replace(pick, weight=weight) for pick, weight in zip(TABLE[:2], (0.0, 0.5), strict=True)]
    write_csv(tmp_path / "truth.csv", truth)
    with pytest.warns(InputWarning, match=r"relion5 has no room for weights: what was rejected .* is left out"):
        (count,) = convert(tmp_path / "truth.csv", tmp_path / "out.star", facts=FACTS, to_format="relion5").values()
    assert count == 1
    convert(tmp_path / "truth.csv", tmp_path / "copy.csv", facts=FACTS)
    assert [pick.weight for pick in read_csv(tmp_path / "copy.csv")] == [0.0, 0.5]


def test_pixels_of_a_stated_size_stay_pixels_of_that_size(tmp_path):
    optics = "data_optics\n\nloop_\n_rlnTomoTiltSeriesPixelSize #1\n2.5\n\n"
    columns = "data_particles\n\nloop_\n_rlnCoordinateX\n_rlnCoordinateY\n_rlnCoordinateZ\n_rlnTomoName\n"
    (tmp_path / "in.star").write_text(f"{optics}{columns}40 60 72 A\n")
    facts = replace(FACTS, species="ribosome")
    for name in ("relion4", "warp"):
        with pytest.warns(
            InputWarning, match=r"out.star: it counts the pixels that .*in.star states, 4 per voxel: read"
        ):
            convert(tmp_path / "in.star", tmp_path / "out.star", facts=facts, to_format=name, overwrite=True)
        assert "40.000000 60.000000 72.000000" in " ".join((tmp_path / "out.star").read_text().split())
    convert(tmp_path / "out.star", tmp_path / "out.csv", facts=replace(facts, binning=4.0))
    assert [pick.xyz_angstrom for pick in read_csv(tmp_path / "out.csv")] == [(100.0, 150.0, 180.0)]


def test_a_run_called_nan_is_refused_where_a_star_file_would_lose_it(tmp_path):
    picks = [replace(TABLE[0], run="nan")]
    write_csv(tmp_path / "in.csv", picks)
    for name in ("relion4", "relion5"):
        with pytest.raises(InputError, match="nan"):
            convert(tmp_path / "in.csv", tmp_path / name, facts=FACTS, to_format=name)
    with pytest.warns(
        InputWarning, match=r"warp: without --binning, warp counts the tomogram's voxels, as if the tilt"
    ):
        convert(tmp_path / "in.csv", tmp_path / "warp", facts=FACTS, to_format="warp")
    (file,) = (tmp_path / "warp").iterdir()
    facts = replace(FACTS, species=TABLE[0].species, binning=1.0)
    assert [pick.run for pick in FORMATS["warp"].read(file, facts)] == ["nan"]


def test_nothing_left_to_write_is_said_as_that(tmp_path, table):
    for name in ("relion5", "imod", "copick"):
        with pytest.raises(
            InputError, match=r"holds no picks with a score of 2 or more; to write an empty file, give --s"
        ):
            convert(table, tmp_path / name, facts=FACTS, to_format=name, min_score=2.0)
        assert not (tmp_path / name).exists()
    (tmp_path / "empty.csv").write_text(table.read_text().split("\n")[0] + "\n")
    with pytest.raises(InputError, match=r"empty.csv holds no picks; to write"):
        convert(tmp_path / "empty.csv", tmp_path / "out", facts=FACTS, to_format="warp")
    convert(table, tmp_path / "none.csv", facts=FACTS, min_score=2.0)
    assert read_csv(tmp_path / "none.csv") == []


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({"user_id": "me"}, "user_id 'me'"),
        ({"run": "A", "session_id": "7"}, "run 'A', session_id '7'"),
        ({"species": "p97"}, "species 'p97'"),
    ],
)
def test_picks_that_a_project_does_not_hold_are_refused(tmp_path, project, table, wanted, said):
    convert(table, project, facts=replace(FACTS, user_id="net", session_id="1"), to_format="copick")
    there = r"A/net_1_ribosome\.json, B/net_1_thyroglobulin\.json"
    with pytest.raises(InputError, match=rf"project has no picks of {said}; it has {there}\."):
        convert(project, tmp_path / "out.csv", facts=Facts(**wanted))
    assert not (tmp_path / "out.csv").exists()
