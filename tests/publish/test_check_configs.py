"""What the configs of a bundle may do, compared with our lists."""

import json

import pytest
from check_configs import check_configs, check_expression, check_logging, check_target, own_names
from refusal import Refusal


@pytest.fixture
def bundle(tmp_path):
    """Return a bundle of two modules, one of them a package, and of no config."""
    for name, text in {
        "scripts/work.py": "import os\nfrom scripts.parts import share\ndef run(): 0\nclass Worker: 0\ndef _own(): 0",
        "scripts/parts/__init__.py": "from scripts.parts.inner import share\n",
        "scripts/parts/inner.py": "def share(): ...\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
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
        "torch.tensor(@weights).reshape(-1, 1, 1, 1).to(@device)",
        "not @load_pretrain",
    ],
)
def test_expressions_as_our_configs_have_them_pass(text):
    assert check_expression(text) is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("import subprocess", "'import subprocess' is not on the list"),
        ("from os import system", "'from os import system' is not on the list"),
        ("__import__('os').system('ls')", "the attribute 'system' is not on the list"),
        ("__import__('os')", "the name '__import__' is not on the list"),
        ("os.system('ls')", "the name 'os.system' is not on the list"),
        ("os.path.abspath('x')", "the name 'os.path.abspath' is not on the list"),
        ("sys.path.insert(0, '/elsewhere')", "the name 'sys.path.insert' is not on the list"),
        ("@network.__class__", "the attribute '__class__' is not on the list"),
        ("(1).__class__.__bases__", "the attribute '__bases__' is not on the list"),
        ("[len for len in @a.__dict__]", "the attribute '__dict__' is not on the list"),
        ("[torch.load for torch in @a]", "the attribute 'load' is not on the list"),
        ("eval('1')", "the name 'eval' is not on the list"),
        ("open('x', 'w')", "the name 'open' is not on the list"),
        ("torch.load('x')", "the name 'torch.load' is not on the list"),
        ("(lambda: 1)()", "a form of Python that is not allowed .Lambda."),
        ("f'{@a}'", "a form of Python that is not allowed .JoinedStr."),
        ("9 ** 9 ** 9", "a form of Python that is not allowed .Pow."),
        ("x = 1", "is not an expression"),
        ("1; 2", "is not an expression"),
    ],
)
def test_anything_else_is_refused_by_name(text, reason):
    with pytest.raises(Refusal, match=reason):
        check_expression(text)


def test_targets_are_ours_or_on_the_list(bundle):
    own = own_names(bundle)
    for target in (
        "Compose", "torch.optim.AdamW", "scripts.work.run", "scripts.work.Worker", "scripts.work.share",
                   "scripts.parts.share", "scripts.parts.inner.share"):  # fmt: skip
        check_target(target, own)
    for target in ("os.system", "scripts.work.os", "scripts.work.os.system", "scripts.work._own", "SaveImaged", "$x"):
        with pytest.raises(Refusal, match="target"):
            check_target(target, own)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"run": ["$os.system('ls')"]}, "configs/inference.json, run#0: the name 'os.system'"),
        ({"a": {"b": [{"_target_": "subprocess.run"}]}}, "configs/inference.json, a#b#0#_target_: the target 'subpro"),
        ({"a": "%/other/config.json#run"}, "configs/inference.json, a: the macro '%/other/config.json#run' reads"),
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
    write_config(bundle, a="%train#transforms", b="costs 5 $, 10 % off", c=None, d=[1, 2.5, True])
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
