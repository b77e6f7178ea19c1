"""Evaluate instance segmentation on a data set, with COCO's metrics exactly; no torch.

`evaluate` takes a function from an image to `Instances`, `evaluate_stream` one from an iterator of images to their
instances, and `evaluate_model` an exported model; `maskline.evaluate.compare` tests two models for a significant
difference.

Needs the extra ``data``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from maskline._lazy import lazy_names

if TYPE_CHECKING:
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

STANDARD_DETECTIONS, MOST_DETECTIONS = 100, 100_000  # of a class in an image; the first is COCO's
RESAMPLES, MOST_RESAMPLES = 1000, 1_000_000  # of a bootstrap

__getattr__ = lazy_names(
    __name__,
    dict.fromkeys(("ClassResult", "Counts", "Evaluation", "Skipped"), "evaluation")
    | dict.fromkeys(("evaluate", "evaluate_model", "evaluate_stream", "load_split"), "run"),
)
