"""Thumbnails for the report: a crop of an image with one annotation highlighted and others faint."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, cast

import cv2
import numpy as np

from maskline._cpu import cores
from maskline.data.dataset import Annotation, ImageRecord
from maskline.data.shapes import Polygons, crop
from maskline.errors import InputError
from maskline.inputs import MAX_PIXELS, read_image
from maskline.masks import ByteArray, Window

Colour: TypeAlias = tuple[int, int, int]  # BGR
Bounds: TypeAlias = tuple[float, float, float, float]  # left, top, right, bottom in pixels of the image
Windows: TypeAlias = dict[int, Window | None]  # by id() of an annotation

THREADS = min(4, cores())  # each holds one image
CONTEXT = 1.5  # side of a view relative to that of its object
FAR = 0.1  # share of a shape's side outside the image from which the whole image is shown
SMALLEST_VIEW = 64  # pixels; smaller objects get more context
FAULTY, STATED, PADDING = (80, 0, 255), (255, 255, 0), (128, 128, 128)  # BGR
DARK, LIGHT = (24, 18, 16), (255, 255, 255)
TINT, FAINT_TINT, FAINT_LINE = 0.45, 0.12, 0.45  # share of the colour
WEBP_QUALITY, JPEG_QUALITY = 78, 80
MASK_LEVEL = 100  # of 255: least coverage of a tile's pixel by a mask
SHIFT = 4  # OpenCV's lines have vertices in sixteenths of a pixel


@dataclass(frozen=True, slots=True, eq=False)
class Shot:
    """Content of a thumbnail.

    Attributes:
        path: the image.
        edge: pixels of the thumbnail's longer side.
        image: the record; None for an unlisted image.
        focus: the annotation to show with its surroundings; None for the whole image.
        others: other annotations, drawn faintly unless ``focus`` is None.
        colour: of ``focus``, BGR.
        fault: ``focus`` is faulty: its polygons are drawn as lines, even outside the image.
        box: stated box of ``focus`` to draw too, ``x y width height``.
    """

    path: Path
    edge: int
    image: ImageRecord | None = None
    focus: Annotation | None = None
    others: Sequence[Annotation] = ()
    colour: Colour = FAULTY
    fault: bool = False
    box: tuple[float, float, float, float] | None = None


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """A small image: ``source`` is a data URI; ``width`` and ``height`` are pixels."""

    source: str
    width: int
    height: int


def thumbnails(shots: Sequence[Shot]) -> list[Thumbnail | None]:
    """Draw in threads; every image is decoded once, and each thread holds at most one.

    Returns:
        One thumbnail per shot, in order; None if the image can't be read, or if ``focus`` is not faulty and the size of
        the image differs from the record.
    """
    places: dict[Path, list[int]] = {}
    for place, shot in enumerate(shots):
        places.setdefault(shot.path, []).append(place)
    found: list[Thumbnail | None] = [None] * len(shots)
    with ThreadPoolExecutor(THREADS) as pool:
        drawn = pool.map(_of_image, ([shots[place] for place in group] for group in places.values()))
        for group, results in zip(places.values(), drawn, strict=True):
            for place, thumbnail in zip(group, results, strict=True):
                found[place] = thumbnail
    return found


def _of_image(shots: Sequence[Shot]) -> list[Thumbnail | None]:
    """The thumbnails of one image."""
    try:
        pixels = read_image(shots[0].path)
    except InputError:  # reported as a fault already
        return [None] * len(shots)
    windows: Windows = {}
    tiles = (_tile(pixels, shot, windows) for shot in shots)
    return [None if tile is None else _encode(tile) for tile in tiles]


def _tile(pixels: ByteArray, shot: Shot, windows: Windows) -> ByteArray | None:
    """(h, w, 3) uint8 BGR, h or w being ``shot.edge``."""
    height, width = pixels.shape[:2]
    listed = (height, width) if shot.image is None else shot.image.size
    if shot.focus is None:
        view = Window(0, max(height, listed[0]), 0, max(width, listed[1]))
        view = view if shot.others else Window.whole((height, width))
    elif shot.fault or listed == (height, width):
        view = _around(_bounds(shot, listed), listed)
    else:
        return None
    canvas = _Canvas.of(pixels, view, shot.edge)
    _draw_others(canvas, shot, listed, windows)
    _draw_focus(canvas, shot, listed)
    return canvas.tile


def _bounds(shot: Shot, size: tuple[int, int]) -> Bounds:
    """Extent of a view: the mask, and for a fault its polygons and stated box, up to half an image outside."""
    height, width = size
    focus = cast("Annotation", shot.focus)
    corners: list[tuple[float, float]] = []
    if (found := crop(focus.segmentation, size)) is not None:
        left, top, right, bottom = found[1].box_xyxy
        corners += [(left, top), (right, bottom)]
    if shot.fault and not isinstance(focus.segmentation, str):
        corners += [(x, y) for ring in focus.segmentation for x, y in (ring.min(axis=0), ring.max(axis=0))]
    if shot.box is not None:
        x, y, wide, high = shot.box
        corners += [(x, y), (x + wide, y + high)]
    if not corners:
        return 0, 0, width, height
    points = np.clip(np.asarray(corners, np.float64), (-width / 2, -height / 2), (1.5 * width, 1.5 * height))
    (left, top), (right, bottom) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
    return left, top, right, bottom


def _around(bounds: Bounds, size: tuple[int, int]) -> Window:
    """A square around ``bounds`` with context, inside the image; the whole image if they extend far beyond it."""
    height, width = size
    left, top, right, bottom = bounds
    if max(-left, -top, right - width, bottom - height) > FAR * max(right - left, bottom - top):
        left, top, right, bottom = min(left, 0), min(top, 0), max(right, width), max(bottom, height)
    side = max(CONTEXT * max(right - left, bottom - top), SMALLEST_VIEW)
    x, x_end = _interval(left, right, side, width)
    y, y_end = _interval(top, bottom, side, height)
    return Window(y, y_end, x, x_end)


def _interval(start: float, end: float, length: float, limit: int) -> tuple[int, int]:
    """``length`` pixels around the middle of ``start`` to ``end``, within 0 to ``limit`` or the extent these need."""
    margin = 0.1 * (end - start) + 4
    lowest = start - margin if start < 0 else 0
    highest = end + margin if end > limit else limit
    length = min(length, highest - lowest)
    first = min(max((start + end - length) / 2, lowest), highest - length)
    return round(first), max(round(first + length), round(first) + 1)


@dataclass(frozen=True, slots=True, eq=False)
class _Canvas:
    """A canvas for one view.

    Attributes:
        tile: (h, w, 3) uint8 BGR, modified in place.
        view: the part of the image that is shown.
        scale: tile pixels per image pixel.
    """

    tile: ByteArray
    view: Window
    scale: float

    @classmethod
    def of(cls, pixels: ByteArray, view: Window, edge: int) -> _Canvas:
        """A view of an image, grey outside the image."""
        scale = edge / max(view.size)
        size = max(1, round(view.height * scale)), max(1, round(view.width * scale))
        canvas = cls(np.full((*size, 3), PADDING, np.uint8), view, scale)
        height, width = pixels.shape[:2]
        canvas.paste(pixels, Window.whole((height, width)), canvas.tile)
        return canvas

    def paste(self, source: ByteArray, window: Window, target: ByteArray) -> bool:
        """Scale the visible part of a source that covers ``window`` into a target of the tile's size.

        Returns:
            Whether any of it is visible.
        """
        shown = window.intersection(self.view)
        if shown.is_empty:
            return False
        part, there = source[shown.relative_to(window).slices], shown.relative_to(self.view)
        top, bottom = self._range(there.top, there.bottom, len(target))
        left, right = self._range(there.left, there.right, target.shape[1])
        how = cv2.INTER_AREA if self.scale < 1 else cv2.INTER_LINEAR
        target[top:bottom, left:right] = cv2.resize(part, (right - left, bottom - top), interpolation=how)
        return True

    def mask(self, found: tuple[ByteArray, Window] | None) -> ByteArray | None:
        """A mask over the tile: (h, w) uint8, 0 or 255; None if it is not visible."""
        whole = np.zeros(self.tile.shape[:2], np.uint8)
        if found is None or not self.paste(found[0] * np.uint8(255), found[1], whole):
            return None
        return np.asarray(cv2.threshold(whole, MASK_LEVEL, 255, cv2.THRESH_BINARY)[1], np.uint8)

    def path(self, rings: Polygons) -> list[cv2.typing.MatLike]:
        """Rings in tile pixels, in fixed point with `SHIFT` bits."""
        limit = 1 << 14  # tile pixels, far outside any tile
        points = ((np.clip(ring, -MAX_PIXELS, MAX_PIXELS) - self.view.origin) * self.scale - 0.5 for ring in rings)
        return [np.rint(np.clip(ring, -limit, limit) * (1 << SHIFT)).astype(np.int32) for ring in points]

    def _range(self, start: int, end: int, length: int) -> tuple[int, int]:
        """Pixels of the tile, at least one of its ``length``."""
        first = min(round(start * self.scale), length - 1)
        return first, min(max(round(end * self.scale), first + 1), length)


def _draw_others(canvas: _Canvas, shot: Shot, size: tuple[int, int], windows: Windows) -> None:
    """Draw other annotations, faintly if one annotation is in focus."""
    strong = shot.focus is None
    colour, share, line = (shot.colour, TINT, 1.0) if strong else (LIGHT, FAINT_TINT, FAINT_LINE)
    for annotation in shot.others:
        if not _is_in(canvas.view, annotation, size, windows):
            continue
        mask = canvas.mask(crop(annotation.segmentation, size))
        if mask is not None:
            _tint(canvas.tile, mask, colour, share)
            edge = np.zeros_like(mask)
            cv2.drawContours(edge, _contours(mask), -1, 255, 1)
            _tint(canvas.tile, edge, colour, line)


def _is_in(view: Window, annotation: Annotation, size: tuple[int, int], windows: Windows) -> bool:
    """Whether a mask may be visible in a view; its window is cached in ``windows``."""
    if id(annotation) not in windows:
        found = crop(annotation.segmentation, size)
        windows[id(annotation)] = None if found is None else found[1]
    window = windows[id(annotation)]
    return window is not None and not window.intersection(view).is_empty


def _draw_focus(canvas: _Canvas, shot: Shot, size: tuple[int, int]) -> None:
    if shot.focus is None:
        return
    shape = shot.focus.segmentation
    mask = canvas.mask(crop(shape, size))
    if mask is not None:
        _tint(canvas.tile, mask, shot.colour, TINT)
    if shot.fault and not isinstance(shape, str):
        _stroke(canvas.tile, canvas.path(shape), shot.colour, SHIFT)
    elif mask is not None:
        _stroke(canvas.tile, _contours(mask), shot.colour)
    if shot.box is not None:
        x, y, wide, high = shot.box
        corners = np.asarray([(x, y), (x + wide, y), (x + wide, y + high), (x, y + high)], np.float64)
        _stroke(canvas.tile, canvas.path((corners,)), STATED, SHIFT)


def _tint(tile: ByteArray, mask: ByteArray, colour: Colour, share: float) -> None:
    blended = cv2.addWeighted(tile, 1 - share, np.full_like(tile, colour), share, 0)
    cv2.copyTo(blended, mask, tile)


def _contours(mask: ByteArray) -> Sequence[cv2.typing.MatLike]:
    return cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)[0]


def _stroke(tile: ByteArray, lines: Iterable[cv2.typing.MatLike], colour: Colour, shift: int = 0) -> None:
    """Draw a coloured line over a wider dark one, visible on any background."""
    lines = list(lines)
    for thickness, ink in ((3 if shift else 4, DARK), (2, colour)):
        cv2.polylines(tile, lines, True, ink, thickness, cv2.LINE_AA, shift)


def _encode(tile: ByteArray) -> Thumbnail:
    suffix, kind, options = next(_encoders())
    data = base64.b64encode(cv2.imencode(suffix, tile, options)[1].tobytes()).decode("ascii")
    return Thumbnail(f"data:image/{kind};base64,{data}", tile.shape[1], tile.shape[0])


def _encoders() -> Iterator[tuple[str, str, list[int]]]:
    """Encoders of this OpenCV build, smallest output first: suffix, media type, options."""
    if cv2.haveImageWriter("a.webp"):
        yield ".webp", "webp", [cv2.IMWRITE_WEBP_QUALITY, WEBP_QUALITY]
    yield ".jpg", "jpeg", [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
