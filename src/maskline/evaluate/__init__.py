"""Evaluate instance segmentation on a data set, with COCO's metrics exactly; no torch.

`evaluate` takes a function from an image to `Instances`, `evaluate_stream` one from an iterator of images to their
instances, and `evaluate_model` an exported model; `maskline.evaluate.compare` tests two models for a significant
difference.

Needs the extra ``data``; without it, importing this raises MissingDependencyError.
"""

import maskline.data  # noqa: F401 (first, because it names a missing extra)
from maskline.evaluate.evaluation import ClassResult, Counts, Evaluation, Skipped
from maskline.evaluate.run import evaluate, evaluate_model, evaluate_stream, load_split

__all__ = [
    "ClassResult",
    "Counts",
    "Evaluation",
    "Skipped",
    "evaluate",
    "evaluate_model",
    "evaluate_stream",
    "load_split",
]
