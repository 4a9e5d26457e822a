"""Picks are corrected on a run's page, with the mouse and with keys alone, and the table is read back."""

import csv
import math
from dataclasses import replace

import numpy as np
import pytest
from scripts.coordinates import to_zyx_vox
from scripts.pages.run_page import Tomogram, Truth, compare_run, write_run_page
from scripts.picks import Pick, read_csv, write_csv

selenium = pytest.importorskip("selenium")

from browser_steps import circles, labelled, settle, wait_until_loaded  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import Select, WebDriverWait  # noqa: E402

RUN = 'TS "1", <a>'
SHAPE = (30, 90, 120)
VOXEL_SIZE = 10.012
SHAS = "0123abcd", "4567cdef"
VOLUME = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
BLOCKED = "Object.defineProperty(window, 'localStorage', { get() { throw new Error('blocked'); } });"


def pick(species, z, y, x, score):
    places = (value * VOXEL_SIZE for value in (x, y, z))
    return Pick(RUN, species, *places, score, x_voxel=x, y_voxel=y, z_voxel=z, network_score=0.99)


# the last two are candidates that were not picked
RIBOSOMES = [pick("ribosome", 15.123, 45 + n / 7, 15 + 18 * n, score) for n, score in enumerate((0.95, 0.9, 0.7, 0.6))]
FERRITINS = [pick("apo-ferritin", 15, 75, 20 + 30 * n, score) for n, score in enumerate((0.8, 0.75))]
PICKS, OTHERS = [*RIBOSOMES[:3], FERRITINS[0]], [RIBOSOMES[3], FERRITINS[1]]


@pytest.fixture(scope="module")
def pages(tmp_path_factory, shipped_species):
    """A run's pages: of two models, with an unfamiliar tomogram, with a truth, and of a padded and resampled image."""
    folder = tmp_path_factory.mktemp("corrections")
    write_csv(folder / "picks.csv", PICKS)
    tomogram = Tomogram(RUN, VOLUME, VOXEL_SIZE, VOXEL_SIZE)
    expected = {name: {"operating_point": "F1"} for name in shipped_species.names}
    for sha in SHAS:
        write_run_page(folder / f"{sha}.html", tomogram, PICKS, shipped_species, 20, None, OTHERS, expected, model=sha)
    path = folder / "unfamiliar.html"
    write_run_page(path, tomogram, PICKS, shipped_species, 20, expected=expected, warning="Not calibrated.")
    truth = Truth(PICKS, np.ones((5, 1, 3), dtype=np.int64), [0.5], "kaggle")
    compared = compare_run(tomogram, PICKS, shipped_species, truth)
    write_run_page(folder / "truth.html", tomogram, PICKS, shipped_species, 20, compared)
    doubled = [RIBOSOMES[0], replace(RIBOSOMES[0], species="thyroglobulin")]
    write_run_page(folder / "doubled.html", tomogram, doubled, shipped_species, 20)
    padded = replace(tomogram, own_voxel_size_angstrom=8.0, start_zyx_voxel=(3, 0, 5))
    write_run_page(folder / "padded.html", padded, [], shipped_species, 20, voxel_offset=0.5)
    return folder


@pytest.fixture
def open_page(browser, pages, tmp_path):
    def opened(name=SHAS[0]):
        browser.get((pages / f"{name}.html").as_uri())
        wait_until_loaded(browser)
        return browser

    browser.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    opened().execute_script("localStorage.clear()")
    return opened


@pytest.fixture
def page(open_page):
    return open_page()


@pytest.fixture
def saved(browser, tmp_path):
    """Saves the table; returns its file, which the browser makes empty and then puts the whole table in place of."""

    def save():
        for old in tmp_path.glob("*.csv"):
            old.unlink()
        browser.find_element(By.ID, "save").click()
        return WebDriverWait(browser, 20).until(
            lambda _: next((path for path in tmp_path.glob("*_corrected.csv") if path.stat().st_size), None)
        )

    return save


def press(browser, *keys):
    browser.switch_to.active_element.send_keys(*keys)
    settle(browser)


def text(browser, name):
    return browser.find_element(By.ID, name).text


def place_at(browser, plane, column, row, shape):
    """Click into the middle of a pixel of a slice; ``row`` counts from below."""
    script = """const svg = document.querySelector(`#${arguments[0]} svg`), box = svg.getBoundingClientRect();
    const [clientX, clientY] = [box.left + box.width * arguments[1], box.bottom - box.height * arguments[2]];
    svg.dispatchEvent(new MouseEvent("click", {clientX, clientY, bubbles: true}));"""
    browser.execute_script(script, plane, (column + 0.5) / shape[1], (row + 0.5) / shape[0])
    settle(browser)


def rows(path):
    """Return species, score of the pick there (nan without one) and weight of every row."""
    scores = {(one.species, *np.round(one.xyz_angstrom, 3)): one.score for one in [*PICKS, *OTHERS]}
    return {(one.species, scores.get((one.species, *one.xyz_angstrom), math.nan)): one.weight for one in read_csv(path)}


def test_with_keys_alone_every_pick_is_corrected_and_the_table_is_read_back(page, saved):
    assert text(page, "progress") == "looked at 0 of 4"
    press(page, "n")
    assert "apo-ferritin, score 0.80" in text(page, "chosen")
    press(page, "a")  # which goes on to the next species, because the page shows no other ferritin
    assert "ribosome, score 0.95" in text(page, "chosen")
    press(page, "r")
    press(page, "4")
    assert text(page, "progress") == "looked at 3 of 4 · 1 accepted · 1 rejected · 1 re-labelled"
    found = rows(saved())
    relabelled = [one for one in read_csv(saved()) if one.species == "thyroglobulin"]
    assert [(one.weight, one.origin) for one in relabelled] == [(1.0, "corrected in report.html")]
    assert relabelled[0].xyz_angstrom == tuple(np.round(RIBOSOMES[1].xyz_angstrom, 3))
    assert found[("apo-ferritin", 0.8)] == 1
    assert found[("ribosome", 0.95)] == found[("ribosome", 0.9)] == 0
    uncertain = [("ribosome", 0.7), ("ribosome", 0.6), ("apo-ferritin", 0.75)]
    assert all(math.isnan(found[one]) for one in uncertain)
    assert {one.origin for one in read_csv(saved()) if math.isnan(one.weight)} == {f"model {SHAS[0]}"}
    assert {one.run for one in read_csv(saved())} == {RUN}


def test_coordinates_are_those_of_the_table_of_picks_byte_for_byte(page, pages, saved):
    press(page, "n", "r", "a", "2")
    with open(pages / "picks.csv", newline="") as file:
        picked = [(row["particle_type"], row["x"], row["y"], row["z"]) for row in csv.DictReader(file)]
    with open(saved(), newline="") as file:
        corrected = {(row["particle_type"], row["x"], row["y"], row["z"]) for row in csv.DictReader(file)}
    assert len(picked) == 4
    assert set(picked) <= corrected


def test_undo_takes_one_verdict_back_after_the_other_and_returns_to_its_pick(page):
    press(page, "n", "a", "r")
    press(page, "u")
    assert "ribosome, score 0.95" in text(page, "chosen")
    assert "rejected" not in text(page, "chosen")
    assert text(page, "progress") == "looked at 1 of 4 · 1 accepted"
    press(page, "u")
    press(page, "u")
    assert text(page, "progress") == "looked at 0 of 4"
    assert text(page, "correction-note") == "There is nothing to undo."


def test_clicks_do_what_keys_do(page):
    page.find_element(By.XPATH, "//*[@id='tabs']/button[contains(., 'ribosome')]").click()
    page.find_elements(By.CLASS_NAME, "tile")[2].click()
    page.find_element(By.XPATH, "//*[@id='verdicts']/button[contains(., 'reject')]").click()
    (rejected,) = page.find_elements(By.CSS_SELECTOR, '.tile[data-verdict="wrong"]')
    assert "0.70" in rejected.text
    assert "rejected" in rejected.text
    assert "rejected" in rejected.get_attribute("aria-label")
    before = len(circles(page))
    page.execute_script("document.querySelector('#xy circle.pick').dispatchEvent(new MouseEvent('click'))")
    page.find_element(By.XPATH, "//*[@id='verdicts']/button[contains(., 'virus-like')]").click()
    settle(page)
    assert len(page.find_elements(By.CSS_SELECTOR, "#xy circle[data-species='4']")) == 1
    assert len(circles(page)) == before  # it has the other species' circle now
    assert text(page, "progress") == "looked at 2 of 4 · 1 rejected · 1 re-labelled"


def test_corrections_survive_a_reload_but_not_another_model(open_page, saved):
    press(open_page(), "n", "a", "r")
    before = saved().read_text()
    page = open_page()
    assert text(page, "progress") == "looked at 2 of 4 · 1 accepted · 1 rejected"
    assert saved().read_text() == before
    assert text(open_page(SHAS[1]), "progress") == "looked at 0 of 4"
    press(open_page(), "u")
    assert text(page, "progress") == "looked at 1 of 4 · 1 accepted"


def test_two_tabs_of_a_page_keep_each_others_corrections(open_page):
    page = open_page()
    first = page.current_window_handle
    page.switch_to.new_window("tab")
    second = page.current_window_handle
    try:
        press(open_page(), "n", "a")
        place_at(page, "xy", 100, 10, SHAPE[1:])
        press(page, "2")
        page.switch_to.window(first)
        wait = WebDriverWait(page, 20)
        wait.until(lambda _: text(page, "progress") == "looked at 1 of 4 · 1 accepted · 1 added")
        press(page, "n", "r")
        assert text(page, "progress") == "looked at 2 of 4 · 1 accepted · 1 rejected · 1 added"
        page.switch_to.window(second)
        wait.until(lambda _: text(page, "progress") == "looked at 2 of 4 · 1 accepted · 1 rejected · 1 added")
        press(page, "u", "u")
    finally:
        page.switch_to.window(second)
        page.close()
        page.switch_to.window(first)
    wait.until(lambda _: text(page, "progress") == "looked at 1 of 4 · 1 accepted")


def test_a_step_that_another_tab_has_stored_is_not_overwritten_before_this_tab_hears_of_it(page):
    press(page, "n", "a")
    script = """const steps = JSON.parse(localStorage.getItem(corrections.storage));
    steps.push([[items.find((item) => item.own === "ribosome").key, ""]]);
    localStorage.setItem(corrections.storage, JSON.stringify(steps));"""
    page.execute_script(script)  # no storage event comes to the tab that stores
    press(page, "n", "a")
    assert text(page, "progress") == "looked at 3 of 4 · 2 accepted · 1 rejected"


def test_without_storage_the_page_works_and_says_that_it_keeps_nothing(open_page, saved):
    browser = open_page()
    script = browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": BLOCKED})
    try:
        press(open_page(), "n", "a")
        assert "This browser does not keep corrections" in text(browser, "correction-note")
        assert rows(saved())[("apo-ferritin", 0.8)] == 1
        assert text(open_page(), "progress") == "looked at 0 of 4"
    finally:
        browser.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", script)


def test_a_table_is_continued_though_a_spreadsheet_rewrote_its_numbers(open_page, saved, tmp_path):
    page = open_page()
    press(page, "n", "a", "r", "4")
    place_at(page, "xy", 100, 10, SHAPE[1:])
    press(page, "2")
    before = saved().read_text()
    table = tmp_path / "by_hand.txt"
    table.write_text(before.replace("0.000,", "0,").replace("\n", "\r\n"), newline="")
    page.execute_script("localStorage.clear()")
    open_page().find_element(By.ID, "table").send_keys(str(table))
    WebDriverWait(page, 20).until(lambda _: "taken over" in text(page, "correction-note"))
    assert text(page, "progress") == "looked at 3 of 4 · 1 accepted · 1 rejected · 1 re-labelled · 1 added"
    assert saved().read_text() == before
    press(page, "u")  # all of them were one step
    assert text(page, "progress") == "looked at 0 of 4"


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("experiment,particle_type,x,y\n", "the columns z are missing"),
        ("experiment,particle_type,x,y,z\nTS_9,ribosome,1,2,3\n", "its runs are TS_9"),
        ('experiment,particle_type,x,y,z\n"TS ""1"", <a>",tubulin,1,2,3\n', "tubulin at 1,2,3 is no species"),
        ('experiment,particle_type,x,y,z\n"TS ""1"", <a>",ribosome,1,,3\n', "or no place"),
        (
            'experiment,particle_type,x,y,z,score\n"TS ""1"", <a>",ribosome,1,2,3,0.9\n',
            "it is a table of picks, not of corrections: choose one that a page saved",
        ),
    ],
)
def test_a_table_that_cannot_be_used_is_refused_and_says_why(page, tmp_path, table, message):
    (tmp_path / "other.txt").write_text(table)
    page.find_element(By.ID, "table").send_keys(str(tmp_path / "other.txt"))
    WebDriverWait(page, 20).until(lambda _: text(page, "correction-note"))
    assert message in text(page, "correction-note")
    assert text(page, "progress") == "looked at 0 of 4"


def test_a_click_and_a_number_add_a_particle_at_the_voxel_that_was_clicked(page, saved):
    labelled(page, "slice in z").send_keys(Keys.HOME, *[Keys.ARROW_RIGHT] * 7)
    place_at(page, "xy", 100, 10, SHAPE[1:])
    assert text(page, "chosen") == "place x 100, y 10, z 7: press 1 to 5 to add a particle here"
    press(page, "2")
    assert text(page, "progress") == "looked at 0 of 4 · 1 added"
    (added,) = [one for one in read_csv(saved()) if one.species == "beta-galactosidase"]
    assert (added.weight, added.origin) == (1.0, "corrected in report.html")
    assert np.array(added.xyz_angstrom) == pytest.approx(np.array([100, 10, 7]) * VOXEL_SIZE, abs=6e-4)
    press(page, "r")  # which takes it away: no model picked it, so nothing is rejected
    assert "beta-galactosidase" not in saved().read_text()
    press(page, "u", "u")
    assert text(page, "chosen").startswith("place x 100, y 10, z 7")


def test_an_added_particle_is_removed_where_nothing_is_left_to_look_at(open_page):
    page = open_page("padded")  # which has no picks
    place_at(page, "xy", 100, 10, SHAPE[1:])
    page.get_log("browser")
    press(page, "2", "r")
    assert page.get_log("browser") == []
    assert text(page, "chosen").endswith("press 1 to 5 to add a particle here")
    assert text(page, "correction-note") == "Every pick that the page shows has been looked at."
    press(page, "3")
    assert text(page, "progress") == "looked at 0 of 0 · 1 added"


def test_a_place_is_chosen_with_keys_too(page, saved):
    labelled(page, "slice in z").send_keys(Keys.HOME)
    labelled(page, "slice in y").send_keys(Keys.HOME, Keys.ARROW_RIGHT)
    labelled(page, "place in x").send_keys(Keys.HOME, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert text(page, "chosen").startswith("place x 2, y 1, z 0")
    press(page, "5")
    (added,) = [one for one in read_csv(saved()) if one.species == "virus-like-particle"]
    assert np.array(added.xyz_angstrom) == pytest.approx(np.array([2, 1, 0]) * VOXEL_SIZE, abs=6e-4)


def test_two_species_at_one_place_are_one_particle(open_page, saved):
    page = open_page("doubled")
    press(page, "n", "a")
    assert text(page, "progress") == "looked at 2 of 2 · 1 accepted · 1 rejected"
    assert {one.species: one.weight for one in read_csv(saved())} == {"ribosome": 1.0, "thyroglobulin": 0.0}
    press(page, "u")
    assert text(page, "progress") == "looked at 0 of 2"
    press(page, "4")  # the species of the other one
    assert {one.species: one.weight for one in read_csv(saved())} == {"ribosome": 0.0, "thyroglobulin": 1.0}


def test_a_particle_added_in_a_padded_and_resampled_image_stands_in_the_files_coordinates(open_page, saved):
    page = open_page("padded")
    place_at(page, "xz", 40, 20, (SHAPE[0], SHAPE[2]))
    place_at(page, "xy", 40, 30, SHAPE[1:])
    press(page, "1")
    (added,) = read_csv(saved())
    own = to_zyx_vox([added.xyz_angstrom], 8.0, voxel_offset=0.5)[0]
    shown = (own - (3, 0, 5)) * (8.0 / VOXEL_SIZE)  # Tomogram.places_of
    assert shown == pytest.approx([20, 30, 40], abs=1e-3)
    z, y, x = own
    assert text(page, "chosen") == f"apo-ferritin, added, voxel x {x:.1f}, y {y:.1f}, z {z:.1f}"
    assert [page.find_element(By.ID, axis).get_attribute("value") for axis in "zyx"] == ["20", "30", "40"]


def test_the_gallery_shows_only_what_nobody_has_looked_at_nearest_to_the_threshold_first(page):
    for slider in (labelled(page, f"threshold of {name}") for name in ("ribosome", "apo-ferritin")):
        slider.send_keys(Keys.HOME)
    assert text(page, "progress") == "looked at 0 of 6"
    page.find_element(By.XPATH, "//*[@id='tabs']/button[contains(., 'ribosome')]").click()
    Select(page.find_element(By.ID, "order")).select_by_visible_text("nearest to the threshold")
    Select(page.find_element(By.ID, "kind")).select_by_visible_text("not yet looked at")
    assert [tile.text for tile in page.find_elements(By.CLASS_NAME, "tile")] == ["0.70", "0.60", "0.90", "0.950"]
    page.find_elements(By.CLASS_NAME, "tile")[1].click()
    press(page, "r")
    assert [tile.text for tile in page.find_elements(By.CLASS_NAME, "tile")] == ["0.70", "0.90", "0.950"]
    assert page.switch_to.active_element.text == "0.90"
    press(page, Keys.ARROW_UP)
    assert page.switch_to.active_element.text == "0.70"
    Select(page.find_element(By.ID, "kind")).select_by_visible_text("looked at")
    assert [tile.text.split("\n")[0] for tile in page.find_elements(By.CLASS_NAME, "tile")] == ["0.60"]


def test_scores_are_weights_only_where_they_are_probabilities(open_page, saved):
    Select(open_page().find_element(By.ID, "unseen")).select_by_visible_text("weighted by the score")
    assert rows(saved()) == {(one.species, one.score): one.score for one in [*PICKS, *OTHERS]}
    page = open_page("unfamiliar")
    assert not page.find_element(By.CSS_SELECTOR, "#unseen option[value='score']").is_enabled()


def test_every_control_has_a_name_and_shows_its_focus(page):
    controls = page.find_elements(By.CSS_SELECTOR, "#corrections button, #corrections select, #corrections input")
    assert len(controls) == 13
    assert all(one.accessible_name for one in controls)
    page.find_element(By.ID, "save").send_keys(Keys.SHIFT, Keys.TAB)
    focused = page.switch_to.active_element
    assert focused.accessible_name.startswith("undo")
    assert focused.value_of_css_property("outline-style") == "solid"


def test_keys_do_nothing_where_text_is_chosen_and_typed(page):
    page.find_element(By.ID, "command").send_keys("r")
    page.find_element(By.ID, "unseen").send_keys("n")
    assert text(page, "correction-note") == ""
    assert "add a particle" not in text(page, "chosen")
    assert text(page, "progress") == "looked at 0 of 4"


def test_letters_and_numbers_can_be_switched_off_as_keys(page):
    page.find_element(By.ID, "keys").click()
    page.find_element(By.TAG_NAME, "body").send_keys("n", "r", "1")
    assert text(page, "progress") == "looked at 0 of 4"
    page.find_element(By.ID, "keys").click()
    page.find_element(By.TAG_NAME, "body").send_keys("n", "r")
    settle(page)
    assert text(page, "progress") == "looked at 1 of 4 · 1 rejected"


def test_a_page_with_a_truth_has_nothing_to_correct(open_page):
    page = open_page("truth")
    assert not page.find_element(By.ID, "corrections").is_displayed()
    place_at(page, "xy", 100, 10, SHAPE[1:])
    press(page, "1")
    assert "added" not in text(page, "chosen")


def test_nothing_of_it_is_an_error_in_the_browser(page, saved):
    page.get_log("browser")
    press(page, "n", "a", "u", "9")
    saved()
    assert page.get_log("browser") == []
