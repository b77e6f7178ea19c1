"""Forms of a mask: pixels, COCO's run lengths, polygons."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from maskline.errors import ParameterError
from maskline.instances import ByteArray

Window = tuple[int, int, int, int]  # top, bottom, left, right; half open


def rle_encode(mask: npt.NDArray[np.generic]) -> str:
    """A mask (h, w), foreground where not 0, as COCO's compressed run lengths."""
    return _to_text(_runs(mask))


def place_rle(mask: npt.NDArray[np.generic], window: Window, size: tuple[int, int]) -> str:
    """Run lengths of a whole image of ``size`` (height, width) whose foreground is ``mask``, laid over ``window``.

    The image is never made: only the runs are, which get longer by what lies above and below the window.
    """
    top, bottom, left, right = window
    height, width = size
    if mask.shape != (bottom - top, right - left) or not (0 <= top <= bottom <= height and 0 <= left <= right <= width):
        raise ParameterError(f"a mask of {mask.shape} does not fill the window {window} of an image of {size}")
    starts, ends = _foreground(mask)
    inner = max(bottom - top, 1)  # rows of the mask; positions count down columns
    column, last = starts // inner, (ends - 1) // inner
    if height != bottom - top:  # a run that goes on in the next column is interrupted there: cut it at column borders
        spans = last - column + 1
        run = np.repeat(np.arange(len(starts)), spans)
        col = column[run] + (np.arange(len(run)) - np.repeat(np.cumsum(spans) - spans, spans))
        starts = np.maximum(starts[run], col * inner)
        ends = np.minimum(ends[run], (col + 1) * inner)
        column = col
    shift = (column + left) * height + top - column * inner
    starts, ends = starts + shift, ends + shift
    return _to_text(_interleave(starts, ends, height * width))


def rle_decode(counts: str | bytes, size: tuple[int, int]) -> ByteArray:
    """The mask (h, w) uint8 of COCO's compressed run lengths.

    Raises:
        ParameterError: not such a text, or runs that don't add up to the size.
    """
    runs = _from_text(counts if isinstance(counts, bytes) else counts.encode("ascii", "replace"))
    height, width = size
    if runs.sum() != height * width or (runs < 0).any():
        raise ParameterError(f"run lengths sum to {runs.sum()}, expected {height} x {width}")
    values = (np.arange(len(runs)) % 2).astype(np.uint8)
    return np.ascontiguousarray(np.repeat(values, runs).reshape(width, height).T)


def polygons(mask: ByteArray, offset: tuple[int, int] = (0, 0)) -> list[list[float]]:
    """Outlines of a mask (h, w), one for each part, as COCO's flat lists ``x1 y1 x2 y2 …``.

    Vertices are centres of border pixels, so an outline, filled without its border, is half a pixel smaller all around.
    Holes are lost, as COCO's polygons have none, and so are parts of one or two pixels: run lengths keep both.

    Args:
        offset: ``(x, y)`` of the mask's first pixel in the image.
    """
    contours, _ = cv2.findContours(np.ascontiguousarray(mask, np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    moved = [(c.reshape(-1, 2) + np.array(offset)).astype(float) for c in contours if len(c) >= 3]
    return [points.ravel().tolist() for points in moved]


def _foreground(mask: npt.NDArray[np.generic]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Where runs of foreground start and end, counted down the columns."""
    flat = np.zeros(mask.size + 2, np.int8)
    flat[1:-1] = (mask != 0).T.reshape(-1)
    change = np.flatnonzero(np.diff(flat))
    return change[::2].astype(np.int64), change[1::2].astype(np.int64)


def _runs(mask: npt.NDArray[np.generic]) -> npt.NDArray[np.int64]:
    return _interleave(*_foreground(mask), mask.size)


def _interleave(starts: npt.NDArray[np.int64], ends: npt.NDArray[np.int64], total: int) -> npt.NDArray[np.int64]:
    """Lengths of background, foreground, background … ; touching runs of foreground become one."""
    if len(starts):
        apart = starts[1:] != ends[:-1]
        starts, ends = starts[np.r_[True, apart]], ends[np.r_[apart, True]]
    borders = np.empty(2 * len(starts), np.int64)
    borders[::2], borders[1::2] = starts, ends
    if not len(borders) or borders[-1] != total:
        borders = np.append(borders, total)
    return np.diff(borders, prepend=0)


def _to_text(runs: npt.NDArray[np.int64]) -> str:
    """COCO's text: from the fourth on, the difference to the run two places before; then groups of five bits, low ones
    first, with a sixth bit where more follow, as characters from '0' on."""
    values = runs.copy()
    values[3:] -= runs[1:-2]
    texts = np.zeros((len(values), 13), np.uint8)  # 13 groups hold 64 bits
    more = np.ones(len(values), bool)
    for group in range(13):
        bits = values & 0x1F
        values = np.where(more, values >> 5, values)
        sign = (bits & 0x10) != 0
        unfinished = np.where(sign, values != -1, values != 0)
        texts[:, group] = np.where(more, bits + np.where(unfinished, 0x20, 0) + 48, 0)
        more &= unfinished
        if not more.any():
            break
    written: bytes = texts[texts != 0].tobytes()
    return written.decode("ascii")


def _from_text(text: bytes) -> npt.NDArray[np.int64]:
    groups = np.frombuffer(text, np.uint8).astype(np.int64) - 48
    if len(groups) and (groups.min() < 0 or groups.max() > 0x3F or groups[-1] & 0x20):
        raise ParameterError("not a COCO run-length text: a character is out of range, or the last number is cut off")
    ends = np.flatnonzero((groups & 0x20) == 0)
    first = np.r_[0, ends[:-1] + 1] if len(ends) else ends
    place = np.arange(len(groups)) - np.repeat(first, ends - first + 1)
    if len(place) and place.max() > 12:
        raise ParameterError("not a COCO run-length text: a number is too long")
    values = np.add.reduceat((groups & 0x1F) << (5 * place), first) if len(first) else groups
    width = 5 * (ends - first + 1)
    negative = (groups[ends] & 0x10) != 0
    values = np.where(negative & (width < 64), values - (np.int64(1) << np.minimum(width, 62)), values)
    runs: npt.NDArray[np.int64] = values.copy()
    for parity in (1, 2):  # the runs of each parity are a running sum of their differences
        runs[parity::2] = np.cumsum(values[parity::2])
    return runs
