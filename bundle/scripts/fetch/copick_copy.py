"""Copying the runs of a remote copick project to this disk; copick itself opens and lists the remote project."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from scripts.atomic_files import write_atomically
from scripts.copick_tree import CONFIG, OVERLAY, RUNS, picks_path, tomogram_path, write_config
from scripts.errors import InputError
from scripts.fetch.ome_zarr_copy import choose_level, fetch_level
from scripts.fetch.stores import Source, fact_of, persist, secrets_in, source_in
from scripts.file_names import require_file_name
from scripts.volumes.ome_zarr import Level

KEPT_FACTS = ("name", "description", "pickable_objects", "user_id", "session_id")  # the rest may hold credentials
ROUNDED = 0.01  # relative; the voxel size in a folder's name may differ this much from the tomogram's


@dataclass(frozen=True)
class Choice:
    """What to fetch from a source.

    Attributes:
        voxel_size_angstrom: of the tomograms of a kind, and of their levels, the one nearest to it is fetched.
        kinds: kinds of tomograms in a project; None means all.
        runs: runs of a project; None means all.
        picks: ``user/session`` of the picks, where ``*`` matches any; an empty list means no picks.
        allow_missing_chunks: treat chunks that a store does not have as full of the fill value.
    """

    voxel_size_angstrom: float
    kinds: Sequence[str] | None = None
    runs: Sequence[str] | None = None
    picks: Sequence[str] = ("*/*",)
    allow_missing_chunks: bool = False


def fetch_project(config: Path, folder: Path, choice: Choice) -> None:
    """Copy the runs of a copick project to a project on this disk; if one fails, the others are still copied.

    Raises:
        InputError: copick cannot open it, the folder holds another project, or, at the end, some runs failed, or no run
            has tomograms or picks that were asked for.
    """
    facts = _read_config(config)
    secrets = secrets_in({part: facts.get(part) for part in ("static_fs_args", "overlay_fs_args")})
    with _said(str(config), secrets):
        runs = {run.name: run for run in _open_project(config).runs}
    chosen = list(runs) if choice.runs is None else list(choice.runs)
    if not runs:
        raise InputError(f"{config} has no run: check its roots, and the credentials for them.")
    if not set(chosen) <= set(runs):
        missing = ", ".join(name for name in chosen if name not in runs)
        raise InputError(f"{config} has no run {missing}; copick finds {', '.join(runs)}.")
    _start_project(folder, {key: facts[key] for key in KEPT_FACTS if key in facts})
    failed: list[str] = []
    seen: set[str] = set()
    kinds: set[str] = set()
    for name in chosen:
        try:
            with _said(f"run '{name}'", secrets):
                if choice.picks:
                    seen.update(f"{picks.user_id}/{picks.session_id}" for picks in runs[name].picks)
                done = fetch_run(runs[name], folder, choice, secrets)
                kinds.update(tomogram.tomo_type for _, tomogram in _tomograms_of(runs[name]))
            print(f"{name}: {', '.join(done)}", flush=True)
        except InputError as error:
            failed.append(name)
            print(f"{name} failed: {error}", flush=True)
    if failed:
        raise InputError(f"{len(failed)} of {len(chosen)} runs failed: {', '.join(failed)}.")
    unknown = [kind for kind in choice.kinds or () if kind not in kinds]
    if unknown:
        raise InputError(f"no run has a tomogram of kind {', '.join(unknown)}; there are {', '.join(sorted(kinds))}.")
    for pattern in choice.picks:
        if pattern != "*/*" and not any(fnmatchcase(one, pattern) for one in seen):
            raise InputError(
                f"no run has picks of {pattern}; there are those of {', '.join(sorted(seen)) or 'nobody'}."
            )


def fetch_run(run: Any, folder: Path, choice: Choice, secrets: tuple[str, ...] = ()) -> list[str]:
    """Copy the picks and the tomograms of a run to a project on this disk.

    Args:
        run: copick's run.
        folder: the project's folder.
        choice: what to fetch.
        secrets: texts that must not appear in messages.

    Returns:
        A summary of what was copied.

    Raises:
        InputError: a name is not valid for a file, the run has no tomogram of the kinds, or one cannot be fetched.
    """
    require_file_name(run.name, "run")
    new, there = _fetch_picks(run, folder, choice.picks, secrets)
    done = [f"{new} files of picks" + (f" ({there} are there already)" if there else "")]
    for kind, (spacing, source, level) in _nearest_tomograms(run, choice, secrets).items():
        size = size_of(level) or spacing
        stated = spacing if math.isclose(size, spacing, rel_tol=ROUNDED) else size
        target = tomogram_path(folder, run.name, stated, kind)
        is_new = fetch_level(source, level, target, choice.allow_missing_chunks)
        done.append(f"{kind} {in_words(size, is_new)}")
    return done


def _fetch_picks(run: Any, folder: Path, patterns: Sequence[str], secrets: tuple[str, ...]) -> tuple[int, int]:
    """Write the picks of a run that match; return how many files are new, and how many existed already."""
    if not patterns:
        return 0, 0  # even if copick cannot read them
    files = {  # if static and overlay both have a file, overlay's is taken, which comes last
        picks_path(folder, run.name, picks.pickable_object_name, picks.user_id, str(picks.session_id)): picks
        for picks in run.picks
        if any(fnmatchcase(f"{picks.user_id}/{picks.session_id}", pattern) for pattern in patterns)
    }
    new = {path: picks for path, picks in files.items() if not path.exists()}
    for path, picks in new.items():
        content = persist(picks.load, f"{path.stem} of run '{run.name}'", secrets).model_dump(mode="json")
        content.pop("portal_metadata", None)
        content["run_name"] = content["run_name"] or run.name
        with write_atomically(path) as file:
            file.write(json.dumps(content) + "\n")
    return len(new), len(files) - len(new)


def _tomograms_of(run: Any) -> list[tuple[float, Any]]:
    """Return the tomograms of a run with the voxel sizes of their folders, in ångströms."""
    return [(spacing.voxel_size, tomogram) for spacing in run.voxel_spacings for tomogram in spacing.tomograms]


def _nearest_tomograms(run: Any, choice: Choice, secrets: tuple[str, ...]) -> dict[str, tuple[float, Source, Level]]:
    """Return the tomogram of each wanted kind that has the level nearest to the wanted voxel size, and that level.

    A line is printed for each that cannot be read; if there is no other of its kind, the nearest one's error is raised.
    """
    wanted = choice.voxel_size_angstrom
    there = sorted(_tomograms_of(run), key=lambda one: abs(one[0] - wanted))
    nearest: dict[str, tuple[float, Source, Level]] = {}
    distances: dict[str, float] = {}
    faults: dict[str, list[InputError]] = {}
    for spacing, tomogram in there:
        kind = tomogram.tomo_type
        if choice.kinds is None or kind in choice.kinds:
            try:
                source, level = _level_of(tomogram, f"{kind} at {spacing:g} Å of run '{run.name}'", wanted, secrets)
            except InputError as error:
                faults.setdefault(kind, []).append(error)
                continue
            distance = abs((size_of(level) or spacing) - wanted)
            if distance < distances.get(kind, math.inf):
                nearest[kind], distances[kind] = (spacing, source, level), distance
    for kind, errors in faults.items():
        if kind not in nearest:
            raise errors[0]
        for fault in errors:
            print(f"{run.name}: a tomogram of kind {kind} is left out: {fault}", flush=True)
    if not nearest:
        held = ", ".join(sorted({tomogram.tomo_type for _, tomogram in there})) or "none"
        raise InputError(
            f"run '{run.name}' has no tomogram of kind {', '.join(choice.kinds or ('any',))}; it has {held}."
        )
    return nearest


def _level_of(tomogram: Any, what: str, wanted_angstrom: float, secrets: tuple[str, ...]) -> tuple[Source, Level]:
    """Return where a tomogram of copick lies, and its level nearest to a voxel size; ``what`` names it in messages."""
    with _said(what, secrets):
        store = tomogram.zarr().map
        source = source_in(store.fs, store.root, secrets)
        return source, choose_level(source, wanted_angstrom)


def size_of(level: Level) -> float | None:
    """Return the mean voxel size of a level in ångströms; None where it is not stated."""
    return math.fsum(level.size_zyx_angstrom) / 3 if level.size_zyx_angstrom else None


def in_words(size_angstrom: float | None, is_new: bool) -> str:
    """Describe what was fetched, or existed already."""
    size = f"{size_angstrom:g} Å" if size_angstrom else "voxel size not stated"
    return size if is_new else f"{size} (is there already)"


@contextmanager
def _said(what: str, secrets: tuple[str, ...]) -> Iterator[None]:
    """Turn any exception of copick and its stores into an ``InputError``, so that the next runs are still fetched."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{what}: {type(error).__name__}: {fact_of(error, secrets)}.") from error


def _open_project(config: Path) -> Any:
    try:
        import copick  # imported here because it needs an environment of its own
    except ImportError as error:
        remedy = "run this with the Python of an environment made of requirements/copick.lock (make .venv-copick/ready)"
        raise InputError(f"{config} is opened by copick, which is not installed here: {remedy}.") from error
    return copick.from_file(str(config))


def _read_config(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path}: {fact_of(error)}.") from error
    if not isinstance(content, dict) or not isinstance(content.get("pickable_objects"), list):
        raise InputError(f"{path} is no copick config: the list 'pickable_objects' is missing.")
    return content


def _start_project(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write the config of the project on this disk; an existing one must be of the same project and is kept."""
    path = folder / CONFIG
    if not path.exists():
        write_config(folder, facts)
        return
    content = _read_config(path)
    is_same = all(content.get(key) == facts.get(key) for key in ("name", "pickable_objects"))
    if not is_same or not str(content.get("static_root")).startswith("local://"):
        raise InputError(f"{path} is of another project, or of one elsewhere: choose another folder.")
    (folder / OVERLAY / RUNS).mkdir(parents=True, exist_ok=True)
