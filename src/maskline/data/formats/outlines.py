"""Parse outlines of annotation tools: points, ellipses, polygons with holes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from maskline._wording import short
from maskline.data.faults import UnusableError
from maskline.data.formats.coco.values import MAX_COORDINATE
from maskline.data.shapes import Ring, Segmentation, less
from maskline.inputs import MAX_PIXELS

_SAGITTA = 0.1  # largest distance in pixels between an ellipse and its polygon


def parse_points(given: Any) -> Ring:
    """A list of ``[x, y]`` as (V, 2). Raises UnusableError."""
    try:
        values = np.array(given)
    except (ValueError, OverflowError):
        values = np.zeros(0)
    if values.dtype.kind in "iuf" and values.ndim == 2 and values.shape[1] == 2:
        ring: Ring = values.astype(np.float64)
        if (np.abs(ring) <= MAX_COORDINATE).all():
            return ring
    raise UnusableError("polygon-broken", f"its points are {short(given)}: expected pairs of numbers")


def closed_ring(ring: Ring, kind: str = "polygon") -> Ring:
    """A valid ring without a repeated first vertex at the end; ``kind`` is for messages. Raises UnusableError."""
    if len(ring) > 3 and (ring[0] == ring[-1]).all():
        ring = ring[:-1]
    if len(ring) < 3 or not np.ptp(ring, axis=0).all():
        raise UnusableError("polygon-broken", f"a {kind} that encloses nothing: {short(ring.tolist())}")
    return ring


def with_holes(outer: Any, holes: Any, size: tuple[int, int]) -> Segmentation:
    """A polygon and its holes, each a list of ``[x, y]``, in an image of ``(height, width)``. Raises UnusableError.

    A polygon without holes keeps its vertices. Degenerate holes are ignored.
    """
    ring = closed_ring(parse_points(outer))
    if holes is None or isinstance(holes, Sequence):
        given = [parse_points(hole) for hole in holes or ()]
        return less(ring, [hole for hole in given if len(hole) > 2], size)
    raise UnusableError("polygon-broken", f"its holes are {short(holes)}: expected lists of points")


def ellipse(x: float, y: float, radius_x: float, radius_y: float, degrees: float = 0) -> Ring:
    """Polygon of an ellipse centred at ``x y``, in pixels, rotated clockwise on screen. Raises UnusableError."""
    given = (x, y, radius_x, radius_y, degrees)
    if (
        not all(abs(value) <= MAX_COORDINATE for value in given)
        or min(radius_x, radius_y) <= 0
        or max(radius_x, radius_y) > MAX_PIXELS
    ):
        raise UnusableError("polygon-broken", f"an ellipse with center, radii and rotation {short(given)}")
    step = 2 * math.acos(1 - min(1.0, _SAGITTA / max(radius_x, radius_y)))
    angles = np.linspace(0, math.tau, max(12, math.ceil(math.tau / step)), endpoint=False)
    rim = np.stack([radius_x * np.cos(angles), radius_y * np.sin(angles)], axis=1)
    ring: Ring = rotated(rim, degrees) + np.asarray([x, y])
    return ring


def rotated(ring: Ring, degrees: float) -> Ring:
    """Points rotated about the origin, clockwise on screen."""
    angle = math.radians(degrees)
    turn = np.asarray([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    moved: Ring = ring @ turn
    return moved
