"""The MRC format: reading and checking its header of 1024 bytes.

Byte order, value type, extended header and axis order are taken into account; inconsistent files are refused. The
origin and the start indices are ignored: coordinates count from the first voxel.
"""

from __future__ import annotations

import logging
import re
import warnings
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from scripts.errors import InputError, InputWarning
from scripts.volumes.mrc_values import Statistics, settle_type

logger = logging.getLogger(__name__)

ByteOrder = Literal["<", ">"]
Header = dict[str, Any]
MRC_HEADER_BYTES = 1024
# Largest plausible axis length. A 4-byte integer from 1 to 65535 exceeds 65535 once byte-swapped, so at most one byte
# order makes sense.
MAX_LENGTH = 65535
DTYPES = {0: "i1", 1: "i2", 2: "f4", 6: "u2", 12: "f2"}  # by mode
UNUSABLE_MODES = {3: "complex int16", 4: "complex float32", 16: "RGB colours", 101: "packed 4-bit numbers"}
TYPE_OF_SIZE = {1: "int8", 2: "int16", 4: "float32"}  # the usual type, by bytes per voxel
STAMPS: dict[ByteOrder, tuple[tuple[int, int], ...]] = {"<": ((0x44, 0x44), (0x44, 0x41)), ">": ((0x11, 0x11),)}
ORDER_NAMES = {"<": "little-endian", ">": "big-endian"}
IMOD_STAMP = 1146047817
IMOD_SIGNED_BYTES, IMOD_PACKED_BYTES = 1, 16  # bits of imod_flags
IMAGES, VOLUME_STACK = 0, 401  # space groups; some programs write 0 for a volume, too
SECTION_PARTS = (2, 6, 4, 2, 2, 4, 2, 4, 2, 4, 2)  # bytes per section, by bit; the first part is the tilt angle
TILT_SERIES_NAME = re.compile(r"\.(st|ali|preali)(\.gz|\.bz2)?$", re.IGNORECASE)
THIN = 5  # a tilt series has so many times fewer sections than rows and columns
HEADER = {  # name: (type, offset); columns, rows and sections are the axes of the file, grid and cell are x, y, z
    "columns_rows_sections": ("3i4", 0),
    "mode": ("i4", 12),
    "start": ("3i4", 16),  # of columns, rows and sections
    "grid_xyz": ("3i4", 28),
    "cell_xyz_angstrom": ("3f4", 40),
    "axes": ("3i4", 64),  # which of x (1), y (2) and z (3) the columns, rows and sections run along
    "statistics": ("3f4", 76),  # minimum, maximum and mean
    "space_group": ("i4", 88),
    "extended_header_bytes": ("i4", 92),
    "section_bytes": ("i2", 128),  # in SerialEM's and IMOD's extended header
    "section_contents": ("i2", 130),  # bits, see SECTION_PARTS
    "imod_stamp": ("i4", 152),
    "imod_flags": ("i4", 156),
    "origin_xyz": ("3f4", 196),
    "map": ("S4", 208),
    "machine_stamp": ("2u1", 212),
}
HEADER_DTYPE = np.dtype(
    {
        "names": list(HEADER),
        "formats": [kind for kind, _ in HEADER.values()],
        "offsets": [offset for _, offset in HEADER.values()],
        "itemsize": MRC_HEADER_BYTES,
    }
)


def is_mrc(head: bytes) -> bool:
    """Return whether a file that begins with these 1024 bytes is an MRC file, possibly a damaged one."""
    if len(head) < MRC_HEADER_BYTES:
        return False
    if head[208:211] == b"MAP":
        return True
    order = _order_by_lengths(head)
    return order is not None and _header_in(order, head)["mode"] in DTYPES | UNUSABLE_MODES


def parse_mrc(content: NDArray[np.uint8], name: str) -> tuple[NDArray[Any], tuple[float, float, float] | None]:
    """Return the volume that an MRC file holds, and its voxel size.

    Args:
        content: the bytes of the whole file; if this is a memory map, the volume is one too where possible.
        name: name of the file in messages.

    Returns:
        The volume ``[z, y, x]`` in the file's own type and native byte order, and its voxel size ``(z, y, x)`` in
        ångströms; None if the header states none.

    Raises:
        InputError: the header contradicts itself or the file's size, or the file is not a single volume of numbers.
    """
    header, order = _read_header(content[:MRC_HEADER_BYTES].tobytes(), name)
    shape = _file_shape(header, name)
    dtype = _dtype(header, name).newbyteorder(order)
    _refuse_images_and_stacks(header, shape, name)
    block = _data_block(content, header, shape, dtype, name)
    extended = content[MRC_HEADER_BYTES : MRC_HEADER_BYTES + header["extended_header_bytes"]]
    _refuse_tilt_series(extended, header, shape, order, name)
    _mention_origin(header, name)
    if not (dtype.itemsize == 1 and header["imod_stamp"] == IMOD_STAMP):  # IMOD's flags say whether bytes are signed
        block = settle_type(block, Statistics(*header["statistics"]), name)
    file_axes = _axes(header, name)[::-1]  # along sections, rows, columns
    volume = block.transpose([file_axes.index(axis) for axis in (3, 2, 1)])
    return volume.astype(block.dtype.newbyteorder("="), copy=False), _voxel_size_zyx(header)


def parse_mrc_extent(head: bytes, name: str) -> tuple[tuple[int, int, int], tuple[float, float, float] | None]:
    """Return the shape ``(Z, Y, X)`` and the voxel size ``(z, y, x)`` that the header of an MRC file states.

    Args:
        head: the first 1024 bytes.
        name: name of the file in messages.

    Raises:
        InputError: the header contradicts itself.
    """
    header, _ = _read_header(head, name)
    lengths, file_axes = _file_shape(header, name), _axes(header, name)[::-1]  # along sections, rows, columns
    z, y, x = (lengths[file_axes.index(axis)] for axis in (3, 2, 1))
    return (z, y, x), _voxel_size_zyx(header)


def _header_in(order: ByteOrder, head: bytes) -> Header:
    record = np.frombuffer(head, HEADER_DTYPE.newbyteorder(order), count=1)[0]
    return {name: record[name].tolist() for name in HEADER}


def _order_by_lengths(head: bytes) -> ByteOrder | None:
    """Return the byte order in which the three lengths of the volume make sense; at most one of the two does."""
    for order in STAMPS:
        if all(0 < length <= MAX_LENGTH for length in _header_in(order, head)["columns_rows_sections"]):
            return order
    return None


def _read_header(head: bytes, name: str) -> tuple[Header, ByteOrder]:
    stamp = tuple(head[212:214])
    stamped = next((order for order, known in STAMPS.items() if stamp in known), None)
    order = _order_by_lengths(head) or stamped or "<"
    oddities = []
    if head[208:211] != b"MAP":
        oddities.append("has no 'MAP' mark")
    if stamped is None:
        oddities.append(f"has a non-standard machine stamp ({stamp[0]:02x} {stamp[1]:02x})")
    elif stamped != order:
        oddities.append(f"has the machine stamp of a {ORDER_NAMES[stamped]} file")
    if oddities:
        reason = f"read as {ORDER_NAMES[order]}, as its lengths make sense that way"
        warnings.warn(f"{name} {' and '.join(oddities)}: {reason}.", InputWarning, stacklevel=4)
    return _header_in(order, head), order


def _file_shape(header: Header, name: str) -> tuple[int, ...]:
    shape = tuple(header["columns_rows_sections"][::-1])
    if not all(0 < length <= MAX_LENGTH for length in shape):
        stated = " x ".join(str(length) for length in shape)
        raise InputError(f"{name}: the header states {stated} voxels; each length must be 1 to {MAX_LENGTH}.")
    return shape


def _dtype(header: Header, name: str) -> np.dtype[Any]:
    mode, flags = header["mode"], header["imod_flags"] if header["imod_stamp"] == IMOD_STAMP else IMOD_SIGNED_BYTES
    usable = "Convert it to mode 0 (int8), 1 (int16), 2 (float32), 6 (uint16) or 12 (float16)"
    if mode == 0 and flags & IMOD_PACKED_BYTES:
        mode = 101
    if mode in UNUSABLE_MODES:
        raise InputError(f"{name} holds {UNUSABLE_MODES[mode]} (mode {mode}), not a tomogram. {usable}.")
    if mode not in DTYPES:
        raise InputError(f"{name} has the unknown mode {mode}. {usable}.")
    if mode == 0 and not flags & IMOD_SIGNED_BYTES:
        return np.dtype("u1")  # old IMOD files
    return np.dtype(DTYPES[mode])


def _refuse_images_and_stacks(header: Header, shape: tuple[int, ...], name: str) -> None:
    sections, grid_z = shape[0], header["grid_xyz"][2]
    if header["space_group"] == VOLUME_STACK:
        count = sections // grid_z if 0 < grid_z <= sections else "several"
        raise InputError(f"{name} is a stack of {count} volumes (space group 401), not one tomogram: split it.")
    if sections == 1:
        raise InputError(f"{name} is a 2D image of {shape[1]} x {shape[2]} pixels, not a tomogram.")
    if header["space_group"] == 0 and grid_z == 1:
        raise InputError(f"{name} is a stack of {sections} images (space group 0, mz 1), not a tomogram.")


def _refuse_tilt_series(
    extended: NDArray[np.uint8], header: Header, shape: tuple[int, ...], order: ByteOrder, name: str
) -> None:
    """Refuse a file with a tilt angle for every section; give a warning where it only looks like a tilt series.

    Thin tomograms look like tilt series if their program calls them images (space group 0), so that cannot be refused.
    """
    sections, rows, columns = shape
    size, contents = header["section_bytes"], header["section_contents"]
    parts = sum(part for bit, part in enumerate(SECTION_PARTS) if contents >> bit & 1)
    if contents & 1 and size == parts and extended.size >= sections * size:
        angles = extended[: sections * size].reshape(sections, size)[:, :2].copy().view(f"{order}i2")[:, 0] / 100
        if len(set(angles.tolist())) > 1 and np.abs(angles).max() <= 90:
            held = f"a tilt angle for each of its {sections} sections, {angles.min():g} to {angles.max():g} degrees"
            raise InputError(f"{name} is a tilt series, not a tomogram: it holds {held}. Reconstruct it first.")
    is_thin = THIN * sections <= min(rows, columns)
    if header["space_group"] == IMAGES and (is_thin or TILT_SERIES_NAME.search(name)):
        fact = f"{sections} sections of {rows} x {columns} and calls them images (space group 0)"
        advice = "if it is a tilt series, its picks are meaningless: reconstruct it first"
        warnings.warn(f"{name} holds {fact}; {advice}.", InputWarning, stacklevel=4)


def _mention_origin(header: Header, name: str) -> None:
    origin, start = header["origin_xyz"], header["start"]
    if any(origin) or any(start):
        fact = f"the header's origin {_in_brackets(origin)} and start {_in_brackets(start)} are not added"
        logger.info("%s: coordinates count from the first voxel; %s", name, fact)


def _in_brackets(numbers: list[float]) -> str:
    return f"({', '.join(f'{number:g}' for number in numbers)})"


def _data_block(
    content: NDArray[np.uint8], header: Header, shape: tuple[int, ...], dtype: np.dtype[Any], name: str
) -> NDArray[Any]:
    """Return the voxels of the file as ``(sections, rows, columns)``, in the file's byte order."""
    skipped = header["extended_header_bytes"]
    if not 0 <= skipped <= content.size - MRC_HEADER_BYTES:
        found = content.size - MRC_HEADER_BYTES
        raise InputError(f"{name} is cut short: the header promises {skipped} more header bytes, the file has {found}.")
    block = content[MRC_HEADER_BYTES + skipped :]
    voxels = int(np.prod(shape, dtype=np.int64))
    promised = voxels * dtype.itemsize
    if block.size != promised and block.size % voxels == 0 and block.size // voxels in TYPE_OF_SIZE:
        fitting = TYPE_OF_SIZE[block.size // voxels]
        raise InputError(
            f"{name} contradicts itself: mode {header['mode']} ({dtype.name}) means {promised} bytes of data,"
            f" the file has {block.size}, which is {fitting} exactly. Correct the mode."
        )
    if block.size < promised:
        raise InputError(
            f"{name} is cut short: the header promises {promised} bytes of data, the file has {block.size}."
        )
    if block.size > promised:
        extra = block.size - promised
        warnings.warn(f"{name}: {extra} bytes after the data are ignored.", InputWarning, stacklevel=4)
    return block[:promised].view(dtype).reshape(shape)


def _axes(header: Header, name: str) -> list[int]:
    axes: list[int] = header["axes"]
    if axes == [0, 0, 0]:
        warnings.warn(f"{name} states no axis order (mapc, mapr, maps): read as x, y, z.", InputWarning, stacklevel=4)
        return [1, 2, 3]
    if sorted(axes) != [1, 2, 3]:
        stated = ", ".join(str(axis) for axis in axes)
        raise InputError(f"{name}: mapc, mapr, maps must be 1, 2, 3 in some order; the header states {stated}.")
    return axes


def _voxel_size_zyx(header: Header) -> tuple[float, float, float] | None:
    cell, grid = header["cell_xyz_angstrom"], header["grid_xyz"]
    if not all(length > 0 and np.isfinite(length) for length in cell) or not all(count > 0 for count in grid):
        return None
    x, y, z = (float(f"{length / count:.6g}") for length, count in zip(cell, grid, strict=True))  # float32 has 6 digits
    return z, y, x
