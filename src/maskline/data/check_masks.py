"""The masks of a data set: sound polygons, inside the image, in agreement with box and area, and there once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely
from pycocotools import mask as coco

from maskline.data.dataset import Annotation, Dataset, ImageRecord
from maskline.data.faults import Fault
from maskline.data.shapes import Polygons, to_rle

OUTSIDE = 1.0  # pixels that a vertex may lie outside the image
BOX_SLACK = (2.0, 0.05)  # a side of the box may be off by this many pixels, or this share of the box
AREA_SLACK = 0.1  # share of the area, beyond half of the box's perimeter: outlines cut pixels in two
CROSSING = (1.0, 0.01)  # pixels, and share of the area, that crossing itself must add to or take from a polygon
SAME = 0.95  # IoU of two masks from which they are taken for one object

Floats = npt.NDArray[np.float64]


def of_image(dataset: Dataset, image: ImageRecord) -> Iterator[Fault]:
    """The faults of an image's annotations, one check after the other."""
    annotations = dataset.of(image)
    if not annotations:
        return
    masks = [{"size": list(image.size), "counts": to_rle(a.segmentation, image.size)} for a in annotations]
    areas = np.asarray(
        [coco.area(mask) for mask in masks], np.float64
    )  # a list of over 255 fails in pycocotools 2.0.11
    boxes = coco.toBbox(masks)
    found = (
        (annotation, code, what)
        for annotation, area, box in zip(annotations, areas.tolist(), boxes, strict=True)
        for code, what in _of_annotation(annotation, image, area, box)
    )
    for annotation, code, what in (*found, *_twice(dataset, annotations, masks, areas)):
        what = f"annotation {annotation.id!r} ({dataset.names[dataset.labels[annotation.category_id]]}): {what}"
        yield Fault(code, dataset.split, image.file_name, what, image.id, annotation.id)


def _of_annotation(annotation: Annotation, image: ImageRecord, area: float, box: Floats) -> Iterator[tuple[str, str]]:
    """Codes and what is wrong. ``area`` and ``box`` (x y width height) are those of the mask's pixels."""
    if not isinstance(annotation.segmentation, str):
        yield from _polygon_faults(annotation.segmentation, image)
    if not area:
        yield "mask-empty", "it has no pixel in the image"
        return
    if annotation.box is not None and all(_box_is_off(annotation.box, real) for real in _boxes(annotation, image, box)):
        yield (
            "box-mismatch",
            f"its box is {_numbers(annotation.box)}, that of its mask {_numbers(box)} (x y width height)",
        )
    slack = AREA_SLACK * area + box[2:].sum()
    if annotation.area is not None and abs(annotation.area - area) > slack:
        yield "area-mismatch", f"its area is {annotation.area:g}, that of its mask {area:g} pixels"


def _polygon_faults(rings: Polygons, image: ImageRecord) -> Iterator[tuple[str, str]]:
    for number, ring in enumerate(rings, 1):
        part = f"polygon {number} of {len(rings)}" if len(rings) > 1 else "its polygon"
        low, high = ring.min(axis=0), ring.max(axis=0)
        if low.min() < -OUTSIDE or high[0] > image.width + OUTSIDE or high[1] > image.height + OUTSIDE:
            extent = f"x {low[0]:g} to {high[0]:g}, y {low[1]:g} to {high[1]:g}"
            yield "mask-outside", f"{part} covers {extent} in an image of {image.width} x {image.height}"
        if _crosses(shape := shapely.Polygon(ring)):
            yield "polygon-crossing", f"{part}: {shapely.is_valid_reason(shape)}"


def _crosses(polygon: shapely.Polygon) -> bool:
    """Whether a ring crosses itself so that its area depends on who fills it.

    A ring that only touches itself, or goes to a hole and back on one line, encloses the same area for everyone.
    """
    if polygon.is_valid:
        return False
    filled, enclosed = shapely.make_valid(polygon).area, polygon.area
    return abs(filled - enclosed) > max(CROSSING[0], CROSSING[1] * filled)


def _boxes(annotation: Annotation, image: ImageRecord, box: Floats) -> Iterator[Floats]:
    """The boxes that an annotation may rightly have: that of its pixels, and that of its vertices inside the image."""
    yield box
    if not isinstance(annotation.segmentation, str):
        vertices = np.clip(np.concatenate(annotation.segmentation), 0, (image.width, image.height))
        low, high = vertices.min(axis=0), vertices.max(axis=0)
        yield np.concatenate([low, high - low])


def _box_is_off(stated: Sequence[float], real: Floats) -> bool:
    """Both x y width height in pixels."""
    sides = [np.concatenate([box[:2], box[:2] + box[2:]]) for box in (np.asarray(stated), real)]
    slack = np.maximum(BOX_SLACK[0], BOX_SLACK[1] * np.tile(real[2:], 2))
    return bool((np.abs(sides[0] - sides[1]) > slack).any())


def _twice(
    dataset: Dataset, annotations: Sequence[Annotation], masks: Sequence[Any], areas: Floats
) -> Iterator[tuple[Annotation, str, str]]:
    """Annotations whose mask is that of an earlier one; crowd regions are left out of account."""
    use = [i for i, annotation in enumerate(annotations) if areas[i] and not annotation.crowd]
    some = [masks[i] for i in use]
    overlap = np.triu(coco.iou(some, some, [0] * len(some)) if some else np.zeros((0, 0)), 1) >= SAME
    for later in np.flatnonzero(overlap.any(axis=0)).tolist():
        earlier = annotations[use[int(np.argmax(overlap[:, later]))]]
        name = dataset.names[dataset.labels[earlier.category_id]]
        yield annotations[use[later]], "annotation-twice", f"the same mask as annotation {earlier.id!r} ({name})"


def _numbers(values: Any) -> str:
    return " ".join(f"{value:g}" for value in values)
