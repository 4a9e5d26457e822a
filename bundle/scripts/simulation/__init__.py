"""Simulation of tomograms with known truth."""
