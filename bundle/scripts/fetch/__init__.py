"""One command that copies remote data to this disk."""
