import json

import pytest
from dataset_files import touch
from hypothesis import given, settings
from hypothesis import strategies as st
from scripts.copick_tree import tomogram_path
from scripts.datasets.splits import fold_runs, plan_folds, share_of_runs, split_runs
from scripts.errors import InputError, InputWarning
from scripts.picks import Pick, write_copick_json, write_csv
from synthetic import make_species


def test_every_fifth_run_is_for_validation_unless_named(tmp_path):
    for number in range(1, 8):
        touch(tmp_path / f"T{number}.mrc")
    assert split_runs(tmp_path, []) == ["T7", "T2"]
    assert split_runs(tmp_path, ["T1"]) == ["T1"]


def test_excluded_runs_are_not_validated_on(tmp_path):
    for number in range(1, 4):
        touch(tmp_path / f"T{number}.mrc")
    assert split_runs(tmp_path, [], without=["T3"]) == ["T2"]
    assert split_runs(tmp_path, ["T1", "T3"], without=["T3"]) == ["T1"]


def test_a_single_run_is_not_split(tmp_path, caplog):
    touch(tmp_path / "only.mrc")
    assert split_runs(tmp_path, []) == []
    assert "one run only that may be held out: all are trained on, and nothing is left to validate on" in caplog.text


def test_validation_leaves_names_of_two_folders_alone(two_folders, caplog):
    assert split_runs(two_folders, []) == ["C"]
    assert split_runs(two_folders, [], without=["C"]) == ["A"]
    assert split_runs([two_folders[0]] * 2, []) == ["B"]
    assert caplog.text == ""
    assert split_runs(two_folders, [], without=["A", "C"]) == []
    assert "holds no run that may be held out" in caplog.text


COUNTS = st.dictionaries(
    st.text("abcdef", min_size=1, max_size=3),
    st.fixed_dictionaries({"x": st.integers(0, 30), "y": st.integers(0, 3)}),
    min_size=2, max_size=14,
)  # fmt: skip


def imbalance(counts, folds):
    """Return the squared differences between the folds' shares of every species and equal ones, summed."""
    total = 0.0
    for name in ("x", "y"):
        everything = max(sum(row[name] for row in counts.values()), 1)
        shares = [sum(counts[run][name] for run in runs) / everything for runs in folds]
        total += sum((share - sum(shares) / len(folds)) ** 2 for share in shares)
    return total


@settings(max_examples=60, deadline=None)
@given(counts=COUNTS, folds=st.integers(2, 5), seed=st.integers(0, 3))
def test_folds_hold_every_run_once_and_are_no_less_balanced_than_dealt_out(counts, folds, seed):
    found = fold_runs(counts, folds, seed)
    assert sorted(run for runs in found for run in runs) == sorted(counts)
    assert max(map(len, found)) - min(map(len, found)) <= 1
    assert fold_runs(dict(reversed(counts.items())), folds, seed) == found
    dealt_out = fold_runs({run: {} for run in counts}, folds, seed)
    assert imbalance(counts, found) <= imbalance(counts, dealt_out) + 1e-9


def test_a_rare_species_is_spread_over_the_folds():
    counts = {f"T{number}": {"common": 10, "rare": int(number in (0, 3, 6))} for number in range(9)}
    for seed in range(5):
        folds = fold_runs(counts, 3, seed)
        assert [sum(counts[run]["rare"] for run in runs) for runs in folds] == [1, 1, 1]
    assert fold_runs(counts, 3, 0) != fold_runs(counts, 3, 1)


def write_truth(folder, counts):
    rows = [Pick(run, "a", 10.0, 10.0, 10.0 * place) for run, count in counts.items() for place in range(count)]
    write_csv(folder / "truth.csv", rows)


def test_a_share_for_validation_holds_that_share_of_the_particles(tmp_path):
    counts = {f"T{number}": 40 if number in (1, 6) else 4 for number in range(8)}
    for run in counts:
        touch(tmp_path / f"{run}.mrc")
    write_truth(tmp_path, counts)
    for seed in range(3):
        chosen = split_runs(tmp_path, [], validation_share=0.5, species_names=["a"], seed=seed)
        assert (len(chosen), sum(counts[run] for run in chosen)) == (4, 52)
    assert len(split_runs(tmp_path, [], ["T1"], validation_share=0.25, species_names=["a"])) == 2
    assert split_runs(tmp_path, ["T3"], validation_share=0.5, species_names=["a"]) == ["T3"]


@pytest.mark.parametrize(
    ("runs", "share", "held_out"),
    [(20, 0.5, 10), (20, 0.45, 9), (20, 0.4, 8), (20, 0.3, 6), (20, 0.25, 5), (20, 0.2, 4), (40, 0.05, 2), (7, 0.4, 3),
     (5, 0.4, 2), (2, 0.4, 1), (1, 0.1, 1), (100, 0.35, 34), (14, 0.3, 4)],
)  # fmt: skip
def test_the_share_of_runs_and_of_every_species_is_near_the_wanted_one(runs, share, held_out):
    counts = {f"T{number:02}": {"common": 10 + number % 3, "rare": number % 2} for number in range(runs)}
    for seed in range(3):
        chosen = share_of_runs(counts, share, seed)
        assert len(set(chosen)) == len(chosen) == held_out
        for name in ("common", "rare") if runs == 20 else ():
            total = sum(row[name] for row in counts.values())
            assert sum(counts[run][name] for run in chosen) == pytest.approx(share * total, abs=1.5)


@pytest.mark.parametrize(("share", "folds"), [(0.5, 2), (0.25, 4), (0.2, 5), (0.1, 10), (0.03, 33)])
def test_a_share_of_one_fold_is_the_first_fold(share, folds):
    for runs in range(1, 14):
        counts = {f"T{number:02}": {"a": number, "b": number % 2} for number in range(runs)}
        assert share_of_runs(counts, share) == fold_runs(counts, folds)[0]


def test_a_share_that_leaves_too_little_to_train_on_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"validation_share is null or a number above 0 and at most 0\.5; got 0\.8"):
        split_runs(tmp_path, [], validation_share=0.8)


@pytest.fixture
def part_pseudo_labelled(tmp_path):
    """Six runs: annotated, with a pseudo-label as well, without a particle, rejected alone, pseudo-labels alone."""
    weights = {"T1": [1], "T2": [1], "T3": [1, 0.9], "T4": [], "T5": [0], "T6": [0.9, float("nan"), 0]}
    for run in weights:
        touch(tmp_path / f"{run}.mrc")
    rows = [Pick(run, "a", 10.0, 10.0, 10.0, weight=weight) for run, own in weights.items() for weight in own]
    write_csv(tmp_path / "truth.csv", rows)
    return tmp_path


@pytest.mark.filterwarnings("ignore:.*has no particle of T4")
def test_runs_of_pseudo_labels_alone_are_in_no_fold(part_pseudo_labelled, caplog):
    caplog.set_level("INFO")
    plan = plan_folds(part_pseudo_labelled, 2, make_species(1))
    assert sorted(run for runs in plan.runs for run in runs) == ["T1", "T2", "T3", "T4", "T5"]
    assert caplog.messages == ["T6: pseudo-labels alone, so they are trained on and never held out"]
    with pytest.raises(
        InputError, match=r"holds 5 tomograms that may be held out \(T1, T2, T3, T4, T5\), too few for 6"
    ):
        plan_folds(part_pseudo_labelled, 6, make_species(1))


@pytest.mark.filterwarnings("ignore:.*has no particle of T4")
def test_runs_of_pseudo_labels_alone_are_not_validated_on(part_pseudo_labelled, caplog):
    caplog.set_level("INFO")
    assert split_runs(part_pseudo_labelled, []) == ["T5"]
    for seed in range(5):
        chosen = split_runs(part_pseudo_labelled, [], validation_share=0.5, species_names=["a"], seed=seed)
        assert "T6" not in chosen
    assert set(caplog.messages) == {"T6: pseudo-labels alone, so they are trained on and never held out"}
    caplog.clear()
    assert split_runs(part_pseudo_labelled, ["T6"]) == ["T6"]
    assert split_runs(part_pseudo_labelled, [], without=["T6"]) == ["T5"]
    assert caplog.messages == []


@pytest.mark.parametrize("share", [None, 0.5])
def test_the_one_run_beside_pseudo_labels_is_trained_on(part_pseudo_labelled, caplog, share):
    others = ["T2", "T3", "T4", "T5"]
    settings = {"validation_share": share, "species_names": ["a"]}
    assert split_runs(part_pseudo_labelled, [], others, **settings) == []
    assert "holds one run only that may be held out" in caplog.text
    caplog.clear()
    assert split_runs(part_pseudo_labelled, [], [*others, "T1"], **settings) == []
    assert "holds no run that may be held out" in caplog.text
    assert len(split_runs(part_pseudo_labelled, [], others[1:], **settings)) == 1


@pytest.fixture
def four_annotated(tmp_path):
    """Four runs with a particle of a and one of b each."""
    runs = ("T1", "T2", "T3", "T4")
    for run in runs:
        touch(tmp_path / f"{run}.mrc")
    write_csv(tmp_path / "truth.csv", [Pick(run, name, 10.0, 10.0, 10.0) for run in runs for name in "ab"])
    return tmp_path


ALONE = {"complete": False}


@pytest.mark.parametrize("is_file", [True, False])
def test_runs_of_points_alone_are_not_validated_on(is_file, four_annotated, caplog):
    caplog.set_level("INFO")
    entries = {"T4": ALONE, "T2": {"species": ["a"], **ALONE}}
    if is_file:
        (four_annotated / "annotated.json").write_text(json.dumps(entries))
    annotated = None if is_file else entries
    assert split_runs(four_annotated, [], annotated=annotated) == ["T3"]
    assert caplog.messages == ["T2, T4: points alone, so they are trained on and never held out"]
    for seed in range(5):
        share = {"validation_share": 0.5, "species_names": ["a", "b"], "seed": seed}
        assert split_runs(four_annotated, [], annotated=annotated, **share)[0] in ("T1", "T3")


def test_without_a_run_to_validate_on_points_alone_are_trained_on(four_annotated, caplog):
    assert split_runs(four_annotated, [], annotated={"*": ALONE}) == []
    assert "holds no run that may be held out: all are trained on" in caplog.text
    caplog.clear()
    assert split_runs(four_annotated, [], annotated={"*": ALONE, "T1": ["a", "b"]}) == []
    assert "holds one run only that may be held out: all are trained on" in caplog.text


def test_given_runs_of_points_alone_are_validated_on_with_a_warning(four_annotated):
    with pytest.warns(InputWarning, match="^T4: points alone, so that wrong picks are not counted there"):
        assert split_runs(four_annotated, ["T3", "T4"], annotated={"*": ALONE, "T3": ["a"]}) == ["T3", "T4"]
    assert split_runs(four_annotated, ["T3"], annotated={"*": ALONE, "T3": ["a"]}) == ["T3"]


def test_runs_of_points_alone_are_in_no_fold_but_their_particles_are_trained_on(four_annotated, caplog):
    caplog.set_level("INFO")
    entries = {"T1": ["a"], "T2": ["a"], "T4": ALONE}
    plan = plan_folds(four_annotated, 3, make_species(2), annotated=entries, needs_background=False)
    assert sorted(run for runs in plan.runs for run in runs) == ["T1", "T2", "T3"]
    assert caplog.messages == ["T4: points alone, so they are trained on and never held out"]
    assert plan.counts == {"T1": {"a": 1, "b": 0}, "T2": {"a": 1, "b": 0}, "T3": {"a": 1, "b": 1}}
    with pytest.raises(InputError, match=r"holds 3 tomograms that may be held out \(T1, T2, T3\), too few for 4 folds"):
        plan_folds(four_annotated, 4, make_species(2), annotated=entries)


def test_a_fold_without_which_nothing_could_be_trained_is_refused(four_annotated):
    message = r"the network of fold \d could not be trained without T3: b: points alone in every run"
    with pytest.raises(InputError, match=message):
        plan_folds(four_annotated, 3, make_species(2), annotated={"T1": ["a"], "T2": ["a"], "T4": ALONE})
    with pytest.raises(
        InputError, match=r"fold \d could not be trained without T\d.*: .* annotated in run 'T2': .*'c'"
    ):
        plan_folds(four_annotated, 3, make_species(2), annotated={"T2": ["a", "b", "c"]})


def test_all_kinds_of_a_run_are_in_one_fold(tmp_path):
    for run in ("one", "two", "three"):
        for kind in ("wbp", "denoised"):
            touch(tomogram_path(tmp_path, run, 10.0, kind) / ".zattrs")
        write_copick_json(
            tmp_path / "ExperimentRuns" / run / "Picks" / "me_1_a.json", [Pick(run, "a", 90.0, 90.0, 90.0)], run=run,
            species="a", voxel_size_angstrom=10.0, user_id="me", session_id="1",
        )  # fmt: skip
    plan = plan_folds(tmp_path, 3, make_species(1), tomogram_kind=["wbp", "denoised"])
    assert sorted(run for runs in plan.runs for run in runs) == ["one", "three", "two"]
    assert plan.counts == {run: {"a": 1} for run in ("one", "two", "three")}
    assert "| **0** | **all 1** | 1 |" in plan.table()
