"""Every row of the page of bad inputs and faults names tests that exist, or says what is not noticed."""

import ast
import functools
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "reference" / "faults.md"
ROWS = re.findall(r"^\| (\w+) \| (.+) \| (.+) \| (.*) ?\|$", PAGE.read_text(), flags=re.MULTILINE)
OLDER = [*(f"S{n}" for n in range(1, 19)), *(f"B{n}" for n in range(1, 4)), *(f"C{n}" for n in range(1, 9))]
LABELS = [f"L{n}" for n in range(1, 18)]
TEST = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")


@functools.cache
def functions_in(file):
    """Return the names of the test functions of a module."""
    module = ast.parse((ROOT / file).read_text()) if (ROOT / file).is_file() else ast.Module([], [])
    return {node.name for node in module.body if isinstance(node, ast.FunctionDef)}


def test_every_fault_has_one_row_in_its_place():
    assert [number for number, *_ in ROWS] == [str(number) for number in range(1, 47)] + OLDER + LABELS


@pytest.mark.parametrize(("comes", "tests"), [row[2:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_a_row_names_tests_that_exist_or_says_what_is_not_noticed(comes, tests):
    assert TEST.sub("", tests).strip() == ""
    named = TEST.findall(tests)
    assert named or comes.startswith("not noticed")
    for file, name in named:
        assert name in functions_in(file), f"{file}::{name}"
