"""Average precision and recall as COCO defines them (https://cocodataset.org/#detection-eval), from matched detections.

Results equal those of ``pycocotools.cocoeval``, as the tests verify. The same steps serve the metrics, the curves, and
the bootstrap, which weights images.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeAlias

import numpy as np

from maskline.evaluate.detections import Floats
from maskline.evaluate.matching import AREAS, IOUS, Ranking, bit

Metrics: TypeAlias = dict[str, float | None]

RECALLS = np.linspace(0, 1, 101)  # at which precision is sampled
FEW = (1, 10)  # further limits of detections per image for average recall
SUFFIXES = {"small": "_s", "medium": "_m", "large": "_l"}

_TINY = float(np.spacing(1))  # COCO's, against division by zero


def precisions(ranking: Ranking, area: str = "all") -> Floats:
    """Interpolated precision at each of `RECALLS`: the best at that recall or a higher one.

    Args:
        ranking: of one class.
        area: a key of `AREAS`.

    Returns:
        (IoUs, recalls), 0 if the recall is not reached; all NaN if there are no objects.
    """
    number = list(AREAS).index(area)
    if not ranking.objects[number].any():
        return np.full((len(IOUS), len(RECALLS)), np.nan)
    result = np.zeros((len(IOUS), len(RECALLS)))
    for iou, (recall, precision) in enumerate(_steps(ranking, number, np.ones((1, ranking.objects.shape[1])))):
        places = np.searchsorted(recall[0], RECALLS, side="left")
        reached = places < len(recall[0])
        result[iou, reached] = precision[0, places[reached]]
    return result


def averages(ranking: Ranking, weights: Floats) -> Floats:
    """Average precision over all areas with weighted images, the mean of `precisions` over recalls.

    Args:
        weights: (R, images), the multiplicity of each image in R resamples: 0, 1, 2 ...

    Returns:
        (R, IoUs), NaN if there are no objects.
    """
    result = np.zeros((len(weights), len(IOUS)))
    for iou, (recall, precision) in enumerate(_steps(ranking, 0, weights)):
        reached = np.searchsorted(RECALLS, recall, side="right")  # number of recalls reached
        result[:, iou] = (precision * np.diff(reached, axis=1, prepend=0)).sum(axis=1) / len(RECALLS)
    result[weights @ ranking.objects[0] == 0] = np.nan
    return result


def _steps(ranking: Ranking, area: int, weights: Floats) -> Iterator[tuple[Floats, Floats]]:
    """For each IoU threshold: recall at each hit, and the best precision there or later; both (R, hits)."""
    totals = np.maximum(weights @ ranking.objects[area], 1)
    counted, seen = np.zeros(0, np.bool_), np.zeros((len(weights), 0))
    for iou in range(len(IOUS)):
        now = ranking.ignored & bit(area, iou) == 0
        if not np.array_equal(now, counted):
            counted = now
            seen = np.cumsum(weights[:, ranking.images] * counted, axis=1)
        places = np.flatnonzero((ranking.hits & bit(area, iou) != 0) & counted)
        hits = np.cumsum(weights[:, ranking.images[places]], axis=1)
        precision = hits / np.maximum(seen[:, places], _TINY)
        yield hits / totals[:, None], np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]


def recalls(ranking: Ranking, area: str = "all", most: int | None = None) -> Floats:
    """Recall with at most ``most`` detections per image: (IoUs,), NaN if there are no objects."""
    number = list(AREAS).index(area)
    total = int(ranking.objects[number].sum())
    if not total:
        return np.full(len(IOUS), np.nan)
    hits = ranking.hits & ~ranking.ignored
    if most is not None:
        hits = hits[ranking.ranks < most]
    return np.asarray([np.count_nonzero(hits & bit(number, iou)) / total for iou in range(len(IOUS))])


def coco_metrics(rankings: Sequence[Ranking], max_detections: int) -> Metrics:
    """COCO's AP and AR over all classes with objects; None if there are none."""
    whole = np.asarray([precisions(ranking) for ranking in rankings]).reshape(-1, len(IOUS), len(RECALLS))
    found: Metrics = {"AP": mean(whole), "AP50": mean(whole[:, 0]), "AP75": mean(whole[:, 5])}
    for area, suffix in SUFFIXES.items():
        found[f"AP{suffix}"] = mean(np.asarray([precisions(ranking, area) for ranking in rankings]))
    for most in detections_counted(max_detections):
        found[f"AR{most}"] = mean(np.asarray([recalls(ranking, most=most) for ranking in rankings]))
    for area, suffix in SUFFIXES.items():
        found[f"AR{suffix}"] = mean(np.asarray([recalls(ranking, area) for ranking in rankings]))
    return found


def detections_counted(max_detections: int) -> tuple[int, ...]:
    """The limits of detections per image for which average recall is reported."""
    return (*(few for few in FEW if few < max_detections), max_detections)


def mean(values: Floats) -> float | None:
    """Mean of the values that are not NaN; None if there are none."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else None
