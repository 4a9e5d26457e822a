"""A pyramid of three levels that is written to a store and fetched from it, and stores that fail."""

import numpy as np
import zarr
from fsspec.implementations.memory import MemoryFileSystem
from scripts.fetch import __main__ as fetch

SHAPE = (6, 10, 14)
VALUES = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
SIZES = (5.0, 10.0, 20.0)
URL = "memory://data/TS_1.zarr"


def halved(values):
    return values[::2, ::2, ::2].copy()


LEVELS = (VALUES, halved(VALUES), halved(halved(VALUES)))


def multiscales(paths=("0", "1", "2")):
    datasets = [
        {"path": path, "coordinateTransformations": [{"type": "scale", "scale": [size] * 3}]}
        for path, size in zip(paths, SIZES, strict=True)
    ]
    axes = [{"name": name, "type": "space", "unit": "angstrom"} for name in "zyx"]
    return [{"version": "0.4", "axes": axes, "datasets": datasets}]


def write_pyramid(folder, zarr_format=2, paths=("0", "1", "2")):
    """Write a pyramid with the Zarr library, chunks of 4 voxels a side; in format 3 two of them are a shard's side."""
    group = zarr.open_group(str(folder), mode="w", zarr_format=zarr_format)
    described = {"multiscales": multiscales(paths)}
    group.attrs.update(described if zarr_format == 2 else {"ome": described})
    for path, values in zip(paths, LEVELS, strict=True):
        layout = {"chunks": (4, 4, 4)} if zarr_format == 2 else {"chunks": (2, 2, 2), "shards": (4, 4, 4)}
        array = group.create_array(path, shape=values.shape, dtype="f4", **layout)
        array[...] = values
    return folder


def failing(monkeypatch, ending, *errors):
    """Make the store raise these errors, one after the other, when a file with such an ending is requested."""
    left, get_file = list(errors), MemoryFileSystem.get_file

    def fail(self, path, *more, **options):
        if path.endswith(ending) and left:
            raise left.pop(0)
        return get_file(self, path, *more, **options)

    monkeypatch.setattr(MemoryFileSystem, "get_file", fail)
    return left


def run(folder, *more, url=URL):
    return fetch.main([url, str(folder), *more])


def visible(folder):
    return sorted(path.name for path in folder.iterdir() if path.name != fetch.FETCH_LOCK)
