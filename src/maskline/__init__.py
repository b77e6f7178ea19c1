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
    from maskline.api import create_model
    from maskline.errors import MasklineError
    from maskline.exporting import export
    from maskline.instances import Instances
    from maskline.outputs.coco import CocoResultsWriter, CocoWriter
    from maskline.outputs.csv_table import CsvWriter
    from maskline.outputs.formats import open_writers
    from maskline.outputs.labelme import LabelMeWriter
    from maskline.outputs.result import Result
    from maskline.paddlex.pipeline import create_pipeline
    from maskline.runtime.predictor import Predictor

_HOMES = {
    "CocoResultsWriter": "maskline.outputs.coco",
    "CocoWriter": "maskline.outputs.coco",
    "create_model": "maskline.api",
    "create_pipeline": "maskline.paddlex.pipeline",
    "CsvWriter": "maskline.outputs.csv_table",
    "export": "maskline.exporting",
    "Instances": "maskline.instances",
    "LabelMeWriter": "maskline.outputs.labelme",
    "MasklineError": "maskline.errors",
    "open_writers": "maskline.outputs.formats",
    "Predictor": "maskline.runtime.predictor",
    "Result": "maskline.outputs.result",
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
