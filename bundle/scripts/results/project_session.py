"""Which copick project a tomogram belongs to, and whether a session may be written there."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from scripts.atomic_files import digest_of, write_atomically
from scripts.copick_tree import picks_folders, project_roots, run_folder_of, session_file
from scripts.datasets.runs import Folders, as_folders
from scripts.errors import InputError
from scripts.species import SpeciesSet

SESSIONS = ".sessions"  # in the folder of a batch: what it wrote to projects, by session and run


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

    Files of the session may exist in runs where a stopped batch in ``output_dir`` wrote them, if nobody changed them
    since.

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
        if there and not overwrite and not SessionRecord(output_dir, user_id, session_id, folder.name).covers(there):
            remedy = "Set another session_id, or give --overwrite True"
            raise InputError(f"{there[0]} is there already: session '{session_id}' of user '{user_id}'. {remedy}.")


class SessionRecord:
    """The file in the folder of a batch that says what the batch wrote of a session to the project of one run.

    Args:
        output_dir: where the batch keeps its runs' folders.
        user_id: who picks.
        session_id: the session.
        run: name of the run.
    """

    def __init__(self, output_dir: str | Path, user_id: str | int, session_id: str | int, run: str) -> None:
        self.path = Path(output_dir) / SESSIONS / f"{user_id}_{session_id}" / f"{run}.json"

    def write(self, folder: Path, files: Sequence[Path] | None) -> None:
        """Write it.

        Args:
            folder: of the picks in the project.
            files: in it; None before they are written: if the batch is stopped then, all files there count as its own.
        """
        digests = None if files is None else {file.name: digest_of(file) for file in files}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with write_atomically(self.path) as file:
            file.write(json.dumps({"folder": str(folder.resolve()), "sha256": digests}, indent=1) + "\n")

    def covers(self, files: Sequence[Path]) -> bool:
        """Return whether the batch wrote all of these files, and nobody changed them since."""
        try:
            content = json.loads(self.path.read_text())
            folder, digests = content["folder"], content["sha256"]
            return all(
                str(file.parent.resolve()) == folder and (digests is None or digests.get(file.name) == digest_of(file))
                for file in files
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError):  # none, or it is damaged
            return False


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
