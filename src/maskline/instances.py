"""`Instances`, the detected instances of one image as arrays."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from maskline.errors import ParameterError
from maskline.masks import ByteArray, Window, outlines, place_rle, polygons

__all__ = ["ByteArray", "FloatArray", "Instances", "IntArray", "Window", "pixel_window", "pixel_windows"]

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
Index: TypeAlias = "int | slice | Sequence[int] | Sequence[bool] | npt.NDArray[np.bool_] | npt.NDArray[np.integer]"


def pixel_window(box: npt.ArrayLike, size: tuple[int, int]) -> Window:
    """Pixels covered by a box: never empty, inside the image.

    Corners are rounded half to even, as in PaddleX. A box that would become empty gets one row or column.

    Args:
        box: ``x1 y1 x2 y2`` in pixels, ordered.
        size: ``(height, width)`` of the image.
    """
    return pixel_windows(np.asarray(box)[None], size)[0]


def pixel_windows(boxes: npt.ArrayLike, size: tuple[int, int]) -> tuple[Window, ...]:
    """`pixel_window` of each of the boxes (N, 4)."""
    height, width = size
    x1, y1, x2, y2 = np.rint(np.asarray(boxes, np.float64).reshape(-1, 4)).astype(np.int64).T
    top, left = y1.clip(0, height - 1), x1.clip(0, width - 1)
    bottom, right = np.maximum(y2, top + 1).clip(max=height), np.maximum(x2, left + 1).clip(max=width)
    return tuple(map(Window, top.tolist(), bottom.tolist(), left.tolist(), right.tolist()))


@dataclass(frozen=True, slots=True, eq=False)
class Instances:
    """The instances of one image, best first.

    >>> import maskline
    >>> (result,) = maskline.create_model().predict("photo.jpg")  # doctest: +SKIP
    >>> confident = result.instances[result.instances.scores > 0.8]  # doctest: +SKIP
    >>> confident.boxes.shape, confident.full_mask(0).sum()  # doctest: +SKIP
    ((7, 4), 812)

    ``instances[index]`` selects some of them as `Instances`: ``index`` is an integer (one instance), a slice, a list or
    array of integers, in their order, or an array of N bools. Iteration yields one at a time. Masks are not copied.

    Attributes:
        boxes: (N, 4) float32, ``x1 y1 x2 y2`` in pixels of the image, clipped to it, ``x1 < x2`` and ``y1 < y2``.
        scores: (N,) float32 in [0, 1], falling.
        labels: (N,) int64, index into the model's class names.
        masks: N arrays of uint8, 0 or 1. Mask ``i`` covers exactly ``pixel_window(boxes[i], size)``.
        outside: (N,) float32 in [0, 1]: share of the mask's foreground that is outside the box and so not in
            ``masks``, measured on the network's mask grid. Zero where boxes were grown to their masks.
        size: ``(height, width)`` of the image.

    Raises:
        ParameterError: shapes, types, boxes or masks are not as above. The values of scores, labels, ``outside`` and
            pixels are not checked.
    """

    boxes: FloatArray
    scores: FloatArray
    labels: IntArray
    masks: tuple[ByteArray, ...]
    outside: FloatArray
    size: tuple[int, int]
    _windows: tuple[Window, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        n = len(self.masks)
        self._check("boxes", (n, 4), np.float32)
        self._check("scores", (n,), np.float32)
        self._check("labels", (n,), np.int64)
        self._check("outside", (n,), np.float32)
        self._check_boxes()
        object.__setattr__(self, "_windows", pixel_windows(self.boxes, self.size))
        for i, (mask, window) in enumerate(zip(self.masks, self._windows, strict=True)):
            if mask.shape != window.size or mask.dtype != np.uint8:
                raise ParameterError(
                    f"mask {i} is {mask.dtype} of shape {mask.shape}: expected uint8 of {window.size}, the pixels of "
                    f"its box {self.boxes[i].tolist()}"
                )

    def _check(self, name: str, shape: tuple[int, ...], dtype: type[np.generic]) -> None:
        array = getattr(self, name)
        if array.shape != shape or array.dtype != dtype:
            expected = f"{np.dtype(dtype)} of {shape}"
            raise ParameterError(
                f"{name} is {array.dtype} of shape {array.shape}: expected {expected} for {shape[0]} masks"
            )

    def _check_boxes(self) -> None:
        height, width = self.size
        if height < 1 or width < 1:
            raise ParameterError(f"size is {self.size}: expected (height, width), both above 0")
        x1, y1, x2, y2 = self.boxes.T
        good = (x1 >= 0) & (x1 < x2) & (x2 <= width) & (y1 >= 0) & (y1 < y2) & (y2 <= height)  # False for NaN
        if not good.all():
            i = int(good.argmin())
            raise ParameterError(
                f"box {i} is {self.boxes[i].tolist()}: expected x1 < x2 and y1 < y2 inside the image, whose size is "
                f"{height} x {width}"
            )

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, index: Index) -> Instances:
        """Select instances. Raises IndexError, as NumPy does, for indices out of range and wrong lengths."""
        places = np.atleast_1d(np.arange(len(self))[index])
        if places.ndim != 1:
            raise IndexError(
                f"{index!r} selects no instances: expected an int, a slice, or a list or array of one axis"
            )
        masks = tuple(self.masks[place] for place in places.tolist())
        return Instances(
            self.boxes[places], self.scores[places], self.labels[places], masks, self.outside[places], self.size
        )

    def __iter__(self) -> Iterator[Instances]:
        return (self[i] for i in range(len(self)))

    def _at(self, index: int) -> tuple[ByteArray, Window]:
        """Mask ``index`` and its window. Raises IndexError as indexing does."""
        place = int(np.arange(len(self))[operator.index(index)])
        return self.masks[place], self._windows[place]

    def window(self, index: int) -> Window:
        """Window of mask ``index`` in the image."""
        return self._at(index)[1]

    def rle(self, index: int) -> str:
        """Mask ``index`` as COCO's compressed counts over the whole image, see `maskline.masks.place_rle`."""
        return place_rle(*self._at(index), self.size)

    def polygons(self, index: int) -> list[list[float]]:
        """Mask ``index`` as COCO's polygons in pixels of the image, without holes, see `maskline.masks.polygons`."""
        mask, window = self._at(index)
        return polygons(mask, window.origin)

    def outlines(self, index: int) -> tuple[list[list[float]], list[list[float]]]:
        """Rings around mask ``index`` and around its holes, see `maskline.masks.outlines`."""
        mask, window = self._at(index)
        return outlines(mask, window.origin)

    def full_mask(self, index: int) -> npt.NDArray[np.bool_]:
        """Mask ``index`` over the whole image: (H, W) bool."""
        full = np.zeros(self.size, np.bool_)
        mask, window = self._at(index)
        full[window.slices] = mask
        return full

    def full_masks(self) -> npt.NDArray[np.bool_]:
        """All masks over the whole image: (N, H, W) bool, that is N x H x W bytes."""
        full = np.zeros((len(self), *self.size), np.bool_)
        for part, window, mask in zip(full, self._windows, self.masks, strict=True):
            part[window.slices] = mask
        return full
