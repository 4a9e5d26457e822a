"""What the network of every fold finds in the tomograms that it has not seen, against the truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from scripts.atomic_files import write_atomically
from scripts.errors import InputError
from scripts.picking.calibration import Calibration
from scripts.picking.proposals import Proposals
from scripts.scoring.calibration import JudgedCandidates, fit_calibration, judge_candidates
from scripts.scoring.metrics import Counts
from scripts.scoring.reliability import reliability_of
from scripts.scoring.threshold_choice import fit_thresholds
from scripts.species import SpeciesSet

Sweep = NDArray[np.int64]


@dataclass(frozen=True)
class OutOfFold:
    """A tomogram that a network has not seen.

    Attributes:
        run: its name.
        voxel_size_angstrom: of the network's input.
        proposals: of the network, in voxels of its input.
        particles: ``(M, 4)`` true ones, rows of label and voxel index.
        sweep: ``(C, T, 3)`` hits, picks and truths by species and threshold, one to one.
        is_judged: ``(N, C)``, which proposals count as right or wrong, see `picking.image_picks.is_judged`.
    """

    run: str
    voxel_size_angstrom: float
    proposals: Proposals
    particles: NDArray[np.float64]
    sweep: Sweep
    is_judged: NDArray[np.bool_]


def write_out_of_fold(path: Path, one: OutOfFold) -> None:
    """Write what is known of a tomogram, atomically."""
    with write_atomically(path, "wb") as file:
        np.savez(
            file, run=one.run, voxel_size_angstrom=one.voxel_size_angstrom, particles=one.particles, sweep=one.sweep,
            centres_zyx_vox=one.proposals.centres_zyx_vox, logits=one.proposals.logits, is_judged=one.is_judged,
        )  # fmt: skip


def read_out_of_fold(path: Path) -> OutOfFold:
    """Read what `write_out_of_fold` wrote.

    Raises:
        InputError: the file is missing or damaged.
    """
    try:
        with open(path, "rb") as file, np.load(file) as content:
            proposals = Proposals(content["centres_zyx_vox"], content["logits"])
            run, size = str(content["run"]), float(content["voxel_size_angstrom"])
            return OutOfFold(run, size, proposals, content["particles"], content["sweep"], content["is_judged"])
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise InputError(f"cannot read {path}: {error}. Delete the folder that it is in, and start again.") from error


def judge_out_of_fold(
    one: OutOfFold, species_set: SpeciesSet, merge_distance_in_radii: float = 1.0
) -> JudgedCandidates:
    """Return the proposals in a tomogram beside the truth; without a second look, its answers are the logits, too."""
    logits = one.proposals.logits
    kept, right = judge_candidates(
        one.proposals.centres_zyx_vox, logits, one.particles, species_set, one.voxel_size_angstrom,
        merge_distance_in_radii,
    )  # fmt: skip
    return JudgedCandidates(one.run, logits, logits, kept & one.is_judged, right, np.zeros(0))


def counts_at(
    sweep: Sweep, thresholds: NDArray[np.float64], chosen: Mapping[str, float], species_set: SpeciesSet
) -> dict[str, Counts]:
    """Return the counts of every species at the threshold of a sweep that is nearest to the chosen one."""
    nearest = [int(np.argmin(np.abs(thresholds - chosen[name]))) for name in species_set.names]
    return {
        name: Counts(*map(int, rows[place]))
        for name, rows, place in zip(species_set.names, sweep, nearest, strict=True)
    }


def held_out_counts(
    sweeps: Sequence[Sweep], thresholds: NDArray[np.float64], species_set: SpeciesSet, beta: float, least_truths: int
) -> list[dict[str, Counts]]:
    """Return the counts of every fold at the thresholds that the other folds give.

    Args:
        sweeps: of every fold, ``(C, T, 3)``.
        thresholds: ``(T,)`` that were tried.
        species_set: the species.
        beta: see `threshold_choice.fit_thresholds`, and so are the others.
        least_truths: true particles that a species needs.
    """
    everything, counts = np.sum(sweeps, axis=0), []
    for own in sweeps:
        fit = fit_thresholds(everything - own, thresholds, species_set, beta, least_truths)
        counts.append(counts_at(own, thresholds, fit.thresholds, species_set))
    return counts


def held_out_calibration_error(
    folds: Sequence[Sequence[JudgedCandidates]], names: Sequence[str], least_truths: int
) -> dict[str, float]:
    """Return every species' error of the probabilities that a calibration on the other folds gives.

    Args:
        folds: the candidates of every fold.
        names: of the species.
        least_truths: see `calibration.fit_calibration`.
    """
    found: dict[str, list[NDArray[np.float64]]] = {name: [] for name in names}
    right: dict[str, list[NDArray[np.bool_]]] = {name: [] for name in names}
    for number, fold in enumerate(folds):
        others = [one for place, other in enumerate(folds) if place != number for one in other]
        if not sum(len(one.logits) for one in others):
            continue
        calibration: Calibration = fit_calibration(others, names, least_truths)[0]
        for one in fold:
            probabilities = one.probabilities(calibration)
            for column, name in enumerate(names):
                kept = one.is_kept[:, column]
                found[name].append(probabilities[kept, column])
                right[name].append(one.is_right[kept, column])
    return {
        name: reliability_of(np.concatenate(found[name]), np.concatenate(right[name])).error if found[name] else 0.0
        for name in names
    }
