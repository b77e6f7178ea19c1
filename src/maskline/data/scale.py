"""Whether the masks of a whole file can be what they claim: polygons in pixels, drawn on these images, of objects."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from maskline._wording import counted
from maskline.data.dataset import Annotation, Dataset, ImageRecord
from maskline.data.faults import Fault
from maskline.data.shapes import Polygons, Ring
from maskline.instances import IntArray

SHARES, PERCENT = 1, 100  # the coordinate of the right and lower border, if it is not in pixels
LEAST_SIDE = 8  # pixels: smaller images tell nothing
ROUNDING = 0.005  # share of the unit that coordinates may lie outside

# Percent can't be told from objects that all lie in the upper left corner, unless there are many and images vary.
CORNER_SIDE = 2 * PERCENT  # pixels that the sides of all images have at least
CERTAIN = (20, 10, 2, 98)  # polygons, images, image sizes; and the extent, along both axes
POSSIBLE = (5, 1, 1, 80)

TINY = 2  # pixels: masks that are not objects
WHOLE = 0.99  # share of the image
FEW = 3  # masks, and with fewer nothing is said of all


class Unit(NamedTuple):
    """What the polygons of a data set are measured in, where that is not pixels.

    Attributes:
        border: `SHARES` or `PERCENT`.
        certain: whether nothing else is possible.
        evidence: in words.
    """

    border: int
    certain: bool
    evidence: str


def unit_of(dataset: Dataset) -> Unit | None:
    """The unit of a data set's polygons; None for pixels.

    It stops at the first polygon that proves pixels, in most data sets the very first.
    """
    low, high = np.full(2, np.inf), np.full(2, -np.inf)
    polygons, images = 0, dict[object, tuple[int, int]]()
    border = PERCENT
    for annotation, shape in _polygons(dataset):
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
    which = f"all {polygons} polygons lie" if polygons > 1 else "the only polygon lies"
    evidence = f"{which} within 0 to {border}"
    if border == SHARES:
        return Unit(border, True, f"{evidence}: shares of the image? Expected pixels")
    sizes = set(images.values())
    smallest, largest = min(sizes), max(sizes)
    span = f"{smallest[1]} x {smallest[0]}" + (f" to {largest[1]} x {largest[0]}" if len(sizes) > 1 else "")
    evidence = f"{evidence}, in {counted(len(images), 'image')} of {span}: percent of the image? Expected pixels"
    measured = polygons, len(images), len(sizes), high.min()
    for certain, least in ((True, CERTAIN), (False, POSSIBLE)):
        if all(value >= limit for value, limit in zip(measured, least, strict=True)):
            return Unit(border, certain, evidence)
    return None


def faults(dataset: Dataset) -> Iterator[Fault]:
    """What the coordinates of a data set tell of their unit."""
    unit = unit_of(dataset)
    if unit is not None:
        yield Fault(
            "polygon-unit" if unit.certain else "polygon-corner", dataset.split, dataset.source.name, unit.evidence
        )


def in_pixels(dataset: Dataset) -> Dataset:
    """The data set with polygons in pixels, and with them the boxes and areas that are in the same unit.

    Nothing changes where the unit is not certain.
    """
    unit = unit_of(dataset)
    if unit is None or not unit.certain:
        return dataset
    annotations = [_in_pixels(a, dataset.by_id[a.image_id], unit.border) for a in dataset.annotations]
    return replace(dataset, annotations=annotations)


def _polygons(dataset: Dataset) -> Iterator[tuple[Annotation, Polygons]]:
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


@dataclass
class Masks:
    """The masks of a split, counted; crowd regions and those of images of a few pixels are not."""

    dataset: Dataset
    count: int = 0
    empty: int = 0
    tiny: int = 0  # also empty ones
    whole: int = 0  # as large as their image
    images: int = 0
    first_pixel: int = 0  # polygons of no more than the first pixel

    def add(self, image: ImageRecord, annotations: Sequence[Annotation], areas: IntArray) -> None:
        """Count the masks of an image; ``areas`` (n,) in pixels."""
        use = np.asarray([not annotation.crowd for annotation in annotations], np.bool_)
        if min(image.size) < LEAST_SIDE or not use.any():
            return
        self.images += 1
        self.count += int(use.sum())
        self.empty += int((areas[use] == 0).sum())
        self.tiny += int((areas[use] <= TINY).sum())
        self.whole += int((areas[use] >= WHOLE * image.width * image.height).sum())
        for place in np.flatnonzero(areas <= TINY).tolist():
            shape = annotations[place].segmentation
            if not isinstance(shape, str) and all(
                ring.min() >= -ROUNDING and ring.max() <= 1 + ROUNDING for ring in shape
            ):
                self.first_pixel += 1

    def faults(self) -> Iterator[Fault]:
        """What all of them together show: at most one fault."""
        split, file = self.dataset.split, self.dataset.source.name
        if self.first_pixel >= FEW and 10 * self.first_pixel >= self.count:
            what = f"{self.first_pixel} of {self.count} masks lie within 0 to 1: shares of the image, among pixels?"
            yield Fault("polygon-unit", split, file, what)
        elif self.empty == self.count > 0 or (self.empty >= FEW and 2 * self.empty >= self.count):
            what = f"{self.empty} of {counted(self.count, 'mask')} without a pixel in the image{self._extent()}"
            yield Fault("masks-implausible", split, file, what)
        elif self.tiny == self.count >= FEW:
            what = f"all {self.count} masks have {TINY} pixels or fewer: are the coordinates scaled?"
            yield Fault("masks-implausible", split, file, what)
        elif self.whole == self.count >= FEW and self.images > 1:
            what = f"all {self.count} masks are their whole image: are they labels of images?"
            yield Fault("masks-implausible", split, file, what)

    def _extent(self) -> str:
        corners = [np.concatenate(shape).max(axis=0) for _, shape in _polygons(self.dataset)]
        if not corners:
            return ""
        x, y = np.max(corners, axis=0)
        width, height = (max(getattr(image, side) for image in self.dataset.images) for side in ("width", "height"))
        return f": polygons reach x {x:g} and y {y:g}, images {width} and {height}; were they drawn on other sizes?"
