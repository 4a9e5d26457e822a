"""The pages in a real browser. Needs Chromium, its driver and selenium: `make test-browser`."""

import ast
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from scripts.pages.batch_page import write_batch_page, write_summary_page
from scripts.pages.run_page import Tomogram, Truth, compare_run, write_run_page
from scripts.picking.operating_point import expect, parse_operating_points
from scripts.picks import Pick, write_csv
from scripts.scoring.metrics import count_matches
from scripts.species import with_thresholds

selenium = pytest.importorskip("selenium")

from browser_steps import circles, labelled, settle, wait_until_loaded  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import Select, WebDriverWait  # noqa: E402

SHAPE = (30, 90, 120)
VOXEL_SIZE = 10.0
RUN = "a<b"
THRESHOLDS = [0.5, 0.7, 0.9]


def pick(species, z, y, x, score, run=RUN):
    return Pick(run, species, 10.0 * x, 10.0 * y, 10.0 * z, score, x_voxel=x, y_voxel=y, z_voxel=z)


# six ribosomes in the middle slice, ten ferritins in a row through z
RIBOSOMES = [pick("ribosome", 15, 45, 15 + 18 * n, 0.87 + 0.02 * n) for n in range(6)]
FERRITINS = [pick("apo-ferritin", 3 * n, 20, 12 * n, 0.91 + 0.009 * n) for n in range(10)]
TRUTH = [*RIBOSOMES[1:], pick("apo-ferritin", 15, 45, 15, 1.0), pick("thyroglobulin", 15, 75, 60, 1.0)]
# scores of a second look; the first two were picked
JUDGED = [
    replace(one, score=score, network_score=0.99)
    for one, score in zip(RIBOSOMES[:5], (0.9, 0.8, 0.5, 0.1, 0.02), strict=True)
]
FAINT = [replace(one, score=0.05, network_score=0.9) for one in FERRITINS[:3]]  # hardly any of them is right


@pytest.fixture(scope="module")
def pages(tmp_path_factory, shipped_species):
    """A batch of six runs, the page of one of them, and an evaluation of that one."""
    folder = tmp_path_factory.mktemp("pages")
    species_set = with_thresholds(shipped_species, dict.fromkeys(shipped_species.names, 0.75))
    volume = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    volume += np.linspace(0, 5, SHAPE[0], dtype=np.float32)[:, None, None]  # brighter with z
    tomogram, picks = Tomogram(RUN, volume, VOXEL_SIZE, VOXEL_SIZE), [*RIBOSOMES, *FERRITINS]
    for number in range(6):
        run = RUN if number == 0 else f"TS_{number}"
        few = picks[:2] if number == 5 else picks * 4
        write_csv(folder / "batch" / run / "picks.csv", [pick(p.species, 1, 1, 1, p.score, run) for p in few])
    write_run_page(folder / "batch" / RUN / "report.html", tomogram, picks, species_set, 20)
    counts = [count_matches(TRUTH, [one for one in picks if one.score >= t], species_set) for t in THRESHOLDS]
    rows = [[[one[n].tp, one[n].predicted, one[n].truths] if n in one else [0] * 3 for one in counts] for n in
            species_set.names]  # fmt: skip
    truth = Truth(TRUTH, np.array(rows), THRESHOLDS, "kaggle")
    path = folder / "evaluation" / RUN / "report.html"
    compared = compare_run(tomogram, picks, species_set, truth)
    write_run_page(path, tomogram, picks, species_set, 20, compared)
    comparisons = {RUN: compared.comparison}
    sweep = (THRESHOLDS, "kaggle")
    write_summary_page(folder / "evaluation" / "report.html", {RUN: picks}, species_set, None, comparisons, sweep)
    write_batch_page(folder / "batch", species_set, failures={"TS_7": "the file ends early"})
    start = (3, 0, 5)
    moved = [replace(one, z_voxel=one.z_voxel + 3, x_voxel=one.x_voxel + 5) for one in picks]
    path = folder / "padded" / RUN / "report.html"
    write_run_page(path, replace(tomogram, start_zyx_voxel=start), moved, species_set, 20)
    path, off_centre = folder / "off_centre" / RUN / "report.html", [replace(one, z_voxel=22) for one in RIBOSOMES]
    write_run_page(path, tomogram, off_centre, species_set, 20)
    path, others = folder / "judged" / RUN / "report.html", [*JUDGED[2:], *FAINT]
    expected = {name: {"operating_point": "F1"} for name in species_set.names}
    expected["thyroglobulin"] = {"operating_point": "precision 0.9", "spread": 0.5}
    write_run_page(path, tomogram, JUDGED[:2], species_set, 20, None, others, expected, "Not calibrated: noise.")
    path, expected["ribosome"] = folder / "spread" / RUN / "report.html", {"operating_point": "F1", "spread": 1.0}
    write_run_page(path, tomogram, JUDGED[:2], species_set, 20, None, others, expected)
    return folder


@pytest.fixture
def open_page(browser, pages):
    def opened(name):
        browser.get_log("browser"), browser.get_log("performance")  # those of the page before
        browser.get((pages / name).as_uri())
        if "/" in name.removesuffix("/report.html"):
            wait_until_loaded(browser)
        return browser

    return opened


@pytest.fixture
def run_page(open_page):
    return open_page(f"batch/{RUN}/report.html")


@pytest.fixture
def judged_page(open_page):
    return open_page(f"judged/{RUN}/report.html")


@pytest.fixture
def truth_page(open_page):
    return open_page(f"evaluation/{RUN}/report.html")


def count_of(browser, name):
    card = labelled(browser, f"show {name}").find_element(By.XPATH, "ancestor::*[@class='card' or @class='card off']")
    return card.find_element(By.CLASS_NAME, "count").text


def slide(browser, name, value):
    script = "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input', {bubbles: true}));"
    browser.execute_script(script, labelled(browser, name), value)
    settle(browser)


def brightness(browser, plane):
    script = """const canvas = document.querySelector(arguments[0] + " canvas");
    const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
    return pixels.filter((_, index) => index % 4 === 0).reduce((a, b) => a + b, 0) / pixels.length * 4;"""
    return browser.execute_script(script, f"#{plane}")


@pytest.mark.parametrize(
    "name",
    [f"batch/{RUN}/report.html", "batch/report.html", f"evaluation/{RUN}/report.html", "evaluation/report.html"],
)
def test_a_page_opens_without_an_error_and_without_a_network(open_page, name):
    browser = open_page(name)
    assert browser.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [one["params"]["request"]["url"] for one in events if one["method"] == "Network.requestWillBeSent"]
    assert asked
    assert {url.split(":")[0] for url in asked} <= {"file", "data", "blob"}
    assert [url for url in asked if url.startswith("file")] == [browser.current_url]


def test_the_page_shows_the_slice_with_the_most_picks(run_page):
    assert run_page.find_element(By.ID, "heading").text == RUN
    assert "16 picks" in run_page.find_element(By.ID, "facts").text
    assert len(circles(run_page)) > 6
    assert run_page.find_element(By.ID, "z").get_attribute("value") in ("14", "15", "16")


def test_a_page_opens_where_the_picks_are_and_not_in_the_middle(open_page):
    assert open_page(f"off_centre/{RUN}/report.html").find_element(By.ID, "z").get_attribute("value") in (
        "21",
        "22",
        "23",
    )


def test_the_legend_switches_a_species_off_in_both_slices(run_page):
    own = "circle.pick[data-species='2']"
    assert len(run_page.find_elements(By.CSS_SELECTOR, f"#xy {own}")) == 6
    assert len(run_page.find_elements(By.CSS_SELECTOR, f"#xz {own}")) == 6
    labelled(run_page, "show ribosome").click()
    settle(run_page)
    assert run_page.find_elements(By.CSS_SELECTOR, own) == []
    labelled(run_page, "show ribosome").click()
    settle(run_page)
    assert len(run_page.find_elements(By.CSS_SELECTOR, own)) == 12


def test_the_z_slider_moves_through_the_volume(run_page):
    slide(run_page, "slice in z", 0)
    dark, before = brightness(run_page, "xy"), len(circles(run_page))
    slide(run_page, "slice in z", SHAPE[0] - 1)
    assert brightness(run_page, "xy") > dark + 30  # the volume is brighter with z
    assert "z = 29" in run_page.find_element(By.CSS_SELECTOR, "#xy span").text
    assert before > 0


def test_the_y_slider_moves_the_other_slice(run_page):
    assert len(circles(run_page, "xz")) == 6
    slide(run_page, "slice in y", 20)
    assert len(circles(run_page, "xz")) == 10  # the ferritins
    assert "y = 20" in run_page.find_element(By.CSS_SELECTOR, "#xz span").text


def test_circles_fade_with_their_distance_from_the_slice(run_page):
    opacity = {}
    for z in (15, 20, 25):
        slide(run_page, "slice in z", z)
        one = run_page.find_element(By.CSS_SELECTOR, "#xy circle[data-species='2']")
        opacity[z] = float(one.get_attribute("opacity"))
    assert opacity[15] == 1
    assert opacity[15] > opacity[20] > opacity[25] > 0
    slide(run_page, "slice in z", 0)
    assert run_page.find_elements(By.CSS_SELECTOR, "#xy circle[data-species='2']") == []


def test_arrow_keys_move_through_z_and_with_shift_through_y(run_page):
    z, y = (run_page.find_element(By.ID, axis) for axis in "zy")
    before = int(z.get_attribute("value")), int(y.get_attribute("value"))
    body = run_page.find_element(By.TAG_NAME, "body")
    body.send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_LEFT)
    body.send_keys(Keys.SHIFT, Keys.ARROW_LEFT)
    assert (int(z.get_attribute("value")), int(y.get_attribute("value"))) == (before[0] + 2, before[1] - 1)


def test_a_click_into_the_slice_moves_the_other_one(run_page):
    run_page.execute_script("""const svg = document.querySelector("#xy svg"), box = svg.getBoundingClientRect();
    svg.dispatchEvent(new MouseEvent("click", {clientX: box.left + 5, clientY: box.top + box.height * 0.1}));""")
    assert run_page.find_element(By.ID, "y").get_attribute("value") == "81"  # y points upwards


def test_a_threshold_hides_picks_everywhere_and_says_how_many_remain(run_page):
    run_page.find_element(By.XPATH, "//*[@id='tabs']/button[contains(., 'ribosome')]").click()
    assert count_of(run_page, "ribosome") == "6"
    assert len(run_page.find_elements(By.CLASS_NAME, "tile")) == 6
    slider = labelled(run_page, "threshold of ribosome")
    for _ in range(30):
        slider.send_keys(Keys.ARROW_RIGHT)
    settle(run_page)
    threshold = float(slider.get_attribute("aria-valuetext").split(",")[0])
    left = sum(one.score >= threshold for one in RIBOSOMES)
    assert 0 < left < 6
    assert count_of(run_page, "ribosome") == f"{left} of 6"
    assert len(run_page.find_elements(By.CLASS_NAME, "tile")) == left
    assert len(run_page.find_elements(By.CSS_SELECTOR, "#xy circle[data-species='2']")) == left
    (asked,) = re.findall(r"'ribosome': ([\d.]+)", run_page.find_element(By.ID, "command").get_attribute("value"))
    assert float(asked) == pytest.approx(threshold, abs=0.005)  # which is shown with two decimals
    assert count_of(run_page, "apo-ferritin") == "10"


def expected_of(browser, name):
    card = labelled(browser, f"show {name}").find_element(By.XPATH, "ancestor::*[@class='card' or @class='card off']")
    return card.find_element(By.CLASS_NAME, "expected").text


def test_after_a_second_look_the_slider_says_what_to_expect(judged_page):
    assert judged_page.find_element(By.ID, "warning").text == "Not calibrated: noise."
    assert "2 picks" in judged_page.find_element(By.ID, "facts").text
    assert count_of(judged_page, "ribosome") == "2 of 5"
    assert expected_of(judged_page, "ribosome") == "expected right 85 % (44–100), missed 1 (0–2)"
    slide(judged_page, "threshold of ribosome", 0)
    assert count_of(judged_page, "ribosome") == "5"
    assert expected_of(judged_page, "ribosome").startswith("expected right 46 %")


def test_the_page_has_the_intervals_of_the_summary_where_tomograms_differ(open_page):
    scores = np.array([one.score for one in JUDGED])
    known = expect(scores, np.arange(len(scores)) < 2, spread=1.0)
    page = open_page(f"spread/{RUN}/report.html")
    low, mean, high = (round(100 * value) for value in (known.precision_low, known.precision, known.precision_high))
    rest = f"missed {known.missed:.0f} ({known.missed_low:.0f}–{known.missed_high:.0f})"
    assert expected_of(page, "ribosome") == f"expected right {mean} % ({low}–{high}), {rest}"
    assert low < 44  # as if candidates were independent


def test_the_command_leaves_species_that_nobody_moved_to_their_operating_point(judged_page, shipped_species):
    def asked():
        command = judged_page.find_element(By.ID, "command").get_attribute("value")
        wanted = ast.literal_eval(re.fullmatch(r'--operating_point "(.*)"', command)[1])
        return {name: str(point) for name, point in parse_operating_points(wanted, shipped_species).items()}

    before = asked()
    assert before == {**dict.fromkeys(shipped_species.names, "F1"), "thyroglobulin": "precision 0.9"}
    slide(judged_page, "threshold of apo-ferritin", 0)
    assert asked() == {**before, "apo-ferritin": "probability 0.01"}


def test_after_a_second_look_a_button_asks_for_an_operating_point(judged_page):
    command = judged_page.find_element(By.ID, "command")
    labelled(judged_page, "90 % right of ribosome").click()
    assert count_of(judged_page, "ribosome") == "1 of 5"
    assert command.get_attribute("value").startswith('--operating_point "{')
    assert "'ribosome': {'probability': 0.9}" in command.get_attribute("value")
    labelled(judged_page, "F4 of ribosome").click()
    assert count_of(judged_page, "ribosome") == "4 of 5"
    labelled(judged_page, "F1 of ribosome").click()
    assert count_of(judged_page, "ribosome") == "3 of 5"


def test_the_button_of_an_absent_species_asks_for_nothing(judged_page):
    slide(judged_page, "threshold of apo-ferritin", 0)
    assert count_of(judged_page, "apo-ferritin") == "3"
    labelled(judged_page, "F1 of apo-ferritin").click()
    assert count_of(judged_page, "apo-ferritin") == "0 of 3"


def test_the_gallery_is_sorted_and_jumps_to_its_slice(run_page):
    run_page.find_element(By.XPATH, "//*[@id='tabs']/button[contains(., 'apo-ferritin')]").click()
    tiles = run_page.find_elements(By.CLASS_NAME, "tile")
    scores = [float(tile.text) for tile in tiles]
    assert scores == sorted(scores, reverse=True)
    assert len(tiles) == 10
    tiles[0].click()
    settle(run_page)
    assert [run_page.find_element(By.ID, axis).get_attribute("value") for axis in "zy"] == ["27", "20"]
    assert len(run_page.find_elements(By.CSS_SELECTOR, "#xy circle.chosen")) == 1
    assert "score 0.9910, voxel x 108.0, y 20.0, z 27.0" in run_page.find_element(By.ID, "chosen").text
    Select(run_page.find_element(By.ID, "order")).select_by_visible_text("the least sure")
    assert float(run_page.find_elements(By.CLASS_NAME, "tile")[0].text) == 0.91


def test_voxels_on_the_page_of_a_padded_tomogram_are_those_of_its_file(open_page):
    page = open_page(f"padded/{RUN}/report.html")
    page.find_element(By.XPATH, "//*[@id='tabs']/button[contains(., 'apo-ferritin')]").click()
    page.find_element(By.CLASS_NAME, "tile").click()
    settle(page)
    assert "voxel x 113.0, y 20.0, z 30.0" in page.find_element(By.ID, "chosen").text
    assert [page.find_element(By.ID, f"{axis}-shown").text for axis in "zy"] == ["z = 30", "y = 20"]


def test_tiles_show_their_particles(run_page):
    picture = run_page.find_element(By.CSS_SELECTOR, ".tile i").value_of_css_property("background-image")
    assert picture.startswith('url("data:image/jpeg;base64,')


def test_the_truth_is_drawn_and_can_be_switched_off(truth_page):
    assert len(circles(truth_page, kind="truth")) == len(TRUTH)
    truth_page.find_element(By.ID, "show-truth").click()
    settle(truth_page)
    assert circles(truth_page, kind="truth") == []
    assert len(circles(truth_page)) > 6


def test_a_number_of_mistakes_leads_to_their_pictures(truth_page):
    table = truth_page.find_element(By.XPATH, "//h3[.='What became of the picks']/following-sibling::*[1]")
    row = table.find_element(By.XPATH, ".//tr[contains(., 'ribosome')]")
    heads = [cell.text for cell in table.find_elements(By.TAG_NAME, "th")]
    cell = row.find_elements(By.TAG_NAME, "td")[heads.index("wrong species")]
    assert cell.text == "1"
    cell.find_element(By.TAG_NAME, "button").click()
    (tile,) = truth_page.find_elements(By.CLASS_NAME, "tile")
    assert "wrong species: apo-ferritin" in tile.text
    Select(truth_page.find_element(By.ID, "kind")).select_by_visible_text("missed particles")
    Select(truth_page.find_element(By.ID, "cause")).select_by_visible_text("any")
    truth_page.find_element(By.XPATH, "//*[@id='tabs']/button[contains(., 'thyroglobulin')]").click()
    (tile,) = truth_page.find_elements(By.CLASS_NAME, "tile")
    assert "no signal" in tile.text or "border" in tile.text


@pytest.mark.parametrize("name", [f"evaluation/{RUN}/report.html", "evaluation/report.html"])
def test_curves_are_drawn_where_there_is_truth(open_page, name):
    browser = open_page(name)
    drawn = [
        {line.get_attribute("textContent") for line in labelled(browser, title).find_elements(By.TAG_NAME, "path")}
        for title in ("Precision and recall", "F4 over the threshold")
    ]
    assert drawn == [{"apo-ferritin", "ribosome"}, {"apo-ferritin", "ribosome", "thyroglobulin"}]  # those with truth


def rows_of(browser):
    rows = browser.find_elements(By.CSS_SELECTOR, "#runs tbody tr")
    return [[cell.text for cell in row.find_elements(By.TAG_NAME, "td")] for row in rows]


def test_the_batch_page_counts_marks_and_sums(open_page):
    browser = open_page("batch/report.html")
    rows = rows_of(browser)
    assert len(rows) == 7
    by_run = {row[0]: row for row in rows}
    assert (by_run[RUN][1], by_run[RUN][3], by_run[RUN][-1]) == ("40", "24", "64")
    assert by_run["TS_5"][-1] == "▼ 2"
    assert rows[-1] == ["sum", "200", "0", "122", "0", "0", "322"]
    assert "TS_7: the file ends early" in browser.find_element(By.ID, "failures").text


def test_the_table_of_the_batch_follows_thresholds_and_switches(open_page):
    browser = open_page("batch/report.html")
    slide(browser, "threshold of ribosome", 200)
    assert {row[3] for row in rows_of(browser)} == {"0"}
    labelled(browser, "show apo-ferritin").click()
    assert len(rows_of(browser)[0]) == 6


def test_the_table_of_the_batch_sorts_by_its_headings(open_page):
    browser = open_page("batch/report.html")
    browser.find_element(By.XPATH, "//thead//button[.='all']").click()
    assert rows_of(browser)[-2][0] == "TS_5"
    browser.find_element(By.XPATH, "//thead//button[.='all']").click()
    assert rows_of(browser)[0][0] == "TS_5"


def test_the_table_stays_sorted_by_its_heading_while_a_species_is_hidden(open_page):
    browser = open_page("batch/report.html")
    browser.find_element(By.XPATH, "//thead//button[.='all']").click()
    labelled(browser, "show apo-ferritin").click()
    assert browser.find_element(By.CSS_SELECTOR, "#runs th[aria-sort]").text == "all"


def test_the_batch_page_leads_to_the_pages_of_its_runs(open_page):
    browser = open_page("batch/report.html")
    browser.find_element(By.LINK_TEXT, RUN).click()
    WebDriverWait(browser, 30).until(lambda one: one.find_elements(By.ID, "xy"))
    assert browser.find_element(By.ID, "heading").text == RUN
