"""Draw the figure of docs/explanation/architecture.md: a tomogram's way through the packages, and their imports.

    python tools/draw_architecture.py            # draws docs/explanation/architecture.png
    python tools/draw_architecture.py --print    # prints what the drawing states, as JSON, and the table of packages

No import is listed here. The allowed ones are the table in tests/test_layers.py; the actual ones are read from the code
by the same test. The picture contains both as text, so that a test can check that it is up to date.
"""

from __future__ import annotations

import json
import runpy
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle

ROOT = Path(__file__).resolve().parents[1]
LAYERS = ROOT / "tests" / "test_layers.py"
PICTURE = ROOT / "docs" / "explanation" / "architecture.png"
GRAPH_KEY = "Description"  # key of the picture's metadata with the graph

WIDTH_INCHES, WAY_INCHES, MATRIX_INCHES, DPI = 10.0, 9.85, 6.5, 130
BOX_WIDTH, BOX_HEIGHT = 2.5, 0.82
COLUMNS = {"left": 1.65, "middle": 5.0, "right": 8.35}
ROW_STEP = 1.13
CELL_INCHES, MATRIX_CORNER = 0.29, (3.4, MATRIX_INCHES - 1.55)
LEGEND = (
    "The package of a row imports",
    "that of a column.",
    "",
    "● does",
    "○ may, and does not",
    "",
    "All dots are below the diagonal:",
    "imports go one way.",
)
NAME_SIZE, TEXT_SIZE, SMALL_SIZE = 11, 8.5, 8
INK, PALE_INK = "#1F2933", "#52606D"
COLOURS = {"way": "#D6E8F7", "training": "#FCE5CD", "truth": "#DCEFD9", "around": "#ECEFF2"}


@dataclass(frozen=True)
class Place:
    """Position of a package in the drawing, and what the package is for.

    Attributes:
        column: a key of `COLUMNS`.
        row: counted from the top.
        group: a key of `COLOURS`.
        holds: one line for the table; the drawing breaks it in two.
        columns: how many columns the box spans, from the middle one outwards.
    """

    column: str
    row: float
    group: str
    holds: str
    columns: int = 1


PLACES = {
    "simulation": Place("left", 0, "around", "tomograms with known truth, from maps, models or phantoms"),
    "fetch": Place("right", 0, "around", "copies remote data to this disk"),
    "volumes": Place("middle", 1, "way", "reads and writes MRC, OME-Zarr and NIfTI; label volumes"),
    "datasets": Place("right", 1, "way", "which runs a folder holds, and where their truth is"),
    "training": Place(
        "left", 2, "training", "windows, and the painter that paints the target; crops for the second look"
    ),
    "preparation": Place("middle", 2, "way", "voxel size, grey values, region, truth, crops; kept on the disk"),
    "networks": Place(
        "left", 3, "training", "plain torch: the network, the second look's, their weights and model.json"
    ),
    "inference": Place("middle", 3, "way", "sliding window, views, number format"),
    "backends": Place("right", 3, "around", "other programs for the same network: OpenVINO, TorchScript, ONNX"),
    "picking": Place(
        "middle", 4, "way", "the finder: probabilities to candidates; the second look at them; candidates to picks"
    ),
    "picks": Place("middle", 5, "way", "the table of picks, and one module per file format"),
    "scoring": Place("right", 5, "truth", "picks against truth: F-beta, causes of mistakes, sweep, calibration"),
    "monai_label": Place("left", 5, "around", "what MONAI Label's server needs beyond the configs"),
    "results": Place("middle", 6, "way", "a folder per run, resumable batches, project sessions"),
    "pages": Place("right", 6, "truth", "HTML pages and pictures to look at"),
    "handlers": Place("middle", 7, "around", "Ignite handlers: they call the packages above; nothing imports them", 3),
}
DISK = "files on this disk"
FLOWS: tuple[tuple[str, str, str], ...] = (  # from, to, what is passed on
    ("simulation", DISK, ""),
    ("fetch", DISK, ""),
    (DISK, "volumes", "one file"),
    (DISK, "datasets", ""),
    ("volumes", "preparation", "volume [z, y, x], Å per voxel"),
    ("datasets", "preparation", "truth"),
    ("preparation", "training", "truth"),
    ("preparation", "inference", "volume scaled to 0 ... 1"),
    ("training", "networks", "windows, targets"),
    ("networks", "inference", "weights"),
    ("backends", "inference", ""),
    ("inference", "picking", "logits (C, Z, Y, X)"),
    ("picking", "picks", "picks with scores"),
    ("picks", "scoring", "picks, truth"),
    ("picks", "results", "files of picks"),
    ("scoring", "pages", "mistakes"),
    ("pages", "results", ""),
    ("results", "handlers", "called at the engine's events"),
)


def graph_of_the_code() -> dict[str, Any]:
    """Return the packages, each after those it may import, with the allowed and the actual imports of each.

    ``ground`` names the modules that every package may import.
    """
    layers = runpy.run_path(str(LAYERS))
    allowed: Mapping[str, set[str]] = layers["ALLOWED"]
    ground: set[str] = layers["GROUND"]
    used: dict[str, set[str]] = {package: set() for package in allowed}
    for module, imports in layers["IMPORTS"].items():
        package = module.split(".")[0]
        ours = {name.split(".")[1] for name in imports if name.startswith("scripts.")}
        if package in used:
            used[package] |= ours - ground - {package}
    return {
        "ground": sorted(ground),
        "packages": {
            package: {"may_import": sorted(allowed[package]), "imports": sorted(used[package])}
            for package in _in_order(allowed)
        },
    }


def table_of_packages(graph: Mapping[str, Any]) -> list[str]:
    """Return the rows of the page's table, in Markdown."""
    folder = "../../bundle/scripts"
    return [
        f"| [`{name}`]({folder}/{name}{'' if (ROOT / 'bundle/scripts' / name).is_dir() else '.py'}) "
        f"| {PLACES[name].holds} | {', '.join(facts['may_import']) or 'ground only'} |"
        for name, facts in graph["packages"].items()
    ]


def as_text(graph: Mapping[str, Any]) -> str:
    """Return the graph as text; equal graphs give equal texts."""
    return json.dumps(graph, sort_keys=True)


def draw(graph: Mapping[str, Any]) -> Figure:
    """Return the drawing: the way of a tomogram at the top, the imports below."""
    figure = Figure(figsize=(WIDTH_INCHES, WAY_INCHES + MATRIX_INCHES), dpi=DPI, facecolor="white")
    share = MATRIX_INCHES / (WAY_INCHES + MATRIX_INCHES)
    _draw_way(figure.add_axes((0, share, 1, 1 - share)), graph["ground"])
    _draw_imports(figure.add_axes((0, 0, 1, share)), graph["packages"])
    return figure


def save(figure: Figure, graph: Mapping[str, Any], path: Path) -> None:
    """Write the drawing as a PNG, with its graph as text in the metadata."""
    FigureCanvasAgg(figure).print_png(str(path), metadata={GRAPH_KEY: as_text(graph), "Software": None})


def _in_order(allowed: Mapping[str, set[str]]) -> list[str]:
    sorter = TopologicalSorter({name: sorted(allowed[name]) for name in sorted(allowed)})
    sorter.prepare()
    order: list[str] = []
    while sorter.is_active():
        ready = sorted(sorter.get_ready())
        order += ready
        sorter.done(*ready)
    return order


def _y(row: float) -> float:
    return WAY_INCHES - 1.0 - row * ROW_STEP


def _centre(name: str) -> tuple[float, float]:
    if name == DISK:
        return COLUMNS["middle"], _y(0)
    place = PLACES[name]
    return COLUMNS[place.column], _y(place.row)


def _draw_way(axes: Axes, ground: Sequence[str]) -> None:
    axes.set(xlim=(0, WIDTH_INCHES), ylim=(0, WAY_INCHES))
    axes.axis("off")
    axes.text(0.4, WAY_INCHES - 0.3, "The way of a tomogram", fontsize=13, weight="bold", color=INK, va="center")
    for source, target, what in FLOWS:
        _draw_flow(axes, source, target, what)
    x, y = _centre(DISK)
    _box(axes, x, y, BOX_WIDTH, "white")
    axes.text(x, y, DISK, fontsize=NAME_SIZE, style="italic", color=INK, ha="center", va="center")
    for name, place in PLACES.items():
        x, y = _centre(name)
        width = BOX_WIDTH if place.columns == 1 else COLUMNS["right"] - COLUMNS["left"] + BOX_WIDTH
        _box(axes, x, y, width, COLOURS[place.group])
        axes.text(x, y + 0.2, name, fontsize=NAME_SIZE, weight="bold", color=INK, ha="center", va="center")
        text = place.holds if place.columns > 1 else _in_two_lines(place.holds)
        axes.text(x, y - 0.13, text, fontsize=TEXT_SIZE, color=INK, ha="center", va="center", linespacing=1.15)
    note = f"Ground, which every package may import: {', '.join(ground)}"
    axes.text(WIDTH_INCHES / 2, _y(7) - 0.62, note, fontsize=SMALL_SIZE, color=PALE_INK, ha="center", va="center")


def _box(axes: Axes, x: float, y: float, width: float, colour: str) -> None:
    corner = x - width / 2, y - BOX_HEIGHT / 2
    shape = "round,pad=0,rounding_size=0.08"
    box = FancyBboxPatch(corner, width, BOX_HEIGHT, shape, facecolor=colour, edgecolor=PALE_INK, linewidth=0.8)
    axes.add_patch(box)


def _draw_flow(axes: Axes, source: str, target: str, what: str) -> None:
    (x0, y0), (x1, y1) = _centre(source), _centre(target)
    aside = 0.0 if x0 == x1 else (x1 - x0) / abs(x1 - x0)
    middle = (x0 + x1) / 2, (y0 + y1) / 2
    if y0 == y1:  # side by side: the text is above the arrow
        start, end = (x0 + aside * BOX_WIDTH / 2, y0), (x1 - aside * BOX_WIDTH / 2, y1)
        place, align = (middle[0], y0 + 0.13), "center"
    else:  # downwards, from corner to corner where it goes aside
        start = x0 + aside * 0.4 * BOX_WIDTH, y0 - BOX_HEIGHT / 2
        end = x1 - aside * 0.4 * BOX_WIDTH, y1 + BOX_HEIGHT / 2
        place, align = ((middle[0] + 0.25, middle[1] - 0.08), "left") if aside else ((x0 - 0.1, middle[1]), "right")
    arrow = {"arrowstyle": "-|>", "color": INK, "linewidth": 1.4, "shrinkA": 0, "shrinkB": 1, "mutation_scale": 13}
    axes.annotate("", xy=end, xytext=start, arrowprops=arrow)
    axes.text(*place, what, fontsize=SMALL_SIZE, color=PALE_INK, ha=align, va="center")


def _in_two_lines(text: str) -> str:
    words = text.split()
    halves = [(" ".join(words[:cut]), " ".join(words[cut:])) for cut in range(1, len(words) + 1)]
    return "\n".join(part for part in min(halves, key=lambda half: max(map(len, half))) if part)


def _draw_imports(axes: Axes, packages: Mapping[str, Any]) -> None:
    axes.set(xlim=(0, WIDTH_INCHES), ylim=(0, MATRIX_INCHES))
    axes.axis("off")
    axes.text(0.4, MATRIX_INCHES - 0.3, "Who imports whom", fontsize=13, weight="bold", color=INK, va="center")
    left, top = MATRIX_CORNER
    names = list(packages)
    label: dict[str, Any] = {"fontsize": TEXT_SIZE, "color": INK}
    for row, name in enumerate(names):
        y = top - (row + 0.5) * CELL_INCHES
        axes.text(left - 0.1, y, name, ha="right", va="center", **label)
        x = left + (row + 0.5) * CELL_INCHES
        axes.text(x, top + 0.1, name, rotation=55, ha="left", va="bottom", rotation_mode="anchor", **label)
        for column, other in enumerate(names[:row]):
            x = left + (column + 0.5) * CELL_INCHES
            corner = x - CELL_INCHES / 2, y - CELL_INCHES / 2
            cell = Rectangle(corner, CELL_INCHES, CELL_INCHES, facecolor=COLOURS["around"], edgecolor="white")
            axes.add_patch(cell)
            if other in packages[name]["may_import"]:
                fill = INK if other in packages[name]["imports"] else "white"
                axes.plot(x, y, "o", markersize=8, markerfacecolor=fill, markeredgecolor=INK, markeredgewidth=1)
    words = "\n".join(LEGEND)
    axes.text(0.4, top - 0.2, words, fontsize=TEXT_SIZE, color=PALE_INK, ha="left", va="top", linespacing=1.4)


def main(arguments: Sequence[str]) -> None:
    """Draw, or print what would be drawn."""
    graph = graph_of_the_code()
    if "--print" in arguments:
        print(json.dumps(graph, indent=2))
        print("\n".join(table_of_packages(graph)))
        return
    save(draw(graph), graph, PICTURE)
    print(PICTURE)


if __name__ == "__main__":
    main(sys.argv[1:])
