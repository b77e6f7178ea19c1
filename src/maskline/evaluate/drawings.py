"""Draw the ground truth and the detections of an image, coloured by verdict."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from maskline.errors import InputError
from maskline.evaluate.outcomes import Verdict
from maskline.inputs import read_image
from maskline.instances import ByteArray
from maskline.masks import outlines, rle_window

Shapes: TypeAlias = Sequence[tuple[str, Verdict]]  # compressed RLE over the image, and verdicts
Points: TypeAlias = npt.NDArray[np.int32]

#: Safe for colour blindness (Okabe and Ito, 2008).
COLOURS: dict[Verdict, str] = {
    "found": "#00b386",
    "poor": "#f0b400",
    "confused": "#d46aa8",
    "missed": "#3fa7f0",
    "false": "#ff5a1f",
    "crowd": "#a0a0a0",
}
DARK = (20, 16, 14)  # BGR
EDGE = 520  # pixels of an image's longer side
MOST_ENLARGED = 3
TINT = 0.42  # opacity of the colour inside errors
SHIFT = 4  # OpenCV's lines have vertices in sixteenths of a pixel
LAST = ("found", "crowd")  # drawn first, so that errors are on top
QUALITY = 78


@dataclass(frozen=True, slots=True)
class DrawnImage:
    """A small image: ``source`` is a data URI; ``width`` and ``height`` are pixels."""

    source: str
    width: int
    height: int


def draw_both(path: str, size: tuple[int, int], truth: Shapes, found: Shapes) -> tuple[DrawnImage, DrawnImage] | None:
    """Draw the ground truth and the detections; None if the image can't be read or its size has changed.

    Args:
        size: ``(height, width)`` of the image.
    """
    try:
        pixels = read_image(path)
    except InputError:
        return None
    if pixels.shape[:2] != size:
        return None
    scale = min(EDGE / max(size), MOST_ENLARGED)
    shown = max(1, round(size[1] * scale)), max(1, round(size[0] * scale))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    tile = np.asarray(cv2.resize(pixels, shown, interpolation=how), np.uint8)
    truth_tile, found_tile = (_draw(tile, size, shapes) for shapes in (truth, found))
    return _encode(truth_tile), _encode(found_tile)


def _draw(tile: ByteArray, size: tuple[int, int], shapes: Shapes) -> ByteArray:
    """A copy with outlines, and errors tinted."""
    scale = np.asarray([tile.shape[1] / size[1], tile.shape[0] / size[0]])
    ordered = sorted(shapes, key=lambda shape: shape[1] not in LAST)
    paths = [(list(_paths(counts, size, scale)), verdict) for counts, verdict in ordered]
    tinted, canvas = tile.copy(), tile.copy()
    for lines, verdict in paths:
        if verdict != "found":
            cv2.fillPoly(tinted, lines, _bgr(verdict), cv2.LINE_8, SHIFT)
    cv2.addWeighted(tinted, TINT, tile, 1 - TINT, 0, dst=canvas)
    for lines, verdict in paths:
        strong = verdict not in LAST
        if strong:
            cv2.polylines(canvas, lines, True, DARK, 3, cv2.LINE_AA, SHIFT)
        cv2.polylines(canvas, lines, True, _bgr(verdict), 2 if strong else 1, cv2.LINE_AA, SHIFT)
    return np.asarray(canvas, np.uint8)


def _paths(counts: str, size: tuple[int, int], scale: npt.NDArray[np.float64]) -> Iterator[Points]:
    """Rings of a mask in tile pixels, in fixed point with `SHIFT` bits; pixel centres are at integers."""
    found = rle_window(counts, size)
    if found is None:
        return
    mask, window = found
    for ring in (ring for rings in outlines(mask, window.origin) for ring in rings):
        points = np.asarray(ring, np.float64).reshape(-1, 2) * scale - 0.5
        yield np.rint(points * (1 << SHIFT)).astype(np.int32)


def _bgr(verdict: Verdict) -> tuple[int, int, int]:
    red, green, blue = bytes.fromhex(COLOURS[verdict][1:])
    return blue, green, red


def _encode(tile: ByteArray) -> DrawnImage:
    if cv2.haveImageWriter("a.webp"):
        suffix, kind, option = ".webp", "webp", cv2.IMWRITE_WEBP_QUALITY
    else:
        suffix, kind, option = ".jpg", "jpeg", cv2.IMWRITE_JPEG_QUALITY
    data = base64.b64encode(cv2.imencode(suffix, tile, [option, QUALITY])[1].tobytes()).decode("ascii")
    return DrawnImage(f"data:image/{kind};base64,{data}", tile.shape[1], tile.shape[0])
