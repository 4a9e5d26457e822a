"""Screen changes of the training recipe, one at a time; the command is ``screen.py``."""
