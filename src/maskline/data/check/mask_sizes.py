"""Masks of a split that can't all be objects: nearly all of them tiny, empty or as large as their image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from maskline._wording import counted
from maskline.data.dataset import Annotation, Dataset, ImageRecord
from maskline.data.faults import Fault
from maskline.data.units import LEAST_SIDE, ROUNDING, annotated_polygons
from maskline.instances import IntArray

TINY = 2  # pixels: masks up to this size are not objects
WHOLE = 0.99  # share of the image
FEW = 3  # masks; with fewer, nothing is concluded


@dataclass
class MaskSizes:
    """Counts of a split's masks by size, without crowd regions and images of only a few pixels."""

    dataset: Dataset
    count: int = 0
    empty: int = 0
    tiny: int = 0  # also empty ones
    whole: int = 0  # as large as their image
    images: int = 0
    first_pixel: int = 0  # polygons within the first pixel

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
        """At most one fault, from all masks together."""
        split, file = self.dataset.split, self.dataset.source.name
        if self.first_pixel >= FEW and 10 * self.first_pixel >= self.count:
            what = f"{self.first_pixel} of {self.count} masks are within 0 to 1: fractions, not pixels?"
            yield Fault("polygon-unit", split, file, what)
        elif self.empty == self.count > 0 or (self.empty >= FEW and 2 * self.empty >= self.count):
            what = f"{self.empty} of {counted(self.count, 'mask')} without pixels in the image{self._extent()}"
            yield Fault("masks-implausible", split, file, what)
        elif self.tiny == self.count >= FEW:
            what = f"all {self.count} masks have {TINY} pixels or fewer: are the coordinates scaled?"
            yield Fault("masks-implausible", split, file, what)
        elif self.whole == self.count >= FEW and self.images > 1:
            what = f"all {self.count} masks cover their whole image: are they image labels?"
            yield Fault("masks-implausible", split, file, what)

    def _extent(self) -> str:
        corners = [np.concatenate(shape).max(axis=0) for _, shape in annotated_polygons(self.dataset)]
        if not corners:
            return ""
        x, y = np.max(corners, axis=0)
        width, height = (max(getattr(image, side) for image in self.dataset.images) for side in ("width", "height"))
        return f": polygons reach x {x:g} and y {y:g}, images {width} and {height}; were they drawn on other sizes?"
