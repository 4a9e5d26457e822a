"""Inference over many tomograms: each on its own, so that a failure stops no other, and none is processed twice."""

from __future__ import annotations

import logging
import traceback
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedEvaluator
from torch.utils.data import Subset
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from scripts.atomic_files import ignores_case, lock_folder, open_lock, remove_temporaries, require_disk_space
from scripts.datasets.runs import mask_of_run, run_name
from scripts.errors import InputError, InputWarning, NoContrastWarning, chain_of, first_few
from scripts.memory import is_out_of_memory
from scripts.pages.batch_folder import DONE, FAILED, MISSING, SUMMARY
from scripts.pages.batch_page import write_batch_page
from scripts.pages.html import PAGE_NAME
from scripts.picks import check_formats
from scripts.results.project_session import ProjectSession
from scripts.results.run_folder import (
    BatchTables,
    SummaryRow,
    difference,
    earlier_runs,
    faults_of_runs,
    forget_failure,
    format_summary,
    read_record,
    state_of,
    write_failure,
)
from scripts.species import SpeciesSet

logger = logging.getLogger(__name__)

BATCH_LOCK = ".lock"
LEAST_RUN_BYTES = 50_000  # that a run's folder takes without its page
PAGE_SHARE = 1 / 40  # of the bytes of a tomogram, that its page takes at least, below its limit
DISK_REMEDY = "free some, set another output_dir, or give a smaller page_megabytes"
WORK = ("batch", "set another output_dir")  # for `lock_folder`: what is running here, and what to do if it already is


def run_batch(
    evaluator: SupervisedEvaluator,
    dataset: Dataset,
    output_dir: str,
    species_set: SpeciesSet,
    settings: Mapping[str, Any],
    resume: bool = True,
    overwrite: bool = False,
    page_megabytes: float = 20.0,
    mask_path: str | None = None,
    pick_formats: Sequence[str] = ("csv",),
    session: ProjectSession | None = None,
) -> None:
    """Process every tomogram of a dataset on its own, and keep the tables over all of them up to date.

    A run that is complete under the same settings is skipped, and stays in the tables if its tomogram is in the dataset
    no longer; one after whose name no folder can be called, or that a format of picks cannot name, has failed. With
    several processes (an initialised process group) each takes its share of the rest. They exchange only files, so that
    the others continue if one dies.

    Args:
        evaluator: engine that picks; one of its handlers is `handlers.results.WritePicks`, with the same
            ``output_dir``.
        dataset: its ``data`` are the rows of `datasets.runs.list_runs`.
        output_dir: where one folder per run, and the tables, are written.
        species_set: the species.
        settings: everything that the picks depend on, ready for JSON: the ``settings`` of that handler.
        resume: skip runs that are done; otherwise all are processed again.
        overwrite: replace existing folders of runs that have to be processed.
        page_megabytes: size limit of a run's page; 0 writes no pages, nor that over all runs unless one of them has a
            page from before.
        mask_path: see `preparation.region.LimitRegiond`.
        pick_formats: names of the formats that the handler writes.
        session: of the tomograms' projects, that the handler `handlers.results.WriteToProject` writes; runs that are
            done and not in it are written to it from their folders.

    Raises:
        InputError: before the first tomogram: a folder or the session exists already and ``overwrite`` is off, another
            batch is running in ``output_dir``, its lock is another user's, or the disk is too full. After the last one,
            in the first process: tomograms failed or are missing.
    """
    folder = Path(output_dir)
    numbers = number_runs(dataset)
    tomograms = {
        run: state_of(dataset.data[number]["image"], mask_of_run(mask_path, run)) for run, number in numbers.items()
    }
    with open_lock(folder / BATCH_LOCK) as lock:
        refused = faults_of_runs(numbers, ignores_case(folder / BATCH_LOCK), check_formats(pick_formats))
        accepted = [run for run in numbers if run not in refused]
        earlier = earlier_runs(folder, tomograms, settings)
        tables = BatchTables(folder, tomograms, settings, species_set, refused, earlier)

        def prepare() -> list[str]:
            lock_folder(lock, *WORK)
            remove_temporaries(folder)
            if session is not None:
                session.require_new([tomograms[run]["path"] for run in accepted], overwrite)
            to_do = list_work(tables, resume, overwrite)
            require_disk_space(folder, least_bytes(tables, to_do, page_megabytes), DISK_REMEDY)
            for run in accepted:  # complete ones have a note if replacing them failed
                forget_failure(folder, run)
                if session is not None and run not in to_do:
                    session.write_missing(tomograms[run]["path"], folder / run)
            return to_do

        to_do = agree(prepare)
        lock_folder(lock, *WORK, shared=True)  # by all processes, so that no other batch removes files meanwhile
        mine = to_do[idist.get_rank() :: idist.get_world_size()]
        done = [run for run in numbers if run not in refused and run not in to_do]
        logger.info("%d of %d tomograms are done already", len(done), len(numbers))
        log_unlike_pages(folder, done, page_megabytes > 0)
        for fault in refused.values():
            logger.error("left out: %s", fault)
        log_earlier_runs(earlier)
        work_through(evaluator, {run: Subset(dataset, [numbers[run]]) for run in mine}, tables)
        wait_for_others()
        if idist.get_rank() == 0:
            finish(tables, page_megabytes > 0)


def list_work(tables: BatchTables, resume: bool, overwrite: bool) -> list[str]:
    """Return the runs that have to be processed, in the order of the tables.

    Raises:
        InputError: ``overwrite`` is off, and the folder of one of them exists already, or that of another tomogram with
            other settings, which would vanish from the tables.
    """
    to_do = []
    for run, tomogram in tables.tomograms.items():
        if run in tables.refused:
            continue
        folder = tables.output_dir / run
        record = read_record(folder)
        reason = "is no complete result" if record is None else difference(record, tomogram, tables.settings)
        if record is not None and reason is None and resume:
            continue
        if folder.exists() and not overwrite:
            reason = reason or "is done already, and resume is off"
            raise InputError(f"{folder} {reason}. Set another output_dir, or give --overwrite True to replace it.")
        to_do.append(run)
    outdated = {run: found for run, found in tables.earlier.items() if found}
    if outdated and not overwrite:
        raise InputError(
            f"{tables.output_dir} holds other tomograms, picked with other settings: {first_few(outdated)} "
            f"({next(iter(outdated.values()))}). Set another output_dir, or give --overwrite True to leave them out of "
            "the tables."
        )
    return to_do


def log_earlier_runs(earlier: Mapping[str, str | None]) -> None:
    """Log which runs of earlier batches stay in the tables, and which do not; see `run_folder.earlier_runs`."""
    kept, outdated = ([run for run, found in earlier.items() if bool(found) is is_other] for is_other in (False, True))
    if kept:
        logger.info(
            "the tables keep %s, picked earlier with the same settings: remove their folders to leave them out",
            first_few(kept),
        )
    if outdated:
        logger.warning("the tables leave out %s, picked earlier with other settings", first_few(outdated))


def log_unlike_pages(output_dir: Path, done: Iterable[str], pages: bool) -> None:
    """Log which runs that are done have a page although none is written, or none although pages are."""
    unlike = [run for run in done if (output_dir / run / PAGE_NAME).exists() is not pages]
    if unlike:
        state = "get no pages" if pages else "keep their pages"
        remedy = "--resume False --overwrite True picks them again"
        logger.warning("runs that are done already %s: %s; %s", state, first_few(unlike), remedy)


def least_bytes(tables: BatchTables, to_do: Sequence[str], page_megabytes: float) -> int:
    """Return what the folders of runs that have to be processed take on the disk, at least."""
    sizes = [tables.tomograms[run]["bytes"] or 0 for run in to_do]
    return sum(LEAST_RUN_BYTES + int(min(PAGE_SHARE * size, 1e6 * page_megabytes)) for size in sizes)


def number_runs(dataset: Dataset) -> dict[str, int]:
    """Return the index of every run in a dataset, by its name.

    Raises:
        InputError: two tomograms have the same name.
    """
    numbers: dict[str, int] = {}
    for number, item in enumerate(dataset.data):
        run = str(item.get("run") or run_name(item["image"]))
        if run in numbers:
            raise InputError(f"two tomograms are called '{run}': the second is {item['image']}. Rename one.")
        numbers[run] = number
    return numbers


def work_through(evaluator: SupervisedEvaluator, datasets: Mapping[str, Subset[Any]], tables: BatchTables) -> None:
    """Process one run after the other; a failure is recorded and does not stop the rest.

    Args:
        evaluator: engine that picks.
        datasets: by run, a dataset with this run alone.
        tables: rewritten after every run.
    """
    with (
        logging_redirect_tqdm(),
        warnings.catch_warnings(),
        tqdm(total=len(datasets), desc="batch", unit="tomogram", disable=idist.get_rank() > 0) as progress,
    ):
        warnings.simplefilter("error", NoContrastWarning)  # in a batch, a volume without contrast has failed
        for run, dataset in datasets.items():
            evaluate_one(evaluator, run, dataset, tables)
            tables.write()
            progress.update()


def evaluate_one(evaluator: SupervisedEvaluator, run: str, dataset: Subset[Any], tables: BatchTables) -> None:
    """Process one run; if it fails, log an error and write a note in the folder ``failures``."""
    output_dir, known = tables.output_dir, tables.tomograms[run]
    try:
        evaluator.state.tomogram = state_of(known["path"], known.get("mask", {}).get("path"))  # before it is read
        evaluator.state.max_epochs = None  # makes Ignite start again, even after a failed run
        loader: Any = evaluator.data_loader
        loader = DataLoader(dataset, batch_size=1, collate_fn=loader.collate_fn)
        Engine.run(evaluator, loader, max_epochs=1)
        if read_record(output_dir / run) is None:
            raise InputError("nothing was written: the evaluator needs the handler WritePicks with this output_dir.")
    # The one place that catches every exception: whatever went wrong with this tomogram (a library's error for a
    # damaged file, memory, the GPU), those after it must still be processed. Ctrl-C is no Exception and ends the batch.
    except Exception as error:
        failure, is_expected = failure_in_words(error)
        write_failure(output_dir, run, failure, "" if is_expected else "".join(traceback.format_exception(error)))
        logger.error("%s failed: %s", run, failure)
        evaluator.state.batch = evaluator.state.output = None  # frees the memory of the failed tomogram
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def failure_in_words(error: Exception) -> tuple[str, bool]:
    """Return an error in one line, and whether it is one of ours, whose message needs no traceback."""
    chain = list(chain_of(error))
    ours = next((link for link in chain if isinstance(link, InputError | InputWarning)), None)
    text = str(ours) if ours else f"{type(chain[-1]).__name__}: {chain[-1]}"
    if ours is None and is_out_of_memory(chain[-1]):
        text = f"{text}. Memory ran out: give a smaller --memory_gib, or pick on a machine with more."
    return " ".join(text.split())[:500], ours is not None


def finish(tables: BatchTables, pages: bool) -> None:
    """Write the final tables and the page over all runs; print the summary.

    That page is written, too, where no further ``pages`` are but runs have one.

    Raises:
        InputError: tomograms failed or are missing.
    """
    rows = tables.write()
    print(format_summary(rows, tables.species_set), flush=True)
    older = tables.are_older(rows)
    done = [row.run for row in rows if row.status == DONE]
    has_pages = pages or any((tables.output_dir / run / PAGE_NAME).exists() for run in done)
    if has_pages and not older:
        failures = {row.run: row.failure for row in rows if row.status == FAILED}
        write_batch_page(tables.output_dir, tables.species_set, failures, done)
    elif not older:
        (tables.output_dir / PAGE_NAME).unlink(missing_ok=True)  # it would show other picks
    line = failures_in_one_line(rows)
    if line is not None:
        summary = f"Summary: {tables.output_dir / SUMMARY}"
        raise InputError(f"{line} {f'Older results in {tables.output_dir} are as they were.' if older else summary}")


def failures_in_one_line(rows: Sequence[SummaryRow]) -> str | None:
    """Return how many runs failed or are missing, with the reason if it is only one; None if all are done."""
    failed = [row for row in rows if row.status == FAILED]
    missing = [row.run for row in rows if row.status == MISSING]
    parts = []
    if failed:
        which = failed[0].failure if len(failed) == 1 else f"{', '.join(row.run for row in failed)}."
        parts.append(f"{len(failed)} of {len(rows)} tomograms failed: {which}")
    if missing:
        parts.append(f"{len(missing)} of {len(rows)} are missing, start again to go on: {', '.join(missing)}.")
    return " ".join(parts) or None


def agree(prepare: Callable[[], list[str]]) -> list[str]:
    """Run ``prepare`` in the first process only, and return its result in all of them.

    Raises:
        InputError: ``prepare`` raised it; then every process does.
    """
    answer: list[Any] = [None]
    if idist.get_rank() == 0:
        try:
            answer[0] = prepare()
        except InputError as error:
            answer[0] = error
    if idist.get_world_size() > 1:
        torch.distributed.broadcast_object_list(answer)
    if isinstance(answer[0], InputError):
        raise answer[0]
    return list(answer[0])


def wait_for_others() -> None:
    """Rank 0 waits until every other rank has reported or died."""
    report = torch.zeros(1)
    if idist.get_rank() > 0:
        with suppress(RuntimeError):  # gloo raises it if the other process is gone
            torch.distributed.send(report, dst=0)
        return
    for other in range(1, idist.get_world_size()):
        try:
            torch.distributed.recv(report, src=other)
        except RuntimeError:
            logger.warning("process %d is gone", other)
