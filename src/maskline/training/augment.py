"""Random augmentation of images and masks, on the CPU.

All geometry is drawn first and combined in one `View`, so that image and masks are resampled once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from maskline._checks import check_score
from maskline.errors import ParameterError, UnknownNameError
from maskline.instances import ByteArray, FloatArray, Window
from maskline.models.families import family_of
from maskline.preprocess import Preprocess
from maskline.training.samples import Original, TrainingSample, View, apply_view, paste, window_boxes

STRIDE = 32  # of the coarsest features; input sides are multiples
FILL = (124, 116, 104)  # RGB outside the image: ImageNet's mean

# Ranges of PaddleDetection's RandomDistort. Each of the four is applied half of the time.
DISTORT_SHARE = 0.5
BRIGHTNESS = CONTRAST = SATURATION = (0.5, 1.5)
HUE = (-18 / 256, 18 / 256)  # turns of the colour circle

EXPAND_RATIO = 4.0  # largest canvas side / image side

# PaddleDetection's RandomCrop: SSD's values except for the scale.
CROP_OVERLAPS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9)
CROP_SCALE = (0.3, 1.0)  # of the image's sides
CROP_RATIO = (0.5, 2.0)  # width / height, relative to the image's
CROP_TRIES = 50

LUMA = (0.114, 0.587, 0.299)  # of B, G, R (ITU-R BT.601)


@dataclass(frozen=True, slots=True)
class Augment:
    """Random augmentations of training images; all off except ``flip``, so that a recipe states what it uses.

    Attributes:
        distort: probability of colour distortion: brightness, contrast, saturation, hue (PaddleDetection's
            RandomDistort; SSD, arXiv 1512.02325, section 3.6).
        expand: probability of placing the image on a canvas of up to `EXPAND_RATIO` times its sides (SSD's "zoom out").
        crop: probability of a crop that has a random minimal IoU with some object and contains an object's centre
            (SSD's, with PaddleDetection's ranges). Images without objects are not cropped.
        flip: probability of left-right mirroring.
        flip_vertical: probability of top-bottom mirroring.
        rotate90: probability of rotation by 90, 180 or 270 degrees, for images without up and down, as in microscopy.
        jitter: (smallest, largest) scale of large-scale jitter (Simple Copy-Paste, arXiv 2012.07177, section 3); at 1
            the whole image just fits into the input. Input size and aspect ratio are kept: a larger image is cropped
            at random, a smaller one is placed at random.
        copy_paste: probability of pasting some objects of another training image, augmented likewise (same paper).
            Covered objects shrink or are dropped.
        sizes: multi-scale training: sides in pixels, one of which is drawn per batch, for the square input, or for its
            short side if the preprocess keeps the ratio and there is no jitter. Empty: the preprocess's size. Repeat a
            side to draw it more often.
    """

    distort: float = 0.0
    expand: float = 0.0
    crop: float = 0.0
    flip: float = 0.5
    flip_vertical: float = 0.0
    rotate90: float = 0.0
    jitter: tuple[float, float] | None = None
    copy_paste: float = 0.0
    sizes: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for field in fields(self):
            if field.name not in ("jitter", "sizes"):
                check_score(getattr(self, field.name), field.name)
        if self.jitter is not None and not (len(self.jitter) == 2 and 0 < self.jitter[0] <= self.jitter[1]):
            raise ParameterError(f"jitter is {self.jitter}: expected the smallest and the largest scale, above 0")
        if any(size != int(size) or size <= 0 or size % STRIDE for size in self.sizes):
            raise ParameterError(f"sizes is {self.sizes}: expected multiples of {STRIDE} pixels")

    def resized(self, preprocess: Preprocess, rng: np.random.Generator) -> Preprocess:
        """Return the preprocess for one batch, with one of ``sizes`` if there are any."""
        if not self.sizes:
            return preprocess
        side = int(rng.choice(self.sizes))
        if self.jitter is not None:
            return replace(preprocess, height=side, width=side, pad_stride=STRIDE)
        if not preprocess.keep_ratio:
            return replace(preprocess, height=side, width=side)
        if preprocess.height <= preprocess.width:
            return replace(preprocess, height=side)
        return replace(preprocess, width=side)

    def sample(self, original: Original, preprocess: Preprocess, rng: np.random.Generator) -> TrainingSample:
        """Augment an image, except for `pasted`, which needs another sample."""
        view = self.view(original, preprocess, rng)
        colour = distortion(original.image[view.source.slices], rng) if rng.random() < self.distort else None
        return apply_view(original, view, preprocess, FILL, colour)

    def view(self, original: Original, preprocess: Preprocess, rng: np.random.Generator) -> View:
        """Draw the geometry, in PaddleDetection's order: expand, crop, (jitter,) flip; then rotation."""
        area = Window.whole(original.size)
        if rng.random() < self.expand:
            area = expanded(area, rng)
        if rng.random() < self.crop and len(original.masks):
            area = cropped(area, window_boxes(original.masks), rng)
        flip, flip_vertical = rng.random() < self.flip, rng.random() < self.flip_vertical
        turns = int(rng.integers(1, 4)) if rng.random() < self.rotate90 else 0
        size = area.size[:: -1 if turns % 2 else 1]
        if self.jitter is None:
            height, width = preprocess.resized(*size)
        else:
            height, width = preprocess.height, preprocess.width
        if turns % 2:
            height, width = width, height
        if self.jitter is not None:
            area = jittered(area, (height, width), float(rng.uniform(*self.jitter)), rng)
        return framed(area, original.size, (height, width))._replace(
            flip=flip, flip_vertical=flip_vertical, turns=turns
        )


def recipe_augment(model: str) -> Augment:
    """The augmentation of a model's recipe. Raises UnknownNameError for an unknown model."""
    return Augment(**family_of(model).augment)


def as_augment(values: Mapping[str, Any], model: str) -> Augment:
    """The augmentation of a model's recipe, with some of its values replaced.

    Raises:
        UnknownNameError: unknown augmentation.
        ParameterError: it is of the wrong type or out of range.
    """
    known = [field.name for field in fields(Augment)]
    for name in values:
        if name not in known:
            raise UnknownNameError.of("augmentation", str(name), known)
    given: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    try:
        return replace(recipe_augment(model), **given)
    except TypeError:
        raise ParameterError(
            f"augment is {dict(values)!r}: expected numbers, or lists of them for jitter and sizes"
        ) from None


def framed(area: Window, size: tuple[int, int], output: tuple[int, int]) -> View:
    """Return the view that stretches an area to an output of ``(height, width)``.

    Args:
        area: in pixels of the image of ``size``; may exceed it, but overlaps it.
    """
    source = area.intersection(Window.whole(size))
    rows = _stretched(source.rows, area.rows, output[0])
    columns = _stretched(source.columns, area.columns, output[1])
    return View(source, Window(*rows, *columns), output)


def _stretched(part: tuple[int, int], whole: tuple[int, int], length: int) -> tuple[int, int]:
    """Map a part of an interval stretched to ``length``, to the nearest pixel, but never empty."""
    (part_start, part_end), (whole_start, whole_end) = part, whole
    scale = length / (whole_end - whole_start)
    start = min(round((part_start - whole_start) * scale), length - 1)
    return start, max(round((part_end - whole_start) * scale), start + 1)


def expanded(area: Window, rng: np.random.Generator) -> Window:
    """Draw a canvas of up to `EXPAND_RATIO` times the sides around the area."""
    ratio = rng.uniform(1, EXPAND_RATIO)
    rows, columns = int(area.height * ratio), int(area.width * ratio)
    top = area.top - int(rng.integers(rows - area.height + 1))
    left = area.left - int(rng.integers(columns - area.width + 1))
    return Window(top, top + rows, left, left + columns)


def cropped(area: Window, objects: FloatArray, rng: np.random.Generator) -> Window:
    """Draw a part with the centre of an object and a minimal IoU with some object's box.

    Minimal IoUs, and the option not to crop, are tried in random order until a part is found.

    Args:
        objects: (n, 4) ``x1 y1 x2 y2``, in the coordinates of ``area``; at least one.
    """
    for number in rng.permutation(len(CROP_OVERLAPS) + 1):
        if number == len(CROP_OVERLAPS):
            break
        tries = _parts(area, rng)
        met = (_overlaps(tries, objects).max(axis=1) >= CROP_OVERLAPS[number]) & _centred(tries, objects)
        if met.any():
            left, top, right, bottom = tries[met.argmax()].tolist()
            return Window(int(top), int(bottom), int(left), int(right))
    return area


def _parts(area: Window, rng: np.random.Generator) -> FloatArray:
    """Draw parts of an area: (`CROP_TRIES`, 4) ``x1 y1 x2 y2``, integer pixels."""
    scale = rng.uniform(*CROP_SCALE, CROP_TRIES)
    ratio = rng.uniform(np.maximum(CROP_RATIO[0], scale**2), np.minimum(CROP_RATIO[1], scale**-2))
    height, width = area.size
    sides = np.stack([width * scale * np.sqrt(ratio), height * scale / np.sqrt(ratio)], axis=1).astype(np.int64)
    sides = np.clip(sides, 1, (width, height))
    corner = np.add(rng.integers(np.array([width, height]) - sides + 1), area.origin)
    return np.concatenate([corner, corner + sides], axis=1).astype(np.float32)


def _overlaps(parts: FloatArray, objects: FloatArray) -> FloatArray:
    """IoU of boxes (m, 4) with boxes (n, 4): (m, n)."""
    low = np.maximum(parts[:, None, :2], objects[:, :2])
    high = np.minimum(parts[:, None, 2:], objects[:, 2:])
    shared = (high - low).clip(0).prod(axis=2)
    areas, others = ((b[:, 2:] - b[:, :2]).prod(axis=1) for b in (parts, objects))
    return np.asarray(shared / (areas[:, None] + others - shared), np.float32)


def _centred(parts: FloatArray, objects: FloatArray) -> npt.NDArray[np.bool_]:
    """Whether boxes (m, 4) contain the centre of any of the boxes (n, 4): (m,)."""
    centres = (objects[:, :2] + objects[:, 2:]) / 2
    inside = (parts[:, None, :2] <= centres) & (centres < parts[:, None, 2:])
    return np.asarray(np.any(np.all(inside, axis=2), axis=1), np.bool_)


def jittered(area: Window, output: tuple[int, int], scale: float, rng: np.random.Generator) -> Window:
    """Return the part that fills an output of ``(height, width)`` at a scale; at 1 the whole area just fits."""
    pixels = max(side / length for side, length in zip(area.size, output, strict=True)) / scale  # image / output
    rows, columns = (max(round(length * pixels), 1) for length in output)
    top = area.top + _offset(area.height - rows, rng)
    left = area.left + _offset(area.width - columns, rng)
    return Window(top, top + rows, left, left + columns)


def _offset(room: int, rng: np.random.Generator) -> int:
    """Draw from 0 to ``room``, which may be negative."""
    return int(rng.integers(min(room, 0), max(room, 0) + 1))


def distortion(image: ByteArray, rng: np.random.Generator) -> FloatArray:
    """Draw brightness, contrast, saturation and hue as one affine map of BGR colours: (3, 4) float32.

    There is no clipping between the steps, so their order, which PaddleDetection draws, hardly matters. Hue rotates
    about the grey axis, which keeps the sum of channels; PaddleDetection rotates in HSV.

    Args:
        image: (H, W, 3) BGR; contrast is relative to its mean grey.
    """
    ranges = (BRIGHTNESS, CONTRAST, SATURATION, HUE)
    drawn = [rng.uniform(*span) if rng.random() < DISTORT_SHARE else sum(span) / 2 for span in ranges]
    brightness, contrast, saturation, hue = drawn
    saturate = saturation * np.eye(3) + (1 - saturation) * np.tile(LUMA, (3, 1))
    linear = brightness * contrast * (_turn(2 * np.pi * hue) @ saturate)
    grey = brightness * (1 - contrast) * np.dot(LUMA, cv2.mean(image)[:3])
    return np.column_stack([linear, np.full(3, grey)]).astype(np.float32)


def _turn(angle: float) -> npt.NDArray[np.float64]:
    """The rotation of BGR space about the grey axis, in radians, red towards yellow (Rodrigues' formula)."""
    across = np.array([[0, 1, -1], [-1, 0, 1], [1, -1, 0]]) / np.sqrt(3)
    return np.asarray(np.eye(3) + np.sin(angle) * across + (1 - np.cos(angle)) * (across @ across))


def pasted(sample: TrainingSample, other: TrainingSample, rng: np.random.Generator) -> TrainingSample:
    """Paste a random subset, at least one, of another sample's objects (arXiv 2012.07177)."""
    count = len(other.masks)
    if not count:
        return sample
    chosen = np.sort(rng.permutation(count)[: rng.integers(1, count + 1)])
    return paste(sample, other, chosen.tolist())
