"""Tell the user what to change, in one line."""

from __future__ import annotations

import re
from collections.abc import Iterator

USER_INFO = re.compile(r"(?<=://)[^/\s]*@")


class InputError(ValueError):
    """A file or a setting that the user has to change.

    The message is one line: which file or key, what is wrong with it, what to do.
    """


class InputWarning(UserWarning):
    """Something in the user's data that the run survives but the user should know."""


class NoContrastWarning(InputWarning):
    """A volume is constant: nothing can be picked in it, and nothing learned from it."""


def without_user(text: str) -> str:
    """Return a text whose addresses name no user and no password."""
    return USER_INFO.sub("", text)


def chain_of(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an exception and every exception that it was raised from."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def find_input_error(error: BaseException) -> InputError | None:
    """Return the ``InputError`` that an exception was raised from, or None.

    MONAI and Ignite wrap what a transform raises; the user's line stands at the bottom of the chain.
    """
    return next((link for link in chain_of(error) if isinstance(link, InputError)), None)
