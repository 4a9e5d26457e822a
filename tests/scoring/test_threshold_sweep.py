import pytest
import torch
from scripts.picking.blobs import Blobs
from scripts.scoring.threshold_sweep import SweepThresholdsd
from synthetic import image_of, logits_of, noise


@pytest.mark.parametrize("thresholds", [[], [0.5, 0.3], [0.5, 1.0]])
def test_thresholds_of_a_sweep_have_to_rise_below_1(thresholds, species_set):
    with pytest.raises(ValueError, match="sweep_thresholds is a list of rising probabilities"):
        SweepThresholdsd("pred", species_set, Blobs(), thresholds)


def test_the_sweep_counts_hits_picks_and_truths(species_set):
    logits = logits_of(species_set)
    logits[0, 2, 3, 30:33] = 0.4  # a second, weaker blob of species a: probability 0.6
    sample = {"pred": logits, "image": image_of(noise()), "label": torch.tensor([[1.0, 6, 9, 11], [2, 2, 2, 2]])}
    sweep = SweepThresholdsd("pred", species_set, Blobs(), [0.5, 0.7])(sample)["sweep"]
    assert sweep.tolist() == [[[1, 2, 1], [1, 1, 1]], [[0, 1, 1], [0, 1, 1]]]


def test_the_sweep_leaves_out_what_was_not_annotated_and_what_is_uncertain(species_set):
    logits = logits_of(species_set)
    logits[0, 2, 3, 30:33] = 0.4
    sample = {
        "pred": logits,
        "image": image_of(noise()),
        "label": torch.tensor([[1.0, 6, 9, 11]]),
        "doubtful": torch.tensor([[1.0, 2, 3, 31, float("nan")]]),
        "is_complete": torch.tensor([True, False]),
    }
    sweep = SweepThresholdsd("pred", species_set, Blobs(), [0.5])(sample)["sweep"]
    assert sweep.tolist() == [[[1, 1, 1]], [[0, 0, 0]]]
