"""Additions to ``python -m monai.bundle``: errors, warnings and stops in one line; a check for misspelt settings."""

from __future__ import annotations

import ast
import difflib
import functools
import inspect
import os
import signal
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from pydoc import locate
from types import FrameType, TracebackType
from typing import Any

from fire.parser import DefaultParseValue
from monai.bundle import ConfigComponent, ConfigParser, ConfigWorkflow, run, run_workflow

from scripts.copick_tree import IDS
from scripts.errors import (
    InputError,
    chain_of,
    find_input_error,
    reason_of,
    report_input_warnings_in_one_line,
)
from scripts.settings import SETTINGS

OWN = "scripts."
SCRIPTS = Path(__file__).resolve().parent
RENAMED = {"read_particles": "read_species", "paint_targets": "Spheres", "pick_species": "Blobs"}  # old name: new name
IGNORED, NULL = "None", "'$None'"  # MONAI drops the one and computes the other, here as a shell takes it
MISREAD = {"false": "False", "null": NULL}  # JSON words that are read as strings, which are true
YES_NO = ("True", "False", "1", "0")  # which are not read as strings
COMPUTED = ("$", "@", "%")  # begin values that MONAI computes
DEAD_WORKER = "DataLoader worker (pid"  # torch's message begins with it
LAUNCHED = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # what torchrun sets
STOPPED = "stopped: the same command resumes a training or a batch"
MONAI_LABEL_TASK = ("monailabel", "interfaces", "utils", "app.py")  # the script that the server starts for training


def guard_command_line() -> None:
    """Report input errors and warnings in one line, refuse wrong settings; only in ``python -m monai.bundle``.

    This is the first step of every config's ``initialize``. MONAI Label's training process also reports in one line; it
    has no settings to check. In any other process (a test, a server) this function does nothing.

    Raises:
        InputError: a setting on the command line is in none of the configs that the command names, or a setting has a
            value that it cannot have.
    """
    is_command = is_bundle_command()
    if is_command or Path(sys.argv[0]).parts[-4:] == MONAI_LABEL_TASK:
        report_input_errors_in_one_line()
        report_input_warnings_in_one_line()
    if is_command:
        end_orderly_when_terminated()
        refuse_unknown_settings(sys.argv[1:])
        refuse_impossible_values(sys.argv[1:])


def is_bundle_command() -> bool:
    """Return whether this process runs ``python -m monai.bundle``, also under torchrun."""
    return Path(sys.argv[0]).parts[-3:] == ("monai", "bundle", "__main__.py")


def require_one_process(fact: str) -> None:
    """Raise ``InputError`` if this process is one of several that torchrun started; the fact says why not."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError(f"{fact}: start it without torchrun.")


def require_several_processes() -> None:
    """Raise ``InputError`` if an environment variable is missing that torchrun sets for each of its processes."""
    missing = [name for name in LAUNCHED if name not in os.environ]
    if missing:
        raise InputError(
            f"this overlay is for several processes, and {', '.join(missing)} are not set: start it with torchrun, or "
            "set them for every process."
        )


def end_orderly_when_terminated() -> None:
    """Answer SIGTERM, which batch systems send, with one line and exit status 143, from now on; files are closed."""
    owner = os.getpid()

    def stop(number: int, frame: FrameType | None) -> None:
        if os.getpid() == owner:  # not a process that was forked from it
            print(STOPPED, file=sys.stderr)
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, stop)


def report_input_errors_in_one_line() -> None:
    """Print the line of an uncaught ``InputError``, Ctrl-C or dead worker instead of a traceback, from now on.

    Other exceptions keep their traceback. The exit status is 1 either way, and after Ctrl-C that of SIGINT: 130 in a
    shell.
    """
    show_traceback = sys.excepthook

    def show(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        found = find_input_error(error) or _dead_worker_in_words(error)
        if found is not None:
            print(f"error: {found}", file=sys.stderr)
        elif issubclass(kind, KeyboardInterrupt):
            print(STOPPED, file=sys.stderr)
        else:
            show_traceback(kind, error, traceback)

    sys.excepthook = show


def _dead_worker_in_words(error: BaseException) -> str | None:
    """Return what killed a process that prepares windows, and the remedy; None if it was none of these."""
    reasons = map(reason_of, chain_of(error))
    found = next((reason for reason in reasons if reason.startswith(DEAD_WORKER)), None)
    remedy = "Memory or shared memory (/dev/shm) may be too small: give a smaller --num_workers, 0 needs neither"
    return found and f"{found}. {remedy}."


def refuse_unknown_settings(arguments: Sequence[str]) -> None:
    """Check the ``--key`` arguments of a ``monai.bundle`` command against the configs that it names.

    MONAI silently accepts a misspelt top-level key, and the run uses the default. A misspelt nested key ends in a
    traceback from the place where it is used.

    Raises:
        InputError: a key is neither one of MONAI's nor in a named config, and no class there accepts it; the message
            suggests the nearest one. Or a value is a word that would be read as its opposite, or ignored, or an id that
            would be read as another one.
    """
    given = _settings(arguments)
    for key, value in given.items():
        if value in MISREAD:
            raise InputError(f"--{key} {value} would be read as the word '{value}': write {MISREAD[value]}.")
        refuse_id_that_is_read_otherwise(key, value)
    in_file = _load_args_file(given)
    settings = {**in_file, **given}
    files = _as_list(settings.get("config_file", ""))
    if not files:
        return  # MONAI itself reports that
    known = {key for file in files for key in ConfigParser.load_config_file(file)} | {ConfigParser.meta_key}
    known |= {name for call in (run, run_workflow, ConfigWorkflow) for name in inspect.signature(call).parameters}
    for key in settings:
        top = key.lstrip("+~").replace("::", "#").split("#")[0]
        if top not in known:
            near = difflib.get_close_matches(top, known, n=1)
            hint = f"did you mean --{near[0]}?" if near else "docs/reference/configuration.md lists all settings."
            raise InputError(f"--{key} is not a setting of {', '.join(files)}; {hint}")
    config = _load_configs(files)
    for key, value in settings.items():
        refuse_unknown_part(key, config)
        refuse_other_words_than_yes_and_no(key, value, config)
    for key in (key for key, value in given.items() if value == IGNORED):
        if _value_of(key, config) is not None or in_file.get(key) is not None:
            raise InputError(f"--{key} {IGNORED} would be ignored: write {NULL}.")
    refuse_moved_targets(config)


def refuse_impossible_values(arguments: Sequence[str]) -> None:
    """Check the values of settings, from configs, args file and command line, against `scripts.settings`.

    A nested key that is a setting by default, such as ``optimizer#lr``, is checked like that setting. Values that MONAI
    computes are left to what uses them.

    Raises:
        InputError: a setting cannot have its value; the message says what it may be.
    """
    given = _settings(arguments)
    settings = _load_args_file(given) | {key: _read(value) for key, value in given.items()}
    config = _load_configs(_as_list(settings.get("config_file", "")))
    for key, value in {**config, **settings}.items():
        default = _value_of(key, config) if "#" in key or "::" in key else None
        name = default[1:] if isinstance(default, str) and default.startswith("@") else key
        if name in SETTINGS and not (isinstance(value, str) and value.startswith(COMPUTED)):
            SETTINGS[name].require(key, value)
            if name == "device":
                refuse_absent_gpu(value)


def refuse_absent_gpu(device: str) -> None:
    """Raise ``InputError`` if a device is a GPU that torch does not find."""
    kind, _, number = device.partition(":")
    if kind != "cuda":
        return
    import torch  # imported here because it takes seconds

    count = torch.cuda.device_count()
    if int(number or 0) >= count:
        raise InputError(
            f"device {device} is not there: torch finds {count} GPUs. Leave device out to take what there is; a GPU "
            "needs its driver and a build of torch for CUDA."
        )


def _load_configs(files: Sequence[str]) -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MONAI's, about overlays; it repeats them when it reads the configs itself
        config: dict[str, Any] = ConfigParser.load_config_files(files)
    return config


def _load_args_file(given: Mapping[str, str]) -> dict[str, Any]:
    settings: dict[str, Any] = ConfigParser.load_config_file(given.get("args_file", ""))
    return settings


def _read(value: str) -> Any:
    """Return the value of a setting as MONAI reads it; one that stands alone, before the next setting, means True."""
    return True if not value or value.startswith("--") else DefaultParseValue(value)


def _value_of(key: str, config: Any) -> Any:
    return ConfigParser(config).get(key.lstrip("+~"))


def refuse_moved_targets(config: Any) -> None:
    """Check that every class and function of the bundle that a config names exists.

    Args:
        config: content of the configs.

    Raises:
        InputError: one does not exist; the message says where it is now.
    """
    for target in _targets_in(config):
        if target.startswith(OWN) and locate(target) is None:
            name = target.rpartition(".")[2]
            name = RENAMED.get(name, name)
            now = [one for one in public_names() if one.rpartition(".")[2] == name]
            remedy = f"it is now {now[0]}: change it in your config" if now else "the bundle has nothing of that name"
            raise InputError(f"_target_ {target} does not exist; {remedy}.")


@functools.cache
def public_names() -> frozenset[str]:
    """Return ``scripts.package.module.name`` of every public class and function of the bundle."""
    names = set()
    for file in SCRIPTS.rglob("*.py"):
        module = ".".join(file.relative_to(SCRIPTS.parent).with_suffix("").parts)
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
                names.add(f"{module}.{node.name}")
    return frozenset(names)


def _targets_in(config: Any) -> Iterator[str]:
    if isinstance(config, dict):
        if isinstance(config.get("_target_"), str):
            yield config["_target_"]
        config = list(config.values())
    for part in config if isinstance(config, list) else ():
        yield from _targets_in(part)


def refuse_unknown_part(key: str, config: Any) -> None:
    """Check a nested key such as ``optimizer#lr`` against the config.

    Keys below a reference are left to MONAI, and so are new keys of an object without ``_target_``.

    Args:
        key: the key without its dashes.
        config: content of the configs, overlays applied.

    Raises:
        InputError: a part of the key does not exist, or the class does not accept the last one as an argument.
    """
    *parents, last = key.lstrip("+~").replace("::", "#").split("#")
    for place, part in enumerate(parents):
        if isinstance(config, list) and part.isdecimal() and int(part) < len(config):
            config = config[int(part)]
        elif isinstance(config, dict) and part in config:
            config = config[part]
        elif isinstance(config, dict | list) and place > 0:
            raise InputError(f"--{key}: {'#'.join(parents[:place])} has no part '{part}'{_nearest(part, config)}.")
        else:
            return
    if isinstance(config, dict) and "_target_" in config and last not in config and not last.startswith("_"):
        taken = _arguments_of(config)
        if taken is not None and last not in taken:
            raise InputError(f"--{key}: {config['_target_']} takes no '{last}'{_nearest(last, taken)}.")


def refuse_other_words_than_yes_and_no(key: str, value: Any, config: Any) -> None:
    """Check the value of a setting that is True or False: any other word, such as ``no``, would count as True.

    Args:
        key: the key without its dashes.
        value: as it was given; nothing, or the next key, where the key stands alone, which means True.
        config: content of the configs, overlays applied.

    Raises:
        InputError: it is another word.
    """
    if not isinstance(_value_of(key, config), bool) or not isinstance(value, str):
        return
    if value and value not in YES_NO and not value.startswith(("--", *COMPUTED)):
        raise InputError(f"--{key} {value} is neither True nor False, and would count as True: write one of them.")


def refuse_id_that_is_read_otherwise(key: str, value: str) -> None:
    """Check the id of a user or a session: MONAI makes numbers of ``1.10`` and ``1_000``, which become other ids.

    Args:
        key: the key without its dashes.
        value: as it was typed.

    Raises:
        InputError: it would become another id.
    """
    if not key.endswith(IDS):  # truth_user_id, too
        return
    try:
        read = ast.literal_eval(value)
    except (ValueError, SyntaxError):  # text, which stays as it is
        return
    if not isinstance(read, str) and str(read) != value:
        raise InputError(f"--{key} {value} would be read as {read}: quote it, --{key} \"'{value}'\".")


def _arguments_of(component: dict[str, Any]) -> set[str] | None:
    """Return the names of the arguments of a component's class or function; None if it accepts any."""
    target = locate(ConfigComponent(component).resolve_module_name())  # type: ignore[no-untyped-call]
    parameters = inspect.signature(target).parameters.values() if callable(target) else []
    if not callable(target) or any(one.kind is one.VAR_KEYWORD for one in parameters):
        return None
    return {one.name for one in parameters}


def _nearest(part: str, known: Any) -> str:
    near = difflib.get_close_matches(part, known, n=1) if isinstance(known, dict | set) else []
    return f"; did you mean '{near[0]}'" if near else ""


def _settings(arguments: Sequence[str]) -> dict[str, str]:
    settings: dict[str, str] = {}
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        if argument.startswith("--") and len(argument) > 2:
            key, equals, value = argument[2:].partition("=")
            settings[key.replace("-", "_")] = value if equals else following
    return settings


def _as_list(value: str | Sequence[str]) -> list[str]:
    if not isinstance(value, str):
        return list(value)
    return [name for name in (part.strip(" '\"") for part in value.strip("[]() ").split(",")) if name]
