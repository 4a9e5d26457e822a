from pick_files import FACTS, write_text
from scripts.picks import FORMATS


def test_further_columns_of_coords_are_not_read(tmp_path):
    (pick,) = FORMATS["coords"].read(write_text(tmp_path, "# x y z\n1 2 3 4 five\n", "a.coords"), FACTS)
    assert (pick.xyz_angstrom, pick.score) == ((10.0, 20.0, 30.0), 1.0)
