"""Which results may be compared in one table, and which weights may be scored on which runs."""

import json

import pytest
from conditions import is_there, refuse_mixed, refuse_seen, whole_numbers
from scripts.errors import InputError


def test_results_of_other_settings_are_refused_in_one_table(tmp_path):
    paths = []
    for seed, steps in ((0, 10), (1, 10), (2, 500)):
        paths.append(tmp_path / f"{seed}.json")
        paths[-1].write_text(json.dumps({"conditions": {"seed": seed, "steps": steps}}))
    refuse_mixed(paths[:2], {"steps": 10})
    with pytest.raises(InputError, match=r"2.json was made under other conditions: steps was 500, now it is 10. Set"):
        refuse_mixed(paths, {"steps": 10})


def test_a_result_is_there_if_it_was_made_under_the_same_conditions_and_no_others(tmp_path):
    path = tmp_path / "result.json"
    assert not is_there(path, {"steps": 10})
    path.write_text(json.dumps({"conditions": {"steps": 10, "size": [1, 2]}}))
    assert is_there(path, {"steps": 10, "size": (1, 2)})
    with pytest.raises(InputError, match=r"result.json was made under other .*: size was \[1, 2\], now it is null"):
        is_there(path, {"steps": 10})


@pytest.mark.parametrize(
    ("fitted", "tested", "seen"),
    [(["D6"], ["D7"], ""), (["D6"], ["D1"], "trained_on .*: D1"), (["D1"], ["D7"], "trained_on .*: D1"),
     (["D7"], ["D6"], "fitted_on .*: D6")],
)  # fmt: skip
def test_weights_are_not_scored_on_runs_that_they_have_seen(bundle_dir, fitted, tested, seen):
    weights = bundle_dir / "models" / "model.pt"
    if not seen:
        refuse_seen(weights, fitted, tested)
    else:
        with pytest.raises(InputError, match=f"has seen these runs, which are to be scored or fitted on: .*{seen}"):
            refuse_seen(weights, fitted, tested)


def test_seeds_are_whole_numbers():
    assert whole_numbers("0,12") == [0, 12]
    with pytest.raises(ValueError, match="invalid literal"):
        whole_numbers("x")
