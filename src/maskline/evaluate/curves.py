"""Precision-recall curves, and the score threshold with the best F1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from maskline.evaluate.average_precision import RECALLS, precisions
from maskline.evaluate.detections import Floats
from maskline.evaluate.matching import IOUS, Ranking, bit

#: IoU thresholds shown, with their indices in `IOUS`.
SHOWN = {"0.50": 0, "0.75": 5}
DIGITS = 6

Curve: TypeAlias = dict[str, tuple[float, ...]]  # precision at each of `RECALLS`, by IoU as in `SHOWN`


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """The score threshold with the highest F1 at an IoU of 0.5.

    Attributes:
        threshold: detections with a score above it are kept.
        precision, recall, f1: of the detections kept.
    """

    threshold: float
    precision: float
    recall: float
    f1: float

    def to_dict(self) -> dict[str, float]:
        """Return JSON-serializable values."""
        return {"threshold": self.threshold, "precision": self.precision, "recall": self.recall, "f1": self.f1}


def class_curve(ranking: Ranking) -> Curve | None:
    """Interpolated precision-recall curve of a class; None without objects."""
    values = precisions(ranking)
    return None if np.isnan(values).any() else _curve(values)


def mean_curve(rankings: Sequence[Ranking]) -> Curve | None:
    """Mean curve over the classes with objects; None if there are none."""
    values = np.asarray([precisions(ranking) for ranking in rankings]).reshape(-1, len(IOUS), len(RECALLS))
    values = values[~np.isnan(values).any(axis=(1, 2))]
    return _curve(values.mean(axis=0)) if len(values) else None


def best_threshold(rankings: Sequence[Ranking]) -> OperatingPoint | None:
    """The best threshold for all detections of several classes together; None without true positives.

    It is halfway between the lowest score kept and the highest score dropped.
    """
    scores = np.concatenate([np.zeros(0), *(ranking.scores for ranking in rankings)])
    order = np.argsort(-scores, kind="stable")
    hits, ignored = (
        np.concatenate([np.zeros(0, np.bool_), *(getattr(ranking, name) & bit(0, 0) != 0 for ranking in rankings)])
        for name in ("hits", "ignored")
    )
    scores, hits, counted = scores[order], (hits & ~ignored)[order], ~ignored[order]
    objects = sum(int(ranking.objects[0].sum()) for ranking in rankings)
    if not hits.any():
        return None
    last = np.append(np.diff(scores) != 0, True)  # last of equal scores, which are kept or dropped together
    found, kept = np.cumsum(hits), np.cumsum(counted)
    f1 = np.where(last, 2 * found / (kept + objects), 0)
    best = int(f1.argmax())
    below = scores[best + 1] if best + 1 < len(scores) else 0.0
    threshold = float((scores[best] + below) / 2)
    return OperatingPoint(threshold, float(found[best] / kept[best]), float(found[best] / objects), float(f1[best]))


def curves_dict(curve: Curve | None) -> dict[str, Any] | None:
    """Return JSON-serializable values."""
    return None if curve is None else {iou: list(values) for iou, values in curve.items()}


def _curve(values: Floats) -> Curve:
    return {name: tuple(values[number].round(DIGITS).tolist()) for name, number in SHOWN.items()}
