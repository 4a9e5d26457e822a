"""The main job, as the README has it: the sample picked by the shipped weights."""

import math
from pathlib import Path

import numpy as np
import pytest
from monai.bundle import ConfigWorkflow
from scipy import ndimage
from scripts.networks.model_card import read_card, sha256_of
from scripts.picks import by_species, read_csv
from scripts.scoring.metrics import score_picks
from scripts.volumes.reading import read_tomogram
from synthetic import write_mrc

ROOT = Path(__file__).resolve().parents[1]
BUNDLE = ROOT / "bundle"
VOXEL_SIZE = 10.012
CLEAR = 0.1  # picks this close to the lowest score may come and go with the machine's arithmetic


def pick_sample(output_dir, dataset_dir=ROOT / "sample", **settings):
    made = ConfigWorkflow(
        config_file=str(BUNDLE / "configs" / "inference.json"), workflow_type="infer", bundle_root=str(BUNDLE),
        logging_file=False, dataset_dir=str(dataset_dir), output_dir=str(output_dir),
        device="$torch.device('cpu')", **settings,
    )  # fmt: skip
    made.initialize()
    made.run()
    return read_csv(output_dir / "picks.csv")


@pytest.fixture(scope="module")
def picks(tmp_path_factory):
    return pick_sample(tmp_path_factory.mktemp("sample"), precision="float32")


def test_the_shipped_weights_are_those_of_their_card():
    path = BUNDLE / "models" / "model.pt"
    assert read_card(path)["weights_sha256"]["model.pt"] == sha256_of(path)


def test_the_sample_is_picked_well(picks, shipped_species):
    score = score_picks(read_csv(ROOT / "sample" / "truth.csv"), picks, shipped_species)
    assert score.mean_f1 > 0.85
    assert score.total > 0.85
    assert all(row.recall >= 0.75 for row in score.rows if row.name in shipped_species.names)


def test_about_as_many_picks_are_right_as_their_scores_say(picks, shipped_species):
    score = score_picks(read_csv(ROOT / "sample" / "truth.csv"), picks, shipped_species, "one_to_one")
    right = sum(row.counts.tp for row in score.rows)
    assert sum(pick.score for pick in picks) == pytest.approx(right, abs=8)


def test_the_picks_are_the_golden_ones(picks):
    golden = read_csv(ROOT / "tests" / "golden" / "picks.csv")
    lowest = {name: min(pick.score for pick in found) for name, found in by_species(golden).items()}
    for one, other in ((picks, golden), (golden, picks)):
        for pick in one:
            same = [twin for twin in other if twin.species == pick.species]
            gap = min((np.linalg.norm(np.subtract(pick.xyz_angstrom, twin.xyz_angstrom)) for twin in same), default=99)
            assert gap < 1.0 or pick.score < lowest[pick.species] + CLEAR, f"{pick} moved by {gap:.2f} Å"


def test_surer_picks_are_fewer(picks, tmp_path):
    surer = pick_sample(tmp_path, precision="float32", operating_point={"thyroglobulin": {"probability": 0.9}})
    counts = {table: sum(pick.species == "thyroglobulin" for pick in picked)
              for table, picked in (("plain", picks), ("surer", surer))}  # fmt: skip
    assert 0 < counts["surer"] < counts["plain"]


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """Return the picks of the first network alone."""
    return pick_sample(tmp_path_factory.mktemp("first"), precision="float32", second_look=False)


def test_peaks_and_blobs_find_the_same_particles(first, tmp_path, shipped_species):
    peaks = {"finder#_target_": "scripts.picking.peaks.Peaks"}
    found = pick_sample(tmp_path, precision="float32", second_look=False, **peaks)
    truth = read_csv(ROOT / "sample" / "truth.csv")
    blobs, peaks = (score_picks(truth, picks, shipped_species, "one_to_one") for picks in (first, found))
    hits, wrong = (
        [[getattr(row.counts, what) for row in score.rows] for score in (blobs, peaks)] for what in ("tp", "fp")
    )
    assert hits[1] == pytest.approx(hits[0], abs=1)
    assert wrong[1] == pytest.approx(wrong[0], abs=3)
    assert peaks.mean_f1 == pytest.approx(blobs.mean_f1, abs=0.03)


def test_the_second_look_halves_the_wrong_picks(picks, first, shipped_species):
    truth = read_csv(ROOT / "sample" / "truth.csv")
    before, after = (score_picks(truth, found, shipped_species, "one_to_one") for found in (first, picks))
    wrong = [sum(row.counts.fp for row in score.rows) for score in (before, after)]
    assert wrong[1] <= wrong[0] / 2
    assert after.mean_f1 > before.mean_f1


def test_a_padded_tomogram_is_picked_like_its_image(tmp_path):
    volume = np.asarray(read_tomogram(ROOT / "sample" / "sample.mrc").data, dtype=np.float32)[16:80, 90:218, 90:218]
    padding = {"alone": (0, 0, 0), "end": (0, 0, 0), "start": (3, 31, 1)}
    for name, start in padding.items():
        end = (0, 60, 0) if name == "end" else (0, 0, 0)
        padded = np.pad(volume, list(zip(start, end, strict=True)), constant_values=-9)
        write_mrc(tmp_path / "data" / f"{name}.mrc", padded, VOXEL_SIZE)
    pick_sample(tmp_path / "out", tmp_path / "data", precision="float32")
    found = {
        name: sorted((pick.species, pick.score, *np.subtract(pick.zyx_voxel, start).round(3)) for pick in
                     read_csv(tmp_path / "out" / name / "picks.csv"))
        for name, start in padding.items()
    }  # fmt: skip
    assert len(found["alone"]) >= 5
    assert found["end"] == found["start"] == found["alone"]


def test_the_specimen_at_another_voxel_size_is_picked_in_the_same_places(tmp_path):
    volume = np.asarray(read_tomogram(ROOT / "sample" / "sample.mrc").data, dtype=np.float32)[16:80, 90:218, 90:218]
    for voxel_size in (VOXEL_SIZE, 7.84, 13.5):
        step = voxel_size / VOXEL_SIZE
        shape = tuple(int((size - 1) / step) + 1 for size in volume.shape)
        sampled = ndimage.affine_transform(volume, np.full(3, step), output_shape=shape, order=3, mode="nearest")
        write_mrc(tmp_path / "data" / f"{voxel_size:g}.mrc", sampled, voxel_size)
    pick_sample(tmp_path / "out", tmp_path / "data", precision="float32", resample=True)
    rim = 6  # voxels; particles there are cut, and the resampled volumes end a little elsewhere
    own, finer, coarser = (read_csv(tmp_path / "out" / name / "picks.csv") for name in ("10.012", "7.84", "13.5"))
    own = [
        pick
        for pick in own
        if all(rim <= at < size - rim for at, size in zip(pick.zyx_voxel, volume.shape, strict=True))
    ]
    assert len(own) >= 6
    for other in (finer, coarser):
        gaps = [
            min((math.dist(pick.xyz_angstrom, twin.xyz_angstrom) for twin in other
                 if twin.species == pick.species), default=np.inf)
            for pick in own
        ]  # fmt: skip
        assert np.mean(np.array(gaps) < VOXEL_SIZE / 2) > 0.75, sorted(gaps)
        assert np.median(gaps) < VOXEL_SIZE / 4
