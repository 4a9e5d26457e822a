from dataset_files import touch
from scripts.datasets.splits import split_runs


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
    assert "one run only" in caplog.text


def test_validation_leaves_names_of_two_folders_alone(two_folders, caplog):
    assert split_runs(two_folders, []) == ["C"]
    assert split_runs(two_folders, [], without=["C"]) == ["A"]
    assert split_runs(two_folders, [], without=["A", "C"]) == []
    assert split_runs([two_folders[0]] * 2, []) == ["B"]
    assert caplog.text == ""
