"""From a graph's outputs for one image to `Instances` in the image.

Nothing is done for rows under the threshold, and masks are computed only over the pixels of their boxes.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from maskline.instances import ByteArray, FloatArray, Instances, pixel_window
from maskline.preprocess import Frame
from maskline.runtime.graph import Raw
from maskline.upsample import positive_window, upsample_window


def to_instances(
    raw: Raw,
    frame: Frame,
    input_size: tuple[int, int],
    thresholds: FloatArray,
    *,
    grow_boxes: bool = False,
    mask_frame: str = "image",
) -> Instances:
    """Keep what passes the threshold and bring it into the image.

    Args:
        raw: outputs for one image, masks laid over the whole input.
        frame: where the image lies in the input.
        input_size: ``(height, width)`` of the input.
        thresholds: (classes,) a row is kept if its score is above its class's.
        grow_boxes: enlarge boxes to hold all of their mask, rather than cut the mask at the box.
        mask_frame: with ``within`` nothing is lost by cutting, and boxes don't grow.
    """
    whole = grow_boxes or mask_frame == "within"
    grow_boxes = grow_boxes and mask_frame != "within"
    height, width = frame.size
    kept = np.flatnonzero((raw.scores > thresholds[raw.labels]) & (raw.scores > 0))
    scale_y, scale_x = frame.scale
    boxes = raw.boxes[kept] * np.array([scale_x, scale_y, scale_x, scale_y], np.float32)
    boxes = np.clip(boxes, 0, np.array([width, height, width, height], np.float32))
    step = raw.masks.shape[1] / (input_size[0] * scale_y), raw.masks.shape[2] / (input_size[1] * scale_x)

    real = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])  # also drops boxes with NaN
    kept, boxes = kept[real], boxes[real]
    grids = [raw.masks[row] for row in kept]
    if grow_boxes:
        boxes = np.array([_grown(b, g, frame.size, step) for b, g in zip(boxes, grids, strict=True)], np.float32)
        boxes = boxes.reshape(-1, 4)
    outside = [0.0 if whole else _share_outside(g, b, step) for g, b in zip(grids, boxes, strict=True)]
    return Instances(
        boxes=boxes,
        scores=raw.scores[kept],
        labels=raw.labels[kept],
        masks=tuple(upsample_window(g, pixel_window(b, frame.size), step) for g, b in zip(grids, boxes, strict=True)),
        outside=np.array(outside, np.float32),
        size=frame.size,
    )


def _grown(box: FloatArray, grid: FloatArray, size: tuple[int, int], step: tuple[float, float]) -> FloatArray:
    """The box, enlarged to the mask's foreground where that reaches further."""
    window = positive_window(grid, size, step)
    mask: ByteArray = upsample_window(grid, window, step)
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return box
    top, left = window[0] + rows[0], window[2] + columns[0]
    bottom, right = window[0] + rows[-1] + 1, window[2] + columns[-1] + 1
    return np.array([min(box[0], left), min(box[1], top), max(box[2], right), max(box[3], bottom)], np.float32)


def _share_outside(grid: FloatArray, box: FloatArray, step: tuple[float, float]) -> float:
    """Share of the grid's foreground cells whose centre is outside the box."""
    positive: npt.NDArray[np.bool_] = grid > 0
    total = int(positive.sum())
    x1, y1, x2, y2 = (float(v) for v in np.rint(box * np.tile(np.array(step, np.float32)[::-1], 2)))
    return 1 - int(positive[int(y1) : int(y2), int(x1) : int(x2)].sum()) / total if total else 0.0
