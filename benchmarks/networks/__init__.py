"""Compare networks that were trained for the same time; the command is ``compare.py``."""
