from pick_files import FACTS, write_text
from scripts.picks import FORMATS


def test_points_of_imod_are_read_with_and_without_object_and_contour(tmp_path):
    for text in (
        "11.75 9.5 6",
        "2 11.75 9.5 6",
        "1 2 11.75 9.5 6",
        "     1     2       11.75        9.50        6.00 1.0",
    ):
        (pick,) = FORMATS["imod"].read(write_text(tmp_path, f"{text}\n", "a.txt"), FACTS)
        assert (pick.xyz_angstrom, pick.score) == ((112.5, 90.0, 60.0), 1.0)
