"""Mask representations: arrays, COCO run lengths, polygons.

An array mask is (h, w) uint8 or bool, foreground where not zero. Run lengths (RLE) are COCO's *compressed counts*:
alternating runs of background and foreground in column-major order, background first (so the first run may be 0); from
the fourth run on, stored as the difference to the run two places earlier; each number in groups of five bits, lowest
first, plus 32 if more groups follow, plus 48 to make it an ASCII character.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt

from maskline.errors import ParameterError

ByteArray = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.uint8] | npt.NDArray[np.bool_]
Runs = npt.NDArray[np.int64]

MAX_GROUPS = 12  # five-bit groups per number: 60 bits, which fit into int64


class Window(NamedTuple):
    """A rectangle of pixels: rows ``top`` to ``bottom - 1`` and columns ``left`` to ``right - 1`` of an image."""

    top: int
    bottom: int
    left: int
    right: int

    @classmethod
    def whole(cls, size: tuple[int, int]) -> Window:
        """The window of a whole image of ``(height, width)``."""
        return cls(0, size[0], 0, size[1])

    @property
    def height(self) -> int:
        """Number of rows; below 1 if the window is empty."""
        return self.bottom - self.top

    @property
    def width(self) -> int:
        """Number of columns; below 1 if the window is empty."""
        return self.right - self.left

    @property
    def size(self) -> tuple[int, int]:
        """``(height, width)``."""
        return self.height, self.width

    @property
    def rows(self) -> tuple[int, int]:
        """``(top, bottom)``."""
        return self.top, self.bottom

    @property
    def columns(self) -> tuple[int, int]:
        """``(left, right)``."""
        return self.left, self.right

    @property
    def is_empty(self) -> bool:
        """Whether it contains no pixels."""
        return self.height <= 0 or self.width <= 0

    @property
    def origin(self) -> tuple[int, int]:
        """``(x, y)`` of its first pixel."""
        return self.left, self.top

    @property
    def box_xyxy(self) -> tuple[int, int, int, int]:
        """Corners ``x1 y1 x2 y2``."""
        return self.left, self.top, self.right, self.bottom

    @property
    def slices(self) -> tuple[slice, slice]:
        """Index of an image (H, W, ...): row and column slices. Only for windows inside the image."""
        return slice(self.top, self.bottom), slice(self.left, self.right)

    def intersection(self, other: Window) -> Window:
        """Intersection of two windows, possibly empty."""
        return Window(
            max(self.top, other.top),
            min(self.bottom, other.bottom),
            max(self.left, other.left),
            min(self.right, other.right),
        )

    def relative_to(self, other: Window) -> Window:
        """The same pixels, relative to the first pixel of another window."""
        return Window(self.top - other.top, self.bottom - other.top, self.left - other.left, self.right - other.left)


def rle_encode(mask: Mask) -> str:
    """Encode a mask (h, w) as compressed counts. A mask of size zero gives ``"0"``.

    >>> rle_encode(np.array([[0, 1], [0, 1]], np.uint8))
    '22'

    Raises:
        ParameterError: the mask is not two-dimensional.
    """
    if mask.ndim != 2:
        raise ParameterError(f"mask has shape {mask.shape}: expected (height, width)")
    return place_rle(mask, Window.whole(mask.shape), mask.shape)


def place_rle(mask: Mask, window: Window, size: tuple[int, int]) -> str:
    """Encode a window of an otherwise empty image as compressed counts over the image.

    Time and memory are proportional to the window: the full mask is never built.

    Args:
        mask: (bottom - top, right - left), the pixels of the window.
        window: where it lies in the image.
        size: ``(height, width)`` of the image.

    Raises:
        ParameterError: the window leaves the image, or the mask does not fill it.
    """
    (top, bottom, left, right), (height, width) = window, size
    if not (0 <= top <= bottom <= height and 0 <= left <= right <= width):
        given = f"({top}, {bottom}, {left}, {right})"
        raise ParameterError(f"window (top, bottom, left, right) is {given}: expected one inside {height} x {width}")
    if mask.shape != (bottom - top, right - left):
        raise ParameterError(f"mask has shape {mask.shape}: expected {(bottom - top, right - left)}, as its window")
    edges = _edges(mask, start=left * height + top, stride=height)
    runs = np.diff(edges, prepend=0, append=height * width)
    if len(runs) > 1 and runs[-1] == 0:
        runs = runs[:-1]
    return _to_text(runs)


def rle_decode(counts: str | bytes, size: tuple[int, int]) -> ByteArray:
    """Decode compressed counts into a mask.

    >>> rle_decode("22", (2, 2))
    array([[0, 1],
           [0, 1]], dtype=uint8)

    Args:
        counts: as `rle_encode` gives them.
        size: ``(height, width)``.

    Returns:
        (height, width) uint8, 0 or 1, in column-major order in memory.

    Raises:
        ParameterError: the counts are malformed, or do not fit the size.
    """
    return _columns(rle_runs(counts, size), size)


def rle_runs(counts: str | bytes, size: tuple[int, int]) -> Runs:
    """Decode compressed counts into run lengths, background first. Raises ParameterError as `rle_decode` does."""
    height, width = size
    if height < 0 or width < 0:
        raise ParameterError(f"size is {size}: expected (height, width), neither below 0")
    runs = _to_runs(counts, height * width)
    if runs.min() < 0 or int(runs.sum()) != height * width:
        raise ParameterError(f"RLE counts do not fit a mask of {height} x {width} pixels")
    return runs


def runs_rle(runs: npt.NDArray[np.integer[Any]]) -> str:
    """Encode run lengths, background first, as compressed counts."""
    return _to_text(runs.astype(np.int64))


def rle_window(counts: str | bytes, size: tuple[int, int]) -> tuple[ByteArray, Window] | None:
    """Decode only the smallest window that contains the foreground, in time and memory proportional to its columns.

    Returns:
        (h, w) uint8, 0 or 1, and its window; None for a mask without foreground.

    Raises:
        ParameterError: as `rle_decode`.
    """
    height = size[0]
    ends = np.cumsum(rle_runs(counts, size))
    starts, ends = ends[0:-1:2], ends[1::2]  # of the foreground
    starts, ends = starts[ends > starts], ends[ends > starts]
    if not len(starts):
        return None
    left, right = int(starts[0]) // height, int(ends[-1] - 1) // height + 1
    edges = np.stack([starts, ends], axis=1).ravel() - left * height
    columns = _columns(np.diff(edges, prepend=0, append=(right - left) * height), (height, right - left))
    rows = np.flatnonzero(columns.any(axis=1))
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    return np.ascontiguousarray(columns[top:bottom]), Window(top, bottom, left, right)


def _columns(runs: Runs, size: tuple[int, int]) -> ByteArray:
    height, width = size
    foreground = (np.arange(len(runs)) & 1).astype(np.uint8)
    return cast("ByteArray", np.repeat(foreground, runs).reshape(width, height).T)


def polygons(mask: Mask, offset: tuple[int, int] = (0, 0)) -> list[list[float]]:
    """Outline a mask as COCO polygons, one per 8-connected component.

    Vertices are at the corners of pixels, as in COCO: pixel ``(x, y)`` covers ``[x, x + 1) x [y, y + 1)``, so a single
    pixel gives a unit square, a polygon's area is its number of pixels, and COCO's tools fill it with exactly the
    original pixels. **Holes are lost**: COCO's polygons can't have any, so only outer outlines are returned (including
    those of islands in holes). Use RLE if holes matter.

    Args:
        mask: (h, w).
        offset: ``(x, y)`` of the mask's first pixel in the image.

    Returns:
        Rings ``[x1, y1, x2, y2, ...]`` in pixels of the image, first vertex not repeated; empty for an empty mask.
    """
    return outlines(mask, offset)[0]


def outlines(mask: Mask, offset: tuple[int, int] = (0, 0)) -> tuple[list[list[float]], list[list[float]]]:
    """Return the rings around the components of a mask, as in `polygons`, and those around its holes.

    A pixel is foreground if it is inside an odd number of them.
    """
    import cv2

    if not mask.size:
        return [], []
    # OpenCV's contours pass through the centres of foreground pixels. With each pixel doubled, 2x and 2x + 1 are its
    # two sides; that holds for both kinds of ring, as a hole's contour is on the pixels around it.
    doubled = np.repeat(np.repeat(_binary(mask), 2, axis=0), 2, axis=1)
    contours, hierarchy = cv2.findContours(doubled, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    parents = cast("list[int]", [] if hierarchy is None else hierarchy[0, :, 3].tolist())
    rings: tuple[list[list[float]], list[list[float]]] = [], []
    for contour, parent in zip(contours, parents, strict=True):
        rings[parent >= 0].append(_ring(contour, offset))
    return rings


def has_holes(mask: Mask) -> bool:
    """Whether a mask (h, w) encloses background, which `polygons` loses."""
    return bool(outlines(mask)[1])


def _ring(contour: npt.NDArray[Any], offset: tuple[int, int]) -> list[float]:
    """Turn a contour of doubled pixels into a flat ring: halved, moved, coinciding vertices merged."""
    points = (contour[:, 0] + 1) // 2  # (vertices, x y)
    points = points[(points != np.roll(points, 1, axis=0)).any(axis=1)]
    return cast("list[float]", (points + np.asarray(offset)).astype(np.float64).ravel().tolist())


def _binary(mask: Mask) -> ByteArray:
    """0 or 1, uint8, row-major."""
    return np.ascontiguousarray(mask != 0).view(np.uint8)


def _edges(mask: Mask, start: int, stride: int) -> Runs:
    """Alternating starts and ends of foreground runs, as column-major pixel indices of the image.

    Args:
        mask: (h, w).
        start: index of the mask's first pixel.
        stride: height of the image.
    """
    import cv2

    height, width = mask.shape
    if not mask.size:
        return np.zeros(0, np.int64)
    flat = np.zeros(width * (height + 1) + 1, np.uint8)  # one background pixel at the start and one below each column
    cv2.transpose(_binary(mask), dst=(columns := np.empty((width, height), np.uint8)))
    flat[1:].reshape(width, height + 1)[:, :height] = columns
    column, row = np.divmod(np.flatnonzero(flat[1:] != flat[:-1]), height + 1)
    edges = column * stride + row + start
    joined = edges[1:-1:2] == edges[2::2]  # a run continues in the next column: only if the mask has the image's height
    keep = np.ones(len(edges), np.bool_)
    keep[1:-1:2] = keep[2::2] = ~joined
    return edges[keep]


def _to_text(runs: Runs) -> str:
    """Encode run lengths as compressed counts."""
    values = runs.copy()
    values[3:] -= runs[1:-2]
    magnitude = values ^ (values >> 63)  # plus one bit for the sign
    groups = 1
    while groups < MAX_GROUPS and (magnitude >> (5 * groups - 1)).any():
        groups += 1
    shifts = 5 * np.arange(groups)
    used = np.ones((len(values), groups + 1), np.bool_)
    used[:, 1:groups] = magnitude[:, None] >> (shifts[1:] - 1) > 0
    used[:, groups] = False
    codes = (values[:, None] >> shifts & 31) + 32 * used[:, 1:] + 48
    return str(codes[used[:, :-1]].astype(np.uint8).tobytes(), "ascii")


def _to_runs(counts: str | bytes, pixels: int) -> Runs:
    """Decode compressed counts into run lengths, not yet checked against the size; no number exceeds ``pixels``."""
    try:
        raw = counts.encode("ascii") if isinstance(counts, str) else bytes(counts)
    except UnicodeEncodeError:
        raise ParameterError("RLE counts contain non-ASCII characters") from None
    codes = np.frombuffer(raw, np.uint8).astype(np.int64) - 48
    if not len(codes) or codes.min() < 0 or codes.max() > 63:
        raise ParameterError("RLE counts are empty or contain characters that COCO's compressed RLE does not use")
    last = codes & 32 == 0  # group of its number
    starts = np.flatnonzero(np.concatenate([[True], last[:-1]]))
    lengths = np.diff(starts, append=len(codes))
    if not last[-1] or lengths.max() > MAX_GROUPS:
        raise ParameterError("RLE counts are cut short or contain a number that is too large")
    shifts = 5 * (np.arange(len(codes)) - np.repeat(starts, lengths))
    values = np.add.reduceat((codes & 31) << shifts, starts)
    values -= (codes[last] >> 4 & 1) << 5 * lengths  # the highest bit is the sign
    if np.abs(values).max() > pixels:
        raise ParameterError("RLE counts contain a run longer than the mask")
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return cast("Runs", values)
