"""Training samples: an image with its objects, as read, and as transformed by a `View`.

Masks are stored in small windows, never as a whole image.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from math import ceil
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from maskline.data.dataset import Annotation, Dataset, ImageRecord
from maskline.data.shapes import crop
from maskline.errors import InputError
from maskline.inputs import read_image
from maskline.instances import ByteArray, FloatArray, IntArray, Window
from maskline.preprocess import Preprocess

SMALLEST_AREA = 2  # pixels of the network's input; smaller masks are dropped
SMALLEST_SHARE = 0.1  # of a mask's pixels; objects with less left after a crop or paste are dropped


class Patch(NamedTuple):
    """A mask within a window of its image; zero outside."""

    pixels: ByteArray  # (bottom - top, right - left), 0 or 1
    window: Window  # inside the image


class Original(NamedTuple):
    """An image as read, with its objects."""

    image: ByteArray  # (H, W, 3) BGR
    labels: IntArray  # (n,) index into `Dataset.categories`
    masks: tuple[Patch, ...]

    @property
    def size(self) -> tuple[int, int]:
        """``(height, width)``."""
        height, width = self.image.shape[:2]
        return height, width


class TrainingSample(NamedTuple):
    """The input image of a network, without padding below and right, with its objects."""

    image: npt.NDArray[Any]  # (H, W, 3) RGB, uint8, or float32 normalised for ``float_resize`` models
    labels: IntArray  # (n,) index into `Dataset.categories`
    masks: tuple[Patch, ...]  # windows are tight


class View(NamedTuple):
    """A geometric transform of an image: crop, resize, placement; then flips and rotation by multiples of 90 degrees.

    Attributes:
        source: the crop, a window inside the image.
        placed: window of the crop in the output, before rotation.
        size: ``(height, width)`` of the output before rotation.
        flip, flip_vertical: mirror left-right, top-bottom, before rotation.
        turns: number of anticlockwise rotations by 90 degrees.
    """

    source: Window
    placed: Window
    size: tuple[int, int]
    flip: bool = False
    flip_vertical: bool = False
    turns: int = 0


def is_object(annotation: Annotation) -> bool:
    """Whether an annotation is trained on: not a crowd region, nor marked ``ignore``, as by some tools."""
    return not annotation.crowd and not annotation.extra.get("ignore")


def read_original(dataset: Dataset, record: ImageRecord) -> Original:
    """Read an image and the masks of its objects; masks without pixels are left out.

    Raises:
        InputError: the image can't be read, or does not have the size in its record.
    """
    image = read_image(dataset.path(record))
    if image.shape[:2] != record.size:
        stated, real = f"{record.width} x {record.height}", f"{image.shape[1]} x {image.shape[0]}"
        raise InputError(f"{record.file_name!r} is listed as {stated}, but the file is {real}: see `maskline check`")
    found = [(dataset.labels[a.category_id], crop(a.segmentation, record.size)) for a in objects(dataset, record)]
    masks = [(label, Patch(*mask)) for label, mask in found if mask is not None]
    return Original(image, np.array([label for label, _ in masks], np.int64), tuple(mask for _, mask in masks))


def objects(dataset: Dataset, record: ImageRecord) -> list[Annotation]:
    """The annotations of an image that are trained on."""
    return [annotation for annotation in dataset.of(record) if is_object(annotation)]


def window_boxes(masks: Sequence[Patch]) -> FloatArray:
    """Windows of masks as boxes ``x1 y1 x2 y2``, in pixels: (n, 4) float32."""
    return np.asarray([mask.window.box_xyxy for mask in masks], np.float32).reshape(-1, 4)


# ---- views


def apply_view(
    original: Original, view: View, preprocess: Preprocess, fill: tuple[int, int, int], colour: FloatArray | None = None
) -> TrainingSample:
    """Apply a view to an image and its masks.

    Args:
        preprocess: for interpolation and, with ``float_resize``, normalisation; the size is the view's.
        fill: RGB outside the image.
        colour: (3, 4) affine map of BGR colours in [0, 255], applied first.
    """
    seen = _resampled(original.image, view, preprocess, colour)
    if seen.shape[:2] != view.size:
        canvas = np.empty((*view.size, 3), seen.dtype)
        pixel = Window.whole((1, 1))
        canvas[:] = _resampled(np.array([[fill[::-1]]], np.uint8), View(pixel, pixel, (1, 1)), preprocess)
        canvas[view.placed.slices] = seen
        seen = canvas
    masks = [view_mask(mask, view) for mask in original.masks]
    kept = [mask is not None for mask in masks]
    left_over = tuple(mask for mask in masks if mask is not None)
    return TrainingSample(np.ascontiguousarray(_turned(seen, view)), original.labels[kept], left_over)


def _resampled(
    image: ByteArray, view: View, preprocess: Preprocess, colour: FloatArray | None = None
) -> npt.NDArray[Any]:
    """Crop and resize an image (H, W, 3) BGR with the preprocess."""
    seen = image[view.source.slices]
    if colour is not None:
        seen = np.asarray(cv2.transform(seen, colour), np.uint8)
    stretch = replace(preprocess, height=view.placed.height, width=view.placed.width, keep_ratio=False, pad_stride=0)
    return stretch.apply(seen)[0]


def _turned(pixels: npt.NDArray[Any], view: View) -> npt.NDArray[Any]:
    """Flip and rotate, without a copy."""
    if view.flip:
        pixels = pixels[:, ::-1]
    if view.flip_vertical:
        pixels = pixels[::-1]
    return np.rot90(pixels, view.turns) if view.turns else pixels


def view_mask(mask: Patch, view: View) -> Patch | None:
    """Apply a view to a mask; None if too little of it is left (`SMALLEST_SHARE`, `SMALLEST_AREA`).

    An output pixel is set if the mask, interpolated linearly at the pixel's centre, is at least 0.5. If the view
    shrinks to half or less, the mask is blurred first, so that all of its pixels contribute.
    """
    seen = _visible(mask, view.source)
    if seen is None:
        return None
    pixels, window = _placed(seen, view)
    top, bottom, left, right = window
    if view.flip:
        left, right = view.size[1] - right, view.size[1] - left
    if view.flip_vertical:
        top, bottom = view.size[0] - bottom, view.size[0] - top
    height, width = view.size
    for _ in range(view.turns):  # anticlockwise: the right edge becomes the upper one
        top, bottom, left, right = width - right, width - left, top, bottom
        height, width = width, height
    return tight(_turned(pixels, view), top, left)


def _visible(mask: Patch, part: Window) -> Patch | None:
    """Clip a mask to a window of its image; None if too small a share is inside."""
    window = mask.window.intersection(part)
    if window == mask.window:
        return mask
    if window.is_empty:
        return None
    pixels = mask.pixels[window.relative_to(mask.window).slices]
    share = np.count_nonzero(pixels) / np.count_nonzero(mask.pixels)
    return Patch(pixels, window) if share >= SMALLEST_SHARE else None


def _placed(mask: Patch, view: View) -> tuple[ByteArray, Window]:
    """Resize and place a mask inside ``view.source``, before flips and rotation."""
    (y, y_end, origin_y, scale_y) = _interval(mask.window.rows, view.source.rows, view.placed.rows)
    (x, x_end, origin_x, scale_x) = _interval(mask.window.columns, view.source.columns, view.placed.columns)
    window = Window(y, y_end, x, x_end)
    if scale_y == scale_x == 1:
        return mask.pixels, window
    if window.is_empty:
        return np.zeros((0, 0), np.uint8), window
    pixels = mask.pixels * np.uint8(255)
    kernel = _odd(scale_x), _odd(scale_y)
    if kernel != (1, 1):
        pixels = np.asarray(cv2.blur(pixels, kernel, borderType=cv2.BORDER_REPLICATE), np.uint8)
    to_mask = np.array([[scale_x, 0, origin_x], [0, scale_y, origin_y]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    pixels = cv2.warpAffine(
        pixels, to_mask, (window.width, window.height), flags=flags, borderMode=cv2.BORDER_REPLICATE
    )
    return (pixels > 127).view(np.uint8), window


def _odd(scale: float) -> int:
    """Odd kernel side that covers about ``scale`` pixels; 1 if linear interpolation suffices."""
    return 2 * int(scale / 2) + 1


def _interval(mask: tuple[int, int], source: tuple[int, int], placed: tuple[int, int]) -> tuple[int, int, float, float]:
    """Map a mask's window to output pixels along one axis.

    Returns the half-open range of output pixels with centres inside the window; the position of the first centre,
    relative to the centre of the mask's first pixel; and mask pixels per output pixel.
    """
    (mask_start, _), (source_start, source_end), (placed_start, placed_end) = mask, source, placed
    scale = (source_end - source_start) / (placed_end - placed_start)
    start, end = (ceil((edge - source_start) / scale - 0.5) for edge in mask)
    origin = (start + 0.5) * scale - 0.5 + source_start - mask_start
    return start + placed_start, end + placed_start, origin, scale


def tight(pixels: ByteArray, top: int, left: int) -> Patch | None:
    """Crop a mask (h, w) at ``top left`` to its tight box; None below `SMALLEST_AREA`."""
    pixels = np.ascontiguousarray(pixels)
    x, y, width, height = cv2.boundingRect(pixels)
    pixels = pixels[y : y + height, x : x + width]
    if np.count_nonzero(pixels) < SMALLEST_AREA:
        return None
    return Patch(pixels, Window(top + y, top + y + height, left + x, left + x + width))


# ---- copy-paste


def paste(sample: TrainingSample, other: TrainingSample, chosen: Iterable[int]) -> TrainingSample:
    """Paste objects of another sample at their positions; covered objects shrink or are dropped."""
    height, width = sample.image.shape[:2]
    over = [(other.labels[i], cut) for i in chosen if (cut := _cut(other.masks[i], (height, width))) is not None]
    cover = np.zeros((height, width), np.bool_)
    image = sample.image.copy()
    for _, (pixels, window) in over:
        cover[window.slices] |= pixels != 0
    rows, columns = min(height, other.image.shape[0]), min(width, other.image.shape[1])
    np.copyto(image[:rows, :columns], other.image[:rows, :columns], where=cover[:rows, :columns, None])
    under = list(_uncovered(sample, cover))
    labels = np.array([label for label, _ in (*under, *over)], np.int64)
    return TrainingSample(image, labels, tuple(mask for _, mask in (*under, *over)))


def _cut(mask: Patch, size: tuple[int, int]) -> Patch | None:
    """Clip a mask to an image of ``(height, width)``."""
    seen = _visible(mask, Window.whole(size))
    return seen and tight(seen.pixels, seen.window.top, seen.window.left)


def _uncovered(sample: TrainingSample, cover: npt.NDArray[np.bool_]) -> Iterator[tuple[int, Patch]]:
    """Labels and masks of what ``cover`` (H, W) leaves visible."""
    for label, mask in zip(sample.labels, sample.masks, strict=True):
        covered = cover[mask.window.slices]
        if not covered.any():
            yield label, mask
            continue
        left_over = np.where(covered, np.uint8(0), mask.pixels)
        rest = tight(left_over, mask.window.top, mask.window.left)
        if rest is not None and np.count_nonzero(rest.pixels) >= SMALLEST_SHARE * np.count_nonzero(mask.pixels):
            yield label, rest
