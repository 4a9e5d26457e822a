"""The same network in another program's file."""
