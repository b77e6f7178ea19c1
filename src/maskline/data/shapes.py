"""Convert segmentations between polygons, RLE and pixels.

Coordinates are COCO's: pixel ``(x, y)`` covers ``[x, x + 1) x [y, y + 1)``, so the rectangle from ``0 0`` to ``5 5`` is
25 pixels. Polygons are rasterised by COCO's own code (pycocotools).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from maskline.data.extra import coco
from maskline.masks import ByteArray, Mask, Window, outlines, place_rle, rle_runs, rle_window, runs_rle

Ring: TypeAlias = npt.NDArray[np.float64]  # (V, 2) x y in pixels, V >= 3, finite, the first vertex not repeated
Polygons: TypeAlias = tuple[Ring, ...]  # an instance is their union; COCO has no holes
Segmentation: TypeAlias = Polygons | str  # str: compressed run lengths over the image, as in `maskline.masks`
Boxes: TypeAlias = npt.NDArray[np.float64]  # (N, 4) x y width height in pixels
Rle: TypeAlias = dict[str, Any]  # as in pycocotools: size (height, width) and compressed counts

CLIP_MARGIN = 1  # pixels around the image within which a polygon is kept for rasterising


def rles(segmentations: Sequence[Segmentation], size: tuple[int, int]) -> list[Rle]:
    """RLE of several shapes over an image of ``(height, width)``, clipped to it."""
    rings = [ring for shape in segmentations if not isinstance(shape, str) for ring in shape]
    if rings and not _is_within(np.concatenate(rings), size, CLIP_MARGIN):
        rings = [clip(ring, size, CLIP_MARGIN) for ring in rings]
    flat = [ring.ravel() for ring in rings if len(ring) >= 3]
    encoded = iter(coco.frPyObjects(flat, *size) if flat else ())
    clipped = iter(rings)
    found: list[Rle] = []
    for shape in segmentations:
        if isinstance(shape, str):
            found.append({"size": list(size), "counts": shape})
            continue
        parts = [next(encoded) for ring in islice(clipped, len(shape)) if len(ring) >= 3]
        found.append(parts[0] if len(parts) == 1 else coco.merge(parts) if parts else _empty(size))
    return found


def _empty(size: tuple[int, int]) -> Rle:
    return {"size": list(size), "counts": place_rle(np.zeros((0, 0), np.uint8), Window(0, 0, 0, 0), size)}


def to_rle(segmentation: Segmentation, size: tuple[int, int]) -> str:
    """Compressed RLE over an image of ``(height, width)``, clipped to it."""
    if isinstance(segmentation, str):
        return segmentation
    counts = rles([segmentation], size)[0]["counts"]
    return counts if isinstance(counts, str) else str(counts, "ascii")


def area(segmentation: Segmentation, size: tuple[int, int]) -> int:
    """The number of pixels of a shape."""
    return int(coco.area({"size": size, "counts": to_rle(segmentation, size)}))


def crop(segmentation: Segmentation, size: tuple[int, int]) -> tuple[ByteArray, Window] | None:
    """The mask of a shape in its smallest window; None if it is empty.

    Returns:
        (h, w) uint8, 0 or 1, and its window in the image of ``(height, width)``.
    """
    return rle_window(to_rle(segmentation, size), size)


def place(mask: Mask, top: int, left: int, size: tuple[int, int]) -> str:
    """RLE over an image of ``(height, width)`` of a mask with its first pixel at ``top left``, clipped to the image.

    Args:
        mask: (h, w); may be partly or completely outside.
    """
    inside = mask[max(0, -top) : max(0, size[0] - top), max(0, -left) : max(0, size[1] - left)]
    if not inside.size:
        return str(_empty(size)["counts"])
    top, left = max(0, top), max(0, left)
    return place_rle(inside, Window(top, top + inside.shape[0], left, left + inside.shape[1]), size)


def is_rectangle(segmentation: Segmentation) -> bool:
    """Whether a shape is a single axis-aligned rectangle."""
    if isinstance(segmentation, str) or len(segmentation) != 1 or len(segmentation[0]) != 4:
        return False
    (ax, ay), (bx, by), (cx, cy), (dx, dy) = segmentation[0].tolist()
    return bool((ax == bx and by == cy and cx == dx and dy == ay) or (ay == by and bx == cx and cy == dy and dx == ax))


def union(parts: Sequence[Segmentation], size: tuple[int, int]) -> Segmentation:
    """Union of shapes over an image of ``(height, width)``: polygons if all are, else RLE."""
    if len(parts) == 1:
        return parts[0]
    rings = [part for part in parts if not isinstance(part, str)]
    if len(rings) == len(parts):
        return tuple(ring for part in rings for ring in part)
    return str(coco.merge(rles(parts, size))["counts"], "ascii")


def less(outer: Ring, holes: Sequence[Ring], size: tuple[int, int]) -> Segmentation:
    """A polygon minus its holes: unchanged without holes, else RLE over ``(height, width)``."""
    if not holes:
        return (outer,)
    kept = [_inverted(to_rle((hole,), size), size) for hole in holes]
    parts = [{"size": list(size), "counts": rle} for rle in (to_rle((outer,), size), *kept)]
    return str(coco.merge(parts, intersect=True)["counts"], "ascii")


def _inverted(rle: str, size: tuple[int, int]) -> str:
    """RLE of the background."""
    runs = rle_runs(rle, size)
    return runs_rle(runs[1:] if runs[0] == 0 else np.append(0, runs))


def from_mask(mask: Mask, window: Window, size: tuple[int, int]) -> Segmentation:
    """A mask without loss: polygons if it has no holes, else RLE.

    Args:
        mask: (bottom - top, right - left), not empty.
        window: its position in the image of ``(height, width)``.
    """
    outer, holes = outlines(mask, window.origin)
    return place_rle(mask, window, size) if holes else tuple(map(_ring, outer))


def to_polygons(segmentation: Segmentation, size: tuple[int, int]) -> Segmentation | None:
    """Convert RLE without holes to polygons of the same pixels; polygons are unchanged.

    Returns:
        Polygons; RLE if there are holes; None if there are no pixels.
    """
    if not isinstance(segmentation, str):
        return segmentation
    found = crop(segmentation, size)
    return None if found is None else from_mask(*found, size)


def _ring(flat: list[float]) -> Ring:
    return np.asarray(flat, np.float64).reshape(-1, 2)


def clip(ring: Ring, size: tuple[int, int], margin: float = 0) -> Ring:
    """Clip a ring to an image of ``(height, width)`` plus ``margin`` pixels; the result may be empty.

    Sutherland and Hodgman, *Reentrant polygon clipping* (1974): several parts remain one ring, joined along the border.
    """
    if _is_within(ring, size, margin):
        return ring
    low, high = -margin, np.asarray(size[::-1], np.float64) + margin
    for axis, limit, sign in ((0, low, 1), (0, high[0], -1), (1, low, 1), (1, high[1], -1)):
        if not len(ring):
            break
        before = np.roll(ring, 1, axis=0)
        depth, depth_before = sign * (ring[:, axis] - limit), sign * (before[:, axis] - limit)
        crossing = (depth >= 0) != (depth_before >= 0)
        share = depth_before / np.where(crossing, depth_before - depth, 1)
        met = before + share[:, None] * (ring - before)
        met[:, axis] = limit
        both = np.stack([met, ring], axis=1)  # (V, 2, x y): the intersection, then the vertex
        ring = cast("Ring", both[np.stack([crossing, depth >= 0], axis=1)])
    return ring


def _is_within(ring: Ring, size: tuple[int, int], margin: float) -> bool:
    """Whether a ring is inside an image of ``(height, width)`` plus ``margin`` pixels."""
    x, y = ring[:, 0], ring[:, 1]
    return bool(min(x.min(), y.min()) >= -margin and x.max() <= size[1] + margin and y.max() <= size[0] + margin)
