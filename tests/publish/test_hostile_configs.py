"""Configs that try to run or to write something: all are refused, and nothing of the bundle has run before."""

import importlib
import inspect
import json
import re
import sys
from pathlib import Path

import pytest
from check_bundle import check_bundle, reading_checks
from check_configs import FOREIGN, OWN_TARGETS, PLACES, check_configs, check_logging, items_of, read_json
from make_bundle import NAME, assemble
from refusal import Refusal

ROOT = Path(__file__).resolve().parents[2]
CANARY = "PWNED"
TOUCH = f"touch {CANARY}"
RUN = f"$__import__('os').system('{TOUCH}')"
LOAD = {"_target_": "LoadImaged", "keys": "image"}
CONFIGS = {  # what it tries, and the inference.json that does it
    "a reader by name": {"a": {**LOAD, "reader": "os.system", "command": TOUCH}},
    "a reader by name without arguments": {"a": {**LOAD, "reader": "os.abort"}},
    "a shell as reader": {"a": {**LOAD, "reader": "subprocess.Popen", "args": TOUCH, "shell": True}},
    "a reader in a list": {"a": {**LOAD, "reader": ["os.system"], "command": TOUCH}},
    "a reader by reference": {"name": "os.system", "a": {**LOAD, "reader": "@name", "command": TOUCH}},
    "a reader by a setting called reader": {"reader": "os.system", "a": {**LOAD, "reader": "@reader"}},
    "a reader by expression": {"name": "os.system", "a": {**LOAD, "reader": "$@name", "command": TOUCH}},
    "a reader by another target": {"a": {**LOAD, "reader": {"_target_": "scripts.species.read_species"}}},
    "a reader put into another config": {"reader#_target_": "scripts.species.read_species"},
    "an argument for MONAI's own readers": {"a": {**LOAD, "reader": "@reader", "allow_pickle": True}},
    "an argument put into another config": {"train#preprocessing#0#command": TOUCH},
    "an argument by its other separator": {"train::preprocessing::0::command": TOUCH},
    "an argument behind a macro": {"validate#preprocessing#transforms#0#reader": "@reader"},
    "an addition to another config": {"+initialize": [RUN]},
    "a removal from another config": {"~initialize": None},
    "a system call": {"run": [RUN]},
    "a system call after an import": {"run": ["$import os", f"$os.system('{TOUCH}')"]},
    "two statements": {"run": [f"$import os; os.system('{TOUCH}')"]},
    "another import": {"imports": ["$import subprocess"]},
    "an import of a part": {"imports": ["$from os import system"]},
    "an import under another name": {"imports": ["$import os as sys"]},
    "a target that is a function of Python": {"a": {"_target_": "os.system", "command": TOUCH}},
    "a target of MONAI that runs configs": {"a": {"_target_": "monai.bundle.run", "config_file": "x.json"}},
    "a target that is a reference": {"name": "os.system", "a": {"_target_": "@name", "command": TOUCH}},
    "a target that is an expression": {"a": {"_target_": "$__import__('os').system", "command": TOUCH}},
    "a target in a list": {"a": {"_target_": ["os.system"], "command": TOUCH}},
    "a target that is an object": {"a": {"_target_": {"_target_": "scripts.species.read_species"}, "path": None}},
    "an attribute between underscores": {"run": ["$@network.__class__.__base__.__subclasses__()"]},
    "an attribute by name": {"run": [f"$getattr(@device, 'type').system('{TOUCH}')"]},
    "a loop variable": {"run": [f"$[os.system('{TOUCH}') for os in @modules]"]},
    "a lambda": {"run": [f"$(lambda: open('{CANARY}', 'w'))()"]},
    "an f-string": {"run": [f"$f'{{open({CANARY!r}, 1)}}'"]},
    "a walrus": {"run": [f"$(name := open('{CANARY}', 'w'))"]},
    "a name in other letters": {"run": [f"$ｅval(\"open('{CANARY}', 'w')\")"]},
    "the name that stands for a reference": {"run": [f"$_reference0.system('{TOUCH}')"]},
    "a leading space": {"run": [f" {RUN}"]},
    "a leading line break": {"run": [f"\n{RUN}"]},
    "an expression as a remark": {"_desc_": RUN},
    "an expression that disables": {"a": {"_target_": "Compose", "_disabled_": RUN}},
    "an expression as a requirement": {"a": {"_target_": "Compose", "_requires_": [RUN]}},
    "an allowed expression as a requirement": {"a": {"_target_": "Compose", "_requires_": ["@reader"]}},
    "a debugger": {"a": {"_target_": "Compose", "_mode_": "debug"}},
    "a macro of another file": {"a": "%/elsewhere/config.json::run"},
    "a macro upwards": {"a": "%##run"},
    "a reference upwards": {"a": "@##run"},
    "macros that double": {"a": ["%b", "%b"], "b": ["%c", "%c"], "c": [1, 1]},
    "sums that double": {"a": "$@b + @b", "b": "$@c + @c", "c": [1]},
    "a list without an end": {"a": "$list(range(10 ** 10))"},
    "a long list": {"a": "$[0] * 10000000000"},
    "an expression without an end": {"a": "$" + "not " * 100_000 + "@a"},
    "a zero byte": {"a": "$@a\0"},
    "the environment": {"a": "$os.environ['HOME']"},
    "another process group": {"a": "$torch.distributed.init_process_group('gloo', init_method='file:///x')"},
    "a writer of our own": {"a": {"_target_": "scripts.picks.write_csv", "path": CANARY, "picks": []}},
    "a remover of our own": {"a": {"_target_": "scripts.atomic_files.remove_temporaries", "folder": "."}},
    "a builder of our own": {"a": {"_target_": "scripts.networks.recipe.foreign", "name": "os.system"}},
    "a path of its own": {"a": {"_target_": "scripts.atomic_files.require_writable", "folder": CANARY}},
    "a path by a setting of another name": {
        "elsewhere": CANARY,
        "a": {"_target_": "scripts.atomic_files.require_writable", "folder": "@elsewhere"},
    },
    "a path upwards": {"a": {"_target_": "scripts.atomic_files.require_writable", "folder": "$@output_dir + '/../x'"}},
    "a path into the scripts": {"output_dir": "$@bundle_root + '/scripts'"},
    "an absolute path": {"output_dir": "/etc"},
    "an absolute path by expression": {"output_dir": "$'/et' + 'c'"},
    "another root": {"bundle_root": "/"},
    "an open file as path": {"a": {"_target_": "scripts.species.read_species", "path": 1}},
    "a name that is a path": {"run_name": "../../x{number}"},
    "a transform by name": {"a": {"_target_": "Compose", "transforms": ["os.system"]}},
    "a function by name": {"a": {"_target_": "DataLoader", "dataset": "@dataset", "collate_fn": "os.system"}},
    "a function that workers start with": {"a": {"_target_": "DataLoader", "worker_init_fn": "os.system"}},
    "another transform": {"a": {"_target_": "Lambdad", "keys": "image", "func": "os.system"}},
    "a writer of MONAI by name": {"a": {"_target_": "SaveImaged", "keys": "pred", "writer": "os.system"}},
    "a type by name": {"a": {**LOAD, "reader": "@reader", "dtype": "os.system"}},
}  # fmt: skip
FILES = {  # what it tries, its file and the file's text
    "a doubled key": ("configs/inference.json", f'{{"a": "{RUN}", "a": 1}}'),
    "an expression in the metadata": ("configs/metadata.json", json.dumps({"version": RUN})),
    "a target in the metadata": ("configs/metadata.json", json.dumps({"a": {"_target_": "os.system"}})),
    "an expression in the species": ("configs/species.json", json.dumps({"species": {"a": RUN}})),
    "an expression in a card": ("models/model.json", json.dumps({"network_def": RUN})),
    "a config in a folder below": ("configs/more/inference.json", json.dumps({"run": [RUN]})),
    "a config among the weights": ("models/inference.json", json.dumps({"run": [RUN]})),
}
LOGGING = {
    "another class": "[handler_x]\nclass=FileHandler\nargs=('x',)",
    "a call as argument": f"[handler_x]\nclass=StreamHandler\nargs=(open('{CANARY}', 'w'),)",
    "named arguments": f"[handler_x]\nclass=StreamHandler\nkwargs={{'stream': open('{CANARY}', 'w')}}",
    "a class of a formatter": "[formatter_x]\nclass=os.system",
    "defaults of a formatter": f"[formatter_x]\ndefaults=open('{CANARY}', 'w')",
    "a class in capitals": "[handler_x]\nCLASS=FileHandler",
    "a class for all sections": "[DEFAULT]\nclass=FileHandler\n[handler_x]\nlevel=INFO",
    "a class by substitution": "[handler_x]\nclass=%(name)s",
}


@pytest.fixture(scope="module")
def good_bundle(tmp_path_factory):
    """Return a bundle whose scripts leave the canary when they are imported."""
    folder = assemble(tmp_path_factory.mktemp("hostile") / NAME)
    for weights in folder.glob("models/*.pt"):
        weights.write_bytes(b"")  # they are checked after the configs
    (folder / "scripts" / "__init__.py").write_text(f"open('{CANARY}', 'w').close()\n")
    return folder


@pytest.fixture
def refusal_of(good_bundle, tmp_path, monkeypatch):
    """Return a function that puts a text into a file of the bundle, and returns why ``check`` refuses it.

    Nothing may have run.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    files: dict[Path, str | None] = {}

    def refuse(name, text, check=check_configs):
        path = good_bundle / name
        files[path] = path.read_text() if path.exists() else None
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        with pytest.raises(Refusal) as refusal:
            check(good_bundle)
        assert not list(tmp_path.iterdir())
        return str(refusal.value)

    yield refuse
    for path, text in files.items():
        path.unlink() if text is None else path.write_text(text)


@pytest.mark.parametrize("attempt", CONFIGS)
def test_a_config_is_refused_and_runs_nothing(attempt, refusal_of):
    assert "configs/inference.json, " in refusal_of("configs/inference.json", json.dumps(CONFIGS[attempt]))


@pytest.mark.parametrize("attempt", FILES)
def test_a_file_is_refused_and_runs_nothing(attempt, refusal_of):
    name, text = FILES[attempt]
    assert name in refusal_of(name, text)


@pytest.mark.parametrize("attempt", LOGGING)
def test_a_logging_file_is_refused_and_runs_nothing(attempt, refusal_of):
    assert "configs/logging.conf, " in refusal_of("configs/logging.conf", LOGGING[attempt], check_logging)


@pytest.mark.parametrize("attempt", ["a reader by name", "a system call", "a writer of our own"])
def test_the_whole_check_of_a_bundle_runs_nothing_of_it(attempt, refusal_of):
    assert "inference.json, " in refusal_of("configs/inference.json", json.dumps(CONFIGS[attempt]), check_bundle)


def test_the_configs_are_checked_before_anything_of_the_bundle_is_loaded():
    assert list(reading_checks()).index("configs") < list(reading_checks()).index("weights")


def test_every_target_and_argument_on_the_lists_is_used():
    used = {target: set() for target in (*FOREIGN, *OWN_TARGETS)}
    for file in (ROOT / "bundle").rglob("*.json"):
        for place, value, target in items_of(read_json(file)):
            if place[-1] == "_target_":
                used[value]
            elif target in FOREIGN:
                used[target].add(place[-1])
    listed = {target: set(arguments.split()) for target, arguments in FOREIGN.items()}
    assert {target: used[target] & listed[target] for target in FOREIGN} == listed


# Where MONAI turns a text that is not its own into a module, a class, a function or the result of an expression
LOOKS_UP = re.compile(r"(?<![.\w])(?:locate|instantiate|import_module|optional_import|eval|exec)\((?!\"[\w.]+\"[,)])")


def sources_of(target):
    """Return the source of a class of MONAI, of those above it, and of the class for arrays that it may wrap."""
    module, _, name = target.rpartition(".")
    modules = [module] if module else [f"monai.{part}" for part in ("transforms", "data", "engines", "handlers")]
    classes = [
        getattr(module, one, None)
        for module in map(importlib.import_module, modules)
        for one in (name, name.removesuffix("d"))
    ]
    above = {one for found in classes if found for one in inspect.getmro(found) if one.__module__.startswith("monai.")}
    return "".join(inspect.getsource(one) for one in above)


def test_the_one_class_of_monai_that_calls_what_a_text_names_is_known():
    ours = [target for target in FOREIGN if "." not in target or target.startswith("monai.")]
    assert [target for target in ours if LOOKS_UP.search(sources_of(target))] == ["LoadImaged"]
    assert FOREIGN["LoadImaged"] == "keys reader ensure_channel_first"  # of which it looks up the reader


def test_the_paths_that_our_own_classes_and_functions_take_are_known():
    for target in OWN_TARGETS:
        module, _, name = target.rpartition(".")
        for argument, parameter in inspect.signature(getattr(importlib.import_module(module), name)).parameters.items():
            is_path = "Path" in str(parameter.annotation) or re.search("(path|dir|folder|file)s?$", argument)
            assert not is_path or argument in PLACES, f"{target} takes {argument}"
