"""Training: from a data set to ``best_model/inference``.

Needs the extra ``train``; without it, importing this raises MissingDependencyError.
"""

from importlib.util import find_spec

from maskline.errors import MissingDependencyError

NEEDED = ("accelerate", "onnx", "onnxscript", "safetensors", "scipy", "tensorboard", "torch")

if missing := [name for name in NEEDED if find_spec(name) is None]:
    raise MissingDependencyError(f"training needs {', '.join(missing)}: pip install 'maskline[train]'")

from maskline.training.results import Report, TrainResult  # noqa: E402 (only where it can be imported)
from maskline.training.run import train  # noqa: E402
from maskline.training.settings import TrainSettings  # noqa: E402

__all__ = ["Report", "TrainResult", "TrainSettings", "train"]
