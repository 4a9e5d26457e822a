"""Make torchvision importable with a torch without CUDA; put this folder on PYTHONPATH.

MONAI Label imports torchvision (for a function that this bundle never calls). The wheels on PyPI are built for CUDA:
with a CPU torch their compiled part cannot be loaded, and ``import torchvision`` itself fails, because it refers to two
operators that are not defined ("operator torchvision::nms does not exist"). This module defines names and types of
these two operators, without an implementation, and only if the compiled part cannot be loaded. It does nothing until
torchvision is imported.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


class DefineOperators(MetaPathFinder):
    """Define the operators just before torchvision is loaded."""

    library: Any = None  # torch removes the operators when this object is deleted

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return None, so that the search continues with the usual finders."""
        if fullname == "torchvision":
            sys.meta_path.remove(self)
            spec = PathFinder.find_spec("torchvision")
            if spec is not None and spec.origin is not None and not loads(Path(spec.origin).parent):
                import torch

                DefineOperators.library = torch.library.Library("torchvision", "DEF")
                for name in ("nms", "qnms"):
                    DefineOperators.library.define(name + SIGNATURE)
        return None


def loads(folder: Path) -> bool:
    """Return whether torchvision's compiled part can be loaded with this torch."""
    import torch

    try:
        for file in folder.glob("_C*.so"):
            torch.ops.load_library(file)
    except OSError:
        return False
    return True


sys.meta_path.insert(0, DefineOperators())
