"""What `tools/make_weights.py` needs; its steps are run in small by ``make weights OPTIONS=--smoke``."""

import argparse
import importlib.util
import itertools
import sys
from pathlib import Path

import pytest
from scripts.errors import InputError


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


def options_of(work, **changed):
    return argparse.Namespace(
        **{"work_dir": work, "maps_dir": None, "outside_dir": None, "seed": 0, "widths": "compact"} | changed
    )


@pytest.mark.parametrize(
    "changed", [{"seed": 1}, {"widths": "full"}, {"maps_dir": Path("maps")}, {"outside_dir": Path("d")}]
)
def test_work_that_was_begun_with_other_settings_is_refused(tool, tmp_path, changed):
    tool.check_settings(tmp_path, options_of(tmp_path))
    tool.check_settings(tmp_path, options_of(tmp_path))
    with pytest.raises(InputError, match=f"was begun with other settings: {next(iter(changed))} was .* Give the same"):
        tool.check_settings(tmp_path, options_of(tmp_path, **changed))


def test_scores_of_a_dataset_stay_its_own_when_others_are_added(tool, tmp_path, monkeypatch):
    made = {}

    def evaluate(bundle, output, folders, kind, runs, weights, *settings):
        made.setdefault(output, (folders, kind, runs))
        return [{"data": str(made[output])}]

    monkeypatch.setattr(tool, "evaluate", evaluate)
    monkeypatch.setattr(tool, "read_rows", lambda path: [])
    scored = tool.SMOKE.scored
    for outside in (None, tmp_path / "outside"):
        scores = tool.score_all(tmp_path, tmp_path, outside, ["D7"], tmp_path / "w", tmp_path / "s", scored)
        assert len(scores) == len(scored) + (outside is not None)
        for folder, kind in scored:
            (row,) = scores[tool.SCORED[folder, kind]]["first"]
            assert row["data"] == str(([tmp_path / folder], kind, None))


def test_a_folder_without_enough_annotated_tomograms_is_refused(tool, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["make_weights.py", "--outside_dir", str(tmp_path)])
    with pytest.raises(SystemExit):
        tool.main()
    assert "holds 0 annotated tomograms: four or more are needed" in capsys.readouterr().err
