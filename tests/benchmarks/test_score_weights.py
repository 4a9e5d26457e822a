"""Weights, ensembles and finders are scored side by side."""

import csv
import json

import pytest
from networks import score
from scripts.picking.blobs import Blobs
from scripts.picking.peaks import Peaks
from scripts.species import read_species
from scripts.training.heat_maps import HeatMaps
from synthetic import make_species, tiny_network, write_weights


@pytest.fixture
def words(write_spheres, tmp_path):
    """Return a command line with three models: two networks of unlike targets, and their ensemble."""
    dataset_dir = write_spheres(["fit", "test"], {"apo-ferritin": [(6, 9, 11), (13, 20, 30), (10, 20, 9), (9, 8, 27)]})
    species = read_species(score.BENCHMARKS.parent / "bundle" / "configs" / "species.json")
    for seed, (name, painter) in enumerate({"a": None, "b": HeatMaps(sigma_angstrom=60.0)}.items()):
        network = tiny_network(seed=seed, out_channels=5)
        write_weights(tmp_path / f"{name}.pt", network, species, painter)
    return [
        *("--dataset_dir", str(dataset_dir), "--validation_runs", "fit", "--test_runs", "test"),
        *("--output_dir", str(tmp_path / "out"), "--settings", '{"device": "$torch.device(\'cpu\')"}', "--models"),
        *(f"a={tmp_path / 'a.pt'}", f"both={tmp_path / 'a.pt'},{tmp_path / 'b.pt'}"),
    ]


@pytest.mark.filterwarnings("ignore:.*keeps the threshold")
def test_every_ensemble_and_finder_is_a_row_and_what_is_there_stays(words, tmp_path):
    assert score.main([*words, "--ensembles", "mean,rank", "--finders", "Blobs,Peaks"]) == 0
    with open(tmp_path / "out" / "scores.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["model"], row["ensemble"], row["finder"]) for row in rows] == [
        ("a", "one", "Blobs"), ("a", "one", "Peaks"), ("both", "mean", "Blobs"), ("both", "mean", "Peaks"),
        ("both", "rank", "Blobs"), ("both", "rank", "Peaks"),
    ]  # fmt: skip
    assert int(rows[2]["parameters"]) == 2 * int(rows[0]["parameters"])
    result = json.loads((tmp_path / "out" / "a_one_Blobs" / "result.json").read_text())
    assert float(rows[0]["f1"]) == result["f1"]["scores"]["f1"]
    assert int(rows[0]["wrong_at_f4"]) == result["f4"]["scores"]["wrong"]
    times = {path: path.stat().st_mtime_ns for path in tmp_path.glob("out/*/result.json")}
    assert score.main([*words, "--ensembles", "mean,rank"]) == 0
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("out/*/result.json")} == times


def test_each_row_has_its_own_finder_and_ensemble(words, monkeypatch):
    asked = []

    def look(plan, network, chosen, folder):
        asked.append((type(plan.parser().get_parsed_content("finder")), getattr(network, "combination", None)))
        return empty

    scores = {
        "f4": {"one_to_one": {"total": 0.5}},
        "wrong": 1,
        "picks": 2,
        **dict.fromkeys(("precision", "recall", "f1"), 0.5),
    }
    empty = {"f1": {"scores": scores}, "f4": {"scores": scores}, "seconds_per_tomogram": 1.0}
    monkeypatch.setattr(score, "fit_and_score", look)
    assert score.main([*words, "--ensembles", "mean,rank", "--finders", "Blobs,Peaks"]) == 0
    assert asked == [(finder, combination) for combination in (None, "mean", "rank") for finder in (Blobs, Peaks)]


def test_seconds_are_those_of_the_clock_that_is_asked_for(words, monkeypatch):
    plans = []
    monkeypatch.setattr(score, "score_all", lambda plan, *rest: plans.append(plan))
    monkeypatch.setattr(score.Path, "read_text", lambda path: "")
    assert score.main([*words, "--clock", "processor"]) == 0
    assert (plans[0].clock, plans[0].unit) == ("processor", "seconds")


def test_results_of_other_weights_or_runs_are_refused(words, tmp_path, monkeypatch, capsys):
    result = tmp_path / "out" / "a_one_Blobs" / "result.json"
    result.parent.mkdir(parents=True)
    result.write_text('{"conditions": {"test_runs": ["learn"]}}')
    assert score.main(words) == 1
    assert "result.json was made under other conditions: " in capsys.readouterr().err


def test_weights_of_other_species_are_refused(words, tmp_path, capsys):
    write_weights(tmp_path / "a.pt", tiny_network(out_channels=5), make_species(5, voxel_size_angstrom=10.012))
    assert score.main(words) == 1
    assert "a.pt" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--ensembles", "median"], "unknown median; known are mean, rank."),
        (["--finders", "Maxima"], "unknown Maxima; known are Blobs, Peaks."),
        (["--models", "a.pt"], "--models a.pt: write a name and its files, such as both=a.pt,b.pt."),
        (["--models", "a=missing.pt"], "missing.pt"),
    ],
)
def test_a_wrong_option_is_refused_in_one_line(words, more, message, capsys):
    assert score.main([*words, *more]) == 1
    assert message in capsys.readouterr().err
