import json

import numpy as np
import pytest
import torch
from page_data import data_of
from scripts.handlers.finished_sample import picture_of
from scripts.handlers.pages import WritePages
from scripts.handlers.scores import WriteScores
from scripts.preparation.padding import CropPaddingd
from synthetic import image_of, noise, run_engine, sample_of


def test_counts_on_the_pages_are_those_of_the_scores(species_set, tmp_path):
    sample = sample_of([[1, 6, 9, 10], [1, 6, 9, 12], [2, 15, 20, 30]], [("a", 6, 9, 11), ("b", 6, 9, 11)])
    sample["sweep"] = torch.zeros(2, 1, 3, dtype=torch.int64)
    run_engine([sample], WriteScores(str(tmp_path), species_set), WritePages(str(tmp_path), species_set, [0.5]))
    rows = [line.split(",") for line in (tmp_path / "scores.csv").read_text().splitlines()[1:]]
    for page in (tmp_path / "report.html", tmp_path / "run" / "report.html"):
        text = page.read_text().split('id="data">')[1].split("</script>")[0]
        modes = json.loads(text)["truth"]["modes"]
        shown = [
            [mode["mode"], name, *(str(row[key]) for key in ("truths", "picks", "tp", "fp", "fn"))]
            for mode in modes
            for name, row in zip("ab", mode["rows"], strict=True)
        ]
        assert shown == [row[:7] for row in rows if row[1] != "total"]
        assert [mode["total"] for mode in modes] == [float(row[-1]) for row in rows if row[1] == "total"]


def test_pages_of_an_evaluation_with_a_second_look_say_so_even_without_a_pick(species_set, tmp_path):
    sample = sample_of([[1, 6, 9, 10]], [])
    sample["sweep"] = torch.zeros(2, 1, 3, dtype=torch.int64)
    sample["result"]["expected"] = {"a": {"operating_point": "F1"}, "b": {"operating_point": "recall 0.9"}}
    run_engine([sample], WritePages(str(tmp_path), species_set, [0.5]))
    for page in (tmp_path / "report.html", tmp_path / "run" / "report.html"):
        data = data_of(page)
        assert data["judged"] is True
        assert [one["operatingPoint"] for one in data["species"]] == ["F1", "recall 0.9"]


def test_picks_are_drawn_on_the_image_of_a_padded_tomogram(species_set):
    sample = sample_of([], [("a", 9, 9, 12)])
    sample["image"] = CropPaddingd("image")({"image": image_of(np.pad(noise(), [(3, 0), (0, 5), (1, 2)]))})["image"]
    figure = picture_of(sample, species_set)
    assert [axis.patches[0].center for axis in figure.axes] == [(11, 9), (11, 6)]
    assert figure.get_suptitle() == "run: 1 picks, behind padding of 1 x 0 x 3 voxels (x, y, z)"


def test_no_pages_are_written_where_none_are_wanted(species_set, tmp_path):
    run_engine([sample_of([], [])], WritePages(str(tmp_path), species_set, [0.5], page_megabytes=0))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match=r"page_megabytes is 0, or a number from 1; got 0\.5"):
        WritePages(str(tmp_path), species_set, [0.5], page_megabytes=0.5)
