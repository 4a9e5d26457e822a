"""Which copick project a tomogram belongs to, and whether a session may be written there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from scripts.copick_tree import picks_folders, project_roots, run_folder_of, session_file
from scripts.datasets.runs import Folders, as_folders
from scripts.errors import InputError
from scripts.species import SpeciesSet

STARTED = ".sessions"  # in the folder of a batch: the runs whose files of a session are the batch's own


def require_new_session(
    runs: Sequence[Mapping[str, str]],
    dataset_dir: Folders,
    species_set: SpeciesSet,
    user_id: str | int,
    session_id: str | int,
    output_dir: str | Path,
    overwrite: bool = False,
) -> None:
    """Check, before the work starts, that the picks can be written to the copick projects.

    Files of the session may exist in runs for which a stopped batch in ``output_dir`` began to write them.

    Args:
        runs: the tomograms, rows of `datasets.runs.list_runs`.
        dataset_dir: where they were found.
        species_set: the species.
        user_id: who picks; may be a number, which the command line makes of a name like 12.
        session_id: the session to write; may be a number, too.
        output_dir: where the batch keeps its runs' folders.
        overwrite: let an existing session of that name be replaced.

    Raises:
        InputError: a tomogram is in no project, a name is not valid in copick, or the session exists already.
    """
    for species in species_set.picked:
        session_file(str(user_id), str(session_id), species.name)
    for item in runs:
        folder, project = run_folder_in_project(item["image"]), project_of(item["image"], dataset_dir)
        places = picks_folders(folder, project)
        there = [path for place in places for path in place.glob(session_file(str(user_id), str(session_id), "*"))]
        is_own = started_file(output_dir, str(user_id), str(session_id), folder.name).exists()
        if there and not overwrite and not is_own:
            remedy = "Set another session_id, or give --overwrite True"
            raise InputError(f"{there[0]} is there already: session '{session_id}' of user '{user_id}'. {remedy}.")


def started_file(output_dir: str | Path, user_id: str, session_id: str, run: str) -> Path:
    """Return the empty file that says that a batch began to write the files of a session in a run."""
    return Path(output_dir) / STARTED / f"{user_id}_{session_id}" / run


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
