"""Match detections to objects by COCO's rule, for all IoU thresholds and area ranges at once.

The rule is that of ``pycocotools.cocoeval``, as the tests verify: per image and class, by descending score, a detection
matches the free object with the highest IoU, if that reaches the threshold. Objects outside the area range and crowd
regions are matched only if no other object can be, and such detections are ignored, as are unmatched detections outside
the area range. pycocotools computes the IoUs; its matching is plain Python over every pair, 40 times, ours a few bit
operations on overlapping pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from maskline.data.extra import coco
from maskline.evaluate.detections import Floats, ImageDetections, Truth, mask_areas, rle_objects
from maskline.instances import IntArray

Kind: TypeAlias = Literal["mask", "box"]  # whose IoU is computed
Bits: TypeAlias = npt.NDArray[np.uint64]

IOUS = np.linspace(0.5, 0.95, 10)  # with COCO's rounding: 0.6 exactly, 0.7 slightly less
AREAS = {"all": (0.0, 1e10), "small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}

_REACHED = np.minimum(IOUS, 1 - 1e-10)
_EACH_AREA = sum(1 << len(IOUS) * area for area in range(len(AREAS)))  # the lowest bit of each area
_ALL_IOUS = (1 << len(IOUS)) - 1
_EVERYTHING = _EACH_AREA * _ALL_IOUS
#: Fields of a detection: its label, and those of `Ranking`.
_COLUMNS = np.dtype(
    [("label", "i8"), ("scores", "f8"), ("images", "i8"), ("ranks", "i8"), ("hits", "u8"), ("ignored", "u8")]
)


def bit(area: int, iou: int) -> Bits:
    """The bit of an area range and an IoU threshold, by their indices, in `Ranking`'s bit sets: () uint64."""
    return np.asarray(1 << len(IOUS) * area + iou, np.uint64)


@dataclass(frozen=True, slots=True, eq=False)
class Ranking:
    """The detections of one class in all images, by descending score, and their matches.

    Attributes:
        scores: (N,) float64, descending; ties in the order of images, and within an image in its order.
        images: (N,) int64, index of the image.
        ranks: (N,) int64, rank among the detections of the class in its image, from 0.
        hits: (N,) uint64, a `bit` for each area and IoU: matched to an object.
        ignored: (N,) uint64, likewise: neither a true nor a false positive.
        objects: (areas, images) int64, number of objects.
    """

    scores: Floats
    images: IntArray
    ranks: IntArray
    hits: Bits
    ignored: Bits
    objects: IntArray


def rank_detections(
    truths: Sequence[Truth], found: Sequence[ImageDetections], classes: int, kind: Kind, max_detections: int
) -> list[Ranking]:
    """Match the detections of all images.

    Args:
        truths, found: of the same images, in the same order.
        classes: number of classes.
        max_detections: per class and image; lower scores are ignored.

    Returns:
        One ranking per class.
    """
    objects = np.zeros((classes, len(AREAS), len(truths)), np.int64)
    parts = [np.zeros(0, _COLUMNS)]
    for image, (truth, detections) in enumerate(zip(truths, found, strict=True)):
        np.add.at(objects[:, :, image], truth.labels, (~_outside(truth.areas) & ~truth.crowd).T)
        parts.append(_match(image, truth, detections, kind, max_detections))
    whole = np.concatenate(parts)
    whole = whole[np.lexsort((-whole["scores"], whole["label"]))]  # stable: equal scores in the order of images
    ends = np.searchsorted(whole["label"], np.arange(classes + 1)).tolist()
    return [_ranking(whole[start:end], objects[label]) for label, (start, end) in enumerate(pairwise(ends))]


def iou_matrix(truth: Truth, detections: ImageDetections, kind: Kind) -> Floats:
    """IoU of detections and objects: (D, G) float64; for a crowd region, the share of the detection inside it."""
    if not len(truth.labels) or not len(detections):
        return np.zeros((len(detections), len(truth.labels)))
    crowd = truth.crowd.astype(np.uint8).tolist()
    if kind == "box":
        return np.asarray(coco.iou(detections.boxes, truth.boxes, crowd), np.float64)
    masks = rle_objects(detections.masks, detections.size), rle_objects(truth.masks, truth.size)
    return np.asarray(coco.iou(*masks, crowd), np.float64)


def _match(
    image: int, truth: Truth, detections: ImageDetections, kind: Kind, max_detections: int
) -> npt.NDArray[np.void]:
    """Records of the detections of one image, at most the best ``max_detections`` per class: (D,)."""
    ranks = _ranks(detections.labels)
    if (ranks >= max_detections).any():
        kept = np.flatnonzero(ranks < max_detections)
        detections, ranks = detections.select(kept), ranks[kept]
    records = np.zeros(len(detections), _COLUMNS)
    ious = iou_matrix(truth, detections, kind) * (detections.labels[:, None] == truth.labels)
    uncounted = _spread(_outside(truth.areas) | truth.crowd).tolist()
    hits, ignored = _take(ious, uncounted, truth.crowd.tolist())
    beyond = _spread(_outside(_areas(detections, kind)))
    columns = detections.labels, detections.scores, image, ranks, hits, ignored | (beyond & ~hits)
    for name, column in zip(_COLUMNS.names or (), columns, strict=True):
        records[name] = column
    return records


def _ranks(labels: IntArray) -> IntArray:
    """Rank of each detection among those of its class: (D,)."""
    order = np.argsort(labels, kind="stable")
    ordered = labels[order]
    ranks = np.empty_like(labels)
    ranks[order] = np.arange(len(labels)) - np.searchsorted(ordered, ordered, side="left")
    return ranks


def _take(ious: Floats, uncounted: Sequence[int], crowd: Sequence[bool]) -> tuple[Bits, Bits]:
    """Match detections to objects, in order.

    Args:
        ious: (D, G) IoU.
        uncounted: G bit sets: the areas and IoUs for which an object is ignored.
        crowd: G flags: whether an object can be matched repeatedly.

    Returns:
        (D,) hits, and (D,) matches with ignored objects.
    """
    hits, ignored = [0] * len(ious), [0] * len(ious)
    free = [_EVERYTHING] * len(crowd)
    for row, candidates in groupby(_candidates(ious), key=lambda candidate: candidate[0]):
        left, near = _EVERYTHING, list(candidates)
        for counting in (True, False):
            for _, column, reached in near:
                counts = ~uncounted[column] if counting else uncounted[column]
                taken = left & free[column] & counts & reached
                left &= ~taken
                free[column] &= _EVERYTHING if crowd[column] else ~taken
                hits[row] |= taken
                ignored[row] |= 0 if counting else taken
    return np.asarray(hits, np.uint64), np.asarray(ignored, np.uint64)


def _candidates(ious: Floats) -> list[tuple[int, int, int]]:
    """Pairs that reach the lowest threshold, by detection and descending IoU; ties by descending object, as in COCO.

    Returns:
        For each: detection, object, the bits of the thresholds reached.
    """
    rows, columns = np.nonzero(ious >= _REACHED[0])
    values = ious[rows, columns]
    order = np.lexsort((-columns, -values, rows))
    levels = np.searchsorted(_REACHED, values[order], side="right").tolist()
    reached = [_EACH_AREA * ((1 << level) - 1) for level in levels]
    return list(zip(rows[order].tolist(), columns[order].tolist(), reached, strict=True))


def _outside(areas: Floats) -> npt.NDArray[np.bool_]:
    """Whether each area is outside each range, whose ends are inclusive: (areas, N)."""
    low, high = np.asarray(list(AREAS.values())).T[..., None]
    return np.asarray((areas < low) | (areas > high), np.bool_)


def _spread(flags: npt.NDArray[np.bool_]) -> Bits:
    """Convert flags (areas, N) to N bit sets, the same for all IoUs."""
    places = np.asarray([_ALL_IOUS << len(IOUS) * area for area in range(len(AREAS))], np.uint64)
    return np.asarray(places @ flags, np.uint64)


def _areas(detections: ImageDetections, kind: Kind) -> Floats:
    if kind == "box":
        return np.asarray(detections.boxes[:, 2:].prod(axis=1), np.float64)
    return mask_areas(detections.masks, detections.size)


def _ranking(records: npt.NDArray[np.void], objects: IntArray) -> Ranking:
    columns = {name: np.ascontiguousarray(records[name]) for name in ("scores", "images", "ranks", "hits", "ignored")}
    return Ranking(**columns, objects=objects)
