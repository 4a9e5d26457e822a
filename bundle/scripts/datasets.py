"""Which tomograms a folder holds, what their runs are called, and where their truth stands."""

from __future__ import annotations

import logging
import os
import warnings
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monai.data import CacheDataset, Dataset
from monai.transforms import Compose, Randomizable, Transform
from torch.utils.data import DistributedSampler, Sampler

from scripts.errors import InputError, InputWarning
from scripts.picks import read_csv
from scripts.readers import is_tomogram, stem_of

logger = logging.getLogger(__name__)

TRUTH_TABLE = "truth.csv"
TRUTH_FOLDER = "Picks"


def list_runs(dataset_dir: str | Path) -> list[dict[str, str]]:
    """List the tomograms in a folder and below, sorted by path.

    A run is called after its file, or after its folder where the file is called ``tomogram.*``.

    Args:
        dataset_dir: a folder, or one tomogram.

    Returns:
        One ``{"image": path, "run": name}`` per tomogram; none where nothing is there, so that a config can be read
        without data (`require_runs` refuses that when the work starts).

    Raises:
        InputError: the folder holds two tomograms of one name.
    """
    root = Path(dataset_dir)
    paths = sorted(_tomograms_below(root)) if root.is_dir() and not is_tomogram(root) else [root]
    runs = [{"image": str(path), "run": run_name(path)} for path in paths if path.exists()]
    twice = [name for name, count in Counter(item["run"] for item in runs).items() if count > 1]
    if twice:
        same = [item["image"] for item in runs if item["run"] == twice[0]]
        raise InputError(f"{root}: two tomograms are called '{twice[0]}': {same[0]} and {same[1]}. Rename one.")
    return runs


def require_runs(runs: Sequence[Mapping[str, str]], dataset_dir: str | Path) -> None:
    """Refuse to start without a tomogram.

    Raises:
        InputError: ``runs``, the list that was made of ``dataset_dir``, is empty.
    """
    if runs:
        logger.info("%d tomograms: %s", len(runs), ", ".join(str(item.get("run", item["image"])) for item in runs))
        return
    if not Path(dataset_dir).exists():
        raise InputError(f"cannot read {dataset_dir}: no such file or folder. Set dataset_dir.")
    raise InputError(f"{dataset_dir} holds no tomogram (MRC, OME-Zarr or NIfTI) to work on.")


def run_name(path: str | Path) -> str:
    """Return the name of the run that a tomogram's path stands for."""
    path = Path(path)
    stem = stem_of(path)
    return Path(os.path.abspath(path)).parent.name if stem.lower() == "tomogram" else stem


def list_labelled_runs(
    dataset_dir: str | Path, only: Sequence[str] | None = None, without: Sequence[str] = ()
) -> list[dict[str, str]]:
    """List the tomograms that have a truth: a row of `list_runs` with ``label``, the truth's path, added.

    The truth is ``truth.csv`` in the folder, or ``Picks/*.json`` (copick) beside the tomogram.

    Args:
        dataset_dir: a folder with tomograms and truth.
        only: names of the runs to list; None means all.
        without: names of runs to leave out.

    Raises:
        InputError: a name in ``only`` or ``without`` is not in the folder, a run has no truth, or the table has no
            particle of any of the runs.
    """
    only, without = None if only is None else as_names(only), as_names(without)
    runs = list_runs(dataset_dir)
    names = [item["run"] for item in runs]
    missing = sorted({*(only or ()), *without} - set(names))
    if missing and names:
        raise InputError(f"{dataset_dir} holds no run {', '.join(missing)}; it holds {', '.join(names)}.")
    chosen = [item for item in runs if (only is None or item["run"] in only) and item["run"] not in without]
    labelled = [{**item, "label": str(truth_path(dataset_dir, item))} for item in chosen]
    _check_names(labelled, Path(dataset_dir) / TRUTH_TABLE)
    return labelled


def as_names(names: str | int | Sequence[str | int]) -> list[str]:
    """Return names of runs as a list; the command line makes one name a string, and a number of a name like 12."""
    return [str(name) for name in ([names] if isinstance(names, str | int) else names)]


def _check_names(runs: Sequence[Mapping[str, str]], table: Path) -> None:
    names = [item["run"] for item in runs if item["label"] == str(table)]
    if not names:
        return
    known = sorted({pick.run for pick in read_csv(table)})
    absent = [name for name in names if name not in known]
    if len(absent) == len(names):
        raise InputError(f"{table} has no particle of {', '.join(names)}; its runs are called {', '.join(known)}.")
    if absent:
        message = f"{table} has no particle of {', '.join(absent)}: taken as empty of particles."
        warnings.warn(message, InputWarning, stacklevel=3)


def truth_path(dataset_dir: str | Path, item: Mapping[str, str]) -> Path:
    """Return where the truth of a run stands.

    Raises:
        InputError: there is none.
    """
    table, folder = Path(dataset_dir) / TRUTH_TABLE, Path(item["image"]).parent / TRUTH_FOLDER
    for path in (table, folder):
        if path.exists():
            return path
    raise InputError(f"run '{item['run']}' has no truth: neither {table} nor {folder} exists.")


def split_runs(dataset_dir: str | Path, validation_runs: Sequence[str], without: Sequence[str] = ()) -> list[str]:
    """Return the names of the runs to validate on: those given, else every fifth run by name, the last one first.

    Runs in ``without`` are left out. A single run is not split: there is nothing to validate on, and a warning says so.
    """
    if validation_runs:
        return [name for name in as_names(validation_runs) if name not in as_names(without)]
    names = sorted({item["run"] for item in list_runs(dataset_dir)} - set(as_names(without)))
    if len(names) == 1:
        logger.warning("%s holds one run only: it is trained on, and nothing is left to validate on", dataset_dir)
    return names[::-1][::5] if len(names) > 1 else []


def _tomograms_below(folder: Path) -> Iterator[Path]:
    seen: set[str] = set()
    for here, folders, files in os.walk(folder, followlinks=True):
        if os.path.realpath(here) in seen:  # a link to a folder above or beside
            folders.clear()
            continue
        seen.add(os.path.realpath(here))
        for name in [*folders, *files]:
            if is_tomogram(Path(here) / name):
                yield Path(here) / name
        folders[:] = [name for name in folders if not name.startswith(".") and not is_tomogram(Path(here) / name)]


class WindowDataset(Randomizable, Dataset):
    """Random training windows out of whole tomograms, prepared once and kept in memory.

    Window ``number`` is always the same window: its randomness comes from ``seed`` and ``number`` alone, whatever the
    number of workers or processes, and also after a training was interrupted. `WindowSampler` deals the numbers.

    Args:
        data: the tomograms, one dictionary each.
        preparation: transforms of a whole tomogram, run once.
        window: transforms that draw one window out of it, run for every number.
        seed: starts the randomness.
        num_workers: threads that prepare tomograms.
    """

    def __init__(
        self,
        data: Sequence[Mapping[Hashable, Any]],
        preparation: Sequence[Transform],
        window: Sequence[Transform],
        seed: int = 0,
        num_workers: int = 1,
    ) -> None:
        self.tomograms = CacheDataset(data, Compose(preparation), num_workers=num_workers, progress=len(data) > 1)
        super().__init__(data, Compose(window))
        self.seed = seed

    def __getitem__(self, number: int) -> Any:  # type: ignore[override]
        """Return window ``number``."""
        cycle, place = divmod(int(number), len(self.tomograms))
        order = np.random.RandomState((self.seed, cycle)).permutation(len(self.tomograms))
        self.transform.set_random_state(seed=np.random.RandomState((self.seed, number, 1)).randint(2**31))
        return self.transform(dict(self.tomograms[int(order[place])]))


class WindowSampler(DistributedSampler[int]):
    """Deal window numbers to epochs and processes, counting on from epoch to epoch.

    Args:
        dataset: the `WindowDataset`.
        windows_per_epoch: windows of one epoch, over all processes; every process gets as many as the others.
        num_replicas: number of processes.
        rank: which of them this is.
    """

    def __init__(self, dataset: Dataset, windows_per_epoch: int, num_replicas: int = 1, rank: int = 0) -> None:
        super().__init__(dataset, num_replicas=num_replicas, rank=rank, shuffle=False)
        if windows_per_epoch < num_replicas:
            raise ValueError(
                f"windows_per_epoch must be {num_replicas} or more, one per process; got {windows_per_epoch}."
            )
        self.share = windows_per_epoch // num_replicas

    def __iter__(self) -> Iterator[int]:
        """Yield this process's window numbers of the epoch that `set_epoch` named."""
        dealt = self.share * self.num_replicas
        first = self.epoch * dealt
        return iter(range(first + self.rank, first + dealt, self.num_replicas))

    def __len__(self) -> int:
        return self.share


class TomogramSampler(Sampler[int]):
    """Deal whole tomograms to processes; where there are fewer than processes, each process takes all.

    Args:
        dataset: the tomograms.
        num_replicas: number of processes.
        rank: which of them this is.
    """

    def __init__(self, dataset: Dataset, num_replicas: int, rank: int) -> None:
        count = len(dataset)
        self.numbers = range(rank, count, num_replicas) if count >= num_replicas else range(count)

    def __iter__(self) -> Iterator[int]:
        """Yield this process's tomograms."""
        return iter(self.numbers)

    def __len__(self) -> int:
        return len(self.numbers)
