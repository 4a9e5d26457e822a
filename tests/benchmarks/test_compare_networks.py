"""The comparison of networks, on small tomograms and for seconds."""

import csv
import json
from math import cos, pi
from time import perf_counter, sleep
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from monai.optimizers import WarmupCosineSchedule
from networks import clocks, compare, definitions, training
from scripts.errors import InputError
from scripts.training.windows import mean_of_cubes
from scripts.volumes.labels import draw_spheres
from synthetic import SHAPE, BrightBlobs, noise, write_mrc

VOXEL_SIZE = 10.012
CENTRES = [(6, 9, 11), (13, 20, 30), (10, 20, 9), (9, 8, 27)]
SMALL = {
    "network_def#depths": [1, 1, 1, 1],
    "window_size": [16, 16, 16],
    "inference_window_size": [20, 28, 28],
    "windows_per_epoch": 4,
    "device": "$torch.device('cpu')",
}
WIDTHS = [8, 16, 16, 16]


@pytest.fixture
def dataset_dir(tmp_path):
    """Four runs that show apo-ferritin; the truth of run 'wrong' names other places."""
    rows = ["id,experiment,particle_type,x,y,z"]
    for seed, run in enumerate(["learn", "fit", "score", "wrong"]):
        volume = noise(seed) + 6 * draw_spheres(SHAPE, CENTRES, radius_vox=3)
        write_mrc(tmp_path / "data" / run / "tomogram.mrc", volume, VOXEL_SIZE)
        points = np.array(CENTRES)[:, ::-1] * VOXEL_SIZE / (2 if run == "wrong" else 1)
        rows += [f"0,{run},apo-ferritin,{x},{y},{z}" for x, y, z in points]
    (tmp_path / "data" / "truth.csv").write_text("\n".join(rows))
    return tmp_path / "data"


@pytest.fixture
def plan_for(dataset_dir, tmp_path):
    """Return a plan with the given test run."""

    def make(test_run="score", **settings):
        settings = {**SMALL, "network_def#widths": WIDTHS, **settings}
        return definitions.Plan(str(dataset_dir), ("fit",), (test_run,), 2.0, tmp_path / "out", settings)

    return make


def arguments(dataset_dir, output_dir, **replaced):
    options = {
        "dataset_dir": dataset_dir,
        "validation_runs": "fit",
        "test_runs": "score",
        "budget_seconds": 0.5,
        "seeds": "0,1",
        "networks": "ours,unet",
        "widths": ",".join(map(str, WIDTHS)),
        "settings": json.dumps(SMALL),
        "output_dir": output_dir,
        **replaced,
    }
    return [part for key, value in options.items() for part in (f"--{key}", str(value))]


@pytest.mark.filterwarnings("ignore:.*keeps the threshold")
def test_a_comparison_writes_results_and_tables_and_goes_on_where_it_stopped(
    dataset_dir, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(training, "PROBE_SECONDS", 0.0)
    output = tmp_path / "out"
    assert compare.main(arguments(dataset_dir, output)) == 0
    results = {path.name: json.loads(path.read_text()) for path in output.glob("*.json")}
    assert set(results) == {f"{name}_seed{seed}.json" for name in ("ours", "unet") for seed in (0, 1)}
    for result in results.values():
        assert result["steps"] >= 1
        assert result["training_seconds"] >= 0.5
        assert result["f4"]["scores"]["f4"]["kaggle"]["total"] <= 1
        assert result["f4"]["thresholds"] == json.loads(
            (output / f"{result['network']}_seed{result['seed']}" / "validation" / "thresholds.json").read_text()
        )
    assert results["unet_seed0.json"]["parameters"] == 1_114_150
    assert results["unet_seed0.json"]["format"] == results["unet_seed1.json"]["format"]

    with open(output / "comparison.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["network"], row["seeds"]) for row in rows] == [("ours", "2"), ("unet", "2")]
    page = (output / "comparison.md").read_text()
    assert "Each network trained for 0.5 seconds" in page
    assert len([line for line in page.splitlines() if line.startswith("| ")]) == 4

    times = {path.name: path.stat().st_mtime_ns for path in output.glob("*seed1.json")}
    (output / "ours_seed0.json").unlink()
    assert compare.main(arguments(dataset_dir, output)) == 0
    assert (output / "ours_seed0.json").exists()
    assert {path.name: path.stat().st_mtime_ns for path in output.glob("*seed1.json")} == times

    (output / "comparison.md").unlink()
    assert compare.main(["--only_table", "--output_dir", str(output)]) == 0
    assert (output / "comparison.md").read_text().splitlines()[2:4] == page.splitlines()[2:4]

    capsys.readouterr()
    assert compare.main(arguments(dataset_dir, output, budget_seconds=3)) == 1
    assert "was made with budget_seconds 0.5, now it is 3.0: set another output_dir" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore:.*keeps the threshold")
def test_thresholds_are_fitted_on_the_validation_runs_alone_however_few_they_hold(plan_for, tmp_path):
    right, wrong = (
        training.fit_and_score(plan_for(run), BrightBlobs(), "float32, contiguous", tmp_path / run)
        for run in ("score", "wrong")
    )
    for point in ("f1", "f4"):
        assert right[point]["thresholds"] == wrong[point]["thresholds"]
        assert right[point]["thresholds"]["apo-ferritin"] != 0.5
        assert right[point]["thresholds"]["ribosome"] == 0.5  # nothing to fit on
        assert right[point]["scores"]["f4"]["one_to_one"]["apo-ferritin"] == 1.0
        assert wrong[point]["scores"]["f4"]["one_to_one"]["apo-ferritin"] < 0.6
        assert not (tmp_path / "score" / f"test_{point}" / "thresholds.json").exists()
    found = right["f1"]["scores"]
    assert (found["f1"], found["recall"], found["precision"]) == (1.0, 1.0, len(CENTRES) / found["picks"])
    assert found["wrong"] == found["picks"] - len(CENTRES)
    assert right["seconds_per_tomogram"] > 0


def test_species_that_nobody_learns_do_not_count(tmp_path):
    rows = ["mode,species,truths,picks,tp,fp,fn,precision,recall,f1,f4"]
    for mode in ("kaggle", "one_to_one"):
        rows += [f"{mode},a,4,5,3,2,1,0.6,0.75,0.6667,0.74", f"{mode},unlearned,9,0,0,0,9,0,0,0,0"]
        rows += [f"{mode},total,,,,,,,,0.6667,0.74"]
    (tmp_path / "scores.csv").write_text("\n".join(rows))
    found = training.read_scores(tmp_path / "scores.csv", ["a"])
    assert found["f4"] == {mode: {"a": 0.74, "total": 0.74} for mode in ("kaggle", "one_to_one")}
    assert (found["recall"], found["precision"], found["picks"], found["wrong"]) == (0.75, 0.6, 5, 2)


@pytest.mark.parametrize("name", ["ours", "unet", "flexible_unet", "segresnet", "dynunet"])
def test_an_untrained_network_finds_every_voxel_improbable(plan_for, name):
    torch.manual_seed(0)
    network = plan_for().parser(network=name).get_parsed_content("network_def").eval()
    with torch.no_grad():
        answer = network(torch.from_numpy(noise())[None, None])
    stride = 2 if name == "ours" else 1
    assert answer.shape == (1, 5, *(size // stride for size in SHAPE))
    assert answer.mean((0, 2, 3, 4)).sigmoid().tolist() == pytest.approx([1e-3] * 5, rel=2.0)
    assert answer.sigmoid().max() < 0.5


def test_the_bias_of_the_head_is_found_by_what_it_does():
    network = torch.nn.Sequential(torch.nn.Conv3d(1, 5, 1), torch.nn.GELU(), torch.nn.Conv3d(5, 5, 1))
    assert definitions.head_bias(network) is network[2].bias
    network[2].bias = None
    with pytest.raises(ValueError, match="Sequential needs a bias"):
        definitions.head_bias(network)


def test_the_bias_of_a_head_whose_channels_become_voxels_is_found_too():
    class Shuffled(torch.nn.Sequential):
        def forward(self, x):
            channels = super().forward(x)
            return channels.unflatten(1, (5, 4)).mean(2).repeat_interleave(4, dim=2)  # as many voxels as channels were

    network = Shuffled(torch.nn.Conv3d(1, 20, 1), torch.nn.Conv3d(20, 20, 1))
    assert definitions.head_bias(network) is network[1].bias


def test_a_padded_network_is_cropped_to_the_resolution_of_its_answer():
    coarse = torch.nn.AvgPool3d(2)
    coarse.output_stride = 2
    windows = torch.rand(1, 1, 6, 9, 11)
    answer = definitions.PaddedNetwork(coarse, 4)(windows)
    assert answer.shape == (1, 1, 3, 5, 6)
    assert torch.equal(answer[..., :4, :5], coarse(windows))


def test_our_network_is_run_as_without_the_comparison(plan_for):
    network = plan_for().parser().get_parsed_content("network_def")
    for name in ("output_stride", "stride", "depends_on_window", "values_per_voxel"):
        assert getattr(network, name) == getattr(network.network, name)
    assert (network.output_stride, network.depends_on_window) == (2, False)


def test_every_network_gets_the_same_windows(plan_for):
    ours, unet, other = (
        plan_for().parser(network=name, seed=seed, validation_runs=["fit"]).get_parsed_content("train#dataset")[7]
        for name, seed in (("ours", 3), ("unet", 3), ("unet", 4))
    )
    assert torch.equal(ours["image"], unet["image"])
    assert torch.equal(ours["label"], mean_of_cubes(unet["label"], 2))  # ours answers at half of the resolution
    assert not torch.equal(unet["image"], other["image"])


def test_the_processors_clock_stands_while_others_work():
    begun = clocks.CLOCKS["processor"](), clocks.CLOCKS["wall"]()
    sleep(0.5)
    assert clocks.CLOCKS["processor"]() - begun[0] < 0.25
    assert clocks.CLOCKS["wall"]() - begun[1] >= 0.5


@pytest.fixture
def optimizer():
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.4)


@pytest.fixture
def engine():
    """Return what a budget asks of a trainer; its list ``ended`` is filled when the training is ended."""
    ended = []
    state = SimpleNamespace(output=[{"loss": torch.tensor(0.5)}], iteration=4)
    return SimpleNamespace(state=state, ended=ended, terminate=lambda: ended.append(True))


def test_the_learning_rate_follows_the_time_and_the_budget_ends_the_training(optimizer, engine):
    schedule = WarmupCosineSchedule(optimizer, warmup_steps=20, t_total=100)
    budget = clocks.TrainingBudget(100.0, "seconds", schedule, steps=100, name="test")
    rates = []
    for seconds in (10, 60, 200):
        budget.begun = perf_counter() - seconds
        budget.set_learning_rate(engine)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([0.2, 0.2, 0.0], abs=1e-3)

    budget.start(engine)
    budget.count(engine)
    assert not engine.ended
    budget.begun -= 100
    budget.count(engine)
    assert engine.ended == [True]
    assert budget.seconds >= 100


def test_a_budget_of_steps_ends_after_them_whatever_the_time(optimizer, engine):
    schedule = WarmupCosineSchedule(optimizer, warmup_steps=20, t_total=100)
    budget = clocks.TrainingBudget(50, "steps", schedule, steps=100, name="test")
    budget.start(engine)
    budget.begun -= 1000
    rates = []
    for engine.state.iteration in (1, 6, 31, 50):  # counted before the step is made
        budget.set_learning_rate(engine)
        rates.append(optimizer.param_groups[0]["lr"])
        assert not engine.ended
        budget.count(engine)
    assert rates == pytest.approx([0.0, 0.2, 0.2, 0.4 * (1 + cos(pi * 78 / 80)) / 2], abs=1e-6)
    assert engine.ended == [True]
    assert budget.seconds >= 1000


def test_networks_are_compared_at_equal_steps(dataset_dir, tmp_path, monkeypatch, recwarn):
    monkeypatch.setattr(training, "PROBE_SECONDS", 0.0)
    output = tmp_path / "out"
    given = arguments(dataset_dir, output, seeds="0", budget_steps=2)
    del given[given.index("--budget_seconds") : given.index("--budget_seconds") + 2]
    assert compare.main(given) == 0
    assert [json.loads(path.read_text())["steps"] for path in output.glob("*.json")] == [2, 2]
    assert "Each network trained for 2 steps" in (output / "comparison.md").read_text()


@pytest.mark.parametrize("given", [(), ("--budget_seconds", "1", "--budget_steps", "1")])
def test_one_budget_must_be_given(given, capsys):
    scored = ["--dataset_dir", "d", "--validation_runs", "a", "--test_runs", "b", "--output_dir", "o"]
    with pytest.raises(SystemExit):
        compare.main([*scored, *given])
    assert "give either --budget_seconds or --budget_steps" in capsys.readouterr().err


def test_a_network_that_needs_a_missing_package_is_named_before_anything_is_trained(plan_for, monkeypatch):
    def absent(out_channels):
        raise ImportError("einops is required")

    monkeypatch.setitem(definitions.NETWORKS, "unet", ({"_target_": absent, "out_channels": 5}, 4))
    with pytest.raises(InputError, match="unet needs a package that is not installed: einops is required"):
        definitions.build_networks(plan_for(), ["ours", "unet"])


@pytest.mark.parametrize(
    ("replaced", "message"),
    [
        ({"networks": "ours,vnet"}, "unknown network vnet; known are ours, unet"),
        ({"test_runs": "fit"}, "fit cannot be both validation_runs and test_runs"),
        ({"test_runs": "learn,score,wrong"}, "holds no run beside fit, learn, score, wrong to train on"),
        ({"test_runs": "nowhere"}, "holds no run nowhere; it holds"),
        ({"budget_seconds": 0}, "budget_seconds must be positive; got 0.0"),
        ({"settings": '{"depth": 2}'}, "depth is not a setting of train.json"),
        ({"settings": "[1]"}, "settings must be a JSON object"),
        ({"settings": "{"}, "settings is not valid JSON"),
    ],
)
def test_a_wrong_option_is_refused_in_one_line(dataset_dir, tmp_path, capsys, replaced, message):
    assert compare.main(arguments(dataset_dir, tmp_path / "out", **replaced)) == 1
    assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("out/*.json"))


def test_the_table_of_an_empty_folder_is_refused(tmp_path, capsys):
    assert compare.main(["--only-table", "--output_dir", str(tmp_path)]) == 1
    assert "holds no result of ours, unet" in capsys.readouterr().err


def test_a_row_holds_the_mean_and_half_the_range():
    def scores(f4, wrong):
        f4 = {mode: {"total": f4, "a": f4} for mode in ("kaggle", "one_to_one")}
        counts = {"precision": 1 - wrong / 8, "recall": 1.0, "picks": 8, "wrong": wrong}
        return {"thresholds": {"a": 0.5}, "scores": {"f4": f4, "f1": 1 - wrong / 8, **counts}}

    results = [
        {
            "network": "unet", "parameters": 7, "steps": steps, "f1": scores(0.1, wrong), "f4": scores(f4, 2 * wrong),
            "seconds_per_step": 1.0, "seconds_per_tomogram": 2.0, "format": "float32, contiguous",
        }
        for steps, f4, wrong in ((10, 0.5, 1), (20, 0.75, 3))
    ]  # fmt: skip
    (row,) = compare.summarise(results)
    assert (row["steps"], row["f4_kaggle"], row["f4_one_to_one_half_range"], row["f4_a"]) == (15, 0.625, 0.125, 0.625)
    page = compare.format_page(
        [row],
        ["a"],
        {"budget_seconds": 5.0, "clock": "wall", "device": "CPU", "validation_runs": ["x"], "test_runs": ["y"]},
    )
    row = "| unet | 0.0 M | 2 | 15 | 0.750 ± 0.125 | 0.750 | 2 of 8 | 0.625 ± 0.125 | 0.625 ± 0.125 | 4 of 8 | 0.625 |"
    assert f"{row} 1 | 2 | float32, contiguous |" in page
