"""Rules for the values of settings: each describes the values that are allowed, and checks one."""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Integral
from typing import Any, NamedTuple

from scripts.errors import InputError, is_finite_number


class Rule(NamedTuple):
    """The values that a setting may have.

    Attributes:
        words: describe them, for messages and the page of settings.
        holds: returns whether a value is one of them.
    """

    words: str
    holds: Callable[[Any], bool]

    def require(self, name: str, value: Any) -> None:
        """Raise ``InputError`` if the setting of that name cannot have the value."""
        if not self.holds(value):
            raise InputError(f"{name} is {self.words}; got {value!r}.")


def a_number(
    least: float = -math.inf,
    most: float = math.inf,
    above: float = -math.inf,
    below: float = math.inf,
    count: int = 1,
    whole: bool = False,
) -> Rule:
    """Return the rule of a finite number, or of a list of ``count`` numbers, of which two are from ... to.

    Args:
        least: smallest number.
        most: largest number.
        above: in place of ``least``, where that itself is not possible.
        below: in place of ``most``, where that itself is not possible.
        count: 1, 2 or 3.
        whole: only whole numbers.
    """
    words = f"{('a', 'two', 'three')[count - 1]} {'whole ' * whole}number{'s' * (count > 1)}"
    words += _range_in_words(least, most, above, below)

    def holds(value: Any) -> bool:
        numbers = [value] if count == 1 else value
        return (
            isinstance(numbers, list | tuple)
            and len(numbers) == count
            and all(is_finite_number(one) and least <= one <= most and above < one < below for one in numbers)
            and all(isinstance(one, Integral) for one in numbers if whole)
            and (count != 2 or numbers[0] <= numbers[1])
        )

    return Rule(words + ", the smaller one first" * (count == 2), holds)


def _range_in_words(least: float, most: float, above: float, below: float) -> str:
    end = f"at most {most}" if most < math.inf else f"less than {below}" if below < math.inf else ""
    if above > -math.inf:
        return f" above {above}" + (f" and {end}" if end else "")
    if least > -math.inf:
        return f" from {least} to {end.removeprefix('at most ')}" if end else f", {least} or more"
    return f" of {end}" if end else ""


def one_of(*values: str | float | bool) -> Rule:
    """Return the rule of a setting that is one of a few words, numbers or true and false."""
    words = " or ".join(filter(None, [", ".join(map(_in_json, values[:-1])), _in_json(values[-1])]))
    return Rule(words, lambda value: any(value == one and _kind(value) is _kind(one) for one in values))


def or_null(rule: Rule) -> Rule:
    """Return the rule of a setting that may also be null."""
    return Rule(f"null or {rule.words}", lambda value: value is None or rule.holds(value))


def text(words: str) -> Rule:
    """Return the rule of a text, for example of a path."""
    return Rule(words, lambda value: isinstance(value, str))


def list_of(rule: Rule, words: str, alone: bool = False) -> Rule:
    """Return the rule of a list.

    Args:
        rule: of each of its entries.
        words: for all of it.
        alone: an entry may also stand without a list.
    """

    def holds(value: Any) -> bool:
        return (isinstance(value, list | tuple) and all(map(rule.holds, value))) or (alone and rule.holds(value))

    return Rule(words, holds)


def _in_json(value: str | float | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _kind(value: Any) -> type:
    return float if is_finite_number(value) else type(value)


TRUE_OR_FALSE = Rule("true or false", lambda value: isinstance(value, int) and value in (0, 1))
POSITIVE_NUMBERS = list_of(a_number(1, whole=True), "a list of whole numbers, each 1 or more")
