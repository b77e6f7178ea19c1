"""From a network's mask grid to pixels of the image, only where pixels are wanted.

Masks come from a network as a coarse grid of values, foreground where positive. A pixel's value is the bilinear
interpolation of the grid at the pixel's centre (the grid's border values continue outside), so a window of the image
can be computed alone, and gives the same pixels as the window of the whole image would.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from maskline.instances import ByteArray, FloatArray, Window

Indices = npt.NDArray[np.intp]

CACHED = 1 << 17  # pixels worked on at a time, so that they stay in the processor's cache


class Axis(NamedTuple):
    """For each pixel of a run along one axis, the cells it lies between."""

    before: Indices
    after: Indices  # the same cell as before where the pixel lies beyond the grid's border
    share: FloatArray  # of the cell after, in [0, 1)

    @classmethod
    def of(cls, start: int, stop: int, step: float, cells: int, origin: float) -> Axis:
        """Pixels [start, stop), ``step`` cells apart, on a grid of so many cells that begins at pixel ``origin``."""
        centre = (np.arange(start, stop) + 0.5 - origin) * step - 0.5
        floor = np.floor(centre)
        share = (centre - floor).astype(np.float32)
        before = np.clip(floor, -1, cells - 1).astype(np.intp)  # clipped first: far cells have no integer
        return cls(np.maximum(before, 0), np.minimum(before + 1, cells - 1), share)

    @property
    def reach(self) -> slice:
        """All cells that matter."""
        return slice(int(self.before[0]), int(self.after[-1]) + 1)

    def touching(self, cells: npt.NDArray[np.bool_]) -> slice:
        """The shortest run of pixels that has all those beside a True cell; ``cells`` are those in reach."""
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
    """Where the interpolated grid is positive, for the pixels of one window.

    Args:
        grid: (h, w) float32, foreground where positive.
        window: the pixels of the image that are wanted, not empty.
        step: cells of the grid for a pixel of the image, along y and x.
        origin: where the grid's top left corner (of its first cell, not its centre) lies in the image, y and x, in
            pixels; may be outside the image.

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
    """A window outside of which no pixel of an image of ``size`` can be positive.

    For a grid laid over the whole image, as `upsample_window` has it without ``origin``.
    """
    _, _, rows, columns = _positive_part(grid, Window.whole(size), step, (0.0, 0.0))
    return Window(rows.start, rows.stop, columns.start, columns.stop)


def _positive_part(
    grid: FloatArray, window: Window, step: tuple[float, float], origin: tuple[float, float]
) -> tuple[Axis, Axis, slice, slice]:
    """The window's axes, and its rows and columns that have a positive cell beside them."""
    y = Axis.of(*window.rows, step[0], grid.shape[0], origin[0])
    x = Axis.of(*window.columns, step[1], grid.shape[1], origin[1])
    positive: npt.NDArray[np.bool_] = grid[y.reach, x.reach] > 0
    return y, x, y.touching(positive.any(axis=1)), x.touching(positive.any(axis=0))  # type: ignore[arg-type]


def _signs_between(lines: FloatArray, y: Axis, step: float, out: npt.NDArray[np.bool_]) -> None:
    """``out = lines[y.before] * (1 - y.share) + lines[y.after] * y.share > 0``, without computing most of it.

    From one line down to the next, the sum keeps the upper line's sign for a number of rows and then has the lower
    one's. So a pixel is found by comparing its row, counted from the upper line, with that number; and the number takes
    arithmetic only where the two signs differ, along outlines.
    """
    positive = lines > 0
    beyond = y.after == y.before  # the border line goes on
    out[beyond] = positive[y.before[beyond]]
    between = np.flatnonzero(~beyond)  # one run, because the border is at the ends
    if not len(between):
        return
    upper, share = y.before[between], y.share[between]
    out = out[between[0] : between[-1] + 1]
    begin = np.searchsorted(upper, np.arange(len(lines)))  # first row below each line
    height = np.diff(begin, append=len(upper))  # rows from there down to the next line
    kept = np.where(positive, height[:, None], 0).astype(np.uint16)
    line, x = np.nonzero(positive[:-1] != positive[1:])
    kept[line, x] = _rows_before_change(lines[line, x], lines[line + 1, x], share, step, begin[line], height[line])
    turns = np.zeros_like(positive)  # where the upper line is background and the lower foreground
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
    """How many of the ``height`` rows from ``begin`` on have the upper value's sign; the lower value has the other.

    The sum changes sign where its share is ``upper / (upper - lower)``, and shares grow by ``step`` a row, which gives
    the number up to rounding. Then the sum itself is computed for the row before and the row at the change, so that
    each pixel has just the sign that computing it would give.
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
