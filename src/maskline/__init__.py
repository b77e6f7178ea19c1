"""maskline: instance segmentation from a photo to masks.

>>> import maskline
>>> model = maskline.create_model("Mask-RT-DETR-S")  # doctest: +SKIP
>>> for result in model.predict("photo.jpg"):  # doctest: +SKIP
...     result.save_to_img("output")

Public names load on first use, so that importing maskline is quick and only `export` needs torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from maskline.api import create_model, create_pipeline
    from maskline.errors import MasklineError
    from maskline.exporting import export
    from maskline.instances import Instances
    from maskline.results import Result
    from maskline.runtime.predictor import Predictor
    from maskline.writers import CocoResultsWriter, CocoWriter, CsvWriter, LabelMeWriter, open_writers

_HOMES = {
    "CocoResultsWriter": "maskline.writers",
    "CocoWriter": "maskline.writers",
    "create_model": "maskline.api",
    "create_pipeline": "maskline.api",
    "CsvWriter": "maskline.writers",
    "export": "maskline.exporting",
    "Instances": "maskline.instances",
    "LabelMeWriter": "maskline.writers",
    "MasklineError": "maskline.errors",
    "open_writers": "maskline.writers",
    "Predictor": "maskline.runtime.predictor",
    "Result": "maskline.results",
}

__all__ = [
    "CocoResultsWriter",
    "CocoWriter",
    "CsvWriter",
    "Instances",
    "LabelMeWriter",
    "MasklineError",
    "Predictor",
    "Result",
    "__version__",
    "create_model",
    "create_pipeline",
    "export",
    "open_writers",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'maskline' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
