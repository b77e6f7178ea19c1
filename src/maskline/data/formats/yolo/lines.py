"""Parse lines of YOLO label files: a class, and a polygon as fractions of the image."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np

from maskline._wording import short
from maskline.data.faults import UnusableError
from maskline.data.shapes import Ring

_FAR = 0.5  # coordinates may be outside the image by this share of its side
GRID = 3  # decimals of a pixel that coordinates keep


def has_numbers(line: str) -> bool:
    """Whether a line has a class and coordinates, valid or not."""
    return sum(map(_is_number, re.split(r"[\s,;]+", line)[1:])) >= 3


def _is_number(token: str) -> bool:
    try:
        float(token)
    except ValueError:
        return False
    return True


def parse_line(line: str) -> tuple[int, Ring]:
    """The class of a line, and its vertices (V, 2) as fractions of the image. Raises UnusableError."""
    try:
        values = [float(token) for token in line.split()]
    except ValueError:
        what = f"expected numbers (class x1 y1 x2 y2 ...), not {brief(line.strip())}"
        raise UnusableError("record", what) from None
    label, coordinates = values[0], values[1:]
    if not label.is_integer() or label < 0:
        raise UnusableError("record", f"the class is {line.split()[0]}: expected an integer from 0")
    if len(coordinates) == 4:
        raise UnusableError(
            "no-mask", "a box (class x y width height): expected a polygon (class x1 y1 x2 y2 x3 y3 ...)"
        )
    if len(coordinates) < 6 or len(coordinates) % 2:
        what = f"{len(coordinates)} coordinates: expected pairs of x and y, 3 or more"
        raise UnusableError("polygon-broken", what)
    low, high = min(coordinates), max(coordinates)
    if not all(map(math.isfinite, coordinates)) or low < -_FAR or high > 1 + _FAR:
        what = f"coordinates from {low:g} to {high:g}: expected fractions of width and height, from 0 to 1"
        raise UnusableError("polygon-broken", what + (" (are they pixels?)" if 1 + _FAR < high < math.inf else ""))
    return int(label), np.asarray(coordinates, np.float64).reshape(-1, 2)


def to_pixels(shares: Ring, size: tuple[int, int]) -> Ring:
    """Vertices in pixels, rounded to the grid they were written from, without a repeated first vertex at the end.

    Args:
        shares: (V, 2), fractions of ``(width, height)``.
        size: ``(height, width)`` of the image.
    """
    ring = np.round(shares * np.asarray(size[::-1], np.float64), GRID)
    return ring[:-1] if len(ring) > 3 and (ring[0] == ring[-1]).all() else ring


def brief(value: Any) -> str:
    """A YAML value for a message. Containers are not printed: they may contain themselves."""
    return short(value) if isinstance(value, str) else f"a {type(value).__name__}"
