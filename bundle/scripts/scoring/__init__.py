"""Compare picks with the truth."""
