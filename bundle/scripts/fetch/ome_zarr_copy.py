"""Copying one level of a remote OME-Zarr to this disk, file by file.

Folders are not listed, because plain web servers cannot do that: the metadata determine which files there are. Names of
local files are built from numbers alone, so that a server cannot make us write outside of the new folder.
"""

from __future__ import annotations

import json
import re
from collections.abc import Generator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event
from typing import Any

from tqdm import tqdm

from scripts.atomic_files import remove_temporaries, write_folder_atomically
from scripts.errors import InputError
from scripts.fetch.stores import AccessRefused, Source, fact_of, fetch_file
from scripts.volumes.ome_zarr import ZARR_MARKS, Level, check_ome_zarr, find_level, is_zarr, list_chunks

MAX_METADATA_BYTES = 2**22
MAX_CHUNKS = 2**18
THREADS = 8
LEVEL_PATH = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)*", re.ASCII)
ONLY_LEVEL = "0"  # where copick looks for the finest level
ORIGIN = "fetched_from"  # attribute in the metadata of a copy


def choose_level(source: Source, wanted_voxel_size_angstrom: float | None = None) -> Level:
    """Return the level that the reader would take, the one nearest to a voxel size; only metadata is fetched.

    Raises:
        InputError: there is no OME-Zarr, its metadata is damaged or not safe, or no temporary folder can be written to.
    """
    try:
        with TemporaryDirectory() as folder, _called(source, Path(folder)):
            _fetch_metadata(source, "", Path(folder))
            level = find_level(Path(folder), wanted_voxel_size_angstrom)
            if level.path and not LEVEL_PATH.fullmatch(level.path):
                raise InputError(f"{source.url}: its metadata name an array {level.path!r}, which is no plain path.")
            return level
    except OSError as error:  # of this machine: those of the store are InputErrors
        raise InputError(
            f"cannot write to a temporary folder: {fact_of(error, source.secrets)}. Set TMPDIR to one with room."
        ) from error


def fetch_level(source: Source, level: Level, target: Path, allow_missing_chunks: bool = False) -> bool:
    """Copy one level to this disk as a pyramid with only that level.

    The copy gets its name only once it is complete and checked. Only one process at a time may write to the folder of
    ``target``.

    Args:
        source: the pyramid.
        level: as returned by `choose_level`.
        target: the new Zarr folder.
        allow_missing_chunks: treat chunks that the store does not have as full of the fill value.

    Returns:
        Whether it was fetched; False if ``target`` already is a copy of the same level of the same source.

    Raises:
        InputError: ``target`` is something else, or the level is incomplete, damaged, or cannot be read or written.
    """
    origin = f"{source.url}/{level.path}".rstrip("/")
    if target.exists():
        if _origin_of(target) == origin:
            return False
        raise InputError(f"{target} is there already, and not from {origin}: move it away, or choose another folder.")
    remove_temporaries(target.parent, target.name)
    with write_folder_atomically(target) as new, _called(source, new, level.path):
        _fetch_metadata(source, "", new)
        _keep_one_level(new, level, origin)
        array = new / ONLY_LEVEL if level.path else new
        if level.path:
            _fetch_metadata(source, f"{level.path}/", array)
        names, count, chunk_bytes = list_chunks(new)
        if count > MAX_CHUNKS:
            raise InputError(f"{origin} states {count} chunks; at most {MAX_CHUNKS} are fetched.")
        keys = {f"{level.path}/{name}".lstrip("/"): array / name for name in names}
        with (
            tqdm(desc=target.stem, unit="B", unit_scale=True, leave=False, disable=None) as progress,
            closing(_fetch_all(source, keys, 2 * chunk_bytes + 2**20, allow_missing_chunks)) as sizes,
        ):
            for number, size in enumerate(sizes, start=1):
                progress.set_postfix_str(f"{number} of {count} chunks", refresh=False)
                progress.update(size)
        check_ome_zarr(new, allow_missing_chunks)
    return True


@contextmanager
def _called(source: Source, folder: Path, level_path: str = ONLY_LEVEL) -> Iterator[None]:
    """Make messages about an unfinished copy name its source."""
    try:
        yield
    except InputError as error:
        line = str(error).replace(f"the array '{ONLY_LEVEL}'", f"the array '{level_path}'")
        raise type(error)(line.replace(str(folder), source.url)) from error


def _fetch_metadata(source: Source, below: str, folder: Path) -> None:
    refusal = None
    for name in (*ZARR_MARKS, ".zattrs"):
        try:
            found = fetch_file(source, f"{below}{name}", folder / name, MAX_METADATA_BYTES) is not None
        except AccessRefused as error:  # some stores also answer this way for files that do not exist
            refusal = refusal or error
            continue
        if found and name == "zarr.json":
            return
    if not is_zarr(folder):
        place = f"{source.url}/{below}".rstrip("/")
        fact = f"{place} holds no Zarr metadata ({', '.join(ZARR_MARKS)})"
        raise refusal or InputError(f"{fact}: give the address of one OME-Zarr.")


def _keep_one_level(folder: Path, level: Level, origin: str) -> None:
    """Rewrite the metadata of a copy: describe its only level, and record its source."""
    is_3 = (folder / "zarr.json").is_file()
    path = folder / ("zarr.json" if is_3 else ".zattrs")
    content = json.loads(path.read_text()) if path.is_file() else {}
    attributes = content
    if is_3:
        content.pop("consolidated_metadata", None)  # it describes the other levels too
        attributes = content["attributes"] = content.get("attributes") or {}
    attributes[ORIGIN] = origin
    if level.path:
        described = attributes["ome"] if isinstance(attributes.get("ome"), Mapping) else attributes
        multiscale = described["multiscales"][0]
        dataset = next(one for one in multiscale["datasets"] if str(one["path"]) == level.path)
        described["multiscales"] = [{**multiscale, "datasets": [{**dataset, "path": ONLY_LEVEL}]}]
    path.write_text(json.dumps(content, indent=4) + "\n")


def _origin_of(folder: Path) -> Any:
    for name in ("zarr.json", ".zattrs"):
        if (folder / name).is_file():
            try:
                content = json.loads((folder / name).read_text())
                return content["attributes"][ORIGIN] if name == "zarr.json" else content[ORIGIN]
            except (ValueError, KeyError, TypeError, OSError):
                return None
    return None


def _fetch_all(source: Source, files: Mapping[str, Path], most_bytes: int, allow_missing: bool) -> Generator[int]:
    """Fetch several files at a time; yield the size of each in bytes once it is here, 0 if the store lacks it."""
    stop = Event()
    with ThreadPoolExecutor(THREADS) as threads:
        try:
            jobs = {threads.submit(fetch_file, source, *item, most_bytes, stop): item[0] for item in files.items()}
            for job in as_completed(jobs):
                if job.result() is None and not allow_missing:
                    remedy = "Give --allow_missing_chunks if it was written without its empty chunks"
                    raise InputError(f"{source.url} has no chunk {jobs[job]}. {remedy}.")
                yield job.result() or 0
        finally:
            stop.set()
            threads.shutdown(wait=False, cancel_futures=True)  # leaving the block waits for the running ones
