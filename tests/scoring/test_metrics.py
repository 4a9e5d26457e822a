from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pick_files import BASE, NAMES, SPECIES_SET, table
from scripts.errors import InputError
from scripts.picks import Pick
from scripts.scoring.metrics import (
    Counts,
    count_matches,
    fbeta,
    format_table,
    precision,
    recall,
    score_counts,
    score_picks,
)

TEN_RIBOSOMES = [f"R {1000 * n}" for n in range(9)] + ["R 0 E2"]


def rows_by_name(score):
    return {row.name: row for row in score.rows}


# The challenge's own numbers


@pytest.mark.parametrize(
    ("truth", "picks", "total"),
    [
        pytest.param(BASE, BASE, 1.0, id="perfect"),
        pytest.param(BASE, [], 0.0, id="empty submission"),
        pytest.param(BASE, ["A 30.000", *BASE[1:]], 1.0, id="at the distance"),
        pytest.param(BASE, ["A 30.001", *BASE[1:]], 0.8571428571428571, id="beyond the distance"),
        pytest.param(BASE, [*BASE, "A 1"], 0.9920634920634921, id="one extra"),
        pytest.param([*BASE, "A 40"], ["A 20", *BASE[1:]], 1.0043290043290043, id="one pick finds two"),
        pytest.param([*BASE, "A 40"], ["A 20", *BASE], 1.0, id="two picks find two"),
        pytest.param(["A 0"], BASE, 0.14285714285714285, id="truth of one species"),
        pytest.param(BASE, ["A 0", *BASE[2:]], 0.7142857142857143, id="one species missing from the picks"),
        pytest.param([*BASE, "R 0 E2"], [*BASE, "R 0 E2", "A 0 E2"], 0.9920634920634921, id="stray in another run"),
        pytest.param(BASE, [*BASE, "A 0 E3"], 1.0, id="stray in an unknown run"),
        pytest.param(BASE, [*BASE, *[f"B {n}" for n in range(50)]], 1.0, id="amylase picks"),
        pytest.param([*BASE, "B 70"], BASE, 1.0, id="amylase missed"),
        pytest.param(BASE, ["G 0", *BASE[1:]], 0.8412698412698413, id="wrong species"),
        pytest.param(TEN_RIBOSOMES, TEN_RIBOSOMES[:-1], 0.1293322062552832, id="nine of ten over two runs"),
    ],
)
def test_kaggle_total_has_every_digit_of_the_challenge(truth, picks, total):
    assert score_picks(table(truth), table(picks), SPECIES_SET).total == total


@pytest.mark.parametrize(
    ("truth", "picks", "name", "value"),
    [
        (BASE, [*BASE, "A 1"], "apo-ferritin", 0.9444444444444444),
        ([*BASE, "A 40"], ["A 20", *BASE[1:]], "apo-ferritin", 1.0303030303030303),
        (BASE, ["G 0", *BASE[1:]], "apo-ferritin", 0.0),
        (BASE, ["G 0", *BASE[1:]], "beta-galactosidase", 0.9444444444444444),
        (TEN_RIBOSOMES, TEN_RIBOSOMES[:-1], "ribosome", 0.9053254437869823),
    ],
)
def test_kaggle_f_of_a_species_has_every_digit_of_the_challenge(truth, picks, name, value):
    assert rows_by_name(score_picks(table(truth), table(picks), SPECIES_SET))[name].fbeta == value


@pytest.mark.parametrize(
    ("tp", "fp", "value"),
    [
        (10, 10, 0.944444),
        (10, 100, 0.629630),
        (9, 0, 0.905325),
        (9, 9, 0.859551),
        (5, 0, 0.515152),
        (8, 40, 0.653846),
    ],
)
def test_f4_of_ten_true_particles(tp, fp, value):
    assert round(fbeta(tp, tp + fp, 10), 6) == value


def test_f_multiplies_precision_and_recall_first_as_the_challenge_does():
    assert (
        fbeta(1, 14, 3) == 0.2741935483870968
    )  # the last digit differs with (1 + beta²) P first, and in the closed form


@settings(max_examples=60, deadline=None)
@given(tp=st.integers(1, 500), extra=st.integers(0, 9000), missed=st.integers(0, 500), beta=st.sampled_from([1, 2, 4]))
def test_f_equals_the_closed_form(tp, extra, missed, beta):
    closed = (1 + beta**2) * tp / (beta**2 * (tp + missed) + tp + extra)
    assert fbeta(tp, tp + extra, tp + missed, beta) == pytest.approx(closed, rel=1e-12)


# Counts and shares


def test_counts_of_tomograms_add_up():
    assert sum([Counts(1, 2, 3), Counts(10, 20, 30)], Counts()) == Counts(11, 22, 33)


def test_counts_tell_what_was_wrong_and_missed():
    assert (Counts(4, 6, 9).fp, Counts(4, 6, 9).fn) == (2, 5)


def test_precision_is_a_share_of_picks_and_recall_one_of_particles():
    assert (precision(3, 4), recall(3, 12)) == (0.75, 0.25)


def test_shares_of_nothing_are_zero():
    assert (precision(0, 0), recall(0, 0), fbeta(0, 0, 0), fbeta(0, 5, 0), fbeta(0, 0, 5)) == (0, 0, 0, 0, 0)


def test_matches_are_counted_within_the_own_run_and_species_and_summed():
    truth = table(["R 0", "R 500", "R 0 E2", "A 0"])
    picks = table(["R 10", "R 500 E2", "R 20 E2", "G 0"])
    assert count_matches(truth, picks, SPECIES_SET) == {
        "ribosome": Counts(2, 3, 3),
        "apo-ferritin": Counts(0, 0, 1),
        "beta-galactosidase": Counts(0, 1, 0),
    }


def test_the_distance_is_half_the_radius_of_the_species():
    picks = table(["A 30", "G 545", "R 1075", "T 1565", "V 2067.5"])
    assert score_picks(table(BASE), picks, SPECIES_SET).total == 1.0
    assert score_picks(table(BASE), [replace(pick, y_angstrom=9.0) for pick in picks], SPECIES_SET).total == 0.0


def test_all_three_axes_count():
    truth = [Pick("E1", "apo-ferritin", 100.0, 200.0, 300.0)]
    moved = [replace(truth[0], **{axis: 0.0}) for axis in ("x_angstrom", "y_angstrom", "z_angstrom")]
    assert [score_picks(truth, [pick], SPECIES_SET).rows[1].counts.tp for pick in moved] == [0, 0, 0]


def test_one_to_one_total_uses_the_same_weights():
    truth, picks = table([*BASE, "A 40"]), table(["A 20", *BASE[1:]])
    score = score_picks(truth, picks, SPECIES_SET, mode="one_to_one")
    assert score.mode == "one_to_one"
    assert score.total == pytest.approx((17 / 33 + 6) / 7)  # A: TP 1 of 2, no FP


def test_beta_changes_the_score():
    score = score_picks(table(["R 0"]), table(["R 0", "R 5"]), SPECIES_SET, beta=1.0)
    assert score.total == pytest.approx(2 / 3 / 7)
    assert rows_by_name(score)["ribosome"].fbeta == pytest.approx(2 / 3)


def test_rows_show_every_picked_species_and_others_only_when_they_occur():
    picked = ["apo-ferritin", "beta-galactosidase", "ribosome", "thyroglobulin", "virus-like-particle"]
    assert [row.name for row in score_picks(table(["R 0"]), [], SPECIES_SET).rows] == picked
    assert [row.name for row in score_picks(table(["R 0", "B 9"]), [], SPECIES_SET).rows] == ["beta-amylase", *picked]


def test_a_row_holds_counts_and_shares():
    row = rows_by_name(score_picks(table(["R 0", "R 500"]), table(["R 5", "R 9", "R 900", "R 990"]), SPECIES_SET))
    assert row["ribosome"].counts == Counts(1, 4, 2)
    assert (row["ribosome"].precision, row["ribosome"].recall) == (0.25, 0.5)


def test_picks_of_runs_without_truth_are_counted_and_named():
    score = score_picks(table(BASE), table([*BASE, "A 0 E9", "R 0 E3", "A 9 E9"]), SPECIES_SET)
    assert (score.dropped, score.dropped_runs) == (3, ("E3", "E9"))


def test_an_unknown_species_is_dropped_with_its_run():
    stray = Pick("E9", "albumin", 1.0, 2.0, 3.0)
    assert score_picks(table(BASE), [*table(BASE), stray], SPECIES_SET).total == 1.0


def test_an_unknown_species_among_the_picks_is_named():
    picks = [*table(BASE), Pick("E1", "albumin", 1.0, 2.0, 3.0)]
    with pytest.raises(InputError, match=r"mine\.csv, pick 6: unknown species 'albumin'"):
        score_picks(table(BASE), picks, SPECIES_SET, picks_source="mine.csv")


def test_an_unknown_species_in_the_truth_is_named():
    truth = [Pick("E1", "albumin", 1.0, 2.0, 3.0)]
    with pytest.raises(InputError, match=r"truth\.csv, particle 1: unknown species 'albumin'"):
        score_picks(truth, [], SPECIES_SET, truth_source="truth.csv")


def test_a_repeated_row_of_the_truth_is_named():
    with pytest.raises(InputError, match="the truth: particles 1 and 6 stand at the same place of run 'E1'"):
        score_picks(table([*BASE, "R 0"]), [], SPECIES_SET)


def test_an_empty_truth_is_an_error():
    with pytest.raises(InputError, match="the truth holds no particles; there is nothing to compare with"):
        score_picks([], table(BASE), SPECIES_SET)


def test_total_of_summed_counts_equals_that_of_the_tables():
    truth, picks = table([*BASE, "R 0 E2"]), table(["A 9", "A 7", "R 1000", "V 2000", "T 0 E2"])
    runs = [
        count_matches(*([one for one in rows if one.run == run] for rows in (truth, picks)), SPECIES_SET)
        for run in ("E1", "E2")
    ]
    summed = {name: runs[0].get(name, Counts()) + runs[1].get(name, Counts()) for name in SPECIES_SET.names}
    assert score_counts(summed, SPECIES_SET) == score_picks(truth, picks, SPECIES_SET).total


def test_a_species_without_truth_adds_nothing_but_its_weight_divides():
    counts = {"ribosome": Counts(2, 2, 2), "thyroglobulin": Counts(0, 9, 0)}
    assert score_counts(counts, SPECIES_SET) == 1 / 7


def test_the_weight_of_a_species_that_is_not_picked_divides_too():
    heavier = tuple(replace(species, weight=species.weight + (species.label == 0)) for species in SPECIES_SET.known)
    assert score_counts({"ribosome": Counts(2, 2, 2)}, replace(SPECIES_SET, known=heavier)) == 1 / 8


def test_an_unknown_species_in_the_order_is_named():
    with pytest.raises(InputError, match="order: unknown species 'albumin'"):
        score_counts({}, SPECIES_SET, order=["albumin"])


def test_the_order_of_adding_decides_the_last_digit():
    counts = {"beta-galactosidase": Counts(1, 5, 5), "ribosome": Counts(3, 4, 4), "apo-ferritin": Counts(1, 3, 5)}
    assert score_counts(counts, SPECIES_SET) == 0.19354561101549053
    assert score_counts(counts, SPECIES_SET, order=counts) == 0.19354561101549056


def test_the_table_adds_in_the_order_of_the_truth():
    found = ["G 0", "R 0", "R 1000", "R 2000", "A 0"]
    missed = ["G 1e4", "G 2e4", "G 3e4", "G 4e4", "R 1e4", "A 1e4", "A 2e4", "A 3e4", "A 4e4"]
    truth = [replace(pick, y_angstrom=1000.0 * n) for n, pick in enumerate(table(found + missed))]
    stray = [Pick("E1", NAMES[letter], 5e5, 0.0, 0.0) for letter in "GGGGRAA"]
    assert score_picks(truth, truth[: len(found)] + stray, SPECIES_SET).total == 0.19354561101549056


def test_no_counts_score_zero():
    assert score_counts({}, SPECIES_SET) == 0.0


def test_weights_that_are_all_zero_are_refused():
    weightless = replace(SPECIES_SET, known=tuple(replace(species, weight=0.0) for species in SPECIES_SET.known))
    with pytest.raises(InputError, match="all weights are 0; give one species a positive weight"):
        score_counts({"ribosome": Counts(1, 1, 1)}, weightless)


# The table as text


def test_the_table_is_aligned_and_says_the_mode():
    score = score_picks(table(["A 0", "R 500"]), table(["A 9", "A 99", "T 0"]), SPECIES_SET, mode="one_to_one")
    assert format_table(score).splitlines() == [
        "species              truths  picks  TP  FP  FN  precision  recall      F1      F4",
        "apo-ferritin              1      2   1   1   0     0.5000  1.0000  0.6667  0.9444",
        "beta-galactosidase        0      0   0   0   0          -       -       -       -",
        "ribosome                  1      0   0   0   1          -  0.0000  0.0000  0.0000",
        "thyroglobulin             0      1   0   1   0     0.0000       -       -       -",
        "virus-like-particle       0      0   0   0   0          -       -       -       -",
        "total (one_to_one)        2      3   1   2   1                     0.3333  0.1349",
    ]


def test_the_mean_f1_is_of_the_picked_species_with_particles():
    assert score_picks(table(["A 0", "R 500"]), table(["A 0", "R 500"]), SPECIES_SET).mean_f1 == 1.0
    assert score_picks(table(["A 0", "R 500"]), table(["A 0"]), SPECIES_SET).mean_f1 == 0.5
    assert score_picks(table(["A 0"]), table(["A 0", "T 0"]), SPECIES_SET).mean_f1 == 1.0


def test_the_table_names_its_beta():
    assert format_table(score_picks(table(["R 0"]), [], SPECIES_SET, beta=1.0)).splitlines()[0].endswith("  F1")


def test_a_pick_on_an_uncertain_annotation_does_not_count_and_one_on_a_rejected_one_is_wrong(species_set):
    truth = [
        Pick("run", "a", 10.0 * place, 0.0, 0.0, weight=weight)
        for place, weight in ((0, 1.0), (1, float("nan")), (20, float("nan")), (40, 0.5), (60, 0.0))
    ]
    picks = [Pick("run", "a", 10.0 * place, 0.0, 0.0) for place in (0.5, 20, 40, 60)]
    for mode in ("kaggle", "one_to_one"):
        assert count_matches(truth, picks, species_set, mode) == {"a": Counts(tp=1, predicted=2, truths=1)}
