"""Evaluation: how well anything that finds instances does on a data set. COCO's measure to the last digit; no torch.

`evaluate` takes a function from an image to `Instances`, `evaluate_stream` one from many to many, and `evaluate_model`
an exported model; `maskline.evaluate.compare` tells whether one of two is better than chance explains.

Needs the extra ``data``; without it, importing this raises MissingDependencyError.
"""

import maskline.data  # noqa: F401 (first, because it names the extra where it is missing)
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
