"""Maps of where training looks."""

import numpy as np
import pytest
import torch
from PIL import Image
from scripts.errors import InputError, InputWarning
from scripts.picks import Pick, write_csv
from scripts.preparation.annotation import Annotation
from scripts.preparation.interest import (
    CELL_VOXELS,
    EVEN_SHARE,
    INTEREST,
    MapInterestd,
    cells_of,
    interest_map,
    mistake_map,
    mistakes_of,
    signal_map,
)
from scripts.records import record_of
from scripts.volumes.labels import draw_spheres
from synthetic import image_of, make_species, noise
from two_tomograms import run_configs, write_two_tomograms

SHAPE = (45, 64, 83)  # not whole cells
COMPLETE = Annotation.of({})
PARTICLE, BEAD = (20, 20, 20), (20, 44, 60)


def scaled(volume):
    """Return a volume in which one voxel in a hundred is clipped at either end, as training scales it."""
    low, high = np.percentile(volume, (1, 99))
    return np.clip((volume - low) / (high - low), 0, 1).astype(np.float32)


def cell(place):
    return tuple(index // CELL_VOXELS for index in place)


def pick(x, score, species="a"):
    return Pick("tomogram", species, 10.0 * x, 90.0, 60.0, score, 40.0)


def test_a_map_has_a_cell_for_every_voxel():
    assert cells_of(SHAPE) == signal_map(scaled(noise(shape=SHAPE))).shape == (6, 8, 11)


def test_a_particle_has_more_signal_than_empty_ice():
    signal = signal_map(scaled(noise(shape=SHAPE) + 3 * draw_spheres(SHAPE, [PARTICLE], 6)))
    assert signal[cell(PARTICLE)] > 10 * np.median(signal)
    assert signal[cell(PARTICLE)] > 5 * signal[cell(BEAD)]


def test_gold_with_its_dark_fringes_counts_less_than_a_particle():
    fringe = draw_spheres(SHAPE, [BEAD], 12).astype(float) - draw_spheres(SHAPE, [BEAD], 5)
    volume = noise(shape=SHAPE) + 3 * draw_spheres(SHAPE, [PARTICLE], 6)
    signal = signal_map(scaled(volume + 40 * draw_spheres(SHAPE, [BEAD], 5) - 8 * fringe))
    assert signal[cell(BEAD)] < signal[cell(PARTICLE)] / 3


def test_a_constant_volume_is_looked_at_evenly():
    found = interest_map([signal_map(np.zeros(SHAPE, np.float32))])
    assert np.allclose(found, 1 / found.size)


@pytest.mark.parametrize("seed", range(5))
def test_every_cell_keeps_its_least_share(seed):
    parts = [np.random.default_rng(seed).gamma(0.1, size=(3, 4, 5)) for _ in range(2)]
    found = interest_map(parts)
    assert found.sum() == pytest.approx(1)
    assert (found >= 0.999 * EVEN_SHARE / found.size).all()


def test_parts_share_the_windows_equally_whatever_their_scale():
    signal, mistakes = np.zeros((2, 1, 2, 2))
    signal[0, 0, 0], mistakes[0, 1, 1] = 100.0, 0.5
    found = interest_map([signal, mistakes])
    assert found[0, 0, 0] == pytest.approx(found[0, 1, 1])
    assert interest_map([signal, 0 * mistakes])[0, 0, 0] == pytest.approx(EVEN_SHARE / 4 + 1 - EVEN_SHARE)


def test_no_window_is_given_to_cells_outside_of_the_annotated_region():
    region = np.zeros((1, *SHAPE), np.uint8)
    region[0, 10:20, 7:9, 82:] = 1
    sample = {"image": image_of(scaled(noise(shape=SHAPE))), "label": torch.zeros(0, 4), "annotated_region": region}
    found = MapInterestd("image", make_species(2))(sample)[INTEREST]
    assert found.sum().item() == pytest.approx(1)
    assert found.nonzero().tolist() == [[z, y, 10] for z in (1, 2) for y in (0, 1)]


def test_validation_makes_no_map_and_does_not_warn_of_its_runs(tmp_path):
    data = write_two_tomograms(tmp_path / "data")
    table = tmp_path / "picks.csv"
    write_csv(table, [Pick("one", "ribosome", 50.0, 250.0, 150.0, 0.5)])  # warnings are errors
    made = run_configs(
        ["train.json"], "train", data, tmp_path / "out", "train#dataset", validation_runs=["two"], interest_share=0.5,
        interest_table=str(table),
    )  # fmt: skip
    assert INTEREST in made.parser.get_parsed_content("train#dataset").tomograms[0]
    assert INTEREST not in made.parser.get_parsed_content("validate#dataset")[0]


def test_mistakes_are_summed_by_cell():
    places = np.array([[0.0, 0, 0], [7.4, 7, 7], [8, 0, 0], [44.4, 63, 82], [45, 0, 0], [-1, 0, 0]])
    found = mistake_map(SHAPE, places, np.array([0.25, 0.5, 1, 2, 9, 9]))
    assert (found[0, 0, 0], found[1, 0, 0], found[5, 7, 10], found.sum()) == (0.75, 1, 2, 3.75)


def test_a_model_is_wrong_beside_particles_by_its_score_and_at_particles_by_what_that_lacks():
    picks = [pick(11, 0.875), pick(12, 0.25), pick(30, 0.75), pick(12, 0.5, "b"), pick(12, 0.5, "other")]
    points = np.array([[6.0, 9, one.x_angstrom / 10] for one in picks])
    truth = np.array([[1.0, 6, 9, 11], [1, 6, 9, 20], [2, 6, 9, 30]])
    places, weights = mistakes_of(picks, points, truth, make_species(2), 10.0, COMPLETE)
    found = sorted(zip(places[:, 2].tolist(), weights.tolist(), strict=True))
    assert found == [(11, 0.125), (12, 0.5), (20, 1.0), (30, 0.75), (30, 1.0)]


def test_without_picks_every_particle_is_missed():
    places, weights = mistakes_of([], np.zeros((0, 3)), np.array([[1.0, 6, 9, 11]]), make_species(2), 10.0, COMPLETE)
    assert (places.tolist(), weights.tolist()) == ([[6, 9, 11]], [1.0])


def test_a_pick_on_an_uncertain_particle_is_no_mistake():
    annotation = Annotation(np.array([[1.0, 6, 9, 11, np.nan]]))
    points = np.array([[6.0, 9, 12], [6, 9, 30]])
    picks = [pick(x, 0.5) for x in (12, 30)]
    places, weights = mistakes_of(picks, points, np.zeros((0, 4)), make_species(2), 10.0, annotation)
    assert (places.tolist(), weights.tolist()) == ([[6, 9, 30]], [0.5])


def test_a_table_adds_the_mistakes_of_its_run(tmp_path):
    write_csv(tmp_path / "picks.csv", [pick(30, 1.0), Pick("elsewhere", "a", 50.0, 250.0, 150.0)])
    sample = {"image": image_of(np.zeros((20, 28, 36))), "label": torch.zeros(0, 4), "run": "tomogram"}
    found = MapInterestd("image", make_species(2), tmp_path / "picks.csv")(sample)[INTEREST]
    assert found.shape == cells_of((20, 28, 36))
    assert np.unravel_index(int(found.argmax()), found.shape) == (0, 1, 3)
    assert len(found.unique()) == 2


def test_a_run_that_the_table_lacks_is_named(tmp_path):
    write_csv(tmp_path / "picks.csv", [pick(30, 1.0)])
    sample = {"image": image_of(np.zeros((20, 28, 36))), "label": torch.zeros(0, 4), "run": "other"}
    with pytest.warns(
        InputWarning, match="interest_table has no pick of 'other': all of its particles count as missed"
    ):
        MapInterestd("image", make_species(2), tmp_path / "picks.csv")(sample)


def test_a_changed_table_is_another_preparation(tmp_path):
    write_csv(tmp_path / "picks.csv", [pick(30, 1.0)])
    before = record_of(MapInterestd("image", make_species(2), tmp_path / "picks.csv"))
    write_csv(tmp_path / "picks.csv", [pick(31, 1.0)])
    assert record_of(MapInterestd("image", make_species(2), tmp_path / "picks.csv")) != before


def test_a_table_that_is_missing_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"cannot read .*picks\.csv"):
        MapInterestd("image", make_species(2), tmp_path / "picks.csv")


def test_training_looks_where_the_settings_say_and_shows_it(tmp_path):
    data = write_two_tomograms(tmp_path / "data")
    made = run_configs(
        ["train.json"], "train", data, tmp_path / "out", validation_runs=["two"], interest_share=0.5,
        interest_table=str(data / "truth.csv"), epochs=1, windows_per_epoch=2, val_interval=0,
        window_size=[16, 16, 16], **{"network_def#widths": [4, 8], "network_def#depths": [1, 1]},
    )  # fmt: skip
    assert (tmp_path / "out" / "model.pt").exists()
    assert {path.name for path in (tmp_path / "out" / "interest").iterdir()} == {"one.png"}
    with Image.open(tmp_path / "out" / "interest" / "one.png") as picture:
        assert min(picture.size) > 300
    assert INTEREST not in made.parser.get_parsed_content("train#dataset")[0]
