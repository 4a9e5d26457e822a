import pytest
from scripts.errors import InputError, InputWarning
from scripts.handlers.results import WritePicks
from scripts.records import first_difference
from synthetic import make_species


def handler(**settings):
    return WritePicks("picks", make_species(2), **{"user_id": "me", "session_id": 0, **settings})


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"user_id": "jane_doe"}, "user_id may hold letters, digits"),
        ({"session_id": "run_1"}, "session_id may hold letters, digits"),
        ({"session_id": 1.1}, r"""session_id is text or a whole number; got 1\.1: .*, --session_id "'1\.1'"\."""),
        ({"user_id": 1.5, "formats": ["csv"]}, r"user_id is text or a whole number; got 1\.5"),
        ({"binning": 0}, "pick_binning is null or a number above 0; got 0"),
        ({"binning": -4.0}, "pick_binning is null or a number above 0; got -4.0"),
        ({"binning": float("nan")}, "pick_binning is null or a number above 0; got nan"),
    ],
)
def test_what_no_file_can_be_written_with_is_refused_before_the_first_tomogram(settings, said):
    with pytest.raises(InputError, match=said):
        handler(**settings)


def test_binning_is_for_formats_that_count_pixels():
    assert handler(formats=["csv", "warp"], binning=4.0).binning == 4.0
    with pytest.raises(InputError, match="pick_binning has no meaning for csv, imod; leave it out"):
        handler(formats=["csv", "imod"], binning=4.0)
    with pytest.warns(InputWarning, match="without pick_binning, relion4 and warp counts the tomogram's voxels"):
        assert handler(formats=["csv", "relion4", "warp"]).binning == 1.0


def test_a_change_of_formats_is_named():
    before, now = handler(formats=["csv", "imod"]), handler(formats=["csv"])
    said = first_difference(before.settings, now.settings)
    assert said is not None
    assert 'formats was ["csv", "imod"], now it is ["csv"]' in said


def test_ids_are_those_of_copick_only_where_its_files_are_written():
    assert handler(user_id="jane_doe", formats=["csv"]).user_id == "jane_doe"
