"""Distribute windows and whole tomograms over epochs, workers and processes."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monai.data import Dataset
from monai.transforms import Compose, Randomizable, Transform
from torch.utils.data import DistributedSampler, Sampler

from scripts.atomic_files import digest_of, digest_of_parts
from scripts.errors import InputError
from scripts.preparation.annotation import MASK
from scripts.preparation.cache import prepared_dataset

HASHED = {  # files by their key in a row: how they are hashed, and under which name
    "image": ("image_parts_sha256", digest_of_parts),
    "label": ("truth_sha256", digest_of),
    MASK: ("mask_sha256", digest_of),
}


class WindowDataset(Randomizable, Dataset):
    """Random training windows from whole tomograms, which are prepared once.

    Window ``number`` is always the same window: its random draws depend on ``seed`` and ``number`` alone, not on the
    number of workers or processes, and not on whether the training was interrupted. `WindowSampler` hands out the
    numbers.

    Args:
        data: the tomograms, one dictionary each.
        preparation: transforms of a whole tomogram, run once.
        window: transforms that cut one window out of a tomogram, run for every number.
        seed: seed of the random numbers.
        cache_dir: where prepared tomograms are kept, see `preparation.cache.StoredDataset`; None keeps them in memory.
        more_data: tomograms from elsewhere, added to ``data``.
    """

    def __init__(
        self,
        data: Sequence[Mapping[Hashable, Any]],
        preparation: Sequence[Transform],
        window: Sequence[Transform],
        seed: int = 0,
        cache_dir: str | Path | None = None,
        more_data: Sequence[Mapping[Hashable, Any]] = (),
    ) -> None:
        data = [*data, *more_data]
        self.tomograms = prepared_dataset(data, preparation, cache_dir, in_parts=True)
        super().__init__(data, Compose(window))
        self.seed = seed

    def record(self) -> dict[str, Any]:
        """Return the settings that the windows depend on."""
        return {
            "runs": record_of_runs(self.data),
            "preparation": self.tomograms.transform,
            "window": self.transform,
            "seed": self.seed,
        }

    def __getitem__(self, number: int) -> Any:  # type: ignore[override]
        """Return window ``number``."""
        cycle, place = divmod(int(number), len(self.tomograms))
        order = np.random.RandomState((self.seed, cycle)).permutation(len(self.tomograms))
        self.transform.set_random_state(seed=np.random.RandomState((self.seed, number, 1)).randint(2**31))
        return self.transform(dict(self.tomograms[int(order[place])]))


def record_of_runs(data: Sequence[Mapping[Hashable, Any]]) -> list[dict[str, str]]:
    """Return the runs of a dataset: the names of their files, so that it may be moved, and hashes of what they hold.

    Hashed are the truth, the mask of what was annotated, and parts of the tomogram, see `atomic_files.digest_of_parts`.
    """
    return [
        {str(key): Path(str(value)).name for key, value in item.items()}
        | {name: hash_of(Path(str(item[key]))) for key, (name, hash_of) in HASHED.items() if key in item}
        for item in data
    ]


class WindowSampler(DistributedSampler[int]):
    """Distribute window numbers over epochs and processes; each epoch continues the count.

    Args:
        dataset: the `WindowDataset`.
        windows_per_epoch: number of windows per epoch, over all processes; every process gets the same number.
        num_replicas: number of processes.
        rank: which of them this is.
    """

    def __init__(self, dataset: Dataset, windows_per_epoch: int, num_replicas: int = 1, rank: int = 0) -> None:
        super().__init__(dataset, num_replicas=num_replicas, rank=rank, shuffle=False)
        if windows_per_epoch < num_replicas:
            raise InputError(
                f"windows_per_epoch must be {num_replicas} or more, one per process; got {windows_per_epoch}."
            )
        self.share = windows_per_epoch // num_replicas

    def record(self) -> dict[str, int]:
        """Return how windows are distributed."""
        return {"windows_per_epoch": self.share * self.num_replicas, "processes": self.num_replicas}

    def __iter__(self) -> Iterator[int]:
        """Yield this process's window numbers in the epoch that ``set_epoch`` has set."""
        count = self.share * self.num_replicas
        first = self.epoch * count
        return iter(range(first + self.rank, first + count, self.num_replicas))

    def __len__(self) -> int:
        return self.share


class TomogramSampler(Sampler[int]):
    """Distribute whole tomograms over processes; with fewer tomograms than processes, each process takes all.

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
