import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripts.scoring.threshold_choice import best_threshold, fit_thresholds
from synthetic import make_species


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        pytest.param([0.70, 0.798, 0.80, 0.797, 0.70], 0.3, id="middle of the plateau"),
        pytest.param([0.80, 0.799, 0.797, 0.50, 0.40], 0.2, id="the best at its end"),
        pytest.param([0.50, 0.796, 0.799, 0.80, 0.10], 0.3, id="the best at its other end"),
        pytest.param([0.70, 0.79, 0.799, 0.80, 0.794], 0.3, id="the lower of two in the middle"),
        pytest.param([0.80, 0.50, 0.799, 0.799, 0.799], 0.1, id="a plateau apart does not count"),
        pytest.param([0.10, 0.20, 0.30, 0.40, 0.80], 0.5, id="no plateau"),
        pytest.param([0.80, 0.70, 0.80, 0.80, 0.80], 0.1, id="of equal maxima the lowest"),
        pytest.param([0.80, 0.80, 0.80, 0.80, 0.80], 0.3, id="all equal"),
    ],
)
def test_the_threshold_stands_in_the_middle_of_the_plateau_around_the_best(values, expected):
    assert best_threshold([0.1, 0.2, 0.3, 0.4, 0.5], values) == expected


@settings(max_examples=40, deadline=None)
@given(values=st.lists(st.floats(0.01, 1), min_size=1, max_size=12))
def test_the_threshold_is_one_that_was_tried_and_nearly_the_best(values):
    thresholds = np.linspace(0.1, 0.9, len(values))
    chosen = best_threshold(thresholds, values)
    assert values[thresholds.tolist().index(chosen)] >= max(values) - 0.005


def counts_of(truths, found=1):
    """Return counts of one species at two thresholds, of which the second one has fewer picks."""
    hits = found * truths
    return np.array([[[hits, 9 * truths, truths], [hits, truths, truths]]])


SPECIES = make_species(1, probability_threshold=0.25)


def test_a_species_with_two_true_particles_keeps_its_threshold_and_the_fit_says_why():
    fit = fit_thresholds(counts_of(2), [0.1, 0.2], SPECIES)
    assert fit.thresholds == {"a": 0.25}
    assert fit.kept == {"a": "2 true particles, at least 10 needed"}


def test_ten_true_particles_are_enough_or_as_many_as_are_asked_for():
    fit = fit_thresholds(counts_of(10), [0.1, 0.2], SPECIES)
    assert (fit.thresholds, fit.kept) == ({"a": 0.2}, {})
    assert fit_thresholds(counts_of(9), [0.1, 0.2], SPECIES).kept
    assert fit_thresholds(counts_of(2), [0.1, 0.2], SPECIES, least_truths=2).thresholds == {"a": 0.2}


def test_a_species_that_was_never_found_keeps_its_threshold_and_the_fit_says_why():
    fit = fit_thresholds(counts_of(12, found=0), [0.1, 0.2], SPECIES)
    assert fit.thresholds == {"a": 0.25}
    assert fit.kept == {"a": "none of its 12 true particles was found"}


def test_recall_counts_beta_times_as_much():
    counts = np.array([[[12, 24, 12], [8, 8, 12]]])
    assert fit_thresholds(counts, [0.1, 0.2], SPECIES, beta=4).thresholds == {"a": 0.1}
    assert fit_thresholds(counts, [0.1, 0.2], SPECIES, beta=1).thresholds == {"a": 0.2}


@pytest.mark.parametrize(("thresholds", "values"), [([0.1, 0.2], [0.5]), ([], []), ([0.2, 0.1], [0.5, 0.6])])
def test_thresholds_that_do_not_fit_are_refused(thresholds, values):
    with pytest.raises(ValueError, match="thresholds must rise and have one F-beta each; got"):
        best_threshold(thresholds, values)
