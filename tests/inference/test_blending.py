"""Logits of a volume in memory and in a file."""

import math
import sys

import pytest
import torch
from file_memory import mapped_mib
from scripts.file_pages import FilePages
from scripts.inference.blending import new_logits
from scripts.inference.inferers import TomogramInferer
from scripts.inference.window_cover import IN_USE_LOGITS_BYTES, held_of_logits
from scripts.picking.proposals import propose

SHAPE = (24, 40, 48)
FLOAT32_GIB = 4 * 2 * math.prod(SHAPE) / 2**30  # of the logits of two species
MEMORY_GIB = {"float32": 5 * FLOAT32_GIB, "float16": 3 * FLOAT32_GIB, "file": FLOAT32_GIB}


def two_species(windows):
    return torch.cat([windows, -windows], dim=1)


def logits_of(kind, region=None):
    volume = 8 * torch.randn(1, 1, *SHAPE, generator=torch.Generator().manual_seed(0))
    inferer = TomogramInferer((24, 24, 24), 8, MEMORY_GIB[kind], precision="float32")
    return inferer(volume, two_species, region=region)[0]


@pytest.mark.parametrize("kind", ["float16", "file"])
@pytest.mark.parametrize("is_part", [False, True])
def test_large_logits_are_rounded_and_very_large_ones_in_a_file(kind, is_part):
    region = None
    if is_part:
        region = torch.zeros(1, 1, *SHAPE)
        region[..., :30] = 1
    exact, found = logits_of("float32", region), logits_of(kind, region)
    assert (exact.dtype, found.dtype) == (torch.float32, torch.float16)
    assert bool(FilePages(found).stretches) == (kind == "file" and sys.platform.startswith("linux"))
    assert torch.allclose(found.float(), exact, atol=0.03)


def test_the_proposals_out_of_a_file_are_those_out_of_memory():
    kept, held = propose(logits_of("file"), 10.0), propose(logits_of("float16"), 10.0)
    assert len(kept) > 5
    assert (kept.centres_zyx_vox == held.centres_zyx_vox).all()
    assert (kept.logits == held.logits).all()


def test_new_logits_have_one_value_whatever_they_are_in():
    for memory_gib in MEMORY_GIB.values():
        logits = new_logits((2, *SHAPE), -20, memory_gib, torch.device("cpu"))
        assert logits.shape == (2, *SHAPE)
        assert (logits == -20).all()


def test_of_logits_in_a_file_little_is_in_memory():
    size = 2**30
    assert [held_of_logits(size, memory_gib) for memory_gib in (4, 2, 1)] == [size, size // 2, IN_USE_LOGITS_BYTES]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux gives pages back")
@pytest.mark.parametrize("is_part", [False, True])
def test_logits_in_a_file_are_not_in_memory_when_they_are_done(is_part):
    shape = (32, 256, 256)
    region = torch.zeros(1, 1, *shape) if is_part else None
    if region is not None:
        region[..., :200] = 1
    before = mapped_mib()
    inferer = TomogramInferer((32, 64, 64), 0, 0.01, precision="float32")
    logits = inferer(torch.zeros(1, 1, *shape), two_species, region=region)  # 8 MiB
    assert FilePages(logits).stretches
    assert mapped_mib() < before + 5
