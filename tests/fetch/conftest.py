import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from remote_pyramid import write_pyramid
from scripts.fetch import stores


@pytest.fixture
def store():
    """The store behind ``memory://``, empty."""
    fs = fsspec.filesystem("memory")
    fs.store.clear()
    fs.pseudo_dirs[:] = [""]
    yield fs
    fs.store.clear()


@pytest.fixture
def asked(store, monkeypatch):
    """Paths below the pyramid that are requested, in order."""
    paths, get_file = [], MemoryFileSystem.get_file

    def note(self, path, *more, **options):
        paths.append(path.partition(".zarr/")[2])
        return get_file(self, path, *more, **options)

    monkeypatch.setattr(MemoryFileSystem, "get_file", note)
    return paths


@pytest.fixture
def remote(store, tmp_path):
    """Write the pyramid to `URL`."""
    store.put(str(write_pyramid(tmp_path / "source.zarr")), "/data/TS_1.zarr", recursive=True)
    return store


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(stores, "WAITS", (0.0, 0.0, 0.0))
