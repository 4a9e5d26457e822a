"""Networks that were trained for the same time, compared; the command is ``compare.py``."""
