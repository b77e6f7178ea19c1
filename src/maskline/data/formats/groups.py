"""Shapes with the same group id: the parts of one object."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from maskline.data.faults import Fault
from maskline.data.shapes import Segmentation, crop, is_rectangle, union

SLACK = (1.0, 0.02)  # tolerance of a box side: pixels, or share of the bounded extent

Corners: TypeAlias = npt.NDArray[np.float64]  # (2, 2) x y


@dataclass
class Groups:
    """Merges the groups of a split.

    Attributes:
        boxes: number of boxes left out so far.
    """

    boxes: int = 0

    def union(self, parts: Sequence[tuple[Segmentation, bool]], size: tuple[int, int]) -> Segmentation:
        """Merge the parts of an object, without boxes that only bound the other parts: many tools write both.

        Args:
            parts: segmentations, and whether each was drawn as a box.
            size: ``(height, width)`` of the image.
        """
        others = [shape for shape, is_box in parts if not (is_box and is_rectangle(shape))]
        extent = _extent(others, size) if len(others) < len(parts) else None
        if extent is None:
            return union([shape for shape, _ in parts], size)
        slack = np.maximum(np.minimum(SLACK[0], np.ptp(extent, axis=0) / 4), SLACK[1] * np.ptp(extent, axis=0))
        kept = []
        for shape, is_box in parts:
            box = _extent([shape], size) if is_box and is_rectangle(shape) else None
            if box is None or (np.abs(box - extent) > slack).any():
                kept.append(shape)
        self.boxes += len(parts) - len(kept)
        return union(kept, size)

    def faults(self, split: str, file: str) -> Iterator[Fault]:
        """At most one fault, with the number of boxes left out."""
        if self.boxes:
            what = f"boxes left out because they only bound the other shapes of their group: {self.boxes}"
            yield Fault("shape-ignored", split, file, what)


def _extent(shapes: Sequence[Segmentation], size: tuple[int, int]) -> Corners | None:
    """Upper left and lower right corner of the union of shapes; None if it is empty."""
    corners = []
    for shape in shapes:
        if not isinstance(shape, str):
            vertices = np.concatenate(shape)
            corners += [vertices.min(axis=0), vertices.max(axis=0)]
        elif (found := crop(shape, size)) is not None:
            left, top, right, bottom = found[1].box_xyxy
            corners += [np.asarray([left, top], np.float64), np.asarray([right, bottom], np.float64)]
    return np.stack([np.min(corners, axis=0), np.max(corners, axis=0)]) if corners else None
