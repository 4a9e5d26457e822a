"""Imports between the packages of the bundle go one way, and the plain core needs no torch."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[1] / "bundle" / "scripts"
GROUND = {
    "errors",
    "rules",
    "settings",
    "coordinates",
    "records",
    "species",
    "atomic_files",
    "copick_tree",
    "command_line",
    "file_names",
    "file_pages",
    "markdown",
    "memory",
    "threads",
}  # may be imported by all
ALLOWED = {
    "volumes": set(),
    "networks": set(),
    "inference": set(),
    "backends": {"networks"},
    "fetch": {"volumes"},
    "picks": {"volumes"},
    "datasets": {"picks", "volumes"},
    "simulation": {"picks", "volumes"},
    "preparation": {"datasets", "picks", "volumes"},
    "training": {"preparation", "volumes"},
    "picking": {"preparation", "datasets", "picks", "volumes", "networks"},
    "scoring": {"picking", "picks"},
    "pages": {"scoring", "picking", "picks"},
    "results": {"pages", "datasets", "picks", "picking", "networks"},
    "monai_label": {"preparation", "datasets", "picks", "picking", "networks", "volumes"},
    "handlers": {
        *("results", "pages", "scoring", "picking", "preparation", "datasets", "picks", "networks"),
    },
}
MONAI = {  # the modules that hold MONAI's and Ignite's classes; everything else is NumPy or plain torch
    *("command_line", "monai_label", "volumes.monai_reader", "results.batch"),
    *("preparation.image_facts", "preparation.voxel_size", "preparation.scaling", "preparation.contrast"),
    *("preparation.padding", "preparation.region", "preparation.truth", "preparation.cache", "preparation.batch"),
    "preparation.interest",
    *("inference.inferers", "training.windows", "training.window_dataset", "training.crop_dataset"),
    *("picking.image_picks", "picking.pick_transform", "picking.second_look_transform"),
    *("scoring.threshold_sweep", "simulation.dataset"),
}
NO_TORCH = [
    *("records", "memory", "rules", "settings"),
    *("coordinates", "species", "atomic_files", "copick_tree", "picks", "volumes.labels", "fetch.__main__"),
    *("datasets.runs", "datasets.truth", "datasets.splits", "training.spheres", "training.heat_maps"),
    *("picking.candidates", "picking.blobs", "picking.score_valley"),
    *("scoring.__main__", "scoring.mistakes", "scoring.threshold_choice", "pages.jpeg"),
]
FRAMEWORKS = {"torch", "monai", "ignite"}


def name_of(path):
    """Return a module's name below ``scripts``."""
    return ".".join(path.relative_to(SCRIPTS).with_suffix("").parts).removesuffix(".__init__")


def imported_by(path):
    """Return the dotted name of everything that a file imports, at its top or inside a function."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    plain = {name.name for node in nodes if isinstance(node, ast.Import) for name in node.names}
    return plain | {"." * node.level + (node.module or "") for node in nodes if isinstance(node, ast.ImportFrom)}


MODULES = {name_of(path): path for path in sorted(SCRIPTS.rglob("*.py")) if path != SCRIPTS / "__init__.py"}
IMPORTS = {name: imported_by(path) for name, path in MODULES.items()}


def forbidden(name, imports):
    """Return what a module of that name imports although the tables do not let it."""
    package = name.split(".")[0]
    ours = {imported.removeprefix("scripts.").split(".")[0] for imported in imports if imported.startswith("scripts.")}
    wrong = ours - GROUND - {package} - (set() if package in GROUND else ALLOWED[package])
    outside = {imported.split(".")[0] for imported in imports}
    if package == "networks" or not (package == "handlers" or name in MONAI):
        wrong |= outside & {"monai", "ignite"}
    if any(name == plain or name.startswith(f"{plain}.") for plain in NO_TORCH):
        wrong |= outside & FRAMEWORKS
    return wrong


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_only_what_the_tables_let_it(name):
    assert not forbidden(name, IMPORTS[name])


@pytest.mark.parametrize(
    ("name", "imports"),
    [
        ("picking.blobs", {"scripts.handlers.results"}),
        ("networks.convnext_unet", {"monai.data"}),
        ("networks.convnext_unet", {"scripts.preparation.cache"}),
        ("picks.star", {"torch"}),
        ("errors", {"scripts.volumes.reading"}),
    ],
)
def test_a_wrong_import_is_noticed(name, imports):
    assert forbidden(name, imports)


def test_a_public_name_has_one_meaning():
    places = {}
    for name, path in MODULES.items():
        for node in ast.parse(path.read_text()).body:
            targets = node.targets if isinstance(node, ast.Assign) else []
            names = [part.id for target in targets for part in ast.walk(target) if isinstance(part, ast.Name)]
            names += [node.name] if isinstance(node, ast.FunctionDef | ast.ClassDef) else []
            for public in names:
                if not public.startswith("_") and public not in ("logger", "main", "make_parser"):
                    places.setdefault(public, set()).add(name)
    assert {public: where for public, where in places.items() if len(where) > 1} == {}


@pytest.mark.parametrize("name", MODULES)
def test_our_own_imports_are_written_out(name):
    # "from scripts import x" and "from . import x" would go past the tables
    assert not {imported for imported in IMPORTS[name] if imported == "scripts" or imported.startswith(".")}


def test_the_tables_name_only_what_exists():
    assert GROUND | set(ALLOWED) == {name.split(".")[0] for name in MODULES}
    assert set(MODULES) >= {*MONAI, *NO_TORCH}


def test_the_packages_have_an_order_and_nothing_imports_the_handlers():
    assert list(TopologicalSorter(ALLOWED).static_order())
    assert not [name for name, allowed in ALLOWED.items() if "handlers" in allowed]


@pytest.mark.parametrize("package", ["", *(name for name in ALLOWED if (SCRIPTS / name).is_dir())])
def test_the_modules_of_a_package_have_an_order(package):
    prefix = f"scripts.{package}.".replace("..", ".")
    inside = {name for name in MODULES if f"scripts.{name}".startswith(prefix)}
    parts = {
        name: {other.removeprefix("scripts.") for other in IMPORTS[name] if other.startswith("scripts.")} & inside
        for name in inside
    }
    assert len(list(TopologicalSorter(parts).static_order())) == len(inside)


def test_the_array_modules_run_without_torch():
    imports = "; ".join(f"import scripts.{name}" for name in NO_TORCH)
    program = f"import sys; {imports}; print({FRAMEWORKS!r} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], cwd=SCRIPTS.parent, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("set()\n", "")
