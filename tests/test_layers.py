"""Imports between the modules of the bundle go one way, and the plain core needs no torch."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[1] / "bundle" / "scripts"
MODULES = sorted(path for path in SCRIPTS.rglob("*.py") if path.parent != SCRIPTS or path.stem != "__init__")
ALLOWED = {
    "errors": set(),
    "coordinates": set(),
    "cpu_layers": set(),
    "network": {"cpu_layers"},
    "inferer": set(),
    "command_line": {"errors"},
    "particles": {"errors"},
    "mrc": {"errors"},
    "ome_zarr": {"coordinates", "errors"},
    "ome_zarr_writer": {"errors", "files", "ome_zarr"},
    "nifti": {"coordinates", "errors"},
    "readers": {"coordinates", "errors", "mrc", "nifti", "ome_zarr"},
    "cache": {"errors", "files"},
    "sampling": {"cache"},
    "datasets": {"errors", "picks", "projects", "readers"},
    "projects": {"errors", "files", "particles"},
    "phantoms": set(),
    "atoms": {"errors"},
    "specimens": {"atoms", "errors", "phantoms", "readers"},
    "scene": {"specimens"},
    "imaging": {"errors"},
    "simulation": {
        "coordinates",
        "errors",
        "files",
        "imaging",
        "ome_zarr_writer",
        "particles",
        "picks",
        "projects",
        "scene",
        "specimens",
    },
    "files": {"errors"},
    "remote_files": {"errors"},
    "remote_zarr": {"errors", "files", "ome_zarr", "remote_files"},
    "remote_projects": {"errors", "files", "ome_zarr", "projects", "remote_files", "remote_zarr"},
    "fetch": {"errors", "files", "particles", "remote_files", "remote_projects", "remote_zarr"},
    "picks": {"coordinates", "errors", "files", "particles", "projects", "readers"},
    "targets": {"coordinates", "errors", "particles"},
    "postprocessing": {"particles"},
    "metrics": {"coordinates", "errors", "particles", "picks"},
    "weights": {"errors", "files"},
    "exported": {"errors", "weights"},
    "report": {"files", "particles", "picks"},
    "thresholds": {"errors"},
    "mistakes": {"metrics"},
    "comparison": {"metrics", "mistakes", "particles", "picks"},
    "page_images": set(),
    "page": {
        "comparison",
        "errors",
        "files",
        "mistakes",
        "page_images",
        "particles",
        "picks",
        "report",
        "thresholds",
    },
    "batch_page": {"comparison", "errors", "page", "particles", "picks"},
    "transforms": {"coordinates", "errors"},
    "region": {"coordinates", "datasets", "errors", "readers", "transforms"},
    "windows": {"cache", "coordinates", "datasets", "errors", "particles", "picks", "readers", "targets", "transforms"},
    "picking": {
        "coordinates",
        "datasets",
        "metrics",
        "particles",
        "picks",
        "postprocessing",
        "region",
        "targets",
        "transforms",
    },
    "sessions": {
        "coordinates",
        "datasets",
        "errors",
        "particles",
        "picking",
        "picks",
        "projects",
        "run_folders",
        "transforms",
    },
    "monai_label": {
        "datasets",
        "errors",
        "particles",
        "picks",
        "projects",
        "readers",
        "transforms",
        "weights",
    },
    "training": {"errors", "files", "weights"},
    "run_folders": {"files", "particles", "picks"},
    "batches": {"batch_page", "datasets", "errors", "files", "particles", "run_folders"},
    "samples": {"coordinates", "page", "particles", "picking", "picks", "report", "transforms"},
    "evaluation": {
        "batch_page",
        "comparison",
        "files",
        "metrics",
        "page",
        "particles",
        "picking",
        "picks",
        "report",
        "samples",
        "thresholds",
    },
    "handlers": {
        "coordinates",
        "files",
        "metrics",
        "page",
        "particles",
        "picking",
        "picks",
        "report",
        "run_folders",
        "samples",
        "transforms",
    },
}
NO_TORCH = [
    *("coordinates", "fetch", "metrics", "mistakes", "page_images", "picks", "postprocessing"),
    *("remote_files", "remote_projects", "remote_zarr", "targets", "thresholds"),
]


def layer_of(path):
    """Return the name under which a file stands in the table: its own, or that of its package."""
    return path.relative_to(SCRIPTS).parts[0].removesuffix(".py")


def imported_modules(path):
    """Return the dotted name of everything that a file imports, at its top or inside a function."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    plain = {name.name for node in nodes if isinstance(node, ast.Import) for name in node.names}
    return plain | {"." * node.level + (node.module or "") for node in nodes if isinstance(node, ast.ImportFrom)}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SCRIPTS)))
def test_a_module_imports_only_downwards(path):
    layer = layer_of(path)
    assert layer in ALLOWED, f"{path.name} has no place in the table of layers; give it one"
    ours = {name.split(".")[1] for name in imported_modules(path) if name.startswith("scripts.")}
    allowed = ALLOWED[layer] | ({layer} if path.parent != SCRIPTS else set())
    assert ours <= allowed, f"{path.name} may not import {sorted(ours - allowed)}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SCRIPTS)))
def test_our_own_imports_are_written_out(path):
    # "from scripts import x" and "from . import x" would go past the table
    assert not {name for name in imported_modules(path) if name == "scripts" or name.startswith(".")}


def test_the_table_names_only_modules_that_exist():
    assert set(ALLOWED) == {layer_of(path) for path in MODULES}


def test_the_modules_of_a_package_have_an_order():
    for package in {path.parent for path in MODULES} - {SCRIPTS}:
        name = f"scripts.{package.name}."
        parts = {
            path.stem: {part.removeprefix(name) for part in imported_modules(path) if part.startswith(name)}
            for path in package.glob("*.py")
        }
        assert set(TopologicalSorter(parts).static_order()) == set(parts)


def test_the_table_has_an_order():
    assert set(TopologicalSorter(ALLOWED).static_order()) == set(ALLOWED)


def test_nothing_may_import_the_handlers():
    assert not [name for name, allowed in ALLOWED.items() if {"evaluation", "handlers"} & allowed]


@pytest.mark.parametrize("name", NO_TORCH)
def test_the_array_modules_name_no_torch(name):
    files = [path for path in MODULES if layer_of(path) == name]
    outside = {module.split(".")[0] for path in files for module in imported_modules(path)}
    assert not outside & {"torch", "monai", "ignite"}


def test_the_array_modules_run_without_torch():
    imports = "; ".join(f"import scripts.{name}" for name in NO_TORCH)
    program = f"import sys; {imports}; print({{'torch', 'monai', 'ignite'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], cwd=SCRIPTS.parent, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("set()\n", "")
