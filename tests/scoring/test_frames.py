import numpy as np
import pytest
from scripts.picks import Pick, write_csv
from scripts.scoring.__main__ import main

SIZE = (6300, 6300, 1840)  # x, y, z in ångströms
TRUTH = {("A", "ribosome"): 20, ("A", "apo-ferritin"): 30, ("B", "ribosome"): 15}


def places_of(seed=0, counts=TRUTH):
    random = np.random.default_rng(seed)
    return {key: random.uniform(0, SIZE, (count, 3)) for key, count in counts.items()}


def write(name, places):
    write_csv(name, [Pick(*key, *map(float, place)) for key, own in places.items() for place in own])


@pytest.fixture
def score(tmp_path, monkeypatch):
    """Score changed copies of the truth, each 5 Å off, a third of the particles missed and as many wrong picks."""
    monkeypatch.chdir(tmp_path)

    def run(change, change_truth=np.asarray, counts=TRUTH):
        true, wrong = places_of(counts=counts), places_of(1, counts)
        picks = {key: np.vstack([own[::3], own[1::3], wrong[key][::3]]) + 5 for key, own in true.items()}
        write("truth.csv", {key: change_truth(own) for key, own in true.items()})
        write("picks.csv", {key: change(own) for key, own in picks.items()})
        return main(["truth.csv", "picks.csv"])

    return run


@pytest.mark.parametrize("counts", [TRUTH, {("A", "ribosome"): 5}])
@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda xyz: xyz / 10.012, "the picks are in voxels, not Å: multiply x, y and z by 10.012"),
        (lambda xyz: xyz[:, ::-1], "x and z are exchanged in one of them: the columns are x, y, z"),
    ],
)
def test_picks_in_another_frame_are_refused_with_what_is_found(score, capsys, change, what, counts):
    assert score(change, counts=counts) == 1
    assert capsys.readouterr() == ("", f"error: picks.csv matches truth.csv only if {what}.\n")


@pytest.mark.parametrize("voxel_size", [5.006, 20.024, 40.048])
def test_voxels_of_a_binned_tomogram_are_refused_with_their_size(score, capsys, voxel_size):
    assert score(lambda xyz: xyz / voxel_size) == 1
    assert f"only if the picks are in voxels, not Å: multiply x, y and z by {voxel_size}." in capsys.readouterr().err
    assert score(np.asarray, lambda xyz: xyz / voxel_size) == 1
    assert f"only if the truth is in voxels, not Å: multiply x, y and z by {voxel_size}." in capsys.readouterr().err


def test_picks_and_truth_in_nanometres_are_refused(score, capsys):
    assert score(lambda xyz: xyz / 10) == 1
    assert "only if the picks are in " in capsys.readouterr().err
    assert score(np.asarray, lambda xyz: xyz / 10.012) == 1
    assert "only if the truth is in voxels, not Å: multiply x, y and z by 10.012." in capsys.readouterr().err


def test_picks_from_another_origin_are_scored_with_a_warning(score, capsys):
    assert score(lambda xyz: xyz - np.array(SIZE) / 2) == 0
    written = capsys.readouterr()
    assert written.out.splitlines()[-1] == "score 0.0"
    assert written.err.startswith("warning: picks.csv matches truth.csv only if moved by 31")
    assert "Å in x, y, z: do both count from the first voxel?" in written.err


@pytest.mark.parametrize("counts", [TRUTH, {("A", "ribosome"): 3}, {("A", "ribosome"): 400}])
def test_bad_and_honest_picks_are_only_scored(score, capsys, counts):
    random = np.random.default_rng(7)
    assert score(lambda xyz: random.uniform(0, SIZE, xyz.shape), counts=counts) == 0
    assert capsys.readouterr().err == ""


def test_picks_that_match_are_only_scored(score, capsys):
    assert score(np.asarray) == 0
    assert capsys.readouterr().err == ""
