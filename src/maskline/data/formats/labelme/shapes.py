"""One shape of a LabelMe file as it is read: its label and its region.

Coordinates are COCO's: pixel ``(x, y)`` covers ``[x, x + 1) x [y, y + 1)``. Only a shape of type ``mask`` counts
pixels: its two points are the first and the last pixel of the box that its image, a PNG in base64, fills.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from maskline._wording import short
from maskline.data import crowds
from maskline.data.dataset import NOTHING, Extra
from maskline.data.faults import UnusableError
from maskline.data.formats.outlines import closed, ellipse, points
from maskline.data.shapes import Ring, Segmentation, place
from maskline.data.sources import decode_base64, image_size
from maskline.errors import InputError
from maskline.inputs import expand
from maskline.outputs.labelme_json import Json

_KEPT = ("description", "flags", "attributes")  # of a shape, besides what makes it an object


# ---- what a shape says


def label_of(shape: Any) -> str:
    """The class. Raises UnusableError if it is not a shape or has none."""
    if not isinstance(shape, dict):
        raise UnusableError("record", f"is {short(shape)}: expected label, points and shape_type")
    label = shape.get("label")
    name = str(label).strip() if isinstance(label, (str, int)) and not isinstance(label, bool) else ""
    if not name:
        raise UnusableError("record", f"its label is {short(label)}: expected a name")
    return name


def is_crowd(shape: Json) -> bool:
    """Whether one of its flags marks a crowd region."""
    flags = shape.get("flags")
    return isinstance(flags, dict) and crowds.is_marked(flags)


def is_box(shape: Json) -> bool:
    """Whether it was drawn as a rectangle."""
    return str(shape.get("shape_type")).lower() == "rectangle"


def extra_of(shape: Json) -> Extra:
    """What else people note at a shape: description, flags, attributes; where there is any."""
    flags = shape.get("flags")
    if isinstance(flags, dict):
        shape = {**shape, "flags": crowds.unmarked(flags)}
    return {key: shape[key] for key in _KEPT if shape.get(key)} or NOTHING


# ---- regions


def region(shape: Json, size: tuple[int, int]) -> Segmentation:
    """Outline or pixels of a shape in an image of ``(height, width)``. Raises UnusableError."""
    kind = str(shape.get("shape_type") or "polygon").lower()  # the first versions of LabelMe don't state it
    if kind == "mask":
        return _pixels(shape, size)
    if kind not in _OUTLINES:
        what = f"its shape_type {short(kind)} is not a region: expected {', '.join((*_OUTLINES, 'mask'))}"
        raise UnusableError("no-mask", what)
    return (closed(_OUTLINES[kind](points(shape.get("points"))), kind),)


def _polygon(vertices: Ring) -> Ring:
    return vertices


def _rectangle(vertices: Ring) -> Ring:
    """From two opposite corners, or all four."""
    if len(vertices) != 2:
        return _corners(vertices)
    (x1, y1), (x2, y2) = vertices
    return np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]])


def _corners(vertices: Ring) -> Ring:
    """All four, the first perhaps repeated; else nothing."""
    return vertices if len(vertices) in (4, 5) else vertices[:0]


def _circle(vertices: Ring) -> Ring:
    """From the centre and a point on the rim."""
    if len(vertices) != 2:
        return vertices[:0]
    radius = float(np.hypot(*(vertices[1] - vertices[0])))
    x, y = vertices[0].tolist()
    return ellipse(x, y, radius, radius) if radius else vertices[:0]


# The last three are four corners each: of newer versions of LabelMe, and of X-AnyLabeling.
_OUTLINES = {
    "polygon": _polygon,
    "rectangle": _rectangle,
    "circle": _circle,
    "oriented_rectangle": _corners,
    "rotation": _corners,
    "quadrilateral": _corners,
}


def _pixels(shape: Json, size: tuple[int, int]) -> str:
    """Run lengths of a shape of type ``mask``, cut at the image. Raises UnusableError."""
    corners = np.rint(points(shape.get("points")))
    if len(corners) != 2:
        what = f"a mask with the points {short(shape.get('points'))}: expected two corners"
        raise UnusableError("rle-broken", what)
    left, top = (int(v) for v in corners.min(axis=0))
    width, height = (int(v) + 1 for v in np.ptp(corners, axis=0))
    try:
        data = decode_base64(shape.get("mask"))
        given = image_size(io.BytesIO(data))
        if given == size:
            left, top = (left, top) if given == (height, width) else (0, 0)  # some tools give the whole frame
        elif abs(given[0] - height) > 1 or abs(given[1] - width) > 1:  # some tools leave out the last pixel
            raise InputError(f"it has {given[1]} x {given[0]} pixels, its points say {width} x {height}")
        pixels = np.any(next(expand(data)).pixels, axis=2)
    except InputError as error:
        raise UnusableError("rle-broken", f"its mask can't be used: {error}") from None
    return place(np.atleast_2d(pixels), top, left, size)


# ---- images inside the JSON


def holds_image(content: Json) -> bool:
    """Whether ``imageData`` of a file is an image that can be read."""
    try:
        image_size(io.BytesIO(decode_base64(content.get("imageData"))))
    except InputError:
        return False
    return True
