"""MONAI Label's folder of studies, read and changed by one thread at a time.

MONAI Label updates its list of labels in a thread of its own, a moment after a file has come or gone. A request that
reads the list meanwhile finds labels that are no longer there, misses others, or fails.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any

from monailabel.datastore.local import LocalDatastore


class StudyFolder(LocalDatastore):
    """A folder of studies whose list is whole at any time, and which forgets what a request removes at once.

    The arguments are those of MONAI Label's ``LocalDatastore``.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.turns = threading.RLock()
        super().__init__(*args, **kwargs)

    def remove_label(self, label_id: str, label_tag: str) -> None:
        """Remove a label's file, and its entry in the list."""
        super().remove_label(label_id, label_tag)
        self.refresh()

    def remove_image(self, image_id: str) -> None:
        """Remove a study's file and its labels, and their entries in the list."""
        super().remove_image(image_id)
        self.refresh()


def in_turn(method: Callable[..., Any]) -> Callable[..., Any]:
    """Return a method that waits until no other thread is in such a method of the same folder."""

    @functools.wraps(method)
    def waiting(self: StudyFolder, *args: Any, **kwargs: Any) -> Any:
        with self.turns:
            return method(self, *args, **kwargs)

    return waiting


for name in (
    "add_image", "datalist", "get_labeled_images", "get_unlabeled_images", "json", "list_images", "refresh",
    "remove_image", "remove_label", "save_label", "status", "update_image_info", "update_label_info",
):  # fmt: skip
    setattr(StudyFolder, name, in_turn(getattr(StudyFolder, name)))
