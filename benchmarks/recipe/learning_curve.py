"""Draw what more windows bring: the results of screenings with different numbers of windows, as a table and curves.

    python benchmarks/recipe/learning_curve.py --screenings OUT_1200,OUT_2400,OUT_4800 --output_dir CURVE

The screenings are folders of ``screen.py``, made under the same conditions but for the windows. Each change that was
scored after several numbers of windows, at the ends of several trainings or on the way of one, becomes a curve;
``CURVE/learning_curve.md``, ``.csv`` and ``.png`` are the table and the plot.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

BENCHMARKS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(BENCHMARKS.parent / "bundle"), str(BENCHMARKS)]

from matplotlib.figure import Figure  # noqa: E402
from scripts.errors import InputError, run_tool  # noqa: E402
from scripts.pages.figures import save_figure  # noqa: E402
from tables import page_of, with_spread, write_tables_of  # noqa: E402

from recipe.changes import CHANGES  # noqa: E402
from recipe.screen import check_results, read_results, split, spread  # noqa: E402

SPREAD = ("average_precision", "f1", "f4")  # of every set, with half the range of the seeds
COUNTED = ("precision", "picks", "wrong", "picks_at_f4", "wrong_at_f4")
Row = dict[str, Any]


def make_curve(screenings: Sequence[Path], output_dir: Path) -> None:
    """Write table and curves.

    Raises:
        InputError: a folder holds no results, they were made under different conditions, or none is in two folders.
    """
    results = []
    for folder in screenings:
        found = read_results(folder)
        if not found:
            raise InputError(f"{folder} holds no result of {', '.join(CHANGES)}.")
        results += found
    conditions = dict(results[0]["conditions"])
    del conditions["windows"]
    check_results(results, conditions)
    rows = summarise_by_windows(results)
    if not rows:
        raise InputError(f"{', '.join(map(str, screenings))}: no change was trained for several numbers of windows.")
    sets = list(conditions["test_runs"])
    write_tables_of(rows, format_curve(rows, sets), output_dir / "learning_curve")
    save_figure(curve_figure(rows, sets), output_dir / "learning_curve.png")


def summarise_by_windows(results: Sequence[Row]) -> list[Row]:
    """Return one row per change and number of windows, of which it has several: means of seeds, and half the ranges."""
    rows = []
    for name in dict.fromkeys(result["change"] for result in results):
        points = [point for result in results if result["change"] == name for point in curve_of(result)]
        counts = sorted({point["windows"] for point in points})
        for windows in counts if len(counts) > 1 else []:
            equal = [point["sets"] for point in points if point["windows"] == windows]
            row: Row = {"change": name, "windows": windows, "seeds": len(equal)}
            for key in equal[0]:
                scores = [sets[key] for sets in equal]
                for measure in SPREAD:
                    row |= spread(f"{key}_{measure}", [one[measure] for one in scores])
                row |= {f"{key}_{one}": sum(score[one] for score in scores) / len(scores) for one in COUNTED}
            rows.append(row)
    return rows


def curve_of(result: Row) -> list[Row]:
    """Return the scores of a training by the windows that it had seen."""
    at_the_end = {"windows": result["conditions"]["windows"], "sets": result["sets"]}
    return [point for point in result.get("curve", []) if point["windows"] < at_the_end["windows"]] + [at_the_end]


def format_curve(rows: Sequence[Row], sets: Sequence[str]) -> str:
    """Return the table as Markdown."""
    head = ["change", "windows", "seeds"]
    head += [f"{key}: {name}" for key in sets for name in ("AP", "F1", "precision", "wrong picks", "F4", "wrong picks")]
    lines = []
    for row in rows:
        cells = [CHANGES[row["change"]].sentence, str(row["windows"]), str(row["seeds"])]
        for key in sets:
            cells += [with_spread(row, f"{key}_{name}", ".3f") for name in SPREAD[:2]]
            cells += [f"{row[f'{key}_precision']:.3f}", f"{row[f'{key}_wrong']:.0f} of {row[f'{key}_picks']:.0f}"]
            cells += [with_spread(row, f"{key}_f4", ".3f")]
            cells += [f"{row[f'{key}_wrong_at_f4']:.0f} of {row[f'{key}_picks_at_f4']:.0f}"]
        lines.append(cells)
    text = (
        "Means over the seeds ± half their range. AP is the mean average precision of the species; F1, precision and "
        "the first wrong picks are those with thresholds for F1, F4 and the second wrong picks with those for F4.\n"
    )
    return page_of(text, head, lines)


def curve_figure(rows: Sequence[Row], sets: Sequence[str]) -> Figure:
    """Return a figure of both scores over the windows: a part per set, a colour per change, bars from seed to seed."""
    figure = Figure(figsize=(5 * len(sets), 4), layout="constrained")
    names = list(dict.fromkeys(row["change"] for row in rows))
    every = sorted({row["windows"] for row in rows})
    parts = figure.subplots(1, len(sets), squeeze=False, sharey=True)[0]
    for axes, key in zip(parts, sets, strict=True):
        for number, name in enumerate(names):
            own = [row for row in rows if row["change"] == name]
            windows = [row["windows"] for row in own]
            for measure, style in (("average_precision", "o-"), ("f1", "s--")):
                axes.errorbar(
                    windows,
                    [row[f"{key}_{measure}"] for row in own],
                    yerr=[row[f"{key}_{measure}_half_range"] for row in own],
                    fmt=style,
                    color=f"C{number}",
                    capsize=3,
                    label=f"{name}, {'F1' if measure == 'f1' else 'average precision'}",
                )
        axes.set_xscale("log")
        axes.set_xticks(every, [str(value) for value in every])
        axes.minorticks_off()
        axes.set_title(key)
        axes.set_xlabel("windows")
    parts[0].set_ylabel("mean of the species")
    parts[0].legend()
    return figure


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(description="Draw what more windows bring, from the results of screenings.")
    parser.add_argument("--screenings", type=split, required=True, help="folders of screen.py, with commas between")
    parser.add_argument("--output_dir", type=Path, required=True, help="where table and plot stand")
    options = parser.parse_args(arguments)
    return run_tool(lambda: make_curve([Path(folder) for folder in options.screenings], options.output_dir))


if __name__ == "__main__":
    sys.exit(main())
