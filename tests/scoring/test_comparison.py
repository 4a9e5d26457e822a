import numpy as np
import pytest
from scripts.picks import Pick
from scripts.scoring.comparison import cause_in_words, compare
from scripts.scoring.matching import MODES
from scripts.scoring.metrics import score_picks
from scripts.scoring.mistakes import Verdict
from synthetic import make_species

SPECIES_SET = make_species(2)
FACES = ((0.0, 0.0, 0.0), (360.0, 280.0, 200.0))


def crowd(seed, count, run="run"):
    rows = np.random.default_rng(seed).uniform(0, 200, (count, 4)).tolist()
    return [Pick(run, "ab"[n % 2], x, y, z, score / 200) for n, (x, y, z, score) in enumerate(rows)]


def compared(seed, run="run"):
    truth, picks = crowd(seed, 40, run), crowd(seed + 100, 60, run)
    return truth, picks, compare(truth, picks, SPECIES_SET, FACES, np.full((2, 3, 3), seed))[0]


def test_scores_are_those_of_the_metric_and_add_up_over_tomograms():
    truth, picks, one = compared(1, "one")
    more_truth, more_picks, two = compared(2, "two")
    for mode in MODES:
        score = score_picks(truth + more_truth, picks + more_picks, SPECIES_SET, mode)
        total = one + two
        assert total.counts[mode] == {row.name: row.counts for row in score.rows}
        assert total.f4(mode, SPECIES_SET) == pytest.approx(score.total)
    assert total.sweep.tolist() == np.full((2, 3, 3), 3).tolist()


def test_every_pick_and_every_particle_has_one_cause():
    _, picks, one = compared(1)
    assert one.of_picks.sum(axis=1).tolist() == [30, 30]
    assert one.of_truth.sum(axis=1).tolist() == [20, 20]
    assert one.lies_on.sum(axis=1).tolist() == [30, 30]
    assert one.of_picks[:, 0].tolist() == one.of_truth[:, 0].tolist() == one.lies_on.diagonal().tolist()
    assert [len(scores) for scores in one.wrong_scores] == one.of_picks[:, 1:].sum(axis=1).tolist()
    assert set(one.wrong_scores[0]) <= {pick.score for pick in picks if pick.species == "a"}


def test_causes_are_said_in_words():
    others = [Pick("run", "ribosome", 1.0, 2.0, 3.0)]
    assert cause_in_words(Verdict("wrong species", 0, 12.0), others) == "wrong species: ribosome"
    assert cause_in_words(Verdict("near miss", 0, 82.6), others) == "near miss, 83 Å"
    assert cause_in_words(Verdict("border", -1, 20.0), []) == "border, 20 Å"
    assert cause_in_words(Verdict("no signal"), []) == "no signal"


def test_nothing_compares_with_nothing():
    one, of_picks, of_truth = compare([], [], SPECIES_SET, FACES, np.zeros((2, 3, 3)))
    assert (of_picks, of_truth) == ([], [])
    assert one.as_json(SPECIES_SET, [0.1, 0.2, 0.3], "kaggle")["liesOn"] == [[0, 0, 0], [0, 0, 0]]
