"""Time and memory of a tomogram and of a training step; the command is ``measure.py``."""
