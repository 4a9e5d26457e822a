"""What was annotated in the runs of a folder."""

import json
from pathlib import Path

import pytest
from dataset_files import touch, write_truth
from scripts.datasets.annotated import Annotated, require_annotated
from scripts.datasets.truth import list_labelled_runs
from scripts.errors import InputError
from synthetic import make_species


@pytest.fixture
def three_runs(tmp_path):
    """Runs A, B and C in one folder, with a table."""
    folder = tmp_path / "runs"
    for run in "ABC":
        touch(folder / f"{run}.mrc")
    write_truth(folder, *"ABC")
    return folder


def entries_of(rows):
    return [Annotated.of_row(row) for row in rows]


def test_without_a_word_everything_was_annotated_and_the_rows_stay_as_they_are(three_runs):
    rows = list_labelled_runs(three_runs)
    assert [set(row) for row in rows] == [{"image", "run", "label"}] * 3
    assert entries_of(rows) == [Annotated()] * 3


def test_the_file_beside_the_truth_says_what_was_annotated(three_runs):
    touch(three_runs.parent / "masks" / "C.mrc")
    content = {
        "A": ["a"],
        "B": {"region": {"z_angstrom": [10, 20.5]}, "complete": False},
        "*": {"species": ["a", "b"], "region": "../masks/{run}.mrc"},
    }
    (three_runs / "annotated.json").write_text(json.dumps(content))
    assert entries_of(list_labelled_runs(three_runs)) == [
        Annotated(species=("a",)),
        Annotated(complete=False, box=(("z_angstrom", (10, 20.5)),)),
        Annotated(species=("a", "b"), mask=str(three_runs / "../masks/C.mrc")),
    ]


def test_the_setting_goes_before_the_file_and_names_one_or_holds_the_entries(three_runs, tmp_path):
    (three_runs / "annotated.json").write_text('{"A": ["a"]}')
    (tmp_path / "other.json").write_text('{"B": ["b"]}')
    named, held = (
        entries_of(list_labelled_runs(three_runs, annotated=value))
        for value in (str(tmp_path / "other.json"), {"C": []})
    )
    assert named == [Annotated(), Annotated(species=("b",)), Annotated()]
    assert held == [Annotated(), Annotated(), Annotated(species=())]


def test_the_file_of_a_folder_names_runs_of_this_folder_alone(two_folders):
    file = Path(two_folders[0], "annotated.json")
    file.write_text('{"C": ["a"]}')
    message = r"one/annotated\.json: there is no run C; the runs are A, B\."
    with pytest.raises(InputError, match=message):
        list_labelled_runs(two_folders, repeat_runs=True)
    file.unlink()
    rows = list_labelled_runs(two_folders, repeat_runs=True, annotated={"C": ["a"]})  # the setting is of all folders
    assert [row["run"] for row in rows if "annotated" in row] == ["C"]


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"D": ["a"]}, "there is no run D; the runs are A, B, C"),
        ({"A": "a"}, "'A': an entry is a list of species, or an object with species, region, complete; got a"),
        ({"A": {"regions": {}}}, "'A': unknown key regions; known are species, region, complete"),
        ({"A": {"species": "a"}}, "'A': species is a list of names; got a"),
        ({"A": {"complete": "no"}}, "'A': complete is true or false; got no"),
        (
            {"*": {"region": {"z_angstrom": [9, 3]}}},
            r"region is the path of a mask, or a box .* got {'z_angstrom': \[9, 3\]}",
        ),
        ({"*": {"region": {"z": [3, 9]}}}, "region is the path of a mask, or a box"),
        ({"A": {"region": "mask.mrc"}}, "'A': cannot read the mask mask.mrc: no such file"),
    ],
)
def test_an_entry_that_cannot_be_used_is_refused_with_its_name(three_runs, entries, message):
    with pytest.raises(InputError, match=message):
        list_labelled_runs(three_runs, annotated=entries)


def test_a_file_that_is_no_table_of_runs_is_refused(three_runs):
    for text, message in (("[]", "needs an object with an entry per run"), ("{", "is not valid JSON")):
        (three_runs / "annotated.json").write_text(text)
        with pytest.raises(InputError, match=f"annotated.json {message}"):
            list_labelled_runs(three_runs)
    with pytest.raises(InputError, match=r"cannot read .*gone.json"):
        list_labelled_runs(three_runs, annotated=str(three_runs / "gone.json"))


def test_a_species_that_was_annotated_nowhere_or_is_unknown_is_refused(three_runs):
    both = make_species(2)
    require_annotated(list_labelled_runs(three_runs), both)
    require_annotated(list_labelled_runs(three_runs, annotated={"A": ["a"], "*": ["b"]}), both)
    with pytest.raises(InputError, match="b: annotated in none of the runs to train on"):
        require_annotated(list_labelled_runs(three_runs, annotated={"*": ["a"]}), both)
    alone = list_labelled_runs(three_runs, annotated={"*": {"complete": False}, "A": ["a"]})
    with pytest.raises(InputError, match=r"b: points alone in every run, .* points_alone\.json"):
        require_annotated(alone, both)
    require_annotated(alone, both, needs_background=False)
    with pytest.raises(InputError, match="what was annotated in run 'A': unknown species 'ribosom'"):
        require_annotated(list_labelled_runs(three_runs, annotated={"A": ["ribosom"]}), both)
