"""Batches of one tomogram, as MONAI's engines want them, without a copy of the tomogram."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from monai.data import MetaTensor
from monai.data.utils import list_data_collate
from monai.engines import default_prepare_batch
from torch import Tensor


def collate_one(samples: Sequence[Mapping[Hashable, Any]]) -> dict[Hashable, Any]:
    """Return a batch of one sample, for ``collate_fn`` of a data loader; its tensors share the sample's memory.

    MONAI's own function copies every tensor into a new batch, which takes as much memory again.

    Args:
        samples: one dictionary; its tensors become ``(1, ...)``.

    Raises:
        ValueError: there is more than one sample.
    """
    if len(samples) != 1:
        raise ValueError(f"whole tomograms come one by one, set batch_size to 1; got {len(samples)} of them.")
    (sample,) = samples
    empty = {key: value[:0] if isinstance(value, Tensor) and value.ndim else value for key, value in sample.items()}
    batch: dict[Hashable, Any] = list_data_collate([empty])
    for key, value in sample.items():
        if isinstance(value, MetaTensor):
            whole = MetaTensor(value.as_tensor()[None])
            batch[key] = whole.copy_meta_from(batch[key], copy_attr=False)  # type: ignore[no-untyped-call]
        elif isinstance(value, Tensor) and value.ndim:
            batch[key] = value[None]
    return batch


def prepare_batch(batch: dict[str, Any], device: Any = None, non_blocking: bool = False, **settings: Any) -> Any:
    """Pass the region of a batch to the inferer, with the volumes; for ``prepare_batch`` of MONAI's engines."""
    images, labels = default_prepare_batch(batch, device, non_blocking, **settings)
    if "region" not in batch:
        return images, labels
    return images, labels, (), {"region": batch["region"].to(device=device, non_blocking=non_blocking)}
