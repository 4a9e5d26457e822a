"""The floating-point format that a network computes in."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch

from scripts.settings import check_setting

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def check_precision(precision: str) -> str:
    """Return ``precision`` if it is ``auto`` or the name of a floating-point format.

    Raises:
        InputError: it is neither.
    """
    check_setting("precision", precision)
    return precision


def number_format(precision: str, device: torch.device) -> torch.dtype:
    """Return the floating-point format to compute in.

    Args:
        precision: ``float32``, ``bfloat16``, ``float16``, or ``auto``: bfloat16 where the device supports it natively,
            else float32.
        device: where the network runs.
    """
    if check_precision(precision) != "auto":
        return PRECISIONS[precision]
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if native else torch.float32


def autocast(precision: str, device: torch.device) -> AbstractContextManager[Any]:
    """Return the context in which the network computes in the format of `number_format`."""
    dtype = number_format(precision, device)
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)
