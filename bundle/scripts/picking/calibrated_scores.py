"""Probabilities out of the logits of a first network alone, where there is no second look."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scripts.atomic_files import write_atomically
from scripts.errors import InputError
from scripts.networks.model_card import sha256_of, sha256_of_all
from scripts.picking.calibration import Calibration, warn_of_uncalibrated
from scripts.picking.proposals import Proposals
from scripts.species import SpeciesSet


class CalibratedScores:
    """Judges candidates by the logits of the network that proposes them.

    Args:
        calibration: fitted with the logits in the place of a second look's answers, too.
        uses: runs that it was made with, see `model_card.uses_in_card`.
    """

    def __init__(self, calibration: Calibration, uses: Mapping[str, Sequence[str]] = MappingProxyType({})) -> None:
        self.calibration, self.uses = calibration, uses

    def record(self) -> dict[str, Any]:
        """Return the settings that the picks depend on."""
        return {"calibration": self.calibration}

    def judge(self, volume: Any, proposals: Proposals) -> tuple[NDArray[np.float64], None]:
        """Return the probability of every species at every place, ``(N, C)``, as `second_look.SecondLook.judge` does.

        Args:
            volume: not looked at.
            proposals: places with the network's logits.
        """
        return self.calibration.probabilities(proposals.logits, proposals.logits), None


def write_calibration(
    path: str | Path,
    calibration: Calibration,
    names: Sequence[str],
    weights: Sequence[str | Path],
    left: Mapping[str, str],
    merge_distance_in_radii: float = 1.0,
    least_truths: int | None = None,
) -> None:
    """Write a calibration to a JSON file, as inference takes it.

    Args:
        path: the file.
        calibration: fitted on candidates that each of the networks proposed in tomograms that it had not seen.
        names: of the species.
        weights: the networks' files.
        left: why a species is not calibrated, by name.
        merge_distance_in_radii: of two candidates nearer than this times their radius the better one was fitted on.
        least_truths: right candidates that a species needed to be fitted.
    """
    content = {
        "weights_sha256": [sha256_of(file) for file in weights],
        "calibration": calibration.as_table(names),
        "not_calibrated": dict(left),
        "merge_distance_in_radii": merge_distance_in_radii,
        "least_truths": least_truths,
    }
    with write_atomically(path) as file:
        file.write(json.dumps(content, indent=4) + "\n")


def load_calibration(
    path: str | Path, checkpoint_path: str | Path | Sequence[str | Path], species_set: SpeciesSet
) -> CalibratedScores:
    """Read what `write_calibration` wrote; species that are not calibrated are warned of.

    Args:
        path: the file.
        checkpoint_path: the weights file, or those of an ensemble: one or more of those that were calibrated, or a
            file exported beside one of them.
        species_set: the species to pick.

    Raises:
        InputError: the file is missing, damaged, or for other weights or species.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        calibration = Calibration.from_table(content["calibration"], species_set.names)
        known, left = set(content["weights_sha256"]), dict(content["not_calibrated"])
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}. Set calibration_path.") from error
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} is no calibration of these species: {error!r}. Set calibration_path.") from error
    files = [checkpoint_path] if isinstance(checkpoint_path, str | Path) else checkpoint_path
    for file in files:
        if known.isdisjoint(sha256_of_all(file)):
            raise InputError(f"{path} was not fitted for {file}: leave calibration_path out, or give the weights' own.")
    warn_of_uncalibrated(path, left)
    return CalibratedScores(calibration, {f"calibration in {path}": calibration.fitted_on})
