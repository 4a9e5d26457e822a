"""How much memory of files a process holds."""

from pathlib import Path


def mapped_mib():
    """Return how much memory of files is in this process."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssFile"))
    return int(line.split()[1]) / 1024
