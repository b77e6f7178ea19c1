"""The forms a mask can take: array, COCO run lengths, polygons.

An array mask is (h, w) uint8 or bool, foreground where not zero. Run lengths (RLE) are COCO's *compressed counts*: runs
of background and foreground in turn, background first (so its first run may be 0), counted down the columns; from the
fourth run on the difference to the run two places earlier; each number in groups of five bits, lowest first, 32 added
where more groups follow and 48 to make it a character.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt

from maskline.errors import ParameterError

ByteArray = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.uint8] | npt.NDArray[np.bool_]
Runs = npt.NDArray[np.int64]

MAX_GROUPS = 12  # of five bits in one number: 60 bits, which int64 holds


class Window(NamedTuple):
    """A rectangle of pixels: rows ``top`` to ``bottom - 1`` and columns ``left`` to ``right - 1`` of an image."""

    top: int
    bottom: int
    left: int
    right: int

    @classmethod
    def whole(cls, size: tuple[int, int]) -> Window:
        """All of an image of ``(height, width)``."""
        return cls(0, size[0], 0, size[1])

    @property
    def height(self) -> int:
        """Rows; below 1 where the window is empty."""
        return self.bottom - self.top

    @property
    def width(self) -> int:
        """Columns; below 1 where the window is empty."""
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
        """Whether it holds no pixel."""
        return self.height <= 0 or self.width <= 0

    @property
    def origin(self) -> tuple[int, int]:
        """``(x, y)`` of its first pixel."""
        return self.left, self.top

    @property
    def box_xyxy(self) -> tuple[int, int, int, int]:
        """``x1 y1 x2 y2``, its corners."""
        return self.left, self.top, self.right, self.bottom

    @property
    def slices(self) -> tuple[slice, slice]:
        """Rows and columns, to index an image (H, W, ...) with. Only for a window inside the image."""
        return slice(self.top, self.bottom), slice(self.left, self.right)

    def intersection(self, other: Window) -> Window:
        """What two windows share; `is_empty` where that is nothing."""
        return Window(
            max(self.top, other.top),
            min(self.bottom, other.bottom),
            max(self.left, other.left),
            min(self.right, other.right),
        )

    def relative_to(self, other: Window) -> Window:
        """The same pixels, counted from the first pixel of another window."""
        return Window(self.top - other.top, self.bottom - other.top, self.left - other.left, self.right - other.left)


def rle_encode(mask: Mask) -> str:
    """Compressed counts of a mask (h, w). A mask without pixels gives ``"0"``.

    Raises:
        ParameterError: the mask is not two-dimensional.
    """
    if mask.ndim != 2:
        raise ParameterError(f"mask has shape {mask.shape}: expected (height, width)")
    return place_rle(mask, Window.whole(mask.shape), mask.shape)


def place_rle(mask: Mask, window: Window, size: tuple[int, int]) -> str:
    """Compressed counts of a whole image of which only a window is known and the rest is background.

    Time and memory follow the window: the image is never built.

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
    """The mask that compressed counts stand for.

    Args:
        counts: as `rle_encode` gives them.
        size: ``(height, width)``.

    Returns:
        (height, width) uint8, 0 or 1, in column-major order in memory.

    Raises:
        ParameterError: the counts are malformed, or are not those of a mask of this size.
    """
    return _columns(rle_runs(counts, size), size)


def rle_runs(counts: str | bytes, size: tuple[int, int]) -> Runs:
    """Compressed counts as run lengths, background first. Raises ParameterError as `rle_decode` does."""
    height, width = size
    if height < 0 or width < 0:
        raise ParameterError(f"size is {size}: expected (height, width), neither below 0")
    runs = _to_runs(counts, height * width)
    if runs.min() < 0 or int(runs.sum()) != height * width:
        raise ParameterError(f"RLE counts are not those of a mask of {height} x {width} pixels")
    return runs


def runs_rle(runs: npt.NDArray[np.integer[Any]]) -> str:
    """Run lengths, background first, as compressed counts."""
    return _to_text(runs.astype(np.int64))


def rle_window(counts: str | bytes, size: tuple[int, int]) -> tuple[ByteArray, Window] | None:
    """Decode only where there is foreground: the smallest window that holds it, in time and memory of its columns.

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
    """Outlines of a mask as COCO polygons, one for each region that hangs together (corners count as contact).

    Vertices lie on the corners of pixels, as COCO has it: pixel ``(x, y)`` covers ``[x, x + 1) x [y, y + 1)``, so a
    single pixel gives a unit square, a polygon's area is its number of pixels, and COCO's own tools fill it with just
    the pixels it came from. **Holes are lost**: COCO's polygons have none, so only outer outlines are given (also those
    of islands within holes). Use RLE where holes matter.

    Args:
        mask: (h, w).
        offset: ``(x, y)`` of the mask's first pixel in the image.

    Returns:
        Rings ``[x1, y1, x2, y2, ...]`` in pixels of the image, the first vertex not repeated; none for an empty mask.
    """
    return outlines(mask, offset)[0]


def outlines(mask: Mask, offset: tuple[int, int] = (0, 0)) -> tuple[list[list[float]], list[list[float]]]:
    """The rings round the regions of a mask, as `polygons` gives them, and those round its holes.

    A pixel is foreground if it lies inside an odd number of all of them.
    """
    import cv2

    if not mask.size:
        return [], []
    # OpenCV's outlines pass through the centres of foreground pixels. With each pixel doubled, 2x and 2x + 1 are its
    # two sides; that holds for both kinds of ring, as a hole's lies on the pixels round it.
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
    """An outline of doubled pixels as a flat ring: halved, moved, vertices that fell together made one."""
    points = (contour[:, 0] + 1) // 2  # (vertices, x y)
    points = points[(points != np.roll(points, 1, axis=0)).any(axis=1)]
    return cast("list[float]", (points + np.asarray(offset)).astype(np.float64).ravel().tolist())


def _binary(mask: Mask) -> ByteArray:
    """0 or 1, uint8, row-major."""
    return np.ascontiguousarray(mask != 0).view(np.uint8)


def _edges(mask: Mask, start: int, stride: int) -> Runs:
    """Where foreground begins and ends, in turn, as pixel numbers counted down the columns of the image.

    Args:
        mask: (h, w).
        start: number of the mask's first pixel.
        stride: height of the image.
    """
    import cv2

    height, width = mask.shape
    if not mask.size:
        return np.zeros(0, np.int64)
    flat = np.zeros(width * (height + 1) + 1, np.uint8)  # one background pixel before all, and one below each column
    cv2.transpose(_binary(mask), dst=(columns := np.empty((width, height), np.uint8)))
    flat[1:].reshape(width, height + 1)[:, :height] = columns
    column, row = np.divmod(np.flatnonzero(flat[1:] != flat[:-1]), height + 1)
    edges = column * stride + row + start
    joined = edges[1:-1:2] == edges[2::2]  # a column goes on in the next: only if the mask is as high as the image
    keep = np.ones(len(edges), np.bool_)
    keep[1:-1:2] = keep[2::2] = ~joined
    return edges[keep]


def _to_text(runs: Runs) -> str:
    """Run lengths as compressed counts."""
    values = runs.copy()
    values[3:] -= runs[1:-2]
    magnitude = values ^ (values >> 63)  # a number needs one bit more than this has, for its sign
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
    """Compressed counts as run lengths, not yet checked against the size; no number goes beyond ``pixels``."""
    try:
        raw = counts.encode("ascii") if isinstance(counts, str) else bytes(counts)
    except UnicodeEncodeError:
        raise ParameterError("RLE counts hold characters that are not ASCII") from None
    codes = np.frombuffer(raw, np.uint8).astype(np.int64) - 48
    if not len(codes) or codes.min() < 0 or codes.max() > 63:
        raise ParameterError("RLE counts are empty or hold characters that COCO's compressed RLE does not use")
    last = codes & 32 == 0  # of its number
    starts = np.flatnonzero(np.concatenate([[True], last[:-1]]))
    lengths = np.diff(starts, append=len(codes))
    if not last[-1] or lengths.max() > MAX_GROUPS:
        raise ParameterError("RLE counts are cut short or hold a number too large")
    shifts = 5 * (np.arange(len(codes)) - np.repeat(starts, lengths))
    values = np.add.reduceat((codes & 31) << shifts, starts)
    values -= (codes[last] >> 4 & 1) << 5 * lengths  # the highest bit is the sign
    if np.abs(values).max() > pixels:
        raise ParameterError("RLE counts hold a run longer than the mask")
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return cast("Runs", values)
