import json

import pytest
import torch
from scripts.errors import InputError
from scripts.handlers.thresholds import FitThresholds
from scripts.networks.model_card import read_card, species_of
from synthetic import run_engine, tiny_network, write_weights


def test_thresholds_are_fitted_on_the_summed_counts(species_set, tmp_path):
    # species a: 3 truths, best in the middle; species b: too few truths, keeps its own
    counts = torch.tensor([[[3, 90, 3], [3, 4, 3], [1, 1, 3]], [[1, 9, 1], [1, 1, 1], [0, 0, 1]]])
    with pytest.warns(UserWarning, match="b keeps the threshold 0.5"):
        run_engine(
            [{"sweep": counts, "result": {"run": "run"}}], FitThresholds(str(tmp_path), species_set, [0.1, 0.3, 0.9])
        )
    assert json.loads((tmp_path / "thresholds.json").read_text()) == {"a": 0.3, "b": 0.5}
    assert (tmp_path / "thresholds.png").exists()


COUNTS = torch.tensor([[[3, 90, 3], [3, 4, 3], [1, 1, 3]], [[3, 9, 3], [3, 3, 3], [0, 0, 3]]])


def test_fitted_thresholds_go_into_the_card_of_the_weights(species_set, tmp_path):
    weights = write_weights(tmp_path / "model.pt", tiny_network(), species_set)
    fit = FitThresholds(str(tmp_path), species_set, [0.1, 0.3, 0.9], recorded_for=weights)
    run_engine([{"sweep": COUNTS, "result": {"run": "TS_1"}}], fit)
    assert [one.probability_threshold for one in species_of(weights).picked] == [0.3, 0.3]
    assert read_card(weights)["thresholds_fitted_on"] == ["TS_1"]


def test_weights_without_a_card_are_refused_before_the_work(species_set, tmp_path):
    fit = FitThresholds(str(tmp_path), species_set, [0.1, 0.3, 0.9], recorded_for=tmp_path / "model.pt")
    (tmp_path / "model.pt").write_bytes(b"")
    with pytest.raises(InputError, match=r"has no model\.json beside it .* or set record_thresholds to False"):
        run_engine([None], fit)
