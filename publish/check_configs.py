"""Check what configs do: every `_target_`, `$` expression, `%` macro and path must be on the lists of this module.

MONAI imports whatever a `_target_` names, passes every `$` expression to `eval`, and some of its classes look up their
arguments by name. The lists contain only what our own configs need, so that any addition has to be made here, too.
Nothing of the bundle is imported or run.
"""

from __future__ import annotations

import ast
import configparser
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from refusal import Refusal

FOREIGN = {  # classes of other packages, with the arguments that may be given
    "Compose": "transforms",
    "DataLoader": "dataset sampler batch_size num_workers collate_fn",
    "Dataset": "data transform",
    "DeepSupervisionLoss": "loss",
    "LoadImaged": "keys reader ensure_channel_first",
    "LrScheduleHandler": "lr_scheduler print_lr epoch_level",
    "RandFlipd": "keys prob spatial_axis",
    "RandRotate90d": "keys prob max_k spatial_axes",
    "StatsHandler": "iteration_log",
    "SupervisedEvaluator": "device prepare_batch val_data_loader network inferer postprocessing val_handlers "
    "key_val_metric",
    "SupervisedTrainer": "max_epochs device train_data_loader network loss_function optimizer inferer train_handlers "
    "compile",
    "TensorBoardStatsHandler": "log_dir tag_name output_transform iteration_log",
    "ToTensord": "keys track_meta",
    "TverskyLoss": "sigmoid alpha beta batch",
    "ignite.handlers.ProgressBar": "desc",
    "monai.optimizers.WarmupCosineSchedule": "optimizer warmup_steps t_total end_lr",
    "torch.nn.BCEWithLogitsLoss": "pos_weight",
    "torch.nn.CrossEntropyLoss": "label_smoothing",
    "torch.nn.parallel.DistributedDataParallel": "module device_ids",
    "torch.optim.AdamW": "params lr weight_decay",
}
FOREIGN_TEXTS = {"image", "label", "loss", "proposing"}  # the only texts among their arguments
OWN = {  # modules of the bundle's scripts, with their classes and functions
    "atomic_files": "require_writable",
    "backends.choice": "program_of with_backend",
    "backends.onnx": "OnnxNetwork export_onnx",
    "backends.torchscript": "export_torchscript load_torchscript",
    "command_line": "guard_command_line require_one_process require_several_processes",
    "datasets.annotated": "require_annotated",
    "datasets.runs": "as_names list_runs require_run_names require_runs",
    "datasets.splits": "plan_folds split_runs",
    "datasets.truth": "list_labelled_runs window_weights",
    "handlers.checkpoint": "InstallWeights TrainingCheckpoint run_training",
    "handlers.folds": "StoreOutOfFold run_folds run_out_of_fold summarise_folds",
    "handlers.pages": "OverlayToTensorBoard WritePages",
    "handlers.results": "WritePicks WriteToProject",
    "handlers.scores": "PickScore WriteScores check_scored_runs",
    "handlers.second_look": "StoreProposals StoredPlaces WriteReliability calibrate_second_look each_once "
    "warn_of_used_runs with_proposals without_proposals",
    "handlers.thresholds": "FitThresholds",
    "handlers.times": "ReleaseTomogram StageTimes",
    "handlers.training_logs": "MetricsTable TrainingProgress",
    "handlers.validation": "ValidateEpochs",
    "handlers.weights": "AverageWeights GradientClipHandler",
    "inference.inferers": "TomogramInferer WindowInferer",
    "inference.precision": "number_format",
    "monai_label": "CheckServedWeights ToStudyGridd chosen_points client_options is_served studies_with_points "
    "with_options",
    "networks.convnext_unet": "ConvNeXtUNet",
    "networks.crop_classifier": "CropClassifier",
    "networks.ensemble": "load_files network_of_files sha256_of_files species_of_files",
    "networks.gpu_layers": "fastest_memory_format",
    "networks.model_card": "network_of sha256_of species_of",
    "networks.recipe": "output_stride",
    "networks.slice_encoder_unet": "SliceEncoderUNet",
    "networks.transfer": "parameter_groups species_taken_over start_from",
    "networks.weights": "load_weights",
    "picking.blobs": "Blobs",
    "picking.operating_point": "warn_of_unused_point",
    "picking.peaks": "Peaks",
    "picking.pick_transform": "PickParticlesd",
    "picking.second_look": "find_second_look",
    "picking.second_look_transform": "ProposePlacesd SecondLookd",
    "preparation.batch": "collate_one prepare_batch",
    "preparation.cache": "prepared_dataset",
    "preparation.contrast": "CheckContrastd",
    "preparation.crops": "CropShape",
    "preparation.interest": "MapInterestd write_interest_pictures",
    "preparation.padding": "CropPaddingd",
    "preparation.region": "LimitRegiond",
    "preparation.scaling": "ScalePercentilesd",
    "preparation.truth": "LoadTruthd",
    "preparation.voxel_size": "CheckVoxelSized",
    "results.batch": "run_batch",
    "results.project_session": "ProjectSession",
    "scoring.threshold_sweep": "SweepThresholdsd",
    "simulation.dataset": "simulate_dataset",
    "species": "positive_weights read_species",
    "training.auxiliary_heads": "AuxiliaryHeads",
    "training.crop_dataset": "CropDataset",
    "training.crops": "CropMix CropVariation",
    "training.heat_maps": "HeatMaps",
    "training.losses": "BalancedSquaredError KnownVoxels NonNegativeRisk SumOfLosses WeightedSquaredError",
    "training.points_alone": "positive_shares",
    "training.spheres": "Spheres",
    "training.window_dataset": "TomogramSampler WindowDataset WindowSampler record_of_runs",
    "training.windows": "PaintTargetsd RandWindowd",
    "volumes.monai_reader": "TomogramReader",
}
OWN_TARGETS = {f"scripts.{module}.{name}" for module, names in OWN.items() for name in names.split()}
READER = "scripts.volumes.monai_reader.TomogramReader"  # LoadImaged calls whatever a text in its place names
SPECIAL_KEYS = {"_target_", "_disabled_", "_desc_", "_mode_"}
MACROS = {"%train#preprocessing"}

EXPRESSIONS = {  # all that call something, or could grow without limit; the others follow from SYNTAX
    "import copy", "import datetime", "import os", "import sys", "import torch_tensorrt",
    "sys.path.insert(0, os.path.abspath(@bundle_root))",
    "monai.utils.set_determinism(seed=0)",
    "monai.utils.set_determinism(seed=@seed)",
    "monai.handlers.from_engine(['loss'], first=True)",
    "torch.device(@device)",
    "torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
    "torch.device('cuda:' + os.environ['LOCAL_RANK'] if torch.cuda.is_available() else 'cpu')",
    "torch.cuda.set_device(@device) if torch.device(@device).type == 'cuda' else None",
    "[@device] if torch.device(@device).type == 'cuda' else None",
    "torch.distributed.init_process_group('gloo', timeout=datetime.timedelta(days=30))",
    "torch.distributed.init_process_group('nccl' if torch.cuda.is_available() else 'gloo')",
    "torch.distributed.barrier()",
    "torch.distributed.destroy_process_group()",
    "torch.distributed.get_rank()",
    "torch.distributed.get_world_size()",
    "not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0",
    "sys.stderr.isatty() and not @in_monai_label",
    "sys.stderr.isatty() and torch.distributed.get_rank() == 0",
    "@network.parameters()",
    "@network_def.to(device=@device, memory_format=@memory_format)",
    "@trained_network.to(device=@device, memory_format=@memory_format)",
    "@first_network_def.to(device=@device, memory_format=@memory_format)",
    "copy.deepcopy(@network_def).to(device=@device, memory_format=@memory_format)",
    "torch.tensor(@positive_weights).reshape(-1, 1, 1, 1).to(@device)",
    "len(@species.picked)",
    "len(@species.picked) + 1",
    "[round(0.02 * step, 2) for step in range(1, 50)]",
    "3 * [@crop_size]",
    "@train#trainer#max_epochs * len(@train#dataloader)",
    "@train#preprocessing + [@region]",
    "@train#preprocessing + @train#maps",
    "@train#dataset#data + @train#dataset#more_data",
    "@validation_names + @excluded_names",
    "@proposed_training + @proposed_calibration",
    "@validate#evaluator.run()",
    "@validate#evaluator.run() if len(@validate#dataset) else None",
}  # fmt: skip
SYNTAX = (
    ast.Constant, ast.List, ast.IfExp, ast.Subscript, ast.BoolOp, ast.Compare, ast.UnaryOp, ast.Not,
    ast.expr_context, ast.boolop, ast.cmpop,
)  # fmt: skip
LONGEST = 100  # characters; Python cannot read a very long one
ATTRIBUTES = {"heads", "names", "settings", "type", "voxel_size_angstrom"}  # of the object behind a reference
STAND_IN = "_reference"  # replaces a reference, followed by its number, so that Python can parse the expression
REFERENCE = re.compile(r"@\w+(?:(?:#|::)\w+)*")
KEY = re.compile(r"(?!_)\w[\w .,()-]*")  # a leading + or ~ would add to another config, or delete from it

PLACES = {  # settings and arguments that are paths, with the texts that they may be
    "bundle_root": {"."},
    "dataset_dir": {"/workspace/data/simulated", "/workspace/data/tomograms"},
    "maps_dir": {"/workspace/data/maps"},
    **dict.fromkeys(
        ("backbone_weights_path", "cache_dir", "calibration_path", "checkpoint_path", "export_path", "folder",
         "install_path", "interest_table", "log_dir", "map", "mask_path", "models_dir", "output_dir", "path",
         "proposals_dir", "recorded_for", "second_look_path", "species_path", "started_from", "weights"),
        frozenset[str](),
    ),
}  # fmt: skip
BELOW = re.compile(  # what may be added to one of them
    r"/(cache|configs/species\.json|metrics\.csv|models(/\w+\.\w+)?|model(_last)?\.pt|output(/\w+)?|proposals|tensorboard"
    r"|\w{4}\.mrc)"
)
SLASH = re.compile(r"[/\\\x00]")
PROSE = {  # data that hold texts with slashes
    "configs/metadata.json", "docs/sbom.cdx.json", "models/model.json", "models/second_look.json",
}  # fmt: skip
LOGGING = {  # options of logging.conf, with what they may be
    **dict.fromkeys(("keys", "level", "handlers", "formatter", "qualname", "propagate"), r"[\w.,]*"),
    "format": r"[\w%():. ]*",
    "class": "StreamHandler",
    "args": r"\(sys\.(stdout|stderr),\)",
}

Place = tuple[str, ...]  # of an item in a config, for example train, handlers, 0, _target_


def check_configs(bundle: Path) -> str:
    """Check that the configs, and the cards beside the weights, use nothing outside of the lists.

    Args:
        bundle: the bundle's folder.

    Returns:
        A summary of what was checked.

    Raises:
        Refusal: names the file and the key.
    """
    contents = {file.relative_to(bundle): read_json(file) for file in sorted(bundle.rglob("*.json"))}
    targets = targets_in(contents.values())
    count = 0
    for file, content in contents.items():
        for place, value, target in items_of(content):
            try:
                owners = targets.get(place[: name_index(place)], set()) if target is None else {target}
                check_place(place, targets)
                check_argument(place, value, owners)
                count += check_value(place, value, is_prose=file.as_posix() in PROSE)
            except Refusal as reason:
                raise Refusal(f"{file}, {'#'.join(place)}: {reason}") from None
    return f"{count} targets, expressions and macros in {len(contents)} files"


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


def items_of(value: Any, place: Place = (), target: str | None = None) -> Iterator[tuple[Place, Any, str | None]]:
    """Yield everything in a config: its place, its value and the target that it is an argument of; None without one.

    ``a#b`` and ``a::b`` as a key, which overlays use, mean ``b`` in ``a``.
    """
    if isinstance(value, dict):
        parts = [(re.split("#|::", key), part) for key, part in value.items()]
        target = str(value["_target_"]) if "_target_" in value else None
    elif isinstance(value, list):
        parts = [([str(number)], part) for number, part in enumerate(value)]
    else:
        return
    for key, part in parts:
        yield (*place, *key), part, target
        yield from items_of(part, (*place, *key), target)


def targets_in(contents: Iterable[Any]) -> dict[Place, set[str]]:
    """Return the places of all objects and lists, each with the targets that any config has there."""
    found: dict[Place, set[str]] = {(): set()}
    for content in contents:
        for place, value, _ in items_of(content):
            if isinstance(value, dict | list):
                found.setdefault(place, set())
            elif place[-1] == "_target_":
                found.setdefault(place[:-1], set()).add(str(value))
    return found


def name_index(place: Place) -> int:
    """Return where in a place its last name stands, which no number of an item in a list is."""
    return max((index for index, part in enumerate(place) if not part.isdigit()), default=0)


def check_place(place: Place, targets: Mapping[Place, set[str]]) -> None:
    """Check a key, and that there is something in a config that it belongs to.

    Raises:
        Refusal: the key has a meaning for MONAI that we do not use, or changes nothing that we can see.
    """
    if not (KEY.fullmatch(place[-1]) or place[-1] in SPECIAL_KEYS):
        raise Refusal(f"the key '{place[-1]}' is not allowed.")
    if place[:-1] not in targets:
        raise Refusal(f"no config has anything at '{'#'.join(place[:-1])}'.")


def check_argument(place: Place, value: Any, owners: Iterable[str]) -> None:
    """Check that the class or function that an item is an argument of may be given it.

    Args:
        place: of the item.
        value: its value.
        owners: the targets that it may be an argument of.

    Raises:
        Refusal: names the argument.
    """
    name = place[name_index(place)]
    foreign = [owner for owner in owners if owner in FOREIGN]
    if name in SPECIAL_KEYS or not foreign:
        return
    if not any(name in FOREIGN[owner].split() for owner in foreign):
        raise Refusal(f"'{name}' is not on the list of arguments of {foreign[0]}.")
    if isinstance(value, str) and not value.startswith(("$", "@", "%")) and value not in FOREIGN_TEXTS:
        raise Refusal(f"the text '{value}' is not on the list of those that {foreign[0]} may be given.")


def check_value(place: Place, value: Any, is_prose: bool = False) -> bool:
    """Check one value; return whether it is a target, an expression or a macro.

    Args:
        place: of the item.
        value: its value; what is in an object or a list has a place of its own.
        is_prose: texts may hold slashes, and no key is that of a path.

    Raises:
        Refusal: it is not on the lists.
    """
    name = place[name_index(place)]
    if name == "_mode_" and value != "callable":
        raise Refusal(f"the _mode_ '{value}' is not allowed: a mode can start a debugger.")
    if name == "_target_":
        check_target(value, READER if place[-2:-1] == ("reader",) else None)
        return True
    if name == "reader" and value != "@reader" and not (isinstance(value, dict) and "_target_" in value):
        raise Refusal(f"the reader '{value}' is not allowed: MONAI would call whatever it names.")
    if name in PLACES and not is_prose:
        check_path(name, value)
    if not isinstance(value, str):
        return False
    if value.lstrip().startswith("$"):
        check_expression(value.lstrip()[1:].strip())
        return True
    if value.startswith("%"):
        if value not in MACROS:
            raise Refusal(f"the macro '{value}' is not on the list of allowed ones.")
        return True
    if value.startswith("@") and not REFERENCE.fullmatch(value):
        raise Refusal(f"'{value}' is no reference to a setting.")
    if not is_prose and name not in PLACES and SLASH.search(value):
        raise Refusal(f"the text '{value}' holds a slash; only {', '.join(PLACES)} may be paths.")
    return False


def check_target(target: Any, wanted: str | None = None) -> None:
    """Check that a `_target_` is on the lists, and the one that is wanted at its place."""
    if not isinstance(target, str) or target not in {*FOREIGN, *OWN_TARGETS} or wanted not in (None, target):
        raise Refusal(f"the target '{target}' is not on the list of allowed ones.")


def check_path(name: str, value: Any) -> None:
    """Check that a path is nothing, one on the list, or made of other paths.

    Args:
        name: of the setting or argument, one of `PLACES`.
        value: its value.
    """
    if value is None or isinstance(value, list) or (isinstance(value, str) and value in PLACES[name]):
        return  # the items of a list are checked themselves
    if isinstance(value, str) and value.startswith(("$", "@")):
        tree, references = parsed(value.removeprefix("$"))
        if tree is not None and is_path(tree.body, references):
            return
    raise Refusal(f"'{value}' is not on the list of paths that {name} may be.")


def check_expression(text: str) -> None:
    """Check that an expression is on the list, or only combines settings and constants.

    Args:
        text: the expression without its ``$``.
    """
    if text.replace("::", "#") in EXPRESSIONS:
        return
    tree, references = parsed(text)
    if tree is None or not is_harmless(tree.body, references):
        raise Refusal(f"the expression '{text[:LONGEST]}' is not on the list of allowed ones.")


def parsed(text: str) -> tuple[ast.Expression | None, dict[str, str]]:
    """Return an expression as Python sees it, None if it is none, and the settings that its stand-ins refer to."""
    if len(text) > LONGEST:
        return None, {}
    references: dict[str, str] = {}

    def stand_in(found: re.Match[str]) -> str:
        place = tuple(re.split("#|::", found[0][1:]))
        references[f"{STAND_IN}{len(references)}"] = place[name_index(place)]
        return next(reversed(references))

    try:
        return ast.parse(REFERENCE.sub(stand_in, text), mode="eval"), references
    except (SyntaxError, ValueError):  # ValueError: a zero byte
        return None, references


def is_harmless(node: ast.AST, references: Mapping[str, str]) -> bool:
    """Return whether a part of an expression only combines settings and constants."""
    if isinstance(node, ast.Name):
        return node.id in references
    if isinstance(node, ast.Constant):
        return not (isinstance(node.value, str) and SLASH.search(node.value))
    if isinstance(node, ast.BinOp):
        return is_path(node, references)
    if isinstance(node, ast.Attribute):
        return node.attr in ATTRIBUTES and is_harmless(node.value, references)
    return isinstance(node, SYNTAX) and all(is_harmless(part, references) for part in ast.iter_child_nodes(node))


def is_path(node: ast.AST, references: Mapping[str, str]) -> bool:
    """Return whether a part of an expression is nothing, the path of a setting, or one below it."""
    match node:
        case ast.Constant(value=None):
            return True
        case ast.Name(id=name):
            return references.get(name) in PLACES
        case ast.BinOp(left=ast.Name() as left, op=ast.Add(), right=ast.Constant(value=str(below))):
            return is_path(left, references) and BELOW.fullmatch(below) is not None
        case ast.BoolOp(op=ast.Or(), values=values):
            return all(is_path(value, references) for value in values)
        case ast.IfExp(body=body, orelse=other):
            return is_path(body, references) and is_path(other, references)
    return False


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
        for option, value in parser.items(section):
            if not re.fullmatch(LOGGING.get(option, "(?!)"), value):
                raise Refusal(f"configs/logging.conf, {section}: '{option}={value}' is not allowed.")
    return "lines to the screen, nothing else"
