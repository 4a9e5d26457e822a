"""Write a volume as an MRC file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mrcfile
from numpy.typing import NDArray

from scripts.atomic_files import write_atomically


def write_mrc(path: Path, volume: NDArray[Any], voxel_size_angstrom: float) -> None:
    """Write a volume ``[z, y, x]`` as MRC, without the timestamp that the library writes into every header."""
    with write_atomically(path, "wb") as place, mrcfile.new(place.name, overwrite=True) as file:
        file.set_data(volume)
        file.voxel_size = voxel_size_angstrom
        file.header.label[0] = b"simulated"
