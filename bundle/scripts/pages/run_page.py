"""The page of a run: slices with picks, score histograms, a gallery, and the truth if there is one.

It is one self-contained HTML file that opens without a network. Its templates are in the folder ``templates``.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scripts.pages.html import (
    TEMPLATES,
    as_script_json,
    rounded_down,
    species_data,
    valleys_of,
    write_page,
)
from scripts.pages.jpeg import SHEET_COLUMNS, TILE_PIXELS, TILE_RADII, Stack, encode_stack, sprite_sheet
from scripts.picks import Pick, xyz_text
from scripts.scoring.comparison import Comparison, cause_in_words, compare
from scripts.scoring.mistakes import RIGHT, Verdict
from scripts.species import Species, SpeciesSet

MAX_TILES = 400  # of one species in the gallery
BYTES_PER_MEGABYTE = 1_000_000


@dataclass(frozen=True)
class Tomogram:
    """The volume on which a page shows a run's picks.

    Attributes:
        run: name of the run.
        volume: ``(Z, Y, X)``, any scale.
        voxel_size_angstrom: of the volume.
        own_voxel_size_angstrom: of the tomogram as it was read, in whose voxels the picks are; the two differ if it was
            resampled.
        start_zyx_voxel: where the volume starts in the tomogram as it was read.
    """

    run: str
    volume: NDArray[np.float32]
    voxel_size_angstrom: float
    own_voxel_size_angstrom: float
    start_zyx_voxel: tuple[int, int, int] = (0, 0, 0)

    def places_of(self, picks: Sequence[Pick]) -> NDArray[np.float64]:
        """Return the positions of picks in the volume: ``(N, 3)`` voxels ``(z, y, x)``."""
        voxels = np.array([pick.zyx_voxel for pick in picks], dtype=np.float64).reshape(-1, 3)
        return (voxels - self.start_zyx_voxel) * (self.own_voxel_size_angstrom / self.voxel_size_angstrom)

    def faces_xyz_angstrom(self, voxel_offset: float = 0.0) -> NDArray[np.float64]:
        """Return the lower and upper faces of the volume: ``(2, 3)`` coordinates ``(x, y, z)``.

        Args:
            voxel_offset: where the centre of voxel 0 lies, see `coordinates`.
        """
        low = (np.array(self.start_zyx_voxel[::-1]) - 0.5 + voxel_offset) * self.own_voxel_size_angstrom
        return np.array([low, low + np.array(self.volume.shape[::-1]) * self.voxel_size_angstrom])


@dataclass(frozen=True)
class Truth:
    """What the picks of a run are compared with.

    Attributes:
        particles: the true particles.
        sweep: ``(S, T, 3)``, the counts of `scoring.threshold_sweep.SweepThresholdsd`.
        thresholds: ``(T,)`` thresholds of the sweep.
        mode: how picks were matched in the sweep.
    """

    particles: Sequence[Pick]
    sweep: NDArray[np.int64]
    thresholds: Sequence[float]
    mode: str


@dataclass(frozen=True)
class ComparedRun:
    """The picks of a run, compared with its truth.

    Attributes:
        truth: the truth.
        comparison: the counts, which may be added over runs.
        of_picks: a verdict on every pick.
        of_truth: a verdict on every true particle.
    """

    truth: Truth
    comparison: Comparison
    of_picks: Sequence[Verdict]
    of_truth: Sequence[Verdict]


def compare_run(
    tomogram: Tomogram, picks: Sequence[Pick], species_set: SpeciesSet, truth: Truth, voxel_offset: float = 0.0
) -> ComparedRun:
    """Compare the picks of one run with its truth.

    Args:
        tomogram: what was picked.
        picks: all picks of the run.
        species_set: the species.
        truth: what to compare with.
        voxel_offset: that the ångströms of both were written with, see `coordinates`.
    """
    faces = tomogram.faces_xyz_angstrom(voxel_offset)
    return ComparedRun(truth, *compare(truth.particles, picks, species_set, faces, truth.sweep))


def write_run_page(
    path: str | Path,
    tomogram: Tomogram,
    picks: Sequence[Pick],
    species_set: SpeciesSet,
    page_megabytes: float,
    compared: ComparedRun | None = None,
    others: Sequence[Pick] = (),
    expected: Mapping[str, Mapping[str, Any]] | None = None,
    warning: str = "",
    model: str = "",
    voxel_offset: float = 0.0,
) -> None:
    """Write the page of one run; without a truth its picks can be corrected there.

    Args:
        path: of the page.
        tomogram: what was picked.
        picks: all picks of the run, with their voxels.
        species_set: the species.
        page_megabytes: size limit; 0 writes no page.
        compared: the comparison of the picks with the truth, as `compare_run` returns it; None where there is no truth.
        others: candidates of a second look that were not picked; a slider shows them.
        expected: of the picks of a second look, by species; None without one.
        warning: shown at the top.
        model: short SHA-256 of the weights that picked, for the column ``origin`` of corrected tables.
        voxel_offset: that the picks' ångströms were written with, see `coordinates`.
    """
    if page_megabytes == 0:
        return
    items = _pick_items([*picks, *others], tomogram, species_set)
    if compared is not None:
        items = items[: len(picks)]
        items = _judged_items(items, picks, compared, tomogram, species_set)
    data = {
        "run": tomogram.run,
        "volumeShape": tomogram.volume.shape,
        "voxelSize": tomogram.voxel_size_angstrom,
        "ownVoxelSize": tomogram.own_voxel_size_angstrom,
        "start": tomogram.start_zyx_voxel,
        "voxelOffset": voxel_offset,
        "model": model,
        "image": hashlib.sha256(tomogram.volume[len(tomogram.volume) // 2].tobytes()).hexdigest()[:8],
        "tile": {"pixels": TILE_PIXELS, "columns": SHEET_COLUMNS, "radii": TILE_RADII},
        **species_data(species_set, picks, valleys_of(picks, species_set), expected),
        "picked": len(picks),
        "candidates": len(items) > len(picks) and compared is None,
        "warning": warning,
        "sheets": _add_tiles(items, tomogram, species_set),
        "items": items,
        "truth": None if compared is None else _truth_data(compared, species_set),
    }
    taken = len(as_script_json(data)) + sum(path.stat().st_size for path in TEMPLATES.iterdir())
    stack = encode_stack(tomogram.volume, int((page_megabytes * BYTES_PER_MEGABYTE - taken) * 0.74))  # base64: 4 for 3
    scripts = ["common.js", "corrections.js", "correct.js", *(["truth.js"] if compared else []), "run.js"]
    write_page(path, "run.html", f"{tomogram.run}: picks", scripts, data | _stack_data(stack))


def _pick_items(picks: Sequence[Pick], tomogram: Tomogram, species_set: SpeciesSet) -> list[dict[str, Any]]:
    """Return picks in the form of the page's data; a place is a voxel ``(z, y, x)`` of the shown volume.

    Their ångströms are texts, so that a table that the page saves has those of ``picks.csv``, byte for byte.
    """
    species = {name: number for number, name in enumerate(species_set.names)}
    return [
        {
            "species": species[pick.species],
            "score": rounded_down(pick.score, 6),
            "place": [round(value, 2) for value in place],
            "angstrom": ",".join(xyz_text(pick)),
        }
        for pick, place in zip(picks, tomogram.places_of(picks).tolist(), strict=True)
    ]


def _judged_items(
    items: Sequence[dict[str, Any]],
    picks: Sequence[Pick],
    compared: ComparedRun,
    tomogram: Tomogram,
    species_set: SpeciesSet,
) -> list[dict[str, Any]]:
    """Return the items of the picks and, after them, those of the true particles, each with its verdict."""
    particles = compared.truth.particles
    judged = [item | _verdict_data(verdict, particles) for item, verdict in zip(items, compared.of_picks, strict=True)]
    true_items = _pick_items(particles, tomogram, species_set)
    judged += [
        item | {"truth": True} | _verdict_data(verdict, picks)
        for item, verdict in zip(true_items, compared.of_truth, strict=True)
    ]
    return judged


def _verdict_data(verdict: Verdict, others: Sequence[Pick]) -> dict[str, Any]:
    return {"right": verdict.cause == RIGHT, "cause": cause_in_words(verdict, others)}


def _truth_data(compared: ComparedRun, species_set: SpeciesSet) -> dict[str, Any]:
    return compared.comparison.as_json(species_set, compared.truth.thresholds, compared.truth.mode)


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
    """Return at most ``most`` of the items by falling score, spread evenly over the ranks."""
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
