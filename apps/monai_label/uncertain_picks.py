"""MONAI Label's app for bundles, with a strategy for the next tomogram: the one with the most uncertain picks.

A strategy must be part of the app, not of the bundle: `serve.make_app` makes this module the app's ``main.py``, and
keeps the original beside it as ``monaibundle.py``.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping
from typing import Any

import monaibundle
from fastapi import HTTPException
from input_errors import input_error
from monailabel.config import settings
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.infer_v2 import InferTask
from monailabel.interfaces.tasks.scoring import ScoringMethod
from monailabel.interfaces.tasks.strategy import Strategy
from request_options import fault_of_options
from study_folder import StudyFolder

logger = logging.getLogger(__name__)

SECOND_LOOK = "second_look.pt"  # beside the model
NAME = "most_uncertain_picks"
SCORE, SCORED_WITH = "uncertain_picks", "uncertain_picks_weights"  # keys of a study's stored information


class MyApp(monaibundle.MyApp, MONAILabelApp):  # MONAI Label looks for a class with MONAILabelApp among its bases
    """The app for bundles, with the scoring method and the strategy of this module."""

    def init_datastore(self) -> Datastore:
        """Return the folder of studies; a server of studies stays MONAI Label's own."""
        if self.studies.startswith(("http://", "https://")):
            return super().init_datastore()
        return StudyFolder(
            self.studies,
            extensions=settings.MONAI_LABEL_DATASTORE_FILE_EXT,
            auto_reload=settings.MONAI_LABEL_DATASTORE_AUTO_RELOAD,
            read_only=settings.MONAI_LABEL_DATASTORE_READ_ONLY,
        )

    def init_infers(self) -> dict[str, InferTask]:
        """Return the bundle's inference; a second look is no model that a client could choose."""
        infers: dict[str, InferTask] = super().init_infers()
        for task in infers.values():
            models = task.config().get("model_filename", [])
            models[:] = [name for name in models if name != SECOND_LOOK]
        return infers

    def infer(self, request: Mapping[str, Any], datastore: Datastore | None = None) -> Any:
        """Pick in a study.

        A study that does not exist is refused, where MONAI Label itself would read another file, and so is an option
        that does not exist, where it would pick without it.
        """
        task = self._infers.get(request.get("model"))
        fault = None if task is None else fault_of_options(request, task.config())
        if fault is not None:
            raise HTTPException(400, fault)
        study = request["image"]
        if isinstance(study, str) and not os.path.exists(study) and not self.datastore().get_image_uri(study):
            raise HTTPException(404, f"there is no study {study!r}; /datastore/ lists them.")
        return super().infer(request, datastore)

    def init_scoring_methods(self) -> dict[str, ScoringMethod]:
        """Return the app's scoring methods and ours."""
        return {**super().init_scoring_methods(), NAME: CountUncertainPicks(next(iter(self._infers.values())))}

    def init_strategies(self) -> dict[str, Strategy]:
        """Return the app's strategies and ours."""
        return {**super().init_strategies(), NAME: MostUncertainPicks()}


def uncertainty(picks: Iterable[Mapping[str, Any]], options: Mapping[str, Any]) -> float:
    """Return the number of uncertain picks: one at its threshold counts 1, one with score 1 counts 0, linear between.

    After a second look, a pick counts the probability that it is wrong.

    Args:
        picks: as in a response, with ``species`` and ``score``.
        options: the thresholds, ``threshold_<species>``.
    """
    total = 0.0
    for pick in picks:
        is_judged = pick.get("network_score") is not None
        threshold = 0.0 if is_judged else float(options[f"threshold_{pick['species']}"])
        total += (1 - float(pick["score"])) / (1 - threshold)
    return total


class CountUncertainPicks(ScoringMethod):
    """Pick in every study without a label, and store how many picks are uncertain.

    Studies that were scored with the weights in use are left out; one that cannot be read is named in the log.

    Args:
        task: the bundle's inference.
    """

    def __init__(self, task: InferTask) -> None:
        super().__init__("Count the uncertain picks of every study without a label")
        self.task = task

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Return the uncertainty of the studies that were scored, by name."""
        weights = os.stat(self.task.get_path()).st_mtime
        found = {}
        for study in sorted(datastore.get_unlabeled_images()):
            if datastore.get_image_info(study).get(SCORED_WITH) == weights:
                continue
            try:
                _, answer = self.task({"image": datastore.get_image_uri(study), "skip_writer": True})
            except Exception as error:
                logger.error("%s is not scored: %s", study, input_error(error) or repr(error))
                continue
            found[study] = round(uncertainty(answer["result"]["picks"], self.task.config()), 3)
            datastore.update_image_info(study, {SCORE: found[study], SCORED_WITH: weights})
            logger.info("%s: %.2f uncertain picks of %d", study, found[study], len(answer["result"]["picks"]))
        return found


class MostUncertainPicks(Strategy):
    """Choose the study without a label that has the most uncertain picks; studies that are not scored come last."""

    def __init__(self) -> None:
        super().__init__("The study with the most uncertain picks; run the scoring of the same name first")

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any] | None:
        """Return the study's name and its uncertainty, or None where every study has a label."""
        scores = {
            study: float(datastore.get_image_info(study).get(SCORE, -1.0))
            for study in sorted(datastore.get_unlabeled_images())
        }
        if not scores:
            return None
        chosen = max(scores, key=lambda study: scores[study])
        return {"id": chosen, SCORE: scores[chosen]}
