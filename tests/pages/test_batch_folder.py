from scripts.pages.batch_folder import other_settings


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
