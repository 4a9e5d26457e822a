"""Write the picks of every tomogram: to a folder of its own, and to its copick project."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

from ignite.engine import Engine, Events

from scripts.atomic_files import write_folder_atomically
from scripts.copick_tree import id_text
from scripts.datasets.runs import mask_of_run
from scripts.errors import InputError, InputWarning
from scripts.file_names import require_file_name
from scripts.handlers.finished_sample import expected_of, image_facts_of, picture_of, samples_of, tomogram_of
from scripts.handlers.times import peak_memory_gib
from scripts.pages.figures import save_figure
from scripts.pages.html import PAGE_NAME, check_megabytes
from scripts.pages.run_page import write_run_page
from scripts.picking.pick_transform import picks_of
from scripts.picks import Facts, Pick, check_formats, from_records, write_run_folder
from scripts.picks.copick_json import check_ids
from scripts.picks.formats import Format
from scripts.picks.relion4_star import counts_voxels
from scripts.records import as_json, record_of
from scripts.results.project_session import ProjectSession
from scripts.results.run_folder import changed_file, make_record, state_of, write_record
from scripts.settings import check_setting
from scripts.species import SpeciesSet

logger = logging.getLogger(__name__)


class WriteToProject:
    """Write the picks of every tomogram to its copick project, after its iteration.

    Comes before `WritePicks`, whose folder marks a run as complete.

    Args:
        session: what they are written to.
    """

    def __init__(self, session: ProjectSession) -> None:
        self.session = session

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        for sample in samples_of(engine):
            facts = image_facts_of(sample)
            self.session.write(facts.source, picks_of(sample), facts.own_voxel_size_angstrom)


class WritePicks:
    """Write the picks of every tomogram to a folder of its own, atomically, after its iteration.

    The folder of a run has ``picks.csv``, ``overlay.png``, ``report.html``, the record ``run.json``, see
    `results.run_folder`, and the files of the other formats, see `picks.formats`.

    Args:
        output_dir: where the folders are written.
        species_set: the species.
        user_id: who picked, for copick.
        session_id: which session, for copick.
        voxel_offset: see `coordinates`.
        formats: names of the formats to write, see `picks.formats`.
        binning: pixels of the tilt series along the side of a voxel, for formats that count in these pixels; None
            counts voxels, which a warning says.
        built: the objects that the picks depend on, by name; their records are stored in ``run.json``.
        page_megabytes: size limit of a run's page; 0 writes no pages.
        mask_path: see `preparation.region.LimitRegiond`.

    Raises:
        InputError: there is no such format, ``binning`` has no meaning for these formats or is not positive, or copick
            would refuse an id, or it is a number that is not whole.
    """

    def __init__(
        self,
        output_dir: str,
        species_set: SpeciesSet,
        user_id: str | int,
        session_id: str | int,
        voxel_offset: float = 0.0,
        formats: Sequence[str] = ("csv", "copick", "relion5"),
        binning: float | None = None,
        built: Mapping[str, Any] | None = None,
        page_megabytes: float = 20.0,
        mask_path: str | None = None,
    ) -> None:
        self.folder, self.species_set = Path(output_dir), species_set
        self.page_megabytes, self.mask_path = check_megabytes(page_megabytes), mask_path
        self.user_id, self.session_id = id_text("user_id", user_id), id_text("session_id", session_id)
        self.voxel_offset = voxel_offset
        self.formats = check_formats(formats)
        self.binning = check_binning(binning, self.formats)
        if any(one.name == "copick" for one in self.formats):
            check_ids(self.user_id, self.session_id)
        self.settings = as_json(record_of({**(built or {}), "files": self}))

    def record(self) -> dict[str, Any]:
        """Return the settings that the files depend on, besides the picks."""
        return {
            "formats": [one.name for one in self.formats],
            "binning": self.binning,
            "voxel_offset": self.voxel_offset,
            "user_id": self.user_id,
            "session_id": self.session_id,
        }

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        started = perf_counter()
        for sample in samples_of(engine):
            image, picks = image_facts_of(sample), picks_of(sample)
            run, state = image.run, state_of(image.source, mask_of_run(self.mask_path, image.run))
            changed = changed_file(getattr(engine.state, "tomogram", state), state)
            if changed:
                raise InputError(f"{changed} changed while the tomogram was picked: start again to pick it anew.")
            with write_folder_atomically(self.folder / require_file_name(run, "run")) as folder:
                self.write_files(folder, picks, sample)
                seconds = {**getattr(engine.state, "seconds", {}), "write": perf_counter() - started}
                memory = peak_memory_gib()
                result, network = sample["result"], getattr(engine, "network", None)
                record = make_record(
                    run, state, self.settings, picks, self.species_set, seconds, memory,
                    result.get("expected"), result.get("unfamiliar", ""), getattr(network, "fallback", ""),
                    image.own_voxel_size_angstrom,
                )  # fmt: skip
                write_record(folder, record)
            logger.info("%s: %d picks in %s", run, len(picks), self.folder / run)

    def write_files(self, folder: Path, picks: Sequence[Pick], sample: Mapping[str, Any]) -> None:
        """Write one run's picks in every format, and their picture."""
        image = image_facts_of(sample)
        facts = Facts(
            run=image.run,
            voxel_size_angstrom=image.own_voxel_size_angstrom,
            volume_shape=tuple(sample["pred"].shape[1:]),
            voxel_offset=self.voxel_offset,
            binning=self.binning,
            user_id=self.user_id,
            session_id=self.session_id,
        )
        write_run_folder(folder, picks, self.species_set.names, self.formats, facts)
        save_figure(picture_of(sample, self.species_set), folder / "overlay.png")
        warning = sample["result"].get("unfamiliar", "")
        write_run_page(
            folder / PAGE_NAME, tomogram_of(sample), picks, self.species_set, self.page_megabytes,
            others=from_records(sample["result"].get("others", ())), expected=expected_of(sample),
            warning=f"Scores may be wrong for this tomogram: {warning}." if warning else "",
            model=short_hash(self.settings.get("weights_sha256")), voxel_offset=self.voxel_offset,
        )  # fmt: skip


def check_binning(binning: float | None, formats: Sequence[Format]) -> float:
    """Return a number of pixels per voxel; 1 of None, with a warning where a format counts such pixels.

    Raises:
        InputError: it is not positive, or no format counts pixels.
    """
    names = [one.name for one in formats if one.has_binning]
    if binning is None:
        if names:
            warnings.warn(counts_voxels(" and ".join(names), "pick_binning"), InputWarning, stacklevel=3)
        return 1.0
    check_setting("pick_binning", binning)
    if not names:
        raise InputError(f"pick_binning has no meaning for {', '.join(one.name for one in formats)}; leave it out.")
    return binning


def short_hash(sha256: str | Sequence[str] | None) -> str:
    """Return the first eight digits of a SHA-256, of several with ``+`` between them; "" of None."""
    return "+".join(one[:8] for one in ([sha256] if isinstance(sha256, str) else sha256 or ()))
