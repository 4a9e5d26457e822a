"""The comparison of complete, masked and naive labels, on small tomograms and a few windows."""

import json

import numpy as np
import part_labels
import pytest
import torch
from scripts.errors import InputError

CENTRES = {"apo-ferritin": [(6, 9, 11), (13, 20, 30)], "beta-galactosidase": [(10, 20, 9), (9, 8, 27)]}


@pytest.mark.filterwarnings("ignore:.*keeps the threshold")
def test_the_three_trainings_are_scored_side_by_side(write_spheres, tmp_path, capsys):
    options = {
        "dataset_dir": write_spheres(["one", "two", "fit", "score"], CENTRES),
        "fit_runs": "fit",
        "test_runs": "score",
        "output_dir": tmp_path / "out",
    }
    words = [part for key, value in options.items() for part in (f"--{key}", str(value))]
    assert part_labels.main([*words, "--smoke"]) == 0
    assert [line.split(" |")[0] for line in capsys.readouterr().out.splitlines()[-3:]] == [
        "| complete", "| masked", "| naive",
    ]  # fmt: skip
    written = json.loads((tmp_path / "out" / "part_labels.json").read_text())
    assert "apo-ferritin" in written["annotated"]["one"]
    assert "beta-galactosidase" in written["annotated"]["two"]
    losses = {labels: result["last_loss"] for labels, result in written["results"].items()}
    assert len(set(losses.values())) == 3
    assert len({result["steps"] for result in written["results"].values()}) == 1


def test_every_species_is_annotated_in_one_half_of_the_runs():
    assert part_labels.halves(["C", "A", "B", "D"], ["a", "b", "c"]) == {
        "A": ["a", "c"], "B": ["a", "c"], "C": ["b"], "D": ["b"],
    }  # fmt: skip
    with pytest.raises(InputError, match="two runs to train on and two species; got 1 and 2"):
        part_labels.halves(["A"], ["a", "b"])


def test_to_the_naive_loss_what_is_unknown_is_background():
    loss = part_labels.UnknownIsBackground(torch.nn.BCEWithLogitsLoss())
    logits = torch.zeros(4)
    assert loss(logits, torch.tensor([1.0, 0, np.nan, np.nan])) == loss(logits, torch.tensor([1.0, 0, 0, 0]))
