"""Make a second look: store what the first network proposes, and fit the probabilities after the training."""

from __future__ import annotations

import hashlib
import logging
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.data import Dataset
from monai.transforms import Transform
from numpy.typing import NDArray
from tqdm import tqdm

from scripts.atomic_files import write_table_of_rows
from scripts.errors import InputError, InputWarning
from scripts.handlers.finished_sample import image_facts_of, samples_of
from scripts.networks.crop_classifier import CropClassifier
from scripts.networks.model_card import FIRST_SHA256, needed_card, network_of, sha256_of
from scripts.networks.weights import load_weights, read_bytes, save_model
from scripts.pages.figures import reliability_figure, save_figure
from scripts.picking.calibration import warn_of_uncalibrated, within
from scripts.picking.familiarity import Familiarity, statistics_of
from scripts.picking.image_picks import is_judged, keep_inside
from scripts.picking.operating_point import OperatingPoint, parse_operating_points
from scripts.picking.second_look import (
    CALIBRATION,
    CROP,
    FAMILIARITY,
    NOT_CALIBRATED,
    SECOND_LOOK,
    SecondLook,
)
from scripts.picking.stored_proposals import read_proposals, write_proposals
from scripts.preparation.annotation import Annotation
from scripts.preparation.cache import PROPOSALS_PATH, entry_name
from scripts.preparation.crops import CropShape
from scripts.records import as_json, canonical, record_of
from scripts.scoring.calibration import (
    JudgedCandidates,
    JudgedScores,
    fit_calibration,
    judge_candidates,
    judge_scores,
)
from scripts.scoring.metrics import Counts, SpeciesScore, mean_f1, score_counts, score_species
from scripts.scoring.reliability import average_precision, reliability_of, sampling_error
from scripts.scoring.threshold_choice import LEAST_TRUTHS
from scripts.species import SpeciesSet

logger = logging.getLogger(__name__)

RELIABILITY_COLUMNS = "species,candidates,calibration_error,sampling_error,average_precision".split(",")
POINT_COLUMNS = "operating_point,species,truths,picks,wrong,expected_precision,precision,recall,f1,f4".split(",")
POINTS: tuple[Any, ...] = ("f1", "f4", {"precision": 0.9}, {"recall": 0.95})


class StoreProposals:
    """Write the proposals of every tomogram to the file that its item names, see `with_proposals`."""

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        given: Any = engine.state.batch
        for item, sample in zip(given, samples_of(engine), strict=True):
            write_proposals(Path(item[PROPOSALS_PATH]), sample["proposals"])


def warn_of_used_runs(
    training_runs: Sequence[Mapping[str, Any]],
    calibration_runs: Sequence[Mapping[str, Any]],
    checkpoint_path: str | Path,
) -> None:
    """Warn of runs that the first network was trained on, where it makes fewer mistakes than elsewhere.

    Args:
        training_runs: items of the second look's training, each with its ``run``.
        calibration_runs: items of its calibration.
        checkpoint_path: the first network's weights.
    """
    known = needed_card(checkpoint_path, "another checkpoint_path").get("trained_on") or ()
    uses = {
        "hardly any of its mistakes are there to learn from": training_runs,
        "probabilities that are fitted on them are too high": calibration_runs,
    }
    for harm, runs in uses.items():
        names = sorted({one["run"] for one in runs} & set(known))
        if names:
            message = f"{checkpoint_path} was trained on {', '.join(names)}: {harm}. Take others, if you have any."
            warnings.warn(message, InputWarning, stacklevel=2)


def with_proposals(
    tomograms: Sequence[dict[Any, Any]],
    folder: str | Path,
    checkpoint_path: str | Path,
    preparation: Transform,
    proposing: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """Return the items of tomograms with the files of their proposals, by what these depend on.

    Args:
        tomograms: the items; a file's name depends on the tomogram's content.
        folder: where the files are.
        checkpoint_path: the first network's weights.
        preparation: of the tomograms.
        proposing: what proposes in prepared tomograms, by name: inferer and transforms.
    """
    made_by = canonical([sha256_of(checkpoint_path), record_of(proposing)])
    folder = Path(folder) / hashlib.sha256(made_by.encode()).hexdigest()[:12]
    names = [entry_name(item, preparation) for item in tomograms]
    return [{**item, PROPOSALS_PATH: str(folder / f"{name}.npz")} for item, name in zip(tomograms, names, strict=True)]


def each_once(tomograms: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the items of `with_proposals` without repetitions."""
    return list({item[PROPOSALS_PATH]: item for item in tomograms}.values())


def without_proposals(tomograms: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the tomograms whose proposals are not stored yet, each once."""
    return [item for item in each_once(tomograms) if not Path(item[PROPOSALS_PATH]).exists()]


class StoredPlaces:
    """Reads the proposed places of a tomogram, by its number.

    Args:
        tomograms: the items of `with_proposals`.
    """

    def __init__(self, tomograms: Sequence[dict[str, Any]]) -> None:
        self.paths = [Path(item[PROPOSALS_PATH]) for item in tomograms]

    def record(self) -> dict[str, Any]:
        """Return an empty record: what places depend on is in the names of the files, see `with_proposals`."""
        return {}

    def __call__(self, number: int) -> NDArray[np.float64]:
        """Return the places ``(N, 3)``."""
        return read_proposals(self.paths[number]).centres_zyx_vox


def judge_tomograms(
    tomograms: Dataset, second_look: SecondLook, species_set: SpeciesSet, merge_distance_in_radii: float
) -> list[JudgedCandidates]:
    """Return the candidates of prepared tomograms with the answers of both networks and of the truth.

    Of a species that is not annotated completely in a tomogram none is kept: hardly any would be wrong.
    """
    judged = []
    for item, sample in zip(tomograms.data, tqdm(tomograms, desc="second look"), strict=True):
        proposals = read_proposals(Path(item[PROPOSALS_PATH]))
        volume = sample["image"][0]
        log_odds = second_look.log_odds(volume, proposals.centres_zyx_vox)
        particles = np.asarray(sample["label"], dtype=np.float64).reshape(-1, 4)
        kept, right = judge_candidates(
            proposals.centres_zyx_vox, within(proposals.logits) + within(log_odds), particles, species_set,
            species_set.voxel_size_angstrom, merge_distance_in_radii,
        )  # fmt: skip
        for column, species in enumerate(species_set.picked):
            is_told = is_judged(proposals.centres_zyx_vox, species, sample)
            kept[:, column] &= is_told & Annotation.of(sample).has_all_of(species.label)
        statistics = statistics_of(volume, species_set.voxel_size_angstrom, proposals.logits, log_odds)
        judged.append(JudgedCandidates(item["run"], proposals.logits, log_odds, kept, right, statistics))
    return judged


def calibrate_second_look(
    tomograms: Dataset,
    weights: str | Path,
    checkpoint_path: str | Path,
    crop_shape: CropShape,
    species_set: SpeciesSet,
    output_dir: str | Path,
    dtype: torch.dtype = torch.float32,
    known: Dataset | None = None,
    merge_distance_in_radii: float = 1.0,
    least_truths: int = LEAST_TRUTHS,
) -> None:
    """Fit the probabilities of a trained second look, and write it with its card, as inference takes it.

    Args:
        tomograms: prepared tomograms with stored proposals, which neither network was trained on.
        weights: of the second look, written by the training.
        checkpoint_path: the first network's.
        crop_shape: of the crops.
        species_set: the species.
        output_dir: where ``second_look.pt``, its card and ``reliability.png`` are written.
        dtype: what the second look computes in.
        known: prepared tomograms that it was trained on: these, and those above, are familiar to it.
        merge_distance_in_radii: of two candidates nearer than this times their radius picking keeps the better one.
        least_truths: right candidates that a species needs to be fitted.
    """
    network = load_weights(network_of(weights), weights)
    if not isinstance(network, CropClassifier):
        raise InputError(f"{weights} is no second look: its network is {type(network).__name__}.")
    second_look = SecondLook(network, crop_shape, None, dtype=dtype)
    judged = judge_tomograms(tomograms, second_look, species_set, merge_distance_in_radii)
    trained = [] if known is None else judge_tomograms(known, second_look, species_set, merge_distance_in_radii)
    familiarity = Familiarity.learn(
        *(np.unique([one.statistics for one in ones], axis=0) for ones in ([*judged, *trained], judged))
    )
    names = species_set.names
    calibration, left = fit_calibration(judged, names, least_truths)
    card = {
        **needed_card(weights, "output_dir"),
        FIRST_SHA256: sha256_of(checkpoint_path),
        CROP: as_json(asdict(crop_shape)),
        CALIBRATION: calibration.as_table(names),
        NOT_CALIBRATED: left,
        FAMILIARITY: familiarity.as_table(),
    }
    folder = Path(output_dir)
    save_model(folder / SECOND_LOOK, read_bytes(weights), card)
    warn_of_uncalibrated(folder / SECOND_LOOK, left)
    reliabilities = {}
    for column, name in enumerate(names):
        kept, right = (
            np.concatenate([getattr(one, key)[:, column] for one in judged]) for key in ("is_kept", "is_right")
        )
        found = np.concatenate([one.probabilities(calibration)[:, column] for one in judged])
        reliabilities[name] = reliability_of(found[kept], right[kept])
        logger.info("%s: calibration error %.3f on the runs it was fitted on", name, reliabilities[name].error)
    save_figure(reliability_figure(reliabilities, species_set), folder / "reliability.png")
    logger.info("second look: %s; copy it and its card beside the first network's weights", folder / SECOND_LOOK)


class WriteReliability:
    """Compare the probabilities of a second look with the truth.

    ``reliability.csv`` has a row per species: its candidates from a probability of 0.05 on, their calibration error,
    the error that exact probabilities would have with as few candidates, and average precision; ``reliability.png``
    draws it. ``operating_points.csv`` has, for every point that can be asked for, what was asked and what came.

    Args:
        output_dir: where the files are written.
        species_set: the species.
    """

    def __init__(self, output_dir: str, species_set: SpeciesSet) -> None:
        self.folder, self.species_set = Path(output_dir), species_set

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self.reset)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)
        engine.add_event_handler(Events.COMPLETED, self.write)

    def reset(self, engine: Engine) -> None:
        self.judged: list[dict[str, JudgedScores]] = []

    def __call__(self, engine: Engine) -> None:
        for sample in samples_of(engine):
            size = image_facts_of(sample).voxel_size_angstrom
            particles = np.asarray(sample["label"].cpu(), dtype=np.float64).reshape(-1, 4)
            region = sample.get("region")
            every = {name: keep_inside(found, region) for name, found in sample["candidates"].items()}
            told = {
                species.name: every[species.name].only(is_judged(every[species.name].centres_zyx_vox, species, sample))
                for species in self.species_set.picked
            }
            self.judged.append(judge_scores(told, particles, self.species_set, size, every))

    def write(self, engine: Engine) -> None:
        reliabilities, rows = {}, []
        for name in self.species_set.names:
            own = [run[name] for run in self.judged]
            scores, right = (np.concatenate([getattr(one, key) for one in own]) for key in ("scores", "is_right"))
            found = reliabilities[name] = reliability_of(scores, right)
            truths = sum(len(one.truths_angstrom) for one in own)
            numbers = found.error, sampling_error(scores), average_precision(scores, right, truths)
            rows.append([name, int(found.count.sum()), *(f"{value:.4f}" for value in numbers)])
        write_table_of_rows(self.folder / "reliability.csv", RELIABILITY_COLUMNS, rows)
        write_table_of_rows(self.folder / "operating_points.csv", POINT_COLUMNS, list(self.point_rows()))
        save_figure(reliability_figure(reliabilities, self.species_set), self.folder / "reliability.png")

    def point_rows(self) -> Iterator[list[Any]]:
        """Yield, for every operating point, a row per species and one of their mean F1 and weighted F4."""
        for wanted in POINTS:
            scores: list[SpeciesScore] = []
            for name, point in parse_operating_points(wanted, self.species_set).items():
                found = [run[name].counts_at(point) for run in self.judged]
                scores.append(score_species(name, sum((counts for counts, _ in found), Counts())))
                picks = scores[-1].counts.predicted
                expected = sum(right for _, right in found) / picks if picks else math.nan
                yield _point_row(point, scores[-1], f"{expected:.4f}")
            total = score_species("total", sum((row.counts for row in scores), Counts()))
            f4 = score_counts({row.name: row.counts for row in scores}, self.species_set)
            yield _point_row(point, replace(total, f1=mean_f1(scores), fbeta=f4), "")


def _point_row(point: OperatingPoint, score: SpeciesScore, expected: str) -> list[Any]:
    """Return a row of ``operating_points.csv``."""
    counts, shares = score.counts, (score.precision, score.recall, score.f1, score.fbeta)
    numbers = [f"{value:.4f}" for value in shares]
    return [str(point), score.name, counts.truths, counts.predicted, counts.fp, expected, *numbers]
