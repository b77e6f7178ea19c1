"""Postprocessing of a graph's outputs for one image into `Instances`.

Rows below the threshold are ignored, and masks are computed only over the pixels of their boxes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from maskline.instances import ByteArray, FloatArray, Instances, Window, pixel_windows
from maskline.preprocess import Frame
from maskline.runtime.graph import Raw
from maskline.runtime.mask_layout import MaskLayout
from maskline.runtime.upsample import positive_window, upsample_window

OVER_INPUT = MaskLayout()


class Place(NamedTuple):
    """Placement of a grid in the image, for `upsample_window`."""

    step: tuple[float, float]  # cells per pixel, along y and x
    origin: tuple[float, float]  # top left corner, y and x in pixels


def to_instances(
    raw: Raw,
    frame: Frame,
    input_size: tuple[int, int],
    thresholds: FloatArray,
    *,
    grow_boxes: bool = False,
    mask_layout: MaskLayout = OVER_INPUT,
) -> Instances:
    """Keep the detections above their thresholds and map them to the image.

    Args:
        raw: outputs for one image.
        frame: placement of the image in the input.
        input_size: ``(height, width)`` of the input.
        thresholds: (classes,) a row is kept if its score is above that of its class.
        grow_boxes: enlarge boxes to contain their whole mask, rather than cut the mask at the box.
        mask_layout: what masks cover and mean. Only where they are defined beyond their boxes does cutting lose
            anything, and do boxes grow.
    """
    scaled = _in_image(raw, frame)
    kept, boxes = _passing(raw, scaled, frame.size, thresholds)
    grids = [raw.masks[row] for row in kept]
    outside = np.zeros(len(kept), np.float32)
    over_input = _over_input(frame, input_size, raw.masks.shape)
    if mask_layout.beyond_boxes and grow_boxes:
        grown = [_grown(b, g, frame.size, over_input.step) for b, g in zip(boxes, grids, strict=True)]
        boxes = np.array(grown, np.float32).reshape(-1, 4)
    elif mask_layout.beyond_boxes:
        shares = [_share_outside(g, b, over_input.step) for g, b in zip(grids, boxes, strict=True)]
        outside = np.array(shares, np.float32)
    windows = pixel_windows(boxes, frame.size)
    masks = _enlarged(raw, kept, scaled, windows, frame, input_size, mask_layout)
    if mask_layout.boxes_from_masks:
        real = [i for i, mask in enumerate(masks) if mask.any()]
        kept, outside = kept[real], outside[real]
        cut = [_tight(masks[i], windows[i]) for i in real]
        boxes = np.array([box for box, _ in cut], np.float32).reshape(-1, 4)
        masks = [mask for _, mask in cut]
    return Instances(
        boxes=boxes,
        scores=raw.scores[kept],
        labels=raw.labels[kept],
        masks=tuple(masks),
        outside=outside,
        size=frame.size,
    )


def _in_image(raw: Raw, frame: Frame) -> FloatArray:
    """All boxes in pixels of the image; they may extend beyond it."""
    scale_y, scale_x = frame.scale
    return raw.boxes * np.array([scale_x, scale_y, scale_x, scale_y], np.float32)


def _passing(
    raw: Raw, boxes: FloatArray, size: tuple[int, int], thresholds: FloatArray
) -> tuple[npt.NDArray[np.intp], FloatArray]:
    """Rows above their thresholds, and their boxes (N, 4), clipped to the image; empty boxes are dropped."""
    kept = np.flatnonzero((raw.scores > thresholds[raw.labels]) & (raw.scores > 0))
    height, width = size
    clipped = np.clip(boxes[kept], 0, np.array([width, height, width, height], np.float32))
    real = (clipped[:, 2] > clipped[:, 0]) & (clipped[:, 3] > clipped[:, 1])  # also drops boxes with NaN
    return kept[real], clipped[real]


def _over_input(frame: Frame, input_size: tuple[int, int], shape: tuple[int, ...]) -> Place:
    """Placement of masks (..., h, w) that cover the network's input, whose top left corner is the image's."""
    scale_y, scale_x = frame.scale
    return Place((shape[-2] / (input_size[0] * scale_y), shape[-1] / (input_size[1] * scale_x)), (0.0, 0.0))


def _over_box(box: FloatArray, shape: tuple[int, ...]) -> Place:
    """Placement of a mask (h, w) that covers its box, ``x1 y1 x2 y2`` in the image, except for a ring of one cell."""
    x1, y1, x2, y2 = (float(v) for v in box)  # the steps of very thin boxes overflow float32
    rows, columns = shape[-2] - 2, shape[-1] - 2
    step = rows / (y2 - y1), columns / (x2 - x1)
    return Place(step, (y1 - (y2 - y1) / rows, x1 - (x2 - x1) / columns))


def _enlarged(
    raw: Raw,
    kept: npt.NDArray[np.intp],
    boxes: FloatArray,
    windows: Sequence[Window],
    frame: Frame,
    input_size: tuple[int, int],
    mask_layout: MaskLayout,
) -> list[ByteArray]:
    """Upsample the masks of the kept rows in their windows; ``boxes``: of all rows, in the image, not clipped."""
    if mask_layout.via_input:
        rows = zip(kept, windows, strict=True)
        return [_enlarged_via_input(raw.masks[row], raw.boxes[row], w, frame, input_size) for row, w in rows]
    shape = raw.masks.shape[1:]
    if mask_layout.over == "box":
        places = [_over_box(boxes[row], shape) for row in kept]
    else:
        places = [_over_input(frame, input_size, shape)] * len(kept)
    return [upsample_window(raw.masks[row], w, *p) for row, w, p in zip(kept, windows, places, strict=True)]


def _enlarged_via_input(
    grid: FloatArray, box: FloatArray, window: Window, frame: Frame, input_size: tuple[int, int]
) -> ByteArray:
    """A window of the image of a mask (h, w) over the input: to the input's pixels, cut at the box, to the image's.

    Only pixels of the input with ``x1 <= x < x2`` and ``y1 <= y < y2`` are computed; a ring of background around them
    stands for all others.
    """
    (height, width), (scale_y, scale_x) = input_size, frame.scale
    left, top, right, bottom = (int(v) for v in np.ceil(np.clip(box, 0, [width, height, width, height])))
    ring_top, ring_left = max(top - 1, 0), max(left - 1, 0)
    enlarged = np.full((min(bottom + 1, height) - ring_top, min(right + 1, width) - ring_left), -0.5, np.float32)
    if top < bottom and left < right:
        y, x = height // grid.shape[0], width // grid.shape[1]  # pixels of a cell
        first_row, first_column = max(top // y - 1, 0), max(left // x - 1, 0)  # one more cell, for interpolation
        cells = grid[first_row : (bottom - 1) // y + 2, first_column : (right - 1) // x + 2]
        pixels = cv2.resize(cells, (cells.shape[1] * x, cells.shape[0] * y), interpolation=cv2.INTER_LINEAR)
        enlarged[top - ring_top : bottom - ring_top, left - ring_left : right - ring_left] = pixels[
            top - first_row * y : bottom - first_row * y, left - first_column * x : right - first_column * x
        ]
    return upsample_window(enlarged, window, (1 / scale_y, 1 / scale_x), (ring_top * scale_y, ring_left * scale_x))


def _tight(mask: ByteArray, window: Window) -> tuple[list[int], ByteArray]:
    """Bounding box of a mask that fills a window of the image, and the mask cropped to it."""
    x, y, width, height = cv2.boundingRect(mask)
    left, top = window.left + x, window.top + y
    return [left, top, left + width, top + height], mask[y : y + height, x : x + width].copy()


def _grown(box: FloatArray, grid: FloatArray, size: tuple[int, int], step: tuple[float, float]) -> FloatArray:
    """The box, enlarged to include the mask's foreground."""
    window = positive_window(grid, size, step)
    if window[0] == window[1] or window[2] == window[3]:  # no cell is positive
        return box
    mask: ByteArray = upsample_window(grid, window, step)
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return box
    top, left = window.top + rows[0], window.left + columns[0]
    bottom, right = window.top + rows[-1] + 1, window.left + columns[-1] + 1
    return np.array([min(box[0], left), min(box[1], top), max(box[2], right), max(box[3], bottom)], np.float32)


def _share_outside(grid: FloatArray, box: FloatArray, step: tuple[float, float]) -> float:
    """Fraction of the grid's foreground cells whose centre is outside the box."""
    positive: npt.NDArray[np.bool_] = grid > 0
    total = int(positive.sum())
    x1, y1, x2, y2 = (float(v) for v in np.rint(box * np.tile(np.array(step, np.float32)[::-1], 2)))
    return 1 - int(positive[int(y1) : int(y2), int(x1) : int(x2)].sum()) / total if total else 0.0
