import math

import numpy as np
import pytest
from scripts.errors import InputError
from scripts.picking.operating_point import OperatingPoint, expect, parse_operating_points
from synthetic import make_species

FALLING = np.array([0.99, 0.9, 0.8, 0.6, 0.3, 0.1, 0.05])


def plainly_best(beta):
    """Return the lowest probability with the highest expected F-beta, tried one by one."""
    scores = {}
    for count in range(1, len(FALLING) + 1):
        right = FALLING[:count].sum()
        precision, recall = right / count, right / FALLING.sum()
        scores[FALLING[count - 1]] = (1 + beta**2) * precision * recall / (beta**2 * precision + recall)
    return max(scores, key=scores.get)


@pytest.mark.parametrize("beta", [0.5, 1.0, 4.0])
def test_the_threshold_of_f_has_the_highest_expected_score(beta):
    shuffled = np.random.default_rng(0).permutation(FALLING)
    assert OperatingPoint("f", beta).lowest_probability(shuffled) == plainly_best(beta)


@pytest.mark.parametrize("beta", [0.5, 1.0, 4.0])
def test_the_threshold_of_f_is_the_plain_one_where_there_are_many_good_candidates(beta):
    random = np.random.default_rng(0)
    for _ in range(20):
        found = np.sort(np.concatenate([random.beta(9, 1, 40), random.beta(1, 9, 60)]))[::-1]
        right, picks = np.cumsum(found), np.arange(1, len(found) + 1)
        best = np.argmax((1 + beta**2) * right / (beta**2 * found.sum() + picks))
        assert OperatingPoint("f", beta).lowest_probability(found) == found[best]


@pytest.mark.parametrize(("beta", "lowest"), [(1.0, 0.41421), (4.0, 0.19539)])
def test_a_candidate_alone_is_picked_only_if_that_is_worth_more_than_to_be_right_about_nothing(beta, lowest):
    point = OperatingPoint("f", beta)
    assert point.lowest_probability(np.array([lowest + 0.001])) == lowest + 0.001
    assert point.lowest_probability(np.array([lowest - 0.001])) == math.inf
    assert point.lowest_probability(np.array([0.02])) == math.inf


@pytest.mark.parametrize("beta", [0.5, 1.0, 4.0])
def test_however_many_hardly_probable_candidates_give_no_pick(beta):
    assert OperatingPoint("f", beta).lowest_probability(np.full(300, 0.02)) == math.inf  # 6 of them are right


def test_of_probable_and_hardly_probable_candidates_the_latter_are_left_out():
    found = np.array([0.4] * 4 + [0.2] * 40)
    assert OperatingPoint("f", 1.0).lowest_probability(found) == 0.4
    assert OperatingPoint("f", 4.0).lowest_probability(found) == 0.2


def test_precision_takes_as_many_picks_as_have_it():
    assert OperatingPoint("precision", 0.85).lowest_probability(FALLING) == 0.8  # 2.69 of 3; with the next 3.29 of 4
    assert OperatingPoint("precision", 0.82).lowest_probability(FALLING) == 0.6
    assert OperatingPoint("precision", 0.995).lowest_probability(FALLING) == math.inf


def test_recall_takes_as_few_picks_as_have_it():
    assert FALLING.sum() == pytest.approx(3.74)
    assert OperatingPoint("recall", 0.5).lowest_probability(FALLING) == 0.9
    assert OperatingPoint("recall", 0.999).lowest_probability(FALLING) == 0.05


def test_without_candidates_nothing_is_picked():
    for point in (OperatingPoint("f", 1.0), OperatingPoint("precision", 0.9), OperatingPoint("recall", 0.9)):
        assert point.lowest_probability(np.zeros(0)) == math.inf
    assert OperatingPoint("probability", 0.5).lowest_probability(np.zeros(0)) == 0.5


def test_exact_probabilities_keep_what_they_promise():
    random = np.random.default_rng(0)
    scores = random.beta(0.5, 0.5, 20000)
    right = random.random(20000) < scores
    for wanted in (0.8, 0.9):
        picked = scores >= OperatingPoint("precision", wanted).lowest_probability(scores)
        assert right[picked].mean() == pytest.approx(wanted, abs=0.01)
        picked = scores >= OperatingPoint("recall", wanted).lowest_probability(scores)
        assert right[picked].sum() / right.sum() == pytest.approx(wanted, abs=0.01)
    picked = scores >= 0.5
    found = expect(scores, picked)
    assert found.precision_low < right[picked].mean() < found.precision_high
    assert found.missed_low < right[~picked].sum() < found.missed_high


def test_intervals_are_wider_where_tomograms_differ():
    scores = np.full(20, 0.5)
    alone, together = (expect(scores, np.arange(20) < 10, spread) for spread in (0.0, 1.0))
    assert alone.precision_high - 0.5 == pytest.approx(1.645 * 2.5**0.5 / 10)
    assert together.precision_high - 0.5 == pytest.approx(1.645 * (2.5 + 2.5**2) ** 0.5 / 10)
    assert (together.precision, together.missed) == (alone.precision, alone.missed)
    assert expect(scores, np.arange(20) < 10, 9.0).missed_high == 10  # there are no more


def test_what_is_expected_of_no_picks_is_unknown():
    found = expect(np.array([0.25, 0.5]), np.array([False, False]))
    assert (found.picks, found.missed) == (0, 0.75)
    assert math.isnan(found.precision)


@pytest.mark.parametrize(
    ("wanted", "texts"),
    [
        ("f1", ["F1", "F1"]),
        ("F4", ["F4", "F4"]),
        ({"precision": 0.9}, ["precision 0.9"] * 2),
        ("recall 0.95", ["recall 0.95"] * 2),
        ({"b": {"probability": 0.25}}, ["F1", "probability 0.25"]),
        ({"a": "F4", "b": "precision 0.5"}, ["F4", "precision 0.5"]),
    ],
)
def test_a_point_is_asked_for_in_words_for_all_or_by_species(wanted, texts):
    found = parse_operating_points(wanted, make_species(2))
    assert [str(point) for point in found.values()] == texts
    assert parse_operating_points({name: str(point) for name, point in found.items()}, make_species(2)) == found


@pytest.mark.parametrize(
    "wanted", ["f2", "precision", "precision high", {"precision": 90}, {"precision": 0}, {"precision": True}, 0.5, {}]
)
def test_a_point_that_cannot_be_is_refused_with_what_can(wanted):
    with pytest.raises(InputError, match=r"operating_point .* is not one that can be asked for: give f1, f4"):
        parse_operating_points(wanted, make_species(2))


def test_a_point_of_an_unknown_species_is_refused():
    with pytest.raises(InputError, match="operating_point: unknown species 'c'; known are a, b"):
        parse_operating_points({"c": "f1"}, make_species(2))
