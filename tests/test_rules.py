import math

import pytest
from scripts.errors import InputError
from scripts.rules import POSITIVE_NUMBERS, TRUE_OR_FALSE, a_number, list_of, one_of, or_null, text

NAN, INFINITE = math.nan, math.inf


@pytest.mark.parametrize(
    ("rule", "words", "taken", "refused"),
    [
        (a_number(), "a number", [0, -1.5, 10**9], ["1", None, True, NAN, INFINITE, [1], 10**400]),
        (a_number(0), "a number, 0 or more", [0, 0.5], [-1]),
        (a_number(above=0), "a number above 0", [1e-9], [0, -1]),
        (a_number(0, 1), "a number from 0 to 1", [0, 1], [-0.1, 1.1]),
        (a_number(0, below=1), "a number from 0 to less than 1", [0, 0.9], [1]),
        (a_number(above=0, most=0.5), "a number above 0 and at most 0.5", [0.5], [0, 0.6]),
        (a_number(above=0, below=1), "a number above 0 and less than 1", [0.5], [0, 1]),
        (a_number(most=2), "a number of at most 2", [-5, 2], [3]),
        (a_number(1, whole=True), "a whole number, 1 or more", [1, 7], [0, 1.0, 2.5, True]),
        (a_number(1, count=3), "three numbers, 1 or more", [[1, 2, 1], (4, 5, 6)], [4, [1, 2], [1, 2, 0], "123"]),
        (a_number(count=2), "two numbers, the smaller one first", [[1, 2], [2, 2]], [[2, 1], 3]),
        (one_of("mean", "rank"), "mean or rank", ["mean", "rank"], ["median", 0, ["mean"], None]),
        (one_of("auto", True, False), "auto, true or false", ["auto", True, False], ["true", 1, 0]),
        (one_of(0, 0.5), "0 or 0.5", [0, 0.0, 0.5], [False, 1, "0"]),
        (or_null(text("a file")), "null or a file", [None, "a.pt"], [3, ["a.pt"]]),
        (list_of(text("a file"), "some files"), "some files", [[], ["a"], ("a", "b")], ["a", [1], None]),
        (list_of(text("a file"), "a file or some", alone=True), "a file or some", ["a", ["a"]], [1, [1]]),
        (POSITIVE_NUMBERS, "a list of whole numbers, each 1 or more", [[1, 2]], [[0], 1, [1.5], "12"]),
        (TRUE_OR_FALSE, "true or false", [True, False, 0, 1], ["no", 2, 0.0, None]),
    ],
)
def test_a_rule_says_what_it_takes(rule, words, taken, refused):
    assert rule.words == words
    assert [value for value in taken if not rule.holds(value)] == []
    assert [value for value in refused if rule.holds(value)] == []


def test_what_a_rule_refuses_is_stated_with_its_name_and_value():
    with pytest.raises(InputError, match=r"^epochs is a whole number, 1 or more; got 'ten'\.$"):
        a_number(1, whole=True).require("epochs", "ten")
