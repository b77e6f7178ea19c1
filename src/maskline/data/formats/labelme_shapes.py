"""One shape of a LabelMe file: its label, its region, and the way back.

Coordinates are COCO's: pixel ``(x, y)`` covers ``[x, x + 1) x [y, y + 1)``. Only a shape of type ``mask`` counts
pixels: its two points are the first and the last pixel of the box that its picture, a PNG in base64, fills.
"""

from __future__ import annotations

import base64
import io
import math
from typing import Any, TypeAlias

import cv2
import numpy as np

from maskline.data import crowds
from maskline.data.dataset import NOTHING, Extra
from maskline.data.faults import UnusableError, short
from maskline.data.shapes import Ring, Segmentation, Window, place
from maskline.data.sources import picture_size
from maskline.errors import InputError
from maskline.inputs import MAX_PIXELS, expand
from maskline.masks import Mask

Json: TypeAlias = dict[str, Any]

_KEPT = ("description", "flags", "attributes")  # of a shape, besides what makes it an object
_SAGITTA = 0.1  # pixels between a circle and the polygon that stands for it, at most
_FARTHEST = 1e9  # pixels; coordinates beyond are no drawing


# ---- what a shape says


def label_of(shape: Any) -> str:
    """The class. Raises UnusableError if it is no shape or has none."""
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
        what = f"its shape_type {short(kind)} is no region: expected {', '.join((*_OUTLINES, 'mask'))}"
        raise UnusableError("no-mask", what)
    ring = _OUTLINES[kind](_points(shape))
    if len(ring) > 3 and (ring[0] == ring[-1]).all():
        ring = ring[:-1]
    if len(ring) < 3 or not np.ptp(ring, axis=0).all():
        raise UnusableError("polygon-broken", f"a {kind} with the points {short(shape.get('points'))} has no inside")
    return (ring,)


def mask_shape(mask: Mask, window: Window) -> Json:
    """What makes a shape of type ``mask``.

    Args:
        mask: (bottom - top, right - left), foreground where not zero.
        window: where it lies in the image.
    """
    top, bottom, left, right = window
    _, data = cv2.imencode(".png", np.ascontiguousarray(mask != 0).view(np.uint8))
    return {
        "points": [[left, top], [right - 1, bottom - 1]],
        "shape_type": "mask",
        "mask": base64.b64encode(data.tobytes()).decode("ascii"),
    }


def _points(shape: Json) -> Ring:
    """(V, 2), finite. Raises UnusableError."""
    given = shape.get("points")
    try:
        points = np.array(given)
    except (ValueError, OverflowError):
        points = np.zeros(0)
    if points.dtype.kind in "iuf" and points.ndim == 2 and points.shape[1] == 2:
        ring: Ring = points.astype(np.float64)
        if (np.abs(ring) <= _FARTHEST).all():
            return ring
    raise UnusableError("polygon-broken", f"its points are {short(given)}: expected pairs of numbers")


def _polygon(points: Ring) -> Ring:
    return points


def _rectangle(points: Ring) -> Ring:
    """From two opposite corners, or all four."""
    if len(points) != 2:
        return _corners(points)
    (x1, y1), (x2, y2) = points
    return np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]])


def _corners(points: Ring) -> Ring:
    """All four, the first perhaps repeated; else nothing."""
    return points if len(points) in (4, 5) else points[:0]


def _circle(points: Ring) -> Ring:
    """From the centre and a point on the rim."""
    radius = float(np.hypot(*(points[1] - points[0]))) if len(points) == 2 else 0
    if not 0 < radius < MAX_PIXELS:
        return points[:0]
    step = 2 * math.acos(1 - min(1.0, _SAGITTA / radius))
    corners = max(12, math.ceil(math.tau / step))
    angles = np.arange(corners) * (math.tau / corners)
    rim: Ring = points[0] + radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return rim


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
    corners = np.rint(_points(shape))
    if len(corners) != 2:
        what = f"a mask with the points {short(shape.get('points'))}: expected two corners"
        raise UnusableError("rle-broken", what)
    left, top = (int(v) for v in corners.min(axis=0))
    width, height = (int(v) + 1 for v in np.ptp(corners, axis=0))
    try:
        data = decode_base64(shape.get("mask"))
        given = picture_size(io.BytesIO(data))
        if given == size:
            left, top = (left, top) if given == (height, width) else (0, 0)  # some tools give the whole frame
        elif abs(given[0] - height) > 1 or abs(given[1] - width) > 1:  # some tools leave out the last pixel
            raise InputError(f"it has {given[1]} x {given[0]} pixels, its points say {width} x {height}")
        pixels = np.any(next(expand(data)).pixels, axis=2)
    except InputError as error:
        raise UnusableError("rle-broken", f"its mask can't be used: {error}") from None
    return place(np.atleast_2d(pixels), top, left, size)


# ---- pictures inside the JSON


def decode_base64(given: Any) -> bytes:
    """What a text in base64 stands for, be it a data URL. Raises InputError."""
    if not isinstance(given, str) or not given:
        raise InputError(f"{short(given)} is no base64")
    try:
        return base64.b64decode("".join(given.rpartition(",")[2].split()), validate=True)
    except ValueError as error:
        raise InputError(f"damaged base64 ({error})") from None
