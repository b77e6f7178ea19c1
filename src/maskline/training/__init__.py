"""Training: from a data set to ``best_model/inference``. Needs the extra ``train``, except for `TrainSettings`."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from maskline.errors import MissingDependencyError
from maskline.training.settings import TrainSettings

if TYPE_CHECKING:
    from maskline.training.run import train

__all__ = ["TrainSettings", "train"]

NEEDED = ("accelerate", "onnx", "onnxscript", "safetensors", "scipy", "tensorboard", "torch")


def __getattr__(name: str) -> Any:
    """Load `train` or a module on first use. Raises MissingDependencyError without the extra ``train``."""
    if missing := [package for package in NEEDED if find_spec(package) is None]:
        raise MissingDependencyError(f"training needs {', '.join(missing)}: pip install 'maskline[train]'")
    if name == "train":
        return import_module(f"{__name__}.run").train
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
