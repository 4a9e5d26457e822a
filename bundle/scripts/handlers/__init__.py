"""The work of the other packages, joined to the events of MONAI's engines."""
