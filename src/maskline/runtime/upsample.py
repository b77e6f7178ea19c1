"""Upsampling of a network's mask grid to pixels of the image, for one window at a time.

A network's mask is a coarse grid of values, foreground where positive. The value of a pixel is the bilinear
interpolation of the grid at the pixel's centre (border values are extended outside), so a window of the image can be
computed alone, with the same pixels as in the whole image.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from maskline.instances import ByteArray, FloatArray, Window

Indices = npt.NDArray[np.intp]

CACHED = 1 << 17  # pixels per block, so that they stay in the CPU cache


class Axis(NamedTuple):
    """For each pixel of a range along one axis, the two neighbouring cells and their weights."""

    before: Indices
    after: Indices  # equals ``before`` for pixels beyond the grid's border
    share: FloatArray  # weight of the cell ``after``, in [0, 1)

    @classmethod
    def of(cls, start: int, stop: int, step: float, cells: int, origin: float) -> Axis:
        """Pixels [start, stop), ``step`` cells apart, on a grid of ``cells`` cells that begins at pixel ``origin``."""
        centre = (np.arange(start, stop) + 0.5 - origin) * step - 0.5
        floor = np.floor(centre)
        share = (centre - floor).astype(np.float32)
        before = np.clip(floor, -1, cells - 1).astype(np.intp)  # clipped first: far cells exceed the integer range
        return cls(np.maximum(before, 0), np.minimum(before + 1, cells - 1), share)

    @property
    def reach(self) -> slice:
        """Range of all cells used."""
        return slice(int(self.before[0]), int(self.after[-1]) + 1)

    def touching(self, cells: npt.NDArray[np.bool_]) -> slice:
        """Shortest range of pixels that includes all neighbours of True cells; ``cells`` covers `reach`."""
        hit = np.flatnonzero(cells)
        if not len(hit):
            return slice(0, 0)
        start = np.searchsorted(self.after, hit[0] + self.before[0], "left")
        return slice(int(start), int(np.searchsorted(self.before, hit[-1] + self.before[0], "right")))

    def cut(self, pixels: slice) -> Axis:
        return Axis(self.before[pixels], self.after[pixels], self.share[pixels])


def upsample_window(
    grid: FloatArray,
    window: Window,
    step: tuple[float, float],
    origin: tuple[float, float] = (0.0, 0.0),
) -> ByteArray:
    """Binarise the interpolated grid for the pixels of one window.

    Args:
        grid: (h, w) float32, foreground where positive.
        window: pixels of the image to compute, not empty.
        step: grid cells per pixel of the image, along y and x.
        origin: position of the grid's top left corner (of its first cell, not the cell's centre) in the image, y and x
            in pixels; may be outside the image.

    Returns:
        (bottom - top, right - left) uint8, 0 or 1.
    """
    y, x, rows, columns = _positive_part(grid, window, step, origin)
    out = np.zeros((len(y.before), len(x.before)), np.bool_)
    y, x = y.cut(rows), x.cut(columns)
    if len(y.before) and len(x.before):
        strip = grid[y.reach].T
        across = strip[x.before] * (1 - x.share[:, None]) + strip[x.after] * x.share[:, None]
        lines = np.ascontiguousarray(across.T)  # (cells along y, pixels along x)
        first = y.before[0]
        y = Axis(y.before - first, y.after - first, y.share)
        _signs_between(lines, y, step[0], out[rows, columns])
    return out.view(np.uint8)


def positive_window(grid: FloatArray, size: tuple[int, int], step: tuple[float, float]) -> Window:
    """A window that contains all positive pixels of an image of ``size``.

    For a grid that covers the whole image: `upsample_window` with the default ``origin``.
    """
    _, _, rows, columns = _positive_part(grid, Window.whole(size), step, (0.0, 0.0))
    return Window(rows.start, rows.stop, columns.start, columns.stop)


def _positive_part(
    grid: FloatArray, window: Window, step: tuple[float, float], origin: tuple[float, float]
) -> tuple[Axis, Axis, slice, slice]:
    """Axes of the window, and the ranges of its rows and columns next to a positive cell."""
    y = Axis.of(*window.rows, step[0], grid.shape[0], origin[0])
    x = Axis.of(*window.columns, step[1], grid.shape[1], origin[1])
    positive: npt.NDArray[np.bool_] = grid[y.reach, x.reach] > 0
    return y, x, y.touching(positive.any(axis=1)), x.touching(positive.any(axis=0))  # type: ignore[arg-type]


def _signs_between(lines: FloatArray, y: Axis, step: float, out: npt.NDArray[np.bool_]) -> None:
    """``out = lines[y.before] * (1 - y.share) + lines[y.after] * y.share > 0``, without computing most of it.

    From one line to the next, the sum keeps the upper line's sign for a number of rows and then takes the lower one's.
    So a pixel follows from comparing its row, counted from the upper line, with that number, which needs arithmetic
    only where the two signs differ, along outlines.
    """
    positive = lines > 0
    beyond = y.after == y.before  # the border line is extended
    out[beyond] = positive[y.before[beyond]]
    between = np.flatnonzero(~beyond)  # contiguous, because the border is at the ends
    if not len(between):
        return
    upper, share = y.before[between], y.share[between]
    out = out[between[0] : between[-1] + 1]
    begin = np.searchsorted(upper, np.arange(len(lines)))  # first row below each line
    height = np.diff(begin, append=len(upper))  # rows from there to the next line
    kept = np.where(positive, height[:, None], 0).astype(np.uint16)
    line, x = np.nonzero(positive[:-1] != positive[1:])
    kept[line, x] = _rows_before_change(lines[line, x], lines[line + 1, x], share, step, begin[line], height[line])
    turns = np.zeros_like(positive)  # the upper line is background and the lower one foreground
    turns[:-1] = ~positive[:-1] & positive[1:]

    row = (np.arange(len(upper)) - begin[upper]).astype(np.uint16)[:, None]
    block = min(max(CACHED // lines.shape[1], 1), len(upper))
    number, turn = np.empty((block, lines.shape[1]), np.uint16), np.empty((block, lines.shape[1]), np.bool_)
    for i in range(0, len(upper), block):
        above, some = upper[i : i + block], out[i : i + block]
        n = len(above)
        np.less(row[i : i + n], np.take(kept, above, axis=0, out=number[:n], mode="clip"), out=some)
        np.not_equal(some, np.take(turns, above, axis=0, out=turn[:n], mode="clip"), out=some)


def _rows_before_change(
    upper: FloatArray, lower: FloatArray, share: FloatArray, step: float, begin: Indices, height: Indices
) -> Indices:
    """Number of the ``height`` rows from ``begin`` on with the upper value's sign; the lower value has the other sign.

    The sum changes sign where the weight is ``upper / (upper - lower)``, and weights grow by ``step`` per row, which
    gives the number up to rounding. Then the sum itself is evaluated in the row before and the row at the change, so
    that each pixel gets exactly the sign that direct computation would give.
    """
    sign = upper > 0

    def changed(row: Indices) -> npt.NDArray[np.bool_]:
        part = share[np.minimum(begin + row, len(share) - 1)]
        return np.asarray((upper * (1 - part) + lower * part > 0) != sign)

    start = share[np.minimum(begin, len(share) - 1)]
    guess = np.ceil((upper / (upper - lower) - start) / step)
    rows: Indices = np.minimum(np.maximum(guess, 0), height).astype(np.intp)
    rows -= (rows > 0) & changed(np.maximum(rows - 1, 0))
    rows += (rows < height) & ~changed(rows)
    return rows
