"""Picks against truth."""
