"""Check masks: valid polygons inside the image, boxes and areas that match, no object annotated twice."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import shapely

from maskline.data.dataset import Annotation, Dataset, ImageRecord
from maskline.data.extra import coco
from maskline.data.faults import Fault
from maskline.data.shapes import Boxes, Ring, Rle, rles
from maskline.instances import IntArray

OUTSIDE = 1.0  # pixels that a vertex may be outside the image
BOX_SLACK = (2.0, 0.05)  # tolerance of a box side: pixels, or share of the box
AREA_SLACK = 0.1  # share of the area, in addition to half of the box's perimeter: outlines cut pixels
CROSSING = (1.0, 0.01)  # pixels and share of the area by which a self-crossing must change the area
SAME = 0.95  # least IoU of two masks of one object

_AREAS_AT_ONCE = 255  # pycocotools 2.0.11 fails on more
_BOXES_AT_ONCE = 16  # boxes whose pairs with all others are in memory
_MASKS_AT_ONCE = 32  # compared with one, at most

Floats = npt.NDArray[np.float64]
Found = defaultdict[int, list[tuple[str, str]]]  # fault codes and descriptions, by the annotation's index


class MaskCheck(NamedTuple):
    """Findings about the annotations of one image."""

    faults: list[Fault]
    areas: IntArray  # (n,) pixels of each mask, in the order of `Dataset.of`


def check_masks(dataset: Dataset, image: ImageRecord) -> MaskCheck:
    """Check the annotations of an image."""
    annotations = dataset.of(image)
    if not annotations:
        return MaskCheck([], np.zeros(0, np.int64))
    masks = rles([annotation.segmentation for annotation in annotations], image.size)
    areas, boxes = _areas(masks), np.asarray(coco.toBbox(masks), np.float64)
    found: Found = defaultdict(list)
    rings = _Rings.of(annotations)
    if rings is not None:
        _check_polygons(rings, image, found)
    _check_numbers(annotations, rings, image, areas, boxes, found)
    use = np.asarray([place for place, a in enumerate(annotations) if areas[place] and not a.crowd], np.int64)
    for later, earlier in _duplicates([masks[place] for place in use], areas[use], boxes[use]):
        other = annotations[use[earlier]]
        what = f"the same mask as annotation {other.id!r} ({_class_name(dataset, other)})"
        found[int(use[later])].append(("annotation-twice", what))
    return MaskCheck(list(_faults(dataset, image, annotations, found)), areas)


def _faults(dataset: Dataset, image: ImageRecord, annotations: Sequence[Annotation], found: Found) -> Iterator[Fault]:
    for place in sorted(found):
        annotation = annotations[place]
        who = f"annotation {annotation.id!r} ({_class_name(dataset, annotation)})"
        for code, what in found[place]:
            yield Fault(code, dataset.split, image.file_name, f"{who}: {what}", image.id, annotation.id)


def _class_name(dataset: Dataset, annotation: Annotation) -> str:
    return dataset.categories[dataset.labels[annotation.category_id]].name


def _areas(masks: Sequence[Rle]) -> IntArray:
    parts = [coco.area(masks[start : start + _AREAS_AT_ONCE]) for start in range(0, len(masks), _AREAS_AT_ONCE)]
    return np.concatenate(parts).astype(np.int64)


# ---- polygons


class _Rings(NamedTuple):
    """All polygons of an image's annotations: R rings with V vertices in total."""

    rings: list[Ring]
    vertices: Floats  # (V, 2) x y
    starts: IntArray  # (R,) the first vertex of each
    owners: IntArray  # (R,) index of its annotation
    low: Floats  # (R, 2) x y
    high: Floats

    @classmethod
    def of(cls, annotations: Sequence[Annotation]) -> _Rings | None:
        """Collect the polygons; None if all masks are RLE."""
        shapes = [(place, a.segmentation) for place, a in enumerate(annotations) if not isinstance(a.segmentation, str)]
        if not shapes:
            return None
        rings = [ring for _, shape in shapes for ring in shape]
        owners = np.repeat([place for place, _ in shapes], [len(shape) for _, shape in shapes])
        vertices = np.concatenate(rings)
        starts = np.cumsum([0, *map(len, rings[:-1])])
        low, high = (reduce.reduceat(vertices, starts) for reduce in (np.minimum, np.maximum))
        return cls(rings, vertices, starts, owners, low, high)


def _check_polygons(rings: _Rings, image: ImageRecord, found: Found) -> None:
    limit = (image.width + OUTSIDE, image.height + OUTSIDE)
    leaves = np.asarray((rings.low < -OUTSIDE).any(axis=1) | (rings.high > limit).any(axis=1))
    indices = np.repeat(np.arange(len(rings.rings)), np.diff(rings.starts, append=len(rings.vertices)))
    shapes = np.asarray(shapely.polygons(shapely.linearrings(rings.vertices, indices=indices)))
    invalid = ~np.asarray(shapely.is_valid(shapes))
    for number in np.flatnonzero(leaves | invalid).tolist():
        place = int(rings.owners[number])
        of_annotation = np.flatnonzero(rings.owners == place)
        part = "its polygon"
        if len(of_annotation) > 1:
            part = f"polygon {number - of_annotation[0] + 1} of {len(of_annotation)}"
        if leaves[number]:
            (left, top), (right, bottom) = rings.low[number], rings.high[number]
            extent = f"x {left:g} to {right:g}, y {top:g} to {bottom:g}"
            what = f"{part} covers {extent} in an image of {image.width} x {image.height}"
            found[place].append(("mask-outside", what))
        if invalid[number] and _crosses(shapes[number]):
            found[place].append(("polygon-crossing", f"{part}: {shapely.is_valid_reason(shapes[number])}"))


def _crosses(invalid: shapely.Polygon) -> bool:
    """Whether a ring crosses itself so that its area depends on the fill rule.

    A ring that only touches itself, or reaches a hole over a bridge, has the same area under every rule.
    """
    filled, enclosed = shapely.make_valid(invalid).area, invalid.area
    return abs(filled - enclosed) > max(CROSSING[0], CROSSING[1] * filled)


# ---- boxes and areas


def _check_numbers(
    annotations: Sequence[Annotation],
    rings: _Rings | None,
    image: ImageRecord,
    areas: IntArray,
    boxes: Floats,
    found: Found,
) -> None:
    """Compare stated boxes and areas with those of the masks; ``boxes`` (n, 4) ``x y width height`` of the masks."""
    stated_boxes = np.asarray([a.box or (np.nan,) * 4 for a in annotations], np.float64)
    stated_areas = np.asarray([np.nan if a.area is None else a.area for a in annotations], np.float64)
    box_is_off = ~(_agree(stated_boxes, boxes) | np.isnan(stated_boxes[:, 0]))
    if rings is not None and box_is_off.any():  # the bounding box of the vertices is right too
        places, first = np.unique(rings.owners, return_index=True)
        limit = (image.width, image.height)
        low = np.clip(np.minimum.reduceat(rings.low, first), 0, limit)
        high = np.clip(np.maximum.reduceat(rings.high, first), 0, limit)
        box_is_off[places] &= ~_agree(stated_boxes[places], np.concatenate([low, high - low], axis=1))
    slack = AREA_SLACK * areas + boxes[:, 2:].sum(axis=1)
    area_is_off = np.abs(stated_areas - areas) > slack
    for place in np.flatnonzero((areas == 0) | box_is_off | area_is_off).tolist():
        if not areas[place]:
            found[place].append(("mask-empty", "it has no pixels in the image"))
            continue
        if box_is_off[place]:
            given, real = _numbers(stated_boxes[place]), _numbers(boxes[place])
            found[place].append(("box-mismatch", f"its box is {given}, that of its mask {real} (x y width height)"))
        if area_is_off[place]:
            what = f"its area is {stated_areas[place]:g}, that of its mask {areas[place]:g} pixels"
            found[place].append(("area-mismatch", what))


def _agree(stated: Boxes, real: Boxes) -> npt.NDArray[np.bool_]:
    """Whether boxes agree within `BOX_SLACK`: (N,) from two arrays (N, 4) of ``x y width height``."""
    corners = [np.concatenate([box[:, :2], box[:, :2] + box[:, 2:]], axis=1) for box in (stated, real)]
    slack = np.maximum(BOX_SLACK[0], BOX_SLACK[1] * np.tile(real[:, 2:], 2))
    agree: npt.NDArray[np.bool_] = (np.abs(corners[0] - corners[1]) <= slack).all(axis=1)
    return agree


def _numbers(values: Floats) -> str:
    return " ".join(f"{value:g}" for value in values)


# ---- one object annotated twice


def _duplicates(masks: Sequence[Rle], areas: IntArray, boxes: Floats) -> Iterator[tuple[int, int]]:
    """Indices of masks that repeat an earlier one, each with the first such. No mask may be empty.

    Masks are compared only if their areas and boxes allow an IoU of `SAME`.
    """
    rectangles = shapely.box(*boxes[:, :2].T, *(boxes[:, :2] + boxes[:, 2:]).T)
    tree = shapely.STRtree(rectangles)
    for start in range(0, len(masks), _BOXES_AT_ONCE):
        later, earlier = tree.query(rectangles[start : start + _BOXES_AT_ONCE])
        later = later + start
        fit = earlier < later
        later, earlier = later[fit], earlier[fit]
        fit = _highest_iou(later, earlier, areas, boxes) >= SAME
        order = np.lexsort((earlier[fit], later[fit]))
        later, earlier = later[fit][order], earlier[fit][order]
        places, first = np.unique(later, return_index=True)
        for place, candidates in zip(places.tolist(), np.split(earlier, first[1:]), strict=False):
            same = _first_same(masks, place, candidates)
            if same is not None:
                yield place, same


def _highest_iou(a: IntArray, b: IntArray, areas: IntArray, boxes: Floats) -> Floats:
    """Upper bound on the IoU of masks from their areas and boxes: (P,) for P pairs of indices."""
    low = np.maximum(boxes[a, :2], boxes[b, :2])
    high = np.minimum(boxes[a, :2] + boxes[a, 2:], boxes[b, :2] + boxes[b, 2:])
    shared = np.minimum(np.maximum(high - low, 0).prod(axis=1), np.minimum(areas[a], areas[b]))
    return np.asarray(shared / (areas[a] + areas[b] - shared))


def _first_same(masks: Sequence[Rle], place: int, candidates: IntArray) -> int | None:
    start, length = 0, 1
    while some := candidates[start : start + length].tolist():
        same = np.flatnonzero(coco.iou([masks[place]], [masks[other] for other in some], [0] * len(some)) >= SAME)
        if len(same):
            return int(some[same[0]])
        start, length = start + length, min(2 * length, _MASKS_AT_ONCE)
    return None
