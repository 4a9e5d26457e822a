import numpy as np
import pytest
import torch
from scripts.errors import InputError, InputWarning
from scripts.file_pages import FilePages, new_volume
from scripts.networks.model_card import read_card, write_card
from scripts.picking.calibration import Calibration, confidence_of, log_odds_of
from scripts.picking.familiarity import STATISTICS, VISIBILITY, Familiarity, visibility_of
from scripts.picking.proposals import Proposals
from scripts.picking.second_look import SecondLook, find_second_look, load_second_look
from scripts.preparation.crops import CropShape
from synthetic import SHAPE, make_species, noise, tiny_classifier, tiny_network, write_second_look, write_weights

PLACES = np.array([[6.0, 9, 11], [13, 20, 30], [0, 0, 0]])


@pytest.fixture
def files(tmp_path):
    """Return weights of a first network, and a second look for them."""
    weights = write_weights(tmp_path / "model.pt", tiny_network())
    return weights, write_second_look(tmp_path / "second_look.pt", weights, make_species(2))


def find(files, wanted, **changes):
    given = {"path": None, "checkpoint_path": files[0], "species_set": make_species(2), **changes}
    return find_second_look(wanted, **given)


def test_a_list_of_one_file_has_the_second_look_of_that_file(files):
    assert find(files, "auto", checkpoint_path=[str(files[0])]) is not None


def test_log_odds_are_against_all_other_classes():
    probabilities = np.array([[0.5, 0.25, 0.25], [0.125, 0.125, 0.75]])
    assert np.allclose(log_odds_of(np.log(probabilities)), np.log([[1 / 3, 1 / 3], [1 / 7, 3]]))


def test_the_probability_is_a_logistic_function_of_both_answers():
    weights = np.array([[0.5, 2, 0, 0, 0, 0, 0, -1], [1, 0, 0, 0, 3, -2, 4, 0]])
    calibration = Calibration(weights, ("run",), np.array([0.25, 0]))
    found = calibration.probabilities(np.array([[2.0, -50]]), np.array([[1.0, 7]]), visibility=-0.5)
    sure = np.tanh([1, 3.5])  # of the first network and of the second look, here of one candidate
    assert np.allclose(found, [[1 / (1 + np.exp(-2)), 1 / (1 + np.exp(12 - 3 * sure[0] + 2 * sure[1] + 2))]])
    again = Calibration.from_table(calibration.as_table(["a", "b"]), ["a", "b"])
    assert np.array_equal(again.weights, calibration.weights)
    assert (again.spread_of(0), again.spread_of(1), Calibration(weights).spread_of(0)) == (0.25, 0, 0)


def test_the_probability_depends_on_the_likeliest_other_species():
    weights = np.array([[0, 0, 1.0, 0, 0, 0, 0, 0], [0, 0, 0, 2, 0, 0, 0, 0], [0, 0, 1, 1, 0, 0, 0, 0]])
    logits, log_odds = np.array([[3.0, -1, 2]]), np.array([[-4.0, 0.5, -30]])
    found = Calibration(weights).probabilities(logits, log_odds)
    assert np.allclose(found, 1 / (1 + np.exp(-np.array([[2.0, 2 * -4, 3 + 0.5]]))))
    alone = Calibration(weights[:1]).probabilities(logits[:, :1], log_odds[:, :1])
    assert alone == pytest.approx(1 / (1 + np.exp(12)))  # there is no other, which is as sure as can be
    assert Calibration(weights).probabilities(np.zeros((0, 3)), np.zeros((0, 3))).shape == (0, 3)


def test_confidence_is_high_where_candidates_are_clear():
    clear, unclear = np.array([[9.0, -9], [-9, -9]]), np.array([[0.1, -0.1], [-0.1, -0.2]])
    assert confidence_of(clear, clear) == pytest.approx((0, 1), abs=0.01)
    assert confidence_of(unclear, unclear) == pytest.approx((0, 0.05), abs=0.01)
    assert confidence_of(np.zeros((0, 2)), np.zeros((0, 2))) == (0, 0)


def test_a_second_look_sees_one_crop_per_place_in_any_batch(files):
    look = load_second_look(files[1], files[0], make_species(2))
    volume = noise(1)
    together = look.log_odds(volume, np.repeat(PLACES, 20, axis=0))
    alone = np.concatenate([look.log_odds(volume, place[None]) for place in PLACES])
    assert np.allclose(together, np.repeat(alone, 20, axis=0), atol=1e-4)


def test_a_volume_in_a_file_is_judged_alike_and_its_pages_given_back_after_every_crop(files, monkeypatch):
    released = []
    release = FilePages.release
    monkeypatch.setattr(FilePages, "release", lambda pages: released.append(pages) or release(pages))
    judge, kept = load_second_look(files[1], files[0], make_species(2)), new_volume(SHAPE, 1e-5)
    kept[:] = noise(1)
    assert np.array_equal(judge.log_odds(kept, PLACES), judge.log_odds(np.array(kept), PLACES))
    crops = [pages for pages in released if pages is released[-1]]
    assert len(crops) == len(PLACES)


def test_few_batches_are_judged_at_once_however_many_threads_there_are(files, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "scripts.picking.second_look.in_threads",
        lambda answer_of, items, workers: asked.append(workers) or [answer_of(item) for item in items],
    )
    monkeypatch.setattr("torch.get_num_threads", lambda: 64)
    load_second_look(files[1], files[0], make_species(2)).log_odds(noise(1), PLACES)
    assert asked == [2]


def test_what_lies_beyond_the_mask_does_not_count(files):
    look = load_second_look(files[1], files[0], make_species(2))
    volume = noise(1)
    before = look.log_probabilities(torch.from_numpy(volume[None, 1:10, 4:13, 6:15]))
    volume[1, 4, 6] += 5  # in the corner of the crop, 7 voxels away: the mask is 4 voxels large
    after = look.log_probabilities(torch.from_numpy(volume[None, 1:10, 4:13, 6:15]))
    assert torch.allclose(before, after, atol=0.01)


def test_the_network_sees_masked_crops(files):
    look, seen = load_second_look(files[1], files[0], make_species(2)), []
    look.network = lambda crops: seen.append(crops) or torch.zeros(len(crops), 3)
    cut = torch.ones(1, 9, 9, 9)  # the mask has a radius of 4 voxels
    look.log_probabilities(cut)
    assert [len(crops) for crops in seen] == [1, 1]  # two copies
    for crops in seen:
        assert crops[0, 0, 4, 4, 4] > 0.99
        assert crops[0, 0, 0, 0, 0] < 0.02
        assert torch.equal(crops[0, 0], look.crop_shape.mask())


def test_turned_copies_are_averaged():
    network = tiny_classifier().eval()
    cut = torch.from_numpy(noise(shape=(3, 9, 9, 9)))
    one, two = (SecondLook(network, CropShape(8, 0.0), None, copies=number) for number in (1, 2))
    turned = torch.rot90(cut, 2, (2, 3))
    mean = (one.log_probabilities(cut) + one.log_probabilities(turned)) / 2
    assert torch.allclose(two.log_probabilities(cut), mean.log_softmax(dim=1), atol=1e-5)
    with pytest.raises(InputError, match="second_look_copies is a whole number from 1 to 8; got 9"):
        SecondLook(network, CropShape(8, 0.0), None, copies=9)


@pytest.mark.parametrize("copies", [0, 2.0, "two", None])
def test_auto_does_not_fall_back_on_the_first_network_for_a_setting_that_cannot_be(copies, files):
    with pytest.raises(InputError, match=f"second_look_copies is a whole number from 1 to 8; got {copies!r}"):
        find(files, "auto", copies=copies)


def test_no_places_give_no_probabilities(files):
    look = load_second_look(files[1], files[0], make_species(2))
    found, warning = look.judge(noise(), Proposals(np.zeros((0, 3)), np.zeros((0, 2), np.float32)))
    assert found.shape == (0, 2)
    assert warning is None


def test_auto_takes_the_second_look_beside_the_weights(files):
    assert find(files, "auto") is not None
    assert find(files, "auto", has_network=False) is None
    assert find(files, "auto", probability_thresholds={"a": 0.5}) is None
    assert find(files, False) is None
    files[1].unlink()
    assert find(files, "auto") is None


@pytest.mark.parametrize("wanted", [True, "auto"])
def test_a_second_look_that_is_wanted_or_named_must_be_there_and_of_these_weights(wanted, files):
    with pytest.raises(InputError, match=r"none\.pt: no such file\. Set second_look to false, or train one: python"):
        find(files, wanted, path=files[1].with_name("none.pt"))
    other = write_weights(files[0].with_name("other.pt"), tiny_network(seed=3))
    with pytest.raises(InputError, match="was trained on the candidates of other weights than"):
        find(files, wanted, path=files[1], checkpoint_path=other)


def test_a_second_look_that_is_wanted_takes_no_thresholds(files):
    with pytest.raises(InputError, match="thresholds are for the first network's scores: leave them out and set oper"):
        find(files, True, probability_thresholds={"a": 0.5})
    with pytest.raises(InputError, match="second_look is auto, true or false; got 'yes'"):
        find(files, "yes")


def test_a_second_look_for_other_weights_is_refused_and_auto_warns(files):
    other = write_weights(files[0].with_name("other.pt"), tiny_network(seed=3))
    with pytest.raises(
        InputError, match=r"was trained on the candidates of other weights than .*other\.pt\. Set second"
    ):
        find(files, True, checkpoint_path=other)
    with pytest.warns(InputWarning, match=r"There is no second look: .* other weights than"):
        assert find(files, "auto", checkpoint_path=other) is None


def test_a_second_look_for_other_species_or_voxels_is_refused(files):
    with pytest.raises(InputError, match="was trained on 2 species, a, b; the species file has 3"):
        find(files, True, species_set=make_species(3))
    with pytest.raises(InputError, match="was trained on voxels of 10 Å, the species file has 5 Å"):
        find(files, True, species_set=make_species(2, voxel_size_angstrom=5.0))


def test_weights_that_are_no_second_look_are_refused(files):
    with pytest.raises(InputError, match=r"model\.pt is no second look: its card has no first_network_sha256"):
        find(files, True, path=files[0])
    card = read_card(files[1])
    write_card(files[1], {**card, "calibration": {"fitted_on": ["run"]}})
    with pytest.raises(InputError, match=r"second_look\.pt: its card is damaged, or of an earlier version: 'a'\. Copy"):
        find(files, True)


def test_in_an_unfamiliar_tomogram_the_calibration_is_half_trusted(files):
    calibrated = load_second_look(files[1], files[0], make_species(2))
    away = Familiarity.learn(*[np.random.default_rng(0).normal(50, 1, (20, len(STATISTICS)))] * 2)
    look = SecondLook(tiny_classifier(), CropShape(8, 0.0), calibrated.calibration, away)
    volume, logits = noise(1), np.array([[3.0, -3], [0, -9], [-1, 9]])
    found, warning = look.judge(volume, Proposals(PLACES, logits))
    log_odds = look.log_odds(volume, PLACES)
    trusted = look.calibration.probabilities(logits, log_odds, max(visibility_of(volume, 10.0), 49))
    joint = 1 / (1 + np.exp(-logits)) / (1 + np.exp(-log_odds))
    odds = np.sqrt(trusted / (1 - trusted) * joint / (1 - joint))
    assert np.allclose(found, odds / (1 + odds), atol=1e-4)
    assert warning


def test_where_particles_are_too_faint_the_calibration_still_counts_and_a_warning_says_so(files):
    weights = np.array([[1.0, 1, 0, 0, 0, 0, 2, 1], [0, 1, 0, 0, 0, 0, -1, 0]])
    near = np.random.default_rng(0).normal(0, 100, (20, len(STATISTICS)))  # so different that nothing is unfamiliar
    near[:, VISIBILITY] = np.tile([0.0, 300.0], 10)
    look = SecondLook(tiny_classifier(), CropShape(8, 0.0), Calibration(weights), Familiarity.learn(near, near))
    volume, logits = noise(1), np.array([[3.0, -3], [0, -9], [-1, 9]])
    found, warning = look.judge(volume, Proposals(PLACES, logits))
    log_odds, calibration = look.log_odds(volume, PLACES), Calibration(weights)
    assert np.allclose(found, calibration.probabilities(logits, log_odds, visibility=0.0))  # as the faintest known ones
    assert warning.startswith("hardly anything stands out of the noise: visibility -")
    near[:, VISIBILITY] -= 300
    look = SecondLook(tiny_classifier(), CropShape(8, 0.0), calibration, Familiarity.learn(near, near))
    found, warning = look.judge(volume, Proposals(PLACES, logits))
    visibility = visibility_of(volume, look.crop_shape.voxel_size_angstrom)
    assert np.allclose(found, calibration.probabilities(logits, log_odds, visibility))
    assert warning is None
