"""The command that makes a second look, and what takes it."""

import csv
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ignite.engine import Events
from monai.bundle import ConfigWorkflow
from monai.data import Dataset
from scripts.errors import InputWarning
from scripts.handlers.second_look import WriteReliability, judge_tomograms, warn_of_used_runs
from scripts.networks.model_card import read_card, sha256_of
from scripts.networks.weights import read_tensors
from scripts.picking.candidates import Candidates
from scripts.picking.operating_point import OperatingPoint
from scripts.picking.proposals import Proposals
from scripts.picking.second_look import find_second_look
from scripts.picking.stored_proposals import write_proposals
from scripts.picks import Pick, read_csv, write_csv
from scripts.records import first_difference
from scripts.volumes.labels import draw_spheres
from synthetic import box_mask, make_species, noise, run_engine, sample_of, tiny_network, write_mrc, write_weights

pytestmark = pytest.mark.filterwarnings("ignore:.*is not calibrated")  # 9 particles of each species
RUNS, SHAPE = ("one", "two", "three"), (32, 48, 56)
NAMES = ("a", "b")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Return a folder of three tomograms with truth, and weights of a first network that proposes bright places."""
    folder, picks = tmp_path_factory.mktemp("dataset"), []
    for seed, run in enumerate(RUNS):
        places = np.argwhere(np.ones((2, 3, 3))) * 14 + 9
        volume = noise(seed, SHAPE) + 3 * (draw_spheres(SHAPE, places[::2], 3) + draw_spheres(SHAPE, places[1::2], 2))
        write_mrc(folder / f"{run}.mrc", volume)
        for number, (z, y, x) in enumerate((10.0 * places).tolist()):
            picks.append(Pick(run, NAMES[number % 2], x, y, z))
    write_csv(folder / "truth.csv", picks)
    network = tiny_network()
    with torch.no_grad():
        network.head.weight.mul_(20)
        network.head.bias.fill_(-2)
    write_weights(folder / "weights" / "model.pt", network, make_species(2))
    return folder


def workflow(bundle_dir, dataset, kind, configs, output, **changes):
    made = ConfigWorkflow(
        config_file=[str(bundle_dir / "configs" / name) for name in configs], workflow_type=kind, logging_file=False,
        bundle_root=str(bundle_dir), dataset_dir=str(dataset), output_dir=str(output), backend="torch",
        checkpoint_path=str(dataset / "weights" / "model.pt"), device=torch.device("cpu"),
        **{"precision": "float32", **changes},
    )  # fmt: skip
    made.initialize()
    return made


def second_look_workflow(bundle_dir, dataset, output, **changes):
    given = {
        "validation_runs": ["three"], "epochs": 1, "windows_per_epoch": 32, "batch_size": 16, "crop_size": 8,
        "mask_radius_angstrom": 40.0, "network_def#widths": [4, 4], "network_def#depths": [1, 1],
    }  # fmt: skip
    configs = ["train.json", "second_look.json"]
    return workflow(bundle_dir, dataset, "train", configs, output, **{**given, **changes})


def make_second_look(bundle_dir, dataset, output, **changes):
    second_look_workflow(bundle_dir, dataset, output, **changes).run()


@pytest.fixture(scope="module")
def made(bundle_dir, dataset, tmp_path_factory):
    """Return the folder with a second look, which stands beside the weights too."""
    output = tmp_path_factory.mktemp("second_look")
    with pytest.warns(
        InputWarning, match=r"second_look\.pt: the probability of b is not calibrated: \d true particles"
    ):
        make_second_look(bundle_dir, dataset, output)
    for name in ("second_look.pt", "second_look.json"):
        (dataset / "weights" / name).write_bytes((output / name).read_bytes())
    return output


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_the_command_writes_a_second_look_with_its_card(made, dataset):
    card = read_card(made / "second_look.pt")
    assert card["first_network_sha256"] == sha256_of(dataset / "weights" / "model.pt")
    assert card["crop"] == {"size_voxels": 8, "mask_radius_angstrom": 40.0, "voxel_size_angstrom": 10.0}
    assert card["calibration"]["fitted_on"] == ["three"]
    assert set(card["calibration"]) == {"fitted_on", *NAMES}
    assert "true particles among its candidates, at least 10 needed" in card["not_calibrated"]["b"]
    assert len(card["familiarity"]["rows"]) == 3
    assert card["network_def"]["classes"] == 3
    assert card["trained_on"] == ["one", "two"]
    assert (made / "reliability.png").stat().st_size > 1000
    (proposals,) = {path.parent for path in (made / "proposals").rglob("*.npz")}
    assert len(list(proposals.iterdir())) == 3


def test_runs_that_the_first_network_was_trained_on_are_named(tmp_path):
    weights = write_weights(tmp_path / "model.pt", tiny_network(), make_species(2), trained_on=["one", "two", "other"])
    runs = [{"run": name} for name in ("three", "two", "one", "two")]
    known = r"model\.pt was trained on one, two"
    with pytest.warns(InputWarning, match=f"{known}: hardly any of its mistakes are there to learn from"):
        warn_of_used_runs(runs, runs[:1], weights)
    with pytest.warns(InputWarning, match=f"{known}: probabilities that are fitted on them are too high"):
        warn_of_used_runs(runs[:1], runs, weights)
    warn_of_used_runs(runs[:1], runs[:1], weights)


def test_one_that_was_stopped_before_its_calibration_is_calibrated_without_training_again(made, dataset, bundle_dir):
    done = [made / "training.pt", made / "model_last.pt", *(made / "proposals").rglob("*.npz")]
    before, card = [path.stat().st_mtime_ns for path in done], read_card(made / "second_look.pt")
    (made / "second_look.pt").unlink()
    (made / "second_look.json").unlink()
    with pytest.warns(InputWarning, match="is not calibrated"):
        make_second_look(bundle_dir, dataset, made)
    assert [path.stat().st_mtime_ns for path in done] == before
    assert read_card(made / "second_look.pt") == card


def test_one_that_was_stopped_in_its_training_ends_with_the_weights_of_one_that_was_not(dataset, bundle_dir, tmp_path):
    for name, stops in (("whole", [None]), ("parts", [2, None])):
        for stop in stops:
            made = second_look_workflow(bundle_dir, dataset, tmp_path / name, epochs=4)
            trainer = made.parser.get_parsed_content("train#trainer")
            if stop:
                trainer.add_event_handler(Events.EPOCH_COMPLETED(once=stop), trainer.terminate)
            made.run()
    assert made.parser.get_parsed_content("network_def").dropout.p == 0.2
    whole, parts = (read_tensors(tmp_path / name / "model_last.pt") for name in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("rotations", 2), ("flips", ["z"]), ("inference_window_size", [16, 24, 24]), ("precision", "bfloat16"),
        ("validate#postprocessing#transforms#0#lowest_logit", -4.0),
    ],
)  # fmt: skip
def test_what_was_proposed_with_other_settings_is_proposed_again(setting, value, dataset, bundle_dir, tmp_path):
    paths, records = [], []
    for changes in ({}, {"num_workers": 1}, {setting: value}):
        parser = second_look_workflow(bundle_dir, dataset, tmp_path, **changes).parser
        paths.append({item["proposals_path"] for item in parser.get_parsed_content("proposed_training")})
        records.append(parser.get_parsed_content("train#handlers#7").built)
    assert paths[0] == paths[1]
    assert paths[0].isdisjoint(paths[2])
    assert first_difference(*records[:2]) is None
    assert first_difference(records[0]["proposing"], records[2]["proposing"])


def test_inference_takes_the_second_look_beside_the_weights(made, dataset, bundle_dir, tmp_path):
    workflow(bundle_dir, dataset, "infer", ["inference.json"], tmp_path, operating_point={"recall": 0.5}).run()
    picks = read_csv(tmp_path / "picks.csv")
    assert picks
    assert all(0 <= pick.score <= 1 and 0 <= pick.network_score <= 1 for pick in picks)
    record = json.loads((tmp_path / "one" / "run.json").read_text())
    assert {row["operating_point"] for row in record["expected"].values()} == {"recall 0.5"}
    assert sum(row["picks"] for row in record["expected"].values()) == sum(record["picks"].values())
    settings = json.dumps(record["settings"])
    assert sha256_of(made / "second_look.pt") in settings
    page = (tmp_path / "one" / "report.html").read_text()
    assert '"judged":true' in page
    assert '"candidates":true' in page
    (row, *_) = rows_of(tmp_path / "summary.csv")
    assert int(row["expected_right"]) <= int(row["picks"])


@pytest.mark.filterwarnings("ignore:.*lies above the threshold")  # a network that has hardly learned
def test_without_it_picks_are_the_first_networks(made, dataset, bundle_dir, tmp_path):
    workflow(bundle_dir, dataset, "infer", ["inference.json"], tmp_path, second_look=False).run()
    assert all(np.isnan(pick.network_score) for pick in read_csv(tmp_path / "picks.csv"))
    assert json.loads((tmp_path / "one" / "run.json").read_text())["expected"] is None


@pytest.mark.filterwarnings("ignore:.*lies above the threshold", "ignore:.*keeps the threshold")
def test_an_operating_point_that_nothing_is_chosen_by_is_said(made, dataset, bundle_dir, tmp_path):
    settings = {"second_look": False, "operating_point": {"precision": 0.9}}
    with pytest.warns(
        InputWarning, match=r"operating_point \{'precision': 0.9\} changes nothing: it needs a second look"
    ):
        workflow(bundle_dir, dataset, "infer", ["inference.json"], tmp_path, **settings).run()
    configs = ["train.json", "evaluate.json"]
    settings |= {"validation_runs": ["three"], "sweep_thresholds": [0.5]}
    with pytest.warns(InputWarning, match="changes nothing: it needs a second look"):
        workflow(bundle_dir, dataset, "train", configs, tmp_path / "scores", **settings).run()


def test_evaluation_says_what_was_asked_and_what_came(made, dataset, bundle_dir, tmp_path):
    configs = ["train.json", "evaluate.json"]
    settings = {"validation_runs": ["three"], "sweep_thresholds": [0.5]}
    with pytest.warns(InputWarning, match=r"learned from \(calibration in .*second_look\.json: three\)"):
        workflow(bundle_dir, dataset, "train", configs, tmp_path, **settings).run()
    points = rows_of(tmp_path / "operating_points.csv")
    assert [row["operating_point"] for row in points[::3]] == ["F1", "F4", "precision 0.9", "recall 0.95"]
    assert [row["species"] for row in points[:3]] == ["a", "b", "total"]
    assert int(points[0]["truths"]) + int(points[1]["truths"]) == int(points[2]["truths"]) == 18
    assert [row["species"] for row in rows_of(tmp_path / "reliability.csv")] == list(NAMES)
    assert not (tmp_path / "thresholds.json").exists()  # they are for the first network's scores


def test_only_candidates_in_the_region_are_compared_with_the_truth(tmp_path):
    sample = sample_of([(1, 6, 9, 11)], [])
    centres = np.array([[6.0, 9, 11], [13, 20, 34]])  # the second one lies outside of the box
    found = Candidates(centres, np.array([0.9, 0.8]), np.ones(2, dtype=np.int64))
    sample |= {"candidates": {"a": found, "b": found.only(np.zeros(2, dtype=bool))}}
    wrong = {}
    box = torch.from_numpy(box_mask((slice(4, 11), slice(4, 14), slice(6, 20)))[None])
    for name, region in (("whole", None), ("box", box)):
        (tmp_path / name).mkdir()
        run_engine([sample | {"region": region}], WriteReliability(str(tmp_path / name), make_species(2)))
        row = rows_of(tmp_path / name / "operating_points.csv")[0]
        wrong[name] = row["picks"], row["wrong"], row["precision"]
    assert wrong == {"whole": ("2", "1", "0.5000"), "box": ("1", "0", "1.0000")}


def test_fitting_thresholds_leaves_the_second_look_out(made, dataset, bundle_dir, tmp_path):
    made_workflow = workflow(
        bundle_dir, dataset, "train", ["train.json", "evaluate.json"], tmp_path, record_thresholds=True,
        validation_runs=["three"],
    )  # fmt: skip
    assert made_workflow.parser.get_parsed_content("judge") is None


def test_a_species_that_is_not_calibrated_is_named_whenever_the_second_look_is_used(made, dataset):
    weights = dataset / "weights" / "model.pt"
    with pytest.warns(InputWarning, match=r"the probability of b is not calibrated: \d true particles"):
        find_second_look(True, made / "second_look.pt", weights, make_species(2))


def test_without_runs_to_calibrate_on_it_is_refused(dataset, bundle_dir, tmp_path):
    with pytest.raises(RuntimeError) as caught:
        make_second_look(bundle_dir, dataset, tmp_path, validation_runs=["four"])
    assert "holds no run four; it holds one, three, two" in str(caught.value.__cause__)


DOUBTS = {"doubtful": torch.tensor([[1, 13, 20, 30, float("nan")]]), "is_complete": torch.tensor([True, False])}


def test_candidates_of_which_the_truth_does_not_tell_are_not_compared_with_it(tmp_path):
    centres = np.array([[6.0, 9, 11], [13, 20, 30]])
    found = Candidates(centres, np.array([0.9, 0.8]), np.ones(2, dtype=np.int64))
    sample = sample_of([(1, 6, 9, 11)], []) | {"candidates": {"a": found, "b": found}} | DOUBTS
    run_engine([sample], WriteReliability(str(tmp_path), make_species(2)))
    rows = rows_of(tmp_path / "operating_points.csv")
    assert [(row["picks"], row["wrong"]) for row in rows[:2]] == [("1", "0"), ("0", "0")]


def test_an_operating_point_is_chosen_by_all_candidates_as_picking_does(tmp_path):
    """The F1 point of nine likely ones, of which the truth does not tell, leaves the unlikely one out."""
    centres = np.array([[6.0, 9, 11], [6, 20, 11], *[[13.0, 20, 3 * x] for x in range(9)]])
    found = Candidates(centres, np.array([0.9, 0.4, *[0.99] * 9]), np.ones(11, dtype=np.int64))
    doubtful = torch.tensor([[1, *centre, float("nan")] for centre in centres[2:]])
    sample = sample_of([(1, 6, 9, 11)], [])
    sample |= {"candidates": {"a": found, "b": found.only(np.zeros(11, dtype=bool))}, "doubtful": doubtful}
    run_engine([sample], WriteReliability(str(tmp_path), make_species(2)))
    row = rows_of(tmp_path / "operating_points.csv")[0]
    assert (row["operating_point"], row["picks"], row["wrong"]) == ("F1", "1", "0")
    lowest = [OperatingPoint("f", 1.0).lowest_probability(scores) for scores in (found.scores, found.scores[:2])]
    assert lowest == [0.9, 0.4]


def test_probabilities_are_not_fitted_on_candidates_of_which_the_truth_does_not_tell(tmp_path):
    class Answers:
        def log_odds(self, volume, places):
            return np.zeros((len(places), 2))

    proposals = Proposals(np.array([[6.0, 9, 11], [13, 20, 30], [3, 20, 5]]), np.zeros((3, 2)))
    write_proposals(tmp_path / "one.npz", proposals)
    sample = sample_of([(1, 6, 9, 11)], []) | {"run": "one", "proposals_path": str(tmp_path / "one.npz")}
    kept = []
    for known in ({}, DOUBTS):
        (judged,) = judge_tomograms(Dataset([sample | known]), Answers(), make_species(2), 1.0)
        assert judged.is_right[:, 0].tolist() == [True, False, False]
        kept.append(judged.is_kept.T.tolist())
    assert kept == [[[True] * 3] * 2, [[True, False, True], [False] * 3]]


def test_probabilities_are_not_fitted_where_not_all_particles_of_the_species_are_annotated(tmp_path):
    answers = SimpleNamespace(log_odds=lambda volume, places: np.zeros((len(places), 2)))
    write_proposals(tmp_path / "one.npz", Proposals(np.array([[6.0, 9, 11]]), np.zeros((1, 2))))
    sample = sample_of([(1, 6, 9, 11), (2, 6, 9, 11)], []) | {"run": "one", "proposals_path": str(tmp_path / "one.npz")}
    sample["is_complete"] = torch.tensor([True, False])
    (judged,) = judge_tomograms(Dataset([sample]), answers, make_species(2), 1.0)
    assert judged.is_right.tolist() == [[True, True]]
    assert judged.is_kept.tolist() == [[True, False]]
