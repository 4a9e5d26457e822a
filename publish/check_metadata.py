"""Check a bundle's metadata: complete, and consistent with its species, its scripts and its measured results."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path
from typing import Any

import jsonschema
from check_configs import read_json
from refusal import Refusal

SCHEMA = Path(__file__).resolve().with_name("metadata_schema.json")
RESULTS_START, RESULTS_END = "<!-- weights: begin -->", "<!-- weights: end -->"
# of the tables of the shipped weights: how many columns, which of them is F4, and the rows that are meant
TOTALS_COLUMNS, F1_POINT, F4_POINT = 7, "second look, F1", "second look, F4"
SPECIES_COLUMNS, SPECIES_F4 = 13, 9
PINNED_APART = {"monai": "monai_version", "torch": "pytorch_version", "numpy": "numpy_version"}
PACKAGE_OF_MODULE = {
    "PIL": "pillow", "cc3d": "connected-components-3d", "ignite": "pytorch-ignite", "sklearn": "scikit-learn",
}  # fmt: skip
# imported only on request
OPTIONAL_MODULES = {
    "aiohttp",
    "copick",
    "gemmi",
    "onnxruntime",
    "openvino",
    "safetensors",
    "timm",
    "torch_tensorrt",
    "triton",
}


def metadata_of(bundle: Path) -> dict[str, Any]:
    """Return the content of ``configs/metadata.json``."""
    return dict(read_json(bundle / "configs" / "metadata.json"))


def check_schema(bundle: Path) -> str:
    """Check the metadata against our schema, which is stricter than MONAI's.

    Raises:
        Refusal: names the key.
    """
    metadata = metadata_of(bundle)
    try:
        jsonschema.validate(metadata, read_json(SCHEMA))
    except jsonschema.ValidationError as error:
        place = "#".join(map(str, error.absolute_path)) or "at the top"
        raise Refusal(f"configs/metadata.json, {place}: {error.message}.") from None
    return f"{len(metadata)} keys, as MONAI and the model zoo want them"


def check_species(bundle: Path) -> str:
    """Check that the channels are the species of ``species.json``, and that the versions are consistent.

    Raises:
        Refusal: names the key.
    """
    metadata, species_set = metadata_of(bundle), read_json(bundle / "configs" / "species.json")["species"]
    card = read_json(bundle / "models" / "model.json")
    if card.get("species") != species_set:
        raise Refusal("models/model.json: its species are not those of configs/species.json.")
    labels = {str(row["label"]): name for name, row in species_set.items() if row["label"] > 0}
    wanted = {"0": "background", **dict(sorted(labels.items(), key=lambda row: int(row[0])))}
    pred = metadata["network_data_format"]["outputs"]["pred"]
    if list(pred["channel_def"].items()) != list(wanted.items()):
        raise Refusal(f"configs/metadata.json, channel_def of pred: the species are {', '.join(wanted.values())}.")
    if pred["num_channels"] != len(labels):
        raise Refusal(f"configs/metadata.json, num_channels of pred: there are {len(labels)} species.")
    if next(iter(metadata["changelog"])) != metadata["version"]:
        raise Refusal(f"configs/metadata.json, changelog: {metadata['version']} must have the first entry.")
    for inputs, first in ((metadata["network_data_format"]["inputs"], "image"), ({"pred": pred}, "pred")):
        if next(iter(inputs)) != first:
            raise Refusal(f"configs/metadata.json, network_data_format: '{first}' must be the first tensor.")
    return ", ".join(labels.values())


def check_packages(bundle: Path) -> str:
    """Check that the metadata state the version of every package that the scripts import.

    Raises:
        Refusal: names the package and the module.
    """
    known = set(pins_of(bundle))
    for file in sorted((bundle / "scripts").rglob("*.py")):
        for module in imported_modules(file) - set(sys.stdlib_module_names) - OPTIONAL_MODULES - {"scripts"}:
            package = PACKAGE_OF_MODULE.get(module, module)
            if package not in known:
                where = file.relative_to(bundle)
                raise Refusal(f"configs/metadata.json, required_packages_version: {where} imports {package}.")
    return f"{len(known)} packages"


def pins_of(bundle: Path) -> dict[str, str]:
    """Return the version of every package that the metadata name, by the name that pip knows."""
    metadata = metadata_of(bundle)
    pins: dict[str, str] = metadata["required_packages_version"]
    return {package: metadata[key] for package, key in PINNED_APART.items()} | pins


def imported_modules(file: Path) -> set[str]:
    """Return the top-level package of everything that a file imports."""
    nodes = list(ast.walk(ast.parse(file.read_text(encoding="utf-8"))))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module]
    return {name.split(".")[0] for name in names}


def check_numbers(bundle: Path, results: Path | None = None) -> str:
    """Check that the scores on the page and in the metadata are the measured ones.

    The table on the bundle's page must have the F4 of the metadata. If the page of results is given, they must be
    those of the first dataset in its table of the shipped weights, and every other score on the bundle's page must be
    in that table, too.

    Raises:
        Refusal: names the number.
    """
    metrics = metadata_of(bundle)["eval_metrics"]
    section = performance_section(bundle)
    shown = {f"f4_{name.replace(' ', '_')}": value for name, value in table_of(section).items()}
    of_f4 = {key: value for key, value in metrics.items() if key.startswith("f4_")}
    if shown != of_f4:
        wrong = sorted(key for key in {*shown, *of_f4} if shown.get(key) != of_f4.get(key))[0]
        raise Refusal(f"docs/README.md, Performance: {wrong} is {shown.get(wrong)}, metadata say {metrics.get(wrong)}.")
    if results is None:
        return f"{len(metrics)} scores on the page and in the metadata"
    measured = measured_scores(results)
    if next(iter(measured.values())) != metrics:
        raise Refusal(f"configs/metadata.json, eval_metrics: {results.name} has {next(iter(measured.values()))}.")
    known = {f"{value:.3f}" for scores in measured.values() for value in scores.values()}
    if unknown := sorted(set(re.findall(r"\b[01]\.\d{3}\b", section)) - known):
        raise Refusal(f"docs/README.md, Performance: {unknown[0]} is not in the table of {results.name}.")
    return f"{len(metrics)} scores on the page, in the metadata and in {results.name}"


def performance_section(bundle: Path) -> str:
    """Return the text below the heading Performance of the bundle's page."""
    parts = re.split(r"^## ", (bundle / "docs" / "README.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    for part in parts:
        if part.startswith("Performance"):
            return part
    raise Refusal("docs/README.md has no section Performance.")


def table_of(section: str) -> dict[str, float]:
    """Return the first table of a text, a row of names over a row of numbers."""
    rows = [[cell.strip() for cell in line.strip("|\n ").split("|")] for line in section.splitlines() if "|" in line]
    if len(rows) < 3 or len(rows[0]) != len(rows[2]):
        raise Refusal("docs/README.md, Performance: there must be a table, names over scores.")
    return {name: float(value) for name, value in zip(rows[0], rows[2], strict=True)}


def measured_scores(results: Path) -> dict[str, dict[str, float]]:
    """Return the scores of every dataset in the tables of the shipped weights, keyed as in ``eval_metrics``."""
    tables = results.read_text(encoding="utf-8").partition(RESULTS_START)[2].partition(RESULTS_END)[0]
    scores: dict[str, dict[str, float]] = {}
    dataset = ""
    for line in tables.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        dataset = cells[0] or dataset
        if len(cells) == TOTALS_COLUMNS and cells[1] in (F1_POINT, F4_POINT):
            _, _, precision, _, f1, f4, _ = cells
            own = {"f1_mean": float(f1), "precision": float(precision)}
            scores.setdefault(dataset, {}).update(own if cells[1] == F1_POINT else {"f4_weighted_mean": float(f4)})
        elif len(cells) == SPECIES_COLUMNS and re.fullmatch(r"[01]\.\d+", cells[SPECIES_F4]):
            scores.setdefault(dataset, {})[f"f4_{cells[1]}"] = float(cells[SPECIES_F4])
    if not scores:
        raise Refusal(f"{results.name} has no tables of the shipped weights.")
    return scores
