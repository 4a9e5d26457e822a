from dataclasses import replace

import numpy as np
import pytest
from scripts.errors import InputError
from scripts.picking.calibration import TERMS
from scripts.picking.candidates import Candidates
from scripts.picking.familiarity import STATISTICS, VISIBILITY
from scripts.picking.operating_point import OperatingPoint, expect
from scripts.scoring.calibration import JudgedCandidates, fit_calibration, judge_candidates, judge_scores
from scripts.scoring.reliability import average_precision, reliability_of, sampling_error
from synthetic import make_species

SPECIES = make_species(2)  # radius 40 Å: a hit is within 20 Å


def drawn(count=4000, seed=0):
    """Return candidates whose chance is a known function of two answers."""
    random = np.random.default_rng(seed)
    logits, log_odds = random.normal(0, 3, (count, 2)), random.normal(0, 3, (count, 2))
    chance = 1 / (1 + np.exp(-(0.5 * logits + 1.5 * log_odds - 1)))
    return judged_alone(f"run{seed}", logits, log_odds, random.random((count, 2)) < chance)


def judged_alone(run, logits, log_odds, is_right, visibility=0.0):
    """Return candidates far from each other."""
    statistics = np.zeros(len(STATISTICS))
    statistics[VISIBILITY] = visibility
    return JudgedCandidates(run, logits, log_odds, np.ones_like(is_right), is_right, statistics)


def test_the_fit_finds_the_function_behind_the_candidates():
    found, few = fit_calibration([drawn(), drawn(seed=1)], ["a", "b"])
    assert few == {}
    assert found.fitted_on == ("run0", "run1")
    assert np.allclose(found.weights, [[0.5, 1.5, 0, 0, 0, 0, 0, -1]] * 2, atol=0.15)
    new = drawn(seed=2)
    probabilities = found.probabilities(new.logits, new.log_odds)
    assert reliability_of(probabilities[:, 0], new.is_right[:, 0]).error < 0.02


def test_the_same_answer_means_less_in_a_tomogram_with_more_noise():
    random, judged = np.random.default_rng(0), []
    for number in range(24):
        clear = random.uniform(0.5, 3)  # spread of the answers: small where the noise is strong
        logits, log_odds = random.normal(0, clear, (2000, 1)), random.normal(0, clear, (2000, 1))
        chance = 1 / (1 + np.exp(-(logits + log_odds + clear - 2)))
        judged.append(judged_alone(str(number), logits, log_odds, random.random((2000, 1)) < chance))
    found, _ = fit_calibration(judged[:12], ["a"])
    alone, _ = fit_calibration(judged[:2], ["a"])  # too few to know what the confidence in a tomogram means
    assert (alone.weights[:, 4:7] == 0).all()
    errors = {
        name: [
            reliability_of(one.probabilities(run.logits, run.log_odds)[:, 0], run.is_right[:, 0]).error
            for run in judged[12:]
        ]
        for name, one in {"with": found, "without": alone}.items()
    }
    assert np.mean(errors["with"]) < 0.03
    assert np.mean(errors["with"]) < np.mean(errors["without"]) / 2


def test_the_same_answer_means_more_in_a_tomogram_whose_particles_stand_out():
    random, judged = np.random.default_rng(0), []
    for number in range(24):
        visibility = random.uniform(-2, 0)
        logits, log_odds = random.normal(0, 2, (2000, 1)), random.normal(0, 2, (2000, 1))
        chance = 1 / (1 + np.exp(-(logits + log_odds + 2 * visibility + 1)))
        judged.append(judged_alone(str(number), logits, log_odds, random.random((2000, 1)) < chance, visibility))
    found, _ = fit_calibration(judged[:12], ["a"])
    assert found.weights[0, TERMS.index("visibility")] == pytest.approx(2, abs=0.2)
    for one in judged[12:]:
        assert reliability_of(one.probabilities(found)[:, 0], one.is_right[:, 0]).error < 0.04
    unknown, _ = fit_calibration([replace(one, statistics=np.zeros(0)) for one in judged], ["a"])
    assert unknown.weights[0, TERMS.index("visibility")] == 0


@pytest.mark.parametrize("spread", [0.0, 1.0])
def test_how_far_tomograms_differ_is_found_and_intervals_hold_what_they_say(spread):
    random, judged = np.random.default_rng(0), []
    for number in range(200):
        logits = random.normal(0, 3, (40, 1))
        chance = 1 / (1 + np.exp(-(logits + random.normal(0, spread))))
        judged.append(judged_alone(str(number), logits, np.zeros_like(logits), random.random((40, 1)) < chance))
    found, _ = fit_calibration(judged, ["a"])
    assert found.spread_of(0) == pytest.approx(spread, abs=0.25)
    assert fit_calibration(judged[:7], ["a"])[0].spread_of(0) == 0  # too few to tell
    held = []
    for one in judged:
        chances, right = found.probabilities(one.logits, one.log_odds)[:, 0], one.is_right[:, 0]
        rest = expect(chances, chances >= 0.5, found.spread_of(0))
        held.append(rest.missed_low <= right[chances < 0.5].sum() <= rest.missed_high)
    assert np.mean(held) == pytest.approx(0.9, abs=0.06)


def test_a_species_with_few_particles_keeps_the_second_looks_answer():
    one = drawn(200)
    one.is_right[:, 1] = False
    found, few = fit_calibration([one], ["a", "b"])
    assert few == {"b": "0 true particles among its candidates, at least 10 needed"}
    one.is_right[:] = True  # there is no wrong one to learn from
    assert fit_calibration([one], ["a", "b"])[1] == dict.fromkeys("ab", "none of its candidates is wrong")
    assert found.probabilities(np.zeros((1, 2)), np.ones((1, 2)))[0, 1] == pytest.approx(1 / (1 + np.exp(-1)))
    nothing = judged_alone("TS_1", *[np.zeros((0, 2))] * 2, np.zeros((0, 2), dtype=bool))
    with pytest.raises(InputError, match="the first network proposes nothing in TS_1: there is nothing to fit"):
        fit_calibration([nothing], ["a", "b"])


def test_a_species_with_two_true_particles_is_not_calibrated_unless_that_is_enough():
    one = drawn(200)
    one.is_right[:, 1] = False
    one.is_right[:2, 1] = True
    found, left = fit_calibration([one], ["a", "b"])
    assert found.weights[1].tolist() == [0, 1, 0, 0, 0, 0, 0, 0]
    assert left == {"b": "2 true particles among its candidates, at least 10 needed"}
    assert fit_calibration([one], ["a", "b"], least_truths=2)[1] == {}


def test_of_several_candidates_near_a_particle_only_the_nearest_is_right():
    centres = np.array([[5.0, 5, 5], [5, 5, 6.5], [5, 5, 20], [0, 0, 0]])
    particles = np.array([[1, 5, 5, 5.5], [2, 5, 5, 22.0], [2, 9, 9, 9]])
    scores = np.zeros((4, 2))
    kept, right = judge_candidates(centres, scores, particles, SPECIES, 10.0, merge_distance_in_radii=0)
    assert right.tolist() == [[True, False], [False, False], [False, True], [False, False]]
    assert kept.all()
    assert not judge_candidates(centres, scores, particles, SPECIES, 10.1)[1][2, 1]  # 20.2 Å away
    assert judge_candidates(np.zeros((0, 3)), np.zeros((0, 2)), particles, SPECIES, 10.0)[1].shape == (0, 2)


def test_a_particle_that_is_proposed_twice_has_one_candidate_that_counts_and_it_is_right():
    centres, particles = np.array([[5.0, 5, 5], [5, 5, 6], [5, 5, 30]]), np.array([[1, 5, 5, 5.0]])
    scores = np.array([[1.0, 0], [2, 0], [0, 0]])  # the better one is farther from the particle
    kept, right = judge_candidates(centres, scores, particles, SPECIES, 10.0)
    assert kept[:, 0].tolist() == [False, True, True]
    assert right[:, 0].tolist() == [False, True, False]


def test_candidates_that_are_merged_do_not_lower_the_probability():
    once, twice = drawn(), drawn()
    doubled = [np.concatenate([values, values]) for values in (twice.logits, twice.log_odds)]
    right = np.concatenate([twice.is_right, np.zeros_like(twice.is_right)])
    kept = np.concatenate([np.ones_like(twice.is_right), np.zeros_like(twice.is_right)])
    both = JudgedCandidates("run0", *doubled, kept, right, np.zeros(0))
    assert np.allclose(fit_calibration([both], ["a", "b"])[0].weights, fit_calibration([once], ["a", "b"])[0].weights)


def test_reliability_counts_in_bins():
    probabilities, right = np.array([0.01, 0.72, 0.78, 0.31, 1.0]), np.array([True, True, False, False, True])
    found = reliability_of(probabilities, right)
    assert found.count.tolist() == [0, 0, 0, 1, 0, 0, 0, 2, 0, 1]
    assert (found.probability[7], found.right[7]) == (0.75, 0.5)
    assert found.error == pytest.approx((0.31 + 2 * 0.25 + 0) / 4)
    assert reliability_of(np.zeros(0), np.zeros(0, dtype=bool)).error == 0


def test_exact_probabilities_have_the_sampling_error():
    random = np.random.default_rng(1)
    probabilities = random.random(500)
    errors = [reliability_of(probabilities, random.random(500) < probabilities).error for _ in range(40)]
    assert sampling_error(probabilities) == pytest.approx(np.mean(errors), abs=0.006)
    assert sampling_error(random.random(20000)) < 0.01


def test_average_precision_is_the_area_under_the_curve():
    scores, right = np.array([0.9, 0.8, 0.7, 0.6]), np.array([True, False, True, False])
    assert average_precision(scores, right, 3) == pytest.approx((1 + 2 / 3) / 3)
    assert average_precision(scores[::-1], right[::-1], 3) == pytest.approx((1 + 2 / 3) / 3)
    assert average_precision(np.zeros(0), np.zeros(0, dtype=bool), 3) == 0
    assert average_precision(scores, right, 0) == 0


def test_counts_at_a_point_are_one_to_one():
    centres = np.array([[5.0, 5, 5], [5, 5, 6], [5, 5, 20]])
    found = Candidates(centres, np.array([0.9, 0.8, 0.4]), np.ones(3, dtype=np.int64))
    none = Candidates(centres[:0], np.zeros(0), np.zeros(0, dtype=np.int64))
    particles = np.array([[1, 5, 5, 5.0], [2, 9, 9, 9.0]])
    judged = judge_scores({"a": found, "b": none}, particles, SPECIES, 10.0)
    counts, expected = judged["a"].counts_at(OperatingPoint("probability", 0.5))
    assert (counts.tp, counts.predicted, counts.truths, expected) == (1, 2, 1, pytest.approx(1.7))
    counts, expected = judged["b"].counts_at(OperatingPoint("f", 1.0))
    assert (counts.tp, counts.predicted, counts.truths, expected) == (0, 0, 1, 0)
