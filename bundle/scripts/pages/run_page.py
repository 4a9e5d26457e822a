"""The page of a run: slices with picks, score histograms, a gallery, and the truth where there is one.

One HTML file with everything inside; it opens without a network. The templates stand in the folder ``page_files``.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scripts.pages.html import TEMPLATES, as_script_json, species_data, valleys_of, write_page
from scripts.pages.jpeg import SHEET_COLUMNS, TILE_PIXELS, TILE_RADII, Stack, encode_stack, sprite_sheet
from scripts.picks import Pick
from scripts.scoring.comparison import Comparison, cause_in_words, compare
from scripts.scoring.mistakes import RIGHT
from scripts.species import Species, SpeciesSet

MAX_TILES = 400  # of one species in the gallery
BYTES_PER_MEGABYTE = 1_000_000


@dataclass(frozen=True)
class Tomogram:
    """What a page shows a run's picks on.

    Attributes:
        run: name of the run.
        volume: ``(Z, Y, X)``, any scale.
        voxel_size_angstrom: of the volume.
        own_voxel_size_angstrom: of the tomogram as it was read, which the picks' voxels count; the two differ where it
            was resampled.
    """

    run: str
    volume: NDArray[np.float32]
    voxel_size_angstrom: float
    own_voxel_size_angstrom: float

    def places_of(self, picks: Sequence[Pick]) -> NDArray[np.float64]:
        """Return where picks lie in the volume: ``(N, 3)`` voxels ``(z, y, x)``."""
        voxels = np.array([(pick.z_voxel, pick.y_voxel, pick.x_voxel) for pick in picks], dtype=np.float64)
        return voxels.reshape(-1, 3) * (self.own_voxel_size_angstrom / self.voxel_size_angstrom)

    @property
    def size_xyz_angstrom(self) -> NDArray[np.float64]:
        """Sides of the tomogram."""
        return np.array(self.volume.shape[::-1]) * self.voxel_size_angstrom


@dataclass(frozen=True)
class Truth:
    """What the picks of a run are compared with.

    Attributes:
        particles: the true particles.
        sweep: ``(S, T, 3)``, as `picking.SweepThresholdsd` counts.
        thresholds: ``(T,)`` those of the sweep.
        mode: how picks were matched in the sweep.
    """

    species_set: Sequence[Pick]
    sweep: NDArray[np.int64]
    thresholds: Sequence[float]
    mode: str


def write_run_page(
    path: str | Path,
    tomogram: Tomogram,
    picks: Sequence[Pick],
    species_set: SpeciesSet,
    page_megabytes: float,
    truth: Truth | None = None,
) -> Comparison | None:
    """Write the page of one run; return what the comparison with the truth gave, where there is truth.

    Args:
        path: of the page.
        tomogram: what was picked.
        picks: all picks of the run, with their voxels.
        species_set: the species.
        page_megabytes: largest size; 0 writes no page.
        truth: what to compare with.
    """
    comparison, items = None, _pick_items(picks, tomogram, species_set)
    if truth is not None:
        size = tomogram.size_xyz_angstrom
        comparison, of_picks, of_truth = compare(truth.species_set, picks, species_set, size, truth.sweep)
        for item, verdict in zip(items, of_picks, strict=True):
            item |= {"right": verdict.cause == RIGHT, "cause": cause_in_words(verdict, truth.species_set)}
        true_items = _pick_items(truth.species_set, tomogram, species_set)
        for item, verdict in zip(true_items, of_truth, strict=True):
            item |= {"truth": True, "right": verdict.cause == RIGHT, "cause": cause_in_words(verdict, picks)}
        items += true_items
    if page_megabytes == 0:
        return comparison
    data = {
        "run": tomogram.run,
        "volumeShape": tomogram.volume.shape,
        "voxelSize": tomogram.voxel_size_angstrom,
        "ownVoxelSize": tomogram.own_voxel_size_angstrom,
        "tile": {"pixels": TILE_PIXELS, "columns": SHEET_COLUMNS, "radii": TILE_RADII},
        **species_data(species_set, valleys_of(picks, species_set)),
        "sheets": _add_tiles(items, tomogram, species_set),
        "items": items,
        "truth": None
        if truth is None or comparison is None
        else comparison.as_json(species_set, truth.thresholds, truth.mode),
    }
    taken = len(as_script_json(data)) + sum(path.stat().st_size for path in TEMPLATES.iterdir())
    stack = encode_stack(tomogram.volume, int((page_megabytes * BYTES_PER_MEGABYTE - taken) * 0.74))  # base64: 4 for 3
    scripts = ["common.js", "truth.js", "run.js"] if truth else ["common.js", "run.js"]
    write_page(path, "run.html", f"{tomogram.run}: picks", scripts, data | _stack_data(stack))
    return comparison


def _pick_items(picks: Sequence[Pick], tomogram: Tomogram, species_set: SpeciesSet) -> list[dict[str, Any]]:
    """Return picks as the page takes them; places are voxels ``(z, y, x)`` of the shown volume."""
    species = {name: number for number, name in enumerate(species_set.names)}
    return [
        {
            "species": species[pick.species],
            "score": round(pick.score, 6),
            "place": [round(value, 2) for value in place],
        }
        for pick, place in zip(picks, tomogram.places_of(picks).tolist(), strict=True)
    ]


def _add_tiles(items: Sequence[dict[str, Any]], tomogram: Tomogram, species_set: SpeciesSet) -> list[str]:
    """Give the gallery's items their ``tile`` in their species' sheet; return the sheets, "" for an empty one."""
    sheets = []
    for number, species in enumerate(species_set.picked):
        own = [item for item in items if item["species"] == number]
        shown = _evenly([item for item in own if "truth" not in item], MAX_TILES)
        shown += _evenly([item for item in own if "truth" in item and not item["right"]], MAX_TILES)
        for tile, item in enumerate(shown):
            item["tile"] = tile
        sheets.append(_sheet(shown, tomogram, species))
    return sheets


def _sheet(items: Sequence[Mapping[str, Any]], tomogram: Tomogram, species: Species) -> str:
    if not items:
        return ""
    radius_vox = species.radius_angstrom / tomogram.voxel_size_angstrom
    return _base64(sprite_sheet(tomogram.volume, [item["place"] for item in items], radius_vox))


def _evenly(items: Sequence[dict[str, Any]], most: int) -> list[dict[str, Any]]:
    """Return at most ``most`` of the items, the surest first, spread evenly over the ranks."""
    ranked = sorted(items, key=lambda item: -item["score"])
    if len(ranked) <= most:
        return ranked
    return [ranked[rank] for rank in np.linspace(0, len(ranked) - 1, most).round().astype(int)]


def _stack_data(stack: Stack) -> dict[str, Any]:
    return {
        "shape": stack.shape,
        "zStep": stack.z_step,
        "pixelStep": stack.pixel_step,
        "slices": [_base64(image) for image in stack.slices],
    }


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")
