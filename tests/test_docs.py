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
PAGES = [ROOT / "README.md", ROOT / "bundle" / "docs" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
WIRING = {
    "imports", "handlers", "device", "memory_format", "network", "steps", "averaged", "is_first_process", "initialize",
    "run", "_desc_",
}  # fmt: skip


def settings_of(name):
    config = json.loads((ROOT / "bundle" / "configs" / name).read_text())
    return {
        key
        for key, value in config.items()
        if "#" not in key and not isinstance(value, dict) and value != "@run" and key not in WIRING
    }


def rows():
    page = (ROOT / "docs" / "configuration.md").read_text().split("## Settings")[1].split("## Simulation")[0]
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
    wanted |= set(config) - {"scene", "imaging", "settings", "particles", "particles_path", "bundle_root", *WIRING}
    page = (ROOT / "docs" / "configuration.md").read_text().split("## Simulation")[1].split("## Results")[0]
    rows = re.findall(r"^\| `([\w#]+)` \|", page, flags=re.MULTILINE)
    assert set(rows) == wanted
    assert len(rows) == len(wanted)


def test_defaults_in_the_table_are_those_of_the_configs():
    config = json.loads((ROOT / "bundle" / "configs" / "train.json").read_text())
    config |= json.loads((ROOT / "bundle" / "configs" / "inference.json").read_text())
    page = (ROOT / "docs" / "configuration.md").read_text()
    table = dict(re.findall(r"^\| `(\w+)` \| [TEI ]+ \| [^|]* \| ([^|]*) \|", page, flags=re.MULTILINE))
    for key, shown in table.items():
        default = config.get(key)
        if isinstance(default, bool | int | float | list) and default != []:
            plain = ", ".join(map(str, default)) if isinstance(default, list) else json.dumps(default)
            assert shown.strip("` ") in (plain, plain.removesuffix(".0")), key


def commands():
    for page in PAGES:
        for block in re.findall(r"```(?:bash|sh)\n(.*?)```", page.read_text(), flags=re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                if "monai.bundle" in line:
                    yield pytest.param(line.strip(), id=f"{page.name}: {line.strip()[:60]}")


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
        yield from re.findall(r"-m scripts\.picks (convert .*)", page.read_text())


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


def test_links_between_pages_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            assert target.startswith("http") or (page.parent / target).exists(), f"{page.name}: {target}"
