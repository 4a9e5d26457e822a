"""Tomograms and label volumes, as files and as arrays."""
