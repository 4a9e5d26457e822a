"""The curve over labels, on small tomograms and a few windows."""

import csv
import json

import label_curve
import pytest
from scripts.datasets.truth import list_labelled_runs
from scripts.errors import InputError
from scripts.networks.convnext_unet import ConvNeXtUNet
from scripts.picks import read_csv
from scripts.species import read_species
from synthetic import write_weights

CENTRES = {"ribosome": [(6, 9, 11), (13, 20, 30)], "thyroglobulin": [(10, 20, 9), (9, 8, 27)]}
SMALL = {"network_def#widths": [4, 8], "network_def#depths": [1, 1]}


@pytest.fixture
def dataset_dir(write_spheres):
    return write_spheres(["one", "two", "fit", "score"], CENTRES)


def words(tmp_path, dataset_dir, **replaced):
    options = {
        "species": "ribosome,thyroglobulin",
        "start_path": tmp_path / "start.pt",
        "dataset_dir": dataset_dir,
        "fit_runs": "fit",
        "test_runs": "score",
        "labels": "1,3",
        "settings": json.dumps(SMALL),
        "output_dir": tmp_path / "out",
        **replaced,
    }
    return [part for key, value in options.items() for part in (f"--{key}", str(value))]


@pytest.mark.filterwarnings("ignore:.*keeps the threshold")
def test_few_labels_are_learned_with_and_without_a_start_and_missing_results_are_made(dataset_dir, tmp_path, capsys):
    others = tmp_path / "others.json"
    assert label_curve.main(["--species", "ribosome,thyroglobulin", "--write_species", str(others)]) == 0
    start = read_species(others)
    assert start.names == ["apo-ferritin", "beta-galactosidase", "virus-like-particle"]
    weights = {name: one["weight"] for name, one in json.loads(others.read_text())["species"].items()}
    assert weights["ribosome"] == weights["thyroglobulin"] == 0 < weights["apo-ferritin"]  # others count in no score
    small = ConvNeXtUNet(
        1, 3, (4, 8), (1, 1), norm="batch", activation="relu", output_stride=2, align_corners=False
    )  # fmt: skip
    write_weights(tmp_path / "start.pt", small, start)
    assert label_curve.main([*words(tmp_path, dataset_dir), "--smoke"]) == 0
    out = tmp_path / "out"
    made = {path.stem: json.loads(path.read_text()) for path in out.glob("*_seed0.json")}
    assert set(made) == {f"{start}_{labels}_seed0" for start in label_curve.STARTS for labels in ("1", "3", "all")}
    assert len({one["last_loss"] for one in made.values()}) == 6
    assert set(made["started_1_seed0"]["sets"]["own"]["species"]) == {"ribosome", "thyroglobulin"}
    with open(out / "label_curve.csv", newline="") as file:
        assert [row["labels"] for row in csv.DictReader(file)] == ["1", "1", "3", "3", "all", "all"]
    assert (out / "label_curve.png").stat().st_size > 5000
    written = made["scratch_3_seed0"]["conditions"]["settings"]
    assert written["loss"]["positive_shares"]["expected_particles"] == {"ribosome": 2.0, "thyroglobulin": 2.0}
    (out / "scratch_3_seed0.json").unlink()
    capsys.readouterr()
    assert label_curve.main([*words(tmp_path, dataset_dir), "--smoke"]) == 0
    assert capsys.readouterr().out.count("is there") == 5
    assert label_curve.main(words(tmp_path, dataset_dir)) == 1
    assert "was made under other conditions: windows was 4, now it is 600" in capsys.readouterr().err


def test_labels_are_drawn_by_species_and_a_small_draw_is_part_of_a_larger_one(dataset_dir, tmp_path):
    truth = [one for one in read_csv(dataset_dir / "truth.csv") if one.run in ("one", "two")]
    few, more = (label_curve.draw_labels(truth, list(CENTRES), count, 3) for count in (1, 3))
    assert [one.species for one in few] == list(CENTRES)
    assert [one.species for one in more] == [name for name in CENTRES for _ in range(3)]
    assert all(one in more for one in few)
    tomograms = {run: str(dataset_dir / run / "tomogram.mrc") for run in ("one", "two", "fit")}
    label_curve.write_labels(tmp_path / "few", few, tomograms)
    listed = list_labelled_runs(tmp_path / "few", annotated={"*": {"complete": False}})
    assert {row["run"] for row in listed} == {one.run for one in few} < {"one", "two", "fit"}
    with pytest.raises(InputError, match="the runs to train on hold 4 ribosome, fewer than 5 labels"):
        label_curve.draw_labels(truth, list(CENTRES), 5, 0)


@pytest.mark.parametrize(
    ("species", "message"),
    [("ribosom", "name some of apo-ferritin, "), ("beta-amylase", "name some of apo-ferritin, ")],
)
def test_species_that_are_not_learned_are_refused(species, message, tmp_path, capsys):
    assert label_curve.main(["--species", species, "--write_species", str(tmp_path / "a.json")]) == 1
    assert message in capsys.readouterr().err
    assert label_curve.main(["--species", "ribosome", "--labels", "5"]) == 1
    assert "--start_path, --dataset_dir, --fit_runs, --test_runs, --output_dir missing." in capsys.readouterr().err
