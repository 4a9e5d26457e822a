"""Tomograms in a folder by run, where their truth is, and which runs are for validation."""
