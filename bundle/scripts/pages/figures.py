"""Pictures of a tomogram with its picks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle
from numpy.typing import NDArray
from PIL import Image

from scripts.atomic_files import write_atomically
from scripts.file_pages import release_file_pages
from scripts.picks import Pick, by_species
from scripts.scoring.reliability import Reliability
from scripts.species import SpeciesSet

# Okabe and Ito's palette, readable with every kind of colour vision
COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#D55E00", "#CC79A7", "#0072B2")
PLANES = {"xy": (2, 1, 0), "xz": (2, 0, 1)}  # index in (z, y, x) of the axis to the right, upwards, and across
SLAB_VOX = 2  # slices on either side that are averaged to reduce noise
WIDTH_INCHES = 12.0
DOTS_PER_INCH = 100
PNG_COMPRESSION = 1  # of 9; noise hardly gets smaller with more, and takes several times as long


def colour_of(label: int) -> str:
    """Return the colour of the species with that label."""
    return COLOURS[(label - 1) % len(COLOURS)]


def overlay_figure(
    volume: NDArray[np.float32],
    picks: Sequence[Pick],
    species_set: SpeciesSet,
    voxel_size_angstrom: float,
    title: str,
    truth: Sequence[Pick] | None = None,
) -> Figure:
    """Draw one slice in xy and one in xz with the picks that cross it.

    A circle is the section of a particle's sphere with the slice: the farther away the centre, the smaller the circle.
    True particles, if given, are drawn dashed.

    Args:
        volume: ``(Z, Y, X)``, any scale.
        picks: with their voxel coordinates.
        species_set: the species.
        voxel_size_angstrom: of the volume.
        title: shown at the top.
        truth: true particles, with their voxel coordinates.
    """
    depth, height, width = volume.shape
    ratio = (height + depth) / width
    figure = Figure(figsize=(WIDTH_INCHES, WIDTH_INCHES * min(ratio, 3) + 1.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 1, height_ratios=(height, max(depth, 0.1 * height)))
    for axis, plane in zip(axes, PLANES, strict=True):
        draw_slice(axis, volume, picks, species_set, voxel_size_angstrom, plane, truth or ())
    own = by_species(picks)
    handles = [
        Line2D([], [], marker="o", linestyle="", fillstyle="none", markeredgewidth=2, markersize=10,
               color=colour_of(species.label), label=f"{species.name} ({len(own[species.name])})")
        for species in species_set.picked
    ]  # fmt: skip
    if truth is not None:
        handles.append(Line2D([], [], color="black", linestyle="--", label="truth"))
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
    figure.suptitle(title, parse_math=False)
    return figure


def draw_slice(
    axis: Axes,
    volume: NDArray[np.float32],
    picks: Sequence[Pick],
    species_set: SpeciesSet,
    voxel_size_angstrom: float,
    plane: str,
    truth: Sequence[Pick] = (),
) -> None:
    """Draw the slice of a plane (``xy`` or ``xz``) that cuts the most picks, with their circles."""
    right, up, across = PLANES[plane]
    index = busiest_slice(picks or truth, across, volume.shape[across], species_set, voxel_size_angstrom)
    low, high = max(index - SLAB_VOX, 0), min(index + SLAB_VOX + 1, volume.shape[across])
    image = volume.take(range(low, high), axis=across).mean(axis=across)
    release_file_pages(volume)
    darkest, brightest = np.percentile(image, (0.5, 99.5))
    axis.imshow(image, cmap="gray", origin="lower", vmin=darkest, vmax=max(brightest, darkest + 1e-6))
    for group, style in ((picks, "-"), (truth, "--")):
        for pick in group:
            species = next((one for one in species_set.picked if one.name == pick.species), None)
            centre = pick.zyx_voxel
            radius = (
                section_radius(species.radius_angstrom / voxel_size_angstrom, centre[across] - index) if species else 0
            )
            if species and radius > 0:
                axis.add_patch(
                    Circle((centre[right], centre[up]), radius, fill=False, linestyle=style, linewidth=1.6,
                           edgecolor=colour_of(species.label) if style == "-" else "black")
                )  # fmt: skip
    names = "zyx"
    axis.set(
        xlabel=f"{names[right]} (voxel)", ylabel=f"{names[up]} (voxel)", title=f"{plane}, {names[across]} = {index}"
    )


def section_radius(radius: float, distance: float) -> float:
    """Return the radius of the circle in which a plane at a distance from its centre cuts a sphere; 0 for no cut."""
    return float(np.sqrt(max(radius**2 - distance**2, 0.0)))


def busiest_slice(
    picks: Sequence[Pick], axis: int, size: int, species_set: SpeciesSet, voxel_size_angstrom: float
) -> int:
    """Return the index along an axis of ``(z, y, x)`` that cuts the most particles; the middle without picks."""
    radius = {species.name: species.radius_angstrom / voxel_size_angstrom / 2 for species in species_set.picked}
    cut: NDArray[np.int64] = np.zeros(size, dtype=np.int64)
    for pick in picks:
        centre = pick.zyx_voxel[axis]
        reach = radius.get(pick.species, 0.0)
        cut[max(int(np.ceil(centre - reach)), 0) : max(int(centre + reach) + 1, 0)] += 1
    return int(cut.argmax()) if cut.any() else size // 2


def sweep_figure(thresholds: NDArray[np.float64], fbeta: Mapping[str, NDArray[np.float64]],
                 chosen: Mapping[str, float], species_set: SpeciesSet) -> Figure:  # fmt: skip
    """Draw F4 over the probability threshold, one curve per species, with the chosen thresholds marked."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    for species in species_set.picked:
        values = fbeta[species.name]
        axis.plot(
            thresholds, values, color=colour_of(species.label), label=f"{species.name}: {chosen[species.name]:.3g}"
        )
        axis.plot(chosen[species.name], np.interp(chosen[species.name], thresholds, values), "o",
                  color=colour_of(species.label))  # fmt: skip
    axis.set(xlabel="probability threshold", ylabel="F4", xlim=(0, 1), ylim=(0, 1.02))
    axis.grid(alpha=0.3)
    axis.legend(title="chosen threshold")
    return figure


def reliability_figure(reliabilities: Mapping[str, Reliability], species_set: SpeciesSet) -> Figure:
    """Draw how often candidates of similar probability are right, one curve per species.

    Args:
        reliabilities: by the species' names.
        species_set: the species, for their colours.
    """
    figure = Figure(figsize=(6, 6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color="0.6", linestyle="--", label="probability = share of right ones")
    for species in species_set.picked:
        if species.name not in reliabilities:
            continue
        one = reliabilities[species.name]
        label = f"{species.name}, error {one.error:.3f}"
        axes.plot(one.probability, one.right, marker="o", color=colour_of(species.label), label=label)
    axes.set(xlabel="probability of candidates", ylabel="share of right ones", xlim=(0, 1), ylim=(0, 1))
    axes.legend(loc="upper left", fontsize="small")
    return figure


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure as PNG, atomically, drawn once: ``savefig`` draws a constrained layout twice."""
    figure.set_dpi(DOTS_PER_INCH)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    with write_atomically(path, "wb") as file:
        picture.save(file, "PNG", compress_level=PNG_COMPRESSION, dpi=(DOTS_PER_INCH, DOTS_PER_INCH))
