"""Training: from a data set to an exported model, ``best_model/inference``.

Needs the extra ``train``, except for `TrainSettings`.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from maskline._lazy import lazy_names
from maskline.errors import MissingDependencyError
from maskline.training.settings import TrainSettings

if TYPE_CHECKING:
    from maskline.training.results import Report, TrainResult
    from maskline.training.run import train

__all__ = ["Report", "TrainResult", "TrainSettings", "train"]

NEEDED = ("accelerate", "onnx", "onnxscript", "safetensors", "scipy", "tensorboard", "torch")


_load = lazy_names(__name__, {"Report": "results", "TrainResult": "results", "train": "run"})


def __getattr__(name: str) -> Any:
    """Load public names and modules on first use. Raises MissingDependencyError without the extra ``train``."""
    if missing := [package for package in NEEDED if find_spec(package) is None]:
        raise MissingDependencyError(f"training needs {', '.join(missing)}: pip install 'maskline[train]'")
    return _load(name)
