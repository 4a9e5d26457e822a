"""What a folder holds: tomograms by run, where their truth is, which runs validate."""
