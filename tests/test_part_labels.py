"""Trainings on part labels: the page's commands with small settings, and what a network learns from them."""

import csv
import re

import numpy as np
import pytest
import torch
from scripts.datasets.truth import list_labelled_runs
from scripts.picks import Pick, write_csv
from scripts.preparation.truth import LoadTruthd
from scripts.training.losses import KnownVoxels
from scripts.training.spheres import Spheres
from scripts.training.windows import PaintTargetsd
from scripts.volumes.labels import draw_spheres
from synthetic import image_of, make_species, write_mrc
from test_your_data import ROOT, SMALL, run

PAGE = (ROOT / "docs" / "how_to" / "part_labels.md").read_text()
SHAPE, VOXEL_SIZE = (20, 28, 36), 10.0
PLACES = {"ribosome": [(6, 9, 11), (13, 20, 30)], "apo-ferritin": [(13, 9, 20), (6, 20, 28)]}


def blocks_of(kind):
    return [block.strip() for block in re.findall(rf"```{kind}\n(.*?)```", PAGE, flags=re.DOTALL)]


@pytest.fixture
def my_data(tmp_path):
    """The page's folder: two species in four tomograms, of which the first two are annotated for one each."""
    mine, picks = tmp_path / "mydata", []
    for seed, name in enumerate(("TS_01", "TS_02", "TS_03", "TS_05")):
        volume = np.random.default_rng(seed).normal(size=SHAPE)
        for radius, (species, centres) in enumerate(PLACES.items(), start=2):
            volume += 6 * draw_spheres(SHAPE, centres, radius)
            picks += [Pick(name, species, *(index * VOXEL_SIZE for index in (x, y, z))) for z, y, x in centres]
        write_mrc(mine / f"{name}.mrc", volume, VOXEL_SIZE)
    write_csv(mine / "truth.csv", picks)
    for name, content in zip(("species.json", "annotated.json"), blocks_of("json"), strict=True):
        (mine / name).write_text(content)
    return tmp_path


@pytest.mark.filterwarnings("ignore:.*keeps the threshold")
def test_the_page_leads_from_part_labels_to_scores_and_to_points_alone(my_data, monkeypatch):
    monkeypatch.chdir(ROOT / "bundle")
    commands = [line for block in blocks_of("bash") for line in block.replace("\\\n", " ").split("\n")]
    assert ["evaluating" in line for line in commands] == [False, True, False]
    for command in commands:
        kind = next(name for name in ("evaluating", "training") if f" run {name} " in command)
        small = [f"--{key} '{value}'" for key, value in SMALL[kind].items()]
        run(" ".join([command, *small]).replace("../", f"{my_data}/"), monkeypatch)
    for folder in ("training", "points_alone"):
        with open(my_data / "mydata" / folder / "metrics.csv") as file:
            assert all(np.isfinite(float(row["loss"])) for row in csv.DictReader(file))
    with open(my_data / "mydata" / "evaluation" / "scores.csv") as file:
        truths = {row["species"]: row["truths"] for row in csv.DictReader(file) if row["mode"] == "kaggle"}
    assert (truths["ribosome"], truths["apo-ferritin"]) == ("2", "2")


def trained_on(folder, annotated):
    """Train a linear network on brightness and its square, on two runs; return its probability in each species."""
    species_set = make_species(2, target_radius_angstrom=20.0)
    loss, samples = KnownVoxels(torch.nn.BCEWithLogitsLoss()), []
    for row in list_labelled_runs(folder, annotated=annotated):
        volume = np.zeros(SHAPE)
        for brightness, centres in zip((1.0, -1.0), PLACES.values(), strict=True):
            volume += brightness * draw_spheres(SHAPE, centres, 2)
        sample = LoadTruthd("label", species_set)(row | {"image": image_of(volume)})
        samples.append(PaintTargetsd("label", species_set, Spheres())(sample))
    network = torch.nn.Conv3d(2, 2, 1)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.2)
    for _ in range(150):
        optimizer.zero_grad()
        for sample in samples:
            image = sample["image"].as_tensor()[None]
            loss(network(torch.cat([image, image**2], 1)), sample["label"][None]).backward()
        optimizer.step()
    bright, dark = (torch.tensor([value, value**2]).reshape(1, 2, 1, 1, 1) for value in (1.0, -1.0))
    return [torch.sigmoid(network(x)).flatten()[place].item() for place, x in enumerate((bright, dark))]


def test_a_species_of_half_of_the_runs_is_learned_as_if_it_had_been_annotated_everywhere(tmp_path):
    picks = []
    for name, species, centres in (("one", "a", PLACES["ribosome"]), ("two", "b", PLACES["apo-ferritin"])):
        write_mrc(tmp_path / f"{name}.mrc", np.zeros(SHAPE), VOXEL_SIZE)
        picks += [Pick(name, species, *(index * VOXEL_SIZE for index in (x, y, z))) for z, y, x in centres]
    write_csv(tmp_path / "truth.csv", picks)
    masked, naive = trained_on(tmp_path, {"one": ["a"], "two": ["b"]}), trained_on(tmp_path, None)
    assert min(masked) > 0.9
    assert max(naive) < 0.6  # every other time it was taught as background
