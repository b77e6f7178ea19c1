"""Detect the unit of polygon coordinates: pixels, fractions or percent of the image size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from maskline._wording import counted
from maskline.data.dataset import Annotation, Dataset, ImageRecord
from maskline.data.faults import Fault
from maskline.data.shapes import Polygons, Ring

SHARES, PERCENT = 1, 100  # coordinate of the right and lower border
LEAST_SIDE = 8  # pixels; smaller images are inconclusive
ROUNDING = 0.005  # tolerance of coordinates outside the image, as a share of the unit

# Percent looks like pixels of objects in the upper left corner, unless there are many objects and image sizes.
CORNER_SIDE = 2 * PERCENT  # pixels; least side of all images
CERTAIN = (20, 10, 2, 98)  # least numbers of polygons, images and image sizes, and least extent along both axes
POSSIBLE = (5, 1, 1, 80)


class Unit(NamedTuple):
    """A unit other than pixels.

    Attributes:
        border: `SHARES` or `PERCENT`.
        certain: whether pixels can be ruled out.
        evidence: description for messages.
    """

    border: int
    certain: bool
    evidence: str


def unit_of(dataset: Dataset) -> Unit | None:
    """The unit of a data set's polygons; None for pixels.

    Stops at the first polygon that can only be in pixels, in most data sets the first of all.
    """
    low, high = np.full(2, np.inf), np.full(2, -np.inf)
    polygons, images = 0, dict[object, tuple[int, int]]()
    border = PERCENT
    for annotation, shape in annotated_polygons(dataset):
        size = dataset.by_id[annotation.image_id].size
        if min(size) < LEAST_SIDE:
            return None
        border = border if min(size) >= CORNER_SIDE else SHARES
        images[annotation.image_id] = size
        polygons += len(shape)
        for ring in shape:
            np.minimum(low, ring.min(axis=0), out=low)
            np.maximum(high, ring.max(axis=0), out=high)
        if low.min() < -ROUNDING * border or high.max() > (1 + ROUNDING) * border:
            return None
    if not polygons:
        return None
    border = SHARES if high.max() <= 1 + ROUNDING else border
    which = f"all {polygons} polygons are" if polygons > 1 else "the only polygon is"
    evidence = f"{which} within 0 to {border}"
    if border == SHARES:
        return Unit(border, True, f"{evidence}: fractions of the image size? Expected pixels")
    sizes = set(images.values())
    smallest, largest = min(sizes), max(sizes)
    span = f"{smallest[1]} x {smallest[0]}" + (f" to {largest[1]} x {largest[0]}" if len(sizes) > 1 else "")
    evidence = f"{evidence}, in {counted(len(images), 'image')} of {span}: percent of the image size? Expected pixels"
    measured = polygons, len(images), len(sizes), high.min()
    for certain, least in ((True, CERTAIN), (False, POSSIBLE)):
        if all(value >= limit for value, limit in zip(measured, least, strict=True)):
            return Unit(border, certain, evidence)
    return None


def faults(dataset: Dataset) -> Iterator[Fault]:
    """At most one fault, for polygons that are not in pixels."""
    unit = unit_of(dataset)
    if unit is not None:
        yield Fault(
            "polygon-unit" if unit.certain else "polygon-corner", dataset.split, dataset.source.name, unit.evidence
        )


def in_pixels(dataset: Dataset) -> Dataset:
    """Convert polygons to pixels, with boxes and areas in the same unit; unchanged unless the unit is certain."""
    unit = unit_of(dataset)
    if unit is None or not unit.certain:
        return dataset
    annotations = [_in_pixels(a, dataset.by_id[a.image_id], unit.border) for a in dataset.annotations]
    return replace(dataset, annotations=annotations)


def annotated_polygons(dataset: Dataset) -> Iterator[tuple[Annotation, Polygons]]:
    return ((a, a.segmentation) for a in dataset.annotations if not isinstance(a.segmentation, str))


def _in_pixels(annotation: Annotation, image: ImageRecord, border: int) -> Annotation:
    if isinstance(annotation.segmentation, str):
        return annotation
    factors = np.asarray([image.width, image.height]) / border
    vertices = np.concatenate(annotation.segmentation)
    low, high = vertices.min(axis=0), vertices.max(axis=0)
    box, area = annotation.box, annotation.area
    if box is not None and np.allclose(box, [*low, *(high - low)], rtol=0, atol=0.02 * border):
        x, y, width, height = (np.asarray(box) * np.tile(factors, 2)).tolist()
        box = x, y, width, height
    if area is not None and np.isclose(area, sum(map(_area, annotation.segmentation)), rtol=0.1):
        area = float(area * factors.prod())
    polygons = tuple(ring * factors for ring in annotation.segmentation)
    return replace(annotation, segmentation=polygons, box=box, area=area)


def _area(ring: Ring) -> float:
    (x, y), (next_x, next_y) = ring.T, np.roll(ring, -1, axis=0).T
    return abs(float((x * next_y - next_x * y).sum())) / 2
