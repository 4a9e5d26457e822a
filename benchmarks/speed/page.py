"""The tables, the page and the plot, made from the results."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from pathlib import Path
from statistics import median
from textwrap import fill
from typing import Any

from speed.results import BEFORE, NAMES, NOW, OPENVINO, STAGES, STOCK, TORCH, Refusal, Row, case_of, sizes_of
from speed.work import BATCH, MEMORY_FORMATS

COLOURS = ("#999999", "#56B4E9", "#0072B2", "#E69F00", "#009E73")  # of Okabe and Ito, for all kinds of colour vision
SIZE_COLOURS = {BEFORE: "#D55E00", NOW: "#0072B2"}
NOTHING = "Not measured yet."
COLUMNS = 120  # of text on the page


def summary_of(rows: Sequence[Mapping[str, Any]], **wanted: str) -> Row | None:
    """Return the medians of the results with these values, and the ``least`` and ``most`` seconds; None without any."""
    own = [row for row in rows if all(row[key] == value for key, value in wanted.items())]
    if not own:
        return None
    values = [key for key in own[0] if isinstance(own[0][key], int | float) and key != "repeat"]
    found: Row = {key: median(row[key] for row in own) for key in values}
    found["repeats"] = len(own)
    found["least"], found["most"] = (limit(row.get("seconds", 0) for row in own) for limit in (min, max))
    if "read and scale" in found:
        found["start and end"] = max(found["seconds"] - sum(found[stage] for stage in STAGES[1:]), 0.0)
    return found


def shorten(value: float) -> str:
    """Return a number with about three digits."""
    if isinstance(value, int) or value >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def format_table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown; without lines, that there is nothing."""
    if not lines:
        return NOTHING
    first, *rest = (f"| {' | '.join(line)} |" for line in [head, *lines])
    return "\n".join([first, "|---" * len(head) + "|", *rest])


def format_conditions(results: Mapping[str, Any]) -> str:
    """Return the sentences about what was measured on."""
    found = results["conditions"]
    if found is None:
        return NOTHING
    versions = ", ".join(f"{name} {number}" for name, number in found["packages"].items())
    cases = Counter((row["part"], row["contender"], row["case"]) for row in results["rows"])
    counts = sorted({*cases.values()} or {0})
    repeats = " to ".join(map(str, dict.fromkeys((counts[0], counts[-1]))))
    return (
        f"{found['cores']} cores of an {found['cpu']} with {', '.join(found['flags']) or 'no wide instructions'}; "
        f"{found['memory_gib']} GiB; {versions}. {found['threads']} threads, and one in a training step; "
        f"`THP_MEM_ALLOC_ENABLE=1`. Medians of {repeats} processes. Tomogram: {found['volume']}, "
        f"{' x '.join(map(str, found['shape']))} voxels, float32, in the page cache."
    )


def tomogram_rows(results: Mapping[str, Any]) -> dict[str, Row]:
    """Return the medians of every contender for the tomogram."""
    case = case_of((results["conditions"] or {}).get("shape", ()))
    found = {
        name: summary_of(results["rows"], part="tomogram", contender=name, case=case)
        for name in (STOCK, BEFORE, TORCH, OPENVINO)
    }
    return {name: row for name, row in found.items() if row is not None}


def format_tomogram(results: Mapping[str, Any]) -> str:
    """Return the table of the stages."""
    lines = []
    for name, row in tomogram_rows(results).items():
        seconds = f"**{shorten(row['seconds'])}** ({shorten(row['least'])} to {shorten(row['most'])})"
        stages = [shorten(row[stage]) for stage in STAGES]
        used = [shorten(row["processor seconds"]), shorten(row["peak memory"]), f"{row['picks']:.0f}"]
        lines.append([NAMES[name], seconds, *stages, *used])
    return format_table(["contender", "seconds", *STAGES, "processor seconds", "peak memory, GiB", "picks"], lines)


def size_rows(results: Mapping[str, Any], contender: str) -> dict[str, Row]:
    """Return the medians of a contender by shape, from small to large."""
    rows = results["rows"]
    cases = {row["case"] for row in rows if row["part"] == "tomogram" and row["contender"] == contender}
    ordered = sorted(cases, key=lambda case: math.prod(sizes_of(case)))
    return {case: summary_of(rows, part="tomogram", contender=contender, case=case) or {} for case in ordered}


def format_sizes(results: Mapping[str, Any]) -> str:
    """Return the table of the sizes."""
    before, now = (size_rows(results, name) for name in (BEFORE, NOW))
    lines = []
    for case, row in now.items():
        old = before.get(case)
        cells = [shorten(old["seconds"]), shorten(old["peak memory"])] if old else ["", ""]
        million = math.prod(sizes_of(case)) / 1e6
        own = [shorten(row["seconds"]), shorten(row["peak memory"])]
        lines.append([case.replace("x", " x "), shorten(million), *cells, *own])
    columns = [f"{name}, {unit}" for name in ("before", "now") for unit in ("seconds", "GiB")]
    return format_table(["voxels", "million", *columns], lines)


def format_training(results: Mapping[str, Any]) -> str:
    """Return the table of a training step: of every contender and number format, the fastest memory order."""
    lines = []
    for name, precision in product((STOCK, BEFORE, NOW), ("float32", "bfloat16")):
        cases = [f"{precision}, {order}" for order in MEMORY_FORMATS]
        found = [(case, summary_of(results["rows"], part="training", contender=name, case=case)) for case in cases]
        rows = [(row["step"], case, row) for case, row in found if row is not None]
        if rows:
            step, case, row = min(rows, key=lambda entry: entry[0])
            whole = step + row["windows"]
            share, speed = f"{100 * row['windows'] / whole:.1f} %", f"{BATCH / whole:.3f}"
            label = "MONAI's UNet" if name == STOCK else name
            lines.append([label, case, shorten(step), f"{row['windows']:.3f}", share, speed])
    seconds = ["step, processor seconds", "preparing two windows, processor seconds", "share of preparing"]
    return format_table(["network", "format", *seconds, "windows per processor second"], lines)


def format_machine(results: Mapping[str, Any]) -> str:
    """Return the tables of what the machine allows: its speed, and the shortest time of each network's products."""
    speed = summary_of(results["rows"], part="machine")
    if speed is None:
        return NOTHING
    head = ["matrix product, float32, GFLOP/s", "matrix product, bfloat16, GFLOP/s", "memory copy, GB/s"]
    first = format_table(head, [[shorten(speed[key]) for key in ("float32", "bfloat16", "copy")]])
    fastest, voxels = max(speed["float32"], speed["bfloat16"]), math.prod(results["conditions"]["shape"])
    times, lines = tomogram_rows(results), []
    for name, entrants in ((STOCK, (STOCK,)), (BEFORE, (BEFORE,)), (NOW, (TORCH, OPENVINO))):
        row = summary_of(results["rows"], part="network", contender=name)
        measured = [times[entrant]["network"] for entrant in entrants if entrant in times]
        if row is not None:
            bounds = [row[key] * voxels / fastest / 1e9 for key in ("products", "convolutions")]
            label = "MONAI's UNet" if name == STOCK else name
            counts = [shorten(row[key] * voxels / 1e12) for key in ("products", "convolutions")]
            best = shorten(min(measured)) if measured else ""
            lines.append([label, *counts, *map(shorten, bounds), best])
    bound = ["lower bound of products, seconds", "of all, seconds"]
    second = format_table(["network", "products, TFLOP", "all convolutions, TFLOP", *bound, "measured seconds"], lines)
    return f"{first}\n\n{second}"


def format_gain(results: Mapping[str, Any]) -> str:
    """Return in a few sentences what a user gets."""
    rows = tomogram_rows(results)
    own = {name: rows[name] for name in (TORCH, OPENVINO) if name in rows}
    if not own:
        return NOTHING
    name, best = min(own.items(), key=lambda entry: float(entry[1]["seconds"]))
    used = f"{shorten(best['seconds'])} s and {shorten(best['peak memory'])} GiB"
    sentences = [f"This version takes {used} for a tomogram ({NAMES[name]})."]
    for other, who in ((BEFORE, "The older version takes"), (STOCK, "MONAI's parts take")):
        if other in rows:
            time, memory = (shorten(rows[other][key] / best[key]) for key in ("seconds", "peak memory"))
            after_start = shorten(in_stages(rows[other]) / in_stages(best))
            sentences.append(
                f"{who} {time} times the seconds, {after_start} times without start and end, and {memory} times the "
                "memory."
            )
    return " ".join(sentences)


def in_stages(row: Mapping[str, Any]) -> float:
    """Return the seconds of a tomogram without the start and end of the program, which a batch has once."""
    return float(row["seconds"]) - float(row["start and end"])


TABLES: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "conditions": format_conditions,
    "gain": format_gain,
    "tomogram": format_tomogram,
    "sizes": format_sizes,
    "training": format_training,
    "machine": format_machine,
}


def fill_page(text: str, results: Mapping[str, Any]) -> str:
    """Return a page with the tables of the results between its marks.

    Raises:
        Refusal: the marks of a table are missing.
    """
    for name, format_part in TABLES.items():
        first, last = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
        if text.count(first) != 1 or text.count(last) != 1 or text.index(first) > text.index(last):
            raise Refusal(f"the page needs the line {first} and, after it, the line {last}.")
        before, rest = text.split(first)
        made = format_part(results)
        made = made if made.startswith("|") else fill(made, COLUMNS, break_on_hyphens=False)
        text = f"{before}{first}\n\n{made}\n\n{last}{rest.split(last)[1]}"
    return text


def draw_plot(results: Mapping[str, Any], path: Path) -> None:
    """Draw the stages of every contender, and seconds over the number of voxels."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    rows = tomogram_rows(results)
    labels = [NAMES[name] for name in rows]
    starts = [0.0] * len(rows)
    for stage, colour in zip(STAGES, COLOURS, strict=True):
        heights = [float(row[stage]) for row in rows.values()]
        left.bar(labels, heights, bottom=starts, color=colour, label=stage, width=0.6, edgecolor="white", linewidth=0.5)
        starts = [start + height for start, height in zip(starts, heights, strict=True)]
    for place, row in enumerate(rows.values()):
        note = f"{shorten(row['seconds'])} s\n{shorten(row['peak memory'])} GiB"
        left.annotate(note, (place, starts[place]), (0, 3), textcoords="offset points", ha="center")
    left.set(ylabel="seconds", title="From a file to picks", ylim=(0, 1.2 * max(starts, default=1)))
    if rows:
        left.legend(frameon=False, reverse=True)
    for (name, colour), marker, offset in zip(SIZE_COLOURS.items(), "so", (-7, 7), strict=True):
        sizes = size_rows(results, name)
        voxels = [math.prod(sizes_of(case)) for case in sizes]
        seconds = [float(row["seconds"]) for row in sizes.values()]
        if sizes:
            right.loglog(voxels, seconds, color=colour, marker=marker, label=NAMES[name])
        for count, time, row in zip(voxels, seconds, sizes.values(), strict=True):
            note = f"{shorten(row['peak memory'])} GiB"
            shift, side = (offset, -offset - 3), "right" if offset < 0 else "left"
            right.annotate(note, (count, time), shift, textcoords="offset points", ha=side, color=colour, fontsize=9)
    right.set(xlabel="voxels", ylabel="seconds", title="Seconds and peak memory over the size of the volume")
    right.margins(0.2)
    right.grid(alpha=0.3)
    if right.get_legend_handles_labels()[1]:
        right.legend(frameon=False, loc="upper left")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110, metadata={"Software": None})
