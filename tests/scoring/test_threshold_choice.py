import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripts.errors import InputWarning
from scripts.scoring.threshold_choice import best_threshold


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
    assert best_threshold([0.1, 0.2, 0.3, 0.4, 0.5], values, fallback=0.9, truths=50) == expected


@settings(max_examples=40, deadline=None)
@given(values=st.lists(st.floats(0.01, 1), min_size=1, max_size=12))
def test_the_threshold_is_one_that_was_tried_and_nearly_the_best(values):
    thresholds = np.linspace(0.1, 0.9, len(values))
    chosen = best_threshold(thresholds, values, fallback=0.5, truths=50)
    assert values[thresholds.tolist().index(chosen)] >= max(values) - 0.005


def test_too_few_particles_keep_the_default_and_say_so():
    with pytest.warns(InputWarning, match=r"ribosome keeps the threshold 0.5: 2 true particles, at least 3 needed"):
        assert best_threshold([0.1, 0.2], [0.1, 0.9], fallback=0.5, truths=2, name="ribosome") == 0.5


def test_three_particles_are_enough():
    assert best_threshold([0.1, 0.2], [0.1, 0.9], fallback=0.5, truths=3) == 0.2


@pytest.mark.parametrize(("thresholds", "values"), [([0.1, 0.2], [0.0, 0.0]), ([], [])])
def test_a_species_that_was_never_found_keeps_the_default_and_says_so(thresholds, values):
    with pytest.warns(InputWarning, match="ribosome keeps the threshold 0.25: none of its 9 true particles was found"):
        assert best_threshold(thresholds, values, fallback=0.25, truths=9, name="ribosome") == 0.25


@pytest.mark.parametrize(("thresholds", "values"), [([0.1, 0.2], [0.5]), ([0.2, 0.1], [0.5, 0.6])])
def test_thresholds_that_do_not_fit_are_refused(thresholds, values):
    with pytest.raises(ValueError, match="thresholds must rise and have one F-beta each; got"):
        best_threshold(thresholds, values, fallback=0.5, truths=9)
