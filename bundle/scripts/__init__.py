"""The modules of the bundle; the way of the data stands in the README."""
