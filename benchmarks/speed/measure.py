"""Time and memory of a tomogram and of a training step, beside MONAI's own parts and beside an older version.

    python benchmarks/speed/measure.py [--before FOLDER] [--volume FILE] [--repeats 3]

Every measurement is a process of its own. The contenders take turns, and the tables show medians. Results are kept in
``docs/speed.json``: a command that is given again measures what is missing, with ``--again`` also what is there.
``--only_page`` measures nothing. Each time, the tables of ``docs/speed.md`` and ``docs/speed.png`` are made from that
file; the text around the tables is kept.

``--before`` is the folder of an older version of this repository, used with its own config and weights. ``--volume`` is
a tomogram; by default it is the sample, mirrored until it has 184 x 630 x 630 voxels. On Linux, on a CPU.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from time import perf_counter
from typing import Any

BENCHMARKS = Path(__file__).resolve().parents[1]
sys.path[:0] = [path for path in (str(BENCHMARKS.parent / "bundle"), str(BENCHMARKS)) if path not in sys.path]

from speed.page import draw_plot, fill_page, shorten  # noqa: E402
from speed.results import (  # noqa: E402
    BEFORE,
    NAMES,
    NOW,
    OPENVINO,
    STAGES,
    STOCK,
    TORCH,
    Refusal,
    Row,
    Run,
    case_of,
    conditions_of,
    flags_of_cpu,
    format_results,
    identity,
    read_results,
    sizes_of,
    write_text,
)
from speed.work import (  # noqa: E402
    BUNDLE,
    MEMORY_FORMATS,
    ROOT,
    WORK,
    count_operations,
    pick_with_stock,
    time_machine,
    time_training,
    write_volume,
)

PARTS = ("tomogram", "sizes", "training", "machine")
BACKENDS = {TORCH: "torch", OPENVINO: "openvino"}
FULL_SIZE = (184, 630, 630)  # voxels; the largest size for `before`
SHAPES = ((64, 64, 64), (92, 128, 128), (92, 315, 315), FULL_SIZE, (260, 890, 890), (368, 1260, 1260))


def run_process(command: Sequence[str], cwd: Path, threads: int) -> tuple[str, Row]:
    """Run a command with so many threads.

    Returns:
        What it printed; and its ``seconds``, ``processor seconds`` and ``peak memory`` in GiB.

    Raises:
        Refusal: it failed.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "THP_MEM_ALLOC_ENABLE": "1"}
    with tempfile.TemporaryFile("w+") as printed, tempfile.TemporaryFile("w+") as complaints:
        begun = perf_counter()
        process = subprocess.Popen(command, cwd=cwd, env=environment, stdout=printed, stderr=complaints)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = perf_counter() - begun
        process.returncode = os.waitstatus_to_exitcode(status)
        for file in (printed, complaints):
            file.seek(0)
        if process.returncode:
            lines = complaints.read().strip().splitlines()
            raise Refusal(lines[-1] if lines else f"it ended with status {process.returncode}")
        facts = {"seconds": seconds, "processor seconds": usage.ru_utime + usage.ru_stime}
        return printed.read(), {**facts, "peak memory": usage.ru_maxrss / 2**20}


def run_work(function: Callable[..., Row], threads: int, bundle: Path = BUNDLE, **arguments: Any) -> Row:
    """Run one of `WORK` in a process of its own; return its answer, and what `run_process` tells."""
    asked = json.dumps({"function": function.__name__, "bundle": str(bundle), "arguments": arguments})
    printed, facts = run_process([sys.executable, __file__, "--work", asked], ROOT, threads)
    return {**facts, **json.loads(printed.splitlines()[-1])}


def pick_with_bundle(root: Path, dataset: Path, output: Path, threads: int, backend: str | None) -> Row:
    """Run a version's inference config; return the times, the memory and the number of picks."""
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", "configs/inference.json"]
    command += ["--dataset_dir", str(dataset), "--output_dir", str(output), "--resume", "False", "--overwrite", "True"]
    command += ["--backend", backend] if backend else []
    _, facts = run_process(command, root / "bundle", threads)
    records = [json.loads(path.read_text()) for path in output.glob("*/run.json")]
    if len(records) != 1 or set(STAGES[1:]) - set(records[0].get("seconds", ())):
        raise Refusal("it wrote no run.json with the seconds of its stages")
    (record,) = records
    stages = {stage: record["seconds"][stage] for stage in STAGES[1:]}
    return {**facts, **stages, "picks": sum(record["picks"].values())}


@dataclass
class Measurement:
    """What is measured, and what was.

    Attributes:
        conditions: what all results have in common, ready for JSON.
        volume: the tomogram's file; None for the sample.
        before: the folder of an older version, if there is one.
        threads: of every process but those of a training step.
        path: where the results are kept.
        rows: the results.
    """

    conditions: Row
    volume: str | None
    before: Path | None
    threads: int
    path: Path
    rows: list[Row]

    def root_of(self, contender: str) -> Path:
        """Return the folder of a contender's version."""
        return self.before if contender == BEFORE and self.before is not None else ROOT

    def code_of(self, contender: str) -> str:
        """Return a hash of the configs, the scripts and the weights of a contender's version."""
        bundle = self.root_of(contender) / "bundle"
        files = [path for folder in ("configs", "scripts", "models") for path in sorted((bundle / folder).rglob("*"))]
        digest = hashlib.sha256()
        for path in files:
            if path.suffix in (".json", ".py", ".pt"):
                digest.update(path.read_bytes())
        return digest.hexdigest()[:12]

    def measure(self, run: Run, folder: Path) -> Row:
        """Measure once; a tomogram's dataset is in the folder."""
        bundle, is_stock = self.root_of(run.contender) / "bundle", run.contender == STOCK
        if run.part == "machine":
            return run_work(time_machine, self.threads)
        if run.part == "network":
            return run_work(count_operations, 1, bundle, version_dir=str(bundle), is_stock=is_stock)
        if run.part == "training":
            return run_work(time_training, 1, bundle, version_dir=str(bundle), is_stock=is_stock, case=run.case)
        dataset = folder / "dataset"
        with tempfile.TemporaryDirectory(dir=folder) as output:
            if is_stock:
                tomogram = str(dataset / "tomogram.mrc")
                return run_work(pick_with_stock, self.threads, tomogram=tomogram, output=output)
            root, backend = self.root_of(run.contender), BACKENDS.get(run.contender)
            return pick_with_bundle(root, dataset, Path(output), self.threads, backend)

    def run_all(self, runs: Sequence[Run], again: bool) -> list[str]:
        """Measure what is missing, or all of it, case by case; keep every result at once. Return what failed."""
        failures = []
        there = {identity(row) for row in self.rows}
        wanted = [run for run in runs if again or run not in there]
        for part, case in dict.fromkeys((run.part, run.case) for run in wanted):
            with tempfile.TemporaryDirectory() as folder:
                if part == "tomogram":
                    (Path(folder) / "dataset").mkdir()
                    path = str(Path(folder) / "dataset" / "tomogram.mrc")
                    run_work(write_volume, self.threads, source=self.volume, shape=sizes_of(case), path=path)
                for run in wanted:
                    if (run.part, run.case) != (part, case):
                        continue
                    name = f"{run.part}, {run.contender or 'machine'}, {run.case or 'all'}, repeat {run.repeat + 1}"
                    try:
                        found = self.measure(run, Path(folder))
                    except Refusal as refusal:
                        failures.append(f"{name}: {refusal}")
                        print(f"{name}: failed: {refusal}", flush=True)
                        continue
                    self.keep(run, found)
                    shown = ", ".join(f"{key} {shorten(value)}" for key, value in found.items())
                    print(f"{name}: {shown}", flush=True)
        return failures

    def keep(self, run: Run, found: Row) -> None:
        """Write a result to the file, in place of an earlier one."""
        rounded = {key: round(value, 4) if isinstance(value, float) else value for key, value in found.items()}
        self.rows = [row for row in self.rows if identity(row) != run]
        self.rows.append({**asdict(run), "code": self.code_of(run.contender), **rounded})
        write_text(self.path, format_results({"conditions": self.conditions, "rows": self.rows}))

    def mixed(self) -> list[str]:
        """Return the contenders that were measured with several versions of the code, or with another one than now."""
        names = {row["contender"] for row in self.rows} - {"", STOCK, *([] if self.before else [BEFORE])}
        codes = {name: {row["code"] for row in self.rows if row["contender"] == name} for name in names}
        return [name for name in NAMES if name in codes and codes[name] != {self.code_of(name)}]


def plan_runs(options: argparse.Namespace, shape: Sequence[int], flags: Sequence[str]) -> list[Run]:
    """Return all runs that the command line asks for, in the order of measuring: the contenders take turns."""
    available = {STOCK, TORCH, NOW} | ({BEFORE} if options.before else set())
    available |= {OPENVINO} if importlib.util.find_spec("openvino") else set()
    chosen = options.contenders.split(",") if options.contenders else [name for name in NAMES if name in available]
    absent = [name for name in chosen if name not in available]
    if absent:
        raise Refusal(f"there is no contender {absent[0]} here; there are {', '.join(sorted(available))}.")
    parts = options.parts.split(",")
    if set(parts) - set(PARTS):
        raise Refusal(f"parts are {', '.join(PARTS)}; got {options.parts}.")

    def turns(part: str, entrants: Sequence[tuple[str, str]], repeats: int = options.repeats) -> Iterator[Run]:
        for repeat, (contender, case) in product(range(repeats), entrants):
            if contender in ("", *chosen):
                yield Run(part, contender, case, repeat)

    runs: list[Run] = []
    if "tomogram" in parts:
        runs += turns("tomogram", [(name, case_of(shape)) for name in (STOCK, BEFORE, TORCH, OPENVINO)])
    if "sizes" in parts:
        for case in options.shapes.split(","):
            names = [BEFORE, NOW] if math.prod(sizes_of(case)) <= math.prod(FULL_SIZE) else [NOW]
            runs += turns("tomogram", [(name, case) for name in names])
    if "training" in parts:
        formats = ["float32", *(["bfloat16"] if "avx512_bf16" in flags else [])]
        stock = [(STOCK, f"{precision}, {order}") for precision, order in product(formats, MEMORY_FORMATS)]
        own = [(name, f"{precision}, channels_last_3d") for name, precision in product((BEFORE, NOW), formats)]
        runs += turns("training", [*stock, *own])
    if "machine" in parts:
        runs += [*turns("machine", [("", "")]), *turns("network", [(name, "") for name in (STOCK, BEFORE, NOW)], 1)]
    return list(dict.fromkeys(runs))


def read_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description="Measure time and memory, and make the page of them.")
    parser.add_argument("--before", type=Path, help="the folder of an older version of this repository")
    parser.add_argument("--volume", help="a tomogram (default: the sample, mirrored to 184 x 630 x 630 voxels)")
    parser.add_argument("--shapes", default=",".join(map(case_of, SHAPES)), help="sizes (default: %(default)s)")
    parser.add_argument("--parts", default=",".join(PARTS), help="out of, and by default: %(default)s")
    parser.add_argument("--contenders", help=f"out of {','.join(NAMES)} (default: all that there are)")
    parser.add_argument("--repeats", type=int, default=3, help="processes for each number (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="(default: %(default)s)")
    parser.add_argument("--again", action="store_true", help="measure also what is there")
    parser.add_argument("--only_page", "--only-page", action="store_true", help="measure nothing, make page and plot")
    parser.add_argument("--results", type=Path, default=ROOT / "docs" / "speed.json", help="where the results are kept")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "speed.md", help="the plot is put beside it")
    parser.add_argument("--work", help=argparse.SUPPRESS)  # what a process of its own is told
    return parser.parse_args(arguments)


def measurement_of(options: argparse.Namespace) -> tuple[Measurement, list[Run]]:
    """Return what the command line asks for.

    Raises:
        Refusal: an option is wrong, or the earlier results were made under other conditions.
    """
    from scripts.errors import InputError
    from scripts.volumes.reading import read_extent

    if options.before and not (options.before / "bundle" / "configs" / "inference.json").is_file():
        raise Refusal(f"{options.before} is not the folder of a version: it has no bundle/configs/inference.json.")
    if options.repeats < 1 or options.threads < 1:
        raise Refusal("repeats and threads are 1 or more.")
    volume = str(Path(options.volume).resolve()) if options.volume else None
    try:
        shape = FULL_SIZE if volume is None else read_extent(volume)[0]
    except InputError as error:
        raise Refusal(str(error)) from error
    runs = plan_runs(options, shape, flags_of_cpu()[1])
    conditions = conditions_of(options.threads, shape, volume)
    results = read_results(options.results)
    different = [key for key in conditions if results["rows"] and results["conditions"].get(key) != conditions[key]]
    if different and not options.again:
        raise Refusal(
            f"{options.results} was made with another value of {', '.join(different)}: give --again, which drops it, "
            "or another --results."
        )
    rows = [] if different else results["rows"]
    before = options.before.resolve() if options.before else None
    return Measurement(conditions, volume, before, options.threads, options.results, rows), runs


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    options = read_arguments(arguments)
    if options.work:
        asked = json.loads(options.work)
        sys.path[:0] = [asked["bundle"], str(BENCHMARKS)]
        print(json.dumps(WORK[asked["function"]](**asked["arguments"])))
        return 0
    failures: list[str] = []
    try:
        if not options.only_page:
            measurement, runs = measurement_of(options)
            failures = measurement.run_all(runs, options.again)
            for contender in measurement.mixed():
                print(f"{contender}: some results are of another version of its code: --again replaces them.")
        results = read_results(options.results)
        write_text(options.page, fill_page(options.page.read_text(), results))
        draw_plot(results, options.page.with_suffix(".png"))
    except Refusal as refusal:
        print(f"error: {refusal}", file=sys.stderr)
        return 1
    for failure in failures:
        print(f"failed: {failure}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
