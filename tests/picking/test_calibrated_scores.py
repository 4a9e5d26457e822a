import json

import numpy as np
import pytest
from scripts.backends.torchscript import export_torchscript
from scripts.errors import InputError, InputWarning
from scripts.picking.calibrated_scores import CalibratedScores, load_calibration, write_calibration
from scripts.picking.calibration import Calibration
from scripts.picking.proposals import Proposals
from scripts.picking.second_look import find_second_look
from synthetic import make_species, tiny_network, write_weights

CALIBRATION = Calibration(np.array([[0.5, 0, 0, 0, 0, 0, 0, -1], [0, 1, 0, 0, 0, 0, 0, 0]]), ("one", "two"))


@pytest.fixture
def weights(tmp_path):
    return [write_weights(tmp_path / f"{seed}.pt", tiny_network(seed)) for seed in range(2)]


@pytest.fixture
def path(weights, tmp_path):
    write_calibration(tmp_path / "calibration.json", CALIBRATION, ["a", "b"], weights, {})
    return tmp_path / "calibration.json"


def test_probabilities_follow_from_the_logits_alone():
    logits = np.array([[2.0, 1.0], [-4, 0]], dtype=np.float32)
    found, warning = CalibratedScores(CALIBRATION).judge(None, Proposals(np.zeros((2, 3)), logits))
    assert found == pytest.approx(1 / (1 + np.exp(-np.array([[0, 1], [-3, 0]]))))
    assert warning is None


def test_a_file_is_for_one_of_its_networks_and_for_several(path, weights, species_set):
    for given in (weights[0], weights):
        found = find_second_look("auto", None, given, species_set, calibration_path=path)
        assert isinstance(found, CalibratedScores)
        assert found.calibration.weights.tolist() == CALIBRATION.weights.tolist()


def test_a_file_is_for_exports_of_its_networks(path, weights, species_set, tmp_path):
    other = write_weights(tmp_path / "other.pt", tiny_network(3))
    for exported, source in (("0.ts", weights[0]), ("other.ts", other)):
        export_torchscript(tiny_network(), source, tmp_path / exported)
    assert isinstance(load_calibration(path, tmp_path / "0.ts", species_set), CalibratedScores)
    with pytest.raises(InputError, match=r"was not fitted for .*other\.ts"):
        load_calibration(path, tmp_path / "other.ts", species_set)


def test_species_that_are_not_calibrated_are_named(weights, species_set, tmp_path):
    write_calibration(tmp_path / "some.json", CALIBRATION, ["a", "b"], weights, {"b": "2 true particles"})
    with pytest.warns(InputWarning, match="the probability of b is not calibrated: 2 true particles"):
        load_calibration(tmp_path / "some.json", weights, species_set)


def test_other_weights_and_species_and_damaged_files_are_refused(path, weights, species_set, tmp_path):
    other = write_weights(tmp_path / "other.pt", tiny_network(3))
    with pytest.raises(InputError, match=r"was not fitted for .*other\.pt: leave calibration_path out"):
        load_calibration(path, [weights[0], other], species_set)
    with pytest.raises(InputError, match=r"is no calibration of these species: KeyError\('c'\)"):
        load_calibration(path, weights, make_species(3))
    with pytest.raises(InputError, match=r"cannot read .*none\.json: No such file or directory"):
        load_calibration(tmp_path / "none.json", weights, species_set)
    path.write_text(json.dumps(json.loads(path.read_text())["calibration"]))
    with pytest.raises(InputError, match="is no calibration"):
        load_calibration(path, weights, species_set)


@pytest.mark.parametrize(
    "given", [{"wanted": True}, {"probability_thresholds": {"a": 0.5}}, {"checks_first": False}], ids=str
)
def test_it_takes_the_place_of_a_second_look(given, path, weights, species_set):
    with pytest.raises(InputError, match="calibration_path takes the place of a second look"):
        find_second_look(
            **{"wanted": "auto", **given},
            path=None,
            checkpoint_path=weights[0],
            species_set=species_set,
            calibration_path=path,
        )
