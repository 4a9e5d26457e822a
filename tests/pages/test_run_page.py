import json
import re
from dataclasses import replace

import numpy as np
import pytest
from page_data import data_of
from scripts.errors import InputError
from scripts.pages.html import check_megabytes
from scripts.pages.run_page import MAX_TILES, Tomogram, Truth, compare_run, write_run_page
from scripts.picks import Pick, write_csv
from synthetic import SHAPE, make_species, noise

VOXEL_SIZE = 10.0


def pick(species, z, y, x, score=0.9, **more):
    return Pick("run", species, 10.0 * x, 10.0 * y, 10.0 * z, score, 40.0, x, y, z, **more)


def tomogram(run="run", shape=SHAPE, own=VOXEL_SIZE):
    return Tomogram(run, noise(shape=shape), VOXEL_SIZE, own)


@pytest.fixture
def page(tmp_path):
    return tmp_path / "run" / "report.html"


def test_a_page_holds_slices_picks_and_species(page):
    picks = [pick("a", 6, 9, 11, 0.75), pick("b", 13, 20, 30)]
    write_run_page(page, tomogram(), picks, make_species(2), 20)
    data = data_of(page)
    assert data["shape"] == [*SHAPE]
    assert len(data["slices"]) == 20
    assert [(item["species"], item["score"], item["place"]) for item in data["items"]] == [
        (0, 0.75, [6, 9, 11]), (1, 0.9, [13, 20, 30]),
    ]  # fmt: skip
    assert [one["name"] for one in data["species"]] == ["a", "b"]
    assert len({one["colour"] for one in data["species"]}) == 2
    assert all(data["sheets"])
    assert data["truth"] is None


def test_a_page_needs_no_other_file(page):
    write_run_page(page, tomogram(), [pick("a", 6, 9, 11)], make_species(1), 20)
    text = page.read_text()
    assert "{{" not in text
    assert set(re.findall(r"https?://[^\"' ]+", text)) == {"http://www.w3.org/2000/svg"}  # a name, not an address
    assert not re.search(r"<(script|link|img|iframe)[^>]*\b(src|href)=\"(?!data:)", text)
    assert "default-src 'none'" in text


@pytest.mark.parametrize("run", ["a<b", "</script><script>alert(1)</script>", "{{data}}", 'quo"te & co', "Hül-µ_1"])
def test_any_name_of_a_run_leaves_the_page_whole(page, run):
    write_run_page(page, tomogram(run), [pick("a", 6, 9, 11)], make_species(1), 20)
    assert data_of(page)["run"] == run
    assert page.read_text().count("<script") == 2


def test_a_large_page_stays_within_its_bound(page):
    picks = [pick("a", z % 180, z % 500, z % 500, 0.5 + z / 500) for z in range(200)]
    write_run_page(page, tomogram(shape=(40, 300, 300)), picks, make_species(1), 1)
    assert 0.4e6 < page.stat().st_size < 1e6


def test_no_megabytes_are_no_page(page):
    write_run_page(page, tomogram(), [], make_species(1), 0)
    assert not page.exists()
    assert check_megabytes(1) == 1
    for wrong in (-1, 0.5, float("nan")):
        with pytest.raises(InputError, match="page_megabytes is 0, or a number from 1"):
            check_megabytes(wrong)


def test_a_resampled_tomogram_is_marked_in_the_voxels_that_are_shown(page):
    write_run_page(page, tomogram(own=5.0), [pick("a", 12, 18, 22)], make_species(1), 20)
    data = data_of(page)
    assert data["items"][0]["place"] == [6, 9, 11]
    assert (data["voxelSize"], data["ownVoxelSize"]) == (10, 5)


def test_picks_are_marked_on_the_image_of_a_padded_tomogram_and_its_faces_are_the_border(page):
    cut = Tomogram("run", noise(), VOXEL_SIZE, VOXEL_SIZE, (100, 0, 50))
    picks = [pick("a", 103, 9, 61), pick("a", 110, 14, 68)]
    compared = compare_run(cut, picks, make_species(1), Truth([], np.ones((1, 1, 3), dtype=int), [0.5], "kaggle"))
    write_run_page(page, cut, picks, make_species(1), 20, compared)
    data = data_of(page)
    assert [item["place"] for item in data["items"]] == [[3, 9, 11], [10, 14, 18]]
    assert [item["cause"] for item in data["items"]] == [
        "border, 35 Å",
        "no signal",
    ]  # voxel 0 begins half a voxel before its centre
    assert data["start"] == [100, 0, 50]


def test_a_page_without_picks_and_of_a_constant_volume_can_be_made(page):
    empty = Tomogram("run", np.zeros(SHAPE, dtype=np.float32), VOXEL_SIZE, VOXEL_SIZE)
    write_run_page(page, empty, [], make_species(2), 20)
    assert data_of(page)["sheets"] == ["", ""]


def test_a_crowded_gallery_shows_every_part_of_the_scores(page):
    scores = np.linspace(0.5, 0.99, 3 * MAX_TILES)
    write_run_page(page, tomogram(), [pick("a", 6, 9, 11, score) for score in scores], make_species(1), 20)
    items = data_of(page)["items"]
    shown = sorted(item["score"] for item in items if "tile" in item)
    assert (len(items), len(shown)) == (3 * MAX_TILES, MAX_TILES)
    assert (shown[0], shown[-1]) == (0.5, 0.99)
    assert np.median(shown) == pytest.approx(0.745, abs=0.002)


def test_truth_names_the_cause_of_every_mistake(page):
    truth = [pick("a", 6, 9, 11), pick("b", 13, 20, 30), pick("a", 10, 20, 8)]
    picks = [pick("a", 6, 9, 11), pick("a", 13, 20, 31), pick("a", 10, 20, 11)]
    sweep = np.ones((2, 1, 3), dtype=int)
    compared = compare_run(tomogram(), picks, make_species(2), Truth(truth, sweep, [0.5], "kaggle"))
    write_run_page(page, tomogram(), picks, make_species(2), 20, compared)
    data = data_of(page)
    assert [(item["cause"], item["right"]) for item in data["items"]] == [
        ("right", True), ("wrong species: b", False), ("near miss, 30 Å", False),
        ("right", True), ("wrong species: a", False), ("near miss, 30 Å", False),
    ]  # fmt: skip
    assert [item.get("truth", False) for item in data["items"]] == [False] * 3 + [True] * 3
    assert ["tile" in item for item in data["items"]] == [True] * 3 + [False, True, True]
    assert data["truth"] == json.loads(json.dumps(compared.comparison.as_json(make_species(2), [0.5], "kaggle")))


def test_a_valley_stands_beside_its_species(page):
    scores = [0.6] * 5 + [0.65] * 10 + [0.7] * 5 + [0.998] * 5 + [0.9985] * 10 + [0.999] * 5
    write_run_page(page, tomogram(), [pick("a", 6, 9, 11, score) for score in scores], make_species(2), 20)
    one, other = (species["valley"] for species in data_of(page)["species"])
    assert 0.7 < one["low"] <= one["threshold"] <= one["high"] < 0.998
    assert other is None


def test_after_a_second_look_the_page_holds_more_candidates_and_starts_at_the_picks(page):
    picks = [pick("a", 6, 9, 11, 0.9000004, network_score=0.99), pick("a", 9, 9, 11, 0.8123456, network_score=0.9)]
    others = [pick("b", 6, 9, 20, 0.25, network_score=0.5)]
    expected = {"a": {"operating_point": "F1"}, "b": {"operating_point": "precision 0.9"}}
    write_run_page(page, tomogram(), picks, make_species(2), 20, None, others, expected, "Not calibrated.")
    found = data_of(page)
    assert (found["judged"], found["candidates"], found["picked"]) == (True, True, 2)
    assert found["warning"] == "Not calibrated."
    assert [item["score"] for item in found["items"]] == [0.9, 0.812345, 0.25]  # as thresholds they keep their picks
    assert [(one["threshold"], one["lowest"]) for one in found["species"]] == [(0.81234, 0.01), (0.99999, 0.01)]
    assert [one["operatingPoint"] for one in found["species"]] == ["F1", "precision 0.9"]


def test_candidates_alone_are_no_picks(page):
    others = [pick("a", 6, 9, 20, 0.75, network_score=0.99)]
    write_run_page(page, tomogram(), [], make_species(1), 20, others=others, expected={"a": {"operating_point": "F1"}})
    found = data_of(page)
    assert (found["judged"], found["picked"]) == (True, 0)
    assert found["species"][0]["threshold"] == 0.99999


def test_after_a_second_look_that_left_no_candidate_the_page_still_asks_for_operating_points(page):
    write_run_page(page, tomogram(), [], make_species(1), 20, expected={"a": {"operating_point": "F1"}})
    found = data_of(page)
    assert (found["judged"], found["candidates"], found["species"][0]["operatingPoint"]) == (True, False, "F1")
    write_run_page(page, tomogram(), [], make_species(1), 20)
    assert data_of(page)["judged"] is False


def test_the_page_has_the_coordinates_of_the_table_and_what_tells_its_model_and_image_from_others(page, tmp_path):
    picks = [replace(pick("a", 6, 9, 11), x_angstrom=110.12349, y_angstrom=-0.0001, z_angstrom=60.0)]
    other = replace(tomogram(), volume=np.zeros(SHAPE, dtype=np.float32))
    write_csv(tmp_path / "picks.csv", picks)
    write_run_page(page, tomogram(), picks, make_species(1), 20, model="0123abcd", voxel_offset=0.5)
    data = data_of(page)
    assert data["items"][0]["angstrom"] == "110.123,0.000,60.000"
    assert f",{data['items'][0]['angstrom']}," in (tmp_path / "picks.csv").read_text()
    assert (data["model"], data["voxelOffset"]) == ("0123abcd", 0.5)
    write_run_page(page, other, picks, make_species(1), 20, model="0123abcd")
    assert data_of(page)["image"] != data["image"]
