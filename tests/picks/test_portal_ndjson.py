from pick_files import FACTS, write_text
from scripts.picks import FORMATS


def test_points_of_the_portal_may_have_directions_and_no_score(tmp_path):
    line = '{"type": "orientedPoint", "location": {"x": 1, "y": 2, "z": 3}, "xyz_rotation_matrix": [[1, 0, 0]]}'
    (pick,) = FORMATS["ndjson"].read(write_text(tmp_path, f"{line}\n\n", "a.ndjson"), FACTS)
    assert (pick.xyz_angstrom, pick.score) == ((10.0, 20.0, 30.0), 1.0)
