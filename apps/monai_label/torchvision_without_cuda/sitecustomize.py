"""Lets torchvision be imported beside a torch without CUDA; put this folder on PYTHONPATH.

MONAI Label imports torchvision (for a function that this bundle never calls). The wheels on PyPI are built for CUDA:
beside a CPU torch their compiled part does not load, and then ``import torchvision`` itself fails, because it describes
two operators that nobody has defined ("operator torchvision::nms does not exist"). Here the two get their names and
types, no more, and only where the compiled part really does not load. Nothing happens before somebody imports
torchvision.
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
    """Define the operators in the moment before torchvision is loaded."""

    library: Any = None  # torch forgets the operators when this goes away

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find nothing; the search goes on with the usual finders."""
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
    """Tell whether torchvision's compiled part can be used with this torch."""
    import torch

    try:
        for file in folder.glob("_C*.so"):
            torch.ops.load_library(file)
    except OSError:
        return False
    return True


sys.meta_path.insert(0, DefineOperators())
