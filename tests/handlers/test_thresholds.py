import json

import pytest
import torch
from scripts.errors import InputError
from scripts.handlers.thresholds import FitThresholds
from scripts.networks.model_card import read_card, species_of
from synthetic import run_engine, tiny_network, write_weights

FEW = torch.tensor([[[12, 90, 12], [12, 16, 12], [4, 4, 12]], [[2, 9, 2], [2, 2, 2], [0, 0, 2]]])  # of b: 2 truths
TRIED = [0.1, 0.3, 0.9]


def test_thresholds_are_fitted_on_the_summed_counts(species_set, tmp_path):
    with pytest.warns(UserWarning, match=r"b keeps the threshold 0\.5: 4 true particles, at least 10 needed"):
        run_engine([{"sweep": FEW, "result": {"run": "run"}}] * 2, FitThresholds(str(tmp_path), species_set, TRIED))
    assert json.loads((tmp_path / "thresholds.json").read_text()) == {"a": 0.3, "b": 0.5}
    assert (tmp_path / "thresholds.png").exists()


def test_fewer_true_particles_are_enough_where_they_are_asked_for(species_set, tmp_path):
    fit = FitThresholds(str(tmp_path), species_set, TRIED, least_truths=2)
    run_engine([{"sweep": FEW, "result": {"run": "run"}}], fit)
    assert json.loads((tmp_path / "thresholds.json").read_text()) == {"a": 0.3, "b": 0.3}


def test_fitted_thresholds_go_into_the_card_of_the_weights_with_the_reason_of_those_that_are_kept(
    species_set, tmp_path
):
    weights = write_weights(tmp_path / "model.pt", tiny_network(), species_set)
    fit = FitThresholds(str(tmp_path), species_set, TRIED, recorded_for=weights)
    with pytest.warns(UserWarning, match="b keeps the threshold"):
        run_engine([{"sweep": FEW, "result": {"run": "TS_1"}}], fit)
    assert [one.probability_threshold for one in species_of(weights).picked] == [0.3, 0.5]
    card = read_card(weights)
    assert card["thresholds_fitted_on"] == ["TS_1"]
    assert card["thresholds_kept"] == {"b": "2 true particles, at least 10 needed"}


def test_no_threshold_is_fitted_where_not_all_particles_of_the_species_are_annotated(species_set, tmp_path):
    """Where no pick is wrong, the lowest threshold is the best."""
    everywhere = torch.tensor([[[99, 99, 99], [12, 12, 99], [0, 0, 99]]] * 2)
    weights = write_weights(tmp_path / "model.pt", tiny_network(), species_set)
    samples = [
        {"sweep": FEW, "result": {"run": "whole"}},
        {"sweep": everywhere, "result": {"run": "half"}, "is_complete": torch.tensor([False, True])},
        {"sweep": everywhere, "result": {"run": "alone"}, "is_complete": torch.tensor([False, False])},
    ]
    run_engine(samples, FitThresholds(str(tmp_path), species_set, TRIED, recorded_for=weights))
    assert json.loads((tmp_path / "thresholds.json").read_text()) == {"a": 0.3, "b": 0.1}
    assert read_card(weights)["thresholds_fitted_on"] == ["whole", "half"]


def test_weights_without_a_card_are_refused_before_the_work(species_set, tmp_path):
    fit = FitThresholds(str(tmp_path), species_set, [0.1, 0.3, 0.9], recorded_for=tmp_path / "model.pt")
    (tmp_path / "model.pt").write_bytes(b"")
    with pytest.raises(InputError, match=r"has no model\.json beside it .* or set record_thresholds to False"):
        run_engine([None], fit)
