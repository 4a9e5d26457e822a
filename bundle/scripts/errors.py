"""Errors and warnings for the user: one line each, which says what to change."""

from __future__ import annotations

import argparse
import math
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from numbers import Real
from pathlib import Path
from typing import Any

FEW = 3  # names that a message lists
USER_INFO = re.compile(r"(?<=://)[^/\s]*@")


class InputError(ValueError):
    """A file or a setting that the user has to change.

    The message is one line: which file or key, what is wrong with it, what to do.
    """


class InputWarning(UserWarning):
    """A problem in the user's data that does not stop the run."""


class NoContrastWarning(InputWarning):
    """A volume is constant: it holds nothing to pick or to learn from."""


def first_few(names: Iterable[object]) -> str:
    """Return names as a message lists them: the first `FEW`, and how many more there are."""
    words = [str(name) for name in names]
    return ", ".join(words[:FEW]) + (f" and {len(words) - FEW} more" if words[FEW:] else "")


def is_finite_number(value: Any) -> bool:
    """Return whether a setting is a finite number: no text, no True or False, and no whole number beyond any float."""
    is_real = isinstance(value, Real) and not isinstance(value, bool)
    return bool(is_real and abs(value) <= sys.float_info.max)


def positive_number(text: str) -> float:
    """Return the number that an option of a command-line tool was given.

    Raises:
        argparse.ArgumentTypeError: it is none, or not positive.
    """
    value = _number_or_nan(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a positive number; got {text}")
    return value


def comma_separated(text: str) -> list[str]:
    """Return the names in ``A,B``, for argparse."""
    return [name.strip() for name in text.split(",")]


def finite_number(text: str) -> float:
    """Return the number that an option of a command-line tool was given.

    Raises:
        argparse.ArgumentTypeError: it is none, or not finite.
    """
    value = _number_or_nan(text)
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"must be a number; got {text}")
    return value


def _number_or_nan(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def positive_whole_number(text: str) -> int:
    """Return the whole number that an option of a command-line tool was given.

    Raises:
        argparse.ArgumentTypeError: it is none, or not positive.
    """
    if not (text.isdecimal() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"must be a positive whole number; got {text}")
    return int(text)


def without_user(text: str) -> str:
    """Return a text without the user names and passwords in its URLs."""
    return USER_INFO.sub("", text)


def chain_of(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an exception and, one after the other, the exceptions that caused it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def find_input_error(error: BaseException) -> InputError | None:
    """Return the ``InputError`` that an exception was raised from, or None.

    MONAI and Ignite wrap the exceptions of transforms, so the ``InputError`` is often the last cause in the chain.
    """
    return next((link for link in chain_of(error) if isinstance(link, InputError)), None)


def reason_of(error: BaseException) -> str:
    """Return what an exception says, on one line and without a full stop; its class if it says nothing."""
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    return " ".join(text.split()).rstrip(".") or type(error).__name__


@contextmanager
def blame(path: str | Path, kind: str, faults: tuple[type[Exception], ...]) -> Iterator[None]:
    """Turn a library's exceptions into an ``InputError`` that names the damaged file.

    Args:
        path: the file or folder that is read.
        kind: what it is, for example ``NIfTI file``.
        faults: the exceptions that the library raises for damaged content.

    Raises:
        InputError: names the file and the library's reason.
    """
    try:
        yield
    except InputError:
        raise
    except faults as error:
        raise InputError(f"{path} is a damaged {kind}: {reason_of(error)}.") from error


def report_input_warnings_in_one_line() -> None:
    """Print every ``InputWarning`` as one line, each time it occurs; other warnings are shown as before."""
    show_others = warnings.showwarning
    warnings.simplefilter("always", InputWarning)

    def show(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
        if issubclass(category, InputWarning):
            print(f"warning: {message}", file=sys.stderr)
        else:
            show_others(message, category, *place, **more)

    warnings.showwarning = show


def run_tool(work: Callable[[], None], resumable: bool = False) -> int:
    """Do the work of a command-line tool and return its exit status; errors and warnings for the user take one line.

    Args:
        work: prints its results.
        resumable: after Ctrl-C, print that the same command resumes the work, and return 130.
    """
    try:
        with warnings.catch_warnings():
            report_input_warnings_in_one_line()
            work()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        if not resumable:
            raise
        print("stopped: the same command resumes the work", file=sys.stderr)
        return 130
    return 0
