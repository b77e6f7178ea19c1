"""Augmentations: what is drawn at random about how an image is seen. Of images and masks together, on the CPU.

All geometry is drawn first and becomes one `View`, so that image and masks are resampled once.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import cv2
import numpy as np
import numpy.typing as npt

from maskline._checks import check_score
from maskline.errors import ParameterError
from maskline.instances import ByteArray, FloatArray, Window
from maskline.preprocess import Preprocess
from maskline.training.samples import Original, TrainingSample, View, boxes, paste, see

STRIDE = 32  # of the coarsest features: what sides of square inputs divide by
FILL = (124, 116, 104)  # RGB of what lies outside the image: ImageNet's mean

# Ranges of the reference's RandomDistort. Each of the four is left out half of the time.
DISTORT_SHARE = 0.5
BRIGHTNESS = CONTRAST = SATURATION = (0.5, 1.5)
HUE = (-18 / 256, 18 / 256)  # turns of the colour circle

EXPAND_RATIO = 4.0  # the largest canvas, in sides of the image

# Of the reference's RandomCrop, which are SSD's but for the size: shares of the image's sides.
CROP_OVERLAPS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9)
CROP_SCALE = (0.3, 1.0)
CROP_RATIO = (0.5, 2.0)  # width to height, in terms of the image's own
CROP_TRIES = 50

LUMA = (0.114, 0.587, 0.299)  # of B, G, R (ITU-R BT.601)


@dataclass(frozen=True, slots=True)
class Augment:
    """What is done to training images, each at random; all off but ``flip``, so that a recipe states what it uses.

    Attributes:
        distort: probability of changed colours: brightness, contrast, saturation, hue (the reference's RandomDistort;
            SSD, arXiv 1512.02325, section 3.6).
        expand: probability that the image lies on a canvas of up to `EXPAND_RATIO` its sides (SSD's "zoom out").
        crop: probability of a crop that overlaps some object by a drawn IoU and holds its centre (SSD's, with the
            reference's ranges). Images without objects are not cropped.
        flip: probability of left-right mirroring.
        flip_vertical: probability of top-bottom mirroring.
        rotate90: probability of turning by 90, 180 or 270 degrees; where there is no up and down, as in microscopy.
        jitter: (smallest, largest) scale of large-scale jitter (Simple Copy-Paste, arXiv 2012.07177, section 3), 1
            being the largest at which the whole image fits into the input. The input keeps its size and the image its
            shape: a part of it at random where it is larger, and a random place where it is smaller.
        copy_paste: probability that some objects of another training image, augmented likewise, lie on top (same
            paper). What is covered shrinks, what vanishes goes.
        sizes: multi-scale training: one of these sides, in pixels, for each batch: of the square input, or of its short
            side where the preprocess keeps the ratio and there is no jitter. Empty: the preprocess's own. Repeat a side
            to draw it more often.
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
            raise ParameterError(f"sizes is {self.sizes}: expected pixels that divide by {STRIDE}")

    def resized(self, preprocess: Preprocess, rng: np.random.Generator) -> Preprocess:
        """The preprocess of one batch: with one of ``sizes`` if there are any."""
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
        """An image as drawn by ``rng``, alone: `pasted` is the other half."""
        view = self.view(original, preprocess, rng)
        colour = distortion(original.image[view.source.slices], rng) if rng.random() < self.distort else None
        return see(original, view, preprocess, FILL, colour)

    def view(self, original: Original, preprocess: Preprocess, rng: np.random.Generator) -> View:
        """The geometry of all, in the reference's order: expand, crop, (jitter,) flip; then turned."""
        area = Window.whole(original.size)
        if rng.random() < self.expand:
            area = expanded(area, rng)
        if rng.random() < self.crop and len(original.masks):
            area = cropped(area, boxes(original.masks), rng)
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


def framed(area: Window, size: tuple[int, int], output: tuple[int, int]) -> View:
    """The view of an area, stretched to an output of ``(height, width)``.

    Args:
        area: in pixels of the image of ``(height, width)``; it may reach beyond but overlaps it.
    """
    source = area.intersection(Window.whole(size))
    rows = _stretched(source.rows, area.rows, output[0])
    columns = _stretched(source.columns, area.columns, output[1])
    return View(source, Window(*rows, *columns), output)


def _stretched(part: tuple[int, int], whole: tuple[int, int], length: int) -> tuple[int, int]:
    """Where a part of an interval comes to lie, to the nearest pixel but never empty, once it is ``length`` long."""
    (part_start, part_end), (whole_start, whole_end) = part, whole
    scale = length / (whole_end - whole_start)
    start = min(round((part_start - whole_start) * scale), length - 1)
    return start, max(round((part_end - whole_start) * scale), start + 1)


def expanded(area: Window, rng: np.random.Generator) -> Window:
    """A canvas of up to `EXPAND_RATIO` the sides, with the area anywhere on it."""
    ratio = rng.uniform(1, EXPAND_RATIO)
    rows, columns = int(area.height * ratio), int(area.width * ratio)
    top = area.top - int(rng.integers(rows - area.height + 1))
    left = area.left - int(rng.integers(columns - area.width + 1))
    return Window(top, top + rows, left, left + columns)


def cropped(area: Window, objects: FloatArray, rng: np.random.Generator) -> Window:
    """A part that holds the centre of an object and whose IoU with some object's box reaches a drawn one.

    The overlaps asked for are tried in random order, and so is the choice not to crop; where no try meets one, the next
    is asked for.

    Args:
        objects: (n, 4) ``x1 y1 x2 y2``, in the frame of ``area``; at least one.
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
    """Parts of an area at random: (`CROP_TRIES`, 4) ``x1 y1 x2 y2``, whole pixels."""
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
    """Which boxes (m, 4) hold the centre of any of the boxes (n, 4)."""
    centres = (objects[:, :2] + objects[:, 2:]) / 2
    inside = (parts[:, None, :2] <= centres) & (centres < parts[:, None, 2:])
    return np.asarray(np.any(np.all(inside, axis=2), axis=1), np.bool_)


def jittered(area: Window, output: tuple[int, int], scale: float, rng: np.random.Generator) -> Window:
    """What fills an output of ``(height, width)`` at a scale, 1 being that at which the whole area just fits."""
    pixels = max(side / length for side, length in zip(area.size, output, strict=True)) / scale  # of the image, for one
    rows, columns = (max(round(length * pixels), 1) for length in output)
    top = area.top + _offset(area.height - rows, rng)
    left = area.left + _offset(area.width - columns, rng)
    return Window(top, top + rows, left, left + columns)


def _offset(room: int, rng: np.random.Generator) -> int:
    """From 0 to ``room``, which may lie below 0."""
    return int(rng.integers(min(room, 0), max(room, 0) + 1))


def distortion(image: ByteArray, rng: np.random.Generator) -> FloatArray:
    """Brightness, contrast, saturation and hue at random as one affine map of BGR colours: (3, 4) float32.

    Nothing is clipped between the steps, whose order then hardly matters; the reference draws it. Hue turns about the
    grey axis, which keeps the sum of the channels, where the reference turns within HSV.

    Args:
        image: (H, W, 3) BGR; contrast changes towards its mean grey.
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
    """With a random subset of another sample's objects on top, one at least if it has any (arXiv 2012.07177)."""
    count = len(other.masks)
    if not count:
        return sample
    chosen = np.sort(rng.permutation(count)[: rng.integers(1, count + 1)])
    return paste(sample, other, chosen.tolist())
