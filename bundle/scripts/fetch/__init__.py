"""Remote data, copied to this disk by one command."""
