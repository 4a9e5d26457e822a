import json

from page_data import data_of
from scripts.pages.html import as_script_json, write_page


def test_no_text_ends_a_script():
    assert "<" not in as_script_json({"<!--": "</script>"})
    assert json.loads(as_script_json({"<!--": "</script>"})) == {"<!--": "</script>"}


def test_placeholders_inside_the_data_stay_as_they_are(tmp_path):
    write_page(tmp_path / "page.html", "batch.html", "{{style}}", ["batch.js"], {"name": "{{script}}"})
    assert "<title>{{style}}</title>" in (tmp_path / "page.html").read_text()
    assert data_of(tmp_path / "page.html") == {"name": "{{script}}"}
