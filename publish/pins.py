"""Print the packages of a bundle's metadata as pip takes them: ``pip install --dry-run $(python publish/pins.py)``."""

import sys
from pathlib import Path

from check_metadata import pins_of

if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parents[1] / "bundle"
    print(*(f"{package}=={version}" for package, version in pins_of(folder).items()), sep="\n")
