"""The layout of configs: what stands on one line, what is kept, what is refused."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
from scripts.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = """{
  "imports": [
    "$import os"
  ],


  "size": [64,
    96, 96], "share": 1e-3, "name": "5 \\u00c5",

  "reader": {"_target_": "Reader", "path": "@path",
             "more": {}},
  "deep": {"one": {"two": {"three": 3}}},
  "list": [{"a": 1}, {"b": [1, {"c": null}]}, [{"d": true}]]
}"""
LAID_OUT = """{
    "imports": ["$import os"],

    "size": [64, 96, 96],
    "share": 0.001,
    "name": "5 Å",

    "reader": {"_target_": "Reader", "path": "@path", "more": {}},
    "deep": {
        "one": {"two": {"three": 3}}
    },
    "list": [
        {"a": 1},
        {
            "b": [
                1,
                {"c": null}
            ]
        },
        [{"d": true}]
    ]
}
"""


@pytest.fixture(scope="module")
def layout():
    """The script as a module; it puts the bundle on the path, which is taken back."""
    spec = importlib.util.spec_from_file_location("format_configs", ROOT / "tools" / "format_configs.py")
    module = importlib.util.module_from_spec(spec)
    path = list(sys.path)
    spec.loader.exec_module(module)
    sys.path[:] = path
    return module


@pytest.fixture
def config(tmp_path):
    """A config that is not laid out."""
    path = tmp_path / "config.json"
    path.write_text(SAMPLE, encoding="utf-8")
    return path


def test_what_is_small_stands_on_one_line_and_all_else_has_a_line_per_entry(layout):
    assert layout.layout_of(SAMPLE) == LAID_OUT
    assert layout.layout_of(LAID_OUT) == LAID_OUT


def test_the_plain_arguments_of_a_component_share_lines(layout):
    long = "x" * 60
    text = json.dumps({"part": {"_target_": "Part", "a": long, "b": 2, "c": long, "inner": {"d": 1}, "e": [1], "f": 3}})
    assert layout.layout_of(text).splitlines()[1:-1] == [
        '    "part": {',
        '        "_target_": "Part",',
        f'        "a": "{long}", "b": 2,',
        f'        "c": "{long}",',
        '        "inner": {"d": 1},',
        '        "e": [1], "f": 3',
        "    }",
    ]
    assert layout.layout_of(layout.layout_of(text)) == layout.layout_of(text)


@pytest.mark.parametrize(("length", "widest"), [(104, 120), (105, 115)], ids=["fits", "is broken up"])
def test_a_line_has_at_most_120_columns_with_its_comma(layout, length, widest):
    text = layout.layout_of(json.dumps({"key": ["x" * length], "last": 1}))
    assert max(map(len, text.splitlines())) == widest


def test_blank_lines_are_kept_before_top_level_keys_alone(layout):
    text = '{\n\n"a": {\n\n"}": "{,"},\n"b": [1],  \n \n\n\n"c"\n\n:\n\n2\n\n,"d": 3\n\n}'
    assert layout.layout_of(text) == '{\n    "a": {"}": "{,"},\n    "b": [1],\n\n    "c": 2,\n    "d": 3\n}\n'


def test_every_shipped_config_holds_the_same_settings_in_the_same_order(layout):
    for path in sorted((ROOT / "bundle" / "configs").glob("*.json")):
        text = path.read_text(encoding="utf-8")
        laid_out = layout.layout_of(text)
        assert json.dumps(json.loads(laid_out)) == json.dumps(json.loads(text)), path.name
        assert layout.layout_of(laid_out) == laid_out, path.name


def test_a_check_names_the_file_and_leaves_it(layout, config, capsys):
    assert layout.main(["--check", str(config)]) == 1
    assert capsys.readouterr().out == f"{config}: not laid out; run make format\n"
    assert config.read_text(encoding="utf-8") == SAMPLE
    assert layout.main([str(config)]) == 0
    assert config.read_text(encoding="utf-8") == LAID_OUT
    capsys.readouterr()
    assert layout.main(["--check", str(config)]) == 0
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1,}', "is not valid JSON: "),
        ('{"a": {"b": 1, "b": 2}}', "is not valid JSON: the key 'b' stands twice in an object."),
        ("[1]", "holds no JSON object."),
    ],
)
def test_what_is_no_config_is_refused_in_one_line_and_left(layout, config, capsys, text, message):
    config.write_text(text)
    assert layout.main([str(config)]) == 1
    assert capsys.readouterr().err.startswith(f"error: {config} {message}")
    assert config.read_text() == text
    with pytest.raises(InputError) as refused:
        layout.layout_of(text)
    assert "\n" not in str(refused.value)


def test_the_other_files_are_laid_out_although_one_cannot_be_read(layout, config, capsys):
    assert layout.main([str(config.with_name("missing.json")), str(config)]) == 1
    assert "error: cannot read " in capsys.readouterr().err
    assert config.read_text(encoding="utf-8") == LAID_OUT
