"""The message of an error that the bundle raises for bad input."""

from __future__ import annotations


def input_error(error: BaseException | None) -> str | None:
    """Return the message of the ``InputError`` that an exception was raised from, or None.

    Its class is compared by name, because MONAI Label reloads the bundle's modules for every request.
    """
    while error is not None:
        if type(error).__name__ == "InputError":
            return str(error)
        error = error.__cause__ or error.__context__
    return None
