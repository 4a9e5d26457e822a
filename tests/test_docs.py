"""The pages tell the truth: every setting has its row, every command uses settings that exist."""

import json
import re
import shlex
from pathlib import Path

import pytest
from scripts.command_line import refuse_unknown_settings
from scripts.fetch import __main__ as fetch
from scripts.picks import FORMATS
from scripts.picks.__main__ import make_parser

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
SHELVES = ("start", "how_to", "explanation", "reference")
SETTINGS = DOCS / "reference" / "configuration.md"
ARCHITECTURE = DOCS / "explanation" / "architecture.md"
OUTSIDE = [ROOT / "README.md", ROOT / "bundle" / "docs" / "README.md", ROOT / "sample" / "README.md"]
PAGES = [*OUTSIDE, *sorted(DOCS.rglob("*.md"))]
README_WORDS = 700
WIRING = {
    "imports", "handlers", "device", "memory_format", "trained_network", "loss", "loss_where_known", "network", "steps",
    "averaged", "is_first_process", "initialize", "run", "_desc_",
}  # fmt: skip


def settings_of(name):
    config = json.loads((ROOT / "bundle" / "configs" / name).read_text())
    return {
        key
        for key, value in config.items()
        if "#" not in key and not isinstance(value, dict) and value != "@run" and key not in WIRING
    }


def rows():
    page = SETTINGS.read_text().split("## Settings")[1].split("\n## ")[0]
    return dict(re.findall(r"^\| `(\w+)` \| ([TEI ]+) \|", page, flags=re.MULTILINE))


def test_every_setting_has_its_row():
    train, evaluate, inference = (settings_of(f"{name}.json") for name in ("train", "evaluate", "inference"))
    documented = rows()
    assert {key for key, where in documented.items() if "T" in where} == train
    assert {key for key, where in documented.items() if "I" in where} == inference
    assert {key for key, where in documented.items() if "E" in where} == evaluate - train


def test_every_setting_of_the_simulator_has_its_row():
    config = json.loads((ROOT / "bundle" / "configs" / "simulate.json").read_text())
    crowds = [*config["specimens"].values(), *config["distractors"].values(), *config["reconstructions"].values()]
    wanted = {f"#{key}" for crowd in crowds for key in crowd}
    wanted |= {f"{group}#{key}" for group in ("scene", "imaging") for key in config[group]}
    wanted |= set(config) - {"scene", "imaging", "settings", "species", "species_path", "bundle_root", *WIRING}
    page = SETTINGS.read_text().split("## Simulation")[1].split("## Results")[0]
    rows = re.findall(r"^\| `([\w#]+)` \|", page, flags=re.MULTILINE)
    assert set(rows) == wanted
    assert len(rows) == len(wanted)


def test_defaults_in_the_table_are_those_of_the_configs():
    config = json.loads((ROOT / "bundle" / "configs" / "train.json").read_text())
    config |= json.loads((ROOT / "bundle" / "configs" / "inference.json").read_text())
    page = SETTINGS.read_text()
    table = dict(re.findall(r"^\| `(\w+)` \| [TEI ]+ \| [^|]* \| ([^|]*) \|", page, flags=re.MULTILINE))
    for key, shown in table.items():
        default = config.get(key)
        if isinstance(default, bool | int | float | list) and default != []:
            plain = ", ".join(map(str, default)) if isinstance(default, list) else json.dumps(default)
            assert shown.strip("` ") in (plain, plain.removesuffix(".0")), key


def test_every_key_beside_the_weights_has_its_row():
    models = ROOT / "bundle" / "models"
    model, second_look = (json.loads((models / f"{name}.json").read_text()) for name in ("model", "second_look"))
    page = (DOCS / "reference" / "model_json.md").read_text().split("## What it contains")[1].split("\n## ")[0]
    shared, own = (
        set(re.findall(r"^\| `(\w+)` \|", part, flags=re.MULTILINE))
        for part in page.split("The file `second_look.json`")
    )
    newer = {"selected_on"}  # than the shipped weights, which no score selected
    assert shared == set(model) | newer
    assert shared | own == set(second_look) | newer


def commands():
    for page in PAGES:
        for block in re.findall(r"```(?:bash|sh)\n(.*?)```", page.read_text(), flags=re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                if "monai.bundle" in line:
                    yield pytest.param(line.strip(), id=f"{page.relative_to(ROOT)}: {line.strip()[:60]}")


@pytest.mark.parametrize("command", list(commands()))
def test_commands_use_settings_that_exist(command, monkeypatch):
    monkeypatch.chdir(ROOT / "bundle")
    words = re.findall(r'"[^"]*"|\S+', command.split("monai.bundle", 1)[1])
    given = [word.strip('"') for word in words]
    refuse_unknown_settings(
        [word for word in given if not re.match(r"--(filepath|net_id|ckpt_file|out_file|converter_kwargs)", word)]
    )


def conversions():
    for page in PAGES:
        yield from re.findall(r"-m scripts\.picks (convert [^`\n]+)", page.read_text())


@pytest.mark.parametrize("command", list(conversions()))
def test_conversions_use_keys_and_formats_that_exist(command):
    options = make_parser().parse_args(command.split())
    assert options.to_format in (None, *FORMATS)


def fetches():
    for page in PAGES:
        for line in page.read_text().splitlines():
            yield from re.findall(r"^\S+ -m scripts\.fetch (.*)", line)


@pytest.mark.parametrize("command", list(fetches()))
def test_fetches_use_options_that_exist(command):
    assert str(fetch.make_parser().parse_args(shlex.split(command)).folder) == "../far"


def test_programs_of_the_bundle_exist():
    scripts = ROOT / "bundle" / "scripts"
    for page in PAGES:
        for name in re.findall(r"-m\s+scripts\.([\w.]+)", page.read_text()):
            path = scripts / name.replace(".", "/")
            program = path / "__main__.py" if path.is_dir() else path.with_suffix(".py")
            assert '__name__ == "__main__"' in program.read_text(), f"{page.relative_to(ROOT)}: {name}"


def test_make_targets_on_the_pages_exist():
    targets = set(re.findall(r"^([\w-]+):(?!=)", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    for page in PAGES:
        for target in re.findall(r"(?:^|`)make ([\w-]+)", page.read_text(), flags=re.MULTILINE):
            assert target in targets, f"{page.relative_to(ROOT)}: make {target}"


def anchors_of(page):
    """Return the anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]+))?\)", page.read_text())
    for path, anchor in links:
        if path.startswith("http"):
            continue
        target = page.parent / path if path else page
        assert target.exists(), path
        assert not anchor or anchor in anchors_of(target), f"{path}#{anchor}"


@pytest.mark.parametrize("shelf", SHELVES)
def test_a_shelf_lists_all_of_its_pages(shelf):
    index = DOCS / shelf / "README.md"
    pages = {path.name for path in index.parent.glob("*.md")} - {index.name}
    assert pages
    assert pages <= set(re.findall(r"\]\((\w+\.md)\)", index.read_text()))
    listed = set(re.findall(rf"\]\({shelf}/(\w+\.md)\)", (DOCS / "README.md").read_text()))
    assert listed == {*pages, index.name}


def test_there_is_no_page_outside_the_shelves_and_no_picture_that_nobody_shows():
    assert {path.parent.name for path in DOCS.rglob("*.md")} == {"docs", *SHELVES}
    shown = {
        (page.parent / path).resolve()
        for page in PAGES
        for path in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", page.read_text())
    }
    assert set(DOCS.rglob("*.png")) == {path for path in shown if path.is_relative_to(DOCS)}


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().split()) <= README_WORDS


def test_the_walks_name_functions_and_classes_that_are_where_they_say():
    steps = re.findall(r"\]\(([^)]+\.py)\)\s+`(\w+)`", ARCHITECTURE.read_text())
    assert len(steps) > 20
    for path, name in steps:
        module = (ARCHITECTURE.parent / path).read_text()
        assert re.search(rf"^(class|def) {name}\b", module, flags=re.MULTILINE), f"{path}: {name}"
