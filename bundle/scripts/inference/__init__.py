"""Sliding-window inference of a volume."""
