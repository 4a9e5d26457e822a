import numpy as np
import pytest
from scripts.errors import InputError
from scripts.preparation.annotation import Annotation
from scripts.preparation.region import is_inside
from scripts.training.crops import NOTHING, UNCLEAR, CropMix, CropVariation, ProposedRun, classes_of_places
from synthetic import noise

RADII = [4.0, 6.0]
PARTICLES = np.array([[1, 10, 10, 10], [2, 10, 10, 30]], dtype=float)


def test_a_place_shows_the_particle_that_is_near_enough():
    places = np.array([[10, 10, 12], [10, 10, 12.5], [10, 10, 13], [10, 10, 27], [10, 13.5, 30], [0, 0, 0]])
    found = classes_of_places(places, PARTICLES, RADII)
    assert found.tolist() == [1, UNCLEAR, NOTHING, 2, UNCLEAR, NOTHING]
    assert classes_of_places(places, np.zeros((0, 4)), RADII).tolist() == [NOTHING] * 6
    assert classes_of_places(np.zeros((0, 3)), PARTICLES, RADII).shape == (0,)


def run_with(places, volume=None):
    volume = np.zeros((24, 24, 44), dtype=np.float32) if volume is None else volume
    return ProposedRun(volume[None], PARTICLES, np.asarray(places, dtype=float).reshape(-1, 3), RADII)


def test_a_true_particle_stands_in_the_middle_of_its_crop():
    volume = np.zeros((24, 24, 44), dtype=np.float32)
    volume[10, 10, 30] = 100
    crops = [run_with([], volume).draw(2, CropMix(), 9, np.random.RandomState(seed)) for seed in range(20)]
    assert all(label == 2 for _, label in crops)
    places = np.array([np.unravel_index(crop.argmax(), crop.shape) for crop, _ in crops])
    assert np.abs(places - 4).max() <= 3
    assert places.std() > 0.3  # jittered


def test_a_species_that_is_not_there_gives_nothing():
    run = ProposedRun(noise(shape=(1, 24, 24, 44)), PARTICLES[:1], np.zeros((0, 3)), RADII)
    assert run.draw(2, CropMix(), 9, np.random.RandomState(0))[1] == NOTHING


@pytest.mark.parametrize(
    "mix", [CropMix(hard=1.0), CropMix(hard=0.0, faded=0.0, beside=1.0), CropMix(hard=0.0, faded=0.0, beside=0.0)]
)
def test_nothing_is_cut_where_no_particle_is(mix):
    volume = np.zeros((24, 24, 44), dtype=np.float32)
    for _, z, y, x in PARTICLES.astype(int):
        volume[z, y, x] = 100
    run = run_with([[10, 10, 11], [10, 10, 20]], volume)  # the first shows particle 1
    for seed in range(30):
        crop, label = run.draw(NOTHING, mix, 9, np.random.RandomState(seed))
        assert label == NOTHING
        assert crop[4, 4, 4] < run.cut(PARTICLES[0, 1:], 9).max() / 2


def test_a_faded_particle_is_hardly_there():
    volume = np.zeros((24, 24, 44), dtype=np.float32)
    volume[10, 10, 10] = volume[10, 10, 30] = 100
    run, whole = run_with([], volume), run_with([], volume).cut(PARTICLES[0, 1:], 9).max()
    faded = [run.draw(NOTHING, CropMix(hard=0.0, faded=1.0), 9, np.random.RandomState(seed))[0] for seed in range(10)]
    assert all(0 < crop[4, 4, 4] < 0.26 * whole for crop in faded)


def test_a_varied_crop_keeps_its_middle_and_changes_contrast_brightness_and_noise():
    crop = np.zeros((9, 9, 9), dtype=np.float32)
    crop[4, 4, 4], crop[6, 4, 5] = 1, 0.5
    still = CropVariation(0, 0, 0, 0)
    for seed in range(20):
        varied = still.vary(crop, np.random.RandomState(seed))
        assert varied[4, 4, 4] == 1
        assert sorted(varied.ravel()) == sorted(crop.ravel())
    assert len({tuple(still.vary(crop, np.random.RandomState(seed)).ravel()) for seed in range(60)}) == 8
    found = [CropVariation(0.25, 0.2, 0, 0).vary(crop, np.random.RandomState(seed)) for seed in range(50)]
    shifts = np.array([one[0, 0, 0] for one in found])
    factors = np.array([one[4, 4, 4] for one in found]) - shifts
    assert 0.15 < np.abs(shifts).max() <= 0.2
    assert 0.2 < np.abs(factors - 1).max() <= 0.25
    noisy = [CropVariation(0, 0, 0.5, 1).vary(np.zeros_like(crop), np.random.RandomState(n)).std() for n in range(50)]
    assert 0.4 < max(noisy) < 0.55


def test_where_not_all_species_are_annotated_or_one_is_uncertain_no_place_shows_nothing():
    places = np.array([[10, 10, 11], [10, 10, 20], [20, 20, 40]], dtype=float)
    for known, expected in (
        ({}, [1, NOTHING, NOTHING]),
        ({"is_complete": [True, False]}, [1, UNCLEAR, UNCLEAR]),
        ({"doubtful": [[2, 10, 10, 22, np.nan]]}, [1, UNCLEAR, NOTHING]),
    ):
        run = ProposedRun(np.zeros((1, 24, 24, 44)), PARTICLES, places, RADII, Annotation.of(known))
        assert run.classes.tolist() == expected
        assert run.shows(NOTHING) == ("is_complete" not in known)


def test_what_a_person_rejected_is_a_wrong_proposal_unless_another_species_stands_there():
    rejected = [[1, 20, 20, 40, 0], [2, 10, 10, 11, 0], [2, 10, 10, 22, 0], [1, 10, 10, 22, np.nan]]
    run = ProposedRun(
        np.zeros((1, 24, 24, 44)), PARTICLES, np.zeros((0, 3)), RADII, Annotation.of({"doubtful": rejected})
    )
    assert run.places.tolist() == [row[1:4] for row in rejected[:3]]
    assert run.classes.tolist() == [NOTHING, 1, UNCLEAR]


def test_nothing_is_cut_inside_of_the_annotated_region():
    region = np.zeros((1, 24, 24, 44), dtype=np.uint8)
    region[0, 15:20, 2:6, 3:9] = 1
    known = Annotation.of({"annotated_region": region, "annotated_box": [[15, 2, 3], [19, 5, 8]]})
    run = ProposedRun(region, PARTICLES, np.zeros((0, 3)), RADII, known)
    places = [run.empty_place(np.random.RandomState(seed)) for seed in range(20)]
    assert is_inside(region[0], places).all()


def test_a_slanted_region_has_crops_of_nothing_only_inside():
    z, y, x = np.ogrid[:24, :24, :44]
    region = ((abs(z - y) < 2) & (x >= 0)).astype(np.uint8)[None]
    known = Annotation.of({"annotated_region": region, "annotated_box": [[0, 0, 0], [23, 23, 43]]})
    run = ProposedRun(region, PARTICLES[:0], np.zeros((0, 3)), RADII, known)
    places = [run.empty_place(np.random.RandomState(seed)) for seed in range(100)]
    assert is_inside(region[0], np.array(places)).all()


@pytest.mark.parametrize("faded", [0.0, 1.0])
def test_where_no_place_is_empty_a_wrong_proposal_is_cut_or_none(faded):
    region = np.zeros((1, 24, 24, 44), dtype=np.uint8)
    region[0, 20, 20, 20] = 1
    known = Annotation.of({"annotated_region": region, "annotated_box": [[0, 0, 0], [23, 23, 43]]})
    for places, is_cut in ([], False), ([[20.0, 20, 20]], True):
        run = ProposedRun(region, PARTICLES, np.reshape(places, (-1, 3)), RADII, known)
        for seed in range(5):
            drawn = run.draw(NOTHING, CropMix(hard=0.0, faded=faded), 9, np.random.RandomState(seed))
            assert (drawn is not None) == is_cut


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (CropMix, {"hard": 1.5}, r"hard is a number from 0 to 1; got 1\.5"),
        (CropMix, {"nothing": "half"}, "nothing is a number from 0 to 1; got 'half'"),
        (CropVariation, {"contrast": -0.1}, r"contrast is a number, 0 or more; got -0\.1"),
        (CropVariation, {"noisy": 2}, "noisy is a number from 0 to 1; got 2"),
    ],
)
def test_shares_and_variations_that_cannot_be_are_refused(kind, settings, message):
    with pytest.raises(InputError, match=message):
        kind(**settings)
