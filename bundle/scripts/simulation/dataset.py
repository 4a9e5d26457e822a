"""Datasets of simulated tomograms with known truth, stored as a copick project like that of the challenge."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from scripts.atomic_files import digest_of, lock_folder, open_lock, require_writable, write_atomically
from scripts.coordinates import to_xyz_angstrom
from scripts.copick_tree import CONFIG, RUNS, STATIC, picks_path, tomogram_path, write_project
from scripts.errors import InputError, blame, reason_of
from scripts.file_names import require_file_name
from scripts.picks import Pick, write_copick_json
from scripts.records import first_difference
from scripts.simulation.imaging import Imaging, beams, count_electrons, expected_counts, reconstruct
from scripts.simulation.scene import ACTIN, MICROTUBULE, Scene
from scripts.simulation.settings import Settings, check_settings, drawn
from scripts.simulation.specimens import Specimen, read_specimen
from scripts.species import SpeciesSet
from scripts.volumes.mrc_writer import write_mrc
from scripts.volumes.ome_zarr_writer import write_ome_zarr

logger = logging.getLogger(__name__)

SETTINGS_FILE = (
    "simulation.json"  # in the project: its settings; in a run: its drawn settings, written once it is complete
)
LOCK_FILE = ".simulation.lock"
ADDED = ("run_name", "species", "files")  # to its settings in the project; older files lack some
FILES = {"map", "model"}  # sources of specimens that are files
SIMULATION_USER_ID, SIMULATION_SESSION_ID = "simulation", "0"
LAYER_DISTANCE_ANGSTROM = (90.0, 250.0)  # between the membranes of a vesicle with several layers


def simulate_dataset(
    dataset_dir: str | Path,
    species_set: SpeciesSet,
    settings: Settings,
    runs: int,
    seed: int = 0,
    workers: int | None = None,
    run_name: str = "S{number:03d}",
) -> list[str]:
    """Simulate the runs that are not complete yet, several at a time.

    Args:
        dataset_dir: the copick project; created if needed.
        species_set: the species; those with settings in ``specimens`` are simulated and written as truth.
        settings: ``shape``, ``voxel_size_angstrom``, ``specimens``, ``distractors``, ``scene``, ``imaging``,
            ``reconstructions``, ``particles_are`` and ``write_mrc``, see `docs/reference/configuration.md`.
        runs: number of runs.
        seed: run ``n`` depends only on the seed, on ``n`` and on the settings.
        workers: number of processes; None means one per core.
        run_name: pattern of the runs' names, where ``number`` counts from 0.

    Returns:
        The names of the runs.

    Raises:
        InputError: a setting is not valid, a map cannot be read, or the folder holds another project or runs with other
            settings, maps or species.
    """
    root = Path(os.path.abspath(dataset_dir))  # "." has no name
    settings = json.loads(json.dumps({**settings, "seed": seed}, default=str))
    check_settings({**settings, "runs": runs, "run_name": run_name, "workers": workers}, species_set)
    names = _run_names(run_name, runs)
    waiting = [(number, name) for number, name in enumerate(names) if not _marker(root, name, settings).exists()]
    if waiting:
        check_sources(settings)
    require_writable(root)
    if (root / CONFIG).exists() and not (root / SETTINGS_FILE).exists():
        raise InputError(f"{root} is a copick project that was not simulated: set another dataset_dir.")
    with open_lock(root / LOCK_FILE) as lock:
        lock_folder(lock, "simulation", "set another dataset_dir")
        _begin(root, record_of_dataset({**settings, "run_name": run_name}, species_set))
        write_project(root, species_set, name="simulated", description="Simulated tomograms with known truth")
        if len(waiting) < runs:
            logger.info("%d of %d runs are there already", runs - len(waiting), runs)
        jobs = [(root, name, number, species_set, settings) for number, name in waiting]
        with tqdm(total=len(jobs), desc="simulating", unit="run", disable=not jobs) as bar:
            _simulate_all(jobs, min(workers or os.cpu_count() or 1, len(jobs)), bar)
    return names


def _run_names(pattern: str, runs: int) -> list[str]:
    try:
        names = [pattern.format(number=number) for number in range(runs)]
    except (AttributeError, LookupError, ValueError) as error:
        raise InputError(f"run_name '{pattern}' is no pattern like 'S{{number:03d}}': {reason_of(error)}.") from error
    for name in names:
        require_file_name(name, "run", "run_name")
    if len(set(names)) != len(names):
        raise InputError(f"run_name '{pattern}' gives runs of one name: put {{number}} into it.")
    return names


def _simulate_all(jobs: Sequence[tuple[Path, str, int, SpeciesSet, Settings]], workers: int, bar: Any) -> None:
    """Call `simulate_run` for every job, in this process or in several, and update the progress bar."""
    if workers <= 1:
        for job in jobs:
            simulate_run(*job)
            bar.update()
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        futures = [pool.submit(simulate_run, *job) for job in jobs]
        try:
            for future in as_completed(futures):
                future.result()
                bar.update()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def check_sources(settings: Settings) -> None:
    """Read every map, model and phantom once, so that an unusable one is refused before the first run.

    Raises:
        InputError: one cannot be used.
    """
    for group in ("specimens", "distractors"):
        for name, crowd in settings[group].items():
            for source in crowd["sources"]:
                read_specimen(name, source, settings["voxel_size_angstrom"])


def simulate_run(root: Path, run: str, number: int, species_set: SpeciesSet, settings: Settings) -> None:
    """Simulate one run and write its tomograms, its truth, and last its drawn settings."""
    with threadpool_limits(1):  # several runs are simulated in parallel
        random = np.random.default_rng([settings["seed"], number])
        used = drawn(settings, random.uniform)
        scene = fill_scene(used, random)
        volumes = take_tomograms(scene, used, random)
    voxel_size = settings["voxel_size_angstrom"]
    for kind, volume in volumes.items():
        path = tomogram_path(root, run, settings["spacing_folder_angstrom"], kind)
        write_ome_zarr(path, volume, voxel_size)
        if settings["write_mrc"]:
            write_mrc(root.with_name(f"{root.name}_mrc") / run / f"{kind}.mrc", volume, voxel_size)
    truth = placed_truth(scene, run, species_set)
    for species in settings["specimens"]:
        write_copick_json(
            picks_path(root, run, species, SIMULATION_USER_ID, SIMULATION_SESSION_ID),
            truth,
            run=run,
            species=species,
            voxel_size_angstrom=voxel_size,
            user_id=SIMULATION_USER_ID,
            session_id=SIMULATION_SESSION_ID,
        )
    counts = {
        kind: sum(one.name == kind for one in scene.placed) for kind in (*used["specimens"], *used["distractors"])
    }
    with write_atomically(_marker(root, run, settings)) as file:
        json.dump({"number": number, "drawn": used, "placed": counts}, file, indent=1)


def fill_scene(used: Settings, random: np.random.Generator) -> Scene:
    """Return a slab of ice with everything that the drawn settings ask for; the largest particles are placed first."""
    options, voxel_size = used["scene"], used["voxel_size_angstrom"]
    thickness = options["ice_thickness_angstrom"]
    scene = Scene(
        used["shape"], voxel_size, random, thickness, [options["slab_tilt_y_degree"], options["slab_tilt_x_degree"]]
    )
    if random.random() < options["carbon_probability"]:
        scene.add_carbon_edge(options["carbon_share"], options["carbon_thickness_angstrom"])
    add_surroundings(scene, options, random)
    crowds = [
        ([read_variant(name, source, voxel_size, options["specimen_scale"]) for source in crowd["sources"]], crowd)
        for group in ("specimens", "distractors")
        for name, crowd in used[group].items()
    ]
    for specimens, crowd in sorted(crowds, key=lambda pair: -pair[0][0].radius_angstrom):
        wanted = crowd["per_square_micrometer"] * max(options["crowding"], 0) * scene.square_micrometers
        count = random.poisson(wanted * random.lognormal(0, options["count_variation"]))
        distance = crowd.get("companion_distance_angstrom", (0.0, 0.0))
        scene.add_particles(specimens, count, crowd.get("companion_share", 0.0), distance)
    scene.add_specks(_count_of("specks", options, scene, random), *options["speck_mass_kda"])
    scene.add_ice_grain(options["ice_grain_kda_per_voxel"])
    return scene


def add_surroundings(scene: Scene, options: Settings, random: np.random.Generator) -> None:
    """Add what is there before the particles: vesicles, membranes, filaments and gold beads."""
    voxel_size = scene.voxel_size_angstrom
    for _ in range(_count_of("vesicles", options, scene, random)):
        radius = random.uniform(*options["vesicle_radius_angstrom"])
        place, stretch = scene.draw_place(radius / voxel_size), random.uniform(0.8, 1.2, 3)
        fewest, most = options["vesicle_layers"]
        for inner in range(random.integers(fewest, most, endpoint=True)):
            if inner:
                radius -= random.uniform(*LAYER_DISTANCE_ANGSTROM)
            if radius > LAYER_DISTANCE_ANGSTROM[0]:
                scene.add_vesicle(place, radius, stretch)
    for _ in range(_count_of("membranes", options, scene, random)):
        radius, normal = random.uniform(*options["membrane_radius_angstrom"]), random.standard_normal(3)
        normal[0] /= 2  # most stand upright in the slab
        centre = scene.draw_place() + normal / np.linalg.norm(normal) * radius / voxel_size
        scene.add_vesicle(centre, radius, np.ones(3))
    for kind, filament in (("microtubules", MICROTUBULE), ("actin_filaments", ACTIN)):
        for _ in range(_count_of(kind, options, scene, random)):
            scene.add_filament(scene.draw_place(filament.radius_angstrom / voxel_size), filament)
    for _ in range(_count_of("gold", options, scene, random)):
        scene.add_gold(scene.draw_place(), random.uniform(*options["gold_radius_angstrom"]))


def _count_of(what: str, options: Settings, scene: Scene, random: np.random.Generator) -> int:
    """Return how many objects of a kind a scene gets; none if their setting is below 0."""
    return int(random.poisson(max(options[f"{what}_per_square_micrometer"], 0) * scene.square_micrometers))


def read_variant(name: str, source: Settings, voxel_size_angstrom: float, scale: float) -> Specimen:
    """Return a specimen that is ``scale`` times as large as its source, with the same mass."""
    specimen = read_specimen(name, source, voxel_size_angstrom / scale)
    return replace(specimen, voxel_size_angstrom=voxel_size_angstrom, radius_angstrom=specimen.radius_angstrom * scale)


def take_tomograms(scene: Scene, used: Settings, random: np.random.Generator) -> dict[str, NDArray[np.float32]]:
    """Return the reconstructions of a scene, ``[z, y, x]`` each, by kind.

    Reconstruction is linear, so a denoised tomogram is imitated by the noiseless one plus a share of the noise.
    """
    thickness = min(used["scene"]["ice_thickness_angstrom"], scene.shape[0] * scene.voxel_size_angstrom)
    imaging = Imaging.of({**used["imaging"], "ice_thickness_angstrom": thickness})
    geometry = beams(scene.shape[0], scene.shape[2], imaging.angles_degree)
    expected = expected_counts(scene.density_kda, scene.voxel_size_angstrom, imaging, geometry)
    noise = count_electrons(expected, imaging, random) - expected
    volumes = {}
    for kind, options in used["reconstructions"].items():
        taken = replace(imaging, resolution_angstrom=options["resolution_angstrom"])
        images = expected + np.float32(options["noise_share"]) * noise
        volume = reconstruct(images, scene.voxel_size_angstrom, taken, geometry)
        volumes[kind] = volume if used["particles_are"] == "bright" else -volume
    return volumes


def placed_truth(scene: Scene, run: str, species_set: SpeciesSet) -> list[Pick]:
    """Return the particles of a scene whose species are known, in file coordinates."""
    radii = {species.name: species.radius_angstrom for species in species_set.known}
    placed = [one for one in scene.placed if one.name in radii]
    places = to_xyz_angstrom([one.centre_zyx_vox for one in placed], scene.voxel_size_angstrom)
    return [
        Pick(run, one.name, float(x), float(y), float(z), radius_angstrom=radii[one.name])
        for one, (x, y, z) in zip(placed, places, strict=True)
    ]


def _marker(root: Path, run: str, settings: Settings) -> Path:
    """Return the file that marks a complete run, beside its folder of tomograms."""
    kind = next(iter(settings["reconstructions"]))
    return tomogram_path(root, run, settings["spacing_folder_angstrom"], kind).parents[1] / SETTINGS_FILE


def record_of_dataset(settings: Settings, species_set: SpeciesSet) -> dict[str, Any]:
    """Return what a dataset depends on: its settings, its species, and the content of its maps and models."""
    known = {one.name: {"label": one.label, "radius_angstrom": one.radius_angstrom} for one in species_set.known}
    species = {name: known[name] for name in settings["specimens"]}
    return {**settings, "species": species, "files": digests_of_sources(settings)}


def digests_of_sources(settings: Settings) -> dict[str, str]:
    """Return a SHA-256 of every map and model that the settings name, by its path; of those that can be read."""
    crowds = [crowd for group in ("specimens", "distractors") for crowd in settings[group].values()]
    files = {source[kind] for crowd in crowds for source in crowd["sources"] for kind in FILES & set(source)}
    return {file: digest_of(Path(file)) for file in sorted(files) if os.access(file, os.R_OK)}


def _begin(root: Path, record: Settings) -> None:
    """Store what a dataset depends on, or check that the runs that are there depend on the same."""
    path = root / SETTINGS_FILE
    if path.exists() and any((root / STATIC / RUNS).glob("*")):
        _require_same(path, record)
        return
    with write_atomically(path) as file:
        json.dump(record, file, indent=1)


def _require_same(path: Path, record: Settings) -> None:
    with blame(path, "JSON file", (TypeError, ValueError)):
        before = {**{name: record[name] for name in ADDED}, **json.loads(path.read_text())}
    for file, digest in record["files"].items():
        if digest != before["files"].get(file, digest):
            raise InputError(
                f"{file} has changed since the dataset in {path.parent} was begun with it: "
                "put the old file back, or set another dataset_dir."
            )
    same = {**{name: before.get(name) for name in record}, "files": record["files"]}
    if difference := first_difference(same, record):
        raise InputError(f"{path} is of a dataset with other settings: {difference}. Set another dataset_dir.")
