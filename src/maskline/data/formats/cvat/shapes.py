"""Parse shapes of CVAT's XML into polygons and masks."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from maskline._wording import short
from maskline.data.faults import UnusableError
from maskline.data.formats.coco.values import MAX_COORDINATE
from maskline.data.formats.outlines import closed_ring, ellipse, parse_points, rotated
from maskline.data.shapes import Ring, Segmentation, place
from maskline.inputs import MAX_PIXELS

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element


def region(shape: Element, size: tuple[int, int]) -> Segmentation:
    """Polygon or RLE of a shape in an image of ``(height, width)``. Raises UnusableError."""
    if shape.tag == "mask":
        return _pixels(shape, size)
    if shape.tag not in _OUTLINES:
        raise UnusableError("no-mask", f"a {shape.tag} is not a region: expected {', '.join((*_OUTLINES, 'mask'))}")
    return (closed_ring(_OUTLINES[shape.tag](shape), shape.tag),)


def _polygon(shape: Element) -> Ring:
    given = shape.get("points", "")
    pairs = [pair.split(",") for pair in given.split(";") if pair.strip()]
    try:
        return parse_points([[float(x), float(y)] for x, y in pairs])
    except ValueError:
        raise UnusableError("polygon-broken", f"its points are {short(given)}: expected x,y;x,y;...") from None


def _box(shape: Element) -> Ring:
    left, top, right, bottom = numbers(shape, "xtl", "ytl", "xbr", "ybr")
    corners = np.asarray([[left, top], [right, top], [right, bottom], [left, bottom]])
    center = np.asarray([left + right, top + bottom]) / 2
    return rotated(corners - center, _rotation(shape)) + center


def _ellipse(shape: Element) -> Ring:
    x, y, rx, ry = numbers(shape, "cx", "cy", "rx", "ry")
    return ellipse(x, y, abs(rx), abs(ry), _rotation(shape))


def _rotation(shape: Element) -> float:
    """Degrees, clockwise as seen. Raises UnusableError."""
    return numbers(shape, "rotation")[0] if "rotation" in shape.attrib else 0


_OUTLINES: dict[str, Callable[[Element], Ring]] = {"polygon": _polygon, "box": _box, "ellipse": _ellipse}


def _pixels(shape: Element, size: tuple[int, int]) -> str:
    """RLE over the image of a ``mask`` shape, clipped to the image. Raises UnusableError."""
    left, top, width, height = (int(value) for value in numbers(shape, "left", "top", "width", "height"))
    if min(width, height) <= 0 or width * height > MAX_PIXELS:
        raise UnusableError("rle-broken", f"a mask of {width} x {height} pixels")
    given = shape.get("rle", "")
    try:
        runs = [int(run) for run in given.split(",")]
    except ValueError:
        raise UnusableError("rle-broken", f"its rle is {short(given)}: expected integers") from None
    if min(runs) < 0 or sum(runs) > width * height:
        raise UnusableError("rle-broken", f"its rle is {short(given)}: expected runs of {width * height} pixels in all")
    runs += [0] * (len(runs) % 2) + [width * height - sum(runs)]  # some writers omit trailing background
    mask = np.repeat((np.arange(len(runs)) & 1).astype(np.uint8), runs).reshape(height, width)
    return place(mask, top, left, size)


def numbers(element: Element, *keys: str) -> list[float]:
    """Finite attributes of at most `MAX_COORDINATE`. Raises UnusableError."""
    given = [element.get(key, "") for key in keys]
    try:
        values = [float(text) for text in given]
    except ValueError:
        values = [math.nan]
    if all(abs(value) <= MAX_COORDINATE for value in values):
        return values
    code = "rle" if element.tag == "mask" else "polygon"
    raise UnusableError(f"{code}-broken", f"{', '.join(keys)} are {short(given)}: expected numbers of pixels")
