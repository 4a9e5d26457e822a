"""Picks written back into the copick project that the tomograms came from, as a session of their own."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events

from scripts.coordinates import voxel_size_of
from scripts.datasets import Folders, as_folders
from scripts.errors import InputError
from scripts.particles import ParticleSet
from scripts.picking import picks_of
from scripts.picks import write_copick_json
from scripts.projects import PICKS, RUNS, overlay_of, picks_folders, project_roots, run_folder_of, session_file
from scripts.run_folders import read_record
from scripts.transforms import original_affine_of, source_of

logger = logging.getLogger(__name__)


def require_new_session(
    runs: Sequence[Mapping[str, str]],
    dataset_dir: Folders,
    particles: ParticleSet,
    user_id: str | int,
    session_id: str | int,
    output_dir: str | Path,
    overwrite: bool = False,
) -> None:
    """Refuse, before the work starts, what could not be written back.

    Where ``output_dir`` holds a complete run, its batch was stopped and goes on: what it has written may be there.

    Args:
        runs: the tomograms, rows of `datasets.list_runs`.
        dataset_dir: where they were found.
        particles: the species.
        user_id: who picks; a number of the command line will do, as for the session.
        session_id: the session to write.
        output_dir: where the batch keeps its runs' folders.
        overwrite: let an existing session of that name be replaced.

    Raises:
        InputError: a tomogram is in no project, copick would refuse a name, or the session is there already.
    """
    for species in particles:
        session_file(str(user_id), str(session_id), species.name)
    goes_on = any(read_record(Path(output_dir) / item["run"]) is not None for item in runs)
    for item in runs:
        project = project_of(item["image"], dataset_dir)
        places = picks_folders(run_folder_in_project(item["image"]), project)
        there = [path for place in places for path in place.glob(session_file(str(user_id), str(session_id), "*"))]
        if there and not overwrite and not goes_on:
            remedy = "Set another session_id, or give --overwrite True"
            raise InputError(f"{there[0]} is there already: session '{session_id}' of user '{user_id}'. {remedy}.")


def run_folder_in_project(tomogram: str | Path) -> Path:
    """Return the folder of the run of a tomogram.

    Raises:
        InputError: the tomogram is in no project.
    """
    folder = run_folder_of(tomogram)
    if folder is None:
        raise InputError(f"{tomogram} is in no copick project: give --write_to_project False.")
    return folder


def project_of(tomogram: str | Path, dataset_dir: Folders) -> Path:
    """Return the project that a tomogram belongs to: one of the folders of the dataset, or the folder of its runs.

    Raises:
        InputError: the tomogram is in no project.
    """
    root = run_folder_in_project(tomogram).parent.parent
    for folder in as_folders(dataset_dir):
        if root.resolve() in [part.resolve() for part in project_roots(folder)]:
            return folder
    return root.parent if project_roots(root.parent) else root


class WriteToProject:
    """Write the picks of every tomogram into its copick project.

    Stands before `handlers.WritePicks`, whose folder tells that a run is complete.

    Each species becomes a file, also without picks, in the overlay of the project.

    Args:
        dataset_dir: where the tomograms were found.
        particles: the species.
        user_id: who picked.
        session_id: the session.
    """

    def __init__(self, dataset_dir: Folders, particles: ParticleSet, user_id: str | int, session_id: str | int) -> None:
        self.dataset_dir, self.particles = dataset_dir, particles
        self.user_id, self.session_id = str(user_id), str(session_id)

    def attach(self, engine: Engine) -> None:
        """Join every tomogram."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Write the picks of a batch."""
        output: Any = engine.state.output
        for sample in output:
            self.write_run(sample)

    def write_run(self, sample: Mapping[str, Any]) -> None:
        """Write the picks of one tomogram."""
        tomogram = source_of(sample["image"])
        run = run_folder_in_project(tomogram).name
        folder = overlay_of(project_of(tomogram, self.dataset_dir)) / RUNS / run / PICKS
        picks = picks_of(sample)
        for species in self.particles:
            write_copick_json(
                folder / session_file(self.user_id, self.session_id, species.name),
                picks,
                run=run,
                particle=species.name,
                voxel_size_angstrom=voxel_size_of(original_affine_of(sample["image"])),
                user_id=self.user_id,
                session_id=self.session_id,
            )
        logger.info("%s: session '%s' of user '%s' in %s", run, self.session_id, self.user_id, folder)
