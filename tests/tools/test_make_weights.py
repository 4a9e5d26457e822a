"""What `tools/make_weights.py` needs; its steps are run in small by ``make weights OPTIONS=--smoke``."""

import importlib.util
import itertools
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def tool():
    """The script as a module; it puts folders on the path, which are taken back."""
    path = Path(__file__).resolve().parents[2] / "tools" / "make_weights.py"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", list(sys.path))
        spec = importlib.util.spec_from_file_location("make_weights", path)
        module = importlib.util.module_from_spec(spec)
        patch.setitem(sys.modules, "make_weights", module)  # dataclasses look there
        spec.loader.exec_module(module)
        yield module


def test_all_datasets_are_simulated_for_the_shipped_weights_and_a_part_in_small(tool):
    assert tool.Size().datasets == list(tool.DATASETS)
    small = tool.SMOKE.datasets
    assert len(small) < len(tool.DATASETS)
    for size in (tool.Size(), tool.SMOKE):
        trained = {folder for stage in size.stages for folder in stage.folders}
        for folder in (*trained, *tool.SECOND, *tool.CALIBRATION, *(folder for folder, _ in size.scored)):
            assert folder in size.datasets


def test_no_dataset_is_learned_and_scored_and_no_two_share_a_seed_or_a_letter(tool):
    learned = {folder for stage in tool.Size().stages for folder in stage.folders} | {*tool.SECOND, *tool.CALIBRATION}
    assert not learned & {folder for folder, _ in tool.SCORED}
    seeds = sorted((one.seed, one.seed + one.runs) for one in tool.DATASETS.values())
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(seeds))
    assert len({one.letter for one in tool.DATASETS.values()}) == len(tool.DATASETS)
