"""Average precision and recall as COCO defines them (https://cocodataset.org/#detection-eval), from matched detections.

The numbers are those of ``pycocotools.cocoeval``, which the tests compare with. The same steps serve the figures, the
curves, and the bootstrap, which weighs images.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeAlias

import numpy as np

from maskline.evaluate.detections import Floats
from maskline.evaluate.matching import AREAS, IOUS, Ranking, bit

Metrics: TypeAlias = dict[str, float | None]

RECALLS = np.linspace(0, 1, 101)  # at which precision is read off
FEW = (1, 10)  # detections in an image for which recall is given too
SUFFIXES = {"small": "_s", "medium": "_m", "large": "_l"}

_TINY = float(np.spacing(1))  # COCO's, against division by zero


def precisions(ranking: Ranking, area: str = "all") -> Floats:
    """Precision by recall: at each of `RECALLS` the best that is reached at that recall or beyond.

    Args:
        ranking: of one class.
        area: of `AREAS`.

    Returns:
        (IoUs, recalls), 0 where the recall is not reached; NaN where there is no object to find.
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
    """The mean over recalls of `precisions`, of all areas, with images that count more or less.

    Args:
        weights: (R, images), R times how often each image counts: 0, 1, 2 ...

    Returns:
        (R, IoUs), NaN where there is no object to find.
    """
    result = np.zeros((len(weights), len(IOUS)))
    for iou, (recall, precision) in enumerate(_steps(ranking, 0, weights)):
        reached = np.searchsorted(RECALLS, recall, side="right")  # how many of them
        result[:, iou] = (precision * np.diff(reached, axis=1, prepend=0)).sum(axis=1) / len(RECALLS)
    result[weights @ ranking.objects[0] == 0] = np.nan
    return result


def _steps(ranking: Ranking, area: int, weights: Floats) -> Iterator[tuple[Floats, Floats]]:
    """For each IoU: recall at each hit, and the best precision there or at a later one; both (R, hits)."""
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
    """(IoUs,) the share of objects that is found, with at most so many detections in an image; NaN without objects."""
    number = list(AREAS).index(area)
    total = int(ranking.objects[number].sum())
    if not total:
        return np.full(len(IOUS), np.nan)
    hits = ranking.hits & ~ranking.ignored
    if most is not None:
        hits = hits[ranking.ranks < most]
    return np.asarray([np.count_nonzero(hits & bit(number, iou)) / total for iou in range(len(IOUS))])


def coco_metrics(rankings: Sequence[Ranking], max_detections: int) -> Metrics:
    """COCO's figures over all classes that have objects: AP…, AR…; None for those that nothing can be said of."""
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
    """The numbers of detections in an image for which recall is given."""
    return (*(few for few in FEW if few < max_detections), max_detections)


def mean(values: Floats) -> float | None:
    """Of those that are numbers; None if there are none."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else None
