"""Why a bundle may not be published."""


class Refusal(Exception):
    """One line: which file, and where in it, what is wrong, what to do."""
