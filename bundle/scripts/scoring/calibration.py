"""Calibrate the probabilities of candidates on tomograms with truth, and compare candidates with the truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree
from sklearn.linear_model import LogisticRegression

from scripts.errors import InputError
from scripts.picking.calibration import OF_TOMOGRAM, UNFITTED, Calibration, answers_of, confidence_of
from scripts.picking.candidates import Candidates, highest_among_neighbours
from scripts.picking.familiarity import VISIBILITY
from scripts.picking.operating_point import OperatingPoint
from scripts.scoring.matching import count_hits
from scripts.scoring.metrics import Counts
from scripts.scoring.threshold_choice import LEAST_TRUTHS
from scripts.species import HIT_FRACTION, SpeciesSet

TOMOGRAMS_FOR_CONFIDENCE = 8  # to fit what the confidence in a tomogram means
INVERSE_PENALTY = 10.0  # of the logistic regression


@dataclass(frozen=True)
class JudgedCandidates:
    """The candidates of one tomogram, with the outputs of both networks, compared with the truth.

    Attributes:
        run: name of the tomogram.
        logits: ``(N, C)`` of the first network.
        log_odds: ``(N, C)`` of the second look.
        is_kept: ``(N, C)``, whether no better candidate of the species is so near that picking merges both.
        is_right: ``(N, C)``, whether a kept candidate is the nearest hit of a true particle of the species.
        statistics: of the tomogram, see `picking.familiarity`; none where they are not known.
    """

    run: str
    logits: NDArray[np.floating[Any]]
    log_odds: NDArray[np.floating[Any]]
    is_kept: NDArray[np.bool_]
    is_right: NDArray[np.bool_]
    statistics: NDArray[np.float64]

    @property
    def visibility(self) -> float:
        """How far particles stand out; the same for all tomograms where it is not known."""
        return float(self.statistics[VISIBILITY]) if len(self.statistics) else 0.0

    def probabilities(self, calibration: Calibration) -> NDArray[np.float64]:
        """Return the probability of every species at every candidate: ``(N, C)``."""
        return calibration.probabilities(self.logits, self.log_odds, self.visibility)


def judge_candidates(
    centres_zyx_vox: NDArray[np.float64],
    scores: NDArray[np.floating[Any]],
    particles: NDArray[np.float64],
    species_set: SpeciesSet,
    voxel_size: float,
    merge_distance_in_radii: float = 1.0,
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return which candidates of each species picking keeps, and which of these are right.

    One particle is often proposed twice. Picking keeps the better candidate, so the other one is neither right nor
    wrong: counted as wrong, it would lower the probability of all.

    Args:
        centres_zyx_vox: ``(N, 3)``.
        scores: ``(N, C)``, by which one candidate is better than another.
        particles: ``(M, 4)`` rows of label and voxel index.
        species_set: the species.
        voxel_size: in ångströms.
        merge_distance_in_radii: of two candidates nearer than this times the species' radius the better one is kept.

    Returns:
        ``(N, C)`` each; of several kept candidates near one particle only the nearest is right.
    """
    is_kept, is_right = np.zeros(scores.shape, dtype=bool), np.zeros(scores.shape, dtype=bool)
    for column, species in enumerate(species_set.picked):
        distance = merge_distance_in_radii * species.radius_angstrom / voxel_size
        kept = highest_among_neighbours(centres_zyx_vox, scores[:, column], distance)
        is_kept[kept, column] = True
        is_right[kept, column] = nearest_hits(
            centres_zyx_vox[kept] * voxel_size,
            particles[particles[:, 0] == species.label, 1:] * voxel_size,
            HIT_FRACTION * species.radius_angstrom,
        )
    return is_kept, is_right


def nearest_hits(centres: NDArray[np.float64], truths: NDArray[np.float64], distance: float) -> NDArray[np.bool_]:
    """Return which of the points ``(N, 3)`` is the nearest to one of ``(M, 3)`` true particles, within a distance."""
    is_hit = np.zeros(len(centres), dtype=bool)
    if len(centres) and len(truths):
        away, nearest = KDTree(centres).query(truths)
        is_hit[nearest[away <= distance]] = True
    return is_hit


def fit_calibration(
    judged: Sequence[JudgedCandidates], names: Sequence[str], least_truths: int = LEAST_TRUTHS
) -> tuple[Calibration, dict[str, str]]:
    """Fit one logistic function per species.

    Args:
        judged: candidates of tomograms that neither network was trained on.
        names: of the species.
        least_truths: right candidates that a species needs.

    Returns:
        The calibration; and for every species that it leaves as it is, whose probability is that of the second look
        alone, the reason: too few right candidates, or no wrong one.

    Raises:
        InputError: there are no candidates.
    """
    if not sum(len(one.logits) for one in judged):
        raise InputError(
            f"the first network proposes nothing in {', '.join(one.run for one in judged) or 'no run'}: there is "
            "nothing to fit probabilities on. Name other validation_runs, or train the first network first."
        )
    tomograms = np.array([(*confidence_of(one.logits, one.log_odds), one.visibility) for one in judged])
    middle, spread = tomograms.mean(axis=0), tomograms.std(axis=0)
    is_known = spread > 0 if len(judged) >= TOMOGRAMS_FOR_CONFIDENCE else np.zeros(len(spread), dtype=bool)
    scaled = np.where(is_known, (tomograms - middle) / np.where(is_known, spread, 1), 0)
    answers = [answers_of(one.logits, one.log_odds) for one in judged]
    columns: list[list[float]] = []
    left: dict[str, str] = {}
    for number, name in enumerate(names):
        kept = np.concatenate([one.is_kept[:, number] for one in judged])
        right = np.concatenate([one.is_right[:, number] for one in judged])[kept]
        if right.sum() < least_truths:
            left[name] = f"{right.sum()} true particles among its candidates, at least {least_truths} needed"
        elif right.all():
            left[name] = "none of its candidates is wrong"
        if name in left:
            columns.append(list(UNFITTED))
            continue
        features = [
            np.column_stack([own[:, :, number], np.broadcast_to(row, (len(own), len(row)))])
            for own, row in zip(answers, scaled, strict=True)
        ]
        model = LogisticRegression(C=INVERSE_PENALTY, max_iter=1000).fit(np.concatenate(features)[kept], right)
        own, of_tomogram = np.split(model.coef_[0], [-len(OF_TOMOGRAM)])
        shares = np.where(is_known, of_tomogram / np.where(is_known, spread, 1), 0)
        columns.append([*own, *shares, float(model.intercept_[0]) - float(shares @ middle)])
    fitted = Calibration(np.array(columns), tuple(sorted({one.run for one in judged})))
    return replace(fitted, spreads=spreads_between(judged, fitted)), left


def spreads_between(judged: Sequence[JudgedCandidates], calibration: Calibration) -> NDArray[np.float64]:
    """Return how far tomograms differ from their probabilities, see `Calibration.spreads`.

    Were candidates independent, the number of right ones in a tomogram would have the variance ``v``, the sum of
    ``p (1 - p)``. A common shift of their log-odds by ``s`` changes it by ``s v``, so the squared difference from what
    is expected is ``v + s² v²`` on average.

    Args:
        judged: candidates of tomograms; of fewer than `TOMOGRAMS_FOR_CONFIDENCE` it is not known, and 0.
        calibration: of their probabilities.

    Returns:
        ``(C,)``.
    """
    excess, squares = np.zeros((2, len(calibration.weights)))
    for one in judged:
        chances = np.where(one.is_kept, one.probabilities(calibration), 0)
        variance = (chances * (1 - chances)).sum(axis=0)
        excess += ((one.is_kept & one.is_right).sum(axis=0) - chances.sum(axis=0)) ** 2 - variance
        squares += variance**2
    is_known = (excess > 0) & (len(judged) >= TOMOGRAMS_FOR_CONFIDENCE)
    answer: NDArray[np.float64] = np.sqrt(np.where(is_known, excess, 0) / np.maximum(squares, 1e-12))
    return answer


@dataclass(frozen=True)
class JudgedScores:
    """The candidates of one species in one tomogram that the truth tells of, beside its true particles.

    Attributes:
        scores: ``(N,)`` probabilities.
        is_right: ``(N,)``, see `nearest_hits`.
        centres_angstrom: ``(N, 3)``.
        truths_angstrom: ``(M, 3)``, the true particles.
        hit_angstrom: largest distance of a hit.
        every_score: ``(K,)`` probabilities of all candidates, by which picking chooses at an operating point.
    """

    scores: NDArray[np.float64]
    is_right: NDArray[np.bool_]
    centres_angstrom: NDArray[np.float64]
    truths_angstrom: NDArray[np.float64]
    hit_angstrom: float
    every_score: NDArray[np.float64]

    def counts_at(self, point: OperatingPoint) -> tuple[Counts, float]:
        """Return hits, picks and truths at an operating point, one to one, and the expected number of right picks."""
        is_picked = self.scores >= point.lowest_probability(self.every_score)
        hits = count_hits(self.truths_angstrom, self.centres_angstrom[is_picked], self.hit_angstrom, "one_to_one")
        return Counts(hits, int(is_picked.sum()), len(self.truths_angstrom)), float(self.scores[is_picked].sum())


def judge_scores(
    candidates: Mapping[str, Candidates],
    particles: NDArray[np.float64],
    species_set: SpeciesSet,
    voxel_size: float,
    every: Mapping[str, Candidates] | None = None,
) -> dict[str, JudgedScores]:
    """Return the candidates of every species beside its true particles.

    Args:
        candidates: that the truth tells of, by the species' names.
        particles: ``(M, 4)`` rows of label and voxel index.
        species_set: the species.
        voxel_size: in ångströms.
        every: all candidates, if the truth does not tell of some.
    """
    judged = {}
    for species in species_set.picked:
        found, distance = candidates[species.name], HIT_FRACTION * species.radius_angstrom
        centres = found.centres_zyx_vox * voxel_size
        truths = particles[particles[:, 0] == species.label, 1:] * voxel_size
        is_right = nearest_hits(centres, truths, distance)
        every_score = (every or candidates)[species.name].scores
        judged[species.name] = JudgedScores(found.scores, is_right, centres, truths, distance, every_score)
    return judged
