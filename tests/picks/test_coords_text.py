import pytest
from pick_files import FACTS, write_text
from scripts.errors import InputError
from scripts.picks import FORMATS


def read_coords(folder, *lines):
    picks = FORMATS["coords"].read(write_text(folder, "\n".join(lines), "a.coords"), FACTS)
    return [(*pick.xyz_angstrom, pick.score) for pick in picks]


def test_further_columns_of_coords_are_not_read(tmp_path):
    assert read_coords(tmp_path, "# x y z rot", "11 2 3 4 five", "1 2 3 90") == [(110, 20, 30, 1), (10, 20, 30, 1)]


@pytest.mark.parametrize(
    ("first", "counts"),
    [
        ("0 1 2", "from 0 to 2"),
        ("1 2 3", "from 1 to 3"),
        ("1.0 2.0 3.0", "from 1 to 3"),
        ("1 1 1", "from 1 to 1"),
        ("1 1 2", "from 1 to 2"),
    ],
    ids=["index from 0", "index from 1", "decimals", "objects", "contours"],
)
@pytest.mark.parametrize("between", ["", "1 "])
def test_coords_whose_first_column_counts_up_are_refused(tmp_path, first, counts, between):
    lines = [f"{number} {between}40 50 {60 + place}" for place, number in enumerate(first.split())]
    said = rf"a\.coords: its first column counts up {counts} and would be read as x; remove .*--from imod"
    with pytest.raises(InputError, match=said):
        read_coords(tmp_path, *lines)


def test_one_row_does_not_count_up(tmp_path):
    assert read_coords(tmp_path, "1 20 30 0.9") == [(10, 200, 300, 1)]


def test_coords_of_three_columns_may_count_up_along_x(tmp_path):
    assert read_coords(tmp_path, "1 40 50", "2 40 50", "3 40 50 0.9") == [(10 * x, 400, 500, 1) for x in (1, 2, 3)]
