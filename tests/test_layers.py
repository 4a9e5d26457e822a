"""Imports between the modules of the bundle go one way, and the plain core needs no torch."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[1] / "bundle" / "scripts"
MODULES = sorted(SCRIPTS.glob("[!_]*.py"))
ALLOWED = {
    "errors": set(),
    "coordinates": set(),
    "network": set(),
    "inferer": set(),
    "command_line": {"errors"},
    "particles": {"errors"},
    "mrc": {"coordinates", "errors"},
    "ome_zarr": {"coordinates", "errors"},
    "readers": {"coordinates", "errors", "mrc", "ome_zarr"},
    "datasets": {"errors", "picks", "projects", "readers"},
    "projects": {"errors", "files", "particles"},
    "phantoms": set(),
    "specimens": {"errors", "phantoms", "readers"},
    "scene": {"specimens"},
    "imaging": {"errors"},
    "simulation": {
        "coordinates",
        "errors",
        "files",
        "imaging",
        "ome_zarr",
        "particles",
        "picks",
        "projects",
        "scene",
        "specimens",
    },
    "files": {"errors"},
    "picks": {"coordinates", "errors", "files", "particles"},
    "targets": {"coordinates", "errors", "particles"},
    "postprocessing": {"particles"},
    "metrics": {"coordinates", "errors", "particles", "picks"},
    "weights": {"errors", "files"},
    "report": {"files", "particles", "picks"},
    "transforms": {"coordinates", "errors"},
    "windows": {"coordinates", "datasets", "errors", "particles", "picks", "readers", "targets", "transforms"},
    "picking": {
        "coordinates",
        "datasets",
        "metrics",
        "particles",
        "picks",
        "postprocessing",
        "targets",
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
    "handlers": {"coordinates", "files", "metrics", "particles", "picking", "picks", "report", "transforms"},
}
NO_TORCH = ["coordinates", "metrics", "postprocessing", "targets"]


def imported_modules(path):
    """Return the dotted name of everything that a file imports, at its top or inside a function."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    plain = {name.name for node in nodes if isinstance(node, ast.Import) for name in node.names}
    return plain | {"." * node.level + (node.module or "") for node in nodes if isinstance(node, ast.ImportFrom)}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_a_module_imports_only_downwards(path):
    assert path.stem in ALLOWED, f"{path.name} has no place in the table of layers; give it one"
    ours = {name.split(".")[1] for name in imported_modules(path) if name.startswith("scripts.")}
    assert ours <= ALLOWED[path.stem], f"{path.name} may not import {sorted(ours - ALLOWED[path.stem])}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_our_own_imports_are_written_out(path):
    # "from scripts import x" and "from . import x" would go past the table
    assert not {name for name in imported_modules(path) if name == "scripts" or name.startswith(".")}


def test_the_table_names_only_modules_that_exist():
    assert set(ALLOWED) == {path.stem for path in MODULES}


def test_the_table_has_an_order():
    assert set(TopologicalSorter(ALLOWED).static_order()) == set(ALLOWED)


def test_nothing_may_import_the_handlers():
    assert not [name for name, allowed in ALLOWED.items() if "handlers" in allowed]


@pytest.mark.parametrize("name", NO_TORCH)
def test_the_array_modules_name_no_torch(name):
    outside = {module.split(".")[0] for module in imported_modules(SCRIPTS / f"{name}.py")}
    assert not outside & {"torch", "monai", "ignite"}


def test_the_array_modules_run_without_torch():
    imports = "; ".join(f"import scripts.{name}" for name in NO_TORCH)
    program = f"import sys; {imports}; print({{'torch', 'monai', 'ignite'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], cwd=SCRIPTS.parent, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("set()\n", "")
