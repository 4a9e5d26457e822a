"""The modules of the bundle; the README describes the path of the data through them."""
