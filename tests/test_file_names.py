import pytest
from scripts.errors import InputError
from scripts.file_names import fault_of_name, refuse_look_alikes, require_file_name


@pytest.mark.parametrize(
    "name", ["TS_01", "TS 01 (b)", "a.b.c", "Ångström", "console", "COM", "com10", "x" * 230, "a:b"]
)
def test_an_ordinary_name_passes(name):
    assert require_file_name(name, "run") == name


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("", "is empty"),
        ("a/b", "holds a slash"),
        ("a\\b", "holds a slash"),
        ("a\0", "holds a character that cannot be printed"),
        ("\ud800", "holds a character that cannot be printed"),
        ("..", "starts with a dot"),
        (".lock", "starts with a dot"),
        ("a.", "ends with a dot or a space"),
        ("a ", "ends with a dot or a space"),
        ("con", "is the name of a device in Windows"),
        ("LPT1.tar.gz", "is the name of a device in Windows"),
        ("é" * 116, "is longer than 230 bytes"),
    ],
)
def test_a_name_that_no_file_can_have_everywhere_has_a_fault(name, fault):
    assert fault_of_name(name) == fault


def test_a_refusal_is_one_line_that_names_the_file():
    with pytest.raises(InputError) as refusal:
        require_file_name("a\nb" + "x" * 100, "run", "picks.csv, particle 3")
    shown = "a\\nb" + "x" * 73
    expected = f"the run '{shown}...' holds a character that cannot be printed; a file or folder is called after it."
    assert str(refusal.value) == f"picks.csv, particle 3: {expected} Rename it."


def test_names_that_only_look_alike_are_refused():
    refuse_look_alikes(["e\u0301", "a"], ["e\u0301", "\u00e9"], "truth.csv")
    with pytest.raises(
        InputError, match=r"truth\.csv writes the accents of run 'e\u0301' in another way than its file"
    ):
        refuse_look_alikes(["a", "e\u0301"], ["\u00e9"], "truth.csv")
