"""Draw simulated tomograms, to look at before anything is trained on them.

    python tools/draw_simulation.py dataset DATASET PICTURE [--run S000] [--species_path FILE]
    python tools/draw_simulation.py species PICTURE [--maps_dir MAPS]

The first draws one run of a simulated dataset in every kind, with and without its truth. The second draws each
species and how it appears in tomograms; without MAPS the species are the built-in phantoms.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle, Rectangle
from monai.bundle import ConfigParser
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

ROOT = Path(__file__).resolve().parents[1]
BUNDLE = ROOT / "bundle"
sys.path.insert(0, str(BUNDLE))

from scripts.coordinates import to_zyx_vox  # noqa: E402
from scripts.copick_tree import RUNS, STATIC  # noqa: E402
from scripts.datasets.truth import list_labelled_runs  # noqa: E402
from scripts.errors import InputError  # noqa: E402
from scripts.pages.figures import PLANES, SLAB_VOX, busiest_slice, colour_of, save_figure, section_radius  # noqa: E402
from scripts.picks import Pick, read_copick_folder  # noqa: E402
from scripts.simulation.dataset import read_variant  # noqa: E402
from scripts.simulation.imaging import Imaging, beams, count_electrons, expected_counts, reconstruct  # noqa: E402
from scripts.simulation.scene import Scene  # noqa: E402
from scripts.simulation.specimens import Specimen, rotated  # noqa: E402
from scripts.species import SpeciesSet, read_species  # noqa: E402
from scripts.volumes.reading import read_tomogram, stem_of  # noqa: E402

Array = NDArray[np.float32]

SPECIES_FILE = BUNDLE / "configs" / "species.json"
AXES = "zyx"
WIDTH_INCHES = 14.0
GREYS = colormaps["gray"].resampled(40)  # more shades make the files larger and look the same
BAR_COLOUR = "#FFFFFF"

# of the picture of the species
POSE = Rotation.from_euler("ZYX", (20, 30, 10), degrees=True)  # no symmetry axis lies along the beam or the tilt axis
CELL_VOX = 72  # space per particle, so that its tilted projections do not reach the centre of the next one
DEPTH_VOX = 96
TILE_VOX = 42  # side of a cut-out
TILE_SLAB_VOX = 1  # slices on either side that are averaged
TAKEN = Imaging(ice_thickness_angstrom=960.0, contrast=0.85)
HEADINGS = {
    "xy": "xy: slices across the beam, x to the right",
    "xz": "xz: slices along the beam, z upwards; the tilt axis y points into the page",
}
ROWS = {  # by title: share of the noise and resolution in Å of the reconstruction; None for the density
    "density": None,
    "tomogram,\nno noise": (0.0, 35.0),
    "denoised": (0.25, 40.0),
    "wbp": (1.0, 35.0),
}


def main() -> None:
    """Draw what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    tasks = parser.add_subparsers(dest="task", required=True)
    dataset = tasks.add_parser("dataset", help="a run of a simulated dataset")
    dataset.add_argument("dataset", type=Path, help="folder of the dataset")
    dataset.add_argument("picture", type=Path, help="PNG file to write")
    dataset.add_argument("--run", help="name of the run; the first if not given")
    dataset.add_argument("--species_path", type=Path, default=SPECIES_FILE, help="its species, if not the bundle's")
    species = tasks.add_parser("species", help="every species and what a tomogram leaves of it")
    species.add_argument("picture", type=Path, help="PNG file to write")
    species.add_argument("--maps_dir", type=Path, help="density maps, named as in simulate_maps.json")
    options = parser.parse_args()
    try:
        if options.task == "dataset":
            species_set = read_species(options.species_path)
            save_figure(dataset_figure(options.dataset, species_set, options.run), options.picture)
        else:
            save_figure(species_figure(options.maps_dir), options.picture)
    except InputError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")


# A run of a dataset


def dataset_figure(dataset: Path, species_set: SpeciesSet, run: str | None = None) -> Figure:
    """Draw slices in xy and xz through one position of a run: every kind of tomogram, without and with the truth.

    Args:
        dataset: the copick project.
        species_set: its species.
        run: None for the first.
    """
    name, tomograms, truth_folder = find_run(dataset, run)
    volumes = {kind: read_tomogram(path) for kind, path in tomograms.items()}
    first = next(iter(volumes.values()))
    voxel_size = first.voxel_size_angstrom
    if voxel_size is None:
        raise InputError(f"{next(iter(tomograms.values()))} states no voxel size.")
    truth = with_voxels(read_copick_folder(truth_folder, name), voxel_size)
    cuts = {
        plane: busiest_slice(truth, across, first.data.shape[across], species_set, voxel_size)
        for plane, (_, _, across) in PLANES.items()
    }
    figure, axes = grid_of_slices(first.data.shape, len(volumes))
    for column, (kind, volume) in enumerate(volumes.items()):
        for row, plane in enumerate(PLANES):
            image = slice_of(volume.data, plane, cuts[plane], SLAB_VOX)
            bare, marked = axes[row, 2 * column : 2 * column + 2]
            for axis in (bare, marked):
                show(axis, image, plane)
            draw_truth(marked, truth, species_set, plane, cuts[plane], voxel_size)
            draw_scale_bar(bare, image.shape, voxel_size, 50 if max(image.shape) * voxel_size < 4000 else 100)
            bare.set_title(f"{kind}, {plane}", loc="left", fontsize=11)
            marked.set_title("with its truth", loc="left", fontsize=11)
            mark_cut(bare, plane, cuts)
            marked.set_ylabel("")
    figure.legend(
        handles=legend_of(truth, species_set), loc="outside lower center", ncols=6, frameon=False, fontsize=11
    )
    return figure


def find_run(dataset: Path, run: str | None) -> tuple[str, dict[str, Path], Path]:
    """Return the name of a run, its tomograms by kind (``wbp`` first), and the folder of its truth.

    Raises:
        InputError: there is no such run, or it has no truth.
    """
    folders = sorted(path for path in (dataset / STATIC / RUNS).glob("*") if path.is_dir())
    if not folders or (run and run not in {path.name for path in folders}):
        raise InputError(f"{dataset} holds no run {run or ''}; it holds {[path.name for path in folders] or 'none'}.")
    name = run or folders[0].name
    tomograms = {stem_of(path): path for path in sorted((dataset / STATIC / RUNS / name).glob("VoxelSpacing*/*.zarr"))}
    if not tomograms:
        raise InputError(f"run '{name}' of {dataset} holds no tomogram: it is not complete.")
    ordered = dict(sorted(tomograms.items(), key=lambda item: item[0] != "wbp"))
    listed = list_labelled_runs(dataset, only=[name], tomogram_kind=next(iter(ordered)))
    return name, ordered, Path(listed[0]["label"])


def with_voxels(picks: Iterable[Pick], voxel_size_angstrom: float) -> list[Pick]:
    """Return picks with their voxel coordinates filled in."""
    picks = list(picks)
    places = to_zyx_vox([pick.xyz_angstrom for pick in picks], voxel_size_angstrom)
    return [
        replace(pick, x_voxel=float(x), y_voxel=float(y), z_voxel=float(z))
        for pick, (z, y, x) in zip(picks, places, strict=True)
    ]


def grid_of_slices(shape: Sequence[int], kinds: int) -> tuple[Figure, NDArray[Any]]:
    """Return a figure and its axes ``(2, 2 * kinds)``: xy above xz, two columns per kind, true to scale."""
    depth, height, width = shape
    side_inches = WIDTH_INCHES / (2 * kinds)
    figure = Figure(figsize=(WIDTH_INCHES, side_inches * (height + depth) / width + 1.1), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(2, 2 * kinds, height_ratios=(height, depth), squeeze=False)


def slice_of(volume: NDArray[Any], plane: str, index: int, slab_vox: int) -> Array:
    """Return the mean of ``2 * slab_vox + 1`` slices around an index, ``(up, right)`` as `PLANES` has them."""
    across = PLANES[plane][2]
    low, high = max(index - slab_vox, 0), min(index + slab_vox + 1, volume.shape[across])
    return np.asarray(volume.take(range(low, high), axis=across).mean(axis=across), dtype=np.float32)


def show(axis: Axes, image: Array, plane: str, percentiles: tuple[float, float] = (0.5, 99.7)) -> None:
    """Show a slice, dark to bright between its percentiles, with the names of its axes and no numbers."""
    darkest, brightest = np.percentile(image, percentiles)
    brightest = max(brightest, darkest + 1e-6)
    axis.imshow(image, cmap=GREYS, origin="lower", vmin=darkest, vmax=brightest, interpolation_stage="data")
    right, up, _ = PLANES[plane]
    axis.set(xticks=[], yticks=[])
    axis.set_xlabel(AXES[right], labelpad=2)
    axis.set_ylabel(AXES[up], labelpad=2, rotation=0, ha="right")


def draw_truth(
    axis: Axes, truth: Iterable[Pick], species_set: SpeciesSet, plane: str, index: int, voxel_size_angstrom: float
) -> None:
    """Circle every particle that a slice cuts, with the radius of the section of its sphere."""
    right, up, across = PLANES[plane]
    for pick in truth:
        species = species_set.named(pick.species, "the truth")
        centre = pick.zyx_voxel
        radius = section_radius(species.radius_angstrom / voxel_size_angstrom, centre[across] - index)
        if radius > 0:
            axis.add_patch(
                Circle((centre[right], centre[up]), radius, fill=False, linewidth=1.5,
                       edgecolor=colour_of(species.label))
            )  # fmt: skip


def draw_scale_bar(axis: Axes, shape: tuple[int, ...], voxel_size_angstrom: float, length_nm: float) -> None:
    """Draw a bar of ``length_nm`` into the lower left corner of an image of ``shape`` (up, right) voxels."""
    width = shape[1]
    length = length_nm * 10 / voxel_size_angstrom
    left, bottom, thick = 0.03 * width, 0.03 * width, max(0.012 * width, 1)
    bar = Rectangle((left, bottom), length, thick, facecolor=BAR_COLOUR, edgecolor="black", linewidth=0.8)
    axis.add_patch(bar)
    label = axis.text(left + length / 2, bottom + 1.3 * thick, f"{length_nm:g} nm", ha="center", va="bottom",
                      color=BAR_COLOUR, fontsize=10, fontweight="bold")  # fmt: skip
    label.set_bbox({"facecolor": "black", "alpha": 0.45, "pad": 1, "linewidth": 0})


def mark_cut(axis: Axes, plane: str, cuts: Mapping[str, int]) -> None:
    """Mark at the side of a slice where the other plane cuts it."""
    other = next(name for name in PLANES if name != plane)
    axis.set_yticks([cuts[other]], [other], fontsize=9)


def legend_of(truth: Sequence[Pick], species_set: SpeciesSet) -> list[Line2D]:
    """Return one entry per species with its number of particles in the whole tomogram."""
    entries = []
    for species in species_set.known:
        count = sum(pick.species == species.name for pick in truth)
        if count:
            entries.append(
                Line2D([], [], marker="o", linestyle="", fillstyle="none", markeredgewidth=2, markersize=10,
                       color=colour_of(species.label), label=f"{species.name} ({count})")
            )  # fmt: skip
    return entries


# The species


def species_figure(maps_dir: Path | None = None) -> Figure:
    """Draw every species' density and the same particle in tomograms, in the same orientation, in xy and xz.

    Args:
        maps_dir: density maps, named as in ``simulate_maps.json``; None for phantoms.
    """
    specimens, voxel_size = read_specimens(maps_dir)
    scene, centres = lay_out(specimens, voxel_size)
    volumes = take_tomograms(scene)
    figure = Figure(figsize=(1.6 * len(specimens) + 0.9, 1.6 * 2 * len(ROWS) + 1.4), layout="constrained")
    FigureCanvasAgg(figure)
    parts: NDArray[Any] = np.asarray(figure.subfigures(2, 1))
    for part, (plane, heading) in zip(parts, HEADINGS.items(), strict=True):
        part.suptitle(heading, fontsize=11, fontweight="bold")
        axes = part.subplots(len(ROWS), len(specimens))
        for title, line in zip(ROWS, axes, strict=True):
            for axis, specimen, centre in zip(line, specimens, centres, strict=True):
                show(axis, tile_of(volumes.get(title), specimen, centre, plane), plane, (0.5, 99.9))
                axis.set(xlabel="", ylabel="")
            line[0].set_ylabel(title, rotation=0, ha="right", va="center", labelpad=6)
        for axis, specimen in zip(axes[0], specimens, strict=True):
            axis.set_title(f"{specimen.name}\n{specimen.mass_kda:.0f} kDa", fontsize=10)
        draw_scale_bar(axes[0, 0], (TILE_VOX, TILE_VOX), voxel_size, 20)
    return figure


def read_specimens(maps_dir: Path | None) -> tuple[list[Specimen], float]:
    """Return the first variant of every species of the configs, and the voxel size in Å."""
    parser = ConfigParser()
    names = ["simulate.json", *(["simulate_maps.json"] if maps_dir else [])]
    parser.read_config([str(BUNDLE / "configs" / name) for name in names])
    parser.update({"bundle_root": str(BUNDLE), **({"maps_dir": str(maps_dir)} if maps_dir else {})})
    voxel_size = parser.get_parsed_content("voxel_size_angstrom")
    crowds = parser.get_parsed_content("specimens")
    return [read_variant(name, crowd["sources"][0], voxel_size, 1.0) for name, crowd in crowds.items()], voxel_size


def lay_out(specimens: Sequence[Specimen], voxel_size_angstrom: float) -> tuple[Scene, list[NDArray[np.float64]]]:
    """Return empty ice with one particle of each species in `POSE`, in two rows, and their centres ``(z, y, x)``."""
    columns = (len(specimens) + 1) // 2
    shape = (DEPTH_VOX, 2 * CELL_VOX, columns * CELL_VOX)
    scene = Scene(shape, voxel_size_angstrom, np.random.default_rng(0), TAKEN.ice_thickness_angstrom)
    turn = POSE.as_matrix()[::-1, ::-1]  # acting on (z, y, x)
    centres = []
    for number, specimen in enumerate(specimens):
        row, column = divmod(number, columns)
        centre = np.array([DEPTH_VOX // 2, CELL_VOX * row + CELL_VOX // 2, CELL_VOX * column + CELL_VOX // 2], float)
        scene.add_specimen(specimen, centre, turn)
        centres.append(centre)
    return scene, centres


def take_tomograms(scene: Scene) -> dict[str, Array]:
    """Return the reconstructions ``[z, y, x]`` for `ROWS`, all from one tilt series."""
    geometry = beams(scene.shape[0], scene.shape[2], TAKEN.angles_degree)
    expected = expected_counts(scene.density_kda, scene.voxel_size_angstrom, TAKEN, geometry)
    noise = count_electrons(expected, TAKEN, np.random.default_rng(0)) - expected
    volumes = {}
    for title, options in ROWS.items():
        if options is not None:
            share, resolution = options
            taken = replace(TAKEN, resolution_angstrom=resolution)
            volumes[title] = reconstruct(
                expected + np.float32(share) * noise, scene.voxel_size_angstrom, taken, geometry
            )
    return volumes


def tile_of(volume: Array | None, specimen: Specimen, centre: NDArray[np.float64], plane: str) -> Array:
    """Return a slice ``(TILE_VOX, TILE_VOX)`` through one particle: of a tomogram, or else of its density."""
    if volume is None:
        density = rotated(specimen, POSE.as_matrix()[::-1, ::-1])
        volume = np.pad(density, TILE_VOX)
        centre = (np.array(volume.shape) - 1) / 2
    image = slice_of(volume, plane, int(centre[PLANES[plane][2]]), TILE_SLAB_VOX)
    right, up, _ = PLANES[plane]
    low_up, low_right = int(centre[up]) - TILE_VOX // 2, int(centre[right]) - TILE_VOX // 2
    return image[low_up : low_up + TILE_VOX, low_right : low_right + TILE_VOX]


if __name__ == "__main__":
    main()
