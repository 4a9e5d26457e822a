import numpy as np
import pytest
from scipy.spatial.distance import cdist
from scripts.scoring.matching import count_hits
from scripts.scoring.mistakes import CAUSES, RIGHT, Points, confusion, judge, pair

RADII = (100.0, 60.0)  # species 0 counts as found within 50 Å, species 1 within 30 Å
FACES = ((0.0, 0.0, 0.0), (3000.0, 2000.0, 1000.0))  # x, y, z


def points(*rows):
    """Return points given as (species, x, y, z)."""
    table = np.array(rows, dtype=float).reshape(-1, 4)
    return Points(table[:, 1:], table[:, 0].astype(int))


def judged(truth, picks, scores=None):
    return judge(truth, picks, np.ones(len(picks)) if scores is None else scores, RADII, FACES)


def test_a_pick_on_a_particle_is_right_and_names_it():
    of_picks, of_truth = judged(points((0, 500, 500, 500)), points((0, 530, 540, 500)))
    assert [(one.cause, one.other, one.distance_angstrom) for one in of_picks] == [(RIGHT, 0, 50)]
    assert [(one.cause, one.other, one.distance_angstrom) for one in of_truth] == [(RIGHT, 0, 50)]


def test_the_surer_of_two_picks_on_a_particle_is_right_and_the_other_repeated():
    truth = points((0, 500, 500, 500))
    for scores, causes in (((0.6, 0.9), ["repeated", RIGHT]), ((0.9, 0.6), [RIGHT, "repeated"])):
        of_picks, _ = judged(truth, points((0, 510, 500, 500), (0, 520, 500, 500)), scores)
        assert [one.cause for one in of_picks] == causes


def test_a_particle_whose_pick_found_another_one_is_merged():
    of_picks, of_truth = judged(points((0, 500, 500, 500), (0, 560, 500, 500)), points((0, 530, 500, 500)))
    assert [one.cause for one in of_picks] == [RIGHT]
    assert sorted(one.cause for one in of_truth) == ["merged", RIGHT]
    assert {one.other for one in of_truth} == {0}


def test_a_pick_on_another_species_is_of_the_wrong_species_on_both_sides():
    of_picks, of_truth = judged(points((1, 500, 500, 500)), points((0, 500, 530, 500)))
    assert [(one.cause, one.other, one.distance_angstrom) for one in of_picks + of_truth] == [
        ("wrong species", 0, 30)
    ] * 2


def test_a_pick_outside_the_reach_of_another_species_does_not_lie_on_it():
    of_picks, of_truth = judged(points((1, 500, 500, 500)), points((0, 500, 531, 500)))
    assert [one.cause for one in of_picks + of_truth] == ["no signal"] * 2


def test_a_missed_particle_is_not_blamed_on_the_pick_of_its_neighbour():
    truth = points((0, 500, 500, 500), (1, 500, 520, 500))
    of_picks, of_truth = judged(truth, points((0, 500, 505, 500)))
    assert [one.cause for one in of_picks] == [RIGHT]
    assert [one.cause for one in of_truth] == [RIGHT, "no signal"]


def test_a_pick_within_one_radius_is_a_near_miss_with_its_distance():
    of_picks, of_truth = judged(points((0, 500, 500, 500)), points((0, 500, 500, 580)))
    assert [(one.cause, one.distance_angstrom) for one in of_picks + of_truth] == [("near miss", 80)] * 2


def test_a_pick_near_a_particle_that_is_found_is_no_near_miss():
    truth, picks = points((0, 500, 500, 500)), points((0, 500, 500, 500), (0, 500, 500, 580))
    assert [one.cause for one in judged(truth, picks)[0]] == [RIGHT, "no signal"]


@pytest.mark.parametrize("place", [(90, 1000, 500), (2910, 1000, 500), (1500, 1910, 500), (1500, 1000, 910)])
def test_a_lone_point_near_any_face_is_a_border_case(place):
    of_picks, _ = judged(points(), points((0, *place)))
    assert [(one.cause, one.distance_angstrom) for one in of_picks] == [("border", 90)]
    _, of_truth = judged(points((0, *place)), points())
    assert of_truth == of_picks


def test_a_lone_point_in_the_middle_has_no_signal():
    of_picks, of_truth = judged(points((0, 500, 500, 500)), points((0, 1500, 1000, 500)))
    assert [one.cause for one in of_picks + of_truth] == ["no signal"] * 2


def test_nothing_gives_nothing():
    assert judged(points(), points()) == ([], [])


def crowd(seed):
    """A tomogram so crowded that every cause occurs."""
    rng = np.random.default_rng(seed)
    truth = Points(rng.uniform(0, 500, (60, 3)), rng.integers(0, 2, 60))
    picks = Points(rng.uniform(0, 500, (90, 3)), rng.integers(0, 2, 90))
    return truth, picks, rng.uniform(0, 1, 90)


@pytest.mark.parametrize("seed", range(10))
def test_mistakes_are_as_many_as_the_scores_say(seed):
    truth, picks, scores = crowd(seed)
    of_picks, of_truth = judged(truth, picks, scores)
    for species, radius in enumerate(RADII):
        places = truth.xyz_angstrom[truth.species == species], picks.xyz_angstrom[picks.species == species]
        causes = [one.cause for one, own in zip(of_picks, picks.species, strict=True) if own == species]
        missed = [one.cause for one, own in zip(of_truth, truth.species, strict=True) if own == species]
        assert causes.count(RIGHT) == missed.count(RIGHT) == count_hits(*places, radius / 2, "one_to_one")
        # in mode kaggle a merged particle counts as found
        assert missed.count(RIGHT) + missed.count("merged") == count_hits(*places, radius / 2, "kaggle")


@pytest.mark.parametrize("seed", range(10))
def test_no_left_over_pick_is_surer_than_all_its_competitors(seed):
    truth, picks, scores = crowd(seed)
    pick_of = pair(truth, picks, scores, RADII)
    near = cdist(truth.xyz_angstrom, picks.xyz_angstrom) <= np.array(RADII)[truth.species][:, None] / 2
    near &= truth.species[:, None] == picks.species
    assert all(near[row, pick] for row, pick in enumerate(pick_of) if pick >= 0)
    for pick in set(range(90)) - set(pick_of.tolist()):
        assert all(scores[pick_of[row]] >= scores[pick] for row in np.flatnonzero(near[:, pick]))


def test_every_cause_occurs_in_a_crowd():
    seen = {one.cause for seed in range(10) for side in judged(*crowd(seed)[:2]) for one in side}
    assert seen == {RIGHT, *CAUSES}


def test_the_confusion_counts_every_pick_once():
    truth = points((0, 500, 500, 500), (1, 900, 500, 500))
    picks = points((0, 500, 500, 500), (0, 900, 500, 500), (0, 1500, 500, 500), (1, 1500, 900, 500))
    of_picks, _ = judged(truth, picks)
    assert confusion(of_picks, picks, truth, 2).tolist() == [[1, 1, 1], [0, 0, 1]]
