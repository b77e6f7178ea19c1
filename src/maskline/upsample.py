"""From a network's mask grid to pixels of the image, only where pixels are wanted.

Masks come from a network as a coarse grid of values, foreground where positive. A pixel's value is the bilinear
interpolation of the grid at the pixel's centre (the grid's border values continue outside), so a window of the image
can be computed alone, and gives the same pixels as the window of the whole image would.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from maskline.instances import ByteArray, FloatArray

ROWS_AT_ONCE = 32  # keeps the work in the processor's cache


def upsample_window(grid: FloatArray, window: tuple[int, int, int, int], step: tuple[float, float]) -> ByteArray:
    """Where the interpolated grid is positive, for the pixels of one window.

    Args:
        grid: (h, w) float32, foreground where positive.
        window: ``(top, bottom, left, right)`` in pixels, half open.
        step: cells of the grid for a pixel of the image, along y and x.

    Returns:
        (bottom - top, right - left) uint8, 0 or 1.
    """
    top, bottom, left, right = window
    out = np.zeros((bottom - top, right - left), np.uint8)
    rows, columns = _positive_pixels(grid, window, step)
    if rows.stop <= rows.start or columns.stop <= columns.start:
        return out
    x0, x1, fx = _neighbours(columns, step[1], grid.shape[1])
    y0, y1, fy = _neighbours(rows, step[0], grid.shape[0])
    first, last = int(y0[0]), int(y1[-1])
    strip = grid[first : last + 1]
    lines = strip[:, x0] * (1 - fx) + strip[:, x1] * fx  # (rows of the grid, columns of the image)
    y0, y1, fy = y0 - first, y1 - first, fy[:, None]
    inner = out[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    for i in range(0, len(fy), ROWS_AT_ONCE):
        part = slice(i, i + ROWS_AT_ONCE)
        values = lines[y0[part]]
        values *= 1 - fy[part]
        below = lines[y1[part]]
        below *= fy[part]
        values += below
        np.greater(values, 0, out=inner[part], casting="unsafe")
    return out


def positive_window(grid: FloatArray, size: tuple[int, int], step: tuple[float, float]) -> tuple[int, int, int, int]:
    """A window, ``(top, bottom, left, right)``, outside of which no pixel of an image of ``size`` can be positive."""
    rows, columns = _positive_pixels(grid, (0, size[0], 0, size[1]), step)
    return rows.start, rows.stop, columns.start, columns.stop


def _positive_pixels(
    grid: FloatArray, window: tuple[int, int, int, int], step: tuple[float, float]
) -> tuple[slice, slice]:
    """Rows and columns of the window that can hold a positive pixel: those with a positive cell beside them."""
    top, bottom, left, right = window
    rows = _reach(top, bottom, step[0], grid.shape[0])
    columns = _reach(left, right, step[1], grid.shape[1])
    positive: npt.NDArray[np.bool_] = grid[rows, columns] > 0
    return (
        _pixels(np.any(positive, axis=1), rows.start, (top, bottom), step[0], grid.shape[0]),
        _pixels(np.any(positive, axis=0), columns.start, (left, right), step[1], grid.shape[1]),
    )


def _reach(start: int, stop: int, step: float, cells: int) -> slice:
    """The cells that pixels [start, stop) are interpolated from."""
    y0, y1, _ = _neighbours(slice(start, stop), step, cells)
    return slice(int(y0[0]), int(y1[-1]) + 1)


def _pixels(positive: npt.NDArray[np.bool_], offset: int, bounds: tuple[int, int], step: float, cells: int) -> slice:
    """The run of pixels within ``bounds`` that touch a positive cell along one axis."""
    hit = np.flatnonzero(positive) + offset
    if not len(hit):
        return slice(bounds[0], bounds[0])
    first, last, _ = _neighbours(slice(*bounds), step, cells)
    touched = np.flatnonzero((last >= hit[0]) & (first <= hit[-1]))
    return slice(bounds[0] + int(touched[0]), bounds[0] + int(touched[-1]) + 1)


def _neighbours(
    pixels: slice, step: float, cells: int
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], FloatArray]:
    """For each pixel along one axis: the cell before its centre, the cell after it, and the share of the latter."""
    centre = (np.arange(pixels.start, pixels.stop) + 0.5) * step - 0.5
    before = np.floor(centre).astype(np.intp)
    share = (centre - before).astype(np.float32)
    return np.clip(before, 0, cells - 1), np.clip(before + 1, 0, cells - 1), share
