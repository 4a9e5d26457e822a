"""What the configs of a bundle may do, compared with our lists."""

import json
import re

import pytest
from check_configs import check_configs, check_expression, check_logging, check_target
from refusal import Refusal


@pytest.fixture
def bundle(tmp_path):
    """Return a bundle of no config."""
    (tmp_path / "configs").mkdir()
    return tmp_path


def write_config(bundle, **content):
    (bundle / "configs" / "inference.json").write_text(json.dumps(content))
    return bundle


def test_a_key_that_stands_twice_is_refused_by_name(bundle):
    (bundle / "configs" / "inference.json").write_text('{"outer": {"one": 1, "two": 2, "two": 3}}')
    with pytest.raises(Refusal, match=r"inference.json has the key 'two' twice"):
        check_configs(bundle)


def test_the_shipped_configs_use_nothing_outside_of_the_lists(bundle_dir):
    assert check_configs(bundle_dir).endswith("files")
    assert check_logging(bundle_dir) == "lines to the screen, nothing else"


@pytest.mark.parametrize(
    "text",
    [
        "import os",
        "sys.path.insert(0, os.path.abspath(@bundle_root))",
        "torch.device('cuda:' + os.environ['LOCAL_RANK'] if torch.cuda.is_available() else 'cpu')",
        "[round(0.02 * step, 2) for step in range(1, 50)]",
        "@train#trainer#max_epochs * len(@train::dataloader)",
        "not @load_pretrain",
        "None if @judge is None else @operating_point",
        "@export_path or @bundle_root + '/models/model.ts'",
        "@displayable_configs['rotations']",
    ],
)
def test_expressions_as_our_configs_have_them_pass(text):
    assert check_expression(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "import subprocess",
        "from os import system",
        "__import__('os').system('ls')",
        "os.path.abspath('x')",
        "sys.path.insert(0, '/elsewhere')",
        "@network.__class__",
        "(1).__class__.__bases__",
        "[torch.load for torch in @a]",
        "eval('1')",
        "(lambda: 1)()",
        "f'{@a}'",
        "9 ** 9 ** 9",
        "@a + '/x'",
        "@output_dir + '/../x'",
        "x = 1",
        "1; 2",
    ],
)
def test_any_other_expression_is_refused(text):
    with pytest.raises(Refusal, match=re.escape(f"the expression '{text}' is not on the list of allowed ones.")):
        check_expression(text)


def test_targets_are_on_the_lists():
    for target in ("Compose", "torch.optim.AdamW", "scripts.results.batch.run_batch"):
        check_target(target)
    for target in ("os.system", "scripts.results.batch.os", "scripts.picks.write_csv", "SaveImaged", "$x", None, []):
        with pytest.raises(Refusal, match="the target"):
            check_target(target)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"run": ["$os.system('ls')"]}, "configs/inference.json, run#0: the expression 'os.system"),
        ({"a": {"b": [{"_target_": "subprocess.run"}]}}, "configs/inference.json, a#b#0#_target_: the target 'subpro"),
        ({"a": "%/other/config.json#run"}, "configs/inference.json, a: the macro '%/other/config.json#run' is n"),
        (
            {"a": {"_target_": "Compose", "_mode_": "debug"}},
            "configs/inference.json, a#_mode_: the _mode_ 'debug' is not allowed",
        ),
    ],
)
def test_a_refusal_names_the_file_and_the_key(content, reason, bundle):
    with pytest.raises(Refusal, match=reason):
        check_configs(write_config(bundle, **content))


def test_macros_within_a_config_and_plain_values_pass(bundle):
    write_config(bundle, a="%train#preprocessing", b="costs 5 $, 10 % off", c=None, d=[1, 2.5, True])
    assert check_configs(bundle) == "1 targets, expressions and macros in 1 files"


@pytest.mark.parametrize(
    "section",
    ["[handler_x]\nclass=FileHandler\nargs=('x',)", "[handler_x]\nclass=StreamHandler\nargs=(print('x'),)",
     "[handler_x]\nclass=StreamHandler\nkwargs={'stream': print('x')}"],
)  # fmt: skip
def test_logging_may_only_write_to_the_screen(section, bundle):
    (bundle / "configs" / "logging.conf").write_text(section)
    with pytest.raises(Refusal, match=r"configs/logging\.conf, handler_x"):
        check_logging(bundle)
