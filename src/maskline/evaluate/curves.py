"""Precision against recall, and the score threshold that balances them best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from maskline.evaluate.average_precision import RECALLS, precisions
from maskline.evaluate.detections import Floats
from maskline.evaluate.matching import IOUS, Ranking, bit

#: IoUs that are shown, with their numbers in `IOUS`.
SHOWN = {"0.50": 0, "0.75": 5}
DIGITS = 6

Curve: TypeAlias = dict[str, tuple[float, ...]]  # precision at each of `RECALLS`, by IoU as in `SHOWN`


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """The threshold with the highest F1 at an IoU of 0.5.

    Attributes:
        threshold: of the score: detections above it are kept.
        precision, recall, f1: with what is kept.
    """

    threshold: float
    precision: float
    recall: float
    f1: float

    def to_dict(self) -> dict[str, float]:
        """For JSON."""
        return {"threshold": self.threshold, "precision": self.precision, "recall": self.recall, "f1": self.f1}


def class_curve(ranking: Ranking) -> Curve | None:
    """Precision by recall, as average precision sees it; None where there is no object."""
    values = precisions(ranking)
    return None if np.isnan(values).any() else _curve(values)


def mean_curve(rankings: Sequence[Ranking]) -> Curve | None:
    """The mean over the classes that have objects."""
    values = np.asarray([precisions(ranking) for ranking in rankings]).reshape(-1, len(IOUS), len(RECALLS))
    values = values[~np.isnan(values).any(axis=(1, 2))]
    return _curve(values.mean(axis=0)) if len(values) else None


def best_threshold(rankings: Sequence[Ranking]) -> OperatingPoint | None:
    """One threshold for some classes, all their detections taken together; None where nothing is hit.

    It lies halfway between the last score that is kept and the first that is not.
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
    last = np.append(np.diff(scores) != 0, True)  # of those with its score: they are kept or dropped together
    found, kept = np.cumsum(hits), np.cumsum(counted)
    f1 = np.where(last, 2 * found / (kept + objects), 0)
    best = int(f1.argmax())
    below = scores[best + 1] if best + 1 < len(scores) else 0.0
    threshold = float((scores[best] + below) / 2)
    return OperatingPoint(threshold, float(found[best] / kept[best]), float(found[best] / objects), float(f1[best]))


def curves_dict(curve: Curve | None) -> dict[str, Any] | None:
    """For JSON."""
    return None if curve is None else {iou: list(values) for iou, values in curve.items()}


def _curve(values: Floats) -> Curve:
    return {name: tuple(values[number].round(DIGITS).tolist()) for name, number in SHOWN.items()}
