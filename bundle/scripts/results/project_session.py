"""The session of a copick project that a batch writes: which project, whether it may be written, and what was."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

from scripts.atomic_files import digest_of, write_atomically
from scripts.copick_tree import id_text, picks_folders, picks_path, project_roots, run_folder_of, session_file
from scripts.datasets.runs import Folders, as_folders
from scripts.errors import InputError
from scripts.picks import Pick, read_csv, warn_of_others, write_copick_json
from scripts.picks.copick_json import check_ids
from scripts.results.run_folder import PICKS_TABLE, read_record
from scripts.species import SpeciesSet

logger = logging.getLogger(__name__)

SESSIONS = ".sessions"  # in the folder of a batch: what it wrote to projects, by session and run


class ProjectSession:
    """The session of the copick projects that a batch writes its picks to.

    Args:
        dataset_dir: where the tomograms were found.
        species_set: the species; each becomes a file, even without picks.
        user_id: who picks; may be a number, which the command line makes of a name like 12.
        session_id: the session; may be a number, too.
        output_dir: where the batch keeps its runs' folders.

    Raises:
        InputError: copick would refuse an id, or it is a number that is not whole.
    """

    def __init__(
        self, dataset_dir: Folders, species_set: SpeciesSet, user_id: str | int, session_id: str | int,
        output_dir: str | Path,
    ) -> None:  # fmt: skip
        self.dataset_dir, self.species_set, self.output_dir = dataset_dir, species_set, Path(output_dir)
        self.user_id, self.session_id = id_text("user_id", user_id), id_text("session_id", session_id)
        check_ids(self.user_id, self.session_id)

    def __str__(self) -> str:
        return f"session '{self.session_id}' of user '{self.user_id}'"

    def require_new(self, tomograms: Iterable[str | Path], overwrite: bool = False) -> None:
        """Check, before the work starts, that the session can be written.

        Its files may exist in runs where a stopped batch in ``output_dir`` wrote them, if nobody changed them since. A
        warning names those that no pick replaces, such as files of species of another model.

        Args:
            tomograms: their paths.
            overwrite: let an existing session of that name be replaced.

        Raises:
            InputError: a tomogram is in no project, copick would refuse the name of a species, or the session exists
                already.
        """
        pattern, others = session_file(self.user_id, self.session_id, "*"), []
        for tomogram in tomograms:
            folder, project = run_folder_in_project(tomogram), project_of(tomogram, self.dataset_dir)
            replaced = {file.resolve() for file in self._files_of(tomogram)}
            there = [path for place in picks_folders(folder, project) for path in sorted(place.glob(pattern))]
            if there and not overwrite and not self._record_of(tomogram).covers(there):
                raise InputError(
                    f"{there[0]} is there already: {self}. Set another session_id, or give --overwrite True."
                )
            others += [path for path in there if path.resolve() not in replaced]
        warn_of_others(str(self), others, self.output_dir)

    def write(self, tomogram: str | Path, picks: Sequence[Pick], voxel_size_angstrom: float | None) -> None:
        """Write the picks of one tomogram to the overlay of its project.

        Args:
            tomogram: its path.
            picks: of its run.
            voxel_size_angstrom: of the tomogram; None when unknown.
        """
        run, files, record = run_folder_in_project(tomogram).name, self._files_of(tomogram), self._record_of(tomogram)
        folder = files[0].parent
        record.write(folder, files=None)
        for file, species in zip(files, self.species_set.names, strict=True):
            write_copick_json(
                file,
                picks,
                run=run,
                species=species,
                voxel_size_angstrom=voxel_size_angstrom,
                user_id=self.user_id,
                session_id=self.session_id,
            )
        record.write(folder, files)
        logger.info("%s: %s in %s", run, self, folder)

    def write_missing(self, tomogram: str | Path, folder: Path) -> None:
        """Write what was picked earlier, unless the session has it: the project may be a copy, or have lost the files.

        Args:
            tomogram: its path.
            folder: the complete folder of its run.
        """
        record = read_record(folder)
        if record is not None and not self._record_of(tomogram).covers(self._files_of(tomogram), begun=False):
            self.write(tomogram, read_csv(folder / PICKS_TABLE), record.voxel_size_angstrom)

    def _files_of(self, tomogram: str | Path) -> list[Path]:
        """Return the file of every species, in the order of their names, whether or not it exists."""
        project, run = project_of(tomogram, self.dataset_dir), run_folder_in_project(tomogram).name
        return [picks_path(project, run, name, self.user_id, self.session_id) for name in self.species_set.names]

    def _record_of(self, tomogram: str | Path) -> SessionRecord:
        run = run_folder_in_project(tomogram).name
        return SessionRecord(self.output_dir, self.user_id, self.session_id, run)


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

    def covers(self, files: Sequence[Path], begun: bool = True) -> bool:
        """Return whether the batch wrote all of these files, and nobody changed or removed them since.

        Args:
            files: in one or several folders.
            begun: what it has only begun to write counts as well.
        """
        try:
            content = json.loads(self.path.read_text())
            folder, digests = content["folder"], content["sha256"]
            if digests is None and not begun:
                return False
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
