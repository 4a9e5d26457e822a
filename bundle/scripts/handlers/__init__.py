"""Ignite handlers, which attach the other packages to the events of MONAI's engines."""
