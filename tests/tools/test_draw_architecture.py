"""The drawing of the packages states what the code does, and the page beside it says the same."""

import importlib.util
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "bundle" / "scripts"
PAGE = ROOT / "docs" / "explanation" / "architecture.md"
REMEDY = "the packages or their imports have changed: run python tools/draw_architecture.py"


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("draw_architecture", ROOT / "tools" / "draw_architecture.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture(scope="module")
def graph(tool):
    return tool.graph_of_the_code()


def test_every_package_has_its_place_and_its_line(tool, graph):
    folders = {path.parent.name for path in SCRIPTS.glob("*/__init__.py")}
    assert folders <= set(graph["packages"])
    assert set(tool.PLACES) == set(graph["packages"])


def test_every_module_is_a_package_s_or_ground(graph):
    modules = {path.stem for path in SCRIPTS.glob("*.py")} - {"__init__"}
    assert modules == set(graph["ground"]) | (modules & set(graph["packages"]))


def test_a_package_imports_only_what_comes_before_it(graph):
    before = set()
    for name, facts in graph["packages"].items():
        assert set(facts["imports"]) <= set(facts["may_import"]) <= before
        before.add(name)


def test_imports_are_found(graph):
    # one of them each, read by eye
    assert "networks" in graph["packages"]["backends"]["imports"]
    assert "picks" in graph["packages"]["picking"]["imports"]
    assert {"results", "scoring"} <= set(graph["packages"]["handlers"]["imports"])


def test_no_two_boxes_share_a_place(tool):
    places = [(place.column, place.row) for place in tool.PLACES.values()]
    assert len({*places, ("middle", 0)}) == len(places) + 1  # the files on the disk have theirs


def test_arrows_join_boxes_that_are_neighbours(tool):
    columns = list(tool.COLUMNS)
    places = {name: (columns.index(place.column), place.row) for name, place in tool.PLACES.items()}
    places[tool.DISK] = (1, 0)
    for source, target, _ in tool.FLOWS:
        aside, down = (abs(one - other) for one, other in zip(places[source], places[target], strict=True))
        assert 0 < aside + down <= 2, f"{source} to {target}"
        assert max(aside, down) == 1, f"{source} to {target}"


def test_the_committed_drawing_is_of_this_code(tool, graph):
    with Image.open(tool.PICTURE) as picture:
        assert picture.text[tool.GRAPH_KEY] == tool.as_text(graph), REMEDY


def test_another_graph_would_be_noticed(tool, graph, tmp_path):
    packages = {**graph["packages"], "picks": {"may_import": ["volumes"], "imports": []}}
    changed = {**graph, "packages": packages}
    tool.save(tool.draw(changed), changed, tmp_path / "changed.png")
    with Image.open(tmp_path / "changed.png") as picture:
        assert picture.text[tool.GRAPH_KEY] == tool.as_text(changed) != tool.as_text(graph)


def test_the_page_has_the_table_that_the_tool_makes(tool, graph):
    page = PAGE.read_text().splitlines()
    rows = tool.table_of_packages(graph)
    start = page.index(rows[0])
    assert page[start : start + len(rows)] == rows, "put in the rows of: python tools/draw_architecture.py --print"


def test_the_page_names_all_of_the_ground(graph):
    page = PAGE.read_text()
    assert all(f"| [`{name}`](../../bundle/scripts/{name}.py) |" in page for name in graph["ground"])
