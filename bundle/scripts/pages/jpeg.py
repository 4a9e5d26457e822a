"""A tomogram as small JPEG images: a stack of slices, and sheets of cut-out particles."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from scripts.file_pages import FilePages, slabs_of

TILE_PIXELS = 64
SHEET_COLUMNS = 20
TILE_RADII = 4.0  # width of a tile in radii of its particle
TILE_SLICES = 2  # slices on either side that are averaged to reduce noise
SHEET_QUALITY = 60
STACK_SETTINGS = (  # slices averaged in z, pixels averaged in y and x, JPEG quality; the first that fits is taken
    (1, 1, 60), (2, 1, 60), (2, 1, 45), (3, 1, 45), (2, 2, 60), (4, 2, 45), (4, 4, 60), (8, 8, 60), (16, 16, 45),
)  # fmt: skip


@dataclass(frozen=True)
class Stack:
    """The slices of a tomogram.

    Attributes:
        slices: JPEG files, the lowest z first; row 0 is y = 0.
        shape: ``(Z, Y, X)`` slices, rows and columns of pixels.
        z_step: how many slices of the tomogram are averaged in one.
        pixel_step: how many of its voxels are averaged in one pixel, along y and x.
    """

    slices: list[bytes]
    shape: tuple[int, int, int]
    z_step: int
    pixel_step: int


def encode_stack(volume: NDArray[np.float32], max_bytes: int) -> Stack:
    """Return the slices of a volume in the best quality that fits.

    Args:
        volume: ``(Z, Y, X)``, any scale.
        max_bytes: for all slices together; if no quality fits, the lowest is taken.
    """
    levels = grey_levels(volume)
    stack = Stack([], (0, 0, 0), 1, 1)
    for z_step, pixel_step, quality in STACK_SETTINGS:
        starts = range(0, len(volume), z_step)
        some = starts[:: max(len(starts) // 6, 1)]
        tried = [_slice(volume, start, z_step, pixel_step) for start in some]
        expected = sum(len(_jpeg(image, levels, quality)) for image in tried) / len(tried) * len(starts)
        if expected > max_bytes and (z_step, pixel_step, quality) != STACK_SETTINGS[-1]:
            continue
        slices = []
        for slab in slabs_of(volume, z_step):
            starts_in_slab = range(slab.start, slab.stop, z_step)
            slices += [_jpeg(_slice(volume, start, z_step, pixel_step), levels, quality) for start in starts_in_slab]
        height, width = tried[0].shape
        stack = Stack(slices, (len(slices), height, width), z_step, pixel_step)
        if sum(map(len, slices)) <= max_bytes:
            break
    return stack


def sprite_sheet(volume: NDArray[np.float32], centres_zyx_vox: ArrayLike, radius_vox: float) -> bytes:
    """Return one JPEG with a tile for every particle: its central slice, y upwards, `SHEET_COLUMNS` tiles in a row.

    A tile is grey outside the volume. All tiles have the grey levels of the whole volume, so they can be compared.

    Args:
        volume: ``(Z, Y, X)``, any scale.
        centres_zyx_vox: ``(N, 3)``, N at least 1.
        radius_vox: of the particles.
    """
    centres = np.asarray(centres_zyx_vox, dtype=np.float64).reshape(-1, 3)
    middle = len(volume) // 2
    levels = grey_levels(_slice(volume, max(middle - TILE_SLICES, 0), 2 * TILE_SLICES + 1, 1))
    rows = -(-len(centres) // SHEET_COLUMNS)
    sheet = Image.new("L", (min(len(centres), SHEET_COLUMNS) * TILE_PIXELS, rows * TILE_PIXELS))
    for number, centre in enumerate(FilePages(volume).after_each(centres)):
        tile = _grey(_tile(volume, centre, radius_vox * TILE_RADII / 2, sum(levels) / 2), levels)
        row, column = divmod(number, SHEET_COLUMNS)
        picture = Image.fromarray(tile).resize((TILE_PIXELS, TILE_PIXELS), Image.Resampling.BICUBIC)
        sheet.paste(picture, (column * TILE_PIXELS, row * TILE_PIXELS))
    return _bytes_of(sheet, SHEET_QUALITY)


def grey_levels(volume: NDArray[np.float32]) -> tuple[float, float]:
    """Return the values that become black and white, two percentiles close to the extremes."""
    steps = tuple(slice(None, None, max(size // 64, 1)) for size in volume.shape)
    low, high = np.percentile(volume[steps], (0.3, 99.7))
    return float(low), max(float(high), float(low) + 1e-6)


def _slice(volume: NDArray[np.float32], start: int, z_step: int, pixel_step: int) -> NDArray[np.float32]:
    image: NDArray[np.float32] = volume[start] if z_step == 1 else volume[start : start + z_step].mean(axis=0)
    if pixel_step == 1:
        return image
    height, width = (-(-size // pixel_step) for size in image.shape)
    missing = [(0, height * pixel_step - image.shape[0]), (0, width * pixel_step - image.shape[1])]
    padded = np.pad(image, missing, mode="edge")
    answer: NDArray[np.float32] = padded.reshape(height, pixel_step, width, pixel_step).mean(axis=(1, 3))
    return answer


def _tile(
    volume: NDArray[np.float32], centre_zyx_vox: NDArray[np.float64], half_width_vox: float, outside: float
) -> NDArray[np.float32]:
    z, y, x = np.rint(centre_zyx_vox).astype(int)
    half = max(round(half_width_vox), 1)
    box = [np.arange(middle - side, middle + side + 1) for middle, side in ((z, TILE_SLICES), (y, half), (x, half))]
    nearest = [np.clip(indices, 0, size - 1) for indices, size in zip(box, volume.shape, strict=True)]
    tile = volume[np.ix_(*nearest)].mean(axis=0)
    beyond_y, beyond_x = (a != b for a, b in zip(box[1:], nearest[1:], strict=True))
    tile[beyond_y[:, None] | beyond_x] = outside
    answer: NDArray[np.float32] = tile[::-1]
    return answer


def _grey(image: NDArray[np.float32], levels: tuple[float, float]) -> NDArray[np.uint8]:
    low, high = levels
    grey = image - low
    grey /= high - low
    np.clip(grey, 0, 1, out=grey)
    grey *= 255
    answer: NDArray[np.uint8] = np.rint(grey, out=grey).astype(np.uint8)
    return answer


def _jpeg(image: NDArray[np.float32], levels: tuple[float, float], quality: int) -> bytes:
    return _bytes_of(Image.fromarray(_grey(image, levels)), quality)


def _bytes_of(picture: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()
