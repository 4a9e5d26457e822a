"""A second look at every place that the first network proposes: a small network judges it alone.

The first network sees a whole window and cannot always tell similar species apart. The second one sees one particle at
the centre of a crop, its neighbours masked, and returns one probability per species and one for nothing. Both outputs
are combined into one calibrated probability, see `calibration`.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scripts.errors import InputError, InputWarning
from scripts.file_pages import FilePages
from scripts.networks.crop_classifier import CropClassifier
from scripts.networks.model_card import (
    FIRST_SHA256,
    needed_card,
    network_of,
    sha256_of,
    sha256_of_all,
    uses_in_card,
)
from scripts.networks.weights import load_weights
from scripts.picking.calibrated_scores import CalibratedScores, load_calibration
from scripts.picking.calibration import Calibration, half_trusted, log_odds_of, warn_of_uncalibrated
from scripts.picking.familiarity import VISIBILITY, Familiarity, statistics_of
from scripts.picking.proposals import Proposals
from scripts.preparation.crops import Brightness, CropShape, as_input, cut_crop, turned_copies
from scripts.settings import check_setting
from scripts.species import SpeciesSet
from scripts.threads import AT_ONCE, in_threads

SECOND_LOOK = "second_look.pt"  # beside the weights of the first network
CROP, CALIBRATION, FAMILIARITY = "crop", "calibration", "familiarity"
NOT_CALIBRATED = "not_calibrated"  # why the probability of a species is the second network's own
BATCH = 32  # crops at a time: their features stay in the processor's cache
COPIES_USED = 2  # turned copies; more gain nothing measurable
TRAIN_COMMAND = "python -m monai.bundle run second_look"

logger = logging.getLogger(__name__)


class SecondLook:
    """Judges candidates.

    Args:
        network: maps crops ``(B, 1, S, S, S)`` to logits ``(B, 1 + C)``; class 0 is nothing.
        crop_shape: of the crops.
        calibration: of the probabilities; None while it is not fitted.
        familiarity: the tomograms that the probabilities were learned on; None if they are not known.
        copies: turned copies of each crop whose answers are averaged, 1 to 8.
        dtype: what the network computes in.
        weights_sha256: of its weights file, for the record.
        first_sha256: of the first network's weights, whose candidates it was trained on.
        uses: runs that it was made with, see `model_card.uses_in_card`.
    """

    def __init__(
        self,
        network: CropClassifier,
        crop_shape: CropShape,
        calibration: Calibration | None,
        familiarity: Familiarity | None = None,
        copies: int = COPIES_USED,
        dtype: torch.dtype = torch.float32,
        weights_sha256: str = "",
        first_sha256: str = "",
        uses: Mapping[str, Sequence[str]] = MappingProxyType({}),
    ) -> None:
        check_setting("second_look_copies", copies)
        self.weights_sha256, self.first_sha256, self.uses = weights_sha256, first_sha256, uses
        self.network, self.crop_shape, self.calibration = network.folded(dtype), crop_shape, calibration
        self.familiarity, self.copies, self.dtype = familiarity, copies, dtype
        self.device = next(network.parameters()).device
        self.mask = crop_shape.mask().to(self.device)

    def record(self) -> dict[str, Any]:
        """Return the settings that the picks depend on."""
        return {
            "weights_sha256": self.weights_sha256,
            "crop": asdict(self.crop_shape),
            "copies": self.copies,
            "calibration": self.calibration,
            "familiarity": self.familiarity,
        }

    def judge(self, volume: Any, proposals: Proposals) -> tuple[NDArray[np.float64], str | None]:
        """Return the calibrated probability of every species at every place, ``(N, C)``, and why they may be wrong.

        Args:
            volume: ``(Z, Y, X)``, scaled as for the first network.
            proposals: places in voxels of the volume.

        Returns:
            The probabilities; and, for an unfamiliar tomogram, a description of how it differs from the known ones. The
            calibration may not hold there and is half trusted, see `calibration.half_trusted`. Where particles are only
            too faint, it is still the best guess, as for the faintest that it was fitted on.
        """
        assert self.calibration is not None
        logits, log_odds = proposals.logits, self.log_odds(volume, proposals.centres_zyx_vox)
        statistics = statistics_of(volume, self.crop_shape.voxel_size_angstrom, logits, log_odds)
        visibility = float(statistics[VISIBILITY])
        if self.familiarity is None or not len(proposals):  # without candidates there is no score to be wrong
            return self.calibration.probabilities(logits, log_odds, visibility), None
        visibility = max(visibility, self.familiarity.least_visibility)
        calibrated = self.calibration.probabilities(logits, log_odds, visibility)
        warning = self.familiarity.why_unfamiliar(statistics)
        if warning:
            return half_trusted(calibrated, logits, log_odds), warning
        return calibrated, self.familiarity.why_too_faint(statistics)

    def log_odds(self, volume: Any, centres_zyx_vox: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the log-odds of every species at every place, before calibration: ``(N, C)``."""
        if len(centres_zyx_vox) == 0:
            return np.zeros((0, self.network.head.out_features - 1))
        brightness, pages = Brightness.of(volume), FilePages(volume)

        def answer_to(first: int) -> Tensor:
            places = pages.after_each(centres_zyx_vox[first : first + BATCH])
            return self.log_probabilities(self.cut(volume, places, brightness))

        workers = AT_ONCE if self.device.type == "cpu" else 1
        answers = in_threads(answer_to, range(0, len(centres_zyx_vox), BATCH), workers)
        return log_odds_of(torch.cat(list(answers)).cpu().numpy())

    def cut(self, volume: Any, centres_zyx_vox: Iterable[NDArray[np.float64]], brightness: Brightness) -> Tensor:
        """Return crops ``(N, S + 1, S + 1, S + 1)``."""
        size = self.crop_shape.cut_size
        crops = np.stack([cut_crop(volume, place, size, brightness) for place in centres_zyx_vox])
        return torch.from_numpy(crops).to(self.device)

    @torch.no_grad()
    def log_probabilities(self, cut: Tensor) -> Tensor:
        """Return the log-probabilities of all classes, averaged over turned copies: ``(N, 1 + C)``."""
        answers = [
            self.network(as_input(copy, self.mask).to(self.dtype)).float().log_softmax(dim=1)
            for copy in turned_copies(cut, self.copies)
        ]
        return torch.stack(answers).mean(dim=0).log_softmax(dim=1)


def find_second_look(
    wanted: bool | str,
    path: str | Path | None,
    checkpoint_path: str | Path | Sequence[str | Path],
    species_set: SpeciesSet,
    copies: int = COPIES_USED,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    has_network: bool = True,
    probability_thresholds: Any = None,
    checks_first: bool = True,
    calibration_path: str | Path | None = None,
) -> SecondLook | CalibratedScores | None:
    """Return the second look of a first network, or None where there is to be none.

    Args:
        wanted: True for the one in ``path``; False for none; ``auto`` for the one in ``path`` if it is there, and was
            trained for this first network, which otherwise a message or a warning says. A ``path`` makes it True.
        path: the weights of the second look; None for the file of the usual name beside the first network's.
        checkpoint_path: the weights of the first network, or a file exported from them; a list of several
            files, of an ensemble, has no second look.
        species_set: the species to pick.
        copies: see `SecondLook`.
        dtype: see `SecondLook`.
        device: where the network runs.
        has_network: whether the first network has the weights of ``checkpoint_path``; ``auto`` needs them.
        probability_thresholds: for the first network's scores; with them ``auto`` means none.
        calibration_path: of probabilities for the first network's scores, or an ensemble's, in place of a second look,
            see `calibrated_scores`.
        checks_first: False where the weights are chosen later and compared then, see `monai_label.CheckServedWeights`.

    Raises:
        InputError: ``wanted`` is something else, or comes with thresholds; or the second look is wanted, and missing,
            damaged, or for other species, another voxel size or another first network.
    """
    check_setting("second_look", wanted)
    check_setting("second_look_copies", copies)
    if wanted == "auto" and path is not None:
        wanted = True
    if calibration_path is not None:
        if wanted is True or probability_thresholds is not None or not checks_first:
            raise InputError(
                "calibration_path takes the place of a second look: give it without second_look true and without "
                "probability_thresholds, and not in MONAI Label."
            )
        return load_calibration(calibration_path, checkpoint_path, species_set)
    if wanted is False or (wanted == "auto" and not has_network):
        return None
    if not isinstance(checkpoint_path, str | Path) and len(checkpoint_path) == 1:
        checkpoint_path = checkpoint_path[0]
    if not isinstance(checkpoint_path, str | Path):
        if wanted is True:
            raise InputError(
                "a second look judges the candidates of one network, and checkpoint_path is a list: set second_look to "
                "false, or give one file."
            )
        logger.info("no second look: it is for one network; picks and scores are the ensemble's")
        return None
    if probability_thresholds is not None:
        if wanted is True:
            raise InputError(
                "probability_thresholds are for the first network's scores: leave them out and set operating_point, "
                "or set second_look to false."
            )
        logger.info("no second look: the probability thresholds are for the first network's scores")
        return None
    path = Path(checkpoint_path).with_name(SECOND_LOOK) if path is None else Path(path)
    if wanted == "auto" and not path.is_file():
        logger.info("no second look in %s: picks and scores are the first network's", path)
        return None
    try:
        return load_second_look(path, checkpoint_path if checks_first else None, species_set, copies, dtype, device)
    except InputError as error:
        if wanted is True:
            raise
        warnings.warn(f"There is no second look: {error}", InputWarning, stacklevel=2)
        return None


def load_second_look(
    path: str | Path,
    checkpoint_path: str | Path | None,
    species_set: SpeciesSet,
    copies: int = COPIES_USED,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> SecondLook:
    """Load a second look, see `find_second_look`; without ``checkpoint_path`` the first network is not compared.

    Raises:
        InputError: it is missing or damaged, or for other species, another voxel size or another first network.
    """
    if not Path(path).is_file():
        raise InputError(
            f"cannot read {path}: no such file. Set second_look to false, or train one: {TRAIN_COMMAND} ..."
        )
    card = needed_card(path, "second_look to false")
    missing = [key for key in (FIRST_SHA256, CROP, CALIBRATION) if not card.get(key)]
    if missing:
        raise InputError(f"{path} is no second look: its card has no {missing[0]}. Train one: {TRAIN_COMMAND} ...")
    if checkpoint_path is not None and card[FIRST_SHA256] not in sha256_of_all(checkpoint_path):
        raise InputError(
            f"{path} was trained on the candidates of other weights than {checkpoint_path}. Set second_look to false, "
            f"or train one for these weights: {TRAIN_COMMAND} ..."
        )
    network = load_weights(network_of(path), path, species_set).to(device)
    if not isinstance(network, CropClassifier):
        raise InputError(f"{path} is no second look: its network is {type(network).__name__}.")
    try:
        crop_shape, table = CropShape(**card[CROP]), card.get(FAMILIARITY)
        familiarity = None if table is None else Familiarity.from_table(table)
        calibration = Calibration.from_table(card[CALIBRATION], species_set.names)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}: its card is damaged, or of an earlier version: {error}. Copy both again, or train one: "
            f"{TRAIN_COMMAND} ..."
        ) from error
    warn_of_uncalibrated(path, card.get(NOT_CALIBRATED) or {})
    return SecondLook(
        network, crop_shape, calibration, familiarity, copies, dtype, sha256_of(path), card[FIRST_SHA256],
        uses_in_card(card, path),
    )  # fmt: skip
