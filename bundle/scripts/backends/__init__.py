"""The network in other programs' file formats: exported, and loaded from them."""
