"""Parse shapes of a LabelMe file: labels and regions.

Coordinates are COCO's: pixel ``(x, y)`` covers ``[x, x + 1) x [y, y + 1)``. Only the two points of a ``mask`` shape are
pixels: the first and the last one of the box that its image, a PNG in base64, fills.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from maskline._wording import short
from maskline.data import crowds
from maskline.data.dataset import NOTHING, Extra
from maskline.data.faults import UnusableError
from maskline.data.formats.outlines import closed_ring, ellipse, parse_points
from maskline.data.image_headers import decode_base64, image_size
from maskline.data.shapes import Ring, Segmentation, place
from maskline.errors import InputError
from maskline.inputs import iter_images
from maskline.outputs.labelme_json import Json

_KEPT = ("description", "flags", "attributes")  # further keys of a shape that are kept


# ---- labels and flags


def label_of(shape: Any) -> str:
    """The class name. Raises UnusableError if there is none, or it is not a shape."""
    if not isinstance(shape, dict):
        raise UnusableError("record", f"is {short(shape)}: expected label, points and shape_type")
    label = shape.get("label")
    name = str(label).strip() if isinstance(label, (str, int)) and not isinstance(label, bool) else ""
    if not name:
        raise UnusableError("record", f"its label is {short(label)}: expected a name")
    return name


def is_crowd(shape: Json) -> bool:
    """Whether a flag marks a crowd region."""
    flags = shape.get("flags")
    return isinstance(flags, dict) and crowds.is_marked(flags)


def is_box(shape: Json) -> bool:
    """Whether a shape was drawn as a rectangle."""
    return str(shape.get("shape_type")).lower() == "rectangle"


def extra_of(shape: Json) -> Extra:
    """Description, flags and attributes of a shape, if present."""
    flags = shape.get("flags")
    if isinstance(flags, dict):
        shape = {**shape, "flags": crowds.unmarked(flags)}
    return {key: shape[key] for key in _KEPT if shape.get(key)} or NOTHING


# ---- regions


def region(shape: Json, size: tuple[int, int]) -> Segmentation:
    """Polygon or RLE of a shape in an image of ``(height, width)``. Raises UnusableError."""
    kind = str(shape.get("shape_type") or "polygon").lower()  # the first versions of LabelMe don't state it
    if kind == "mask":
        return _pixels(shape, size)
    if kind not in _OUTLINES:
        what = f"its shape_type {short(kind)} is not a region: expected {', '.join((*_OUTLINES, 'mask'))}"
        raise UnusableError("no-mask", what)
    return (closed_ring(_OUTLINES[kind](parse_points(shape.get("points"))), kind),)


def _polygon(vertices: Ring) -> Ring:
    return vertices


def _rectangle(vertices: Ring) -> Ring:
    """Corners from two opposite ones, or all four."""
    if len(vertices) != 2:
        return _corners(vertices)
    (x1, y1), (x2, y2) = vertices
    return np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]])


def _corners(vertices: Ring) -> Ring:
    """Four corners, perhaps with the first repeated; else an empty ring."""
    return vertices if len(vertices) in (4, 5) else vertices[:0]


def _circle(vertices: Ring) -> Ring:
    """Outline from the centre and a point on the circle."""
    if len(vertices) != 2:
        return vertices[:0]
    radius = float(np.hypot(*(vertices[1] - vertices[0])))
    x, y = vertices[0].tolist()
    return ellipse(x, y, radius, radius) if radius else vertices[:0]


# The last three have four corners each: newer versions of LabelMe, and X-AnyLabeling.
_OUTLINES = {
    "polygon": _polygon,
    "rectangle": _rectangle,
    "circle": _circle,
    "oriented_rectangle": _corners,
    "rotation": _corners,
    "quadrilateral": _corners,
}


def _pixels(shape: Json, size: tuple[int, int]) -> str:
    """RLE of a ``mask`` shape, clipped to the image. Raises UnusableError."""
    corners = np.rint(parse_points(shape.get("points")))
    if len(corners) != 2:
        what = f"a mask with the points {short(shape.get('points'))}: expected two corners"
        raise UnusableError("rle-broken", what)
    left, top = (int(v) for v in corners.min(axis=0))
    width, height = (int(v) + 1 for v in np.ptp(corners, axis=0))
    try:
        data = decode_base64(shape.get("mask"))
        given = image_size(io.BytesIO(data))
        if given == size:
            left, top = (
                (left, top) if given == (height, width) else (0, 0)
            )  # some tools store a mask of the whole image
        elif abs(given[0] - height) > 1 or abs(given[1] - width) > 1:  # some tools omit the last pixel
            raise InputError(f"it has {given[1]} x {given[0]} pixels, its points say {width} x {height}")
        pixels = np.any(next(iter_images(data)).pixels, axis=2)
    except InputError as error:
        raise UnusableError("rle-broken", f"its mask can't be used: {error}") from None
    return place(np.atleast_2d(pixels), top, left, size)


# ---- embedded images


def holds_image(content: Json) -> bool:
    """Whether ``imageData`` holds a readable image."""
    try:
        image_size(io.BytesIO(decode_base64(content.get("imageData"))))
    except InputError:
        return False
    return True
