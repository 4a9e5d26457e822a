"""Check what configs do: every `_target_`, `$` expression and `%` macro must be on the lists of this module.

MONAI imports whatever a `_target_` names and passes every `$` expression to `eval`. The lists contain only what our own
configs need, so that any addition has to be made here, too. Nothing of the bundle is imported or run.
"""

from __future__ import annotations

import ast
import configparser
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from refusal import Refusal

MONAI_COMPONENTS = {  # classes of MONAI that are named without their module
    "CacheDataset", "Compose", "DataLoader", "Dataset", "LoadImaged", "LrScheduleHandler", "RandFlipd", "RandRotate90d",
    "StatsHandler", "SupervisedEvaluator", "SupervisedTrainer", "TensorBoardStatsHandler", "ToTensord",
    "ValidationHandler",
}  # fmt: skip
TARGETS = MONAI_COMPONENTS | {
    "ignite.handlers.ProgressBar", "monai.optimizers.WarmupCosineSchedule", "torch.nn.BCEWithLogitsLoss",
    "torch.nn.CrossEntropyLoss",    "torch.nn.parallel.DistributedDataParallel", "torch.optim.AdamW",
}  # fmt: skip
OWN = "scripts."
WHOLE_EXPRESSIONS = {"sys.path.insert(0, os.path.abspath(@bundle_root))"}
IMPORTS = {"import copy", "import datetime", "import os", "import sys", "import torch_tensorrt"}
NAMES = {
    "len", "list", "range", "round",
    "copy.deepcopy", "datetime.timedelta", "monai.handlers.from_engine", "monai.utils.set_determinism", "os.environ",
    "sys.stderr.isatty", "torch.channels_last_3d", "torch.contiguous_format", "torch.cuda.is_available",
    "torch.cuda.set_device", "torch.device", "torch.distributed.barrier", "torch.distributed.destroy_process_group",
    "torch.distributed.get_rank", "torch.distributed.get_world_size", "torch.distributed.init_process_group",
    "torch.distributed.is_initialized", "torch.tensor",
}  # fmt: skip
# attributes of the object behind an `@` reference
ATTRIBUTES = {"parameters", "picked", "reshape", "run", "settings", "to", "type", "voxel_size_angstrom"}
SYNTAX = (
    ast.Expression, ast.Call, ast.keyword, ast.Constant, ast.List, ast.Tuple, ast.ListComp, ast.comprehension,
    ast.IfExp, ast.Subscript, ast.BoolOp, ast.BinOp, ast.UnaryOp, ast.Compare, ast.expr_context, ast.boolop,
    ast.unaryop, ast.cmpop, ast.Add, ast.Mult,
)  # fmt: skip
REFERENCE = re.compile(r"@\w+(?:(?:#|::)\w+)*")
MACRO = re.compile(r"%\w+(?:(?:#|::)\w+)*")
STAND_IN = "_reference"  # replaces a reference, so that Python can parse the expression


def check_configs(bundle: Path) -> str:
    """Check that the configs use nothing outside of the lists.

    Args:
        bundle: the bundle's folder.

    Returns:
        A summary of what was checked.

    Raises:
        Refusal: names the file and the key.
    """
    own = own_names(bundle)
    files = sorted((bundle / "configs").glob("*.json"))
    count = 0
    for file in files:
        for key, value in leaves(read_json(file)):
            try:
                count += check_value(key, value, own)
            except Refusal as reason:
                raise Refusal(f"{file.relative_to(bundle)}, {key}: {reason}") from None
    return f"{count} targets, expressions and macros in {len(files)} files"


def read_json(file: Path) -> Any:
    """Return what a JSON file holds.

    Raises:
        Refusal: the file is not JSON, or a key occurs twice in one object.
    """

    def as_table(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        table = dict(pairs)
        if len(table) < len(pairs):
            keys = [key for key, _ in pairs]
            raise Refusal(f"{file} has the key '{next(key for key in keys if keys.count(key) > 1)}' twice.")
        return table

    try:
        return json.loads(file.read_text(encoding="utf-8"), object_pairs_hook=as_table)
    except (OSError, ValueError) as error:
        raise Refusal(f"{file} cannot be read as JSON: {error}.") from None


def leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every plain value of a config with its key, for example ``train#handlers#0#_target_``."""
    if isinstance(value, dict):
        for name, part in value.items():
            yield from leaves(part, f"{key}#{name}" if key else name)
    elif isinstance(value, list):
        for place, part in enumerate(value):
            yield from leaves(part, f"{key}#{place}")
    else:
        yield key, value


def check_value(key: str, value: Any, own: set[str]) -> bool:
    """Check one plain value; return whether it is a target, an expression or a macro.

    Raises:
        Refusal: it is not on the lists.
    """
    name = key.replace("::", "#").split("#")[-1]
    if name == "_mode_" and value != "callable":
        raise Refusal(f"the _mode_ '{value}' is not allowed: a mode can start a debugger.")
    if name == "_target_":
        check_target(value, own)
        return True
    if isinstance(value, str) and value.lstrip().startswith("$"):
        check_expression(value.lstrip()[1:].strip())
        return True
    if isinstance(value, str) and value.startswith("%"):
        if not MACRO.fullmatch(value):
            raise Refusal(f"the macro '{value}' reads another file.")
        return True
    return False


def check_target(target: Any, own: set[str]) -> None:
    """Check that a `_target_` is on the list, or is a class or function of the bundle's scripts."""
    if target in TARGETS or target in own:
        return
    if isinstance(target, str) and target.startswith(OWN):
        raise Refusal(f"the target '{target}' is no class or function of the bundle's scripts.")
    raise Refusal(f"the target '{target}' is not on the list of allowed ones.")


def check_expression(text: str) -> None:
    """Check that every name, attribute and syntax element of an expression is on the lists.

    Args:
        text: the expression without its ``$``.
    """
    if text.startswith(("import ", "from ")):
        if text not in IMPORTS:
            raise Refusal(f"'{text}' is not on the list of allowed imports.")
        return
    if text in WHOLE_EXPRESSIONS:
        return
    try:
        tree = ast.parse(REFERENCE.sub(STAND_IN, text), mode="eval")
    except SyntaxError:
        raise Refusal(f"'{text}' is not an expression.") from None
    loops = [node.target for node in ast.walk(tree) if isinstance(node, ast.comprehension)]
    check_node(tree, {STAND_IN} | {target.id for target in loops if isinstance(target, ast.Name)})


def check_node(node: ast.AST, known: set[str]) -> None:
    """Check a node of an expression, and all nodes below it.

    Args:
        node: the node.
        known: names that the expression itself defines.
    """
    if isinstance(node, ast.Name) and node.id in known:
        return
    if name := dotted_name(node):
        if name.split(".")[0] not in known:
            if name not in NAMES:
                raise Refusal(f"the name '{name}' is not on the list of allowed ones.")
            return
    if isinstance(node, ast.Attribute):
        if node.attr not in ATTRIBUTES:
            raise Refusal(f"the attribute '{node.attr}' is not on the list of allowed ones.")
    elif not isinstance(node, SYNTAX):
        raise Refusal(f"'{ast.unparse(node)}' is a form of Python that is not allowed ({type(node).__name__}).")
    for part in ast.iter_child_nodes(node):
        check_node(part, known)


def dotted_name(node: ast.AST) -> str:
    """Return ``a.b.c`` for a chain of attributes that starts with a name; an empty string for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (before := dotted_name(node.value)):
        return f"{before}.{node.attr}"
    return ""


def own_names(bundle: Path) -> set[str]:
    """Return ``scripts.module.name`` of every public class and function that a module defines or re-exports."""
    names = set()
    for file in sorted((bundle / "scripts").rglob("*.py")):
        module = ".".join(file.relative_to(bundle).with_suffix("").parts).removesuffix(".__init__")
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            defined = [node.name] if isinstance(node, ast.ClassDef | ast.FunctionDef) else []
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(OWN):
                defined = [alias.asname or alias.name for alias in node.names]
            names |= {f"{module}.{name}" for name in defined if not name.startswith("_")}
    return names


def check_logging(bundle: Path) -> str:
    """Check that ``logging.conf`` only writes lines to the screen, because Python evaluates its content.

    Raises:
        Refusal: names the section.
    """
    file = bundle / "configs" / "logging.conf"
    if not file.exists():
        return "there is none"
    parser = configparser.RawConfigParser()
    try:
        parser.read_string(file.read_text(encoding="utf-8"))
    except configparser.Error as error:
        raise Refusal(f"configs/logging.conf cannot be read: {error.message.splitlines()[0]}.") from None
    for section in parser.sections():
        kind, arguments = parser.get(section, "class", fallback=""), parser.get(section, "args", fallback="")
        if kind not in ("", "StreamHandler") or arguments not in ("", "(sys.stdout,)", "(sys.stderr,)"):
            raise Refusal(f"configs/logging.conf, {section}: '{kind} {arguments}'; only StreamHandler is allowed.")
        if parser.has_option(section, "kwargs"):
            raise Refusal(f"configs/logging.conf, {section}: kwargs is not allowed.")
    return "lines to the screen, nothing else"
