"""Where runs, tomograms and picks are stored in a copick project on a local disk.

::

    copick.json
    static/ExperimentRuns/<run>/VoxelSpacing<ångströms>/<kind>.zarr
    overlay/ExperimentRuns/<run>/Picks/<user>_<session>_<species>.json

A kind says how the tomogram was made from the tilt series, for example ``denoised`` or ``wbp``. The tomograms are
OME-Zarr. ``static`` holds the measured data and ``overlay`` what was added to it, but copick looks for both in both.
"""

from __future__ import annotations

import colorsys
import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from scripts.atomic_files import write_atomically
from scripts.errors import InputError
from scripts.file_names import require_file_name
from scripts.species import SpeciesSet

CONFIG, STATIC, OVERLAY = "copick.json", "static", "overlay"
RUNS, PICKS_FOLDER = "ExperimentRuns", "Picks"
FEATURES, SEGMENTATIONS, OBJECTS = "features", "Segmentations", "Objects"  # Zarr folders that are no tomograms
IDS = ("user_id", "session_id")  # whose picks they are
PICKS_KEY = "points"  # of a file of picks, which no config has
COPICK_VERSION = "1.31.0"  # the version whose rules for these folders are followed here
SPACING_FOLDER = re.compile(r"VoxelSpacing\d+(\.\d+)?")
LOCAL_SCHEMES = ("", "local", "file")
REFUSED_BY_COPICK = re.compile(r"""[<>:"/\\|?*\x00-\x1f\x7f\s_]|^-|-$|^$""")


def tomogram_path(root: str | Path, run: str, voxel_size_angstrom: float, kind: str) -> Path:
    """Return the path of a tomogram in a project.

    Raises:
        InputError: no folder can be called after the run, or copick would not find a tomogram of that kind.
    """
    _refuse_for_copick("a kind of tomogram", kind)
    if FEATURES in kind:
        raise InputError(f"a kind of tomogram cannot be called '{kind}': copick leaves out names with '{FEATURES}'.")
    require_file_name(run, "run")
    return Path(root) / STATIC / RUNS / run / _spacing_folder(voxel_size_angstrom) / f"{kind}.zarr"


def picks_path(root: str | Path, run: str, species: str, user_id: str, session_id: str) -> Path:
    """Return the path of the picks of one species in a project, with the file name that copick expects.

    A file called ``<species>.json``, as in the challenge's truth, keeps copick from reading any picks of the run.

    Raises:
        InputError: no folder can be called after the run, copick would refuse one of the other names, or split the file
            name in the wrong place.
    """
    require_file_name(run, "run")
    return overlay_folder_of(root) / RUNS / run / PICKS_FOLDER / session_file(user_id, session_id, species)


def id_text(key: str, value: object) -> str:
    """Return the id of a user or a session as text; command lines and JSON may state one like 12 as a whole number.

    Args:
        key: the setting, for the message.
        value: the id.

    Raises:
        InputError: it is another number, which may have been written in another way, such as 1.10, or no id at all.
    """
    if isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool)):
        return str(value)
    raise InputError(f"{key} is text or a whole number; got {value}: quote it as it is to stay, --{key} \"'{value}'\".")


def session_file(user_id: str, session_id: str, species: str) -> str:
    """Return the file name of the picks of a user, a session and a species; ``*`` for one of them gives a pattern.

    Raises:
        InputError: copick would refuse one of the names, or split the file name in the wrong place.
    """
    for what, name in (("a species", species), ("a user_id", user_id), ("a session_id", session_id)):
        if name != "*":
            _refuse_for_copick(what, name)
    return f"{user_id}_{session_id}_{species}.json"


def write_project(root: str | Path, species_set: SpeciesSet, name: str, description: str) -> Path:
    """Write ``copick.json`` and create the folders that it names; existing ones keep their content.

    Copick resolves relative roots against the working directory, so the file states absolute ones: write it again after
    moving the project. The bundle itself does not depend on them: it uses the folders beside the file.

    Args:
        root: the project's folder.
        species_set: the species, which become the pickable objects; those without a label are numbered after the last.
        name: of the project.
        description: of the project, one line.

    Returns:
        The path of the file, for ``copick.from_file``.

    Raises:
        InputError: copick would refuse the name of a species, or the file cannot be written.
    """
    objects = _pickable_objects(species_set)
    return write_config(root, {"name": name, "description": description, "pickable_objects": objects})


def write_config(root: str | Path, facts: Mapping[str, Any]) -> Path:
    """Write a ``copick.json`` whose roots are the folders beside it, and create those.

    Args:
        root: the project's folder.
        facts: the other content of the file, for example the pickable objects.

    Returns:
        The path of the file.

    Raises:
        InputError: the file cannot be written.
    """
    root = Path(os.path.abspath(root))
    content = {
        **facts,
        "version": COPICK_VERSION,
        "config_type": "filesystem",
        "overlay_root": f"local://{(root / OVERLAY).as_posix()}",
        "overlay_fs_args": {"auto_mkdir": True},
        "static_root": f"local://{(root / STATIC).as_posix()}",
    }
    try:
        for part in (STATIC, OVERLAY):
            (root / part / RUNS).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write to {root}: {error.strerror or error}.") from error
    with write_atomically(root / CONFIG) as file:
        file.write(json.dumps(content, indent=4, ensure_ascii=False) + "\n")
    return root / CONFIG


def is_project(path: str | Path) -> bool:
    """Return whether a folder or a file ``*.json`` is a copick project: there are runs in it or in the roots it names.

    Raises:
        InputError: its ``copick.json`` cannot be read.
    """
    return bool(project_roots(path))


def project_roots(path: str | Path) -> list[Path]:
    """Return the folders of a project that hold ``ExperimentRuns``: static, overlay, the project's folder itself.

    The folders ``static``, if it holds runs, and ``overlay``, see `overlay_folder_of`, beside ``copick.json`` take
    precedence over the roots that the file names, so that a moved project is read from its new place. Of the named
    roots only those on this machine count; relative ones are relative to the file.

    Args:
        path: the project's folder, or its config file under any name ``*.json``.

    Raises:
        InputError: the config file cannot be read.
    """
    folder, stated = _folder_and_stated_roots(Path(path))
    own = folder / STATIC
    roots = (own if _has_runs(own) else stated.get(STATIC), _overlay_root(folder, stated), folder)
    found = [root for root in roots if root is not None and _has_runs(root)]
    return _without_repeats(found)


def overlay_folder_of(path: str | Path) -> Path:
    """Return the root of a project that new data is written to, whether or not it exists yet.

    That is the folder ``overlay`` beside the config file if it exists, or if the project was moved: if runs are in the
    folder ``static`` beside the file, which names another static root. Or else the overlay root that the file names, or
    else the project's folder if it holds runs itself, or else the folder ``overlay``.

    Args:
        path: as in `project_roots`.

    Raises:
        InputError: the config file cannot be read.
    """
    folder, stated = _folder_and_stated_roots(Path(path))
    return _overlay_root(folder, stated) or (folder if _has_runs(folder) else folder / OVERLAY)


def run_folder_of(tomogram: str | Path) -> Path | None:
    """Return the folder of the run that a tomogram of a project belongs to; None outside of a project."""
    spacing = Path(os.path.abspath(tomogram)).parent
    return spacing.parent if SPACING_FOLDER.fullmatch(spacing.name) else None


def is_feature_map(tomogram: str | Path) -> bool:
    """Return whether a volume beside the tomograms of a project is a feature map, computed from one of them."""
    return run_folder_of(tomogram) is not None and FEATURES in Path(tomogram).name


def holds_other_volumes(folder: str | Path) -> bool:
    """Return whether a folder of a project holds segmentations or density maps, which could be taken for tomograms."""
    folder = Path(os.path.abspath(folder))
    if folder.name == SEGMENTATIONS:
        return folder.parent.parent.name == RUNS
    return folder.name == OBJECTS and _has_runs(folder.parent)


def picks_folders(run_folder: Path, project: str | Path | None = None) -> list[Path]:
    """Return the folders that may hold picks of a run: beside its tomograms, in static and in overlay.

    Args:
        run_folder: as returned by `run_folder_of`.
        project: the project, needed if its folder does not hold the run.

    Returns:
        The folders, whether or not they exist.
    """
    runs = run_folder.parent
    roots = [] if project is None else [Path(os.path.abspath(root)) for root in project_roots(project)]
    is_part = runs.name == RUNS and runs.parent.name in (STATIC, OVERLAY)
    if is_part and (runs.parent not in roots or roots == [runs.parent]):
        roots = project_roots(runs.parent.parent)
    return _without_repeats(
        [run_folder / PICKS_FOLDER, *(root / RUNS / run_folder.name / PICKS_FOLDER for root in roots)]
    )


def _without_repeats(paths: Iterable[Path]) -> list[Path]:
    """Return paths without those that lead to the same place as an earlier one, through links or not."""
    first: dict[str, Path] = {}
    for path in paths:
        first.setdefault(os.path.realpath(path), path)
    return list(first.values())


def _overlay_root(folder: Path, stated: Mapping[str, Path]) -> Path | None:
    """Return the folder ``overlay`` beside the config file, or the root that the file names; None if neither counts."""
    static, own = folder / STATIC, folder / OVERLAY
    is_moved = _has_runs(static) and os.path.realpath(stated.get(STATIC, folder)) != os.path.realpath(static)
    return own if own.is_dir() or is_moved else stated.get(OVERLAY)


def _has_runs(root: Path) -> bool:
    return (root / RUNS).is_dir()


def _spacing_folder(voxel_size_angstrom: float) -> str:
    return f"VoxelSpacing{voxel_size_angstrom:.3f}"  # copick looks for exactly three decimals


def _refuse_for_copick(what: str, name: str) -> None:
    if REFUSED_BY_COPICK.search(name):
        raise InputError(
            f"copick allows no space, no '_', none of <>:\"/\\|?* and no '-' at the ends of {what}; got '{name}'."
        )


def _pickable_objects(species_set: SpeciesSet) -> list[dict[str, Any]]:
    ordered = sorted(species_set.known, key=lambda species: species.label or len(species_set.known) + 1)
    objects = []
    for place, species in enumerate(ordered):
        _refuse_for_copick("a species", species.name)
        color = [round(255 * part) for part in colorsys.hsv_to_rgb(place / len(ordered), 0.8, 0.9)]
        objects.append(
            {
                "name": species.name,
                "is_particle": True,
                "label": place + 1,  # labels have no gaps, so this is the species' own label if it has one
                "color": [*color, 255],
                "radius": species.radius_angstrom,
            }
        )
    return objects


def _folder_and_stated_roots(path: Path) -> tuple[Path, dict[str, Path]]:
    is_config = path.suffix == ".json" and path.is_file()
    if is_config and PICKS_KEY in _content_of(path):
        return path, {}  # a file of picks
    folder, config = (path.parent, path) if is_config else (path, path / CONFIG)
    return folder, _stated_roots(config) if config.is_file() else {}


def _stated_roots(config: Path) -> dict[str, Path]:
    """Return the static and the overlay root that a config file names, if they are on this machine."""
    content, roots = _content_of(config), {}
    for part in (STATIC, OVERLAY):
        scheme, _, root = str(content.get(f"{part}_root") or "").rpartition("://")
        if root and scheme in LOCAL_SCHEMES:
            roots[part] = config.parent / Path(root).expanduser()
    return roots


def _content_of(config: Path) -> dict[str, Any]:
    try:
        content = json.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {config}: {' '.join(str(error).split())}.") from error
    if not isinstance(content, dict):
        raise InputError(f"{config} must hold a JSON object; got a {type(content).__name__}.")
    return content
