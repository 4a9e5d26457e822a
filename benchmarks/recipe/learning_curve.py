"""Draw what more windows bring: the results of screenings with different numbers of windows, as a table and curves.

    python benchmarks/recipe/learning_curve.py --screenings OUT_1200,OUT_2400,OUT_4800 --output_dir CURVE

The screenings are folders of ``screen.py``, made under the same conditions but for the windows. Each change that was
scored after several numbers of windows, at the ends of several trainings or during one, becomes a curve;
``CURVE/learning_curve.md``, ``.csv`` and ``.png`` are the table and the plot; ``--over seconds`` draws it over the
seconds of the training.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
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
AXES = {"windows": "windows", "seconds": "seconds of the training"}
Row = dict[str, Any]


def make_curve(screenings: Sequence[Path], output_dir: Path, over: str) -> None:
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
        raise InputError(f"{', '.join(map(str, screenings))}: no change was scored after several numbers of windows.")
    sets = list(conditions["test_runs"])
    write_tables_of(rows, format_curve(rows, sets), output_dir / "learning_curve")
    save_figure(curve_figure(rows, sets, over), output_dir / "learning_curve.png")


def summarise_by_windows(results: Sequence[Row]) -> list[Row]:
    """Return one row per change, length of its training and number of windows: means of seeds, and half the ranges.

    Changes that were scored once are left out.
    """
    rows = []
    for name in dict.fromkeys(result["change"] for result in results):
        scored: dict[tuple[int, int], list[Row]] = {}
        for result in (one for one in results if one["change"] == name):
            for point in curve_of(result):
                scored.setdefault((result["conditions"]["windows"], point["windows"]), []).append(point)
        for length, windows in sorted(scored) if len(scored) > 1 else []:
            points = scored[length, windows]
            row: Row = {"change": name, "windows": windows, "trained": length, "seeds": len(points)}
            row["seconds"] = fmean(point["seconds"] for point in points)
            for key in points[0]["sets"]:
                scores = [point["sets"][key] for point in points]
                for measure in SPREAD:
                    row |= spread(f"{key}_{measure}", [one[measure] for one in scores])
                row |= {f"{key}_{one}": fmean(score[one] for score in scores) for one in COUNTED}
            rows.append(row)
    return rows


def curve_of(result: Row) -> list[Row]:
    """Return the scores of a training by the windows that it had seen, and its seconds until then."""
    length, seconds = result["conditions"]["windows"], result["training_seconds"]
    points = result.get("curve", [{"windows": length, "sets": result["sets"]}])
    return [{**point, "seconds": seconds * point["windows"] / length} for point in points]  # all steps are alike


def curves_in(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Return the rows of every curve by its name: of the ends of a change's trainings, and during each."""
    curves = {}
    for name in dict.fromkeys(row["change"] for row in rows):
        own = [row for row in rows if row["change"] == name]
        curves[name] = [row for row in own if row["windows"] == row["trained"]]
        for length in dict.fromkeys(row["trained"] for row in own):
            curves[f"{name}, on the way to {length}"] = [row for row in own if row["trained"] == length]
    return {name: points for name, points in curves.items() if len(points) > 1}


def format_curve(rows: Sequence[Row], sets: Sequence[str]) -> str:
    """Return the table as Markdown."""
    head = ["change", "windows", "of a training of", "seeds", "s"]
    head += [f"{key}: {name}" for key in sets for name in ("AP", "F1", "precision", "wrong picks", "F4", "wrong picks")]
    lines = []
    for row in rows:
        cells = [
            CHANGES[row["change"]].sentence,
            *(str(row[key]) for key in ("windows", "trained", "seeds")),
            f"{row['seconds']:.0f}",
        ]
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


def curve_figure(rows: Sequence[Row], sets: Sequence[str], over: str) -> Figure:
    """Return a figure of both scores over one of `AXES`: a part per set, a colour per curve, bars from seed to seed."""
    curves = curves_in(rows)
    figure = Figure(figsize=(5 * len(sets), 4 + 0.25 * len(curves)), layout="constrained")
    every = sorted({row["windows"] for row in rows})
    parts = figure.subplots(1, len(sets), squeeze=False, sharey=True)[0]
    for axes, key in zip(parts, sets, strict=True):
        for number, (name, points) in enumerate(curves.items()):
            for measure, style in (("average_precision", "o-"), ("f1", "s--")):
                axes.errorbar(
                    [row[over] for row in points],
                    [row[f"{key}_{measure}"] for row in points],
                    yerr=[row[f"{key}_{measure}_half_range"] for row in points],
                    fmt=style,
                    color=f"C{number}",
                    capsize=3,
                    label=f"{name}, {'F1' if measure == 'f1' else 'average precision'}",
                )
        if over == "windows":
            axes.set_xscale("log")
            axes.set_xticks(every, [str(value) for value in every])
            axes.minorticks_off()
        axes.set_title(key)
        axes.set_xlabel(AXES[over])
    parts[0].set_ylabel("mean of the species")
    figure.legend(*parts[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(description="Draw what more windows bring, from the results of screenings.")
    parser.add_argument("--screenings", type=split, required=True, help="folders of screen.py, with commas between")
    parser.add_argument("--output_dir", type=Path, required=True, help="where table and plot stand")
    parser.add_argument("--over", choices=AXES, default="windows", help="axis of the plot (default: %(default)s)")
    options = parser.parse_args(arguments)
    folders = [Path(folder) for folder in options.screenings]
    return run_tool(lambda: make_curve(folders, options.output_dir, options.over))


if __name__ == "__main__":
    sys.exit(main())
