import json

from page_data import data_of
from scripts.pages.html import TEMPLATES, as_script_json, species_data, write_page
from scripts.picking.operating_point import LEAST_F
from scripts.picking.score_valley import suggest_threshold


def test_no_text_ends_a_script():
    assert "<" not in as_script_json({"<!--": "</script>"})
    assert json.loads(as_script_json({"<!--": "</script>"})) == {"<!--": "</script>"}


def test_placeholders_inside_the_data_stay_as_they_are(tmp_path):
    write_page(tmp_path / "page.html", "batch.html", "{{style}}", ["batch.js"], {"name": "{{script}}"})
    assert "<title>{{style}}</title>" in (tmp_path / "page.html").read_text()
    assert data_of(tmp_path / "page.html") == {"name": "{{script}}"}


def test_the_least_f_of_the_operating_points_stands_in_python_alone(species_set):
    valleys = dict.fromkeys(species_set.names, suggest_threshold([]))
    assert species_data(species_set, [], valleys)["leastF"] == LEAST_F
    assert "> data.leastF / (1 + beta ** 2)" in (TEMPLATES / "common.js").read_text()
