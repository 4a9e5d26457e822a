import json

from scripts.pages.batch_folder import other_settings, out_of_date


def test_the_summary_tells_which_runs_are_of_the_batch(tmp_path):
    for run, point in (("one", "f1"), ("two", "f1"), ("three", "f4"), ("four", "f4")):
        (tmp_path / run).mkdir()
        (tmp_path / run / "run.json").write_text(json.dumps({"settings": {"point": point}}))
    runs = ["one", "two", "three", "four"]
    (tmp_path / "summary.csv").write_text("run,status\nthree,done\nfour,missing\n")
    gone = "not in summary.csv"
    assert out_of_date(tmp_path, runs) == {"one": gone, "two": gone, "four": "missing in summary.csv"}


def test_runs_differ_from_the_settings_that_most_have():
    settings = {"one": {"size": 1}, "two": {"size": 2}, "three": {"size": 2}, "four": {"size": 3}}
    assert other_settings(settings) == {
        "one": "picked with other settings than two: size was 2, now it is 1",
        "four": "picked with other settings than two: size was 2, now it is 3",
    }


def test_of_settings_that_equally_many_runs_have_the_first_count():
    assert list(other_settings({"one": {"size": 1}, "two": {"size": 2}})) == ["two"]


def test_equal_settings_have_no_difference_and_neither_have_none():
    assert other_settings({"one": {"size": 1, "share": 2}, "two": {"share": 2, "size": 1}}) == {}
    assert other_settings({}) == {}
