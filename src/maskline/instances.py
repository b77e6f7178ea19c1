"""`Instances`, the detected instances of one image as arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
ByteArray = npt.NDArray[np.uint8]


def pixel_window(box: npt.ArrayLike, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Pixels covered by a box: ``(top, bottom, left, right)``, half open, never empty, inside the image.

    Corners are rounded half to even, as in PaddleX. A box that would become empty gets one row or column.

    Args:
        box: ``x1 y1 x2 y2`` in pixels, ordered.
        size: ``(height, width)`` of the image.
    """
    height, width = size
    x1, y1, x2, y2 = (int(v) for v in np.rint(np.asarray(box, np.float64)))
    top, left = min(max(y1, 0), height - 1), min(max(x1, 0), width - 1)
    return top, min(max(y2, top + 1), height), left, min(max(x2, left + 1), width)


@dataclass(frozen=True, slots=True, eq=False)
class Instances:
    """The instances of one image, best first.

    >>> import maskline
    >>> (result,) = maskline.create_model().predict("photo.jpg")  # doctest: +SKIP
    >>> found = result.instances  # doctest: +SKIP
    >>> found.boxes.shape, found.scores.max(), found.full_mask(0).sum()  # doctest: +SKIP
    ((7, 4), 0.91, 812)

    Attributes:
        boxes: (N, 4) float32, ``x1 y1 x2 y2`` in pixels of the image, clipped to it, ``x1 < x2`` and ``y1 < y2``.
        scores: (N,) float32 in [0, 1], falling.
        labels: (N,) int64, index into the model's class names.
        masks: N arrays of uint8, 0 or 1. Mask ``i`` covers exactly ``pixel_window(boxes[i], size)``.
        outside: (N,) float32 in [0, 1]: share of the mask's foreground that is outside the box and so not in
            ``masks``, measured on the network's mask grid. Zero where boxes were grown to their masks.
        size: ``(height, width)`` of the image.
    """

    boxes: FloatArray
    scores: FloatArray
    labels: IntArray
    masks: tuple[ByteArray, ...]
    outside: FloatArray
    size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.scores)

    def window(self, index: int) -> tuple[int, int, int, int]:
        """``(top, bottom, left, right)`` of mask ``index`` in the image."""
        return pixel_window(self.boxes[index], self.size)

    def full_mask(self, index: int) -> npt.NDArray[np.bool_]:
        """Mask ``index`` over the whole image: (H, W) bool."""
        top, bottom, left, right = self.window(index)
        full = np.zeros(self.size, np.bool_)
        full[top:bottom, left:right] = self.masks[index]
        return full

    def full_masks(self) -> npt.NDArray[np.bool_]:
        """All masks over the whole image: (N, H, W) bool, that is N x H x W bytes."""
        full = np.zeros((len(self), *self.size), np.bool_)
        for i, mask in enumerate(self.masks):
            top, bottom, left, right = self.window(i)
            full[i, top:bottom, left:right] = mask
        return full
