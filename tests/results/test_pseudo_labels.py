"""Labels for tomograms without truth, out of the calibrated scores of their picks."""

import json
import math

import pytest
from scripts.atomic_files import write_table_of_rows
from scripts.errors import InputError
from scripts.picking.calibration import UNFITTED
from scripts.picks import Pick, read_csv, write_csv
from scripts.results.pseudo_labels import (
    counts_of_labels,
    judged_runs,
    labels_of,
    main,
    refuse_used_runs,
    without_known,
)
from scripts.results.run_folder import make_record, read_record, write_failure, write_record
from synthetic import make_species, write_weights

FIRST, SECOND = "ab" * 32, "cd" * 32
FITTED = [1.0, 0.5, 0.0, 0.0, 0.0, 0.0, -2.0]
ORIGIN = "pseudo-label of one: weights abababababab, second look cdcdcdcdcdcd"


def at(x, score, species="a", run="one", **more):
    return Pick(run, species, x, 50.0, 70.0, score, 40.0, **more)


def record_of_picks(
    run,
    lowest=0.2,
    fitted_on=("C1",),
    weights=(FITTED, FITTED),
    unfamiliar="",
    region=None,
    first=FIRST,
    second=SECOND,
    **more,
):
    """Return the record of a run after a second look, in the form that inference writes."""
    second_look = {"calibration": {"weights": list(weights), "fitted_on": list(fitted_on)}}
    second_look |= {"weights_sha256": second} if second else {}
    settings = {
        "weights_sha256": first,
        "preprocessing": {"transforms": [{"keys": ["image"]}, {"mask_path": None, "slab_z_angstrom": region}]},
        "postprocessing": {"transforms": [{"keys": ["pred"]}, {"keys": ["proposals"], "second_look": second_look}]},
    }
    expected = {name: {"lowest_probability": lowest, "picks": 1, "precision": 0.5} for name in ("a", "b")}
    facts = {"expected": expected, "unfamiliar": unfamiliar, **more}
    return make_record(run, {"path": f"{run}.mrc"}, settings, [], make_species(2), {}, 1.0, **facts)


def write_run(output_dir, run, picks, **facts):
    (output_dir / run).mkdir(parents=True)
    write_csv(output_dir / run / "picks.csv", picks)
    write_record(output_dir / run, record_of_picks(run, **facts))


@pytest.fixture
def label(tmp_path):
    """Return a function that runs the command on a folder of picks, for weights that were trained on T1 and T2."""
    weights = write_weights(
        tmp_path / "model.pt", trained_on=["T1", "T2"], selected_on=["S1"], thresholds_fitted_on=["F1"]
    )

    def run(*more):
        where = [tmp_path / "truth.csv", tmp_path / "picks", *more, "--checkpoint_path", weights]
        return main([str(word) for word in where])

    return run


def test_a_limit_of_many_digits_is_that_of_the_picks(label, tmp_path):
    write_run(tmp_path / "picks", "one", [at(0, 0.95)], lowest=0.12345)
    assert label("--uncertain", 0.12345) == 0
    assert label("--uncertain", 0.12344) == 1


def test_sure_picks_are_particles_and_doubtful_ones_are_uncertain():
    candidates = [at(0, 0.5), at(100, 0.95), at(200, 0.1), at(300, 0.9), at(400, 0.2), at(500, 0.1999)]
    labels = labels_of(record_of_picks("one"), candidates, 0.9, 0.2)
    assert [(one.x_angstrom, one.weight) for one in labels[:2]] == [(100, 0.95), (300, 0.9)]
    assert [one.x_angstrom for one in labels[2:]] == [0, 400]
    assert all(math.isnan(one.weight) for one in labels[2:])
    assert {one.origin for one in labels} == {ORIGIN}


def test_an_unfinished_folder_of_a_run_is_left_out(label, tmp_path):
    for folder in ("one", ".one.0123abcd.tmp", ".two.0123abcd.tmp"):
        write_run(tmp_path / "picks", folder, [at(0, 0.95)])
    assert label() == 0
    assert len(read_csv(tmp_path / "truth.csv")) == 1


def test_calibrated_scores_of_an_ensemble_are_labels_whose_origin_names_every_network(label, tmp_path):
    write_run(tmp_path / "picks", "one", [at(0, 0.95)], first=[FIRST, SECOND], second=None)
    assert label() == 0
    (row,) = read_csv(tmp_path / "truth.csv")
    assert row.origin == "pseudo-label of one: weights abababababab+cdcdcdcdcdcd, calibrated scores"
    assert row.weight == 0.95


def test_no_label_is_written_as_certain(label, tmp_path):
    write_run(tmp_path / "picks", "one", [at(0, 0.9999995)])
    assert label() == 0
    assert [one.weight for one in read_csv(tmp_path / "truth.csv")] == [0.999999]


def test_of_two_species_at_one_place_only_the_more_probable_is_a_particle():
    labels = labels_of(record_of_picks("one"), [at(0, 0.6, "a"), at(0, 0.7, "b")], 0.5, 0.2)
    assert (labels[0].species, labels[0].weight) == ("b", 0.7)
    assert math.isnan(labels[1].weight)


@pytest.mark.parametrize(("accept", "uncertain"), [(0.2, 0.9), (1.1, 0.2), (0.9, 0), (math.nan, 0.2)])
def test_scores_in_the_wrong_order_are_refused(accept, uncertain):
    with pytest.raises(InputError, match="0 < uncertain <= accept <= 1"):
        labels_of(record_of_picks("one"), [], accept, uncertain)


@pytest.mark.parametrize(
    ("row", "is_kept"),
    [
        (at(40, 1.0), False),
        (at(41, 1.0), True),
        (at(10, 1.0, "b"), False),  # a particle of another species
        (at(10, 1.0, "b", weight=0.0), True),  # none of another species: says nothing about this one
        (at(10, 1.0, weight=0.0), False),
        (at(10, 1.0, weight=math.nan), False),
        (at(10, 1.0, run="two"), True),
    ],
)
def test_annotations_win_within_the_radius(row, is_kept):
    assert bool(without_known([at(0, 0.95)], [row])) is is_kept


def test_labels_are_counted_by_species():
    labels = [at(0, 1.0), at(1, 1.0, weight=math.nan), at(2, 1.0, weight=0.9), at(3, 1.0, "b", weight=math.nan)]
    assert counts_of_labels(labels) == {"a": (2, 1), "b": (0, 1)}


def test_the_command_makes_one_table_of_annotations_and_labels(label, tmp_path, capsys):
    write_run(tmp_path / "picks", "one", [at(0, 0.95), at(300, 0.5)])
    write_run(tmp_path / "more", "two", [at(0, 0.99, "b", "two"), at(300, 0.1, "b", "two")])
    write_csv(tmp_path / "own.csv", [at(310, 1.0, origin="me")])
    assert label(tmp_path / "more", "--truth", tmp_path / "own.csv") == 0
    rows = [(one.run, one.species, one.x_angstrom, one.weight) for one in read_csv(tmp_path / "truth.csv")]
    assert rows == [("one", "a", 310, 1), ("one", "a", 0, 0.95), ("two", "b", 0, 0.99)]
    assert [one.origin for one in read_csv(tmp_path / "truth.csv")][:2] == ["me", ORIGIN]
    assert capsys.readouterr().out.splitlines() == [
        f"{tmp_path / 'truth.csv'}: 2 labels of 2 runs beside 1 annotations, to which 1 gave way",
        "a: 1 accepted, 0 uncertain",
        "b: 1 accepted, 0 uncertain",
    ]


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        (
            {"expected": None},
            "one: scores are not calibrated: pick with --second_look True, or with --calibration_path FILE",
        ),
        ({"lowest": 0.41}, "one: candidates with a score between 0.2 and that of the picks are needed"),
        ({"lowest": math.inf}, "pick with --operating_point \"{'probability': 0.2}\""),
        ({"region": "auto"}, "nothing was looked for outside of the mask or slab"),
        ({"unfamiliar": "skewness: 9"}, "one: scores may be wrong for these tomograms, see summary.csv"),
        ({"weights": (FITTED, list(UNFITTED))}, "scores of b are not calibrated, for want of particles"),
        ({"fitted_on": ["one"]}, "runs that are in use (calibration of the scores: one)"),
    ],
)
def test_what_cannot_be_labelled_is_refused_in_one_line(facts, said, label, tmp_path, capsys):
    write_run(tmp_path / "picks", "one", [at(0, 0.95)], **facts)
    assert label() == 1
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not (tmp_path / "truth.csv").exists()


@pytest.mark.parametrize("facts", [{"unfamiliar": "skewness: 9"}, {"weights": (FITTED, list(UNFITTED))}])
def test_uncalibrated_scores_are_taken_only_if_asked_for(facts, label, tmp_path):
    write_run(tmp_path / "picks", "one", [at(0, 0.95)], **facts)
    assert label() == 1
    assert label("--allow_uncalibrated") == 0


def test_runs_that_made_or_measure_the_weights_are_refused_by_name(label, tmp_path, capsys):
    for run in ("T1", "S1", "F1", "V1", "U1"):
        write_run(tmp_path / "picks", run, [at(0, 0.95, run=run)])
    assert label("--validation_runs", "V1") == 1
    card = tmp_path / "model.json"
    assert capsys.readouterr().err == (
        "error: no pseudo-labels for runs that are in use (validation_runs: V1; "
        f"trained_on in {card}: T1; selected_on in {card}: S1; thresholds_fitted_on in {card}: F1): leave them out.\n"
    )
    assert label("--excluded_runs", "V1", "T1", "S1", "F1") == 0
    assert {one.run for one in read_csv(tmp_path / "truth.csv")} == {"U1"}


def test_runs_that_nothing_uses_are_let_through():
    assert refuse_used_runs(["one"], {"validation_runs": ["two"]}) is None


def test_a_run_in_two_folders_is_refused(label, tmp_path, capsys):
    for folder in ("picks", "more"):
        write_run(tmp_path / folder, "one", [at(0, 0.95)])
    assert label(tmp_path / "more") == 1
    assert f"run 'one' is in {tmp_path / 'more'} and in another folder" in capsys.readouterr().err


def test_a_run_that_failed_in_one_folder_and_was_picked_in_another_counts_in_any_order(tmp_path):
    for folder, runs in (("a", ["one"]), ("b", ["one", "two"])):
        for run in runs:
            write_run(tmp_path / folder, run, [at(0, 0.95, run=run)])
    write_failure(tmp_path / "b", "one", "no memory")
    for order in ("ab", "ba"):
        found = judged_runs([tmp_path / name for name in order], 0.2)
        assert sorted(record.run for record, _ in found) == ["one", "two"]


def test_a_run_that_failed_since_is_refused(label, tmp_path, capsys):
    write_run(tmp_path / "picks", "one", [at(0, 0.95)])
    write_failure(tmp_path / "picks", "one", "no memory")
    assert label() == 1
    assert "one: failed, missing, damaged or out of date: pick again" in capsys.readouterr().err


def write_batch(tmp_path):
    """Two runs that were picked, one that failed and has no folder, and one that the batch has not come to."""
    for run in ("one", "two"):
        write_run(tmp_path / "picks", run, [at(0, 0.95, run=run)])
    write_failure(tmp_path / "picks", "lost", "no memory")
    rows = [("one", "done"), ("two", "done"), ("lost", "failed"), ("later", "missing")]
    write_table_of_rows(tmp_path / "picks" / "summary.csv", ("run", "status"), rows)


def test_runs_without_a_result_are_refused_until_they_are_left_out(label, tmp_path, capsys):
    write_batch(tmp_path)
    assert label("--excluded_runs", "two") == 1
    assert "error: later, lost: failed, missing" in capsys.readouterr().err
    assert not (tmp_path / "truth.csv").exists()


def test_a_run_that_the_summary_calls_missing_is_refused_whatever_its_folder_holds(label, tmp_path, capsys):
    write_batch(tmp_path)
    write_run(tmp_path / "picks", "later", [at(0, 0.95, run="later")])  # of settings before those of the batch
    assert label("--excluded_runs", "lost") == 1
    assert "error: later: failed, missing, damaged or out of date" in capsys.readouterr().err
    write_run(tmp_path / "more", "later", [at(0, 0.95, run="later")])
    assert label(tmp_path / "more", "--excluded_runs", "lost") == 0


def test_runs_of_different_settings_are_refused_with_the_difference(label, tmp_path, capsys):
    for folder, run, second in (("picks", "one", FIRST), ("picks", "two", SECOND), ("more", "three", SECOND)):
        write_run(tmp_path / folder, run, [at(0, 0.95, run=run)], second=second)
    assert label(tmp_path / "more") == 1
    assert capsys.readouterr().err == (
        "error: one: picked with other settings than two: postprocessing transforms second_look weights_sha256 was "
        f'"{SECOND[:56]}..., now it is "{FIRST[:56]}...: pick again with the same, leave them out by --excluded_runs, '
        "or make a table of each.\n"
    )
    assert not (tmp_path / "truth.csv").exists()
    assert label(tmp_path / "more", "--excluded_runs", "one") == 0


def test_the_training_is_told_to_leave_out_runs_of_which_nothing_is_known(label, tmp_path, capsys):
    write_batch(tmp_path)
    write_csv(tmp_path / "own.csv", [at(310, 1.0, run="later")])
    assert label("--truth", tmp_path / "own.csv", "--excluded_runs", "two", "lost", "later", "elsewhere") == 0
    assert capsys.readouterr().out.splitlines()[-1] == (
        "left out, which a training without --excluded_runs \"['lost', 'two']\" would take as empty of particles"
    )


def test_a_run_that_failed_and_was_picked_in_another_folder_is_labelled(label, tmp_path, capsys):
    write_batch(tmp_path)
    write_run(tmp_path / "more", "lost", [at(0, 0.95, run="lost")])
    assert label(tmp_path / "more", "--excluded_runs", "later") == 0
    assert "3 labels of 3 runs" in capsys.readouterr().out


def test_a_damaged_record_is_refused(label, tmp_path, capsys):
    write_run(tmp_path / "picks", "one", [at(0, 0.95)])
    (tmp_path / "picks" / "one" / "run.json").write_text("{")
    assert read_record(tmp_path / "picks" / "one") is None
    assert label() == 1
    assert "one: failed, missing, damaged or out of date" in capsys.readouterr().err


def test_a_folder_without_picks_is_refused(label, tmp_path, capsys):
    assert label() == 1
    assert f"{tmp_path / 'picks'} holds no run that inference has picked" in capsys.readouterr().err


def test_a_table_that_is_there_stays(label, tmp_path, capsys):
    write_run(tmp_path / "picks", "one", [at(0, 0.95)])
    (tmp_path / "truth.csv").write_text("mine")
    assert label() == 1
    assert "truth.csv is there already" in capsys.readouterr().err
    assert (tmp_path / "truth.csv").read_text() == "mine"
    assert label("--overwrite") == 0
    assert json.loads((tmp_path / "model.json").read_text())["trained_on"] == ["T1", "T2"]
