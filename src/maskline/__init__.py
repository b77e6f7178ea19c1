"""Instance segmentation: prediction, training, evaluation, export and serving.

>>> import maskline
>>> model = maskline.create_model("Mask-RT-DETR-S")  # doctest: +SKIP
>>> for result in model.predict("photo.jpg"):  # doctest: +SKIP
...     result.save_to_img("output")

Public names are loaded on first use, so that importing maskline is fast and only `export` needs torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from maskline._lazy import lazy_names

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
    "CocoResultsWriter": "outputs.coco",
    "CocoWriter": "outputs.coco",
    "create_model": "api",
    "create_pipeline": "paddlex.pipeline",
    "CsvWriter": "outputs.csv_table",
    "export": "exporting",
    "Instances": "instances",
    "LabelMeWriter": "outputs.labelme",
    "MasklineError": "errors",
    "open_writers": "outputs.formats",
    "Predictor": "runtime.predictor",
    "Result": "outputs.result",
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


__getattr__ = lazy_names(__name__, _HOMES)


def __dir__() -> list[str]:
    return sorted(__all__)
