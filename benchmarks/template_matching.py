"""Template matching by pyTME on tomograms with known truth, scored as the networks are.

    python benchmarks/template_matching.py --program PYTME --dataset_dir DATA --maps_dir MAPS --fit_runs a \
        --test_runs b,c --output_dir OUT

PYTME is the command ``pytme`` of an environment of its own: ``python -m venv E; E/bin/pip install pytme==0.3.6``. MAPS
holds the density maps that `configs/simulate_maps.json` names. Where the tomograms were simulated from the same maps,
the templates are perfect, which no user's are.

Every species' map, low-passed like the tomogram and with its missing wedge, is turned through all orientations in steps
of ``--step_degrees``, and compared inside of a spherical mask. The highest peaks are candidates; they, the thresholds
and the scores are treated as those of networks in `recipe.training`. Results stay in OUT, where the command resumes;
it writes ``template_matching.json`` and ``.md``.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

BENCHMARKS = Path(__file__).resolve().parent
sys.path[:0] = [str(BENCHMARKS.parent / "bundle"), str(BENCHMARKS)]

import numpy as np  # noqa: E402
from conditions import is_there  # noqa: E402
from monai.bundle import ConfigParser  # noqa: E402
from numpy.typing import NDArray  # noqa: E402
from recipe.training import Judged, scores_of  # noqa: E402
from scripts.atomic_files import write_atomically  # noqa: E402
from scripts.coordinates import to_zyx_vox  # noqa: E402
from scripts.datasets.runs import require_runs  # noqa: E402
from scripts.datasets.truth import list_labelled_runs  # noqa: E402
from scripts.errors import InputError, run_tool  # noqa: E402
from scripts.markdown import markdown_table  # noqa: E402
from scripts.preparation.truth import read_truth  # noqa: E402
from scripts.scoring.calibration import judge_candidates  # noqa: E402
from scripts.simulation.specimens import Specimen, distances, read_specimen  # noqa: E402
from scripts.species import SPECIES_FILE, Species, SpeciesSet, read_species  # noqa: E402
from scripts.volumes.mrc_writer import write_mrc  # noqa: E402
from scripts.volumes.reading import read_extent  # noqa: E402

CONFIGS = BENCHMARKS.parent / "bundle" / "configs"
MASK_MARGIN_ANGSTROM = 20.0  # beyond the radius that holds 95 % of the mass
MASK_EDGE_VOX = 0.7
MOST_PEAKS = 1000  # of a species in a tomogram
WEDGE_AXES = "2,1"  # the beam along z, the tilt axis y, as pyTME counts: x, y, z


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    options = read_arguments(arguments)
    return run_tool(lambda: match_all(options), resumable=True)


def read_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(prog="python benchmarks/template_matching.py")
    parser.add_argument("--program", default="pytme", help="the command pytme (default: %(default)s)")
    parser.add_argument("--dataset_dir", required=True, help="annotated tomograms")
    parser.add_argument("--maps_dir", type=Path, required=True, help="density maps")
    parser.add_argument("--fit_runs", required=True, help="names of runs to fit thresholds on, with commas")
    parser.add_argument("--test_runs", required=True, help="names of runs to score")
    parser.add_argument("--step_degrees", type=float, default=15.0, help="between orientations (default: %(default)s)")
    parser.add_argument("--round", default="apo-ferritin,virus-like-particle", help="species with nearly round maps")
    parser.add_argument("--round_step_degrees", type=float, default=30.0, help="for these (default: %(default)s)")
    parser.add_argument("--lowpass_angstrom", type=float, default=40.0, help="(default: %(default)s)")
    parser.add_argument("--tilt_degrees", type=float, default=60.0, help="on either side (default: %(default)s)")
    parser.add_argument("--processes", type=int, default=1, help="of pyTME (default: %(default)s)")
    parser.add_argument("--output_dir", type=Path, required=True)
    return parser.parse_args(arguments)


def match_all(options: argparse.Namespace) -> None:
    """Match every species in every run, score, and write the table.

    Raises:
        InputError: a run, a map or the program is missing, or the folder holds results of other settings.
    """
    fitted, tested = (names.split(",") for names in (options.fit_runs, options.test_runs))
    species_set, folder = read_species(SPECIES_FILE), options.output_dir
    rows = {row["run"]: row for row in list_labelled_runs(options.dataset_dir, only=[*fitted, *tested])}
    require_runs(list(rows.values()), options.dataset_dir)
    conditions = {
        "dataset_dir": str(Path(options.dataset_dir).resolve()), "maps_dir": str(options.maps_dir.resolve()),
        "step_degrees": options.step_degrees, "round": options.round, "round_step_degrees": options.round_step_degrees,
        "lowpass_angstrom": options.lowpass_angstrom, "tilt_degrees": options.tilt_degrees,
        "program": version_of(options.program), "processes": options.processes,
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    if not is_there(folder / "conditions.json", conditions):
        with write_atomically(folder / "conditions.json") as file:
            file.write(json.dumps({"conditions": conditions}, indent=1) + "\n")
    judged, seconds = {}, []
    for run, row in rows.items():
        _, voxel_size = read_extent(row["image"])
        particles = particles_of(row, species_set, voxel_size)
        found = {}
        for species in species_set.picked:
            peaks = match(options, folder, run, row["image"], species, voxel_size)
            found[species.name] = judge(peaks["peaks"], particles, species, species_set, voxel_size)
            seconds.append(peaks["seconds"])
        judged[run] = found
    of_fitted, of_tested = (together([judged[run] for run in runs]) for runs in (fitted, tested))
    scores = scores_of(of_fitted, of_tested, species_set)
    result = {**conditions, "seconds_per_tomogram": sum(seconds) / len(rows), "scores": scores}
    with write_atomically(folder / "template_matching.json") as file:
        file.write(json.dumps(result, indent=1) + "\n")
    table = table_of(result)
    with write_atomically(folder / "template_matching.md") as file:
        file.write(table + "\n")
    print(table)


def version_of(program: str) -> str:
    """Return what the program says about itself.

    Raises:
        InputError: it cannot be run.
    """
    python = Path(program).with_name("python")
    command = [str(python) if python.exists() else "python", "-c", "import tme; print(tme.__version__)"]
    try:
        return f"pyTME {subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()}"
    except (OSError, subprocess.CalledProcessError) as error:
        raise InputError(f"{program} cannot be run: install pytme, and give its command as program.") from error


def specimen_of(name: str, maps_dir: Path, voxel_size_angstrom: float) -> Specimen:
    """Return the density of a species from its map."""
    parser = ConfigParser()
    parser.read_config([str(CONFIGS / "simulate.json"), str(CONFIGS / "simulate_maps.json")])
    parser["maps_dir"] = str(maps_dir)
    (source,) = parser.get_parsed_content(f"specimens#{name}#sources")
    return read_specimen(name, source, voxel_size_angstrom)


def particles_of(row: Mapping[str, str], species_set: SpeciesSet, voxel_size_angstrom: float) -> NDArray[np.float64]:
    """Return the true particles of a run, ``(N, 4)`` rows of label, z, y, x in voxels."""
    labels = {one.name: one.label for one in species_set.picked}
    known = read_truth(row["label"], row["run"], species_set)
    truth = [pick for pick in known if pick.species in labels and pick.weight == 1]
    places = to_zyx_vox(np.array([pick.xyz_angstrom for pick in truth]).reshape(-1, 3), voxel_size_angstrom)
    return np.column_stack([[labels[pick.species] for pick in truth], places])


def match(
    options: argparse.Namespace, folder: Path, run: str, image: str, species: Species, voxel_size_angstrom: float
) -> dict[str, Any]:
    """Return ``peaks``, rows of z, y, x in voxels and score, and ``seconds``; from a file, if there is one."""
    path = folder / f"{run}_{species.name}.json"
    if path.exists():
        found: dict[str, Any] = json.loads(path.read_text())
        return found
    specimen = specimen_of(species.name, options.maps_dir, voxel_size_angstrom)
    radius_vox = (specimen.radius_angstrom + MASK_MARGIN_ANGSTROM) / voxel_size_angstrom
    template, mask = folder / f"template_{species.name}.mrc", folder / f"mask_{species.name}.mrc"
    density = specimen.density_kda
    side = min(len(density), 2 * int(np.ceil(radius_vox + 2)) + 1)
    cut = (len(density) - side) // 2
    density = density[cut : cut + side, cut : cut + side, cut : cut + side]
    write_mrc(template, density, voxel_size_angstrom)
    inside = 1 / (1 + np.exp((distances(side) - radius_vox) / MASK_EDGE_VOX))
    write_mrc(mask, inside.astype(np.float32), voxel_size_angstrom)
    step = options.round_step_degrees if species.name in options.round.split(",") else options.step_degrees
    result, table = folder / f"{run}_{species.name}.pickle", folder / f"{run}_{species.name}"
    begun = perf_counter()
    call(
        options.program, "match", "-m", image, "-i", template, "-I", mask, "-o", result, "-a", step,
        "-n", options.processes, "--tilt-angles", f"{options.tilt_degrees:g},{options.tilt_degrees:g}",
        "--wedge-axes", WEDGE_AXES, "--lowpass", options.lowpass_angstrom,
    )  # fmt: skip
    call(
        options.program, "postprocess", "--input-file", result, "--output-prefix", table, "--output-format",
        "orientations", "--min-distance", species.radius_angstrom / voxel_size_angstrom, "--num-peaks", MOST_PEAKS,
    )  # fmt: skip
    seconds = perf_counter() - begun
    with open(f"{table}.tsv", newline="") as file:
        peaks = [[float(row[key]) for key in ("z", "y", "x", "score")] for row in csv.DictReader(file, delimiter="\t")]
    result.unlink()
    with write_atomically(path) as written:
        written.write(json.dumps({"seconds": seconds, "step_degrees": step, "peaks": peaks}) + "\n")
    print(f"{run}, {species.name}: {len(peaks)} peaks, {seconds:.0f} s", flush=True)
    return {"seconds": seconds, "peaks": peaks}


def call(*words: Any) -> None:
    """Run a command on one thread per process.

    Raises:
        InputError: it cannot be run, or it failed; with the last line that it wrote.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    try:
        answer = subprocess.run([str(word) for word in words], capture_output=True, text=True, env=environment)
    except OSError as error:
        raise InputError(f"{words[0]} cannot be run: {error.strerror}.") from error
    if answer.returncode:
        last = (answer.stderr.strip().splitlines() or ["it wrote nothing"])[-1]
        raise InputError(f"{words[0]} {words[1]} failed: {last}")


def judge(
    peaks: Sequence[Sequence[float]],
    particles: NDArray[np.float64],
    species: Species,
    species_set: SpeciesSet,
    voxel_size_angstrom: float,
) -> Judged:
    """Return the candidates of a species, compared with the true particles."""
    table = np.array(peaks, dtype=np.float64).reshape(-1, 4)
    column = [one.name for one in species_set.picked].index(species.name)
    scores = np.tile(table[:, 3:], len(species_set.picked))
    kept, right = judge_candidates(table[:, :3], scores, particles, species_set, voxel_size_angstrom)
    truths = int((particles[:, 0] == species.label).sum())
    return Judged(table[kept[:, column], 3], right[kept[:, column], column], truths)


def together(parts: Sequence[Mapping[str, Judged]]) -> dict[str, Judged]:
    """Return the candidates of several tomograms as those of one."""
    return {
        name: Judged(
            np.concatenate([part[name].scores for part in parts]),
            np.concatenate([part[name].is_right for part in parts]),
            sum(part[name].truths for part in parts),
        )
        for name in parts[0]
    }


def table_of(result: Mapping[str, Any]) -> str:
    """Return a row per species, and one for all."""
    scores = result["scores"]
    heads = ["species", "truths", "precision", "recall", "F1", "average precision", "F4"]
    lines = []
    for name, one in scores["species"].items():
        keys = ("precision_at_f1", "recall_at_f1", "f1_at_f1", "average_precision", "fbeta_at_f4")
        lines.append([name, str(one["truths"]), *(f"{one[key]:.3f}" for key in keys)])
    totals = (f"{scores[key]:.3f}" for key in ("precision", "recall", "f1", "average_precision", "f4"))
    lines.append(["all", str(sum(one["truths"] for one in scores["species"].values())), *totals])
    wrong = f"Wrong picks at the F1 point: {scores['wrong']} of {scores['picks']}; at the F4 point: "
    wrong += f"{scores['wrong_at_f4']} of {scores['picks_at_f4']}."
    cost = (
        f"{result['seconds_per_tomogram']:.0f} s per tomogram, {result['program']}, {result['processes']} process(es)."
    )
    return f"{markdown_table(heads, lines)}\n\n{wrong} {cost}"


if __name__ == "__main__":
    sys.exit(main())
