import json

import pytest
import torch
from scripts.handlers.thresholds import FitThresholds
from synthetic import run_engine


def test_thresholds_are_fitted_on_the_summed_counts(species_set, tmp_path):
    # species a: 3 truths, best in the middle; species b: too few truths, keeps its own
    counts = torch.tensor([[[3, 90, 3], [3, 4, 3], [1, 1, 3]], [[1, 9, 1], [1, 1, 1], [0, 0, 1]]])
    with pytest.warns(UserWarning, match="b keeps the threshold 0.5"):
        run_engine(
            [{"sweep": counts, "result": {"run": "run"}}], FitThresholds(str(tmp_path), species_set, [0.1, 0.3, 0.9])
        )
    assert json.loads((tmp_path / "thresholds.json").read_text()) == {"a": 0.3, "b": 0.5}
    assert (tmp_path / "thresholds.png").exists()
