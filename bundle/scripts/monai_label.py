"""What MONAI Label needs beyond the configs, because its server runs neither ``initialize`` nor handlers.

The server sends options with every request, needs label maps on the study's own grid, and trains on the studies whose
label was saved.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from monai.data import MetaTensor
from monai.transforms import MapTransform, Transform
from torch import nn

from scripts.copick_tree import PICKS_FOLDER
from scripts.datasets.annotated import rows_with_annotated
from scripts.datasets.runs import run_name
from scripts.datasets.truth import TRUTH_TABLE
from scripts.errors import InputError, InputWarning, is_finite_number
from scripts.file_names import refuse_look_alikes
from scripts.networks.model_card import sha256_of
from scripts.networks.weights import load_weights
from scripts.picking.operating_point import parse_operating_point, parse_operating_points
from scripts.picking.second_look import SecondLook
from scripts.picking.second_look_transform import WITHOUT
from scripts.picks import read_copick_json, read_csv
from scripts.picks.kaggle_csv import ANNOTATED_FILE
from scripts.preparation.image_facts import original_affine_of
from scripts.settings import check_setting
from scripts.species import SpeciesSet, with_thresholds
from scripts.volumes.reading import is_tomogram

APP_DIR, STUDIES_DIR = "MONAI_LABEL_APP_DIR", "MONAI_LABEL_STUDIES"  # set by the server, also for its child processes
THRESHOLD, MIN_VOXELS, POINT = "threshold_", "min_voxels_", "operating_point_"
SHARED_OPTIONS = ("merge_distance_in_radii", "rotations", "flips")
XYZ = [2, 1, 0]  # indices of z, y, x when the first axis is x


def is_served(bundle_root: str) -> bool:
    """Return whether a bundle is in the app of the MONAI Label server that this process belongs to."""
    app = os.environ.get(APP_DIR)
    return bool(app) and Path(bundle_root).resolve().is_relative_to(Path(str(app)).resolve())


def client_options(
    species_set: SpeciesSet,
    merge_distance_in_radii: float,
    rotations: int,
    flips: Sequence[str],
    operating_point: Any = None,
    **chosen: Any,
) -> dict[str, Any]:
    """Return the options of one inference that a client can set, as a flat table with their present values.

    MONAI Label shows the table to its client, and passes the client's values on as arguments of the same names.

    Args:
        species_set: their thresholds and smallest sizes are the defaults.
        merge_distance_in_radii: see `picking.blobs.Blobs`.
        rotations: see `inference.inferers.TomogramInferer`.
        flips: see `inference.inferers.TomogramInferer`; in the table the axes are one word, such as ``zy``.
        operating_point: of a second look, see `picking.operating_point`; thresholds and sizes are then for weights that
            it was not made for. None without a second look.
        chosen: ``threshold_<species>``, ``min_voxels_<species>`` and ``operating_point_<species>`` that replace the
            defaults.

    Raises:
        InputError: a value is out of its range, or an option is unknown.
    """
    check_setting("rotations", rotations)
    check_setting("flips", flips)
    check_setting("merge_distance_in_radii", merge_distance_in_radii)
    picked = with_options(species_set, chosen).picked
    own: dict[str, Any] = {f"{THRESHOLD}{species.name}": species.probability_threshold for species in picked}
    own |= {f"{MIN_VOXELS}{species.name}": species.min_voxels for species in picked}
    wanted = {key.removeprefix(POINT): value for key, value in chosen.items() if key.startswith(POINT)}
    if operating_point is not None:
        points = parse_operating_points(operating_point, species_set)
        for name, point in wanted.items():
            points[species_set.named(name, "the request").name] = parse_operating_point(point)
        own |= {f"{POINT}{name}": str(point) for name, point in points.items()}
    elif wanted:
        name = next(iter(wanted))
        raise InputError(f"the request: {POINT}{name} needs a second look, which is not there: set {THRESHOLD}{name}.")
    return {
        **own,
        "merge_distance_in_radii": merge_distance_in_radii,
        "rotations": int(rotations),
        "flips": "".join(flips),
    }


def with_options(species_set: SpeciesSet, options: Mapping[str, Any]) -> SpeciesSet:
    """Return the species with the thresholds and smallest sizes of a table of `client_options`.

    Raises:
        InputError: a value is out of its range, or an option names no species.
    """
    source = "the request"
    thresholds = {key.removeprefix(THRESHOLD): value for key, value in options.items() if key.startswith(THRESHOLD)}
    sizes = {key.removeprefix(MIN_VOXELS): value for key, value in options.items() if key.startswith(MIN_VOXELS)}
    own = (THRESHOLD, MIN_VOXELS, POINT)
    unknown = [key for key in options if not key.startswith(own) and key not in SHARED_OPTIONS]
    if unknown:
        raise InputError(f"{source}: there is no option '{unknown[0]}'.")
    for name, size in sizes.items():
        species_set.named(name, source)
        if not is_finite_number(size) or size < 1 or size != int(size):
            raise InputError(f"{source}: {MIN_VOXELS}{name} must be a whole number from 1; got {size!r}.")
    known = with_thresholds(species_set, thresholds, source).known
    return replace(
        species_set,
        known=tuple(replace(one, min_voxels=int(sizes.get(one.name, one.min_voxels))) for one in known),
    )


def chosen_points(options: Mapping[str, Any], operating_point: Any) -> Any:
    """Return the operating points of a table of `client_options`, by species; the given one where it has none."""
    points = {key.removeprefix(POINT): value for key, value in options.items() if key.startswith(POINT)}
    return points or operating_point


class CheckServedWeights(Transform):
    """Check weights as the command line does; MONAI Label loads them without a check.

    Args:
        network: the network to load the weights into.
        models_dir: where the weights are stored.
        species_set: the species that are picked.
        painter: what painted the targets.
        filename_key: key of the file that the client chose: a name, or a list with the choice first.
        second_look: of the bundle's weights; with other weights a request is answered without it, with a warning.
        options: see `client_options`.
        operating_point: that is asked for where a client changes nothing.

    Raises:
        InputError: the file is missing, damaged, holds more than tensors or is of another network; a threshold or a
            smallest size is asked for with weights whose candidates the second look judges; or an operating point with
            other weights.
    """

    def __init__(
        self,
        network: nn.Module,
        models_dir: str,
        species_set: SpeciesSet,
        painter: Any,
        filename_key: str = "model_filename",
        second_look: SecondLook | None = None,
        options: Mapping[str, Any] | None = None,
        operating_point: Any = "f1",
    ) -> None:
        self.second_look, self.options = second_look, options or {}
        self.usual_points = parse_operating_points(operating_point, species_set)
        self.network, self.models_dir, self.filename_key = network, Path(models_dir), filename_key
        self.species_set, self.painter = species_set, painter

    def record(self) -> dict[str, Any]:
        """Return an empty record: the check changes no picks."""
        return {}

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the sample, with a note where its weights have no second look."""
        named = data[self.filename_key]
        weights = self.models_dir / (named if isinstance(named, str) else named[0])
        load_weights(self.network, weights, self.species_set, self.painter)
        if self.second_look is None:
            return dict(data)
        if sha256_of(weights) == self.second_look.first_sha256:
            self.refuse_thresholds()
            return dict(data)
        self.refuse_points(weights.name)
        message = f"{weights.name} has no second look: picks and scores are the first network's, by its thresholds."
        warnings.warn(message, InputWarning, stacklevel=2)
        return {**data, WITHOUT: True}

    def refuse_points(self, weights: str) -> None:
        """Refuse operating points, which would change nothing with these weights; clients send the usual ones."""
        for name, usual in self.usual_points.items():
            if str(parse_operating_point(self.options.get(f"{POINT}{name}", str(usual)))) != str(usual):
                raise InputError(
                    f"the request: {POINT}{name} needs a second look, which {weights} has not: set {THRESHOLD}{name}."
                )

    def refuse_thresholds(self) -> None:
        """Refuse options that would change nothing; clients send the usual ones."""
        for species in self.species_set.picked:
            usual = {THRESHOLD: species.probability_threshold, MIN_VOXELS: species.min_voxels}
            for key, value in usual.items():
                if self.options.get(f"{key}{species.name}", value) != value:
                    raise InputError(
                        f"the request: {key}{species.name} is for weights without a second look: set "
                        f"{POINT}{species.name}, for example to 'precision 0.9' or 'probability 0.5'."
                    )


class ToStudyGridd(MapTransform):
    """Turn volumes ``[z, y, x]`` to the axis order ``[x, y, z]`` of the study's file, for MONAI Label's writer.

    For a study whose affine has another order, the label map lies at the same place, in the order x, y, z.

    Args:
        keys: volumes ``(1, Z, Y, X)``; become ``(1, X, Y, Z)``.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the sample with the volumes and their metadata turned."""
        sample = dict(data)
        for key in self.key_iterator(sample):
            volume: MetaTensor = sample[key]
            affine = original_affine_of(volume)[:, [*XYZ, 3]]
            shape = np.asarray(volume.meta["spatial_shape"])[XYZ]
            meta = {**volume.meta, "affine": affine, "original_affine": affine.numpy(), "spatial_shape": shape}
            sample[key] = MetaTensor(volume.as_tensor().permute(0, 3, 2, 1), meta=meta)
        return sample


def studies_with_points(
    labelled: Sequence[Mapping[str, str]], served: bool, annotated: str | Mapping[str, Any] | None = None
) -> list[dict[str, str]]:
    """List the server's studies without a saved label but with points: rows in ``truth.csv``, or ``Picks/*.json``.

    A saved label counts as complete, whatever is said of its study, which a warning says.

    Args:
        labelled: the studies whose label was saved, one ``{"image": path, "label": path}`` each.
        served: False gives an empty list.
        annotated: what was annotated in the studies, see `datasets.annotated`.

    Raises:
        InputError: there is nothing to train on, neither labels nor points, the table writes the accents of a study's
            name in another way than its file, or a case of `datasets.annotated.rows_with_annotated`.
    """
    if not served:
        return []
    folder, done = Path(os.environ[STUDIES_DIR]), {Path(item["image"]).resolve() for item in labelled}
    studies = [path for path in sorted(folder.iterdir()) if is_tomogram(path) and path.resolve() not in done]
    table, picks = folder / TRUTH_TABLE, folder / PICKS_FOLDER
    in_table = {pick.run for pick in read_csv(table)} if table.exists() else set()
    in_picks = {pick.run for path in sorted(picks.glob("[!.]*.json")) for pick in read_copick_json(path)}
    names, saved = [run_name(path) for path in studies], [run_name(item["image"]) for item in labelled]
    refuse_look_alikes(names, in_table, table)
    found = []
    for path, run in zip(studies, names, strict=True):
        if run in in_table or (run in in_picks and in_picks <= {*names, *saved}):
            found.append({"image": str(path), "run": run, "label": str(table if run in in_table else picks)})
    if not labelled and not found:
        raise InputError(f"{folder} holds no study with a saved label or with points: save a label first.")
    if saved and (annotated is not None or (folder / ANNOTATED_FILE).exists()):
        message = f"{', '.join(saved)}: what was annotated is not applied to a saved label, which counts as complete."
        warnings.warn(message, InputWarning, stacklevel=2)
    return rows_with_annotated(found, annotated, folder, [*saved, *names])
